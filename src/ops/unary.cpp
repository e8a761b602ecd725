// Functions of one tensor.
#include <cmath>

#include "ops/pointwise.h"

namespace dropin {

using kernels::Unary;
using kernels::UnaryGrad;
using ops_detail::composed_unary;
using ops_detail::fused_unary;
using ops_detail::Keep;
using ops_detail::raw;

namespace {

// Piecewise constant: gradient zero.
Tensor step_unary(const char* name, Unary op, const Tensor& x) {
  if (x.dtype() == kBool && op != Unary::Sign)
    fail<DTypeError>({name, ": not for bool; bool has no fractions"});
  if (!is_floating(x.dtype())) return op == Unary::Sign && x.dtype() != kBool ? raw(op, x) : x;
  return record(name, raw(op, x), {x}, {},
                [](const Saved&, const Tensor& g) -> Tensors { return {zeros_like(g)}; });
}

}  // namespace

Tensor neg(const Tensor& x) {
  if (x.dtype() == kBool) fail<DTypeError>({"neg: not for bool; use logical_not"});
  return record("neg", raw(Unary::Neg, x), {x}, {},
                [](const Saved&, const Tensor& g) -> Tensors { return {-g}; });
}
Tensor logical_not(const Tensor& a) { return raw(Unary::LogicalNot, a.detach().to(kBool)); }
Tensor isnan(const Tensor& x) {
  return is_floating(x.dtype()) ? raw(Unary::IsNan, x.detach(), kBool)
                                : zeros(x.sizes(), {kBool, x.device()});
}
Tensor isinf(const Tensor& x) {
  return is_floating(x.dtype()) ? raw(Unary::IsInf, x.detach(), kBool)
                                : zeros(x.sizes(), {kBool, x.device()});
}
Tensor isfinite(const Tensor& x) {
  return is_floating(x.dtype()) ? raw(Unary::IsFinite, x.detach(), kBool)
                                : ones(x.sizes(), {kBool, x.device()});
}

Tensor abs(const Tensor& x) {
  if (!is_floating(x.dtype())) return raw(Unary::Abs, x);
  return fused_unary("abs", Unary::Abs, UnaryGrad::Abs, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g * sign(v); });
}
Tensor square(const Tensor& x) {
  if (!is_floating(x.dtype())) return raw(Unary::Square, x.dtype() == kBool ? x.to(kInt64) : x);
  return fused_unary("square", Unary::Square, UnaryGrad::Square, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g * (v * 2.0); });
}
Tensor sign(const Tensor& x) { return step_unary("sign", Unary::Sign, x); }
Tensor floor(const Tensor& x) { return step_unary("floor", Unary::Floor, x); }
Tensor ceil(const Tensor& x) { return step_unary("ceil", Unary::Ceil, x); }
Tensor round(const Tensor& x) { return step_unary("round", Unary::Round, x); }
Tensor trunc(const Tensor& x) { return step_unary("trunc", Unary::Trunc, x); }

Tensor exp(const Tensor& x) {
  return fused_unary("exp", Unary::Exp, UnaryGrad::Exp, Keep::Y, x,
                     [](const Tensor& g, const Tensor& y) { return g * y; });
}
Tensor exp2(const Tensor& x) {
  return composed_unary("exp2", Unary::Exp2, x,
                        [](const Tensor& v) { return exp2(v) * std::log(2.0); });
}
Tensor expm1(const Tensor& x) {
  return composed_unary("expm1", Unary::Expm1, x, [](const Tensor& v) { return exp(v); });
}
Tensor log(const Tensor& x) {
  return fused_unary("log", Unary::Log, UnaryGrad::Log, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g / v; });
}
Tensor log2(const Tensor& x) {
  return composed_unary("log2", Unary::Log2, x,
                        [](const Tensor& v) { return reciprocal(v * std::log(2.0)); });
}
Tensor log1p(const Tensor& x) {
  return composed_unary("log1p", Unary::Log1p, x,
                        [](const Tensor& v) { return reciprocal(v + 1.0); });
}
Tensor sqrt(const Tensor& x) {
  return fused_unary("sqrt", Unary::Sqrt, UnaryGrad::Sqrt, Keep::Y, x,
                     [](const Tensor& g, const Tensor& y) { return g / (y * 2.0); });
}
Tensor rsqrt(const Tensor& x) {
  return fused_unary("rsqrt", Unary::Rsqrt, UnaryGrad::Rsqrt, Keep::Y, x,
                     [](const Tensor& g, const Tensor& y) { return g * (y * y * y * -0.5); });
}
Tensor reciprocal(const Tensor& x) {
  return fused_unary("reciprocal", Unary::Reciprocal, UnaryGrad::Reciprocal, Keep::Y, x,
                     [](const Tensor& g, const Tensor& y) { return -(g * y * y); });
}
Tensor sin(const Tensor& x) {
  return fused_unary("sin", Unary::Sin, UnaryGrad::Sin, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g * cos(v); });
}
Tensor cos(const Tensor& x) {
  return fused_unary("cos", Unary::Cos, UnaryGrad::Cos, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return -(g * sin(v)); });
}
Tensor tan(const Tensor& x) {
  return composed_unary("tan", Unary::Tan, x, [](const Tensor& v) { return square(tan(v)) + 1.0; });
}
Tensor asin(const Tensor& x) {
  return composed_unary("asin", Unary::Asin, x,
                        [](const Tensor& v) { return rsqrt(1.0 - square(v)); });
}
Tensor acos(const Tensor& x) {
  return composed_unary("acos", Unary::Acos, x,
                        [](const Tensor& v) { return -rsqrt(1.0 - square(v)); });
}
Tensor atan(const Tensor& x) {
  return composed_unary("atan", Unary::Atan, x,
                        [](const Tensor& v) { return reciprocal(square(v) + 1.0); });
}
Tensor sinh(const Tensor& x) {
  return composed_unary("sinh", Unary::Sinh, x, [](const Tensor& v) { return cosh(v); });
}
Tensor cosh(const Tensor& x) {
  return composed_unary("cosh", Unary::Cosh, x, [](const Tensor& v) { return sinh(v); });
}
Tensor tanh(const Tensor& x) {
  return fused_unary("tanh", Unary::Tanh, UnaryGrad::Tanh, Keep::Y, x,
                     [](const Tensor& g, const Tensor& y) { return g * (1.0 - square(y)); });
}
Tensor erf(const Tensor& x) {
  return composed_unary("erf", Unary::Erf, x,
                        [](const Tensor& v) { return exp(-square(v)) * (2 / std::sqrt(M_PI)); });
}

}  // namespace dropin
