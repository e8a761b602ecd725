// Deformable convolutions: every output samples the image where learned offsets say.
#pragma once
#include "dropin/convolution/conv.h"

namespace dropin {

struct DeformConv2dOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  Size2 kernel_size = 0;                      ///< required
  Size2 stride = 1, padding = 0, dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  static void fields(auto&& f) {
    using O = DeformConv2dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding, "zeros on each side");
    f("dilation", &O::dilation, "step within a window");
    f("groups", &O::groups, "groups of channels that do not mix");
    f("bias", &O::bias, "adds a learnable bias");
  }
};
/// Deformable convolution, v1 (Dai et al. 2017) and with a mask v2 (Zhu et al. 2018): Conv2d whose
/// taps move by given offsets. Replaces Conv2d; torchvision.ops.DeformConv2d. x [B, C, H, W],
/// offset [B, 2 G K, H', W'] (dy, dx per tap), mask [B, G K, H', W'] or none -> [B, O, H', W']; the
/// number G of offset groups is the offset's. Called with x alone, all offsets are 0: Conv2d.
/// Parameters weight [O, C/groups, kh, kw], bias [O]. Errors as deform_conv2d (ops/deform_conv.h).
class DeformConv2d : public Component<DeformConv2d, DeformConv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "convolution whose taps move by given offsets";
  static constexpr const char* kReplaces = "Conv2d";
  static constexpr const char* kPaper = "Zhu et al. 2018, arXiv 1811.11168";
  explicit DeformConv2d(const DeformConv2dOptions& o);
  Tensor forward(const Tensor& x) override;
  Tensor forward(const Tensor& x, const Tensor& offset, const Tensor& mask = {});
  Tensor operator()(const Tensor& x, const Tensor& offset, const Tensor& mask = {}) {
    return with_hooks(x, [&](const Tensor& in) { return forward(in, offset, mask); });
  }
  NamedTensors call(const NamedTensors& in) override;

 private:
  void check(const Tensor& x) const;
  Tensor *weight_, *bias_;
};

struct ModulatedDeformConv2dOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  Size2 kernel_size = 0;                      ///< required
  Size2 stride = 1, padding = 0, dilation = 1;
  int64_t deformable_groups = 1;
  static void fields(auto&& f) {
    using O = ModulatedDeformConv2dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding, "zeros on each side");
    f("dilation", &O::dilation, "step within a window, of the offsets' convolution too");
    f("deformable_groups", &O::deformable_groups, "groups of channels with offsets of their own");
  }
};
/// Deformable convolution v2 (Zhu et al. 2018) that predicts its own offsets and sigmoid masks by a
/// convolution, "DCN" of YOLACT++. Starts as Conv2d / 2 + bias. Replaces Conv2d. Parameters weight
/// [O, C, kh, kw], bias [O], conv_offset_mask.weight [3 G K, C, kh, kw] and .bias: offsets (dy, dx
/// per tap), then masks. conv_offset (mmcv) is accepted.
class ModulatedDeformConv2d
    : public Component<ModulatedDeformConv2d, ModulatedDeformConv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary =
      "deformable convolution that predicts its offsets and masks";
  static constexpr const char* kReplaces = "Conv2d";
  static constexpr const char* kPaper = "Zhu et al. 2018, arXiv 1811.11168";
  static std::vector<std::string> examples();
  explicit ModulatedDeformConv2d(const ModulatedDeformConv2dOptions& o);
  Tensor forward(const Tensor& x) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  Tensor *weight_, *bias_;
  Child<Conv2d> conv_offset_mask_;
};

}  // namespace dropin
