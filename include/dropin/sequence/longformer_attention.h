// LongformerAttention: sliding window and global tokens.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct LongformerAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  int64_t window = 256, window_right = -1;
  OneOrMany dilation = 1;
  bool causal = false, global_attention = true, bias = true;
  double dropout = 0;
  std::string rope = "none";
  double rope_base = 10000;
  static void fields(auto&& f) {
    using O = LongformerAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("window", &O::window,
      "keys seen on each side, W: 2 W + 1 with the token itself (Hugging Face's attention_window "
      "is 2 W)");
    f("window_right", &O::window_right,
      "keys seen to the right; -1: as many as to the left, or none if causal");
    f("dilation", &O::dilation,
      "distance between neighbouring keys of the window, for all heads or for each; 1: no gaps");
    f("causal", &O::causal, "a token sees no later one");
    f("global_attention", &O::global_attention, "has the projections of global tokens");
    f("bias", &O::bias, "biases of all projections");
    f("dropout", &O::dropout, "on the probabilities, when training");
    f("rope", &O::rope, "rotary positions: \"none\", \"half\" or \"interleaved\"");
    f("rope_base", &O::rope_base, "base of the rotary angles");
  }
};

/// Attention linear in the length: each token sees a window of neighbours and the global tokens;
/// global tokens see all, by projections of their own (Beltagy et al. 2020, section 3): y_i = sum_j
/// softmax_j(q_i k_j / sqrt(Dh)) v_j over j = i - dilation window, ..., i + dilation window and the
/// global j. Replaces MultiheadAttention. x [B, L, D]; key_padding_mask and global_attention_mask
/// [B, L] bool, padding wins; attn_mask as MultiheadAttention, over window and global keys. A
/// padded token gives out_proj.bias. Parameters q_proj, k_proj, v_proj, out_proj, q_proj_global,
/// k_proj_global, v_proj_global (.weight [D, D], .bias [D]); Hugging Face's and allenai's names are
/// accepted when loading.
class LongformerAttention
    : public Component<LongformerAttention, LongformerAttentionOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary =
      "sliding-window attention with global tokens, linear in the length";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Beltagy, Peters & Cohan 2020, arXiv 2004.05150";
  /// Two products per query and key of its window; global tokens are not counted.
  static double core_flops(const Options& o, const Shape& x) {
    const double b = static_cast<double>(x[0]), l = static_cast<double>(x[1]);
    const double keys = static_cast<double>(1 + o.window +
                                            (o.causal             ? 0
                                             : o.window_right < 0 ? o.window
                                                                  : o.window_right));
    return 4 * b * static_cast<double>(o.embed_dim) * l * (keys < l ? keys : l);
  }
  static std::vector<std::string> examples();
  explicit LongformerAttention(const LongformerAttentionOptions& o);
  /// ShapeError, DTypeError on x or a mask that does not fit; OptionError on a global token without
  /// global_attention.
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  /// By its options, or by a window to the left without global tokens.
  bool causal() const override {
    return options_.causal || (right() == 0 && !options_.global_attention);
  }
  /// Causal only. The state holds the last W max(dilation) + 1 + options.keep tokens, in twice as
  /// much memory. options.global_tokens: later steps may name global tokens
  /// (StepArgs::global_attention_mask); the state then keeps all max_len tokens.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  int64_t right() const {
    return options_.causal             ? 0
           : options_.window_right < 0 ? options_.window
                                       : options_.window_right;
  }
  int64_t dilation(int64_t head) const {
    return options_.dilation.values.size() == 1
               ? options_.dilation.values[0]
               : options_.dilation.values[static_cast<std::size_t>(head)];
  }
  Tensor heads(const Child<Linear>& proj, const Tensor& x, bool rotate) const;
  struct Heads {
    Tensor q, k, v;  ///< [B, H, L, Dh]
  };
  struct GlobalPlaces;
  AttentionParams window_params(const SequenceArgs& args) const;
  Tensor see_globals(const Heads& t, const GlobalPlaces& g, AttentionParams local) const;
  Tensor globals_see(const Tensor& x, const GlobalPlaces& g, const AttentionParams& local) const;
  struct State;
  /// The heads of a step's tokens, packed.
  struct Projected;
  /// The outputs [R, H, n, Dh] of a run's new tokens.
  Tensor step_run(State& s, const detail::RowRun& run, const detail::StepTokens& tokens,
                  const Projected& p) const;
  Tensor step_with_globals(State& s, const detail::RowRun& run, int64_t held, const Projected& p,
                           const Tensor& keys, const Tensor& values, AttentionParams near) const;
  Tensor outside_window(int64_t held, int64_t n) const;
  Child<Linear> q_proj_, k_proj_, v_proj_, out_proj_, q_global_, k_global_, v_global_;
};

}  // namespace dropin
