// Sorting along the last dimension of contiguous tensors. Floats, integers, bool. Ties keep their
// order (stable); NaN counts as largest, as in PyTorch.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

DROPIN_KERNEL(sort, const abi::TensorIn& x, bool descending, const abi::TensorOut& values,
              const abi::TensorOut& indices /* Int64 */);
/// The k largest (or smallest) per row, sorted, first index first among equals.
DROPIN_KERNEL(topk, const abi::TensorIn& x, int64_t k, bool largest, const abi::TensorOut& values,
              const abi::TensorOut& indices);

}  // namespace dropin::kernels
