// CombinerAttention: full attention at the price of sparse attention.
#pragma once
#include "dropin/norm/norm.h"
#include "dropin/sequence/common.h"

namespace dropin {

struct CombinerAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  std::string variant = "fixed";
  int64_t span = 0;
  bool causal = false;
  std::string pool = "max", pool_act = "identity", row_summary = "none";
  bool exclude_self_span = false, bias = true;
  double dropout = 0;
  static void fields(auto&& f) {
    using O = CombinerAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("variant", &O::variant,
      "fixed, logsparse, axial_vertical, axial_horizontal, axial_mixture or axial_rowmajor");
    f("span", &O::span, "tokens of a row; 0: the square root of the length, rounded up");
    f("causal", &O::causal, "a query sees no later token");
    f("pool", &O::pool, "how a region's queries and keys become one: max, mean or sum");
    f("pool_act", &O::pool_act, "applied before pooling: identity, relu or deepset");
    f("row_summary", &O::row_summary, "keys of axial_rowmajor's regions: none, wsum or proj");
    f("exclude_self_span", &O::exclude_self_span,
      "a query does not see its own row as a region (not causal; fixed and axial_rowmajor)");
    f("bias", &O::bias, "biases of all projections");
    f("dropout", &O::dropout, "on the weights of single tokens, when training");
  }
};

/// Every token reaches every other in each head: a few directly, the rest through regions whose
/// summary (a short attention of the pooled query over the region) all queries share (Ren et al.
/// 2021, sections 3 and 4). Tokens stand in rows of `span`. O(L sqrt(L)), logsparse O(L log L).
/// Replaces MultiheadAttention. x [B, L, D], key_padding_mask [B, L] bool. A query that is left
/// with nothing gives out_proj.bias. Parameters q_proj, k_proj, v_proj, out_proj (.weight, .bias),
/// Xavier uniform; pool_q.weight, pool_k.weight [e, e] with deepset; row_out, row_key, row_norm
/// (.weight, .bias) with row_summary proj.
class CombinerAttention
    : public Component<CombinerAttention, CombinerAttentionOptions, ProjectedMixer> {
 public:
  static constexpr const char* kSummary =
      "full attention through summaries of regions, in L sqrt(L)";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Ren et al. 2021 (Combiner), arXiv 2107.05768";
  static constexpr const char* kSample = R"({"span": 3})";
  static std::vector<std::string> examples();
  static double core_flops(const Options& o, const Shape& x);
  explicit CombinerAttention(const CombinerAttentionOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  bool causal() const override { return options_.causal; }
  /// Causal only; OptionError where span = 0 would change with the length. The state holds all
  /// max_len tokens and the summaries of finished regions; options.keep costs nothing. A token
  /// reads its row and a summary of each region: O(span + t / span), logsparse O(log t), and makes
  /// the summaries that it completes.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 private:
  struct State;
  /// Queries (scaled), keys, values [B, H, L, e], input [B, L, D] (row_summary proj only), padding.
  struct Tokens {
    Tensor q, k, v, x, pad;
  };
  Tensor scaled_queries(const Tensor& x) const;
  /// pool_act.
  Tensor acted(const Tensor& x, const Child<Linear>& deep) const;
  /// Contexts [B, H, L, e].
  Tensor mix(const Tokens& t) const;
  Tensor mix_rows(const Tokens& t) const;
  /// Variant fixed where tiled attention can take it; undefined where not.
  Tensor mix_tiled(const Tokens& t, int64_t span) const;
  Tensor mix_log(const Tokens& t) const;
  /// Keys and values [B, H, s, e] of one row as its columns see it (axial_rowmajor); x [B, s, D].
  std::pair<Tensor, Tensor> row_major(const Tensor& q, const Tensor& k, const Tensor& v,
                                      const Tensor& x) const;
  /// Contexts of queries [R, H, n, e], a run's last tokens, of one row; step_log: one token.
  Tensor step_row(const State& s, const detail::RowRun& run, const Tensor& q) const;
  Tensor step_log(const State& s, const detail::RowRun& run, const Tensor& q) const;
  /// Keeps the summaries that a run's tokens [first, first + count) complete.
  void summarise(State& s, const detail::RowRun& run, int64_t first, int64_t count) const;
  Child<Linear> pool_q_, pool_k_, row_out_, row_key_;
  Child<LayerNorm> row_norm_;
};

}  // namespace dropin
