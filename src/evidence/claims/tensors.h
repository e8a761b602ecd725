// What several claims make of tensors.
#pragma once
#include "dropin/ops/ops.h"

namespace dropin::evidence {

/// Standard normal float32 numbers, the same for a seed.
inline Tensor normal(const Shape& s, std::uint64_t seed) {
  Generator g(seed);
  return randn(s, kFloat32, &g);
}
/// Greatest absolute difference.
inline double difference(const Tensor& a, const Tensor& b) { return amax(abs(a - b)).item(); }

}  // namespace dropin::evidence
