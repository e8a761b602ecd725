// MixConv2d: several kernel sizes in one depthwise layer.
#pragma once
#include "dropin/convolution/conv.h"

namespace dropin {

struct MixConv2dOptions {
  int64_t in_channels = 0;  ///< required
  std::optional<int64_t> out_channels = std::nullopt;
  OneOrMany kernel_size = 3;
  int64_t stride = 1;
  std::string padding = "same", partition = "equal";
  bool dilated = false, depthwise = true, bias = false;
  static void fields(auto&& f) {
    using O = MixConv2dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels,
      "channels of the output; null: in_channels, the only choice when depthwise");
    f("kernel_size", &O::kernel_size, "one size per group of channels");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding,
      "\"same\" (TensorFlow: ceil(n / stride), the odd cell behind) or \"symmetric\" (d (k - 1) / "
      "2 on both sides, odd sizes)");
    f("partition", &O::partition,
      "channels per group: \"equal\" or \"exponential\" (each half of the one before); what is "
      "left over goes to the first");
    f("dilated", &O::dilated,
      "3x3 kernels with dilation (k - 1) / 2 instead of size k; stride 1 only");
    f("depthwise", &O::depthwise,
      "one filter per channel; otherwise a dense convolution within each group");
    f("bias", &O::bias, "adds a learnable bias");
  }
};
/// Mixed depthwise convolution (Tan & Le 2019, section 3): channels are cut into groups in order,
/// each with a kernel size of its own; outputs follow in the same order. Replaces DepthwiseConv2d.
/// x [B, C, H, W] -> [B, out, H', W']. Parameters <i>.weight [C_i, 1, k_i, k_i] (dense: [out_i,
/// in_i, k_i, k_i]) and <i>.bias; with one kernel weight and bias. All groups of a depthwise layer
/// run in one pass over the channels, without split or concat copies. swap() gives it, for a
/// DepthwiseConv2d or Conv2d with kernel k, the kernels k, k + 2, k + 4 as far as there are
/// channels, unless its options say otherwise.
class MixConv2d : public Component<MixConv2d, MixConv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "depthwise convolution with several kernel sizes";
  static constexpr const char* kReplaces = "DepthwiseConv2d";
  static constexpr const char* kPaper = "Tan & Le 2019, arXiv 1907.09595";
  static std::vector<std::string> examples();
  /// Options for taking the place of another component made with `options`.
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  /// The channels of each group; OptionError naming `who` when a group would be empty.
  static std::vector<int64_t> split(std::string_view who, int64_t channels, int64_t groups,
                                    std::string_view partition);
  explicit MixConv2d(const MixConv2dOptions& o);
  Tensor forward(const Tensor& x) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  struct Group {
    int64_t in, out, kernel, dilation;
    Tensor *weight, *bias;
  };
  std::vector<Group> groups_;
};

}  // namespace dropin
