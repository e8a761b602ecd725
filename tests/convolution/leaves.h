// Gradients of a weighted sum, for the tests of convolutions.
#pragma once
#include <functional>

#include "support.h"

namespace dropin {

using testing::random;

/// The gradients of sum(f(leaves) * w), one per leaf.
inline Tensors gradients(const std::function<Tensor(const Tensors&)>& f, const Tensors& leaves) {
  const Tensor y = f(leaves);
  return grad({y}, leaves, {random(y.sizes(), kFloat64, 99).to(y.dtype())});
}

inline Tensors leaves_of(const Tensors& v, DType t) {
  Tensors r;
  for (const Tensor& x : v) r.push_back(x.detach().to(t).clone().requires_grad_());
  return r;
}

}  // namespace dropin
