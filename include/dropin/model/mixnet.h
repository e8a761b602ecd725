// MixNet: a mobile network of mixed depthwise convolutions.
#pragma once
#include "dropin/convolution/mix_conv.h"
#include "dropin/model/contract.h"
#include "dropin/module/sequential.h"
#include "dropin/norm/norm.h"
#include "dropin/projection/linear.h"

namespace dropin {

/// A gate per channel from the mean of each: sigmoid(expand(act(reduce(mean)))) (Hu et al. 2018).
/// Parameters conv_reduce, conv_expand.
struct SqueezeExciteOptions {
  int64_t channels = 0, reduced = 0;  ///< required
  std::string act = "relu";
  static void fields(auto&& f) {
    using O = SqueezeExciteOptions;
    f("channels", &O::channels, "channels of the input; required");
    f("reduced", &O::reduced, "channels in between; required");
    f("act", &O::act, "activation in between: \"relu\" or \"swish\"");
  }
};
class SqueezeExcite : public Component<SqueezeExcite, SqueezeExciteOptions, ImageMixer> {
 public:
  explicit SqueezeExcite(const SqueezeExciteOptions& o);
  Tensor forward(const Tensor& x) override;

 private:
  Child<Conv2d> conv_reduce_, conv_expand_;
};

struct MixNetBlockOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  int64_t expand_ratio = 1;
  std::vector<int64_t> expand_kernel_size{1}, dw_kernel_size{3}, project_kernel_size{1};
  int64_t stride = 1;
  double se_ratio = 0;
  std::string act = "relu", padding = "same";
  bool noskip = false;
  double bn_eps = 1e-3, bn_momentum = 0.01;
  static void fields(auto&& f) {
    using O = MixNetBlockOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("expand_ratio", &O::expand_ratio, "channels inside over in_channels; 1: no expansion");
    f("expand_kernel_size", &O::expand_kernel_size,
      "kernels of the expansion, one per group of channels");
    f("dw_kernel_size", &O::dw_kernel_size,
      "kernels of the depthwise convolution, one per group of channels");
    f("project_kernel_size", &O::project_kernel_size,
      "kernels of the projection, one per group of channels");
    f("stride", &O::stride, "of the depthwise convolution");
    f("se_ratio", &O::se_ratio, "channels of the squeeze over in_channels; 0: none");
    f("act", &O::act, "\"relu\" or \"swish\"");
    f("padding", &O::padding, "of the convolutions: \"same\" or \"symmetric\"");
    f("noskip", &O::noskip, "no sum with the input");
    f("bn_eps", &O::bn_eps, "eps of the batch norms");
    f("bn_momentum", &O::bn_momentum, "momentum of the batch norms (PyTorch's sense)");
  }
};
/// Inverted residual block of MixNet (Tan & Le 2019, section 4): conv_pw, bn1, act; conv_dw
/// (mixed), bn2, act; se; conv_pwl, bn3; the sum with x when stride 1 and the channels allow. x [B,
/// C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]. With expand_ratio 1 there is no
/// conv_pw and bn1; the PyTorch port's names for such a block (conv_dw, bn1, conv_pw, bn2) are
/// accepted.
class MixNetBlock : public Component<MixNetBlock, MixNetBlockOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "inverted residual block with mixed depthwise kernels";
  static constexpr const char* kPaper = "Tan & Le 2019, arXiv 1907.09595";
  static std::vector<std::string> examples();
  explicit MixNetBlock(const MixNetBlockOptions& o);
  Tensor forward(const Tensor& x) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  Child<MixConv2d> conv_pw_, conv_dw_, conv_pwl_;
  Child<BatchNorm2d> bn1_, bn2_, bn3_;
  Child<SqueezeExcite> se_;
};

struct MixNetOptions {
  std::string variant = "s";
  int64_t num_classes = 1000;
  std::optional<double> dropout = std::nullopt;
  int64_t in_channels = 3;
  double width_multiplier = 0;
  static void fields(auto&& f) {
    using O = MixNetOptions;
    f("variant", &O::variant, "\"s\", \"m\" or \"l\"");
    f("num_classes", &O::num_classes, "classes");
    f("dropout", &O::dropout, "before the classifier; null: the paper's 0.2 (s) or 0.25 (m, l)");
    f("in_channels", &O::in_channels, "channels of the pictures");
    f("width_multiplier", &O::width_multiplier,
      "scales all widths but the head's, rounded to multiples of 8; 0: the variant's, 1 or 1.3 "
      "(l)");
  }
};
/// MixNet-S, -M and -L (Tan & Le 2019, figure 5): 4,134,606 parameters for S with 1000 classes.
/// Pictures [B, in_channels, H, W] (224 x 224 in the paper) -> logits [B, num_classes]. Parameters
/// conv_stem, bn1, blocks.<stage>.<index>, conv_head, bn2, classifier, as in the common PyTorch
/// port.
class MixNet : public Component<MixNet, MixNetOptions, Model> {
 public:
  static constexpr const char* kSummary = "image classifier of mixed depthwise kernels";
  static constexpr const char* kSample =
      R"({"in_channels": 1, "num_classes": 3, "width_multiplier": 0.1, "dropout": 0})";
  static Sample sample(const Options& o, const SampleSpec& s) {
    return sample_maps(s, o.in_channels, 33, 34);
  }
  static void traits(const Options&, Traits& t) { t.kinks_everywhere = t.mixes_batch = true; }
  static constexpr const char* kPaper = "Tan & Le 2019, arXiv 1907.09595";
  explicit MixNet(const MixNetOptions& o);
  Tensor forward(const Tensor& x) override;

 private:
  double dropout_;
  Child<MixConv2d> conv_stem_, conv_head_;
  Child<BatchNorm2d> bn1_, bn2_;
  Child<Linear> classifier_;
  Child<Sequential> stages_;
};

}  // namespace dropin
