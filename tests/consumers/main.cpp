// A program as a user would write it: one layer swapped, one step taken.
#include <dropin/dropin.h>

#include <cstdio>

int main() {
  dropin::Transformer model(
      {.vocab_size = 16, .embed_dim = 16, .num_layers = 1, .num_heads = 2, .max_len = 8});
  const auto report = dropin::swap(model, "MultiheadAttention", "LongformerAttention",
                                   dropin::Json::parse(R"({"window": 2})"));
  dropin::AdamW optimizer(model.parameters(), {.lr = 1e-3});
  const dropin::Tensor ids = dropin::zeros({2, 8}, dropin::kInt64),
                       target = dropin::zeros({16}, dropin::kInt64);
  const dropin::Tensor loss = dropin::cross_entropy(model(ids).reshape({-1, 16}), target);
  loss.backward();
  optimizer.step();
  std::printf("%zu swapped, loss %.4f\n", report.instances.size(), loss.item());
  return report.instances.size() == 1 && loss.item() > 0 ? 0 : 1;
}
