// Normalisations. All tensors contiguous, f32 or f64 (bf16/f16 storage computed in f32 is
// optional). weight/bias may have data null (no affine).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// x seen as [rows, n], n = numel(weight) or the product of the normalised dims (passed). y = (x -
/// mean) rstd w + b; mean, rstd [rows]; two-pass variance.
DROPIN_KERNEL(layer_norm_forward, const abi::TensorIn& x, std::int64_t n, const abi::TensorIn& w,
              const abi::TensorIn& b, double eps, const abi::TensorOut& y,
              const abi::TensorOut& mean, const abi::TensorOut& rstd);
/// gx (may be null), gw, gb (may be null) in one call.
DROPIN_KERNEL(layer_norm_backward, const abi::TensorIn& g, const abi::TensorIn& x, std::int64_t n,
              const abi::TensorIn& w, const abi::TensorIn& mean, const abi::TensorIn& rstd,
              const abi::TensorOut& gx, const abi::TensorOut& gw, const abi::TensorOut& gb);
/// y = x rstd w, rstd = 1 / sqrt(mean(x^2) + eps).
DROPIN_KERNEL(rms_norm_forward, const abi::TensorIn& x, std::int64_t n, const abi::TensorIn& w,
              double eps, const abi::TensorOut& y, const abi::TensorOut& rstd);
DROPIN_KERNEL(rms_norm_backward, const abi::TensorIn& g, const abi::TensorIn& x, std::int64_t n,
              const abi::TensorIn& w, const abi::TensorIn& rstd, const abi::TensorOut& gx,
              const abi::TensorOut& gw);
/// x [B, C, S] seen as B samples, C channels, S positions. Statistics per channel over B and S.
/// mean, rstd [C] given or made by batch_norm_stats.
DROPIN_KERNEL(batch_norm_stats, const abi::TensorIn& x, double eps, const abi::TensorOut& mean,
              const abi::TensorOut& var /* biased */, const abi::TensorOut& rstd);
DROPIN_KERNEL(batch_norm_forward, const abi::TensorIn& x, const abi::TensorIn& mean,
              const abi::TensorIn& rstd, const abi::TensorIn& w, const abi::TensorIn& b,
              const abi::TensorOut& y);
/// training: the statistics depend on x (torch.nn.functional.batch_norm); otherwise they are
/// constants.
DROPIN_KERNEL(batch_norm_backward, const abi::TensorIn& g, const abi::TensorIn& x,
              const abi::TensorIn& mean, const abi::TensorIn& rstd, const abi::TensorIn& w,
              bool training, const abi::TensorOut& gx, const abi::TensorOut& gw,
              const abi::TensorOut& gb);

}  // namespace dropin::kernels
