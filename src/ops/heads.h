// What the operations on heads [B, H, L, D] share.
#pragma once
#include "dropin/tensor/tensor.h"

namespace dropin::ops_detail {

/// x as their kernels want it: f32, the last dimension contiguous. Recorded.
inline Tensor laid_out(const Tensor& x) {
  const Tensor f = x.to(kFloat32);
  return f.stride(-1) == 1 || f.size(-1) <= 1 ? f : f.contiguous();
}
/// Memory [B, L, H, D] seen as [B, H, L, D], so that merging the heads copies nothing. Uninitialised.
inline Tensor heads_last(const Shape& s, const Device& d) { return empty({s[0], s[2], s[1], s[3]}, {kFloat32, d}).transpose(1, 2); }

}  // namespace dropin::ops_detail
