// 2-d cross-correlation with zero padding (specs/conv_and_pool_baseline.md). x [B, C, H, W], w [O, C/g, kh, kw], y [B, O, H', W'], contiguous, f32 and f64.
// Conv1d arrives as H = 1. Padding may be asymmetric (TF SAME).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

struct ConvGeometry {
  std::int64_t stride[2] = {1, 1};
  std::int64_t dilation[2] = {1, 1};
  std::int64_t pad_begin[2] = {0, 0};  ///< top, left
  std::int64_t pad_end[2] = {0, 0};    ///< bottom, right
  std::int64_t groups = 1;
};

DROPIN_KERNEL(conv2d_forward, const abi::TensorIn& x, const abi::TensorIn& w, const abi::TensorIn& bias, const ConvGeometry& g, const abi::TensorOut& y);
DROPIN_KERNEL(conv2d_backward_input, const abi::TensorIn& gy, const abi::TensorIn& w, const ConvGeometry& g, const abi::TensorOut& gx);
/// gb may have data null.
DROPIN_KERNEL(conv2d_backward_weight, const abi::TensorIn& gy, const abi::TensorIn& x, const ConvGeometry& g, const abi::TensorOut& gw, const abi::TensorOut& gb);

}  // namespace dropin::kernels
