// Discrete Fourier transforms. Complex numbers are pairs (re, im) in a last dimension of size 2, as
// torch.view_as_real gives them.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

/// torch.fft.fft: X[k] = sum_t x[t] exp(-2 pi i k t / n). x [..., n, ..., 2] -> the same sizes.
/// `dim` counts the dimensions before the pair: -1 is the one next to it. Any length of at least 1
/// (factors 2 to 13 directly, others by Bluestein's algorithm), float32 or float64; 16-bit types
/// compute in float32.
Tensor fft(const Tensor& x, int64_t dim = -1);
/// torch.fft.ifft: x[t] = 1/n sum_k X[k] exp(2 pi i k t / n).
Tensor ifft(const Tensor& x, int64_t dim = -1);
/// torch.fft.rfft: the frequencies 0 ... n/2 of a real x: [..., m, ...] -> [..., n/2 + 1, ..., 2].
/// x is cut or filled with zeros to n; n = 0: its own size m.
Tensor rfft(const Tensor& x, int64_t n = 0, int64_t dim = -1);
/// torch.fft.irfft: real [..., n, ...] from [..., n/2 + 1, ..., 2]; n = 0: 2 (m - 1). Imaginary
/// parts of frequencies 0 and n/2 do not matter.
Tensor irfft(const Tensor& x, int64_t n = 0, int64_t dim = -1);

}  // namespace dropin
