// CausalConv1d: the plainest sequence mixer, a convolution over the last few positions.
#pragma once
#include "dropin/module/init.h"
#include "dropin/sequence/common.h"

namespace dropin {

struct CausalConv1dOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t kernel_size = 3;
  bool bias = true;
  static void fields(auto&& f) {
    using O = CausalConv1dOptions;
    f("embed_dim", &O::embed_dim, "D; required");
    f("kernel_size", &O::kernel_size, "positions seen: the current one and those before it");
    f("bias", &O::bias, "adds a learnable bias");
  }
};

/// y[t] = bias + sum_j W_j x[t - (K - 1) + j]: torch's Conv1d(D, D, K) behind K - 1 zeros, x [B, L,
/// D] -> [B, L, D]. What a mixer without long reach can do. Parameters weight [D, D, K], bias [D].
/// Padded positions count as zeros.
class CausalConv1d : public Component<CausalConv1d, CausalConv1dOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary = "convolution over the last few positions";
  static constexpr const char* kReplaces = "MultiheadAttention";
  explicit CausalConv1d(const CausalConv1dOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  bool causal() const override { return true; }
  /// The state is the last K - 1 + options.keep tokens; max_len is not a limit.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 private:
  Tensor *weight_, *bias_;
};

}  // namespace dropin
