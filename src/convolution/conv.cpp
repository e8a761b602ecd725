#include "dropin/convolution/conv.h"

#include "dropin/convolution/pool.h"

namespace dropin {

namespace detail {

void check_conv(std::string_view who, const Conv2dOptions& o) {
  DROPIN_CHECK(o.in_channels > 0 && o.out_channels > 0, OptionError, who, ": in_channels ",
               o.in_channels, " and out_channels ", o.out_channels, " must be positive");
  DROPIN_CHECK(o.kernel_size.h > 0 && o.kernel_size.w > 0, OptionError, who, ": kernel_size is ",
               o.kernel_size.h, " x ", o.kernel_size.w, ", expected positive sizes");
  DROPIN_CHECK(o.stride.h > 0 && o.stride.w > 0, OptionError, who, ": stride is ", o.stride.h,
               " x ", o.stride.w, ", expected positive steps");
  DROPIN_CHECK(o.dilation.h > 0 && o.dilation.w > 0, OptionError, who, ": dilation is ",
               o.dilation.h, " x ", o.dilation.w, ", expected positive steps");
  DROPIN_CHECK(o.padding.size.h >= 0 && o.padding.size.w >= 0, OptionError, who,
               ": padding is negative");
  DROPIN_CHECK(o.groups > 0 && o.in_channels % o.groups == 0 && o.out_channels % o.groups == 0,
               OptionError, who, ": in_channels ", o.in_channels, " and out_channels ",
               o.out_channels, " are not divisible by groups ", o.groups);
  DROPIN_CHECK(o.padding.mode.empty() || o.padding.mode == "same" || o.padding.mode == "tf_same",
               OptionError, who, ": padding is \"", o.padding.mode,
               "\", expected a size, same or tf_same");
  DROPIN_CHECK(o.padding.mode != "same" || (o.stride.h == 1 && o.stride.w == 1), OptionError, who,
               ": padding \"same\" needs stride 1; use \"tf_same\" for a stride of ", o.stride.h,
               " x ", o.stride.w);
}

ConvParams conv_params(const Conv2dOptions& o, int64_t h, int64_t w) {
  ConvParams p{.stride = o.stride.pair(),
               .pad_begin = o.padding.size.pair(),
               .pad_end = o.padding.size.pair(),
               .dilation = o.dilation.pair(),
               .groups = o.groups};
  if (o.padding.mode.empty()) return p;
  const bool tf = o.padding.mode == "tf_same";
  const Pair a = tf ? tf_same_padding(h, o.kernel_size.h, o.stride.h, o.dilation.h)
                    : same_padding(o.kernel_size.h, o.dilation.h);
  const Pair b = tf ? tf_same_padding(w, o.kernel_size.w, o.stride.w, o.dilation.w)
                    : same_padding(o.kernel_size.w, o.dilation.w);
  p.pad_begin = {a[0], b[0]};
  p.pad_end = {a[1], b[1]};
  return p;
}

}  // namespace detail

Conv1d::Conv1d(const Conv1dOptions& o) : Component(o) {
  auto one = [](const char* name, const OneOrMany& v) {
    if (v.values.size() != 1)
      fail<OptionError>({who(), ": option ", name, " is ", detail::field_to_json(v).dump(),
                         ", expected one number"});
    return v.values[0];
  };
  const int64_t kernel = one("kernel_size", o.kernel_size), stride = one("stride", o.stride),
                dilation = one("dilation", o.dilation);
  Padding padding;
  const bool listed = o.padding.is_array() && o.padding.size() == 1;
  if (!detail::field_from_json(listed ? o.padding[0] : o.padding, padding) ||
      (o.padding.is_array() && !listed))
    fail<OptionError>(
        {who(), ": option padding is ", o.padding.dump(), ", expected int or \"same\""});
  if (padding.mode.empty()) padding.size = Size2(0, padding.size.w);
  conv_ = {.in_channels = o.in_channels,
           .out_channels = o.out_channels,
           .kernel_size = Size2(1, kernel),
           .stride = Size2(1, stride),
           .padding = padding,
           .dilation = Size2(1, dilation),
           .groups = o.groups,
           .bias = o.bias};
  detail::check_conv(who(), conv_);
  const int64_t fan_in = o.in_channels / o.groups * kernel;
  weight_ = &parameter(
      "weight", init::default_uniform({o.out_channels, o.in_channels / o.groups, kernel}, fan_in));
  bias_ = &parameter("bias", o.bias ? init::default_uniform({o.out_channels}, fan_in) : Tensor());
}

Tensor Conv1d::forward(const Tensor& x) {
  DROPIN_CHECK(x.dim() == 3 && x.size(1) == options_.in_channels, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [B, ", options_.in_channels, ", L]");
  const ConvParams p = detail::conv_params(conv_, 1, x.size(2));
  return conv1d(x, *weight_, *bias_, p.stride[1], p.pad_begin[1], p.pad_end[1], p.dilation[1],
                p.groups);
}

namespace {
void check_pool(std::string_view who, const Size2& kernel, const Size2& stride,
                const Size2& padding) {
  DROPIN_CHECK(kernel.h > 0 && kernel.w > 0, OptionError, who, ": kernel_size is ", kernel.h, " x ",
               kernel.w, ", expected positive sizes");
  DROPIN_CHECK(stride.h > 0 && stride.w > 0, OptionError, who, ": stride is ", stride.h, " x ",
               stride.w, ", expected positive steps");
  DROPIN_CHECK(
      padding.h >= 0 && padding.w >= 0 && padding.h <= kernel.h / 2 && padding.w <= kernel.w / 2,
      OptionError, who, ": padding ", padding.h, " x ", padding.w,
      " is not between 0 and half of the kernel size ", kernel.h, " x ", kernel.w);
}
}  // namespace

MaxPool2d::MaxPool2d(const MaxPool2dOptions& o) : Component(o) {
  const Size2 stride = o.stride.value_or(o.kernel_size);
  check_pool(who(), o.kernel_size, stride, o.padding);
  DROPIN_CHECK(o.dilation.h > 0 && o.dilation.w > 0, OptionError, who(),
               ": dilation must be positive");
  params_ = {.kernel = o.kernel_size.pair(),
             .stride = stride.pair(),
             .padding = o.padding.pair(),
             .dilation = o.dilation.pair(),
             .ceil_mode = o.ceil_mode};
}

AvgPool2d::AvgPool2d(const AvgPool2dOptions& o) : Component(o) {
  const Size2 stride = o.stride.value_or(o.kernel_size);
  check_pool(who(), o.kernel_size, stride, o.padding);
  params_ = {.kernel = o.kernel_size.pair(),
             .stride = stride.pair(),
             .padding = o.padding.pair(),
             .ceil_mode = o.ceil_mode,
             .count_include_pad = o.count_include_pad,
             .divisor_override = o.divisor_override};
}

}  // namespace dropin
