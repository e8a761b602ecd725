// Softmax over the last dimension. Tensors are contiguous [..., n]; f32 and f64 (bf16/f16 in f32).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// y = softmax(x) or log_softmax(x). A row of only -inf gives NaN as in PyTorch.
DROPIN_KERNEL(softmax_forward, const abi::TensorIn& x, bool log, const abi::TensorOut& y);
/// softmax: gx = y * (g - sum(g y)); log: gx = g - exp(y) sum(g).
DROPIN_KERNEL(softmax_backward, const abi::TensorIn& g, const abi::TensorIn& y, bool log,
              const abi::TensorOut& gx);
/// logits [n, c], target [n] Int64, weight [c] or data null.
struct CrossEntropyInputs {
  abi::TensorIn logits, target, weight;
  int64_t ignore_index = -100;
  double label_smoothing = 0;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&logits, &target, &weight}) f(*t);
  }
};
/// Per row, with t its target and eps the smoothing: loss[i] = lse_i - (1-eps) logits[i,t] - eps/c
/// sum_j logits[i,j], 0 where t == ignore_index; weight scales each term as PyTorch does. lse [n]
/// is kept for backward. A target outside [0, c) answers out_of_range.
DROPIN_KERNEL(cross_entropy_forward, const CrossEntropyInputs& in, const abi::TensorOut& loss,
              const abi::TensorOut& lse);
/// gx [n, c], the gradient of logits, from g [n] (that of each row's loss).
DROPIN_KERNEL(cross_entropy_backward, const abi::TensorIn& g, const CrossEntropyInputs& in,
              const abi::TensorIn& lse, const abi::TensorOut& gx);

}  // namespace dropin::kernels
