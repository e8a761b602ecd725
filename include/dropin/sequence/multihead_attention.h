// MultiheadAttention: the standard SequenceMixer.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct MultiheadAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  std::optional<int64_t> num_kv_heads = std::nullopt, kdim = std::nullopt, vdim = std::nullopt;
  bool bias = true;
  double dropout = 0;
  bool causal = false;
  std::optional<double> scale = std::nullopt;
  std::string rope = "none";
  double rope_base = 10000;
  bool alibi = false, need_weights = false, average_attn_weights = true;
  static void fields(auto&& f) {
    using O = MultiheadAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("num_kv_heads", &O::num_kv_heads,
      "key and value heads, a divisor of num_heads (grouped-query attention); null: num_heads");
    f("kdim", &O::kdim, "width of the key input; null: embed_dim");
    f("vdim", &O::vdim, "width of the value input; null: embed_dim");
    f("bias", &O::bias, "biases of the four projections");
    f("dropout", &O::dropout, "on the probabilities, when training");
    f("causal", &O::causal, "a query sees no later key");
    f("scale", &O::scale, "of the scores; null: 1 / sqrt(D / H)");
    f("rope", &O::rope, "rotary positions: \"none\", \"half\" or \"interleaved\"");
    f("rope_base", &O::rope_base, "base of the rotary angles");
    f("alibi", &O::alibi, "linear distance penalties");
    f("need_weights", &O::need_weights, "also returns the probabilities");
    f("average_attn_weights", &O::average_attn_weights, "averages them over heads");
  }
};

/// Multi-head attention (Vaswani et al. 2017): softmax(q k^T / sqrt(Dh)) v per head. Replaces
/// nothing: the standard that the other mixers replace. Parameters q_proj, k_proj, v_proj, out_proj
/// (.weight [out, in], .bias). PyTorch's in_proj_weight and *_proj_weight names are accepted when
/// loading.
class MultiheadAttention
    : public Component<MultiheadAttention, MultiheadAttentionOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary = "softmax attention over all pairs of positions";
  static constexpr const char* kPaper = "Vaswani et al. 2017, arXiv 1706.03762";
  /// Two products per pair of positions.
  static double core_flops(const Options& o, const Shape& x) {
    const double b = static_cast<double>(x[0]), l = static_cast<double>(x[1]);
    return 4 * b * static_cast<double>(o.embed_dim) * (o.causal ? l * (l + 1) / 2 : l * l);
  }
  explicit MultiheadAttention(const MultiheadAttentionOptions& o);

  struct Result {
    Tensor y;        ///< [B, Lq, D]
    Tensor weights;  ///< [B, Lq, Lk], or [B, H, Lq, Lk] when not averaged; undefined unless
                     ///< need_weights
  };
  /// query [B, Lq, D], key [B, Lk, kdim], value [B, Lk, vdim].
  Result attend(const Tensor& query, const Tensor& key, const Tensor& value,
                const SequenceArgs& args = {});
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override {
    return attend(x, x, x, args).y;
  }
  bool causal() const override { return options_.causal; }
  /// Causal only. The state holds all max_len tokens; options.keep costs nothing.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;
  NamedTensors call(const NamedTensors& in) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  int64_t kv_heads() const { return options_.num_kv_heads.value_or(options_.num_heads); }
  Child<Linear> q_proj_, k_proj_, v_proj_, out_proj_;
};

}  // namespace dropin
