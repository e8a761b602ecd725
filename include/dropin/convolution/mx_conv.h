// Convolution with operands in microscaling formats.
#pragma once
#include "dropin/convolution/conv.h"
#include "dropin/number_format/mx_layer.h"

namespace dropin {

struct MXConv2dOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  Size2 kernel_size = 0;                      ///< required
  Size2 stride = 1;
  Padding padding = 0;
  Size2 dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  DROPIN_MX_LAYER_OPTIONS;
  static void fields(auto&& f) {
    using O = MXConv2dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding,
      "zeros on each side, \"same\" (stride 1) or \"tf_same\" (any stride, the odd cell on the "
      "right)");
    f("dilation", &O::dilation, "step within a window");
    f("groups", &O::groups, "groups of channels that do not mix");
    f("bias", &O::bias, "adds a learnable bias, which is not quantized");
    detail::mx_layer_fields<O>(f);
  }
  Conv2dOptions conv() const {
    return {in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias};
  }
};
/// Conv2d with operands in MX formats, y = conv(Q(x), Q(W)) + b: blocks along the channels in
/// forward, along the batch for the weight's gradient. Parameters as Conv2d. Replaces Conv2d.
class MXConv2d : public Component<MXConv2d, MXConv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "a Conv2d with operands in microscaling formats";
  static constexpr const char* kReplaces = "Conv2d";
  static constexpr const char* kPaper = "Rouhani et al. 2023, arXiv 2310.10537";
  static std::vector<std::string> examples();
  static void traits(const MXConv2dOptions&, Traits& t) { t.surrogate_gradient = true; }
  explicit MXConv2d(const MXConv2dOptions& o);
  Tensor forward(const Tensor& x) override;
  /// As MXLinear::freeze.
  void freeze();
  bool frozen() const { return stored_.frozen(); }

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  Shape weight_sizes() const;
  Conv2dOptions conv_;
  MXProductParams params_;
  Tensor *weight_, *bias_;
  detail::FrozenWeight stored_;
};

}  // namespace dropin
