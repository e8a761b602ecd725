// RelativePositionAttention: query, key and distance interact.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct RelativePositionAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  std::string method = "m4";
  int64_t max_position = 512;
  bool value_embedding = false, causal = false, bias = true;
  double dropout = 0;
  static void fields(auto&& f) {
    using O = RelativePositionAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("method", &O::method,
      "shaw (relative_key), m1, m2, m3 or m4 (relative_key_query), see the class");
    f("max_position", &O::max_position, "n; distances of n and more use the last row");
    f("value_embedding", &O::value_embedding, "adds rows of a second table to the values");
    f("causal", &O::causal, "a query sees no later key");
    f("bias", &O::bias, "biases of the four projections");
    f("dropout", &O::dropout, "on the probabilities, when training");
  }
};

/// Attention that knows signed distances by a table A (Huang et al. 2020, section 3; Shaw et al.
/// 2018): with a = A[clamp(i - j)], scores (all over sqrt(e)) are q (k + a) for shaw, (q k) a for
/// m1 (of |i - j|) and m2, sum_d q k a for m3, q k + q a + k a for m4. Replaces MultiheadAttention.
/// x [B, L, D], key_padding_mask [B, L] bool. A query that sees no key gives out_proj.bias.
/// Parameters q_proj, k_proj, v_proj, out_proj (.weight, .bias), distance_embedding.weight [2n - 1,
/// e] (m1: [n, 1], m2: [2n - 1, 1]), value_embedding.weight [2n - 1, e]. m1, m2 and m3 start as
/// plain attention (ones), the others at N(0, 0.02). Nothing of L x L stands in memory: tiled in
/// float32 on the CPU (not m3, not with dropout), else a few queries at a time, computed again in
/// backward; second derivatives keep the scores.
class RelativePositionAttention
    : public Component<RelativePositionAttention, RelativePositionAttentionOptions,
                       ProjectedMixer> {
 public:
  static constexpr const char* kSummary = "attention whose scores depend on learned distances";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Huang et al. 2020, arXiv 2009.13658";
  static std::vector<std::string> examples();
  static double core_flops(const Options& o, const Shape& x) {
    return 8 * static_cast<double>(x[0] * x[1] * x[1]) * static_cast<double>(o.embed_dim);
  }
  explicit RelativePositionAttention(const RelativePositionAttentionOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  bool causal() const override { return options_.causal; }
  /// Causal only. The state holds all max_len tokens; options.keep costs nothing.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 private:
  class Distances;
  /// Contexts [B, H, n, e] of queries [B, H, n, e] over keys [B, H, K, e].
  Tensor mix(const Tensor& q, const Tensor& k, const Tensor& v, const Distances& d,
             const SequenceArgs& args) const;
  static Tensor scores(const std::string& method, const Tensor& q, const Tensor& k,
                       const Tensor& table, const Distances& d);
  /// The same as the tiled kernel takes it; not m3.
  AttentionParams params(const SequenceArgs& args) const;
  Tensor *distance_, *values_;
};

}  // namespace dropin
