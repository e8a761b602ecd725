// A decoder-only Transformer whose parts can be swapped by name.
#pragma once
#include "dropin/embedding/embedding.h"
#include "dropin/feed_forward/feed_forward.h"
#include "dropin/model/contract.h"
#include "dropin/norm/norm.h"
#include "dropin/sequence/multihead_attention.h"

namespace dropin {

struct TransformerOptions {
  int64_t vocab_size = 256;
  int64_t embed_dim = 128;
  int64_t num_layers = 2;
  int64_t num_heads = 4;
  int64_t hidden_dim = 0;  ///< 0: 4 embed_dim
  int64_t max_len = 256;
  double dropout = 0;
  std::string rope = "none";
  bool tie_weights = true;
  std::string activation = "gelu";
  static void fields(auto&& f) {
    using O = TransformerOptions;
    f("vocab_size", &O::vocab_size, "number of token ids");
    f("embed_dim", &O::embed_dim, "D");
    f("num_layers", &O::num_layers, "blocks");
    f("num_heads", &O::num_heads, "attention heads");
    f("hidden_dim", &O::hidden_dim, "width inside the feed-forward; 0: 4 embed_dim");
    f("max_len", &O::max_len, "longest sequence, for learned positions");
    f("dropout", &O::dropout, "on attention, feed-forward and residuals, when training");
    f("rope", &O::rope,
      "rotary positions instead of learned ones: \"none\", \"half\" or \"interleaved\"");
    f("tie_weights", &O::tie_weights, "the output layer is the embedding, transposed");
    f("activation", &O::activation, "gelu, gelu_tanh (GPT-2's own), relu, silu, sigmoid or tanh");
  }
};

/// x + mixer(norm1(x)), then x + ff(norm2(x)): a pre-norm block, [B, L, D].
class TransformerBlock : public Component<TransformerBlock, TransformerOptions, Module> {
 public:
  explicit TransformerBlock(const TransformerOptions& o) : Component(o) {
    norm1_ = child<LayerNorm>("norm1", {.normalized_shape = {o.embed_dim}});
    mixer_ = child<MultiheadAttention>("mixer", {.embed_dim = o.embed_dim,
                                                 .num_heads = o.num_heads,
                                                 .dropout = o.dropout,
                                                 .causal = true,
                                                 .rope = o.rope});
    norm2_ = child<LayerNorm>("norm2", {.normalized_shape = {o.embed_dim}});
    ff_ = child<MLP>("ff", {.embed_dim = o.embed_dim,
                            .hidden_dim = o.hidden_dim,
                            .activation = o.activation,
                            .dropout = o.dropout});
  }
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) {
    const Tensor h = x + dropout(mixer_(norm1_(x), args), options_.dropout, is_training());
    return h + dropout(ff_(norm2_(h)), options_.dropout, is_training());
  }
  Tensor step(const Tensor& x, SequenceState& state, const StepArgs& args = {}) {
    const Tensor h = x + mixer_->step(norm1_(x), state, args);
    return h + ff_(norm2_(h));
  }
  SequenceMixer& mixer() const { return *mixer_; }
  using Args = SequenceArgs;
  Tensor operator()(const Tensor& x, const SequenceArgs& args = {}) {
    return with_hooks(x, [&](const Tensor& in) { return forward(in, args); });
  }
  bool runs_hooks() const override { return true; }

 private:
  Child<LayerNorm> norm1_, norm2_;
  Child<MultiheadAttention> mixer_;
  Child<MLP> ff_;
};

/// What a Transformer keeps while generating: the states of its mixers, and how many real tokens
/// each entry has seen.
class TransformerState {
 public:
  TransformerState() = default;
  /// As SequenceState's, over all layers.
  int64_t length() const { return seen_->length(); }
  int64_t batch() const { return seen_->batch(); }
  TransformerState clone() const;
  TransformerState select(const std::vector<int64_t>& indices) const;
  /// Nothing has changed when a layer cannot take n tokens back.
  void rollback(int64_t n);

 private:
  friend class Transformer;
  std::vector<Box<SequenceState>> layers_;
  Box<SequenceState> seen_;
};

/// Decoder-only language model: ids [B, L] int64 -> logits [B, L, vocab_size]. GPT-2's layout:
/// learned positions, pre-norm blocks, tied output: x = embedding[ids] + positions; per block x +=
/// mixer(norm1(x)), x += ffn(norm2(x)); logits = norm(x) W^T.
class Transformer : public Component<Transformer, TransformerOptions, Model> {
 public:
  static constexpr const char* kSummary = "decoder-only language model of swappable parts";
  static Sample sample(const Options& o, const SampleSpec& s) {
    const int64_t length = s.size ? 16 << (2 * (s.size - 1)) : o.max_len;
    return sample_ids(s, o.vocab_size, (std::min)(o.max_len, length));
  }
  static void traits(const Options&, Traits& t) { t.integer_inputs = true; }
  static Work work(const Workload& w) {  // every weight meets every id
    return work_of_places(w, static_cast<double>(w.x.numel()));
  }
  explicit Transformer(const TransformerOptions& o);
  Tensor forward(const Tensor& ids) override { return forward(ids, {}); }
  Tensor forward(const Tensor& ids, const SequenceArgs& args);
  Tensor operator()(const Tensor& ids, const SequenceArgs& args = {}) {
    return with_hooks(ids, [&](const Tensor& in) { return forward(in, args); });
  }
  /// Empty state for generation; step() then takes n >= 1 ids [B, n] and returns their logits [B,
  /// n, vocab_size]. args: padding [B, n], so that prompts of different lengths, padded on the
  /// left, give what each alone gives; positions for rotary ones.
  TransformerState init_state(int64_t batch, const StateOptions& options = {});
  Tensor step(const Tensor& ids, TransformerState& state, const StepArgs& args = {});
  /// The same with expected embeddings: probs [B, n, vocab_size] instead of ids.
  Tensor step_soft(const Tensor& probs, TransformerState& state, const StepArgs& args = {});

 private:
  void check_ids(const Tensor& ids) const;
  void check_step(const Shape& sizes, const TransformerState& state, const StepArgs& args) const;
  Tensor step_embedded(const Tensor& x, TransformerState& state, const StepArgs& args);
  Tensor table() const;
  Tensor logits(const Tensor& h);
  Child<Embedding> tokens_;
  Tensor* positions_;
  std::vector<Child<TransformerBlock>> blocks_;
  Child<LayerNorm> norm_;
  Child<Linear> head_;
};

}  // namespace dropin
