// ScatterbrainAttention: sparse plus low-rank attention in one estimate.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct ScatterbrainAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  std::string sparse = "lsh";
  int64_t cluster_size = 32, n_hashes = 2, local_context = 64, nb_features = 0, ortho_scaling = 0;
  double softmax_temp = 0;
  bool causal = false, bias = true;
  double dropout = 0;
  std::optional<int64_t> seed = std::nullopt;
  static void fields(auto&& f) {
    using O = ScatterbrainAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("sparse", &O::sparse, "which pairs are exact: \"lsh\" (clusters) or \"local\" (a window)");
    f("cluster_size", &O::cluster_size, "tokens of a cluster (lsh)");
    f("n_hashes", &O::n_hashes, "clusterings; a pair that meets in any is exact (lsh)");
    f("local_context", &O::local_context, "width of the window (local)");
    f("nb_features", &O::nb_features,
      "random features, an even number (an odd one loses one); 0: e ln(e)");
    f("ortho_scaling", &O::ortho_scaling,
      "lengths of the projection's rows: 0: as of normal ones, 1: all sqrt(e)");
    f("softmax_temp", &O::softmax_temp, "factor of the scores; 0: 1 / sqrt(e)");
    f("causal", &O::causal, "a query sees no later key; with lsh, clusters do");
    f("bias", &O::bias, "biases of the four projections");
    f("dropout", &O::dropout, "on the exact weights, when training");
    f("seed", &O::seed, "of the buffers; null: the default generator");
  }
};

/// Attention whose large entries are exact, on a sparse support, and whose other entries are
/// estimated by positive random features (Chen et al. 2021, section 4): y_i = sum_j M_ij v_j /
/// sum_j M_ij, M_ij = exp(tau q_i k_j) on the support, else phi(q_i) phi(k_j). Near-linear in the
/// length. Replaces MultiheadAttention. x [B, L, D], key_padding_mask [B, L] bool. A query that
/// sees nothing gives out_proj.bias. Parameters q_proj, k_proj, v_proj, out_proj (.weight, .bias);
/// buffers projection_matrix [r, e] and, with lsh, lsh_alpha [e + 2, n_hashes]. With lsh, causal
/// attention is not strictly causal: later tokens decide which earlier pairs are exact, so causal()
/// is false.
class ScatterbrainAttention
    : public Component<ScatterbrainAttention, ScatterbrainAttentionOptions, ProjectedMixer> {
 public:
  static constexpr const char* kSummary = "attention exact on a sparse support, else estimated";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Chen et al. 2021 (Scatterbrain), arXiv 2110.15343";
  static constexpr const char* kSample = R"({"sparse": "local", "local_context": 4})";
  static std::vector<std::string> examples();
  static double core_flops(const Options& o, const Shape& x);
  explicit ScatterbrainAttention(const ScatterbrainAttentionOptions& o);
  /// Draws the buffers again, from the default generator.
  void redraw();
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  bool causal() const override { return options_.causal && options_.sparse == "local"; }
  /// Causal and local only. The state holds all max_len tokens, and sums over them that grow: a
  /// step costs the same at any length; the first one after a rollback sums all again. options.keep
  /// costs nothing.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 private:
  double temperature() const;
  /// log phi [*, L, 2r] of heads [*, L, e].
  Tensor log_features(const Tensor& heads) const;
  Tensor mix(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& live) const;
  struct State;
  /// Adds keys, by their log features, and values (with a 1 each) to a run's sums; what queries'
  /// features phi_q make of the keys up to theirs, undefined phi_q: nothing.
  Tensor add_keys(State& s, const detail::RowRun& run, const Tensor& log_k, const Tensor& values,
                  const Tensor& phi_q) const;
  /// The sums of a run from its keys.
  void recount(State& s, const detail::RowRun& run) const;
  /// Contexts of a few tokens [R, H, n, e].
  Tensor step_chunk(State& s, const detail::RowRun& run, const Tensor& q, const Tensor& k,
                    const Tensor& v) const;
  Tensor *projection_, *alpha_ = nullptr;
};

}  // namespace dropin
