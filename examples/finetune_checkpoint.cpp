// From a PyTorch checkpoint to a fine-tuned model with another attention:
// example_finetune_checkpoint [file.safetensors] The file holds a torch.nn.MultiheadAttention(64,
// 4) as save_file(attention.state_dict(), "file.safetensors") writes it: in_proj_weight,
// in_proj_bias, out_proj.*. Without a file one is written first, so that the example runs anywhere.
// Exit 0 when all weights arrived and the loss fell.
#include <cstdio>
#include <exception>

#include "dropin/dropin.h"

namespace {

using namespace dropin;

constexpr int64_t kWidth = 64;

int run(std::string path) {
  if (path.empty()) {
    path = "attention_from_torch.safetensors";
    manual_seed(3);
    save_safetensors(path, {{"in_proj_weight", randn({3 * kWidth, kWidth}) * 0.1},
                            {"in_proj_bias", zeros({3 * kWidth})},
                            {"out_proj.weight", randn({kWidth, kWidth}) * 0.1},
                            {"out_proj.bias", zeros({kWidth})}});
  }
  StateDict state;
  for (auto& [name, t] : load_safetensors(path).tensors) state.set(name, t);

  // PyTorch's names are translated; anything missing, unexpected or of another shape would be
  // listed in the error.
  LongformerAttention attention(
      {.embed_dim = kWidth, .num_heads = 4, .window = 8, .global_attention = false});
  const LoadReport report = attention.load_state_dict(state);
  for (const std::string& r : report.renamed) std::printf("renamed %s\n", r.c_str());

  // While the window covers the whole sequence it computes what the dense attention did.
  MultiheadAttention dense({.embed_dim = kWidth, .num_heads = 4});
  dense.load_state_dict(state);
  manual_seed(4);
  const Tensor x = randn({8, 9, kWidth});
  const double difference = amax(abs(attention(x) - dense(x))).item();
  std::printf("largest difference from the dense attention: %.2g\n", difference);

  // Fine-tuning: the projections of the input are kept, the output learns to give the running mean.
  for (auto& [name, p] : attention.named_parameters())
    p.requires_grad_(name.rfind("out_proj", 0) == 0 || name.rfind("v_proj", 0) == 0);
  Tensors trained;
  for (const Tensor& p : attention.parameters())
    if (p.requires_grad()) trained.push_back(p);
  Adam optimizer(trained, {.lr = 2e-3});
  const Tensor target = mean(x, {1}, true).expand(x.sizes());
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    optimizer.zero_grad();
    const Tensor loss = mse_loss(attention(x), target);
    loss.backward();
    optimizer.step();
    last = loss.item();
    if (step == 0) first = last;
  }
  std::printf("loss %.4f -> %.4f\n", first, last);
  return difference < 1e-4 && last < 0.5 * first ? 0 : 1;
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
