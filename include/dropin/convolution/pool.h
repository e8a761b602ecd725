// Pooling layers, PyTorch's names and semantics.
#pragma once
#include "dropin/core/options.h"
#include "dropin/module/unary.h"

namespace dropin {

struct MaxPool2dOptions {
  Size2 kernel_size = 0;  ///< required
  std::optional<Size2> stride = std::nullopt;
  Size2 padding = 0;
  Size2 dilation = 1;
  bool ceil_mode = false;
  static void fields(auto&& f) {
    using O = MaxPool2dOptions;
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "null: the kernel size");
    f("padding", &O::padding, "cells of -inf on each side, at most half the kernel");
    f("dilation", &O::dilation, "step within a window");
    f("ceil_mode", &O::ceil_mode, "keeps a last, partial window");
  }
};
/// y[b, c, i, j] = max over u, v of x[b, c, i stride + u, j stride + v], x [B, C, H, W].
/// torch.nn.MaxPool2d.
class MaxPool2d : public Component<MaxPool2d, MaxPool2dOptions, Layer> {
 public:
  static constexpr const char* kSummary = "greatest value of each window";
  explicit MaxPool2d(const MaxPool2dOptions& o);
  Tensor forward(const Tensor& x) override { return max_pool2d(x, params_); }

 private:
  PoolParams params_;
};

struct AvgPool2dOptions {
  Size2 kernel_size = 0;  ///< required
  std::optional<Size2> stride = std::nullopt;
  Size2 padding = 0;
  bool ceil_mode = false, count_include_pad = true;
  int64_t divisor_override = 0;
  static void fields(auto&& f) {
    using O = AvgPool2dOptions;
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "null: the kernel size");
    f("padding", &O::padding, "zeros on each side, at most half the kernel");
    f("ceil_mode", &O::ceil_mode, "keeps a last, partial window");
    f("count_include_pad", &O::count_include_pad, "padding counts in the divisor");
    f("divisor_override", &O::divisor_override, "divides by this instead; 0: off");
  }
};
/// y[b, c, i, j] = mean over u, v of x[b, c, i stride + u, j stride + v], x [B, C, H, W].
/// torch.nn.AvgPool2d.
class AvgPool2d : public Component<AvgPool2d, AvgPool2dOptions, Layer> {
 public:
  static constexpr const char* kSummary = "mean of each window";
  explicit AvgPool2d(const AvgPool2dOptions& o);
  Tensor forward(const Tensor& x) override { return avg_pool2d(x, params_); }

 private:
  PoolParams params_;
};

struct AdaptiveAvgPool2dOptions {
  Size2 output_size = 0;  ///< required
  static void fields(auto&& f) {
    f("output_size", &AdaptiveAvgPool2dOptions::output_size, "size of the output; required");
  }
};
/// Mean over rows floor(i H / h) to ceil((i + 1) H / h) - 1 and likewise columns, for output_size h
/// x w. x [B, C, H, W]. torch.nn.AdaptiveAvgPool2d.
class AdaptiveAvgPool2d : public Component<AdaptiveAvgPool2d, AdaptiveAvgPool2dOptions, Layer> {
 public:
  static constexpr const char* kSummary = "mean of each cell of a grid";
  explicit AdaptiveAvgPool2d(const AdaptiveAvgPool2dOptions& o) : Component(o) {
    DROPIN_CHECK(o.output_size.h > 0 && o.output_size.w > 0, OptionError, who(),
                 ": output_size must be positive");
  }
  Tensor forward(const Tensor& x) override {
    return adaptive_avg_pool2d(x, options_.output_size.pair());
  }
};

}  // namespace dropin
