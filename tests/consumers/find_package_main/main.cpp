// The program dropin with a component of a user's own in it.
#include <dropin/dropin.h>
#include <dropin/program.h>

#include <cstdio>

struct DoublingOptions {
  double factor = 2;
  static void fields(auto&& f) { f("factor", &DoublingOptions::factor, "what x is multiplied by"); }
};

/// factor * x.
class Doubling : public dropin::Component<Doubling, DoublingOptions, dropin::Activation> {
 public:
  static constexpr const char* kSummary = "a multiple of x";
  static constexpr const char* kReplaces = "ReLU";
  explicit Doubling(const DoublingOptions& o) : Component(o) {}
  dropin::Tensor forward(const dropin::Tensor& x) override { return x * options_.factor; }
};

int main() {
  dropin::registry().add<Doubling>();
  for (const char* command : {"describe", "bench"}) {
    const char* words[] = {"consumer", command,      "Doubling", "--rounds",
                           "1",        "--min-time", "0",        nullptr};
    const int count = command[0] == 'b' ? 7 : 3;
    const int status = dropin::run_program(count, const_cast<char**>(words));
    std::printf("%s: %d\n", command, status);
    if (status != 0) return 1;
  }
  const char* wrong[] = {"consumer", "describe", "Halving", nullptr};
  return dropin::run_program(3, const_cast<char**>(wrong)) == 2 ? 0 : 1;
}
