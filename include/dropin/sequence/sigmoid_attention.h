// SigmoidAttention: independent sigmoids instead of a softmax row.
#pragma once
#include "dropin/norm/norm.h"
#include "dropin/sequence/common.h"

namespace dropin {

struct SigmoidAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  std::optional<int64_t> kdim = std::nullopt, vdim = std::nullopt;
  bool bias = true, causal = false;
  double dropout = 0;
  std::string rope = "none";
  double rope_base = 10000;
  bool alibi = false;
  NumberOrName sigmoid_bias = "-log_n";
  int64_t max_seq_len = 0;
  bool learned_bias = false, qk_norm = false;
  double norm_eps = 1e-6;
  std::string hybrid_norm = "none";
  double layer_scale = 0;
  std::vector<int64_t> window{-1, -1};
  bool fast_sigmoid = false;
  static void fields(auto&& f) {
    using O = SigmoidAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("kdim", &O::kdim, "width of the key input; null: embed_dim");
    f("vdim", &O::vdim, "width of the value input; null: embed_dim");
    f("bias", &O::bias, "biases of the four projections");
    f("causal", &O::causal, "a query sees no later key");
    f("dropout", &O::dropout, "on the weights, when training");
    f("rope", &O::rope, "rotary positions: \"none\", \"half\" or \"interleaved\"");
    f("rope_base", &O::rope_base, "base of the rotary angles");
    f("alibi", &O::alibi, "linear distance penalties");
    f("sigmoid_bias", &O::sigmoid_bias,
      "added to every score: a number, or \"-log_n\" for -ln of max_seq_len (0: of the number of "
      "keys)");
    f("max_seq_len", &O::max_seq_len, "n of \"-log_n\"; 0: the keys of each call");
    f("learned_bias", &O::learned_bias, "one learned bias per head, starting at sigmoid_bias");
    f("qk_norm", &O::qk_norm, "LayerNorm of queries and keys over the head width");
    f("norm_eps", &O::norm_eps, "of qk_norm and hybrid_norm");
    f("hybrid_norm", &O::hybrid_norm,
      "norm of the output: \"none\", \"layer_norm\" or \"rms_norm\"");
    f("layer_scale", &O::layer_scale,
      "initial factor of a learned scale per channel of the output; 0: none");
    f("window", &O::window, "[left, right] keys seen around the query's position; -1: no bound");
    f("fast_sigmoid", &O::fast_sigmoid, "allows the tanh approximation in 16-bit CUDA kernels");
  }
};

/// Attention with weights sigmoid(q k^T / sqrt(Dh) + b): no row maximum, no row sum (Ramapuram et
/// al. 2024, section 3). Replaces MultiheadAttention. Inputs as MultiheadAttention, attn_mask bool.
/// A query that sees no key gives out_proj.bias. Parameters q_proj, k_proj, v_proj, out_proj
/// (.weight, .bias), and if asked for q_norm, k_norm [Dh], hybrid_norm [D], layer_scale [D],
/// sigmoid_bias [H]. The official names qkv, proj and ls1.gamma are accepted.
class SigmoidAttention
    : public Component<SigmoidAttention, SigmoidAttentionOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary = "attention with independent sigmoid weights";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Ramapuram et al. 2024, arXiv 2409.04431";
  /// Two products per pair of positions.
  static double core_flops(const Options& o, const Shape& x) {
    const double b = static_cast<double>(x[0]), l = static_cast<double>(x[1]);
    return 4 * b * static_cast<double>(o.embed_dim) * (o.causal ? l * (l + 1) / 2 : l * l);
  }
  static std::vector<std::string> examples();
  explicit SigmoidAttention(const SigmoidAttentionOptions& o);
  /// query [B, Lq, D], key [B, Lk, kdim], value [B, Lk, vdim] -> [B, Lq, D].
  Tensor attend(const Tensor& query, const Tensor& key, const Tensor& value,
                const SequenceArgs& args = {});
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override {
    return attend(x, x, x, args);
  }
  /// By its options, or by a window to the left.
  bool causal() const override { return options_.causal || options_.window[1] == 0; }
  /// Causal only; OptionError when the bias depends on the length of the call ("-log_n" without
  /// max_seq_len). The state holds all max_len tokens; options.keep costs nothing.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;
  NamedTensors call(const NamedTensors& in) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  /// The heads of a projection of x, normalised as the options say.
  Tensor project(const Child<Linear>& proj, const Child<LayerNorm>& norm, const Tensor& x) const;
  /// From heads [B, H, L, Dh] to heads [B, H, Lq, Dh].
  Tensor mix(Tensor q, Tensor k, const Tensor& v, AttentionParams p) const;
  /// From heads [B, H, L, Dh] to the output [B, L, D].
  Tensor finish(const Tensor& heads);
  double bias_for(int64_t keys) const;
  Child<Linear> q_proj_, k_proj_, v_proj_, out_proj_;
  Child<LayerNorm> q_norm_, k_norm_, hybrid_norm_;
  Tensor *layer_scale_ = nullptr, *sigmoid_bias_ = nullptr;
};

}  // namespace dropin
