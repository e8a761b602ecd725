// What the operations on heads [B, H, L, D] share.
#pragma once
#include "dropin/tensor/tensor.h"

namespace dropin::ops_detail {

/// x as their kernels want it: f32, the last dimension contiguous. Recorded.
inline Tensor laid_out(const Tensor& x) {
  const Tensor f = x.to(kFloat32);
  return f.stride(-1) == 1 || f.size(-1) <= 1 ? f : f.contiguous();
}
/// As laid_out, but a 16-bit type stays what it is on a device whose kernels take it.
inline Tensor laid_out_as(const Tensor& x, DType t) {
  const Tensor f = x.to(t);
  return f.stride(-1) == 1 || f.size(-1) <= 1 ? f : f.contiguous();
}
/// Memory [B, L, H, D] seen as [B, H, L, D], so that merging the heads copies nothing.
/// Uninitialised.
inline Tensor heads_last(const Shape& s, const Device& d, DType t = kFloat32) {
  return empty({s[0], s[2], s[1], s[3]}, {t, d}).transpose(1, 2);
}

}  // namespace dropin::ops_detail
