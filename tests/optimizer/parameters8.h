// Parameters for the tests of 8-bit optimizers.
#pragma once
#include "kernels/optim8/map.h"
#include "optimizer/codes8.h"
#include "support.h"

namespace dropin {

using testing::random;

inline Tensor parameter(const Shape& s, std::uint64_t seed = 1) {
  return random(s, kFloat32, seed).clone().requires_grad_();
}

}  // namespace dropin
