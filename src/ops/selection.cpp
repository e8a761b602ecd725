// Values chosen by a bound, a condition or a mask; the element-wise methods of a tensor.
#include <cmath>
#include <limits>

#include "ops/pointwise.h"

namespace dropin {

using ops_detail::beside;
using ops_detail::clamped;
using ops_detail::promoted;
using ops_detail::same_device;

Tensor ops_detail::clamped(const Tensor& x, double lo, double hi) {
  Tensor y = empty(x.sizes(), x.options());
  run<kernels::clamp>(x.device(), x.in(), lo, hi, y.out());
  return record("clamp", y, {x}, {x}, [lo, hi](const Saved& s, const Tensor& g) -> Tensors {
    return {where(logical_and(s[0] > lo, s[0] < hi), g, 0.0)};
  });
}

Tensor clamp(const Tensor& x_, const Scalar& lo, const Scalar& hi) {
  const Tensor x = x_.to(ops_detail::result_type(x_, lo, hi));
  if (std::isnan(lo.to_double()) || std::isnan(hi.to_double()))  // as torch: nothing is within
    return x * std::numeric_limits<double>::quiet_NaN();
  return clamped(x, lo.to_double(), hi.to_double());
}

Tensor where(const Tensor& cond, const Tensor& a_, const Tensor& b_) {
  if (cond.dtype() != kBool)
    fail<DTypeError>({"where: the condition is ", cond.dtype(), ", expected bool"});
  auto [a, b] = promoted(a_, b_);
  same_device("where", a, b);
  same_device("where", cond, a);
  const Shape sizes =
      broadcast_shapes(cond.sizes(), broadcast_shapes(a.sizes(), b.sizes(), "where"), "where");
  Tensor y = empty(sizes, a.options());
  run<kernels::where>(y.device(), detail::broadcast_to(cond, sizes).in(),
                      detail::broadcast_to(a, sizes).in(), detail::broadcast_to(b, sizes).in(),
                      y.out());
  return record("where", y, {a, b}, {cond},
                [sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
                  return {s.needs(0) ? sum_to(where(s[0], g, 0.0), sa) : Tensor(),
                          s.needs(1) ? sum_to(where(s[0], 0.0, g), sb) : Tensor()};
                });
}
namespace {
Tensor chosen_beside(const Tensor& a, const Scalar& b) {
  if (const DType t = result_type(a, b); !b.fits(t)) does_not_fit(b, t, "where");
  return beside(a, b);
}
}  // namespace
Tensor where(const Tensor& cond, const Tensor& a, const Scalar& b) {
  return where(cond, a, chosen_beside(a, b));
}
Tensor where(const Tensor& cond, const Scalar& a, const Tensor& b) {
  return where(cond, chosen_beside(b, a), b);
}
Tensor where(const Tensor& cond, const Scalar& a, const Scalar& b) {
  const DType t =
      a.is_floating() || a.dtype() == b.dtype() || b.dtype() == kBool ? a.dtype() : b.dtype();
  return where(cond, scalar(a, {t, cond.device()}), scalar(b, {t, cond.device()}));
}
Tensor masked_fill(const Tensor& x, const Tensor& mask, const Scalar& value) {
  if (mask.dtype() != kBool)
    fail<DTypeError>({"masked_fill: the mask is ", mask.dtype(), ", expected bool"});
  if (!value.fits(x.dtype())) does_not_fit(value, x.dtype(), "masked_fill");
  return where(mask, scalar(value, x.options()), x);
}

Tensor Tensor::exp() const { return dropin::exp(*this); }
Tensor Tensor::log() const { return dropin::log(*this); }
Tensor Tensor::sqrt() const { return dropin::sqrt(*this); }
Tensor Tensor::square() const { return dropin::square(*this); }
Tensor Tensor::abs() const { return dropin::abs(*this); }
Tensor Tensor::relu() const { return dropin::relu(*this); }
Tensor Tensor::sigmoid() const { return dropin::sigmoid(*this); }
Tensor Tensor::tanh() const { return dropin::tanh(*this); }
Tensor Tensor::pow(const Scalar& e) const { return dropin::pow(*this, e); }
Tensor Tensor::clamp(const Scalar& lo, const Scalar& hi) const {
  return dropin::clamp(*this, lo, hi);
}
Tensor Tensor::masked_fill(const Tensor& mask, const Scalar& value) const {
  return dropin::masked_fill(*this, mask, value);
}

}  // namespace dropin
