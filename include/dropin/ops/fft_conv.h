// Causal convolutions per channel: as long as the sequence (by FFT), and of a few taps.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

struct FftConvArgs {
  Tensor k_rev;  ///< [C, Lk]: adds sum_{s >= 0} k_rev[c, s] u[b, c, t + s]; lag 0 is then in both
                 ///< filters
  Tensor pre_gate;            ///< [B, C, L]: pre u takes the place of u
  Tensor post_gate;           ///< [B, C, L]: multiplies the result
  Tensor spectrum;            ///< fft_conv_spectrum(k, L, k_rev): spares the filter's transform
  bool keep_spectra = false;  ///< keeps the spectra of u and k for backward instead of computing
                              ///< them again: 2 floats per sample of each
};

/// y[b, c, t] = post (sum_{s = 0}^{min(t, Lk - 1)} k[c, s] (pre u)[b, c, t - s] + D[c] (pre u)[b,
/// c, t]): a linear convolution cut to L, never circular. u [B, C, L], k [C, Lk] with 1 <= Lk <= L,
/// D [C] or undefined -> [B, C, L]; strides are free, [B, L, C] transposed is as good. (Poli et al.
/// 2023, section 3.) float32 (16-bit types compute in it): one transform of length L each way with
/// channels in the SIMD lanes, no zero padding; direct sums for short L. float64: the definition,
/// or for long L the transforms of ops/fft.h. A NaN or Inf spoils its whole row [b, c] where a
/// transform is used, earlier positions too. Rounding: a changed u[t0] moves earlier outputs by
/// 2e-7 to 3e-7 of the row's largest output (L = 64 to 2^20), by nothing for L <= 32.
Tensor fft_conv(const Tensor& u, const Tensor& k, const Tensor& D = {},
                const FftConvArgs& args = {});

/// The filters' transform for sequences of `length`, in a layout of fft_conv's own; to be kept
/// while k stays the same. Undefined where fft_conv would not use it (float64).
Tensor fft_conv_spectrum(const Tensor& k, int64_t length, const Tensor& k_rev = {});

/// y[b, t, c] = bias[c] + sum_j weight[c, 0, j] x[b, t - (K - 1) + j, c], zeros before t = 0:
/// torch's Conv1d(groups = C, padding = K - 1) cut to L, on [B, L, C]. weight [C, 1, K], bias [C]
/// or undefined.
Tensor causal_depthwise_conv(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

namespace plain {
/// fft_conv by its definition: a sum of shifted products.
Tensor fft_conv(const Tensor& u, const Tensor& k, const Tensor& D = {},
                const FftConvArgs& args = {});
Tensor causal_depthwise_conv(const Tensor& x, const Tensor& weight, const Tensor& bias = {});
}  // namespace plain

}  // namespace dropin
