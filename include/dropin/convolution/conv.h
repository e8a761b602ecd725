// Convolution layers, PyTorch's names and semantics.
#pragma once
#include "dropin/convolution/contract.h"
#include "dropin/module/init.h"

namespace dropin {

struct Conv2dOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  Size2 kernel_size = 0;                      ///< required
  Size2 stride = 1;
  Padding padding = 0;
  Size2 dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  static void fields(auto&& f) {
    using O = Conv2dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding,
      "zeros on each side, \"same\" (stride 1) or \"tf_same\" (any stride, the odd cell on the "
      "right)");
    f("dilation", &O::dilation, "step within a window");
    f("groups", &O::groups, "groups of channels that do not mix");
    f("bias", &O::bias, "adds a learnable bias");
  }
};

namespace detail {
/// Checks convolution options and turns padding into numbers for an input of h x w.
void check_conv(std::string_view who, const Conv2dOptions& o);
ConvParams conv_params(const Conv2dOptions& o, int64_t h, int64_t w);
}  // namespace detail

/// y[b, o, i, j] = bias[o] + sum_{c, u, v} weight[o, c, u, v] x[b, c, i stride + u dilation -
/// padding, j stride + v dilation - padding], c over o's group. x [B, C, H, W], weight [O,
/// C/groups, kh, kw]. torch.nn.Conv2d.
class Conv2d : public Component<Conv2d, Conv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "two-dimensional convolution";
  explicit Conv2d(const Conv2dOptions& o) : Component(o) {
    detail::check_conv(who(), o);
    const int64_t fan_in = o.in_channels / o.groups * o.kernel_size.h * o.kernel_size.w;
    weight_ = &parameter("weight", init::default_uniform({o.out_channels, o.in_channels / o.groups,
                                                          o.kernel_size.h, o.kernel_size.w},
                                                         fan_in));
    bias_ = &parameter("bias", o.bias ? init::default_uniform({o.out_channels}, fan_in) : Tensor());
  }
  Tensor forward(const Tensor& x) override {
    DROPIN_CHECK(x.dim() == 4 && x.size(1) == options_.in_channels, ShapeError, who(), ": x is ",
                 x.sizes(), ", expected [B, ", options_.in_channels, ", H, W]");
    return conv2d(x, *weight_, *bias_, detail::conv_params(options_, x.size(2), x.size(3)));
  }

 private:
  Tensor *weight_, *bias_;
};

struct DepthwiseConv2dOptions {
  int64_t channels = 0;   ///< required
  Size2 kernel_size = 0;  ///< required
  int64_t multiplier = 1;
  Size2 stride = 1;
  Padding padding = 0;
  Size2 dilation = 1;
  bool bias = true;
  static void fields(auto&& f) {
    using O = DepthwiseConv2dOptions;
    f("channels", &O::channels, "channels of the input; required");
    f("kernel_size", &O::kernel_size, "required");
    f("multiplier", &O::multiplier, "output channels per input channel");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding, "zeros on each side, \"same\" or \"tf_same\"");
    f("dilation", &O::dilation, "step within a window");
    f("bias", &O::bias, "adds a learnable bias");
  }
};
/// One filter (or `multiplier` of them) per channel: Conv2d with groups = channels, y[b, c, i, j] =
/// bias[c] + sum_{u, v} weight[c, 0, u, v] x[b, c, i + u, j + v]. x [B, C, H, W], weight [C *
/// multiplier, 1, kh, kw].
class DepthwiseConv2d : public Component<DepthwiseConv2d, DepthwiseConv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "one convolution filter per channel";
  explicit DepthwiseConv2d(const DepthwiseConv2dOptions& o) : Component(o) {
    DROPIN_CHECK(o.channels > 0 && o.multiplier > 0, OptionError, who(), ": channels ", o.channels,
                 " and multiplier ", o.multiplier, " must be positive");
    conv_ = {.in_channels = o.channels,
             .out_channels = o.channels * o.multiplier,
             .kernel_size = o.kernel_size,
             .stride = o.stride,
             .padding = o.padding,
             .dilation = o.dilation,
             .groups = o.channels,
             .bias = o.bias};
    detail::check_conv(who(), conv_);
    const int64_t fan_in = o.kernel_size.h * o.kernel_size.w;
    weight_ = &parameter(
        "weight",
        init::default_uniform({conv_.out_channels, 1, o.kernel_size.h, o.kernel_size.w}, fan_in));
    bias_ =
        &parameter("bias", o.bias ? init::default_uniform({conv_.out_channels}, fan_in) : Tensor());
  }
  Tensor forward(const Tensor& x) override {
    DROPIN_CHECK(x.dim() == 4 && x.size(1) == options_.channels, ShapeError, who(), ": x is ",
                 x.sizes(), ", expected [B, ", options_.channels, ", H, W]");
    return conv2d(x, *weight_, *bias_, detail::conv_params(conv_, x.size(2), x.size(3)));
  }

 private:
  Conv2dOptions conv_;
  Tensor *weight_, *bias_;
};

/// A depthwise convolution and a 1x1 that mixes channels (Chollet 2017), y =
/// pointwise(depthwise(x)), with Conv2d's options. Replaces Conv2d at about 1/O + 1/k^2 of its
/// work. Parameters depthwise.weight [C, 1, kh, kw], pointwise.weight [O, C, 1, 1], pointwise.bias.
class SeparableConv2d : public Component<SeparableConv2d, Conv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "a depthwise convolution, then a 1x1";
  static constexpr const char* kReplaces = "Conv2d";
  static constexpr const char* kPaper = "Chollet 2017, arXiv 1610.02357";
  explicit SeparableConv2d(const Conv2dOptions& o) : Component(o) {
    detail::check_conv(who(), o);
    DROPIN_CHECK(o.groups == 1, OptionError, who(), ": groups is ", o.groups,
                 ", expected 1: the depthwise part has a group per channel already");
    depthwise_ = child<DepthwiseConv2d>("depthwise", {.channels = o.in_channels,
                                                      .kernel_size = o.kernel_size,
                                                      .stride = o.stride,
                                                      .padding = o.padding,
                                                      .dilation = o.dilation,
                                                      .bias = false});
    pointwise_ = child<Conv2d>("pointwise", {.in_channels = o.in_channels,
                                             .out_channels = o.out_channels,
                                             .kernel_size = 1,
                                             .bias = o.bias});
  }
  Tensor forward(const Tensor& x) override {
    DROPIN_CHECK(x.dim() == 4 && x.size(1) == options_.in_channels, ShapeError, who(), ": x is ",
                 x.sizes(), ", expected [B, ", options_.in_channels, ", H, W]");
    return pointwise_(depthwise_(x));
  }

 private:
  Child<DepthwiseConv2d> depthwise_;
  Child<Conv2d> pointwise_;
};

struct Conv1dOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  OneOrMany kernel_size = 0;                  ///< required; one number, as the others
  OneOrMany stride = 1;
  Json padding = Json(0);
  OneOrMany dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  static void fields(auto&& f) {
    using O = Conv1dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding, "zeros on each side, or \"same\" (stride 1)");
    f("dilation", &O::dilation, "step within a window");
    f("groups", &O::groups, "groups of channels that do not mix");
    f("bias", &O::bias, "adds a learnable bias");
  }
};
/// y[b, o, t] = bias[o] + sum_{c, u} weight[o, c, u] x[b, c, t stride + u dilation - padding], c
/// over o's group. x [B, C, L], weight [O, C/groups, k]. torch.nn.Conv1d.
class Conv1d : public Component<Conv1d, Conv1dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "one-dimensional convolution";
  static constexpr const char* kCall = "x [B, C, L] -> y [B, C', L']";
  static Sample sample(const Options& o, const SampleSpec& s) {
    const PictureSize& p = picture_size(s.size);
    return sample_signals(s, o.in_channels, p.side * p.side);
  }
  explicit Conv1d(const Conv1dOptions& o);
  Tensor forward(const Tensor& x) override;

 private:
  Conv2dOptions conv_;
  Tensor *weight_, *bias_;
};

}  // namespace dropin
