// Pictures classified by a small ConvNet, with one kernel size and with mixed ones:
// example_mixconv_images [Fashion-MNIST folder] Without a folder it draws glyphs itself. Exit 0
// when both learn and the swap left everything else alone.
#include <cstdio>
#include <exception>
#include <memory>

#include "dropin/dropin.h"

namespace {

using namespace dropin;

double train(Module& model, const std::function<Batch(int)>& batch) {
  AdamW optimizer(model.parameters(), {.lr = 3e-3});
  model.train();
  for (int step = 0; step < 60; ++step) {
    const Batch b = batch(step);
    const Tensor loss = cross_entropy(model.call({{"x", b.x}}).find("y"), b.y);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
  }
  model.eval();
  no_grad guard;
  const Batch b = batch(-1);
  return mean((argmax(model.call({{"x", b.x}}).find("y"), -1) == b.y).to(kFloat32)).item();
}

int run(const std::string& folder) {
  std::unique_ptr<FashionMNIST> pictures;
  Tensor images, labels;
  if (!folder.empty()) {
    pictures =
        std::make_unique<FashionMNIST>(FashionMNISTOptions{.root = folder, .split = "sprite900"});
    images = pictures->images();
    labels = pictures->labels();
  }
  auto batch = [&](int step) -> Batch {
    if (images.defined()) {  // the last tenth is for the test
      const int64_t n = images.size(0), test = n / 10,
                    at = step < 0 ? n - test : step * 16 % (n - test - 16);
      return {images.narrow(0, at, step < 0 ? test : 16),
              labels.narrow(0, at, step < 0 ? test : 16)};
    }
    Generator g(static_cast<std::uint64_t>(step < 0 ? 9999 : step));
    return glyph_batch(step < 0 ? 200 : 16, g);
  };
  manual_seed(1);
  ConvNet plain({.width = 8, .num_blocks = 2});
  const Box<Module> mixed = plain.clone();
  std::printf("%s", swap(*mixed, "DepthwiseConv2d", "MixConv2d",
                         Json::parse(R"({"kernel_size": [3, 5, 7]})"))
                        .str()
                        .c_str());
  const double a = train(plain, batch), b = train(*mixed, batch);
  std::printf(
      "3x3: %.0f %% of the held-out pictures, %lld parameters\n3x3, 5x5, 7x7: %.0f %%, %lld "
      "parameters\n",
      100 * a, static_cast<long long>(plain.num_parameters()), 100 * b,
      static_cast<long long>(mixed->num_parameters()));
  return a > 0.3 && b > 0.3 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? argv[1] : "");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
