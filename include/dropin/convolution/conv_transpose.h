// Transposed convolutions, PyTorch's names and semantics.
#pragma once
#include "dropin/convolution/contract.h"
#include "dropin/module/init.h"

namespace dropin {

struct ConvTranspose2dOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  Size2 kernel_size = 0;                      ///< required
  Size2 stride = 1;
  Size2 padding = 0;
  Size2 output_padding = 0;
  int64_t groups = 1;
  bool bias = true;
  Size2 dilation = 1;
  static void fields(auto&& f) {
    using O = ConvTranspose2dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "step between the windows that inputs write to");
    f("padding", &O::padding, "cells taken off each side of the output");
    f("output_padding", &O::output_padding,
      "cells added to the output's end; less than stride or dilation");
    f("groups", &O::groups, "groups of channels that do not mix");
    f("bias", &O::bias, "adds a learnable bias");
    f("dilation", &O::dilation, "step within a window");
  }
};

namespace detail {
/// OptionError naming `who` for options that no transposed convolution has.
void check_conv_transpose(std::string_view who, const ConvTranspose2dOptions& o);
}  // namespace detail

/// The transpose of Conv2d's map: each input cell adds its multiple of the kernel to a window of
/// the output. x [B, C, H, W] -> [B, O, (H - 1) stride - 2 padding + dilation (kh - 1) +
/// output_padding + 1, W']; weight [C, O/groups, kh, kw]. torch.nn.ConvTranspose2d.
class ConvTranspose2d : public Component<ConvTranspose2d, ConvTranspose2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "transposed two-dimensional convolution";
  static std::vector<std::string> examples() {
    return {R"({"stride": 2, "output_padding": 1})",
            R"({"stride": [2, 1], "groups": 2, "dilation": [1, 2], "bias": false})"};
  }
  /// Each weight meets each input position.
  static Work work(const Workload& w);
  explicit ConvTranspose2d(const ConvTranspose2dOptions& o);
  Tensor forward(const Tensor& x) override;

 private:
  ConvTransposeParams params_;
  Tensor *weight_, *bias_;
};

struct ConvTranspose1dOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  int64_t kernel_size = 0;                    ///< required
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t output_padding = 0;
  int64_t groups = 1;
  bool bias = true;
  int64_t dilation = 1;
  static void fields(auto&& f) {
    using O = ConvTranspose1dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "step between the windows that inputs write to");
    f("padding", &O::padding, "cells taken off each side of the output");
    f("output_padding", &O::output_padding,
      "cells added to the output's end; less than stride or dilation");
    f("groups", &O::groups, "groups of channels that do not mix");
    f("bias", &O::bias, "adds a learnable bias");
    f("dilation", &O::dilation, "step within a window");
  }
};
/// The transpose of Conv1d's map. x [B, C, L] -> [B, O, (L - 1) stride - 2 padding + dilation (k -
/// 1)
/// + output_padding + 1]; weight [C, O/groups, k]. torch.nn.ConvTranspose1d.
class ConvTranspose1d : public Component<ConvTranspose1d, ConvTranspose1dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "transposed one-dimensional convolution";
  static constexpr const char* kCall = "x [B, C, L] -> y [B, C', L']";
  static std::vector<std::string> examples() {
    return {R"({"stride": 3, "output_padding": 2})",
            R"({"dilation": 2, "output_padding": 1, "bias": false})"};
  }
  static Sample sample(const Options& o, const SampleSpec& s) {
    const PictureSize& p = picture_size(s.size);
    return sample_signals(s, o.in_channels, p.side * p.side);
  }
  static Work work(const Workload& w) { return ConvTranspose2d::work(w); }
  explicit ConvTranspose1d(const ConvTranspose1dOptions& o);
  Tensor forward(const Tensor& x) override;

 private:
  Tensor *weight_, *bias_;
};

}  // namespace dropin
