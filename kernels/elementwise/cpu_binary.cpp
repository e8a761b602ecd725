// Rows of functions of two variables.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise/cpu_binary.cpp"
#include "hwy/foreach_target.h"
//
#include "kernels/elementwise/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

template <class T, class F>
Row vector_row(F) {
  return [](const RowArgs&, void* y, const void* const* in, const int64_t* step, int64_t n)
             HWY_ATTR { row2<T>(y, in, step, n, F()); };
}
template <class T, class R, class F>
Row scalar_row(F) {
  return [](const RowArgs&, void* y, const void* const* in, const int64_t* step, int64_t n)
             HWY_ATTR { loop2<T, R>(y, in, step, n, F()); };
}

template <class T>
T python_mod(T a, T b) {
  const T r = std::fmod(a, b);
  if (r == 0) return std::copysign(r, b);
  return (r < 0) != (b < 0) ? r + b : r;
}
/// Python's floor(a / b) with its care for rounding: the exact remainder decides.
template <class T>
T python_floor_div(T a, T b) {
  if (b == 0) return a / b;
  T r = std::fmod(a, b);
  T q = (a - r) / b;
  if (r != 0 && (r < 0) != (b < 0)) q -= 1;
  if (q == 0) return std::copysign(T(0), a / b);
  const T whole = std::floor(q);
  return q - whole > T(0.5) ? whole + 1 : whole;
}

template <class T>
void pow_row(const RowArgs& args, void* y, const void* const* in, const int64_t* step, int64_t n) {
  const T *a = static_cast<const T*>(in[0]), *b = static_cast<const T*>(in[1]);
  T* q = static_cast<T*>(y);
  if (!step[1]) {  // the usual exponents
    if (*b == T(2))
      return row1<T>(y, in, step, n, [](auto, auto x) HWY_ATTR { return hn::Mul(x, x); });
    if (*b == T(1)) return row1<T>(y, in, step, n, [](auto, auto x) HWY_ATTR { return x; });
    if (*b == T(3))
      return row1<T>(y, in, step, n,
                     [](auto, auto x) HWY_ATTR { return hn::Mul(hn::Mul(x, x), x); });
    if (*b == T(-1))
      return row1<T>(y, in, step, n,
                     [](auto d, auto x) HWY_ATTR { return hn::Div(hn::Set(d, T(1)), x); });
  }
  for (int64_t i = 0; i < n; ++i) q[i] = std::pow(a[i * step[0]], b[i * step[1]]);
}

#define VECTOR(OP, EXPR)                                       \
  case Binary::OP:                                             \
    return vector_row<T>([](auto d, auto a, auto b) HWY_ATTR { \
      (void)d;                                                 \
      return EXPR;                                             \
    })
#define SCALAR(OP, EXPR) \
  case Binary::OP:       \
    return scalar_row<T, T>([](T a, T b) HWY_ATTR -> T { return EXPR; })
#define TEST(OP, EXPR) \
  case Binary::OP:     \
    return scalar_row<T, bool>([](T a, T b) HWY_ATTR -> bool { return EXPR; })
#define TESTS                                  \
  TEST(Eq, a == b);                            \
  TEST(Ne, a != b);                            \
  TEST(Lt, a < b);                             \
  TEST(Le, a <= b);                            \
  TEST(Gt, a > b);                             \
  TEST(Ge, a >= b);                            \
  TEST(LogicalAnd, (a != T(0)) & (b != T(0))); \
  TEST(LogicalOr, (a != T(0)) | (b != T(0)));  \
  TEST(LogicalXor, (a != T(0)) != (b != T(0)))

template <class T>
Row float_row(Binary op) {
  switch (op) {
    VECTOR(Add, hn::Add(a, b));
    VECTOR(Sub, hn::Sub(a, b));
    VECTOR(Mul, hn::Mul(a, b));
    VECTOR(Div, hn::Div(a, b));
    SCALAR(FloorDiv, python_floor_div(a, b));
    SCALAR(Remainder, python_mod(a, b));
    case Binary::Pow:
      return &pow_row<T>;
      VECTOR(Maximum, keep_nan<decltype(d)>(a, keep_nan<decltype(d)>(b, hn::Max(a, b))));
      VECTOR(Minimum, keep_nan<decltype(d)>(a, keep_nan<decltype(d)>(b, hn::Min(a, b))));
      SCALAR(Atan2, std::atan2(a, b));
      TESTS;
  }
  return nullptr;
}

/// a^b by squaring, modulo 2^64. Negative exponents: 1 / a^|b| rounded to zero.
template <class T>
T int_pow(T a, T b) {
  if (b < 0)
    return a == 1 ? T(1) : std::is_signed_v<T> && a == T(-1) ? (b % 2 ? T(-1) : T(1)) : T(0);
  std::uint64_t base = static_cast<std::uint64_t>(a), r = 1;
  for (auto e = static_cast<std::uint64_t>(b); e; e >>= 1, base *= base)
    if (e & 1) r *= base;
  return static_cast<T>(r);
}
template <class T>
T wrapping_negative(T a) {
  return static_cast<T>(std::uint64_t(0) - static_cast<std::uint64_t>(a));
}
template <class T>
T floor_div(T a, T b) {
  if (std::is_signed_v<T> && b == T(-1)) return wrapping_negative(a);
  const T q = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}
template <class T>
T floor_mod(T a, T b) {
  if (std::is_signed_v<T> && b == T(-1)) return 0;
  const T r = a % b;
  return (r != 0 && (r < 0) != (b < 0)) ? r + b : r;
}
/// Division of integers; a zero divisor is reported, and gives 0.
template <class T, bool mod>
void divide_row(const RowArgs& args, void* y, const void* const* in, const int64_t* step,
                int64_t n) {
  bool bad = false;
  loop2<T, T>(y, in, step, n, [&bad](T a, T b) -> T {
    if (b == 0) return bad = true, T(0);
    return mod ? floor_mod(a, b) : floor_div(a, b);
  });
  if (bad && args.bad) args.bad->store(true, std::memory_order_relaxed);
}

#define WRAP(OP, SIGN) \
  SCALAR(OP, static_cast<T>(static_cast<std::uint64_t>(a) SIGN static_cast<std::uint64_t>(b)))
template <class T>
Row int_row(Binary op) {
  switch (op) {
    WRAP(Add, +);
    WRAP(Sub, -);
    WRAP(Mul, *);
    case Binary::FloorDiv:
      return &divide_row<T, false>;
    case Binary::Remainder:
      return &divide_row<T, true>;
      SCALAR(Pow, int_pow(a, b));
      SCALAR(Maximum, a < b ? b : a);
      SCALAR(Minimum, b < a ? b : a);
      TESTS;
    default:
      return nullptr;
  }
}
Row bool_row(Binary op) {
  using T = bool;
  switch (op) {
    SCALAR(Add, a | b);
    SCALAR(Mul, a & b);
    SCALAR(Maximum, a | b);
    SCALAR(Minimum, a & b);
    TESTS;
    default:
      return nullptr;
  }
}
#undef WRAP
#undef TESTS
#undef TEST
#undef SCALAR
#undef VECTOR

Row binary_row_simd(Binary op, DType t) {
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
HWY_EXPORT(binary_row_simd);
Row binary_row(Binary op, DType t) { return HWY_DYNAMIC_DISPATCH(binary_row_simd)(op, t); }
}  // namespace dropin::kernels
#endif
