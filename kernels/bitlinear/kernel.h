// Products of 1-bit or ternary weights with 8-bit activations (BitNet). Arrays are contiguous.
// Packed weights, per row: 1 bit, element k at bit k % 8 of byte k / 8, 1 stands for +1, spare bits
// 0; ternary, code = value + 1 at bits 2 (k % 4) of byte k / 4, spare codes 1. Rows come in
// scale.numel() groups of equal size, one scale each.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// How activations are quantized: per slice of K (there are `groups`), each token by itself or all
/// together.
struct BitActivations {
  bool shift = false;  ///< [min, max] to [0, 127] instead of [-max, max] to [-128, 127]
  bool per_tensor = false;
  std::int32_t qmax = 127;
  int64_t groups = 1;
};

/// h [M, K] f32 or f64 -> q I8 [M, K]; t and (shift) e, of h's dtype, [M, groups] or [1, groups]. h
/// is about q * (t / qmax) + e. A slice with NaN or Inf: q 0, t NaN.
DROPIN_KERNEL(bit_quantize_activations, const BitActivations& a, const abi::TensorIn& h,
              const abi::TensorOut& q, const abi::TensorOut& t, const abi::TensorOut& e);
/// h = q * (t / qmax) + e.
DROPIN_KERNEL(bit_dequantize_activations, const BitActivations& a, const abi::TensorIn& q,
              const abi::TensorIn& t, const abi::TensorIn& e, const abi::TensorOut& h);
/// w [N, K] f32. 1 bit: +1 where w exceeds its group's mean, scale mean|w|; ternary: rint(w /
/// scale) within [-1, 1], scale max(mean|w|, 1e-5).
DROPIN_KERNEL(bit_pack_weight, bool ternary, const abi::TensorIn& w, const abi::TensorOut& packed,
              const abi::TensorOut& scale);
/// w = value * scale, f32.
DROPIN_KERNEL(bit_unpack_weight, bool ternary, const abi::TensorIn& packed,
              const abi::TensorIn& scale, const abi::TensorOut& w);
/// Quantized activations, as bit_quantize_activations leaves them; e has data null without shift.
struct BitCodes {
  abi::TensorIn q, t, e;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* a : {&q, &t, &e}) f(*a);
  }
};
/// A packed weight, as bit_pack_weight leaves it.
struct BitWeight {
  abi::TensorIn packed, scale;
  template <class F>
  void tensors(F&& f) const {
    f(packed);
    f(scale);
  }
};
/// y [M, N] f32 = (dequantized h) (unpacked weight)^T + bias, by integer sums. bias f32 [N] or data
/// null.
DROPIN_KERNEL(bit_linear, bool ternary, const BitActivations& a, const BitCodes& h,
              const BitWeight& weight, const abi::TensorIn& bias, const abi::TensorOut& y);

}  // namespace dropin::kernels
