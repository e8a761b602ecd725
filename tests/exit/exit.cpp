// Programs that use the library while they end: objects that outlive what they hold. Each way is a
// run of its own (tests/exit/CMakeLists.txt), which must answer 0 and print the line it promises.
#include <dropin/dropin.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace {

using namespace dropin;

const char* g_mode = "";
bool is(const char* mode) { return std::strcmp(g_mode, mode) == 0; }

// Products of several forms, a convolution, an FFT, random numbers, the tape.
void use(const char* who) {
  Linear wide({.in_features = 64, .out_features = 64}),
      narrow({.in_features = 64, .out_features = 1});
  Conv2d conv({.in_channels = 4, .out_channels = 8, .kernel_size = 3, .padding = 1});
  const Tensor x = randn({64, 64}).requires_grad_();
  const Tensor y = sum(narrow(wide(x))) + sum(conv(randn({2, 4, 9, 9})));
  y.backward();
  const bool fine = all(isfinite(x.grad())).item() != 0 &&
                    fft_conv(randn({1, 4, 300}), randn({4, 300})).sizes() == Shape{1, 4, 300};
  std::fprintf(stderr, "%s: %s\n", who, fine ? "fine" : "wrong");
  if (!fine) std::_Exit(3);
}

// Made before main, destroyed after everything that main used first.
struct Global {
  Linear layer{{.in_features = 64, .out_features = 64}};
  ~Global() {
    if (is("global")) use("global");
    if (is("global") && !all(isfinite(layer(ones({64, 64})))).item()) std::_Exit(3);
  }
} g_global;

struct PerThread {
  bool armed = false;
  ~PerThread() {
    if (armed) use("thread_local");
  }
};
thread_local PerThread t_last;

int run() {
  if (is("early")) {  // constructed before the library's own statics, used after
    t_last.armed = true;
  }
  use("main");
  if (is("thread_local")) {
    t_last.armed = true;
    std::thread([] {
      t_last.armed = true;
      use("thread");
    }).join();
  }
  if (is("atexit")) std::atexit([] { use("atexit"); });
  if (is("static")) {
    static struct Static {
      ~Static() { use("static"); }
    } last;
    Conv2d other({.in_channels = 3, .out_channels = 5, .kernel_size = 5});  // made after `last`
    other(randn({1, 3, 12, 12}));
  }
  if (is("detached")) {  // still running while the program ends
    std::thread([] {
      for (int i = 0; i < 1000000; ++i) {
        no_grad guard;
        Linear layer({.in_features = 32, .out_features = 32});
        layer(ones({32, 32}));
      }
    }).detach();
    std::fprintf(stderr, "detached: fine\n");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) g_mode = argv[1];
  return run();
}
