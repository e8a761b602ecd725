#include "dropin/convolution/conv_transpose.h"

#include <algorithm>

namespace dropin {

void detail::check_conv_transpose(std::string_view who, const ConvTranspose2dOptions& o) {
  DROPIN_CHECK(o.in_channels > 0 && o.out_channels > 0, OptionError, who, ": in_channels ",
               o.in_channels, " and out_channels ", o.out_channels, " must be positive");
  DROPIN_CHECK(o.groups > 0 && o.in_channels % o.groups == 0 && o.out_channels % o.groups == 0,
               OptionError, who, ": in_channels ", o.in_channels, " and out_channels ",
               o.out_channels, " are not divisible by groups ", o.groups);
  const Pair kernel = o.kernel_size.pair(), stride = o.stride.pair(), dilation = o.dilation.pair(),
             padding = o.padding.pair(), more = o.output_padding.pair();
  for (std::size_t i = 0; i < 2; ++i) {
    DROPIN_CHECK(kernel[i] > 0, OptionError, who, ": kernel_size is ", kernel[i],
                 ", expected a positive size");
    DROPIN_CHECK(stride[i] > 0, OptionError, who, ": stride is ", stride[i],
                 ", expected a positive step");
    DROPIN_CHECK(dilation[i] > 0, OptionError, who, ": dilation is ", dilation[i],
                 ", expected a positive step");
    DROPIN_CHECK(padding[i] >= 0, OptionError, who, ": padding is ", padding[i],
                 ", expected at least 0");
    DROPIN_CHECK(more[i] >= 0 && more[i] < std::max(stride[i], dilation[i]), OptionError, who,
                 ": output_padding ", more[i], " is not below stride ", stride[i], " or dilation ",
                 dilation[i]);
  }
}

Work ConvTranspose2d::work(const Workload& w) {
  const int64_t channels = w.x.dim() > 1 ? std::max<int64_t>(1, w.x.size(1)) : 1;
  return work_of_places(w, static_cast<double>(w.x.numel() / channels));
}

ConvTranspose2d::ConvTranspose2d(const ConvTranspose2dOptions& o) : Component(o) {
  detail::check_conv_transpose(who(), o);
  params_ = {.stride = o.stride.pair(),
             .padding = o.padding.pair(),
             .output_padding = o.output_padding.pair(),
             .groups = o.groups,
             .dilation = o.dilation.pair()};
  const int64_t width = o.out_channels / o.groups, h = o.kernel_size.h, w = o.kernel_size.w;
  const int64_t fan_in = width * h * w;  // torch's, though each output sums over in_channels
  weight_ = &parameter("weight", init::default_uniform({o.in_channels, width, h, w}, fan_in));
  bias_ = &parameter("bias", o.bias ? init::default_uniform({o.out_channels}, fan_in) : Tensor());
}

Tensor ConvTranspose2d::forward(const Tensor& x) {
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == options_.in_channels, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [B, ", options_.in_channels, ", H, W]");
  return conv_transpose2d(x, *weight_, *bias_, params_);
}

ConvTranspose1d::ConvTranspose1d(const ConvTranspose1dOptions& o) : Component(o) {
  detail::check_conv_transpose(who(), {.in_channels = o.in_channels,
                                       .out_channels = o.out_channels,
                                       .kernel_size = Size2(1, o.kernel_size),
                                       .stride = Size2(1, o.stride),
                                       .padding = Size2(0, o.padding),
                                       .output_padding = Size2(0, o.output_padding),
                                       .groups = o.groups,
                                       .dilation = Size2(1, o.dilation)});
  const int64_t width = o.out_channels / o.groups, fan_in = width * o.kernel_size;
  weight_ =
      &parameter("weight", init::default_uniform({o.in_channels, width, o.kernel_size}, fan_in));
  bias_ = &parameter("bias", o.bias ? init::default_uniform({o.out_channels}, fan_in) : Tensor());
}

Tensor ConvTranspose1d::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() == 3 && x.size(1) == o.in_channels, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [B, ", o.in_channels, ", L]");
  return conv_transpose1d(x, *weight_, *bias_, o.stride, o.padding, o.output_padding, o.groups,
                          o.dilation);
}

}  // namespace dropin
