// What layers with operands in microscaling formats share: their options, and weights kept as
// codes.
#pragma once
#include "dropin/module/module.h"
#include "dropin/ops/microscaling.h"

namespace dropin {

namespace detail {
/// The options that MXLinear and MXConv2d share.
template <class O>
void mx_layer_fields(auto&& f) {
  f("weight_format", &O::weight_format,
    "MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4_E2M1, MXINT8, NVFP4 or none");
  f("act_format", &O::act_format, "of the input");
  f("grad_format", &O::grad_format, "of the output's gradient");
  f("weight_format_bp", &O::weight_format_bp, "of the weight in backward; null: weight_format");
  f("act_format_bp", &O::act_format_bp, "of the input in backward; null: act_format");
  f("block_size", &O::block_size, "values that share a scale");
  f("rounding", &O::rounding, "even, away, zero or stochastic (when training)");
  f("scale_mode", &O::scale_mode, "floor, or ceil: nothing saturates");
  f("quantize_backward", &O::quantize_backward, "false: the backward products are in float32");
}
template <class O>
MXProductParams mx_layer_params(const O& o) {
  return {.first = o.act_format,
          .second = o.weight_format,
          .grad = o.grad_format,
          .first_bp = o.act_format_bp.value_or(""),
          .second_bp = o.weight_format_bp.value_or(""),
          .block_size = o.block_size,
          .rounding = o.rounding,
          .scale_mode = o.scale_mode,
          .quantize_backward = o.quantize_backward};
}
/// Random rounding is for training: to even when not.
MXProductParams in_mode(MXProductParams p, bool training);
/// A weight that freeze() turns into codes and scales: weight_codes U8 [O, bytes of a row] (the
/// codes of a row as one bit stream), weight_scales U8, and for NVFP4 weight_tensor_scale.
struct FrozenWeight {
  Tensor *codes, *scales, *tensor_scale;
  bool frozen() const { return codes->defined(); }
  void freeze(std::string_view who, const Tensor& weight, int64_t axis,
              const MXProductParams& p) const;
  /// The weight, float32.
  Tensor thaw(const Shape& sizes, int64_t axis, const MXProductParams& p) const;
  /// Before loading: takes the form (frozen or not) of the state. StateError when the codes do not
  /// fit.
  void prepare(std::string_view who, Tensor& weight, const Shape& sizes, int64_t axis,
               const MXProductParams& p, const StateDict& state, const std::string& prefix) const;
};
}  // namespace detail

// The members that mx_layer_fields() lists, for the body of an options struct.
#define DROPIN_MX_LAYER_OPTIONS                                                                    \
  std::string weight_format = "MXFP8_E4M3", act_format = "MXFP8_E4M3", grad_format = "MXFP8_E5M2"; \
  std::optional<std::string> weight_format_bp = std::nullopt, act_format_bp = std::nullopt;        \
  int64_t block_size = 32;                                                                         \
  std::string rounding = "even", scale_mode = "floor";                                             \
  bool quantize_backward = true

}  // namespace dropin
