// DilatedAttention: segments attended ever more sparsely.
#pragma once
#include "dropin/core/communicator.h"
#include "dropin/sequence/common.h"

namespace dropin {

struct DilatedAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  std::vector<int64_t> segment_length{2048, 4096, 8192, 16384, 32768},
      dilated_ratio{1, 2, 4, 6, 12};
  std::string head_offset = "grouped";
  bool mix_grad = false, causal = false, bias = true;
  double dropout = 0;
  std::string rope = "none";
  double rope_base = 10000;
  static void fields(auto&& f) {
    using O = DilatedAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("segment_length", &O::segment_length, "w_i: the length of the segments of pattern i");
    f("dilated_ratio", &O::dilated_ratio,
      "r_i: every r_i-th token of a segment takes part in pattern i");
    f("head_offset", &O::head_offset,
      "which of them: \"grouped\" gives blocks of heads one offset (the official code), \"modulo\" "
      "head j offset j mod r_i (the paper)");
    f("mix_grad", &O::mix_grad,
      "differentiates the weights that mix the patterns; false: they are constants in backward, as "
      "in the official code");
    f("causal", &O::causal, "a token sees no later one");
    f("bias", &O::bias, "biases of the four projections");
    f("dropout", &O::dropout, "on the probabilities, when training");
    f("rope", &O::rope, "rotary positions: \"none\", \"half\" or \"interleaved\"");
    f("rope_base", &O::rope_base, "base of the rotary angles");
  }
};

/// Attention linear in the length: pattern i cuts the sequence into segments of w_i tokens, in
/// which every r_i-th token attends to its like; the patterns are mixed by their softmax
/// denominators, y = sum_i s_i y_i / sum_i s_i (Ding et al. 2023, LongNet, section 2.2). Replaces
/// MultiheadAttention. x [B, L, D], key_padding_mask [B, L] bool, attn_mask as MultiheadAttention.
/// A token that no pattern covers in a head gets 0 there. Parameters q_proj, k_proj, v_proj,
/// out_proj (.weight [D, D], .bias [D]), torchscale's names.
class DilatedAttention
    : public Component<DilatedAttention, DilatedAttentionOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary =
      "segments attended ever more sparsely, linear in the length";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Ding et al. 2023 (LongNet), arXiv 2307.02486";
  /// Two products per pair of positions that a pattern keeps: of w, w / r in each segment.
  static double core_flops(const Options& o, const Shape& x) {
    const double b = static_cast<double>(x[0]), l = static_cast<double>(x[1]);
    double pairs = 0;
    for (std::size_t i = 0; i < o.segment_length.size() && i < o.dilated_ratio.size(); ++i) {
      const double w = static_cast<double>(o.segment_length[i]),
                   r = static_cast<double>(o.dilated_ratio[i]);
      pairs += l * (w < l ? w : l) / (r * r) * (o.causal ? 0.5 : 1.0);
    }
    return 4 * b * static_cast<double>(o.embed_dim) * pairs;
  }
  static std::vector<std::string> examples();
  static void traits(const DilatedAttentionOptions& o, Traits& t) {
    t.surrogate_gradient = !o.mix_grad && o.segment_length.size() > 1;
  }
  explicit DilatedAttention(const DilatedAttentionOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  /// Sequence parallel (section 3.1): this rank holds tokens [rank l, (rank + 1) l) as x_local [B,
  /// l, D] and gets their outputs. l and every w_i divide one another; every rank of `c` calls at
  /// once, and again in backward. key_padding_mask is not supported here. What is exchanged does
  /// not grow with the length.
  Tensor forward_distributed(const Tensor& x_local, Communicator& c);
  bool causal() const override { return options_.causal; }
  /// Causal only. The state keeps the keys of the current segments: at most twice the longest, and
  /// options.keep tokens more. Segments begin at each entry's first real token.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override {
    detail::translate_in_proj(state, prefix, renamed);
  }

 private:
  struct State;
  /// The outputs [R, H, n, Dh] of a run's new tokens from their queries, keys and values.
  Tensor step_run(State& s, const detail::RowRun& run, const Tensor& q, const Tensor& k,
                  const Tensor& v) const;
  /// s_ij: which tokens of a segment take part in pattern i in a head.
  int64_t offset(std::size_t pattern, int64_t head) const;
  AttentionParams pattern(std::size_t i) const;
  struct RankRows;
  RankRows rank_rows(std::size_t i, int64_t l, int64_t rank) const;
  AttentionWithLse across_ranks(std::size_t i, const Tensor& q, const Tensor& k, const Tensor& v,
                                Communicator& c) const;
  Child<Linear> q_proj_, k_proj_, v_proj_, out_proj_;
};

}  // namespace dropin
