// Discrete Fourier transforms of the middle dimension of [outer, n, inner], f32 or f64, contiguous.
// Complex numbers are pairs (re, im) in a last dimension of 2.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

enum class Fft : std::int32_t {
  Complex,     ///< x [outer, n, inner, 2] -> y [outer, n, inner, 2]
  RealToHalf,  ///< x [outer, n, inner] -> y [outer, n/2 + 1, inner, 2]
  HalfToReal,  ///< x [outer, n/2 + 1, inner, 2] -> y [outer, n, inner]; what x says of the
               ///< frequencies above n/2 is the conjugate
};
/// Which transform, of what sizes: n, at least 1, is the length of the signal.
struct FftSpec {
  Fft kind = Fft::Complex;
  int64_t outer = 1, n = 1, inner = 1;
  bool inverse = false;
  double scale = 1;
};
/// y = scale sum_t x[t] exp(-+ 2 pi i k t / n), plus in the exponent when inverse.
DROPIN_KERNEL(fft, const FftSpec& spec, const abi::TensorIn& x, const abi::TensorOut& y);

}  // namespace dropin::kernels
