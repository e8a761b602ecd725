// Masks with ones at random.
#pragma once
#include "support.h"

namespace dropin {

inline Tensor bernoulli(const Shape& s, double p, std::uint64_t seed) {
  Generator g(seed);
  return rand(s, kFloat32, &g) < p;
}

}  // namespace dropin
