// A small MobileNet-style ConvNet whose parts can be swapped by name.
#pragma once
#include "dropin/convolution/conv.h"
#include "dropin/model/contract.h"
#include "dropin/norm/norm.h"
#include "dropin/projection/linear.h"

namespace dropin {

struct ConvNetOptions {
  int64_t in_channels = 1;
  int64_t num_classes = 10;
  int64_t width = 32;
  int64_t num_blocks = 4;
  int64_t expand = 2;
  int64_t kernel_size = 3;
  static void fields(auto&& f) {
    using O = ConvNetOptions;
    f("in_channels", &O::in_channels, "channels of the pictures");
    f("num_classes", &O::num_classes, "classes");
    f("width", &O::width, "channels of the first block; doubled whenever the picture is halved");
    f("num_blocks", &O::num_blocks,
      "inverted residual blocks; every second one halves the picture");
    f("expand", &O::expand, "channels inside a block over those outside");
    f("kernel_size", &O::kernel_size, "of the depthwise convolutions, odd");
  }
};

struct InvertedResidualOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  int64_t stride = 1, expand = 2, kernel_size = 3;
  static void fields(auto&& f) {
    using O = InvertedResidualOptions;
    f("in_channels", &O::in_channels, "required");
    f("out_channels", &O::out_channels, "required");
    f("stride", &O::stride, "of the depthwise convolution");
    f("expand", &O::expand, "channels inside over those outside");
    f("kernel_size", &O::kernel_size, "of the depthwise convolution");
  }
};

/// 1x1 expansion, depthwise convolution, 1x1 projection, each with batch norm; the sum with x where
/// shapes allow (Sandler et al. 2018).
class InvertedResidual : public Component<InvertedResidual, InvertedResidualOptions, ImageMixer> {
 public:
  explicit InvertedResidual(const InvertedResidualOptions& o) : Component(o) {
    const int64_t inner = o.in_channels * o.expand;
    expand_ = child<Conv2d>(
        "expand",
        {.in_channels = o.in_channels, .out_channels = inner, .kernel_size = 1, .bias = false});
    norm1_ = child<BatchNorm2d>("norm1", {.num_features = inner});
    depthwise_ = child<DepthwiseConv2d>("depthwise", {.channels = inner,
                                                      .kernel_size = o.kernel_size,
                                                      .stride = o.stride,
                                                      .padding = (o.kernel_size - 1) / 2,
                                                      .bias = false});
    norm2_ = child<BatchNorm2d>("norm2", {.num_features = inner});
    project_ = child<Conv2d>(
        "project",
        {.in_channels = inner, .out_channels = o.out_channels, .kernel_size = 1, .bias = false});
    norm3_ = child<BatchNorm2d>("norm3", {.num_features = o.out_channels});
  }
  Tensor forward(const Tensor& x) override {
    const Tensor h = relu(norm2_(depthwise_(relu(norm1_(expand_(x))))));
    const Tensor y = norm3_(project_(h));
    return options_.stride == 1 && options_.in_channels == options_.out_channels ? x + y : y;
  }

 private:
  Child<Conv2d> expand_, project_;
  Child<DepthwiseConv2d> depthwise_;
  Child<BatchNorm2d> norm1_, norm2_, norm3_;
};

/// Pictures [B, C, H, W] -> logits [B, num_classes]: a 3x3 stem, inverted residual blocks, global
/// mean, linear.
class ConvNet : public Component<ConvNet, ConvNetOptions, Model> {
 public:
  static constexpr const char* kSummary = "MobileNet-style image classifier of swappable parts";
  static constexpr const char* kSample = R"({"in_channels": 1, "width": 4, "num_blocks": 2})";
  static void traits(const Options&, Traits& t) { t.mixes_batch = true; }
  explicit ConvNet(const ConvNetOptions& o) : Component(o) {
    DROPIN_CHECK(o.width > 0 && o.num_blocks > 0 && o.expand > 0 && o.kernel_size % 2 == 1,
                 OptionError, who(),
                 ": width, num_blocks and expand must be positive and kernel_size odd");
    stem_ = child<Conv2d>("stem", {.in_channels = o.in_channels,
                                   .out_channels = o.width,
                                   .kernel_size = 3,
                                   .padding = 1,
                                   .bias = false});
    norm_ = child<BatchNorm2d>("norm", {.num_features = o.width});
    int64_t c = o.width;
    for (int64_t i = 0; i < o.num_blocks; ++i) {
      const bool halve = i % 2 == 0;
      blocks_.push_back(
          child<InvertedResidual>("block" + std::to_string(i), {.in_channels = c,
                                                                .out_channels = halve ? 2 * c : c,
                                                                .stride = halve ? 2 : 1,
                                                                .expand = o.expand,
                                                                .kernel_size = o.kernel_size}));
      if (halve) c *= 2;
    }
    head_ = child<Linear>("head", {.in_features = c, .out_features = o.num_classes});
  }
  Tensor forward(const Tensor& x) {
    Tensor h = relu(norm_(stem_(x)));
    for (auto& b : blocks_) h = relu(b(h));
    return head_(mean(h, {2, 3}));
  }

 private:
  Child<Conv2d> stem_;
  Child<BatchNorm2d> norm_;
  std::vector<Child<InvertedResidual>> blocks_;
  Child<Linear> head_;
};

}  // namespace dropin
