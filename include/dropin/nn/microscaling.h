// Layers whose products take operands in microscaling formats.
#pragma once
#include "dropin/nn/conv.h"
#include "dropin/ops/microscaling.h"

namespace dropin {

namespace detail {
/// The options that MXLinear and MXConv2d share.
template <class O> void mx_layer_fields(auto&& f) {
  f("weight_format", &O::weight_format, "MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4_E2M1, MXINT8, NVFP4 or none");
  f("act_format", &O::act_format, "of the input");
  f("grad_format", &O::grad_format, "of the output's gradient");
  f("weight_format_bp", &O::weight_format_bp, "of the weight in backward; null: weight_format");
  f("act_format_bp", &O::act_format_bp, "of the input in backward; null: act_format");
  f("block_size", &O::block_size, "values that share a scale");
  f("rounding", &O::rounding, "even, away, zero or stochastic (when training)");
  f("scale_mode", &O::scale_mode, "floor, or ceil: nothing saturates");
  f("quantize_backward", &O::quantize_backward, "false: the backward products are in float32");
}
template <class O> MXProductParams mx_layer_params(const O& o) {
  return {.first = o.act_format, .second = o.weight_format, .grad = o.grad_format, .first_bp = o.act_format_bp.value_or(""), .second_bp = o.weight_format_bp.value_or(""),
          .block_size = o.block_size, .rounding = o.rounding, .scale_mode = o.scale_mode, .quantize_backward = o.quantize_backward};
}
/// A weight that freeze() turns into codes and scales: weight_codes U8 [O, bytes of a row] (the codes of a row as one bit stream), weight_scales U8, and for NVFP4
/// weight_tensor_scale.
struct FrozenWeight {
  Tensor *codes, *scales, *tensor_scale;
  bool frozen() const { return codes->defined(); }
  void freeze(std::string_view who, const Tensor& weight, std::int64_t axis, const MXProductParams& p) const;
  /// The weight, float32.
  Tensor thaw(const Shape& sizes, std::int64_t axis, const MXProductParams& p) const;
  /// Before loading: takes the form (frozen or not) of the state. StateError when the codes do not fit.
  void prepare(std::string_view who, Tensor& weight, const Shape& sizes, std::int64_t axis, const MXProductParams& p, const StateDict& state, const std::string& prefix) const;
};
}  // namespace detail

#define DROPIN_MX_LAYER_OPTIONS                                                                                   \
  std::string weight_format = "MXFP8_E4M3", act_format = "MXFP8_E4M3", grad_format = "MXFP8_E5M2";                \
  std::optional<std::string> weight_format_bp = std::nullopt, act_format_bp = std::nullopt;                       \
  std::int64_t block_size = 32;                                                                                   \
  std::string rounding = "even", scale_mode = "floor";                                                            \
  bool quantize_backward = true

struct MXLinearOptions {
  std::int64_t in_features = 0;   ///< required
  std::int64_t out_features = 0;  ///< required
  bool bias = true;
  DROPIN_MX_LAYER_OPTIONS;
  static void fields(auto&& f) {
    using O = MXLinearOptions;
    f("in_features", &O::in_features, "size of each input row; required");
    f("out_features", &O::out_features, "size of each output row; required");
    f("bias", &O::bias, "adds a learnable bias, which is not quantized");
    detail::mx_layer_fields<O>(f);
  }
};
/// Linear with its products in MX formats: y = Q(x) Q(W)^T + b, x [.., L, K] or [M, K] -> [.., N] (Rouhani et al. 2023, section 6). Every operand is quantized along the axis that a
/// product sums over, from the unquantized tensor. Parameters as Linear. Replaces Linear.
class MXLinear : public Component<MXLinear, MXLinearOptions, Projection> {
 public:
  static constexpr const char* kSummary = "a Linear with operands in microscaling formats";
  static constexpr const char* kReplaces = "Linear";
  static constexpr const char* kPaper = "Rouhani et al. 2023, arXiv 2310.10537";
  static std::vector<std::string> examples();
  static bool surrogate_gradient(const MXLinearOptions&) { return true; }
  explicit MXLinear(const MXLinearOptions& o);
  Tensor forward(const Tensor& x) override;
  /// Keeps the weight as codes and scales only; for inference. StateError when training afterwards; OptionError for format none.
  void freeze();
  bool frozen() const { return stored_.frozen(); }

 protected:
  void translate_state(StateDict& state, const std::string& prefix, std::vector<std::string>& renamed) const override;

 private:
  MXProductParams params_;
  Tensor *weight_, *bias_;
  detail::FrozenWeight stored_;
};

struct MXConv2dOptions {
  std::int64_t in_channels = 0, out_channels = 0;  ///< required
  Size2 kernel_size = 0;                           ///< required
  Size2 stride = 1;
  Padding padding = 0;
  Size2 dilation = 1;
  std::int64_t groups = 1;
  bool bias = true;
  DROPIN_MX_LAYER_OPTIONS;
  static void fields(auto&& f) {
    using O = MXConv2dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding, "zeros on each side, \"same\" (stride 1) or \"tf_same\" (any stride, the odd cell on the right)");
    f("dilation", &O::dilation, "step within a window");
    f("groups", &O::groups, "groups of channels that do not mix");
    f("bias", &O::bias, "adds a learnable bias, which is not quantized");
    detail::mx_layer_fields<O>(f);
  }
  Conv2dOptions conv() const { return {in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias}; }
};
/// Conv2d with operands in MX formats, y = conv(Q(x), Q(W)) + b: blocks along the channels in forward, along the batch for the weight's gradient. Parameters as Conv2d. Replaces Conv2d.
class MXConv2d : public Component<MXConv2d, MXConv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "a Conv2d with operands in microscaling formats";
  static constexpr const char* kReplaces = "Conv2d";
  static constexpr const char* kPaper = "Rouhani et al. 2023, arXiv 2310.10537";
  static std::vector<std::string> examples();
  static bool surrogate_gradient(const MXConv2dOptions&) { return true; }
  explicit MXConv2d(const MXConv2dOptions& o);
  Tensor forward(const Tensor& x) override;
  /// As MXLinear::freeze.
  void freeze();
  bool frozen() const { return stored_.frozen(); }

 protected:
  void translate_state(StateDict& state, const std::string& prefix, std::vector<std::string>& renamed) const override;

 private:
  Shape weight_sizes() const;
  Conv2dOptions conv_;
  MXProductParams params_;
  Tensor *weight_, *bias_;
  detail::FrozenWeight stored_;
};
#undef DROPIN_MX_LAYER_OPTIONS

struct MXMatmulOptions {
  std::string a_format = "MXFP8_E4M3", b_format = "MXFP8_E4M3", grad_format = "MXFP8_E5M2";
  std::int64_t block_size = 32;
  std::string rounding = "even", scale_mode = "floor";
  bool quantize_backward = true;
  static void fields(auto&& f) {
    using O = MXMatmulOptions;
    f("a_format", &O::a_format, "MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4_E2M1, MXINT8, NVFP4 or none");
    f("b_format", &O::b_format, "of the second operand");
    f("grad_format", &O::grad_format, "of the output's gradient");
    f("block_size", &O::block_size, "values that share a scale");
    f("rounding", &O::rounding, "even, away, zero or stochastic (when training)");
    f("scale_mode", &O::scale_mode, "floor, or ceil: nothing saturates");
    f("quantize_backward", &O::quantize_backward, "false: the backward products are in float32");
  }
};
/// matmul with operands in MX formats, as in attention: y = Q(a, -1) Q(b, -2), a [.., M, K], b [.., K, N] (or [K, N]) -> [.., M, N].
class MXMatmul : public Component<MXMatmul, MXMatmulOptions, Module> {
 public:
  static constexpr const char* kFamily = "MatrixProduct";
  static constexpr const char* kSummary = "a matrix product with operands in microscaling formats";
  static constexpr const char* kPaper = "Rouhani et al. 2023, arXiv 2310.10537";
  static bool surrogate_gradient(const MXMatmulOptions&) { return true; }
  explicit MXMatmul(const MXMatmulOptions& o = {});
  Tensor forward(const Tensor& a, const Tensor& b);
  Tensor operator()(const Tensor& a, const Tensor& b) { return forward(a, b); }
  NamedTensors call(const NamedTensors& in) override { return {{"y", forward(in.get("a", who()), in.get("b", who()))}}; }

 private:
  MXProductParams params_;
};

}  // namespace dropin
