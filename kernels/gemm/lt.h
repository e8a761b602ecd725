// cuBLASLt, opened when the first product asks for it.
#pragma once
#include "kernels/cuda/device.h"

namespace dropin::kernels::cuda {

/// A matrix in memory: element (i, j) at data + i * row + j * col; the next of a batch `batch`
/// further on.
struct Operand {
  const void* data;
  int64_t row, col, batch;
};
/// c[t] = a[t] b[t] + beta c[t] (+ bias [N] to every row, unless null) for `count` products of [M,
/// K] and [K, N]; c has col = 1. kUnsupported: not for cuBLASLt, or it is not there; nothing was
/// done.
Status lt_matmul(const KernelContext& c, DType dtype, int64_t count, int64_t M, int64_t N,
                 int64_t K, const Operand& a, const Operand& b, double beta, const void* bias,
                 const Operand& out);

}  // namespace dropin::kernels::cuda
