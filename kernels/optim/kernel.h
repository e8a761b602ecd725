// Fused optimizer steps, one pass over contiguous tensors of one size. Parameters f32 or f64;
// states have the parameter's dtype.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// Numbers of a step of torch.optim.SGD.
struct SgdStep {
  double lr = 0, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false;
  bool first = false;  ///< of this parameter: the momentum buffer begins as the gradient
};
/// g += weight_decay p (g negated first when maximize); momentum_buffer = first ? g : momentum
/// momentum_buffer + (1 - dampening) g; step by it, or by g + momentum momentum_buffer (nesterov).
/// momentum 0: momentum_buffer has data null.
DROPIN_KERNEL(sgd_step, const SgdStep& a, const abi::TensorOut& p, const abi::TensorIn& g,
              const abi::TensorOut& momentum_buffer);

/// Numbers of a step of torch.optim.Adam (decoupled: AdamW). step counts from 1.
struct AdamStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool decoupled = false, maximize = false;
  int64_t step = 1;
};
/// Bias corrections are computed in double. amsgrad: max_exp_avg_sq not null. f64: exactly
/// PyTorch's formula; f32: p -= (lr/bc1) exp_avg / (sqrt(exp_avg_sq)/sqrt(bc2) + eps).
DROPIN_KERNEL(adam_step, const AdamStep& a, const abi::TensorOut& p, const abi::TensorIn& g,
              const abi::TensorOut& exp_avg, const abi::TensorOut& exp_avg_sq,
              const abi::TensorOut& max_exp_avg_sq);

}  // namespace dropin::kernels
