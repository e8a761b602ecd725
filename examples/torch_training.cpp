// A LibTorch program with one layer changed: torch::nn::MultiheadAttention became dropin's
// LongformerAttention. Data, loss, tape and optimizer are torch's. Built with -DDROPIN_TORCH=ON.
// Exit 0 when the loss has fallen to less than half.
#include <torch/torch.h>

#include <cstdio>

#include "dropin/interop/torch.h"

namespace {

struct Net : torch::nn::Module {
  torch::nn::Linear in{4, 32}, out{32, 1};
  torch::nn::LayerNorm norm{torch::nn::LayerNormOptions({32})};
  dropin::interop::Layer mix{
      "LongformerAttention",
      R"({"embed_dim": 32, "num_heads": 4, "window": 24})"};  // was torch::nn::MultiheadAttention
                                                              // mix{32, 4}
  Net() {
    register_module("in", in);
    register_module("norm", norm);
    register_module("mix", mix);
    register_module("out", out);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor h = in(x);
    return out(h + mix(norm(h))).squeeze(-1);
  }
};

}  // namespace

int main() {
  try {
    torch::manual_seed(1);
    Net net;
    torch::optim::AdamW optimizer(net.parameters(), torch::optim::AdamWOptions(5e-3));
    double first = 0, last = 0;
    for (int step = 0; step < 150; ++step) {
      const torch::Tensor x = torch::randn({8, 24, 4}), v = x.select(-1, 0),
                          y = v - 3 * v.mean(1, true);  // each token against all
      const torch::Tensor loss = torch::mse_loss(net.forward(x), y);
      optimizer.zero_grad();
      loss.backward();
      optimizer.step();
      last = loss.item<double>();
      if (step == 0) first = last;
    }
    std::printf("loss %.4f -> %.4f\n", first, last);
    return last < first / 2 ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
