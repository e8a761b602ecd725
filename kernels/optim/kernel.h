// Fused optimizer steps, one pass over contiguous tensors of one size. Parameters f32 or f64;
// states have the parameter's dtype.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// torch.optim.SGD: g += weight_decay p (g negated first when maximize); buf = first ? g : momentum
/// buf + (1 - dampening) g; step by buf, or g + momentum buf (nesterov). momentum 0: buf has data
/// null.
DROPIN_KERNEL(sgd_step, const abi::TensorOut& p, const abi::TensorIn& g, const abi::TensorOut& buf,
              double lr, double momentum, double dampening, double weight_decay, bool nesterov,
              bool first, bool maximize);
/// torch.optim.Adam (decoupled: AdamW). step counts from 1; bias corrections are computed in
/// double. amsgrad: vmax not null. f64: exactly PyTorch's formula; f32: p -= (lr/bc1) m /
/// (sqrt(v)/sqrt(bc2) + eps).
DROPIN_KERNEL(adam_step, const abi::TensorOut& p, const abi::TensorIn& g, const abi::TensorOut& m,
              const abi::TensorOut& v, const abi::TensorOut& vmax, double lr, double beta1,
              double beta2, double eps, double weight_decay, bool decoupled, bool maximize,
              std::int64_t step);

}  // namespace dropin::kernels
