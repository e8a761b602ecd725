// A bidirectional Transformer encoder whose parts can be swapped by name.
#pragma once
#include "dropin/embedding/embedding.h"
#include "dropin/feed_forward/feed_forward.h"
#include "dropin/model/contract.h"
#include "dropin/norm/norm.h"
#include "dropin/sequence/multihead_attention.h"

namespace dropin {

struct TransformerEncoderOptions {
  int64_t vocab_size = 0;
  int64_t embed_dim = 768;
  int64_t num_layers = 12;
  int64_t num_heads = 12;
  int64_t hidden_dim = 0;
  int64_t max_len = 512;
  int64_t type_vocab_size = 0;
  std::string activation = "gelu";
  bool norm_first = false;
  std::optional<bool> embedding_norm = std::nullopt, final_norm = std::nullopt;
  double layer_norm_eps = 1e-5;
  double dropout = 0;
  std::string pooling = "none";
  std::optional<int64_t> padding_idx = std::nullopt;
  static void fields(auto&& f) {
    using O = TransformerEncoderOptions;
    f("vocab_size", &O::vocab_size, "number of token ids; 0: x is [B, L, D] already");
    f("embed_dim", &O::embed_dim, "D");
    f("num_layers", &O::num_layers, "layers");
    f("num_heads", &O::num_heads, "attention heads");
    f("hidden_dim", &O::hidden_dim, "width inside the feed-forward; 0: 4 embed_dim");
    f("max_len", &O::max_len, "longest sequence, for learned positions; 0: no positions");
    f("type_vocab_size", &O::type_vocab_size, "kinds of tokens (token_type_ids); 0: none");
    f("activation", &O::activation, "gelu, gelu_tanh, relu, silu, sigmoid or tanh");
    f("norm_first", &O::norm_first, "norms before attention and feed-forward, not after");
    f("embedding_norm", &O::embedding_norm,
      "a norm after the embeddings; null: with ids and norm_first = false, as BERT");
    f("final_norm", &O::final_norm, "a norm after the last layer; null: norm_first");
    f("layer_norm_eps", &O::layer_norm_eps, "of every norm");
    f("dropout", &O::dropout, "on embeddings, attention, feed-forward and residuals, in training");
    f("pooling", &O::pooling,
      "none: [B, L, D]; first, mean (over real tokens) or tanh (BERT's pooler): [B, D]");
    f("padding_idx", &O::padding_idx,
      "a token id whose embedding starts at 0 and is not learned (BERT: 0); null: none");
  }
};

/// One layer on [B, L, D] (Vaswani et al. 2017, section 3.1). norm_first: x + mixer(norm1(x)), then
/// x + ff(norm2(x)); otherwise norm1(x + mixer(x)), then norm2(x + ff(x)).
/// torch.nn.TransformerEncoderLayer, batch first.
class TransformerEncoderLayer
    : public Component<TransformerEncoderLayer, TransformerEncoderOptions, Module> {
 public:
  explicit TransformerEncoderLayer(const TransformerEncoderOptions& o);
  using Args = SequenceArgs;
  Tensor forward(const Tensor& x, const SequenceArgs& args = {});
  Tensor operator()(const Tensor& x, const SequenceArgs& args = {}) {
    return with_hooks(x, [&](const Tensor& in) { return forward(in, args); });
  }
  bool runs_hooks() const override { return true; }
  NamedTensors call(const NamedTensors& in) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  Child<MultiheadAttention> mixer_;
  Child<LayerNorm> norm1_, norm2_;
  Child<MLP> ff_;
};

/// What an encoder may be told besides its input.
struct EncoderArgs {
  Tensor key_padding_mask;  ///< [B, L] bool, true = padding (ignored)
  Tensor token_type_ids;    ///< [B, L] int64 below type_vocab_size; undefined: 0 everywhere
};

/// Encoder of sequences (Vaswani et al. 2017; Devlin et al. 2019): ids [B, L] int64, or x [B, L, D]
/// where vocab_size = 0 -> [B, L, D], or [B, D] when pooled. h = norm(tokens[ids] + positions +
/// types[token_type_ids]), then the layers. Parameters tokens, positions, types, norm_embedding,
/// layer<i>.{mixer, ff, norm1, norm2}, norm, pooler. Names of torch.nn.TransformerEncoder and of
/// Hugging Face's BERT are understood when loading.
class TransformerEncoder : public Component<TransformerEncoder, TransformerEncoderOptions, Model> {
 public:
  static constexpr const char* kSummary = "bidirectional encoder of swappable parts";
  static constexpr const char* kPaper = "Devlin et al. 2019, arXiv 1810.04805";
  static constexpr const char* kCall =
      "x [B, L] int64 ids (or [B, L, D]), key_padding_mask [B, L] bool, token_type_ids [B, L] -> y "
      "[B, L, D] or [B, D]";
  static constexpr const char* kSample =
      R"({"vocab_size": 11, "embed_dim": 8, "num_layers": 2, "num_heads": 2, "max_len": 12})";
  static std::vector<std::string> examples();
  static Sample sample(const Options& o, const SampleSpec& s);
  static void traits(const Options& o, Traits& t) { t.integer_inputs = o.vocab_size > 0; }
  static Work work(const Workload& w);
  explicit TransformerEncoder(const TransformerEncoderOptions& o);
  Tensor forward(const Tensor& x) override { return forward(x, {}); }
  Tensor forward(const Tensor& x, const EncoderArgs& args);
  Tensor operator()(const Tensor& x, const EncoderArgs& args = {}) {
    return with_hooks(x, [&](const Tensor& in) { return forward(in, args); });
  }
  NamedTensors call(const NamedTensors& in) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  Tensor embed(const Tensor& x, const EncoderArgs& args);
  Tensor pool(const Tensor& h, const Tensor& padding);
  Child<Embedding> tokens_, types_;
  Tensor* positions_;
  Child<LayerNorm> norm_embedding_, norm_;
  std::vector<Child<TransformerEncoderLayer>> layers_;
  Child<Linear> pooler_;
};

}  // namespace dropin
