// Activation functions that keep a few bits per element for backward (Novikov et al. 2022).
// Contiguous arrays, f32 or f64 (borders and levels of the same dtype).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// a, b: Elu, Celu alpha; Softplus beta, threshold; LeakyRelu slope; Hardtanh min, max; Hardshrink,
/// Softshrink lambda; Threshold threshold, value.
enum class FewBitFunction : std::int32_t {
  Gelu,
  Silu,
  Sigmoid,
  Tanh,
  Selu,
  Elu,
  Celu,
  Softplus,
  LogSigmoid,
  Mish,
  Hardswish,
  Softsign,
  Tanhshrink,
  Relu,
  Relu6,
  LeakyRelu,
  Hardtanh,
  Hardsigmoid,
  Hardshrink,
  Softshrink,
  Threshold
};

/// The code of x: how many borders lie below it (below |x| when Folded), or one bit: x > lo, x >=
/// lo, lo < x < hi, |x| > lo. NaN has the last code.
enum class FewBitSplit : std::int32_t { Borders, Folded, Above, AtLeast, Between, Outside };

struct FewBitForward {
  FewBitFunction function = FewBitFunction::Gelu;
  double a = 0, b = 0;
  FewBitSplit split = FewBitSplit::Borders;
  std::int32_t bits = 1;             ///< 1..8
  double scale = 1, lo = 0, hi = 0;  ///< of x before it meets the borders; of the one-bit splits
};

/// y = f(x), and packed U8 [ceil(n / 8) * bits] unless its data is null. y may be x. borders [<
/// 2^bits], ascending; data null for the one-bit splits.
DROPIN_KERNEL(fewbit_forward, const FewBitForward& a, const abi::TensorIn& x,
              const abi::TensorIn& borders, const abi::TensorOut& y, const abi::TensorOut& packed);
/// gx = levels[code] g; levels [<= 2^bits]; codes beyond them take the last.
DROPIN_KERNEL(fewbit_backward, std::int32_t bits, const abi::TensorIn& packed,
              const abi::TensorIn& levels, const abi::TensorIn& g, const abi::TensorOut& gx);
/// Eight codes (U8, below 2^bits) become `bits` bytes, one little-endian bit stream; the last group
/// is filled with zeros.
DROPIN_KERNEL(fewbit_pack, const abi::TensorIn& codes, std::int32_t bits,
              const abi::TensorOut& packed);
DROPIN_KERNEL(fewbit_unpack, const abi::TensorIn& packed, std::int32_t bits,
              const abi::TensorOut& codes);

}  // namespace dropin::kernels
