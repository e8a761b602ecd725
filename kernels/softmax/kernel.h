// Softmax over the last dimension. Tensors are contiguous [..., n]; f32 and f64 (bf16/f16 in f32).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// y = softmax(x) or log_softmax(x). A row of only -inf gives NaN as in PyTorch.
DROPIN_KERNEL(softmax_forward, const abi::TensorIn& x, bool log, const abi::TensorOut& y);
/// softmax: gx = y * (g - sum(g y)); log: gx = g - exp(y) sum(g).
DROPIN_KERNEL(softmax_backward, const abi::TensorIn& g, const abi::TensorIn& y, bool log,
              const abi::TensorOut& gx);
/// Per row of logits x [n, c] and target [n] Int64: loss[i] = lse_i - (1-eps) x[i,t] - eps/c sum_j
/// x[i,j], 0 where t == ignore_index; weight [c] optional (data null) scales each term as PyTorch
/// does. lse [n] is kept for backward. A target outside [0, c) answers failed("target out of
/// range").
DROPIN_KERNEL(cross_entropy_forward, const abi::TensorIn& x, const abi::TensorIn& target,
              const abi::TensorIn& weight, std::int64_t ignore_index, double label_smoothing,
              const abi::TensorOut& loss, const abi::TensorOut& lse);
/// gx [n, c] from g [n] (the gradient of each row's loss).
DROPIN_KERNEL(cross_entropy_backward, const abi::TensorIn& g, const abi::TensorIn& x,
              const abi::TensorIn& target, const abi::TensorIn& weight, std::int64_t ignore_index,
              double label_smoothing, const abi::TensorIn& lse, const abi::TensorOut& gx);

}  // namespace dropin::kernels
