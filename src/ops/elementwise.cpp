#include "dropin/ops/elementwise.h"

#include <cmath>
#include <limits>

#include "dropin/ops/reduce.h"
#include "ops/common.h"

namespace dropin {

using kernels::Binary;
using kernels::Unary;
using kernels::UnaryGrad;
using ops_detail::need_floating;
using ops_detail::same_device;

// --- promotion

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

// --- two operands

namespace {

// Integers become float32, as in torch.
Tensor real(const Tensor& x) { return is_floating(x.dtype()) ? x : x.to(kFloat32); }

Tensor apply(Binary op, const Tensor& a, const Tensor& b, const char* who, DType out) {
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

struct Operands {
  Tensor a, b;
};
Operands promoted(const Tensor& a, const Tensor& b) {
  const DType t = result_type(a, b);
  return {a.to(t), b.to(t)};
}

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

Tensor sum_to(const Tensor& g, const Shape& sizes) {
  if (g.sizes() == sizes) return g;
  const int lead = static_cast<int>(g.dim()) - sizes.size();
  Shape dims;
  for (int i = 0; i < g.dim(); ++i)
    if (i < lead || (sizes[i - lead] == 1 && g.sizes()[i] != 1)) dims.push_back(i);
  Tensor r = dims.empty() ? g : sum(g, dims, true);
  return lead ? r.reshape(sizes) : r;
}

Tensor add(const Tensor& a_, const Tensor& b_, const Scalar& alpha) {
  auto [a, b] = promoted(a_, b_);
  if (alpha.is_floating() && !is_floating(a.dtype()))
    fail<DTypeError>({"add: alpha is a floating number, the tensors are ", a.dtype()});
  if (alpha.to_double() != 1) return add(a, b * alpha);
  const Binary op = a.dtype() == kBool ? Binary::LogicalOr : Binary::Add;
  return record(
      "add", apply(op, a, b, "add", a.dtype()), {a, b}, {},
      [sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
        return {s.needs(0) ? sum_to(g, sa) : Tensor(), s.needs(1) ? sum_to(g, sb) : Tensor()};
      });
}

Tensor sub(const Tensor& a_, const Tensor& b_) {
  if (a_.dtype() == kBool || b_.dtype() == kBool)
    fail<DTypeError>({"sub: not for bool; use logical_xor"});
  auto [a, b] = promoted(a_, b_);
  return record(
      "sub", apply(Binary::Sub, a, b, "sub", a.dtype()), {a, b}, {},
      [sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
        return {s.needs(0) ? sum_to(g, sa) : Tensor(), s.needs(1) ? sum_to(-g, sb) : Tensor()};
      });
}

Tensor mul(const Tensor& a_, const Tensor& b_) {
  auto [a, b] = promoted(a_, b_);
  const Binary op = a.dtype() == kBool ? Binary::LogicalAnd : Binary::Mul;
  const bool keep_a = b.requires_grad(), keep_b = a.requires_grad();
  return record("mul", apply(op, a, b, "mul", a.dtype()), {a, b},
                {keep_a ? a : Tensor(), keep_b ? b : Tensor()},
                [sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
                  return {s.needs(0) ? sum_to(g * s[1], sa) : Tensor(),
                          s.needs(1) ? sum_to(g * s[0], sb) : Tensor()};
                });
}

Tensor div(const Tensor& a_, const Tensor& b_) {
  auto [a, b] = promoted(a_, b_);
  if (!is_floating(a.dtype())) return div(a.to(kFloat32), b.to(kFloat32));
  return record("div", apply(Binary::Div, a, b, "div", a.dtype()), {a, b},
                {b.requires_grad() ? a : Tensor(), b},
                [sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
                  return {s.needs(0) ? sum_to(g / s[1], sa) : Tensor(),
                          s.needs(1) ? sum_to(-(g * (s[0] / s[1] / s[1])), sb) : Tensor()};
                });
}

namespace {
// b as a tensor without dimensions of the dtype that the two together have.
Tensor beside(const Tensor& a, const Scalar& b) {
  return scalar(b, {result_type(a, b), a.device()});
}
}  // namespace

Tensor floor_divide(const Tensor& a_, const Tensor& b_) {
  auto [a, b] = promoted(a_.detach(), b_.detach());
  return apply(Binary::FloorDiv, a, b, "floor_divide", a.dtype());
}
Tensor floor_divide(const Tensor& a, const Scalar& b) { return floor_divide(a, beside(a, b)); }
Tensor remainder(const Tensor& a, const Scalar& b) { return remainder(a, beside(a, b)); }

Tensor remainder(const Tensor& a_, const Tensor& b_) {
  auto [a, b] = promoted(a_, b_);
  return record("remainder", apply(Binary::Remainder, a, b, "remainder", a.dtype()), {a, b}, {a, b},
                [sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
                  return {s.needs(0) ? sum_to(g, sa) : Tensor(),
                          s.needs(1) ? sum_to(-(g * floor_divide(s[0], s[1])), sb) : Tensor()};
                });
}

Tensor pow(const Tensor& a_, const Tensor& b_) {
  auto [a, b] = promoted(a_, b_);
  Tensor y = apply(Binary::Pow, a, b, "pow", a.dtype());
  return record(
      "pow", y, {a, b}, {a, b, b.requires_grad() ? y : Tensor()},
      [sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
        Tensor ga, gb;
        if (s.needs(0)) ga = sum_to(where(s[1] == 0.0, 0.0, g * s[1] * pow(s[0], s[1] - 1.0)), sa);
        // x^y log x, 0 where x = 0 and y >= 0
        if (s.needs(1))
          gb = sum_to(g * where(logical_and(s[0] == 0.0, s[1] >= 0.0), 0.0, s[2] * log(s[0])), sb);
        return {ga, gb};
      });
}

Tensor pow(const Tensor& a, const Scalar& exponent) {
  const DType t = result_type(a, exponent);
  const double e = exponent.to_double();
  if (!is_floating(t)) {
    if (e < 0) fail<OptionError>({"pow: integers to the negative power ", e});
    if (e == 1) return a.to(t).clone();
    return apply(Binary::Pow, a.to(t), scalar(exponent, {t, a.device()}), "pow", t);
  }
  const Tensor x = a.to(t);
  if (e == 2) return square(x);
  if (e == 1) return affine(x, 1, 0);
  if (e == 0.5) return sqrt(x);
  if (e == -1) return reciprocal(x);
  Tensor y =
      e == -0.5 ? rsqrt(x.detach()) : apply(Binary::Pow, x, scalar(e, x.options()), "pow", t);
  return record("pow", y, {x}, {x}, [e](const Saved& s, const Tensor& g) -> Tensors {
    return {e == 0 ? zeros_like(g) : g * (pow(s[0], e - 1) * e)};
  });
}
Tensor pow(const Scalar& base, const Tensor& exponent) {
  return pow(beside(exponent, base), exponent);
}

namespace {

Tensor extremum(Binary op, const Tensor& a_, const Tensor& b_, const char* who) {
  auto [a, b] = promoted(a_, b_);
  return record(
      who, apply(op, a, b, who, a.dtype()), {a, b}, {a, b},
      [op, sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
        // the loser takes none; at a tie both take half, beside a NaN all (torch's rule)
        const Tensor below = s[0]<s[1], above = s[0]> s[1];
        const bool greatest = op == Binary::Maximum;
        const Tensor share = where(s[0] == s[1], g * 0.5, g);
        return {s.needs(0) ? sum_to(where(greatest ? below : above, 0.0, share), sa) : Tensor(),
                s.needs(1) ? sum_to(where(greatest ? above : below, 0.0, share), sb) : Tensor()};
      });
}

}  // namespace

Tensor maximum(const Tensor& a, const Tensor& b) {
  return extremum(Binary::Maximum, a, b, "maximum");
}
Tensor minimum(const Tensor& a, const Tensor& b) {
  return extremum(Binary::Minimum, a, b, "minimum");
}

Tensor atan2(const Tensor& y_, const Tensor& x_) {
  auto [y0, x0] = promoted(y_, x_);
  const Tensor y = real(y0), x = real(x0);
  return record("atan2", apply(Binary::Atan2, y, x, "atan2", y.dtype()), {y, x}, {y, x},
                [sy = y.sizes(), sx = x.sizes()](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor squares = square(s[0]) + square(s[1]);
                  const Tensor scaled =
                      where(squares == 0, 0.0, g / squares);  // none at the origin
                  return {s.needs(0) ? sum_to(scaled * s[1], sy) : Tensor(),
                          s.needs(1) ? sum_to(-(scaled * s[0]), sx) : Tensor()};
                });
}

namespace {

// x * m + a in dtype t.
Tensor scaled(const Tensor& x_, DType t, const Scalar& m, const Scalar& a) {
  const Tensor x = x_.to(t);
  if (t == kBool || !m.fits_double() || !a.fits_double()) {
    const TensorOptions one{t, x.device()};
    return add(mul(x, scalar(m, one)), scalar(a, one));
  }
  const double factor = m.to_double();
  Tensor y = empty(x.sizes(), x.options());
  run<kernels::affine>(x.device(), x.in(), factor, a.to_double(), y.out());
  return record("affine", y, {x}, {}, [factor](const Saved&, const Tensor& g) -> Tensors {
    return {factor == 1 ? g : g * factor};
  });
}
void no_bool_difference(const Tensor& a, const Scalar& b) {
  if (a.dtype() == kBool || b.dtype() == kBool)
    fail<DTypeError>({"sub: not for bool; use logical_xor"});
}

}  // namespace

Tensor affine(const Tensor& x, const Scalar& m, const Scalar& a) {
  return scaled(x, ops_detail::result_type(x, m, a), m, a);
}

Tensor operator+(const Tensor& a, const Scalar& b) { return scaled(a, result_type(a, b), 1, b); }
Tensor operator-(const Tensor& a, const Scalar& b) {
  no_bool_difference(a, b);
  const DType t = result_type(a, b);
  if (b.is_floating()) return scaled(a, t, 1, -b.to_double());
  if (b.fits_double()) return scaled(a, t, 1, -b.to_int64());
  return sub(a.to(t), scalar(b, {t, a.device()}));
}
Tensor operator*(const Tensor& a, const Scalar& b) { return scaled(a, result_type(a, b), b, 0); }
Tensor operator/(const Tensor& a, const Scalar& b) {
  // division, not multiplication by a rounded reciprocal
  const Tensor x = real(a);
  return div(x, scalar(b, x.options()));
}
Tensor operator+(const Scalar& a, const Tensor& b) { return b + a; }
Tensor operator-(const Scalar& a, const Tensor& b) {
  no_bool_difference(b, a);
  return scaled(b, result_type(b, a), -1, a);
}
Tensor operator*(const Scalar& a, const Tensor& b) { return b * a; }
Tensor operator/(const Scalar& a, const Tensor& b) {
  const Tensor x = real(b);
  return div(scalar(a, x.options()), x);
}
Tensor operator-(const Tensor& a) { return neg(a); }

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

// --- one operand

namespace {

Tensor raw(Unary op, const Tensor& x, DType out) {
  Tensor y = empty(x.sizes(), {out, x.device()});
  run<kernels::unary>(x.device(), op, x.in(), y.out());
  return y;
}
Tensor raw(Unary op, const Tensor& x) { return raw(op, x, x.dtype()); }
enum class Keep { X, Y };
// A function whose gradient has a fused kernel; `define(g, kept)` is the same in recorded
// operations, for second derivatives.
template <class Define>
Tensor fused_unary(const char* name, Unary op, UnaryGrad grad_op, Keep keep, const Tensor& x_,
                   Define define) {
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
// A function of x whose gradient is g * slope(x), composed.
template <class Slope>
Tensor composed_unary(const char* name, Unary op, const Tensor& x_, Slope slope) {
  const Tensor x = real(x_);
  return record(name, raw(op, x), {x}, {x},
                [slope](const Saved& s, const Tensor& g) -> Tensors { return {g * slope(s[0])}; });
}
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

// --- activations

namespace {
Tensor clamped(const Tensor& x, double lo, double hi) {
  Tensor y = empty(x.sizes(), x.options());
  run<kernels::clamp>(x.device(), x.in(), lo, hi, y.out());
  return record("clamp", y, {x}, {x}, [lo, hi](const Saved& s, const Tensor& g) -> Tensors {
    return {where(logical_and(s[0] > lo, s[0] < hi), g, 0.0)};
  });
}
}  // namespace

Tensor sigmoid(const Tensor& x) {
  return fused_unary("sigmoid", Unary::Sigmoid, UnaryGrad::Sigmoid, Keep::Y, x,
                     [](const Tensor& g, const Tensor& y) { return g * y * (1.0 - y); });
}
Tensor logsigmoid(const Tensor& x) {
  return composed_unary("logsigmoid", Unary::LogSigmoid, x,
                        [](const Tensor& v) { return sigmoid(-v); });
}
Tensor softplus(const Tensor& x, double beta, double threshold) {
  if (beta != 1) return where(x * beta > threshold, x, softplus(x * beta, 1, threshold) / beta);
  if (threshold != 20) return where(x > threshold, x, softplus(x));
  return fused_unary("softplus", Unary::Softplus, UnaryGrad::Softplus, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g * sigmoid(v); });
}
Tensor relu(const Tensor& x) {
  if (!is_floating(x.dtype())) return clamped(x, 0, std::numeric_limits<double>::infinity());
  return fused_unary("relu", Unary::Relu, UnaryGrad::Relu, Keep::Y, x,
                     [](const Tensor& g, const Tensor& y) { return where(y <= 0, 0.0, g); });
}
Tensor relu6(const Tensor& x) {  // as torch's hardtanh: no gradient at the corners
  return record("relu6", clamp(x.detach(), 0, 6), {x}, {x},
                [](const Saved& s, const Tensor& g) -> Tensors {
                  return {where(logical_or(s[0] <= 0, s[0] >= 6), 0.0, g)};
                });
}
Tensor leaky_relu(const Tensor& x, double slope) { return where(x > 0.0, x, x * slope); }
Tensor elu(const Tensor& x_, double alpha) {  // its slope at 0 is alpha
  const Tensor x = real(x_), v = x.detach();
  const double inf = std::numeric_limits<double>::infinity();
  return record("elu", where(v > 0, v, expm1(clamp(v, -inf, 0)) * alpha), {x}, {x},
                [alpha, inf](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor low = where(s[0] > 0, 0.0, s[0]);  // so that exp stays finite
                  return {where(s[0] <= 0, g * (exp(low) * alpha), g)};
                });
}
Tensor selu(const Tensor& x) {
  return elu(x, 1.6732632423543772848170429916717) * 1.0507009873554804934193349852946;
}
namespace {
Tensor silu_slope(const Tensor& v) {
  const Tensor s = sigmoid(v);
  return s * (v * (1.0 - s) + 1.0);
}
Tensor gelu_slope(const Tensor& v) {
  return (erf(v * std::sqrt(0.5)) + 1.0) * 0.5 +
         v * exp(square(v) * -0.5) * (1 / std::sqrt(2 * M_PI));
}
Tensor gelu_tanh_slope(const Tensor& v) {
  const double k = std::sqrt(2 / M_PI), c = 0.044715;
  const Tensor t = tanh((v + v * v * v * c) * k);
  return (t + 1.0) * 0.5 + v * (1.0 - square(t)) * (square(v) * (3 * c) + 1.0) * (0.5 * k);
}
}  // namespace
Tensor silu(const Tensor& x) {
  return fused_unary("silu", Unary::Silu, UnaryGrad::Silu, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g * silu_slope(v); });
}
Tensor gelu(const Tensor& x, std::string_view approximate) {
  if (approximate == "tanh")
    return fused_unary("gelu", Unary::GeluTanh, UnaryGrad::GeluTanh, Keep::X, x,
                       [](const Tensor& g, const Tensor& v) { return g * gelu_tanh_slope(v); });
  if (approximate != "none")
    fail<OptionError>({"gelu: approximate is \"", approximate, "\", expected none or tanh"});
  return fused_unary("gelu", Unary::Gelu, UnaryGrad::Gelu, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g * gelu_slope(v); });
}
Tensor softsign(const Tensor& x) { return x / (abs(x) + 1.0); }
Tensor hardsigmoid(const Tensor& x_) {
  const Tensor x = real(x_);
  return record("hardsigmoid", relu6(x.detach() + 3.0) / 6.0, {x}, {x},
                [](const Saved& s, const Tensor& g) -> Tensors {
                  return {where(logical_and(s[0] > -3, s[0] < 3), g / 6.0, 0.0)};
                });
}
Tensor hardswish(
    const Tensor& x) {  // by its slope: the product's would be 0 times infinity far below
  return record("hardswish", x.detach() * hardsigmoid(x.detach()), {x}, {x},
                [](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor inside = where(s[0] < 3, g * (s[0] / 3.0 + 0.5), g);
                  return {where(s[0] <= -3, 0.0, inside)};
                });
}

// --- selection

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

// --- methods

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
