// HydraMixer: two state-space scans and a free diagonal in place of bidirectional attention.
#pragma once
#include "dropin/norm/norm.h"
#include "dropin/sequence/common.h"

namespace dropin {

struct HydraMixerOptions {
  int64_t d_model = 0;  ///< required
  int64_t d_state = 64, d_conv = 7, expand = 2, headdim = 64, ngroups = 1;
  double dt_min = 1e-3, dt_max = 0.1, dt_init_floor = 1e-4;
  Json dt_limit = Json::parse("[0, null]");
  bool learnable_init_states = false, bias = false, conv_bias = true;
  int64_t chunk_size = 256;
  double norm_eps = 1e-5;
  static void fields(auto&& f) {
    using O = HydraMixerOptions;
    f("d_model", &O::d_model, "width of x; required");
    f("d_state", &O::d_state, "N, numbers of state per channel");
    f("d_conv", &O::d_conv, "taps of the convolution: odd");
    f("expand", &O::expand, "inner width E over d_model");
    f("headdim", &O::headdim, "P, channels that share a decay; divides E");
    f("ngroups", &O::ngroups, "G, groups of heads that share B and C");
    f("dt_min", &O::dt_min, "least initial step");
    f("dt_max", &O::dt_max, "greatest initial step");
    f("dt_init_floor", &O::dt_init_floor, "initial steps are not below it");
    f("dt_limit", &O::dt_limit, "[low, high or null]: clamps the steps");
    f("learnable_init_states", &O::learnable_init_states,
      "learns the states that both scans begin with");
    f("bias", &O::bias, "biases of in_proj and out_proj");
    f("conv_bias", &O::conv_bias, "bias of the convolution");
    f("chunk_size", &O::chunk_size,
      "tokens scanned at once; only rounding depends on it (256: 64 on the CPU)");
    f("norm_eps", &O::norm_eps, "added to the mean square");
  }
};

/// Mixes tokens by a quasiseparable matrix (Hwang et al. 2024, sections 3 and 4): a state-space
/// scan from each end, moved one token away from the diagonal, and a free diagonal. O(L) time and
/// memory; no position embedding is needed. Replaces MultiheadAttention that sees the future.
/// x [B, L, d_model], key_padding_mask [B, L] bool: padding enters nothing, its outputs are 0.
/// Parameters in_proj.weight [2E + 4GN + 2H, d_model], conv1d.weight [E + 4GN, 1, d_conv],
/// conv1d.bias, dt_bias, A_log, D [H], fc_D.weight [H, E], norm.weight [E], out_proj.weight
/// [d_model, E], init_states [H, P, N], as the authors'.
class HydraMixer : public Component<HydraMixer, HydraMixerOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary = "two state-space scans and a free diagonal";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Hwang et al. 2024 (Hydra), arXiv 2407.09941";
  static constexpr const char* kSample =
      R"({"d_state": 4, "headdim": 4, "expand": 2, "chunk_size": 4})";
  static std::vector<std::string> examples();
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  static double core_flops(const Options& o, const Shape& x);
  explicit HydraMixer(const HydraMixerOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  /// SequenceMixer's, but seq_idx is refused.
  NamedTensors call(const NamedTensors& in) override;
  /// dt_bias, A_log, D and init_states without weight decay, then the others.
  std::vector<ParameterHint> param_groups() const;

 private:
  Child<Linear> in_proj_, out_proj_, fc_D_;
  Child<RMSNorm> norm_;
  Tensor *conv_weight_, *conv_bias_, *dt_bias_, *A_log_, *D_, *init_states_;
};

}  // namespace dropin
