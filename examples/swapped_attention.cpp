// A training loop of one's own, in which one class name was changed: example_swapped_attention
// The block was written for MultiheadAttention; LongformerAttention takes its place, in the type or
// by name. The task: what came after this key before? Exit 0 when the loss has fallen to less than
// half.
#include <cstdio>
#include <exception>

#include "dropin/dropin.h"

namespace {

using namespace dropin;

constexpr int64_t kVocab = 20, kWidth = 32, kLength = 13;

struct ModelOptions {
  static void fields(auto&&) {}
};
class Model : public Component<Model, ModelOptions, Module> {
 public:
  explicit Model(const ModelOptions& o = {}) : Component(o) {
    tokens_ = child<Embedding>("tokens", {.num_embeddings = kVocab, .embedding_dim = kWidth});
    for (const char* name : {"mix1", "mix2"})
      mix_.push_back(child<LongformerAttention>(name, {.embed_dim = kWidth,
                                                       .num_heads = 4,
                                                       .window = 16,
                                                       .causal = true,
                                                       .rope = "half"}));  // was MultiheadAttention
    head_ = child<Linear>("head", {.in_features = kWidth, .out_features = kVocab});
  }
  Tensor operator()(const Tensor& ids) {
    Tensor h = tokens_(ids);
    for (auto& mix : mix_) h = h + mix(rms_norm(h, {}));
    return head_(h);
  }

 private:
  Child<Embedding> tokens_;
  std::vector<Child<LongformerAttention>> mix_;
  Child<Linear> head_;
};

int run() {
  manual_seed(1);
  Model model;
  std::printf("%s\n", model.str().c_str());
  AdamW optimizer(model.parameters(), {.lr = 3e-3});
  Generator data(7);
  double first = 0, last = 0;
  for (int step = 0; step < 300; ++step) {
    const Batch b = recall_batch(32, kLength, kVocab, data);
    const Tensor loss =
        cross_entropy(model(b.x).reshape({-1, kVocab}), b.y.reshape({-1}));  // -100 is ignored
    optimizer.zero_grad();
    loss.backward();
    clip_grad_norm_(model.parameters(), 1);
    optimizer.step();
    last = loss.item();
    if (step == 0) first = last;
    if (step % 100 == 99) std::printf("step %d: loss %.3f\n", step + 1, last);
  }
  return last < first / 2 ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
