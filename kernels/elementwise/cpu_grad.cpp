// Rows of gradients of unary functions, and of the small fused updates: affine, axpy, clamp, where.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise/cpu_grad.cpp"
#include "hwy/foreach_target.h"
//
#include "kernels/elementwise/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

template <class D>
VecOf<D> constant(D d, double c) {
  return hn::Set(d, static_cast<hn::TFromD<D>>(c));
}
template <class D>
HWY_INLINE VecOf<D> sign(D d, VecOf<D> x) {
  const auto one = constant(d, 1), zero = hn::Zero(d);
  return hn::Sub(hn::IfThenElseZero(hn::Gt(x, zero), one),
                 hn::IfThenElseZero(hn::Lt(x, zero), one));
}
template <class D>
constexpr hn::TFromD<D> largest() {
  return std::numeric_limits<hn::TFromD<D>>::max();
}
// The slopes have limits at infinity: x is bounded before it meets a factor that is 0 there. NaN
// comes through the other factors.
/// s (1 + x (1 - s)) with s = sigmoid(x)
template <class D>
HWY_INLINE VecOf<D> silu_slope(D d, VecOf<D> x) {
  const auto s = sigmoid(d, x);
  return hn::MulAdd(hn::Mul(s, bounded(d, x, largest<D>())), hn::Sub(constant(d, 1), s), s);
}
/// Phi(x) + x phi(x)
template <class D>
HWY_INLINE VecOf<D> gelu_slope(D d, VecOf<D> x) {
  VecOf<D> bell;
  const auto cdf = normal_cdf(d, x, &bell);
  return hn::MulAdd(hn::Mul(bounded(d, x, largest<D>()), constant(d, 0.39894228040143267794)), bell,
                    cdf);
}
/// gelu = x sigmoid(u), u = x (a + b x^2): s + x s (1 - s) (a + 3 b x^2)
template <class D>
HWY_INLINE VecOf<D> gelu_tanh_slope(D d, VecOf<D> unbounded) {
  const double a = 2 * 0.79788456080286535588, b = a * 0.044715;
  const auto x = bounded(d, unbounded, 100);  // s (1 - s) is 0 long before; x^2 would overflow
  const auto x2 = hn::Mul(x, x);
  const auto s = sigmoid(d, hn::Mul(x, hn::MulAdd(x2, constant(d, b), constant(d, a))));
  const auto du = hn::MulAdd(x2, constant(d, 3 * b), constant(d, a));
  return keep_nan<D>(unbounded,
                     hn::MulAdd(hn::Mul(hn::Mul(x, s), hn::Sub(constant(d, 1), s)), du, s));
}

template <class T, class F>
Row vector_row(F) {
  return [](const RowArgs&, void* y, const void* const* in, const int64_t* step, int64_t n)
             HWY_ATTR { row2<T>(y, in, step, n, F()); };
}
#define GRAD(OP, EXPR)                                         \
  case UnaryGrad::OP:                                          \
    return vector_row<T>([](auto d, auto g, auto s) HWY_ATTR { \
      (void)d;                                                 \
      return EXPR;                                             \
    })
template <class T>
Row grad_row(UnaryGrad op) {
  switch (op) {
    GRAD(Tanh, hn::Mul(g, hn::NegMulAdd(s, s, constant(d, 1))));
    GRAD(Sigmoid, hn::Mul(g, hn::Mul(s, hn::Sub(constant(d, 1), s))));
    GRAD(Exp, hn::Mul(g, s));
    GRAD(Sqrt, hn::Div(g, hn::Add(s, s)));
    GRAD(Rsqrt, hn::Mul(hn::Mul(g, constant(d, -0.5)), hn::Mul(s, hn::Mul(s, s))));
    GRAD(Reciprocal, hn::Neg(hn::Mul(g, hn::Mul(s, s))));
    GRAD(Relu, hn::IfThenZeroElse(hn::Le(s, hn::Zero(d)), g));
    GRAD(Log, hn::Div(g, s));
    GRAD(Silu, hn::Mul(g, silu_slope(d, s)));
    GRAD(Gelu, hn::Mul(g, gelu_slope(d, s)));
    GRAD(GeluTanh, hn::Mul(g, gelu_tanh_slope(d, s)));
    GRAD(Softplus, hn::Mul(g, sigmoid(d, s)));
    GRAD(Square, hn::Mul(g, hn::Add(s, s)));
    GRAD(Abs, hn::Mul(g, sign(d, s)));
    GRAD(Sin, hn::Mul(g, cos(d, s)));
    GRAD(Cos, hn::Neg(hn::Mul(g, sin(d, s))));
  }
  return nullptr;
}
#undef GRAD

/// A factor of integers, converted as by copy: truncated, saturated, 0 for NaN.
std::uint64_t whole(double v) {
  if (v != v) return 0;
  if (v >= 0x1p63) return static_cast<std::uint64_t>(std::numeric_limits<int64_t>::max());
  return static_cast<std::uint64_t>(v <= -0x1p63 ? std::numeric_limits<int64_t>::min()
                                                 : static_cast<int64_t>(v));
}

template <class T>
void affine(const RowArgs& args, void* y, const void* const* in, const int64_t* step, int64_t n) {
  if constexpr (std::is_floating_point_v<T>) {
    const T a = static_cast<T>(args.a), b = static_cast<T>(args.b);
    if (b == 0)
      row1<T>(y, in, step, n,
              [a](auto d, auto x) HWY_ATTR { return hn::Mul(x, hn::Set(d, a)); });  // keeps -0
    else
      row1<T>(y, in, step, n, [a, b](auto d, auto x) HWY_ATTR {
        return hn::MulAdd(x, hn::Set(d, a), hn::Set(d, b));
      });
  } else {  // wraps
    const std::uint64_t a = whole(args.a), b = whole(args.b);
    loop1<T, T>(y, in, step, n, [a, b](T x) HWY_ATTR {
      return static_cast<T>(static_cast<std::uint64_t>(x) * a + b);
    });
  }
}
template <class T>
void axpy_values(const RowArgs& args, void* y, const void* const* in, const int64_t* step,
                 int64_t n) {
  if constexpr (std::is_floating_point_v<T>) {
    const T a = static_cast<T>(args.a);
    if (a == 1)
      row2<T>(y, in, step, n, [](auto, auto y, auto x) HWY_ATTR { return hn::Add(y, x); });
    else
      row2<T>(y, in, step, n,
              [a](auto d, auto y, auto x) HWY_ATTR { return hn::MulAdd(hn::Set(d, a), x, y); });
  } else {
    const std::uint64_t a = whole(args.a);
    loop2<T, T>(y, in, step, n, [a](T y, T x) HWY_ATTR {
      return static_cast<T>(static_cast<std::uint64_t>(y) + a * static_cast<std::uint64_t>(x));
    });
  }
}
template <class T>
void clamp_values(const RowArgs& args, void* y, const void* const* in, const int64_t* step,
                  int64_t n) {
  if constexpr (std::is_floating_point_v<T>) {
    const T lo = static_cast<T>(args.a), hi = static_cast<T>(args.b);
    row1<T>(y, in, step, n, [lo, hi](auto d, auto x) HWY_ATTR {
      return keep_nan<decltype(d)>(x, hn::Min(hn::Max(x, hn::Set(d, lo)), hn::Set(d, hi)));
    });
  } else {  // bounds that the type can not hold do not bind, nor does NaN
    constexpr T min = std::numeric_limits<T>::min(), max = std::numeric_limits<T>::max();
    const double least = static_cast<double>(min), most = static_cast<double>(max);
    const T lo = !(args.a > least) ? min : args.a >= most ? max : static_cast<T>(std::ceil(args.a));
    const T hi = !(args.b < most)  ? max
                 : args.b <= least ? min
                                   : static_cast<T>(std::floor(args.b));
    loop1<T, T>(y, in, step, n, [lo, hi](T x) HWY_ATTR {
      const T v = x < lo ? lo : x;
      return v > hi ? hi : v;
    });
  }
}
template <class T>
void select(const RowArgs&, void* y, const void* const* in, const int64_t* step, int64_t n) {
  const auto* c = static_cast<const std::uint8_t*>(in[0]);
  T* q = static_cast<T*>(y);
  if (!step[0]) {  // one condition for the row
    const int64_t s = *c ? step[1] : step[2];
    const T* from = static_cast<const T*>(*c ? in[1] : in[2]);
    if (s)
      std::memmove(q, from, static_cast<std::size_t>(n) * sizeof(T));
    else
      for (int64_t i = 0; i < n; ++i) q[i] = *from;
    return;
  }
  const T *a = static_cast<const T*>(in[1]), *b = static_cast<const T*>(in[2]);
  auto each = [=](auto at_a, auto at_b) HWY_ATTR {
    for (int64_t i = 0; i < n; ++i) {
      const T u = at_a(i), v = at_b(i);
      q[i] = c[i] ? u : v;
    }
  };
  auto unit = [](const T* p) HWY_ATTR { return [p](int64_t i) HWY_ATTR { return p[i]; }; };
  auto same = [](const T* p) HWY_ATTR { return [v = *p](int64_t) HWY_ATTR { return v; }; };
  if (step[1] && step[2])
    each(unit(a), unit(b));
  else if (step[1])
    each(unit(a), same(b));
  else if (step[2])
    each(same(a), unit(b));
  else
    each(same(a), same(b));
}

#define BY_TYPE(FN)             \
  switch (t) {                  \
    case DType::Float32:        \
      return &FN<float>;        \
    case DType::Float64:        \
      return &FN<double>;       \
    case DType::Int8:           \
      return &FN<std::int8_t>;  \
    case DType::UInt8:          \
      return &FN<std::uint8_t>; \
    case DType::Int32:          \
      return &FN<std::int32_t>; \
    case DType::Int64:          \
      return &FN<int64_t>;      \
    default:                    \
      return nullptr;           \
  }
Row affine_simd(DType t){BY_TYPE(affine)} Row axpy_simd(DType t){BY_TYPE(axpy_values)} Row
    clamp_simd(DType t){BY_TYPE(clamp_values)}
#undef BY_TYPE
Row where_simd(DType t) {
  switch (item_size(t)) {
    case 1:
      return &select<std::uint8_t>;
    case 2:
      return &select<std::uint16_t>;
    case 4:
      return &select<std::uint32_t>;
    default:
      return &select<std::uint64_t>;
  }
}
Row grad_simd(UnaryGrad op, DType t) {
  return t == DType::Float32   ? grad_row<float>(op)
         : t == DType::Float64 ? grad_row<double>(op)
                               : nullptr;
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(affine_simd);
HWY_EXPORT(axpy_simd);
HWY_EXPORT(clamp_simd);
HWY_EXPORT(where_simd);
HWY_EXPORT(grad_simd);
Row affine_row(DType t) { return HWY_DYNAMIC_DISPATCH(affine_simd)(t); }
Row axpy_row(DType t) { return HWY_DYNAMIC_DISPATCH(axpy_simd)(t); }
Row clamp_row(DType t) { return HWY_DYNAMIC_DISPATCH(clamp_simd)(t); }
Row where_row(DType t) { return HWY_DYNAMIC_DISPATCH(where_simd)(t); }
Row unary_grad_row(UnaryGrad op, DType t) { return HWY_DYNAMIC_DISPATCH(grad_simd)(op, t); }
}  // namespace dropin::kernels
#endif
