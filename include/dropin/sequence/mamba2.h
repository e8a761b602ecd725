// Mamba2Mixer: one state-space scan in place of causal attention.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct Mamba2MixerOptions {
  int64_t d_model = 0;  ///< required
  int64_t d_state = 128, d_conv = 4, expand = 2, headdim = 64, ngroups = 1;
  double A_init_min = 1, A_init_max = 16;
  double dt_min = 1e-3, dt_max = 0.1, dt_init_floor = 1e-4;
  Json dt_limit = Json::parse("[0, null]");
  bool bias = false, conv_bias = true;
  int64_t chunk_size = 256;
  double norm_eps = 1e-5;
  static void fields(auto&& f) {
    using O = Mamba2MixerOptions;
    f("d_model", &O::d_model, "width of x; required");
    f("d_state", &O::d_state, "N, numbers of state per channel");
    f("d_conv", &O::d_conv, "taps of the causal convolution");
    f("expand", &O::expand, "inner width E over d_model");
    f("headdim", &O::headdim, "P, channels that share a decay; divides E");
    f("ngroups", &O::ngroups, "G, groups of heads that share B, C and a norm");
    f("A_init_min", &O::A_init_min, "least initial rate of decay");
    f("A_init_max", &O::A_init_max, "greatest initial rate of decay");
    f("dt_min", &O::dt_min, "least initial step");
    f("dt_max", &O::dt_max, "greatest initial step");
    f("dt_init_floor", &O::dt_init_floor, "initial steps are not below it");
    f("dt_limit", &O::dt_limit, "[low, high or null]: clamps the steps");
    f("bias", &O::bias, "biases of in_proj and out_proj");
    f("conv_bias", &O::conv_bias, "bias of the convolution");
    f("chunk_size", &O::chunk_size,
      "tokens scanned at once; only rounding depends on it (256: 64 on the CPU)");
    f("norm_eps", &O::norm_eps, "added to the mean square");
  }
};

/// The block of Mamba-2 (Dao & Gu 2024, section 7): [z | x B C | dt] = in_proj(u), a causal
/// depthwise convolution and SiLU on x B C, ssd_scan, norm(y SiLU(z)) and out_proj. O(L) time; a
/// state of constant size. Replaces causal MultiheadAttention. x [B, L, d_model], key_padding_mask
/// [B, L] bool: padding enters nothing, its outputs are 0. Parameters in_proj.weight [2E + 2GN + H,
/// d_model], conv1d.weight [E + 2GN, 1, d_conv], conv1d.bias, dt_bias, A_log, D [H], norm.weight
/// [E], out_proj.weight [d_model, E], as mamba_ssm's.
class Mamba2Mixer : public Component<Mamba2Mixer, Mamba2MixerOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary = "one state-space scan with a gate";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Dao & Gu 2024 (Mamba-2), arXiv 2405.21060";
  static constexpr const char* kSample = R"({"d_state": 4, "headdim": 4, "chunk_size": 4})";
  static std::vector<std::string> examples();
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  static double core_flops(const Options& o, const Shape& x);
  explicit Mamba2Mixer(const Mamba2MixerOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  bool causal() const override { return true; }
  /// The state is the scan's [B, H, P, N] and the last d_conv - 1 tokens; max_len is not a limit.
  /// options.keep = n keeps n more of each.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;
  /// dt_bias, A_log and D without weight decay, then the others.
  std::vector<ParameterHint> param_groups() const;

 private:
  struct State;
  /// z, x B C and dt of in_proj.
  Tensors project(const Tensor& x) const;
  /// Scans the convolved x B C [B, n, C] with steps from raw [B, n, H]; state [B, H, P, N] moves
  /// on.
  Tensor scan(const Tensor& mixed, const Tensor& raw, const Tensor& padding, Tensor& state) const;
  /// norm(y SiLU(z)) and out_proj.
  Tensor leave(const Tensor& y, const Tensor& z) const;
  int64_t inner() const { return options_.expand * options_.d_model; }
  int64_t heads() const { return inner() / options_.headdim; }
  int64_t mixed() const { return inner() + 2 * options_.ngroups * options_.d_state; }
  Child<Linear> in_proj_, out_proj_;
  Tensor *conv_weight_, *conv_bias_, *dt_bias_, *A_log_, *D_, *norm_weight_;
};

}  // namespace dropin
