// What the files of element-wise operations share: operands brought together, functions of one
// tensor and their gradients.
#pragma once
#include "ops/common.h"

namespace dropin::ops_detail {

/// Integers become float32, as in torch.
inline Tensor real(const Tensor& x) { return is_floating(x.dtype()) ? x : x.to(kFloat32); }

/// Two operands of one dtype.
struct Operands {
  Tensor a, b;
};
inline Operands promoted(const Tensor& a, const Tensor& b) {
  const DType t = result_type(a, b);
  return {a.to(t), b.to(t)};
}
/// b as a tensor without dimensions of the dtype that the two together have.
inline Tensor beside(const Tensor& a, const Scalar& b) {
  return scalar(b, {result_type(a, b), a.device()});
}
/// op of two tensors of one dtype, broadcast; off the tape.
Tensor apply(kernels::Binary op, const Tensor& a, const Tensor& b, const char* who, DType out);
/// x within [lo, hi]; at and beyond the ends no gradient.
Tensor clamped(const Tensor& x, double lo, double hi);

inline Tensor raw(kernels::Unary op, const Tensor& x, DType out) {
  Tensor y = empty(x.sizes(), {out, x.device()});
  run<kernels::unary>(x.device(), op, x.in(), y.out());
  return y;
}
inline Tensor raw(kernels::Unary op, const Tensor& x) { return raw(op, x, x.dtype()); }
/// Which of input and result a gradient is computed from.
enum class Keep { X, Y };
/// A function whose gradient has a fused kernel; `define(g, kept)` is the same in recorded
/// operations, for second derivatives.
template <class Define>
Tensor fused_unary(const char* name, kernels::Unary op, kernels::UnaryGrad grad_op, Keep keep,
                   const Tensor& x_, Define define) {
  const Tensor x = real(x_);
  Tensor y = raw(op, x);
  return record(name, y, {x}, {keep == Keep::X ? x : y},
                [grad_op, define](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor kept = s[0];
                  if (grad_enabled()) return {define(g, kept)};
                  Tensor gx = empty_like(g);
                  run<kernels::unary_grad>(g.device(), grad_op, g.in(), kept.in(), gx.out());
                  return {gx};
                });
}
/// A function of x whose gradient is g * slope(x), composed.
template <class Slope>
Tensor composed_unary(const char* name, kernels::Unary op, const Tensor& x_, Slope slope) {
  const Tensor x = real(x_);
  return record(name, raw(op, x), {x}, {x},
                [slope](const Saved& s, const Tensor& g) -> Tensors { return {g * slope(s[0])}; });
}

}  // namespace dropin::ops_detail
