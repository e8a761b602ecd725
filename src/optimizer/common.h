// What the optimizers share.
#pragma once
#include <cmath>
#include <numbers>

#include "dropin/optimizer/optimizer.h"

namespace dropin::detail {

/// The dtype in which a parameter is stepped, and its state kept: float64 its own, all others
/// float32.
inline DType step_dtype(DType parameter) { return parameter == kFloat64 ? kFloat64 : kFloat32; }

/// Zeros for a state as large as p.
inline Tensor state_like(const Tensor& p) {
  return zeros(p.sizes(), {step_dtype(p.dtype()), p.device()});
}

/// Calls f with contiguous memory of `dtype` that holds p's values, and leaves in p what f wrote
/// there, rounded once. f gets p itself where that is possible.
template <class F>
void update_as(DType dtype, const Tensor& p, F f) {
  if (p.dtype() == dtype && p.is_contiguous()) return f(p);
  Tensor copy = p.detach().to(dtype).contiguous();
  if (copy.data_ptr() == p.data_ptr()) copy = copy.clone();
  f(copy);
  p.detach().copy_(copy);
}

/// From `from` (share 0) to `to` (share 1) along half a cosine.
inline double half_cosine(double from, double to, double share) {
  return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * share));
}
/// Each group's learning rate.
inline std::vector<double> rates_of(const Optimizer& optimizer) {
  std::vector<double> r;
  for (std::size_t g = 0; g < optimizer.param_groups().size(); ++g) r.push_back(optimizer.lr(g));
  return r;
}

}  // namespace dropin::detail
