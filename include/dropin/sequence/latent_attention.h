// LatentAttention: tokens talk through a few learned concepts.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct LatentAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  std::optional<int64_t> num_latents = std::nullopt;
  bool causal = false, bias = false;
  double scale = 1, dropout = 0;
  int64_t chunk_size = 64;
  static void fields(auto&& f) {
    using O = LatentAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("num_latents", &O::num_latents,
      "N, latents of all heads together, divisible by num_heads; null: embed_dim");
    f("causal", &O::causal, "a token sees no later one");
    f("bias", &O::bias, "biases of the four projections");
    f("scale", &O::scale, "of the scores of queries and keys");
    f("dropout", &O::dropout, "on the weights of the latents, when training");
    f("chunk_size", &O::chunk_size,
      "tokens that the causal scan takes at once; no effect on results");
  }
};

/// Latte: linear in the length, and in the causal form a state of fixed size (Dolga et al. 2024,
/// section 3). A token mixes N / H latents per head by a softmax of its query; a latent averages
/// values by a softmax of its keys over the positions: y_t = sum_n softmax_n(q_t) sum_s
/// softmax_s(k_sn) v_s, s <= t when causal. Replaces MultiheadAttention. x [B, T, D],
/// key_padding_mask [B, T] bool. A token that sees none gives out_proj.bias. Parameters
/// q_proj.weight [N, D], k_proj.weight [N, D], v_proj.weight [D, D], out_proj.weight [D, D] (.bias
/// if asked); the official Wq, Wk, Wv and o_proj, [D, out], are accepted when loading.
class LatentAttention : public Component<LatentAttention, LatentAttentionOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary =
      "attention through a few learned latents, with a state of fixed size";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Dolga et al. 2024 (Latte), arXiv 2402.17512";
  /// Latents meet values, and weights meet latents; N / H latents of a head and its D / H values.
  static double core_flops(const Options& o, const Shape& x) {
    const double n = static_cast<double>(o.num_latents.value_or(o.embed_dim)),
                 h = static_cast<double>(o.num_heads);
    return 4 * static_cast<double>(x[0] * x[1]) * n * static_cast<double>(o.embed_dim) / h;
  }
  static std::vector<std::string> examples();
  explicit LatentAttention(const LatentAttentionOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  /// Prefill: the prompt's outputs, leaving `state` after it. Causal only; the same as step().
  Tensor forward(const Tensor& x, SequenceState& state) { return step(x, state); }
  bool causal() const override { return options_.causal; }
  /// Causal only; max_len is not a limit: the state is (2 N + N D / H) numbers per batch entry.
  /// options.keep = n keeps n more such states, and the last n tokens of each step are taken one by
  /// one.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len = 0,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  int64_t latents() const { return options_.num_latents.value_or(options_.embed_dim); }
  Tensor scores(const Child<Linear>& proj, const Tensor& x) const;
  Child<Linear> q_proj_, k_proj_, v_proj_, out_proj_;
};

/// The paper's name for it.
using LatteAttention = LatentAttention;

}  // namespace dropin
