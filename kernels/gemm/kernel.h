// Matrix products, f32 and f64 (bf16/f16 inputs accumulate in f32).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// c[t] = a[t] b[t] + beta c[t]; a [T, M, K], b [T, K, N], c [T, M, N], any strides (a batch stride
/// of 0 broadcasts; a unit stride in either of the last two dims is used as is, other layouts are
/// packed first). K = 0 gives beta c. beta 0 never reads c. Threaded over T, or within one product
/// when T is small.
DROPIN_KERNEL(matmul, const abi::TensorIn& a, const abi::TensorIn& b, double beta,
              const abi::TensorOut& c);
/// y [M, N] = x [M, K] w^T + bias; w [N, K], bias [N] or data null. Rows of x, w, y contiguous in
/// their last dim.
DROPIN_KERNEL(linear_forward, const abi::TensorIn& x, const abi::TensorIn& w,
              const abi::TensorIn& bias, const abi::TensorOut& y);

}  // namespace dropin::kernels
