#include "dropin/convolution/deform_conv.h"

#include "dropin/module/state_names.h"

namespace dropin {

namespace {
template <class O>
Conv2dOptions as_conv(const O& o, int64_t groups, bool bias) {
  return {.in_channels = o.in_channels,
          .out_channels = o.out_channels,
          .kernel_size = o.kernel_size,
          .stride = o.stride,
          .padding = o.padding,
          .dilation = o.dilation,
          .groups = groups,
          .bias = bias};
}
}  // namespace

DeformConv2d::DeformConv2d(const DeformConv2dOptions& o) : Component(o) {
  detail::check_conv(who(), as_conv(o, o.groups, o.bias));
  const int64_t fan_in = o.in_channels / o.groups * o.kernel_size.h * o.kernel_size.w;
  weight_ = &parameter("weight", init::default_uniform({o.out_channels, o.in_channels / o.groups,
                                                        o.kernel_size.h, o.kernel_size.w},
                                                       fan_in));
  bias_ = &parameter("bias", o.bias ? init::default_uniform({o.out_channels}, fan_in) : Tensor());
}

void DeformConv2d::check(const Tensor& x) const {
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == options_.in_channels, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [B, ", options_.in_channels, ", H, W]");
}

Tensor DeformConv2d::forward(const Tensor& x) {
  check(x);
  return conv2d(
      x, *weight_, *bias_,
      detail::conv_params(as_conv(options_, options_.groups, options_.bias), x.size(2), x.size(3)));
}

Tensor DeformConv2d::forward(const Tensor& x, const Tensor& offset, const Tensor& mask) {
  check(x);
  return deform_conv2d(
      x, offset, mask, *weight_, *bias_,
      detail::conv_params(as_conv(options_, options_.groups, options_.bias), x.size(2), x.size(3)));
}

NamedTensors DeformConv2d::call(const NamedTensors& in) {
  const Tensor x = in.get("x", who());
  if (in.contains("mask") && !in.contains("offset"))
    fail<StateError>({who(), ": a mask came without an offset"});
  return {{"y", in.contains("offset") ? (*this)(x, in.get("offset", who()), in.find("mask"))
                                      : ImageMixer::operator()(x)}};
}

std::vector<std::string> ModulatedDeformConv2d::examples() {
  return {R"({"deformable_groups": 2, "stride": 2, "dilation": 2, "padding": 2})"};
}

ModulatedDeformConv2d::ModulatedDeformConv2d(const ModulatedDeformConv2dOptions& o) : Component(o) {
  detail::check_conv(who(), as_conv(o, 1, true));
  DROPIN_CHECK(o.deformable_groups > 0 && o.in_channels % o.deformable_groups == 0, OptionError,
               who(), ": in_channels ", o.in_channels, " is not divisible by deformable_groups ",
               o.deformable_groups);
  const int64_t taps = o.kernel_size.h * o.kernel_size.w;
  weight_ = &parameter("weight", init::default_uniform({o.out_channels, o.in_channels,
                                                        o.kernel_size.h, o.kernel_size.w},
                                                       o.in_channels * taps));
  bias_ = &parameter("bias", zeros({o.out_channels}));
  conv_offset_mask_ =
      child<Conv2d>("conv_offset_mask", {.in_channels = o.in_channels,
                                         .out_channels = 3 * o.deformable_groups * taps,
                                         .kernel_size = o.kernel_size,
                                         .stride = o.stride,
                                         .padding = o.padding,
                                         .dilation = o.dilation});
  no_grad guard;
  for (Tensor& p : conv_offset_mask_->parameters()) p.zero_();
}

Tensor ModulatedDeformConv2d::forward(const Tensor& x) {
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == options_.in_channels, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [B, ", options_.in_channels, ", H, W]");
  const int64_t moves =
      2 * options_.deformable_groups * options_.kernel_size.h * options_.kernel_size.w;
  const Tensor z = conv_offset_mask_(x);
  return deform_conv2d(x, z.narrow(1, 0, moves), sigmoid(z.narrow(1, moves, moves / 2)), *weight_,
                       *bias_,
                       detail::conv_params(as_conv(options_, 1, true), x.size(2), x.size(3)));
}

void ModulatedDeformConv2d::translate_state(StateDict& state, const std::string& prefix,
                                            std::vector<std::string>& renamed) const {
  for (const char* kind : {"weight", "bias"})
    detail::rename_state(state, prefix + "conv_offset." + kind, prefix + "conv_offset_mask." + kind,
                         renamed);
}

}  // namespace dropin
