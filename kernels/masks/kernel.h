// Instance masks from prototypes (Bolya et al. 2019, section 3.3). Contiguous arrays, f32.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// y[n] = sigmoid(sum_k coefficients[n, k] prototypes[k]) inside window n, 0 outside. prototypes
/// [K, h, w], coefficients [N, K], windows I64 [N, 4]: first and last + 1 row, first and last + 1
/// column, within the picture; y [N, h, w].
DROPIN_KERNEL(window_masks, const abi::TensorIn& prototypes, const abi::TensorIn& coefficients,
              const abi::TensorIn& windows, const abi::TensorOut& y);

}  // namespace dropin::kernels
