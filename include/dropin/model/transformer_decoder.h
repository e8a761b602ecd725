// The layer of a Transformer decoder that looks at an encoder's output.
#pragma once
#include "dropin/feed_forward/feed_forward.h"
#include "dropin/model/contract.h"
#include "dropin/norm/norm.h"
#include "dropin/sequence/multihead_attention.h"

namespace dropin {

struct TransformerDecoderLayerOptions {
  int64_t embed_dim = 0, num_heads = 0;  ///< required
  int64_t hidden_dim = 2048;
  double dropout = 0.1;
  std::string activation = "relu";
  double layer_norm_eps = 1e-5;
  bool norm_first = false;
  static void fields(auto&& f) {
    using O = TransformerDecoderLayerOptions;
    f("embed_dim", &O::embed_dim, "D (torch: d_model); required");
    f("num_heads", &O::num_heads, "attention heads (torch: nhead); required");
    f("hidden_dim", &O::hidden_dim, "width inside the feed-forward (torch: dim_feedforward)");
    f("dropout", &O::dropout, "on attention, feed-forward and residuals, in training");
    f("activation", &O::activation, "gelu, gelu_tanh, relu, silu, sigmoid or tanh");
    f("layer_norm_eps", &O::layer_norm_eps, "of every norm");
    f("norm_first", &O::norm_first, "norms before attention and feed-forward, not after");
  }
};

/// What a decoder layer may be told besides its two inputs, as torch's layer. Masks as
/// SequenceArgs: true is forbidden, or ignored.
struct DecoderArgs {
  Tensor tgt_mask;                 ///< [Lt, Lt] or [B, 1 or H, Lt, Lt]
  Tensor memory_mask;              ///< [Lt, Lm] or [B, 1 or H, Lt, Lm]
  Tensor tgt_key_padding_mask;     ///< [B, Lt]
  Tensor memory_key_padding_mask;  ///< [B, Lm]
  bool tgt_is_causal = false;      ///< a position sees no later one, besides tgt_mask
};

/// Self-attention, attention to an encoder's output and a feed-forward, each with its residual
/// (Vaswani et al. 2017, section 3.1). tgt [B, Lt, D], memory [B, Lm, D] -> [B, Lt, D]. norm_first:
/// x + f(norm(x)), otherwise norm(x + f(x)). torch.nn.TransformerDecoderLayer, batch first, whose
/// names are understood when loading. Parameters self_attn, multihead_attn, ff, norm1 to norm3.
class TransformerDecoderLayer
    : public Component<TransformerDecoderLayer, TransformerDecoderLayerOptions, Module> {
 public:
  using Family = TransformerDecoderLayer;
  static constexpr const char* kFamily = "DecoderLayer";
  static FamilyInfo family();
  static constexpr const char* kSummary =
      "attention to itself and to an encoder, then feed-forward";
  static constexpr const char* kPaper = "Vaswani et al. 2017, arXiv 1706.03762";
  static std::vector<std::string> examples() {
    return {R"({"norm_first": true, "activation": "gelu"})"};
  }
  static void traits(const Options& o, Traits& t) { t.random_in_training = o.dropout > 0; }
  explicit TransformerDecoderLayer(const TransformerDecoderLayerOptions& o);
  Tensor forward(const Tensor& tgt, const Tensor& memory, const DecoderArgs& args = {});
  Tensor operator()(const Tensor& tgt, const Tensor& memory, const DecoderArgs& args = {}) {
    return with_hooks(tgt, memory,
                      [&](const Tensor& t, const Tensor& m) { return forward(t, m, args); });
  }
  bool runs_hooks() const override { return true; }
  NamedTensors call(const NamedTensors& in) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  Child<MultiheadAttention> self_attn_, multihead_attn_;
  Child<LayerNorm> norm1_, norm2_, norm3_;
  Child<MLP> ff_;
};

}  // namespace dropin
