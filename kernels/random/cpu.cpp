// Random numbers. The words of a few hundred Philox blocks are made in vector code in the order of
// the elements, then turned into numbers while they are in L1. Sums and products are never fused
// (CMakeLists.txt), so that every instruction set gives the same numbers to the last bit.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/random/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "dropin/core/dtype.h"
#include "dropin/core/parallel.h"
#include "kernels/hd.h"
#include "kernels/random/kernel.h"
#include "kernels/random/philox.h"
#include "kernels/simd-inl.h"

#ifndef DROPIN_RANDOM_ARGS_
#define DROPIN_RANDOM_ARGS_
namespace dropin::kernels {
struct RandomFill {
  Distribution d;
  double a, b;
  std::uint64_t seed, offset;
  int64_t n;
};
constexpr int64_t kRandomBlocks = 256, kRandomWords = 4 * kRandomBlocks;  // made together
constexpr int64_t kRandomGrain = 32;  // such batches a thread takes at least: some 20 us

/// What word >> 8 is compared with: below the threshold exactly where unit_float(word) < p.
inline std::uint32_t threshold(float p) {
  return p > 0 ? static_cast<std::uint32_t>(std::ceil(std::min(p, 1.0f) * 16777216.0f)) : 0;
}
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

using U32 = std::uint32_t;
template <class T>
using WordOf = std::conditional_t<sizeof(T) == 8, std::uint64_t, U32>;

#if HWY_TARGET == HWY_SCALAR
void make_words(std::uint64_t seed, std::uint64_t counter, U32* words) {
  for (int64_t i = 0; i < kRandomBlocks; ++i) {
    const philox::Block b = philox::block(seed, counter + static_cast<std::uint64_t>(i));
    std::copy_n(b.w, 4, words + 4 * i);
  }
}
#else
/// a * m, the high and the low halves.
template <class D, class V>
HWY_INLINE void multiply(D d, V a, V m, V& high, V& low) {
  const hn::Repartition<std::uint64_t, D> d64;
  const auto even = hn::MulEven(a, m);
  const auto odd = hn::MulEven(hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(d64, a))), m);
  high = hn::OddEven(hn::BitCast(d, odd), hn::BitCast(d, hn::ShiftRight<32>(even)));
  low = hn::OddEven(hn::BitCast(d, hn::ShiftLeft<32>(odd)), hn::BitCast(d, even));
}

/// philox::block(seed, counter + i) for i < kRandomBlocks, the words one after the other.
void make_words(std::uint64_t seed, std::uint64_t counter, U32* words) {
  const Tag<U32> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto m0 = hn::Set(d, 0xD2511F53u), m1 = hn::Set(d, 0xCD9E8D57u);
  for (int64_t i = 0; i < kRandomBlocks; i += lanes) {
    const std::uint64_t first = counter + static_cast<std::uint64_t>(i);
    const auto base = hn::Set(d, static_cast<U32>(first));
    auto c0 = hn::Add(base, hn::Iota(d, 0));
    auto c1 = hn::Sub(hn::Set(d, static_cast<U32>(first >> 32)),
                      hn::VecFromMask(d, hn::Lt(c0, base)));  // the carry is a mask of ones: -1
    auto c2 = hn::Zero(d), c3 = hn::Zero(d);
    U32 k0 = static_cast<U32>(seed), k1 = static_cast<U32>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      auto h0 = c0, l0 = c0, h1 = c0, l1 = c0;
      multiply(d, c0, m0, h0, l0);
      multiply(d, c2, m1, h1, l1);
      c0 = hn::Xor(hn::Xor(h1, c1), hn::Set(d, k0));
      c1 = l1;
      c2 = hn::Xor(hn::Xor(h0, c3), hn::Set(d, k1));
      c3 = l0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    hn::StoreInterleaved4(c0, c1, c2, c3, d, words + 4 * i);
  }
}
#endif

/// Integers up to 2^24 (f32) or 2^53 (f64) as reals, exactly.
template <class D, class DU>
HWY_INLINE VecOf<D> to_real(D d, DU du, VecOf<DU> k) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return hn::ConvertTo(d, hn::BitCast(hn::RebindToSigned<D>(), k));
  } else {  // no such instruction before AVX-512: each half goes into the mantissa of 2^52
    const auto magic = hn::Set(d, 4503599627370496.0);
    const auto part = [&](VecOf<DU> v) HWY_ATTR {
      return hn::Sub(hn::BitCast(d, hn::Or(v, hn::BitCast(du, magic))), magic);
    };
    return hn::Add(hn::Mul(part(hn::ShiftRight<32>(k)), hn::Set(d, 4294967296.0)),
                   part(hn::And(k, hn::Set(du, 0xffffffffu))));
  }
}

/// An element's word from memory: f32 a word, f64 two, the first of them the high half.
template <class T>
HWY_INLINE VecOf<Tag<WordOf<T>>> ordered(VecOf<Tag<WordOf<T>>> v) {
  if constexpr (sizeof(T) == 4)
    return v;
  else
    return hn::Or(hn::ShiftLeft<32>(v), hn::ShiftRight<32>(v));
}
template <class T>
HWY_INLINE VecOf<Tag<WordOf<T>>> load_words(const U32* words, int64_t element) {
  const Tag<WordOf<T>> du;
  return ordered<T>(hn::LoadU(du, reinterpret_cast<const WordOf<T>*>(words) + element));
}
template <class T>
constexpr int kDrop = sizeof(T) == 4 ? 8 : 11;  // bits that a mantissa has no room for
template <class T>
constexpr T kUnit = sizeof(T) == 4 ? T(5.9604644775390625e-08)
                                   : T(1.1102230246251565e-16);  // 2^-24, 2^-53
template <class T>
constexpr int64_t kElements = kRandomWords * 4 / static_cast<int64_t>(sizeof(T));

/// In [0, 1): the words' upper 24 or 53 bits.
template <class T>
HWY_INLINE VecOf<Tag<T>> unit(const U32* words, int64_t element) {
  const Tag<T> d;
  const Tag<WordOf<T>> du;
  return hn::Mul(to_real(d, du, hn::ShiftRight<kDrop<T>>(load_words<T>(words, element))),
                 hn::Set(d, kUnit<T>));
}

/// a + (b - a) u, and below b even where that rounds up to it.
template <class T>
void make_uniform(const U32* words, T a, T b, T* y) {
  const Tag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto low = hn::Set(d, a), span = hn::Set(d, b - a),
             top = hn::Set(d, a < b ? std::nextafter(b, a) : kInf<T>);
  for (int64_t i = 0; i < kElements<T>; i += lanes)
    hn::StoreU(hn::Min(hn::Add(low, hn::Mul(span, unit<T>(words, i))), top), d, y + i);
}

/// 1 where u < p, else 0.
template <class T>
void make_bernoulli(const U32* words, T p, T* y) {
  const Tag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto limit = hn::Set(d, p), one = hn::Set(d, T(1));
  for (int64_t i = 0; i < kElements<T>; i += lanes)
    hn::StoreU(hn::IfThenElseZero(hn::Lt(unit<T>(words, i), limit), one), d, y + i);
}

/// c[0] + c[1] x + ..., as products and sums.
template <class D, class T, std::size_t N>
HWY_INLINE VecOf<D> series(D d, VecOf<D> x, const T (&c)[N]) {
  auto y = hn::Set(d, c[N - 1]);
  for (std::size_t i = N - 1; i-- > 0;) y = hn::Add(hn::Mul(y, x), hn::Set(d, c[i]));
  return y;
}

/// sqrt(-2 log(k / 2^24)), k in 1..2^24 (f64: 2^53): k = 2^e m, m in [sqrt(1/2), sqrt(2)), log m =
/// 2 atanh((m - 1) / (m + 1)).
template <class T, class V>
HWY_INLINE VecOf<Tag<T>> radius(V k) {
  const Tag<T> d;
  const Tag<WordOf<T>> du;
  constexpr bool f32 = sizeof(T) == 4;
  constexpr int kMantissa = f32 ? 23 : 52;
  const auto bits = hn::BitCast(du, to_real(d, du, k));
  const auto e =
      hn::ShiftRight<kMantissa>(hn::Sub(bits, hn::BitCast(du, hn::Set(d, T(0.70710678118654752)))));
  const auto m = hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<kMantissa>(e)));
  const auto power = hn::Sub(to_real(d, du, e), hn::Set(d, f32 ? T(24) : T(53))),
             one = hn::Set(d, T(1));
  const auto s = hn::Div(hn::Sub(m, one), hn::Add(m, one)), s2 = hn::Mul(s, s);
  constexpr int kTerms = f32 ? 5 : 11;  // 1 + s^2 / 3 + s^4 / 5 + ...; |s| <= 0.172
  auto sum = hn::Set(d, static_cast<T>(1.0 / (2 * kTerms - 1)));
  for (int i = kTerms - 1; i-- > 0;)
    sum = hn::Add(hn::Mul(sum, s2), hn::Set(d, static_cast<T>(1.0 / (2 * i + 1))));
  const auto log_m = hn::Mul(hn::Add(s, s), sum);
  const auto high = hn::Mul(
      power, hn::Set(d, f32 ? T(0.693145751953125)
                            : T(6.93147180369123816490e-01)));  // exact: ln 2 with room for power
  const auto low =
      hn::Mul(power, hn::Set(d, f32 ? T(1.428606765330187045e-6) : T(1.90821492927058770002e-10)));
  return hn::Sqrt(hn::Mul(hn::Add(high, hn::Add(low, log_m)), hn::Set(d, T(-2))));
}

/// Cosine and sine of 2 pi k / 2^24 (f64: 2^53): the nearest quarter turn is taken off in integers,
/// exactly.
template <class T, class V>
HWY_INLINE void turn(V k, VecOf<Tag<T>>& cosine, VecOf<Tag<T>>& sine) {
  const Tag<T> d;
  const Tag<WordOf<T>> du;
  constexpr bool f32 = sizeof(T) == 4;
  constexpr int kQuarter = f32 ? 22 : 51, kTop = f32 ? 30 : 62;
  const auto half = hn::Set(du, WordOf<T>{1} << (kQuarter - 1));
  const auto q = hn::ShiftRight<kQuarter>(hn::Add(k, half));
  // (rest + 1/8 turn) is not negative
  const auto rest = hn::Sub(to_real(d, du, hn::Sub(hn::Add(k, half), hn::ShiftLeft<kQuarter>(q))),
                            to_real(d, du, half));
  const auto x = hn::Mul(rest,
                         hn::Set(d, static_cast<T>(1.57079632679489661923 /
                                                   static_cast<double>(int64_t{1} << kQuarter)))),
             x2 = hn::Mul(x, x);
  VecOf<Tag<T>> s, c;
  if constexpr (f32) {
    constexpr T kSin[] = {-1.f / 6, 1.f / 120, -1.f / 5040, 1.f / 362880},
                kCos[] = {1.f / 24, -1.f / 720, 1.f / 40320, -1.f / 3628800};
    s = series(d, x2, kSin), c = series(d, x2, kCos);
  } else {
    constexpr T kSin[] = {
        -1. / 6,        1. / 120,         -1. / 5040,           1. / 362880,
        -1. / 39916800, 1. / 6227020800., -1. / 1307674368000., 1. / 355687428096000.};
    constexpr T kCos[] = {1. / 24,        -1. / 720,          1. / 40320,          -1. / 3628800,
                          1. / 479001600, -1. / 87178291200., 1. / 20922789888000.};
    s = series(d, x2, kSin), c = series(d, x2, kCos);
  }
  s = hn::Add(x, hn::Mul(hn::Mul(x, x2), s));
  c = hn::Add(hn::Set(d, T(1)), hn::Mul(x2, hn::Add(hn::Set(d, T(-0.5)), hn::Mul(x2, c))));
  const auto one = hn::Set(du, WordOf<T>{1}), two = hn::Set(du, WordOf<T>{2});
  const auto swapped =
      hn::MaskFromVec(hn::BitCast(d, hn::VecFromMask(du, hn::Eq(hn::And(q, one), one))));
  const auto sign_c = hn::ShiftLeft<kTop>(hn::And(hn::Add(q, one), two)),
             sign_s = hn::ShiftLeft<kTop>(hn::And(q, two));
  cosine = hn::Xor(hn::IfThenElse(swapped, s, c), hn::BitCast(d, sign_c));
  sine = hn::Xor(hn::IfThenElse(swapped, c, s), hn::BitCast(d, sign_s));
}

/// Box-Muller: two elements' words give the radius and the angle, and the cosine and the sine are
/// the two elements.
template <class T>
void make_normal(const U32* words, T mean, T std, T* y) {
  const Tag<T> d;
  const Tag<WordOf<T>> du;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto m = hn::Set(d, mean), scale = hn::Set(d, std);
  const auto one = hn::Set(du, WordOf<T>{1});
  for (int64_t i = 0; i < kElements<T>; i += 2 * lanes) {
    VecOf<decltype(du)> u, v;
    hn::LoadInterleaved2(du, reinterpret_cast<const WordOf<T>*>(words) + i, u, v);
    const auto r = radius<T>(hn::Add(hn::ShiftRight<kDrop<T>>(ordered<T>(u)), one));
    VecOf<Tag<T>> c, s;
    turn<T>(hn::ShiftRight<kDrop<T>>(ordered<T>(v)), c, s);
    hn::StoreInterleaved2(hn::Add(m, hn::Mul(scale, hn::Mul(r, c))),
                          hn::Add(m, hn::Mul(scale, hn::Mul(r, s))), d, y + i);
  }
}

/// Calls make(words, out) for every batch of kPer-word elements, the last one through a buffer.
template <class T, int kPer, class Make>
void fill(const RandomFill& a, T* y, const Make& make) {
  constexpr int64_t kSize = kRandomWords / kPer;
  parallel_for(ceil_div(a.n, kSize), kRandomGrain, [&](int64_t u, int64_t end) HWY_ATTR {
    alignas(64) U32 words[kRandomWords];
    for (; u < end; ++u) {
      make_words(a.seed, a.offset + static_cast<std::uint64_t>(u) * kRandomBlocks, words);
      if ((u + 1) * kSize <= a.n) {
        make(words, y + u * kSize);
      } else {
        T rest[kSize];
        make(words, rest);
        std::copy_n(rest, a.n - u * kSize, y + u * kSize);
      }
    }
  });
}

template <class T>
void make_real(const RandomFill& a, const U32* words, T* y) {
  const T p = static_cast<T>(a.a), q = static_cast<T>(a.b);
  if (a.d == Distribution::Uniform)
    make_uniform(words, p, q, y);
  else if (a.d == Distribution::Normal)
    make_normal(words, p, q, y);
  else
    make_bernoulli(words, p, y);
}

/// The largest number of T below b.
template <class T>
T below16(float b) {
  T top = b;
  while (static_cast<float>(top) >= b)
    top.bits = static_cast<std::uint16_t>((top.bits & 0x7fff) == 0 ? 0x8001
                                          : top.bits & 0x8000      ? top.bits + 1
                                                                   : top.bits - 1);
  return top;
}

/// 16 bits: made in float; the rounding of uniform numbers must not reach b either.
template <class T>
void fill_half(const RandomFill& a, T* y) {
  const float b = static_cast<float>(a.b);
  const bool cut =
      a.d == Distribution::Uniform && a.a < a.b && std::isfinite(a.a) && std::isfinite(a.b);
  const T top = cut ? below16<T>(b) : T();
  fill<T, 1>(a, y, [&](const U32* words, T* out) HWY_ATTR {
    float wide[kRandomWords];
    make_real(a, words, wide);
    for (int64_t i = 0; i < kRandomWords; ++i) out[i] = static_cast<T>(wide[i]);
    if (cut)
      for (int64_t i = 0; i < kRandomWords; ++i)
        if (static_cast<float>(out[i]) >= b) out[i] = top;
  });
}

/// Integers a..b-1, two words an element.
template <class T>
void fill_integer(const RandomFill& a, T* y) {
  const int64_t low = static_cast<int64_t>(a.a);
  const std::uint64_t top = a.b >= 9223372036854775808.0
                                ? std::uint64_t{1} << 63
                                : static_cast<std::uint64_t>(static_cast<int64_t>(a.b));
  const std::uint64_t count = top - static_cast<std::uint64_t>(low);
  fill<T, 2>(a, y, [&](const U32* words, T* out) HWY_ATTR {
    for (int64_t i = 0; i < kRandomWords / 2; ++i) {
      const int64_t v = static_cast<int64_t>(static_cast<std::uint64_t>(low) +
                                             philox::below(words[2 * i], words[2 * i + 1], count));
      if constexpr (std::is_same_v<T, bool>)
        out[i] = v != 0;
      else if constexpr (std::is_arithmetic_v<T>)
        out[i] = static_cast<T>(v);
      else
        out[i] = static_cast<T>(static_cast<float>(v));
    }
  });
}

/// Bernoulli into integers and bool, a word an element.
template <class T>
void fill_flags(const RandomFill& a, T* y) {
  const U32 limit = threshold(static_cast<float>(a.a));
  fill<T, 1>(a, y, [&](const U32* words, T* out) HWY_ATTR {
    for (int64_t i = 0; i < kRandomWords; ++i) out[i] = static_cast<T>((words[i] >> 8) < limit);
  });
}

void random_any(const RandomFill& a, const abi::TensorOut& y) {
  visit_dtype(y.dtype, [&](auto v) {
    using T = decltype(v);
    if (a.d == Distribution::Integer)
      fill_integer(a, y.as<T>());
    else if constexpr (std::is_same_v<T, float>)
      fill<float, 1>(a, y.as<T>(), [&](const U32* words, float* out) { make_real(a, words, out); });
    else if constexpr (std::is_same_v<T, double>)
      fill<double, 2>(a, y.as<T>(),
                      [&](const U32* words, double* out) { make_real(a, words, out); });
    else if constexpr (std::is_arithmetic_v<T>)
      fill_flags(a, y.as<T>());
    else
      fill_half(a, y.as<T>());
  });
}

/// y = x scale where the word keeps it, else 0; mask receives 1 or 0.
HWY_INLINE void drop(const U32* words, U32 limit, const float* x, float scale, int64_t n, float* y,
                     std::uint8_t* mask) {
  const Tag<float> d;
  const Tag<U32> du;
  const Tag<std::int32_t> di;
  const hn::Rebind<std::uint8_t, decltype(di)> d8;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto top = hn::Set(di, static_cast<std::int32_t>(limit)), one = hn::Set(di, 1);
  const auto factor = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto keep = hn::VecFromMask(
        di, hn::Lt(hn::BitCast(di, hn::ShiftRight<8>(hn::LoadU(du, words + i))), top));
    hn::StoreU(hn::And(hn::BitCast(d, keep), hn::Mul(hn::LoadU(d, x + i), factor)), d, y + i);
    hn::StoreU(hn::DemoteTo(d8, hn::And(keep, one)), d8, mask + i);
  }
  for (; i < n; ++i) {
    mask[i] = (words[i] >> 8) < limit;
    y[i] = mask[i] ? x[i] * scale : 0.0f;
  }
}
/// Other types, one element at a time.
template <class T>
void drop(const U32* words, U32 limit, const T* x,
          std::conditional_t<std::is_same_v<T, double>, double, float> scale, int64_t n, T* y,
          std::uint8_t* mask) {
  using R = decltype(scale);
  for (int64_t i = 0; i < n; ++i) mask[i] = (words[i] >> 8) < limit;
  for (int64_t i = 0; i < n; ++i)
    y[i] = static_cast<T>((words[i] >> 8) < limit ? static_cast<R>(x[i]) * scale : R(0));
}

template <class T>
void dropout_all(const abi::TensorIn& x, double p, std::uint64_t seed, std::uint64_t offset,
                 const abi::TensorOut& y, const abi::TensorOut& mask) {
  using R = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const int64_t n = x.numel();
  const U32 limit = threshold(static_cast<float>(1 - p));
  const R scale = static_cast<R>(p < 1 ? 1 / (1 - p) : 0);
  parallel_for(ceil_div(n, kRandomWords), kRandomGrain, [&](int64_t u, int64_t end) HWY_ATTR {
    alignas(64) U32 words[kRandomWords];
    for (; u < end; ++u) {
      make_words(seed, offset + static_cast<std::uint64_t>(u) * kRandomBlocks, words);
      const int64_t at = u * kRandomWords;
      drop(words, limit, x.as<T>() + at, scale, std::min(kRandomWords, n - at), y.as<T>() + at,
           mask.as<std::uint8_t>() + at);
    }
  });
}
void dropout_any(const abi::TensorIn& x, double p, std::uint64_t seed, std::uint64_t offset,
                 const abi::TensorOut& y, const abi::TensorOut& mask) {
  switch (x.dtype) {
    case DType::Float64:
      return dropout_all<double>(x, p, seed, offset, y, mask);
    case DType::BFloat16:
      return dropout_all<bfloat16>(x, p, seed, offset, y, mask);
    case DType::Float16:
      return dropout_all<float16>(x, p, seed, offset, y, mask);
    default:
      return dropout_all<float>(x, p, seed, offset, y, mask);
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(random_any);
HWY_EXPORT(dropout_any);
namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

Status random_fill_cpu(const abi::KernelContext&, Distribution d, double a, double b,
                       std::uint64_t seed, std::uint64_t offset, const TensorOut& y) {
  if (!y.contiguous()) return abi::unsupported("random_fill: the array must be contiguous");
  constexpr double kLimit = 9223372036854775808.0;
  if (d == Distribution::Integer && (!(a < b) || a < -kLimit || b > kLimit))
    return abi::failed("random_fill: the range of integers is empty or too large");
  if ((d == Distribution::Uniform || d == Distribution::Normal) && !is_floating(y.dtype))
    return abi::unsupported("random_fill: this distribution needs a floating dtype");
  HWY_DYNAMIC_DISPATCH(random_any)({d, a, b, seed, offset, y.numel()}, y);
  return abi::ok();
}

Status dropout_cpu(const abi::KernelContext&, const TensorIn& x, double p, std::uint64_t seed,
                   std::uint64_t offset, const TensorOut& y, const TensorOut& mask) {
  if (x.dtype != y.dtype || mask.dtype != DType::Boolean || x.numel() != y.numel() ||
      x.numel() != mask.numel())
    return abi::failed("dropout: arrays do not fit");
  if (!x.contiguous() || !y.contiguous() || !mask.contiguous())
    return abi::unsupported("dropout: arrays must be contiguous");
  if (!(p >= 0 && p <= 1)) return abi::failed("dropout: p is not in 0..1");
  if (!is_floating(x.dtype)) return abi::unsupported("dropout: needs a floating dtype");
  HWY_DYNAMIC_DISPATCH(dropout_any)(x, p, seed, offset, y, mask);
  return abi::ok();
}

}  // namespace

void provide_random_cpu(abi::KernelTable& t) {
  t.provide<random_fill>(&random_fill_cpu);
  t.provide<dropout>(&dropout_cpu);
}

}  // namespace dropin::kernels
#endif
