// 2-d pooling (torch.nn.functional.max_pool2d, avg_pool2d), [B, C, H, W] contiguous, f32 and f64.
// The caller computes output sizes (ceil_mode included).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

struct PoolGeometry {
  int64_t kernel[2] = {1, 1};
  int64_t stride[2] = {1, 1};
  int64_t padding[2] = {0, 0};
  int64_t dilation[2] = {1, 1};
  bool count_include_pad = true;
  int64_t divisor_override = 0;  ///< 0: none
};

/// index: Int64 [B, C, H', W'], the flat position h * W + w of the maximum (first in row-major
/// order; NaN wins).
DROPIN_KERNEL(max_pool2d_forward, const abi::TensorIn& x, const PoolGeometry& g,
              const abi::TensorOut& y, const abi::TensorOut& index);
DROPIN_KERNEL(max_pool2d_backward, const abi::TensorIn& gy, const abi::TensorIn& index,
              const abi::TensorOut& gx);
DROPIN_KERNEL(avg_pool2d_forward, const abi::TensorIn& x, const PoolGeometry& g,
              const abi::TensorOut& y);
DROPIN_KERNEL(avg_pool2d_backward, const abi::TensorIn& gy, const PoolGeometry& g,
              const abi::TensorOut& gx);
DROPIN_KERNEL(adaptive_avg_pool2d_forward, const abi::TensorIn& x, const abi::TensorOut& y);
DROPIN_KERNEL(adaptive_avg_pool2d_backward, const abi::TensorIn& gy, const abi::TensorOut& gx);

}  // namespace dropin::kernels
