#include "dropin/generation/draft_tree.h"
#include "dropin/generation/llama.h"
#include "generation/states.h"
#include "kernels/hd.h"

namespace dropin {

namespace {
struct LlamaRows : LanguageState {
  LlamaCache cache;
  int64_t rows() const override { return static_cast<int64_t>(cache.lengths.size()); }
  Box<LanguageState> select(const std::vector<int64_t>& rows) const override {
    Box<LlamaRows> s(new LlamaRows);
    s->cache = cache.select(rows);
    return s;
  }
};

// n tokens one behind the other.
LlamaTokens in_order(int64_t n) {
  LlamaTokens t;
  for (int64_t i = 0; i < n; ++i) t.offset.push_back(i);
  return t;
}
void grow(LlamaCache& cache, int64_t by) {
  for (int64_t& l : cache.lengths) l += by;
}
}  // namespace

LlamaLM::LlamaLM(const LlamaOptions& o) : Component(o) {
  DROPIN_CHECK(o.vocab_size > 0, OptionError, who(), ": vocab_size is ", o.vocab_size,
               ", expected a positive number");
  model_ = child<LlamaStack>("model", o);
  lm_head_ = child<Linear>(
      "lm_head", {.in_features = o.embed_dim, .out_features = o.vocab_size, .bias = false});
}

LanguageModel::Pass LlamaLM::forward(const Tensor& ids, const Tensor& key_padding_mask) {
  const Tensor h = stack().forward(stack().embed_tokens()(ids), key_padding_mask);
  return {h, lm_head_(h)};
}

Box<LanguageState> LlamaLM::init_state(int64_t rows) {
  Box<LlamaRows> s(new LlamaRows);
  s->cache = stack().init_cache(rows);
  return s;
}

LlamaCache& LlamaLM::cache_of(LanguageState& state, int64_t rows) const {
  LlamaCache& c = generation::own_rows<LlamaRows>(who(), state).cache;
  DROPIN_CHECK(rows == state.rows(), ShapeError, who(), ": tokens for ", rows,
               " rows, expected one for each of ", state.rows());
  for (const int64_t l : c.lengths)
    DROPIN_CHECK(l < max_len(), ShapeError, who(), ": ", l + 1,
                 " tokens, expected at most max_len = ", max_len());
  return c;
}

// x [N, D], the next token's of each row.
Tensor LlamaLM::embedded_step(const Tensor& x, LlamaCache& cache) {
  const Tensor h = stack().step(x.unsqueeze(1), cache, in_order(1));
  grow(cache, 1);
  return lm_head_(h.select(1, 0));
}

Tensor LlamaLM::step(const Tensor& tokens, LanguageState& state) {
  no_grad guard;
  LlamaCache& c = cache_of(state, tokens.size(0));
  return embedded_step(stack().embed_tokens()(tokens), c);
}
Tensor LlamaLM::step_soft(const Tensor& probs, LanguageState& state) {
  no_grad guard;
  LlamaCache& c = cache_of(state, probs.size(0));
  const Tensor& w = embedding_weight();
  return embedded_step(matmul(probs.to(w.dtype(), w.device()), w), c);
}

Tensor LlamaLM::prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                        LanguageState& state) {
  no_grad guard;
  LlamaCache& c = cache_of(state, prompts.size(0));
  const int64_t n = prompts.size(0), width = prompts.size(1);
  DROPIN_CHECK(width <= max_len(), ShapeError, who(), ": ", width,
               " tokens, expected at most max_len = ", max_len());
  const Tensor h = stack().step(stack().embed_tokens()(prompts), c, in_order(width));
  std::vector<int64_t> last;
  for (int64_t i = 0; i < n; ++i) last.push_back(i * width + lengths[at(i)] - 1);
  c.lengths = lengths;
  const Tensor rows = h.reshape({n * width, options_.embed_dim});
  return lm_head_(index_select(rows, 0, tensor(last).to(rows.device())));
}

LanguageModel::Pass LlamaLM::read(const Tensor& prompt, LanguageState& state) {
  no_grad guard;
  LlamaCache& c = cache_of(state, 1);
  const int64_t n = prompt.size(0);
  const Tensor h = stack().step(stack().embed_tokens()(prompt).unsqueeze(0), c, in_order(n))[0];
  grow(c, n);
  return {h, lm_head_(h)};
}

LanguageModel::Pass LlamaLM::tree_step(const Tensor& tokens, const DraftTree& tree,
                                       LanguageState& state) {
  no_grad guard;
  LlamaCache& c = cache_of(state, 1);
  LlamaTokens t;
  t.offset = tree.depth;
  for (int64_t i = 0; i < tree.size(); ++i) {
    std::vector<bool> row;
    for (int64_t j = 0; j < tree.size(); ++j) row.push_back(tree.sees(i, j));
    t.sees.push_back(std::move(row));
  }
  const Tensor h = stack().step(stack().embed_tokens()(tokens).unsqueeze(0), c, t)[0];
  return {h, lm_head_(h)};
}
void LlamaLM::keep(const std::vector<int64_t>& path, LanguageState& state) {
  no_grad guard;
  generation::own_rows<LlamaRows>(who(), state).cache.keep(path);
}

}  // namespace dropin
