// TunableConv2d: kernels mixed by a vector that a user turns.
#pragma once
#include "dropin/convolution/conv.h"
#include "dropin/projection/tunable.h"

namespace dropin {

struct TunableConv2dOptions {
  int64_t in_channels = 0, out_channels = 0, kernel_size = 0;  ///< required
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
  bool bias = false;
  int64_t num_params = 1, expand_params = 1;
  std::string mode = "mlp", init = "official";
  static void fields(auto&& f) {
    using O = TunableConv2dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "side of the square kernel; required");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding, "zeros on each side");
    f("dilation", &O::dilation, "step within a window");
    f("groups", &O::groups, "groups of channels that do not mix");
    f("bias", &O::bias, "adds learnable biases (Conv2d's default is true)");
    f("num_params", &O::num_params, "P, numbers that a user turns");
    f("expand_params", &O::expand_params, "E, kernels per parameter");
    f("mode", &O::mode, "weights of the kernels: mlp (a linear map of params) or linear (params)");
    f("init", &O::init, "official: within 1 / sqrt(P E O C/g k^2); conv: within 1 / sqrt(C/g k^2)");
  }
};

/// A Conv2d of P E kernels, mixed for each sample by a linear map of its parameters (Maggioni et
/// al. 2023): one network between several objectives. x [B, C, H, W], params [B, P] -> y [B, O, H',
/// W']. Weights are not normalized; parameters may leave [0, 1]. Parameters weight [1, P E, O, C/g,
/// k, k], bias [1, P E, O], mlp.weight [P E, P], mlp.bias [P E].
class TunableConv2d : public Component<TunableConv2d, TunableConv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "a Conv2d that a vector of parameters steers";
  static constexpr const char* kReplaces = "Conv2d";
  static constexpr const char* kPaper = TunableLinear::kPaper;
  static constexpr const char* kCall = "x [B, C, H, W], params [B, P] -> y [B, C', H', W']";
  static std::vector<std::string> examples();
  static Sample sample(const Options& o, const SampleSpec& s);
  explicit TunableConv2d(const TunableConv2dOptions& o);
  using ImageMixer::operator();
  Tensor operator()(const Tensor& x, const Tensor& params) {
    return with_hooks(x, [&](const Tensor& in) { return forward(in, params); });
  }
  /// With the parameters set, or of 1 where P = 1.
  Tensor forward(const Tensor& x) override { return forward(x, Tensor()); }
  Tensor forward(const Tensor& x, const Tensor& params);
  NamedTensors call(const NamedTensors& in) override;
  /// What calls without params take: [P] or [B, P]; undefined: none.
  void set_params(const Tensor& omega);
  /// A plain Conv2d that does what this one does for omega [P].
  Box<Conv2d> fuse(const Tensor& omega) const;

 private:
  struct Mixture {
    Tensor weight, bias;  ///< [B, O, C/g, k, k], [B, O] or undefined
  };
  Mixture mixture(const Tensor& omega) const;
  Conv2dOptions conv_;
  Tensor *weight_, *bias_, *mlp_weight_ = nullptr, *mlp_bias_ = nullptr;
  Tensor kept_;
};

}  // namespace dropin
