// SMPConv1d and SMPConv2d: kernels of any size from a few weighted points that move.
#pragma once
#include <optional>

#include "dropin/convolution/conv.h"

namespace dropin {

struct SMPConv1dOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  NumberOrName horizon = "same";
  int64_t max_length = 0, n_points = 36;
  double radius = 0.002, coord_std = 0.1;
  bool bias = true;
  std::optional<bool> use_fft = std::nullopt;
  double min_radius = 1e-4;
  static void fields(auto&& f) {
    using O = SMPConv1dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("horizon", &O::horizon, "taps: \"same\" (as long as the input), \"full\" (2 L - 1) or odd");
    f("max_length", &O::max_length,
      "length that same and full mean; 0: that of the first input, kept in train_length");
    f("n_points", &O::n_points, "P, points per output channel");
    f("radius", &O::radius, "initial radius of a point");
    f("coord_std", &O::coord_std, "spread of the initial points");
    f("bias", &O::bias, "adds a learnable bias");
    f("use_fft", &O::use_fft, "by transforms or directly; null: by the number of taps");
    f("min_radius", &O::min_radius, "least radius");
  }
};

/// A causal convolution with K[o, c](x) = sum_i w[o, c, i] g_i(x) / #{g_i(x) != 0}, g_i a triangle
/// around point i of output o, at x = -1 ... 1 (Kim & Park 2023, section 3): parameters do not grow
/// with the kernel. x [B, I, L] -> y [B, O, L]. Replaces a long Conv1d. Parameters weight_coord
/// [O, P, 1], radius [O, P, 1], weights [O, I, P], bias [O]; buffer train_length [1] int32 where
/// max_length = 0. A point that covers no tap gets no gradient; radii are best trained at a tenth
/// of the learning rate, without decay.
class SMPConv1d : public Component<SMPConv1d, SMPConv1dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "a long causal convolution from points that move";
  static constexpr const char* kReplaces = "Conv1d";
  static constexpr const char* kPaper = "Kim & Park 2023 (SMPConv), arXiv 2304.02330";
  static constexpr const char* kCall = "x [B, C, L] -> y [B, C', L]";
  static constexpr const char* kSample = R"({"n_points": 5, "radius": 0.3, "max_length": 8})";
  static std::vector<std::string> examples();
  static Sample sample(const Options& o, const SampleSpec& s);
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit SMPConv1d(const SMPConv1dOptions& o);
  Tensor forward(const Tensor& x) override;
  /// The kernel [O, I, taps].
  Tensor kernel(int64_t taps) const;
  /// Taps for an input of `length`.
  int64_t taps(int64_t length) const;
  /// After an optimizer's step: radii back into [min_radius, 1].
  void clip_radius();
  /// Points that cover no tap, for an input of `length`.
  int64_t dead_points(int64_t length) const;
  /// A Conv1d with the kernel as it is for an input of `length`: its first L outputs.
  Box<Conv1d> fuse(int64_t length) const;

 private:
  Tensor bumps(int64_t taps) const;
  Tensor *coord_, *radius_, *weights_, *bias_, *length_ = nullptr;
};

struct SMPConv2dOptions {
  int64_t in_channels = 0, out_channels = 0, kernel_size = 0;  ///< required
  int64_t n_points = 0;
  std::optional<double> radius = std::nullopt;
  double coord_std = 0.2;
  std::optional<bool> bias = std::nullopt;
  bool depthwise = true;
  std::optional<bool> average = std::nullopt;
  std::optional<double> min_radius = std::nullopt;
  static void fields(auto&& f) {
    using O = SMPConv2dOptions;
    f("in_channels", &O::in_channels, "channels of the input; required");
    f("out_channels", &O::out_channels, "channels of the output; required");
    f("kernel_size", &O::kernel_size, "side of the kernel: odd; required");
    f("n_points", &O::n_points, "P, points; 0: a quarter of the kernel's places");
    f("radius", &O::radius, "initial radius of a point; null: 4 / kernel_size");
    f("coord_std", &O::coord_std, "spread of the initial points");
    f("bias", &O::bias, "adds a learnable bias; null: unless depthwise");
    f("depthwise", &O::depthwise, "one set of points for all channels, which do not mix");
    f("average", &O::average,
      "divides by the number of points that cover a place; null: unless "
      "depthwise");
    f("min_radius", &O::min_radius, "least radius; null: 1e-3 if depthwise, else 1e-4");
  }
};

/// The same in two dimensions, with pyramids over diamonds: x [B, I, H, W] -> y [B, O, H, W] at
/// stride 1. The first coordinate points right, the second up. Replaces DepthwiseConv2d with large
/// kernels. Parameters weight_coord [O or 1, P, 2], radius [O or 1, P, 1, 1], weights [O, I, P] or
/// [1, C, P], bias [O].
class SMPConv2d : public Component<SMPConv2d, SMPConv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "a large convolution from points that move";
  static constexpr const char* kReplaces = "DepthwiseConv2d";
  static constexpr const char* kPaper = SMPConv1d::kPaper;
  static constexpr const char* kSample = R"({"kernel_size": 5, "radius": 0.6})";
  static std::vector<std::string> examples();
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit SMPConv2d(const SMPConv2dOptions& o);
  Tensor forward(const Tensor& x) override;
  /// The kernel [O, I, k, k], depthwise [C, 1, k, k].
  Tensor kernel() const;
  /// After an optimizer's step: radii back into [min_radius, 1].
  void clip_radius();
  /// Points that cover no place.
  int64_t dead_points() const;
  /// A Conv2d with the kernel as it is.
  Box<Conv2d> fuse() const;

 private:
  Tensor bumps() const;
  double least_radius() const {
    return options_.min_radius.value_or(options_.depthwise ? 1e-3 : 1e-4);
  }
  Tensor *coord_, *radius_, *weights_, *bias_;
};

}  // namespace dropin
