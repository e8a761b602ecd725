#include "dropin/convolution/sparse_ift_conv.h"

namespace dropin {

std::vector<std::string> SparseIFTConv2d::examples() {
  return {R"({"transform": "parallel", "norm": "batchnorm", "sparsity": 0.7, "padding": 1})",
          R"({"transform": "factorized", "norm": "batchnorm", "stride": 2, "bias": false})",
          R"({"transform": "doped", "sparsity": 0.8})", R"({"widen_out": false})"};
}

Sample SparseIFTConv2d::sample(const Options& o, const SampleSpec& s) {
  return sample_pictures(s, SparseIFTConv2d(o).core().in());
}

SparseIFTConv2d::SparseIFTConv2d(const SparseIFTConv2dOptions& o) : SparseIFTLayer(o) {
  conv_ = {.in_channels = o.in_channels,
           .out_channels = o.out_channels,
           .kernel_size = o.kernel_size,
           .stride = o.stride,
           .padding = o.padding,
           .bias = false};
  detail::check_conv(who(), conv_);
  create(o.in_channels, o.out_channels, {o.kernel_size.h, o.kernel_size.w});
}

Tensor SparseIFTConv2d::forward(const Tensor& x) {
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == core_.in(), ShapeError, who(), ": x is ", x.sizes(),
               ", expected [B, ", core_.in(),
               ", H, W] because in_channels = ", options_.in_channels,
               " and transform = ", options_.transform);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  const ConvParams p = detail::conv_params(conv_, x.size(2), x.size(3));
  const Tensor y = core_.forward(x, [&](const Tensor& in, const Tensor& w, bool first) {
    return conv2d(in, w, {}, first ? p : ConvParams{});
  });
  return core_.bias().defined() ? y + core_.bias().reshape({1, -1, 1, 1}) : y;
}

}  // namespace dropin
