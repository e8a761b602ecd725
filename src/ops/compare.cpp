// Comparisons, and logic of bools.
#include "dropin/ops/reduce.h"
#include "kernels/hd.h"
#include "ops/pointwise.h"

namespace dropin {

using kernels::Binary;
using ops_detail::apply;
using ops_detail::promoted;

namespace {

Tensor compare(Binary op, const Tensor& a, const Tensor& b, const char* who) {
  auto [x, y] = promoted(a.detach(), b.detach());
  return apply(op, x, y, who, kBool);
}
Tensor compare(Binary op, const Tensor& a, const Scalar& b, const char* who) {
  // an integer beside a floating number is compared exactly
  const DType t = is_floating(a.dtype()) ? a.dtype()
                  : b.is_floating()      ? kFloat64
                  : a.dtype() == kBool   ? b.dtype()
                                         : kInt64;
  return apply(op, a.detach().to(t), scalar(b, {t, a.device()}), who, kBool);
}

}  // namespace

Tensor eq(const Tensor& a, const Tensor& b) { return compare(Binary::Eq, a, b, "eq"); }
Tensor ne(const Tensor& a, const Tensor& b) { return compare(Binary::Ne, a, b, "ne"); }
Tensor lt(const Tensor& a, const Tensor& b) { return compare(Binary::Lt, a, b, "lt"); }
Tensor le(const Tensor& a, const Tensor& b) { return compare(Binary::Le, a, b, "le"); }
Tensor gt(const Tensor& a, const Tensor& b) { return compare(Binary::Gt, a, b, "gt"); }
Tensor ge(const Tensor& a, const Tensor& b) { return compare(Binary::Ge, a, b, "ge"); }
Tensor eq(const Tensor& a, const Scalar& b) { return compare(Binary::Eq, a, b, "eq"); }
Tensor ne(const Tensor& a, const Scalar& b) { return compare(Binary::Ne, a, b, "ne"); }
Tensor lt(const Tensor& a, const Scalar& b) { return compare(Binary::Lt, a, b, "lt"); }
Tensor le(const Tensor& a, const Scalar& b) { return compare(Binary::Le, a, b, "le"); }
Tensor gt(const Tensor& a, const Scalar& b) { return compare(Binary::Gt, a, b, "gt"); }
Tensor ge(const Tensor& a, const Scalar& b) { return compare(Binary::Ge, a, b, "ge"); }

namespace {
Tensor logic(Binary op, const Tensor& a, const Tensor& b, const char* who) {
  return apply(op, a.detach().to(kBool), b.detach().to(kBool), who, kBool);
}
}  // namespace
Tensor logical_and(const Tensor& a, const Tensor& b) {
  return logic(Binary::LogicalAnd, a, b, "logical_and");
}
Tensor logical_or(const Tensor& a, const Tensor& b) {
  return logic(Binary::LogicalOr, a, b, "logical_or");
}
Tensor logical_xor(const Tensor& a, const Tensor& b) {
  return logic(Binary::LogicalXor, a, b, "logical_xor");
}

Tensor operator~(const Tensor& a) {
  if (a.dtype() != kBool)
    fail<DTypeError>({"operator~: the tensor is ", a.dtype(), ", expected bool"});
  return logical_not(a);
}

Tensor isclose(const Tensor& a, const Tensor& b, double rtol, double atol, bool equal_nan) {
  DROPIN_CHECK(a.dtype() == b.dtype(), DTypeError, "isclose: a is ", a.dtype(), " and b ",
               b.dtype(), ", expected one dtype");
  DROPIN_CHECK(rtol >= 0 && atol >= 0, OptionError, "isclose: rtol is ", rtol, " and atol ", atol,
               ", expected at least 0");
  no_grad guard;
  const Tensor x = is_floating(a.dtype()) ? a.detach() : a.to(kFloat64),
               y = is_floating(b.dtype()) ? b.detach() : b.to(kFloat64);
  Tensor near = logical_or(
      x == y, logical_and(abs(x - y) <= abs(y) * rtol + atol, abs(y) < kernels::kInf<double>));
  if (equal_nan) near = logical_or(near, logical_and(ne(x, x), ne(y, y)));
  return near;
}
bool allclose(const Tensor& a, const Tensor& b, double rtol, double atol, bool equal_nan) {
  const Tensor near = isclose(a, b, rtol, atol, equal_nan).reshape({-1});
  return near.numel() == 0 || near.to(kInt64).sum().item<int64_t>() == near.numel();
}
bool equal(const Tensor& a, const Tensor& b) {
  if (!(a.sizes() == b.sizes())) return false;
  return a.numel() == 0 || all(eq(a, b)).item<bool>();
}

}  // namespace dropin
