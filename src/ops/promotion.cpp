// Which dtype two operands have together, and two tensors brought together.
#include "dropin/ops/elementwise.h"

#include "ops/pointwise.h"

namespace dropin {

DType result_type(const Tensor& a, const Tensor& b) {
  const DType x = a.dtype(), y = b.dtype();
  if (x == y) return x;
  auto kind = [](DType t) { return t == kBool ? 0 : is_floating(t) ? 2 : 1; };
  // a tensor without dimensions does not widen another within a kind
  if ((a.dim() == 0) != (b.dim() == 0)) {
    const DType whole = a.dim() == 0 ? y : x, single = a.dim() == 0 ? x : y;
    return kind(single) > kind(whole) ? single : whole;
  }
  return promote(x, y);
}
DType result_type(const Tensor& a, const Scalar& b) {
  if (b.is_floating()) return is_floating(a.dtype()) ? a.dtype() : kFloat32;
  return a.dtype() == kBool ? b.dtype() : a.dtype();
}
bool can_cast(DType from, DType to) {
  if (is_floating(from)) return is_floating(to);
  return from == kBool || to != kBool;
}

Tensor ops_detail::apply(kernels::Binary op, const Tensor& a, const Tensor& b, const char* who,
                         DType out) {
  same_device(who, a, b);
  const Shape sizes = broadcast_shapes(a.sizes(), b.sizes(), who);
  Tensor y = empty(sizes, {out, a.device()});
  if (a.sizes() == sizes && b.sizes() == sizes)
    run<kernels::binary>(a.device(), op, a.in(), b.in(), y.out());
  else
    run<kernels::binary>(a.device(), op, detail::broadcast_to(a, sizes).in(),
                         detail::broadcast_to(b, sizes).in(), y.out());
  return y;
}

}  // namespace dropin
