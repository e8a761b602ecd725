// Rows of functions of one variable.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise/cpu_unary.cpp"
#include "hwy/foreach_target.h"
//
#include "kernels/elementwise/rows-inl.h"
#include "kernels/hd.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

template <class T, class F>
Row vector_row(F) {
  return [](const RowArgs&, void* y, const void* const* in, const int64_t* step, int64_t n)
             HWY_ATTR { row1<T>(y, in, step, n, F()); };
}
template <class T, class R, class F>
Row scalar_row(F) {
  return [](const RowArgs&, void* y, const void* const* in, const int64_t* step, int64_t n)
             HWY_ATTR { loop1<T, R>(y, in, step, n, F()); };
}

template <class D>
VecOf<D> constant(D d, double c) {
  return hn::Set(d, static_cast<hn::TFromD<D>>(c));
}

#define VECTOR(OP, EXPR)                               \
  case Unary::OP:                                      \
    return vector_row<T>([](auto d, auto x) HWY_ATTR { \
      (void)d;                                         \
      return EXPR;                                     \
    })
#define SCALAR(OP, EXPR) \
  case Unary::OP:        \
    return scalar_row<T, T>([](T x) HWY_ATTR -> T { return EXPR; })
#define TEST(OP, EXPR) \
  case Unary::OP:      \
    return scalar_row<T, bool>([](T x) HWY_ATTR -> bool { return EXPR; })

template <class T>
Row float_row(Unary op) {
  switch (op) {
    VECTOR(Neg, hn::Neg(x));
    VECTOR(Abs, hn::Abs(x));
    VECTOR(Sign, hn::Sub(hn::IfThenElseZero(hn::Gt(x, hn::Zero(d)), constant(d, 1)),
                         hn::IfThenElseZero(hn::Lt(x, hn::Zero(d)), constant(d, 1))));
    VECTOR(Square, hn::Mul(x, x));
    VECTOR(Exp, exp(d, x));
    VECTOR(Exp2, exp2(d, x));
    VECTOR(Expm1, expm1(d, x));
    VECTOR(Log, log(d, x));
    SCALAR(Log2, std::log2(x));
    VECTOR(Log1p, log1p(d, x));
    VECTOR(Sqrt, hn::Sqrt(x));
    VECTOR(Rsqrt, hn::Div(constant(d, 1), hn::Sqrt(x)));
    VECTOR(Reciprocal, hn::Div(constant(d, 1), x));
    VECTOR(Sin, sin(d, x));
    VECTOR(Cos, cos(d, x));
    SCALAR(Tan, std::tan(x));
    SCALAR(Asin, std::asin(x));
    SCALAR(Acos, std::acos(x));
    SCALAR(Atan, std::atan(x));
    SCALAR(Sinh, std::sinh(x));
    SCALAR(Cosh, std::cosh(x));
    VECTOR(Tanh, tanh(d, x));
    VECTOR(Sigmoid, sigmoid(d, x));
    VECTOR(LogSigmoid, hn::Neg(softplus(d, hn::Neg(x))));
    VECTOR(Softplus, softplus(d, x));
    VECTOR(Relu, hn::IfThenZeroElse(hn::Le(x, hn::Zero(d)), x));
    VECTOR(Silu, weighted(d, x, sigmoid(d, x)));
    VECTOR(Gelu, weighted(d, x, normal_cdf(d, x)));
    VECTOR(GeluTanh,
           weighted(
               d, x,
               sigmoid(d, hn::Mul(x, hn::MulAdd(hn::Mul(x, x),
                                                constant(d, 2 * 0.79788456080286535588 * 0.044715),
                                                constant(d, 2 * 0.79788456080286535588))))));
    VECTOR(Erf, erf(d, x));
    VECTOR(Floor, hn::Floor(x));
    VECTOR(Ceil, hn::Ceil(x));
    VECTOR(Round, hn::Round(x));
    VECTOR(Trunc, hn::Trunc(x));
    TEST(LogicalNot, x == 0);
    TEST(IsNan, x != x);
    TEST(IsInf, std::fabs(x) == kInf<T>);
    TEST(IsFinite, std::fabs(x) < kInf<T>);
  }
  return nullptr;
}

// Unsigned arithmetic: the smallest number has no negative, and wraps.
template <class T>
Row int_row(Unary op) {
  using U = std::make_unsigned_t<T>;
  switch (op) {
    SCALAR(Neg, static_cast<T>(U(0) - static_cast<U>(x)));
    SCALAR(Abs, x < 0 ? static_cast<T>(U(0) - static_cast<U>(x)) : x);
    SCALAR(Sign, static_cast<T>((x > 0) - (x < 0)));
    SCALAR(Square, static_cast<T>(static_cast<std::uint64_t>(x) * static_cast<std::uint64_t>(x)));
    TEST(LogicalNot, x == 0);
    default:
      return nullptr;
  }
}
Row bool_row(Unary op) {
  using T = bool;
  switch (op) {
    TEST(LogicalNot, !x);
    default:
      return nullptr;
  }
}
#undef VECTOR
#undef SCALAR
#undef TEST

Row unary_row_simd(Unary op, DType t) {
  switch (t) {
    case DType::Float32:
      return float_row<float>(op);
    case DType::Float64:
      return float_row<double>(op);
    case DType::Int8:
      return int_row<std::int8_t>(op);
    case DType::UInt8:
      return int_row<std::uint8_t>(op);
    case DType::Int32:
      return int_row<std::int32_t>(op);
    case DType::Int64:
      return int_row<int64_t>(op);
    case DType::Boolean:
      return bool_row(op);
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(unary_row_simd);
Row unary_row(Unary op, DType t) { return HWY_DYNAMIC_DISPATCH(unary_row_simd)(op, t); }
}  // namespace dropin::kernels
#endif
