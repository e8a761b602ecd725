// Small language models of fixed random weights, for tests.
#pragma once
#include "dropin/generation/llama.h"
#include "support.h"

namespace dropin::testing {

/// Every parameter normal, times `scale`.
template <class M>
Box<M> randomized(Box<M> m, std::uint64_t seed, double scale = 1) {
  no_grad guard;
  for (auto& [name, p] : m->named_parameters())
    p.copy_(random(p.sizes(), kFloat64, ++seed) * scale);
  return m;
}
inline Box<LanguageModel> table_lm(int64_t vocab, std::uint64_t seed, int64_t dim = 5) {
  return randomized(Box<LanguageModel>(new TableLM({vocab, dim})), 100 * seed);
}
inline LlamaOptions llama_options() {
  return {.vocab_size = 13,
          .embed_dim = 12,
          .num_layers = 2,
          .num_heads = 3,
          .num_kv_heads = 1,
          .mlp_dim = 16};
}
inline Box<LanguageModel> llama_lm(std::uint64_t seed, const LlamaOptions& o = llama_options()) {
  return randomized(Box<LanguageModel>(new LlamaLM(o)), 100 * seed, 0.6);
}
inline Box<LanguageModel> transformer_lm(const std::string& rope, std::uint64_t seed = 77) {
  manual_seed(5);
  auto m = Box<LanguageModel>(new TransformerLM(
      {.vocab_size = 11, .embed_dim = 16, .num_heads = 2, .max_len = 40, .rope = rope}));
  return randomized(std::move(m), seed, 0.5);
}
inline Tensor whole(const std::vector<int64_t>& ids) { return tensor(ids); }
/// Prompts [B, P] below `vocab`.
inline Tensor prompts(int64_t vocab, const Shape& sizes, std::uint64_t seed = 3) {
  Generator g(seed);
  return randint(0, vocab, sizes, kInt64, &g);
}
/// log_softmax of a model that reads `text` alone, token by token.
inline std::vector<double> next_log_probs(LanguageModel& m, const std::vector<int64_t>& text) {
  Box<LanguageState> state = m.init_state(1);
  Tensor logits;
  for (const int64_t t : text) logits = m.step(whole({t}), *state);
  return log_softmax(logits.to(kFloat64), -1).to_vector();
}
inline std::vector<int64_t> row(const Tensor& t, int64_t i) { return t[i].to_vector<int64_t>(); }

}  // namespace dropin::testing
