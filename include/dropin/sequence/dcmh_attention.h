// DCMHAttention: attention heads mixed per pair of tokens.
#pragma once
#include "dropin/module/parameters.h"
#include "dropin/sequence/common.h"

namespace dropin {

struct DCMHAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  int64_t rank = 2, dyn_hidden = 0;
  bool causal = true;
  int64_t window_size = 0;
  double rope_base = 0;
  bool qk_norm = false;
  bool static_mixing = false;  ///< "static" in JSON
  bool query_wise = true, key_wise = true, bias = false;
  static void fields(auto&& f) {
    using O = DCMHAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("rank", &O::rank, "R, of the dynamic mixing matrices");
    f("dyn_hidden", &O::dyn_hidden, "K, hidden width of their generator; 0: 4 num_heads");
    f("causal", &O::causal, "a query sees no later key");
    f("window_size", &O::window_size, "keys at most this far away are seen; 0: all");
    f("rope_base", &O::rope_base, "base of rotary positions, half-split; 0: none");
    f("qk_norm", &O::qk_norm, "RMS norm of queries and keys over the head width");
    f("static", &O::static_mixing, "learned static mixing of heads besides");
    f("query_wise", &O::query_wise, "the query's token mixes heads");
    f("key_wise", &O::key_wise, "the key's token mixes heads");
    f("bias", &O::bias, "biases of the four projections");
  }
};

/// Attention whose scores, and then whose weights, are mixed over the heads by H x H matrices that
/// depend on the query's and the key's token (Xiao et al. 2024, section 3): a' = a + a S + a M_q(t)
/// + a M_k(s), M = w1^T w2 + diag(g). Replaces MultiheadAttention. x [B, L, D], key_padding_mask
/// [B, L] bool, attn_mask on the mixed scores. A query that sees no key gives out_proj.bias.
/// Parameters q_proj, k_proj, v_proj, out_proj (.weight, .bias), dyn_w_proj.dw1 [D, 1, 4, K],
/// dyn_w_proj.qkw [1, 4, K, 2R, H], dyn_w_proj.dd [D, 1, 4H], and if asked for
/// dyn_w_proj.pre_proj.w, dyn_w_proj.post_proj.w [1, H, H], q_norm.scale, k_norm.scale [e]. The
/// official wq, wk, wv, wo and wqkv are accepted. Nothing of L x L stands in memory: tiles of all
/// heads in float32 on the CPU (without attn_mask), else a few queries at a time, computed again in
/// backward; second derivatives keep the scores.
class DCMHAttention : public Component<DCMHAttention, DCMHAttentionOptions, ProjectedMixer> {
 public:
  static constexpr const char* kSummary = "attention whose heads are mixed anew for each pair";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Xiao et al. 2024 (DCFormer), arXiv 2405.08553";
  static std::vector<std::string> examples();
  static double core_flops(const Options& o, const Shape& x) {
    const double pairs = static_cast<double>(x[0] * x[1] * x[1]);
    return pairs * (4 * static_cast<double>(o.embed_dim) +
                    static_cast<double>((16 * o.rank + 8) * o.num_heads));
  }
  explicit DCMHAttention(const DCMHAttentionOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  bool causal() const override { return options_.causal; }
  /// Causal only. The state holds all max_len tokens, 2 D + (4 rank + 2) H numbers each;
  /// options.keep costs nothing.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  struct State;
  /// Heads [B, H, L, e] of queries or keys, normalised; positions come later.
  Tensor project(const Child<Linear>& proj, const Tensor* scale, const Tensor& x) const;
  /// Factors of the matrices of a branch before and after the softmax, [B, L, 2 (2R + 1) H]; side
  /// 0: of queries, 1: of keys.
  Tensor dynamic(const Tensor& x, int64_t side) const;
  /// Contexts [B, H, T, e].
  Tensor mix(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& of_queries,
             const Tensor& of_keys, const SequenceArgs& args) const;
  Tensor *dw1_, *qkw_, *dd_, *static_[2] = {nullptr, nullptr}, *q_scale_ = nullptr,
                             *k_scale_ = nullptr;
};

}  // namespace dropin
