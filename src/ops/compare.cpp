// Comparisons, and logic of bools.
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
Tensor operator==(const Tensor& a, const Scalar& b) { return compare(Binary::Eq, a, b, "eq"); }
Tensor operator!=(const Tensor& a, const Scalar& b) { return compare(Binary::Ne, a, b, "ne"); }
Tensor operator<(const Tensor& a, const Scalar& b) { return compare(Binary::Lt, a, b, "lt"); }
Tensor operator<=(const Tensor& a, const Scalar& b) { return compare(Binary::Le, a, b, "le"); }
Tensor operator>(const Tensor& a, const Scalar& b) { return compare(Binary::Gt, a, b, "gt"); }
Tensor operator>=(const Tensor& a, const Scalar& b) { return compare(Binary::Ge, a, b, "ge"); }

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

}  // namespace dropin
