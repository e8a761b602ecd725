// Optimizer steps over one-byte states, and their block-wise quantization. Contiguous arrays of one
// size; block b is values b * block ..., the last may be short.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// codes U8 = nearest entries of the dynamic map to x / absmax (ties: the even code), absmax F32
/// [ceil(n / block)]. x F32; values that are not finite count as 0.
DROPIN_KERNEL(blockwise_quantize, const abi::TensorIn& x, bool is_signed, int64_t block,
              const abi::TensorOut& codes, const abi::TensorOut& absmax);
/// y F32 = map[codes] * absmax.
DROPIN_KERNEL(blockwise_dequantize, const abi::TensorIn& codes, const abi::TensorIn& absmax,
              bool is_signed, int64_t block, const abi::TensorOut& y);

enum class Rule8 : std::int32_t { Adam, Momentum, Lion, RmsProp, Adagrad };

/// Numbers of a step. Momentum: beta1 = mu; RmsProp: beta2 = alpha. g is multiplied by
/// gradient_scale first.
struct Step8 {
  Rule8 rule = Rule8::Adam;
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0, gradient_scale = 1;
  int64_t step = 1, block = 256;  ///< step counts from 1
};
/// Values U8 with an absmax per block, or F32 with absmax null.
struct State8 {
  abi::TensorOut values, absmax;
  template <class F>
  void tensors(F&& f) const {
    f(values);
    f(absmax);
  }
};
/// One pass: p (F32), g (F32) and the states; state1 has the signed map, state2 the unsigned and is
/// for Adam only (else data null). An element whose gradient is not finite keeps its parameter, and
/// its states become 0.
DROPIN_KERNEL(optimizer8_step, const Step8& a, const abi::TensorOut& p, const abi::TensorIn& g,
              const State8& state1, const State8& state2);

}  // namespace dropin::kernels
