// Vector functions that the kernels share. Included once per target, after hwy/highway.h (no
// ordinary include guard). Accuracy, relative to the true value: f32 2-4 ulp, f64 a few 1e-16. NaN
// in gives NaN out; infinities give the limits.
#if defined(DROPIN_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_KERNELS_SIMD_INL_H_
#undef DROPIN_KERNELS_SIMD_INL_H_
#else
#define DROPIN_KERNELS_SIMD_INL_H_
#endif

#include <cmath>
#include <cstring>
#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
using Tag = hn::ScalableTag<T>;
template <class D>
using VecOf = hn::Vec<D>;

/// Copies of the first `n` lanes; the rest of a vector is zero.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE VecOf<D> load_first(D d, const T* p, std::size_t n) {
  HWY_ALIGN T buffer[hn::MaxLanes(d)] = {};
  std::memcpy(buffer, p, n * sizeof(T));
  return hn::Load(d, buffer);
}
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store_first(VecOf<D> v, D d, T* p, std::size_t n) {
  HWY_ALIGN T buffer[hn::MaxLanes(d)];
  hn::Store(v, d, buffer);
  std::memcpy(p, buffer, n * sizeof(T));
}

/// c[0] + c[1] x + ... by Horner's rule.
template <class D, class T, std::size_t N>
HWY_INLINE VecOf<D> polynomial(D d, VecOf<D> x, const T (&c)[N]) {
  auto y = hn::Set(d, c[N - 1]);
  for (std::size_t i = N - 1; i-- > 0;) y = hn::MulAdd(y, x, hn::Set(d, c[i]));
  return y;
}

/// 2^n for integral n in [-127, 128] (f32) or [-1023, 1024] (f64): the sum with the magic number
/// leaves n + bias in the low bits of the mantissa.
template <class D>
HWY_INLINE VecOf<D> power_of_two(D d, VecOf<D> n) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    const hn::RebindToUnsigned<D> du;
    return hn::BitCast(
        d, hn::ShiftLeft<23>(hn::BitCast(du, hn::Add(n, hn::Set(d, 12582912.0f + 127)))));
  } else {
    const hn::RebindToUnsigned<D> du;
    return hn::BitCast(
        d, hn::ShiftLeft<52>(hn::BitCast(du, hn::Add(n, hn::Set(d, 6755399441055744.0 + 1023)))));
  }
}

/// e^r for |r| <= ln(2)/2.
template <class D>
HWY_INLINE VecOf<D> exp_reduced(D d, VecOf<D> r) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    constexpr float c[] = {0.5f, 1.f / 6, 1.f / 24, 1.f / 120, 1.f / 720, 1.f / 5040};
    return hn::Add(hn::MulAdd(hn::Mul(r, r), polynomial(d, r, c), r), hn::Set(d, 1.f));
  } else {
    constexpr double c[] = {1. / 2,       1. / 6,        1. / 24,        1. / 120,
                            1. / 720,     1. / 5040,     1. / 40320,     1. / 362880,
                            1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800.};
    return hn::Add(hn::MulAdd(hn::Mul(r, r), polynomial(d, r, c), r), hn::Set(d, 1.0));
  }
}

/// n and e^r with x = n ln(2) + r.
template <class D>
HWY_INLINE VecOf<D> exp_split(D d, VecOf<D> x, VecOf<D>& n) {
  using T = hn::TFromD<D>;
  constexpr bool f32 = sizeof(T) == 4;
  n = hn::Round(hn::Mul(x, hn::Set(d, static_cast<T>(1.442695040888963407359924681))));
  auto r = hn::NegMulAdd(n,
                         hn::Set(d, f32 ? static_cast<T>(0.693145751953125)
                                        : static_cast<T>(6.93147180369123816490e-01)),
                         x);
  r = hn::NegMulAdd(n,
                    hn::Set(d, f32 ? static_cast<T>(1.428606765330187045e-6)
                                   : static_cast<T>(1.90821492927058770002e-10)),
                    r);
  return exp_reduced(d, r);
}

// IsNaN, not Ne(x, x): on AVX-512 Highway 1.0.3 compares that "ordered", and a NaN is not unequal
// to itself.
template <class D>
HWY_INLINE VecOf<D> keep_nan(VecOf<D> x, VecOf<D> y) {
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}
/// Multiplies by 2^n in two steps, so that subnormal results and those near the largest number come
/// out right.
template <class D>
HWY_INLINE VecOf<D> scale_by_power(D d, VecOf<D> y, VecOf<D> n) {
  const auto half = hn::Floor(hn::Mul(n, hn::Set(d, static_cast<hn::TFromD<D>>(0.5))));
  return hn::Mul(hn::Mul(y, power_of_two(d, half)), power_of_two(d, hn::Sub(n, half)));
}

template <class D>
HWY_INLINE VecOf<D> exp(D d, VecOf<D> x) {
  using T = hn::TFromD<D>;
  constexpr bool f32 = sizeof(T) == 4;
  const auto clamped = hn::Min(hn::Max(x, hn::Set(d, static_cast<T>(f32 ? -105 : -750))),
                               hn::Set(d, static_cast<T>(f32 ? 90 : 711)));
  VecOf<D> n;
  const auto y = exp_split(d, clamped, n);
  return keep_nan<D>(x, scale_by_power(d, y, n));
}

template <class D>
HWY_INLINE VecOf<D> exp2(D d, VecOf<D> x) {
  using T = hn::TFromD<D>;
  constexpr bool f32 = sizeof(T) == 4;
  const auto clamped = hn::Min(hn::Max(x, hn::Set(d, static_cast<T>(f32 ? -152 : -1080))),
                               hn::Set(d, static_cast<T>(f32 ? 129 : 1025)));
  const auto n = hn::Round(clamped);
  const auto r = hn::Mul(hn::Sub(clamped, n), hn::Set(d, static_cast<T>(0.693147180559945309417)));
  return keep_nan<D>(x, scale_by_power(d, exp_reduced(d, r), n));
}

/// x, but not below (above) the limit; a NaN stays: x86 gives the second operand then, others NaN,
/// and only the scalar target the first.
template <class D>
HWY_INLINE VecOf<D> at_least(D d, VecOf<D> x, hn::TFromD<D> limit) {
  const auto low = hn::Set(d, limit);
#if HWY_TARGET == HWY_SCALAR
  return hn::IfThenElse(hn::Lt(x, low), low, x);
#else
  return hn::Max(low, x);
#endif
}
template <class D>
HWY_INLINE VecOf<D> at_most(D d, VecOf<D> x, hn::TFromD<D> limit) {
  const auto high = hn::Set(d, limit);
#if HWY_TARGET == HWY_SCALAR
  return hn::IfThenElse(hn::Gt(x, high), high, x);
#else
  return hn::Min(high, x);
#endif
}

/// e^x for x <= 0 (NaN stays): the cheap form inside softmax, sigmoid and erf. Results below the
/// normal numbers are 0.
template <class D>
HWY_INLINE VecOf<D> exp_nonpositive(D d, VecOf<D> x) {
  using T = hn::TFromD<D>;
  const auto low = hn::Set(d, static_cast<T>(sizeof(T) == 4 ? -87.3 : -708.3));
  VecOf<D> n;
  const auto y = exp_split(d, x, n);
  return hn::IfThenZeroElse(hn::Lt(x, low), hn::Mul(y, power_of_two(d, n)));
}

/// e^x in f32 for x <= 0 that is not -inf: two thirds of exp_nonpositive's work, 3e-7 relative.
/// Below -87 it stays at e^-87; a NaN stays.
template <class D>
HWY_INLINE VecOf<D> exp_weight(D d, VecOf<D> x) {
#if !HWY_NATIVE_FMA  // the remainder is exact only where a product is not rounded before its
                     // difference
  return exp_nonpositive(d, at_least(d, x, -87.0f));
#else
  const hn::RebindToUnsigned<D> du;
  const auto magic = hn::Set(d, 12582912.0f), high = hn::Set(d, 1.4426950216293335f),
             low = hn::Set(d, 1.925963033500011e-08f);
  const auto y = at_least(d, x, -87.0f);
  const auto t = hn::MulAdd(y, high, magic),
             n = hn::Sub(t, magic);  // the low bits of t are the whole number nearest to y / ln 2
  const auto r = hn::MulAdd(y, low, hn::MulSub(y, high, n));
  constexpr float c[] = {1.000000071654662f,    0.6931469670640854f,
                         0.240221197239103f,    0.055507132746006375f,
                         0.009675541331622933f, 0.0013276471635976818f};  // 2^r, |r| <= 1/2
  return hn::BitCast(
      d, hn::Add(hn::BitCast(du, polynomial(d, r, c)), hn::ShiftLeft<23>(hn::BitCast(du, t))));
#endif
}

template <class D>
HWY_INLINE VecOf<D> log(D d, VecOf<D> x) {
  using T = hn::TFromD<D>;
  const auto zero = hn::Zero(d), inf = hn::Inf(d);
  auto y = hn::Log(d, x);
  y = hn::IfThenElse(hn::Eq(x, zero), hn::Neg(inf), y);
  y = hn::IfThenElse(hn::Eq(x, inf), inf, y);
  return hn::IfThenElse(hn::Ge(x, zero), y, hn::Set(d, std::numeric_limits<T>::quiet_NaN()));
}

template <class D>
HWY_INLINE VecOf<D> log1p(D d, VecOf<D> x) {
  using T = hn::TFromD<D>;
  const auto minus_one = hn::Set(d, static_cast<T>(-1)), inf = hn::Inf(d);
  auto y = hn::Log1p(d, x);
  y = hn::IfThenElse(hn::Eq(x, minus_one), hn::Neg(inf), y);
  y = hn::IfThenElse(hn::Eq(x, inf), inf, y);
  return hn::IfThenElse(hn::Ge(x, minus_one), y, hn::Set(d, std::numeric_limits<T>::quiet_NaN()));
}

template <class D>
HWY_INLINE VecOf<D> expm1(D d, VecOf<D> x) {
  using T = hn::TFromD<D>;
  constexpr bool f32 = sizeof(T) == 4;
  const auto top = hn::Set(d, static_cast<T>(f32 ? 88.7 : 709.7));
  // Above `top` the 1 does not matter, and the last step to overflow is exp's.
  auto y = hn::Expm1(d, hn::Min(hn::Max(x, hn::Set(d, static_cast<T>(f32 ? -105 : -1001))), top));
  y = hn::IfThenElse(hn::Gt(x, top), exp(d, x), y);
  return hn::IfThenElse(hn::Eq(x, hn::Zero(d)), x, keep_nan<D>(x, y));
}

/// x within [-limit, limit]. Whether NaN stays NaN depends on the target.
template <class D>
HWY_INLINE VecOf<D> bounded(D d, VecOf<D> x, hn::TFromD<D> limit) {
  return hn::Min(hn::Max(x, hn::Set(d, -limit)), hn::Set(d, limit));
}
/// x w where w is NaN for NaN and falls to 0 faster than x grows: infinite x counts as the largest
/// number, so that inf 0 is 0.
template <class D>
HWY_INLINE VecOf<D> weighted(D d, VecOf<D> x, VecOf<D> w) {
  return hn::Mul(hn::Max(x, hn::Set(d, std::numeric_limits<hn::TFromD<D>>::lowest())), w);
}

template <class D>
HWY_INLINE VecOf<D> tanh(D d, VecOf<D> x) {
  return keep_nan<D>(x, hn::Tanh(d, bounded(d, x, static_cast<hn::TFromD<D>>(20))));
}

/// f on the vector where every lane is small enough for the vector version, else the C library's on
/// each lane.
template <class D, class V, class S>
HWY_INLINE VecOf<D> in_range(D d, VecOf<D> x, double limit, V&& vector, S&& scalar) {
  if (HWY_LIKELY(hn::AllTrue(d, hn::Le(hn::Abs(x), hn::Set(d, static_cast<hn::TFromD<D>>(limit))))))
    return vector(d, x);
  using T = hn::TFromD<D>;
  HWY_ALIGN T lane[hn::MaxLanes(d)];
  hn::Store(x, d, lane);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) lane[i] = scalar(lane[i]);
  return hn::Load(d, lane);
}

// Beyond 30000 the vector versions' reduction by multiples of pi runs out of digits.
template <class D>
HWY_INLINE VecOf<D> sin(D d, VecOf<D> x) {
  return in_range(
      d, x, 30000, [](auto d, auto x) HWY_ATTR { return hn::Sin(d, x); },
      [](auto x) HWY_ATTR { return std::sin(x); });
}
template <class D>
HWY_INLINE VecOf<D> cos(D d, VecOf<D> x) {
  return in_range(
      d, x, 30000, [](auto d, auto x) HWY_ATTR { return hn::Cos(d, x); },
      [](auto x) HWY_ATTR { return std::cos(x); });
}

/// 1 / (1 + e^-x); through e^-|x| <= 1, so nothing overflows.
template <class D>
HWY_INLINE VecOf<D> sigmoid(D d, VecOf<D> x) {
  const auto one = hn::Set(d, static_cast<hn::TFromD<D>>(1));
  const auto e = exp_nonpositive(d, hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), hn::Add(one, e));
}

/// log(1 + e^x)
template <class D>
HWY_INLINE VecOf<D> softplus(D d, VecOf<D> x) {
  const auto tail = hn::Log1p(d, exp_nonpositive(d, hn::Neg(hn::Abs(x))));
  return keep_nan<D>(x, hn::Add(hn::Max(x, hn::Zero(d)), tail));
}

/// erfc(z) for z >= 0 (NaN stays), given e = exp(-z^2): e t Q(t) with t = 1 / (1 + 0.4 z), Q a
/// Chebyshev fit in 2t - 1.
template <class D>
HWY_INLINE VecOf<D> erfc_given_exp(D d, VecOf<D> z, VecOf<D> e) {
  using T = hn::TFromD<D>;
  const auto one = hn::Set(d, static_cast<T>(1));
  const auto t = hn::Div(one, hn::MulAdd(z, hn::Set(d, static_cast<T>(0.4)), one));
  const auto s = hn::Sub(hn::Add(t, t), one);
  if constexpr (sizeof(T) == 4) {
    constexpr float c[] = {
        0.42161272587912613f,     0.32186077153117842f,    0.18156581047508563f,
        0.068499794971576086f,    0.011342670473006241f,   -0.0033532527495924586f,
        -0.0019189444662674612f,  0.00016556999399446539f, 0.00026371632379318421f,
        -1.0802851927939514e-05f, -2.8064051672275075e-05f};
    return hn::Mul(hn::Mul(e, t), polynomial(d, s, c));
  } else {
    constexpr double c[] = {
        0.42161272812228723,     0.32186073977565927,     0.18156564665922276,
        0.068500458098447625,    0.011344620053543768,    -0.0033572177219048679,
        -0.0019275142232051635,  0.00017568332004232621,  0.00028107762359897705,
        -2.3323223494144642e-05, -4.5042693600871799e-05, 7.8133353831103366e-06,
        7.3004777451222572e-06,  -2.7029522241719813e-06, -9.3933544233904874e-07,
        7.8725496835112637e-07,  7.6528759046111176e-09,  -1.8170530677190366e-07,
        4.4859777528788816e-08,  2.967982426137417e-08,   -1.4297276763253708e-08,
        -2.5848158085343653e-09, 1.8100251661179291e-09,  1.3869554058265714e-11};
    return hn::Mul(hn::Mul(e, t), polynomial(d, s, c));
  }
}

/// exp(-z^2) with the rounding error of z^2 put back: its own error would grow with z^2.
template <class D>
HWY_INLINE VecOf<D> exp_minus_square(D d, VecOf<D> z) {
  const auto sq = hn::Mul(z, z);
  const auto e = exp_nonpositive(d, hn::Neg(sq));
  const auto fixed = hn::NegMulAdd(e, hn::MulSub(z, z, sq), e);
  return hn::IfThenElse(hn::Eq(e, hn::Zero(d)), e, fixed);  // inf - inf
}

template <class D>
HWY_INLINE VecOf<D> erf(D d, VecOf<D> x) {
  using T = hn::TFromD<D>;
  const auto z = hn::Abs(x), one = hn::Set(d, static_cast<T>(1));
  const auto tail = hn::Sub(one, erfc_given_exp(d, z, exp_minus_square(d, z)));
  const auto u = hn::Mul(x, x);
  VecOf<D> p;
  if constexpr (sizeof(T) == 4) {
    constexpr float c[] = {1.1283791658815026f,    -0.37612626903580437f,  0.11283597463488053f,
                           -0.026854328796067244f, 0.0051893119426866174f, -0.00080188549927863873f,
                           7.8824971100866634e-05f};
    p = polynomial(d, u, c);
  } else {
    constexpr double c[] = {
        1.1283791670955126,      -0.37612638903183748,    0.11283791670954882,
        -0.026866170645077334,   0.005223977624823223,    -0.00085483269811296655,
        0.00012055331122299266,  -1.4925595519506043e-05, 1.6461004480962034e-06,
        -1.6350354461959655e-07, 1.4660051998394848e-08,  -1.1373902296430911e-09,
        5.9589307431349414e-11};
    p = polynomial(d, u, c);
  }
  const auto signed_tail = hn::CopySign(tail, x);
  return hn::IfThenElse(hn::Lt(z, one), hn::Mul(x, p),
                        hn::IfThenElse(hn::IsNaN(x), x, signed_tail));
}

/// The normal distribution function of x, and on request exp(-x^2 / 2). Right down to its smallest
/// values (erfc, not 1 + erf).
template <class D>
HWY_INLINE VecOf<D> normal_cdf(D d, VecOf<D> x, VecOf<D>* bell = nullptr) {
  using T = hn::TFromD<D>;
  const auto half = hn::Set(d, static_cast<T>(0.5));
  const auto z = hn::Mul(hn::Abs(x), hn::Set(d, static_cast<T>(0.707106781186547524401)));
  // x^2 / 2 from x itself: z is rounded, and its error would come out multiplied by z^2.
  const auto h = hn::Mul(hn::Mul(x, half), x);
  const auto raw = exp_nonpositive(d, hn::Neg(h));
  const auto e = hn::IfThenElse(hn::Eq(raw, hn::Zero(d)), raw,
                                hn::NegMulAdd(raw, hn::MulSub(hn::Mul(x, half), x, h), raw));
  if (bell) *bell = e;
  const auto tail = hn::Mul(half, erfc_given_exp(d, z, e));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, static_cast<T>(1)), tail));
}

/// Sum, largest and smallest lane, as a scalar.
template <class D>
HWY_INLINE hn::TFromD<D> sum_lanes(D d, VecOf<D> v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}
template <class D>
HWY_INLINE hn::TFromD<D> max_lanes(D d, VecOf<D> v) {
  return hn::GetLane(hn::MaxOfLanes(d, v));
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
