// gradcheck: backward against central differences, in float64.
#pragma once
#include <string>

#include "dropin/autograd/autograd.h"

namespace dropin {

struct GradcheckOptions {
  double eps = 1e-6;
  double rtol = 1e-4, atol = 1e-6;
  int64_t full_jacobian_below = 64;  ///< inputs of at most this many elements are checked
                                     ///< entry by entry, larger ones along random directions
  int directions = 3;
  std::uint64_t seed = 1;
};

namespace detail {
std::string gradcheck(Callable f, const Tensors& inputs, const GradcheckOptions& o);
}

/// Compares the gradients of f: Tensors -> Tensors at `inputs` (float64; those that require grad
/// are checked) with central differences. Returns "" when they agree, else the first disagreement:
/// input, index, both values. DTypeError unless the checked inputs are float64.
template <class F>
std::string gradcheck(F f, const Tensors& inputs, const GradcheckOptions& o = {}) {
  return detail::gradcheck(
      {&f, [](void* s, const Tensors& x) -> Tensors { return (*static_cast<F*>(s))(x); }, nullptr},
      inputs, o);
}

}  // namespace dropin
