// Causal convolutions per channel, f32. Long ones by FFT (Poli et al. 2023, section 3), short
// ones of a few taps.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// Arrays [B, C, L] and filters k, k_rev [C, Lk] of any strides, D [C] contiguous; data null where
/// there is none.
struct FftConvInputs {
  abi::TensorIn u, k, k_rev, pre, post, D;
  abi::TensorIn spectrum;  ///< of fft_conv_spectrum for k, k_rev and this L; null: made block by
                           ///< block and not kept
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&u, &k, &k_rev, &pre, &post, &D, &spectrum}) f(*t);
  }
};
struct FftConvGradients {
  abi::TensorOut u, pre, post, D, k, k_rev;  ///< written; null where not wanted
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorOut* t : {&u, &pre, &post, &D, &k, &k_rev}) f(*t);
  }
};

/// Floats of the filters' spectrum for sequences of `length`; that of one batch entry of u is as
/// large.
DROPIN_KERNEL(fft_conv_size, int64_t channels, int64_t length, int64_t* floats);
/// The spectrum of filters k [C, Lk] and k_rev (or null), without D, in a layout of its own.
DROPIN_KERNEL(fft_conv_spectrum, const abi::TensorIn& k, const abi::TensorIn& k_rev, int64_t length,
              const abi::TensorOut& spectrum);
/// y = post (k * (pre u) + D pre u). conv (or null) receives the value before the post gate, kept
/// [B, fft_conv_size] (or null) the spectrum of pre u.
DROPIN_KERNEL(fft_conv_forward, const FftConvInputs& in, const abi::TensorOut& y,
              const abi::TensorOut& conv, const abi::TensorOut& kept);
/// Gradients from g, that of y. conv is needed for post's; kept may be null.
DROPIN_KERNEL(fft_conv_backward, const abi::TensorIn& g, const FftConvInputs& in,
              const abi::TensorIn& conv, const abi::TensorIn& kept, const FftConvGradients& out);

/// y[b, t, c] = bias[c] + sum_j w[c, j] x[b, t - (K - 1) + j, c]; x, y [B, L, C] with contiguous
/// channels, w [C, K] and bias [C] contiguous (bias may be null).
DROPIN_KERNEL(short_conv_forward, const abi::TensorIn& x, const abi::TensorIn& w,
              const abi::TensorIn& bias, const abi::TensorOut& y);
/// gx (may be null), gw and gb (may be null) are written.
DROPIN_KERNEL(short_conv_backward, const abi::TensorIn& g, const abi::TensorIn& x,
              const abi::TensorIn& w, const abi::TensorOut& gx, const abi::TensorOut& gw,
              const abi::TensorOut& gb);

}  // namespace dropin::kernels
