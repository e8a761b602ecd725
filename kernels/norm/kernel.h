// Normalisations. All tensors contiguous, f32 or f64 (bf16/f16 storage computed in f32 is
// optional). weight/bias may have data null (no affine).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// x seen as [rows, n], n the product of the normalised dims; weight and bias [n].
struct NormInputs {
  abi::TensorIn x;
  int64_t n = 0;
  abi::TensorIn weight, bias;  ///< RMS normalisation reads no bias
  double eps = 1e-5;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&x, &weight, &bias}) f(*t);
  }
};
/// x [B, C, S] seen as B samples, C channels, S positions; mean, rstd [C] given or made by
/// batch_norm_stats, weight and bias [C].
struct BatchNormInputs {
  abi::TensorIn x, mean, rstd, weight, bias;
  bool training = false;  ///< backward: mean and rstd depend on x (torch.nn.functional.batch_norm);
                          ///< otherwise they are constants
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&x, &mean, &rstd, &weight, &bias}) f(*t);
  }
};
/// Written; data null where not wanted.
struct NormGradients {
  abi::TensorOut x, weight, bias;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorOut* t : {&x, &weight, &bias}) f(*t);
  }
};

/// y = (x - mean) rstd weight + bias; mean, rstd [rows]; two-pass variance.
DROPIN_KERNEL(layer_norm_forward, const NormInputs& in, const abi::TensorOut& y,
              const abi::TensorOut& mean, const abi::TensorOut& rstd);
DROPIN_KERNEL(layer_norm_backward, const abi::TensorIn& g, const NormInputs& in,
              const abi::TensorIn& mean, const abi::TensorIn& rstd, const NormGradients& out);
/// y = x rstd weight, rstd = 1 / sqrt(mean(x^2) + eps).
DROPIN_KERNEL(rms_norm_forward, const NormInputs& in, const abi::TensorOut& y,
              const abi::TensorOut& rstd);
DROPIN_KERNEL(rms_norm_backward, const abi::TensorIn& g, const NormInputs& in,
              const abi::TensorIn& rstd, const NormGradients& out);
/// Statistics of x [B, C, S] per channel over B and S.
DROPIN_KERNEL(batch_norm_stats, const abi::TensorIn& x, double eps, const abi::TensorOut& mean,
              const abi::TensorOut& var /* biased */, const abi::TensorOut& rstd);
DROPIN_KERNEL(batch_norm_forward, const BatchNormInputs& in, const abi::TensorOut& y);
DROPIN_KERNEL(batch_norm_backward, const abi::TensorIn& g, const BatchNormInputs& in,
              const NormGradients& out);

}  // namespace dropin::kernels
