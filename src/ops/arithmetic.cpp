// Sums, products, powers and extremes of two operands.
#include <cmath>

#include "dropin/ops/reduce.h"
#include "ops/pointwise.h"

namespace dropin {

using kernels::Binary;
using ops_detail::apply;
using ops_detail::beside;
using ops_detail::promoted;
using ops_detail::real;

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

}  // namespace dropin
