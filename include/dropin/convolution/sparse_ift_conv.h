// SparseIFTConv2d: a larger sparse convolution at the work of the dense one.
#pragma once
#include "dropin/convolution/conv.h"
#include "dropin/projection/sparse_ift.h"

namespace dropin {

struct SparseIFTConv2dOptions : detail::SparseIFTOptions {
  int64_t in_channels = 0, out_channels = 0;  ///< required
  Size2 kernel_size = 0;                      ///< required
  Size2 stride = 1;
  Padding padding = 0;
  static void fields(auto&& f) {
    using O = SparseIFTConv2dOptions;
    f("in_channels", &O::in_channels, "of the dense layer replaced; required");
    f("out_channels", &O::out_channels, "of the dense layer replaced; required");
    f("kernel_size", &O::kernel_size, "required");
    f("stride", &O::stride, "step between windows");
    f("padding", &O::padding, "zeros on each side, \"same\" or \"tf_same\"");
    SparseIFTOptions::fields_of<O>(f);
  }
};

/// Conv2d in one of the forms of SparseIFTLinear; the second factor is a 1x1 (Thangarasa et al.
/// 2024). Replaces Conv2d. x [B, C, H, W]. Names as SparseIFTLinear's; weights [o, i, k, k], V [o,
/// r, 1, 1].
class SparseIFTConv2d
    : public detail::SparseIFTLayer<SparseIFTConv2d, SparseIFTConv2dOptions, ImageMixer> {
 public:
  static constexpr const char* kSummary = "a larger sparse convolution at the work of a dense one";
  static constexpr const char* kReplaces = "Conv2d";
  static constexpr const char* kPaper = SparseIFTLinear::kPaper;
  static std::vector<std::string> examples();
  static Sample sample(const Options& o, const SampleSpec& s);
  explicit SparseIFTConv2d(const SparseIFTConv2dOptions& o);
  Tensor forward(const Tensor& x) override;

 private:
  Conv2dOptions conv_;
};

}  // namespace dropin
