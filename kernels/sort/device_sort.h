// Stable sort of pairs by key, on the device.
#pragma once
#include "kernels/cuda/device.h"

namespace dropin::kernels::cuda {

inline int significant_bits(std::uint64_t largest) {
  int n = 0;
  for (; largest; largest >>= 1) ++n;
  return n;
}
/// In place, ascending by the lower `bits` bits of the keys; equal keys keep their order.
Status sort_pairs(const KernelContext& c, std::uint64_t* keys, std::uint32_t* values, int64_t n,
                  int bits);

}  // namespace dropin::kernels::cuda
