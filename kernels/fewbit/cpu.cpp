// Few-bit activations: a chunk of x is read once; its values and codes are computed while it is in
// L1. Threads take whole chunks, which end on whole bytes.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fewbit/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cstring>
#include <limits>

#include "dropin/core/parallel.h"
#include "kernels/bits.h"
#include "kernels/fewbit/kernel.h"
#include "kernels/row-inl.h"
#include "kernels/strided.h"

#ifndef DROPIN_FEWBIT_PACKING_
#define DROPIN_FEWBIT_PACKING_
namespace dropin::kernels {
constexpr int64_t kFewBitChunk = 1024;  // elements; a multiple of 8

template <class F>
auto with_bits(int bits, F f) {
  switch (bits) {
    case 1:
      return f(std::integral_constant<int, 1>());
    case 2:
      return f(std::integral_constant<int, 2>());
    case 3:
      return f(std::integral_constant<int, 3>());
    case 4:
      return f(std::integral_constant<int, 4>());
    case 5:
      return f(std::integral_constant<int, 5>());
    case 6:
      return f(std::integral_constant<int, 6>());
    case 7:
      return f(std::integral_constant<int, 7>());
    default:
      return f(std::integral_constant<int, 8>());
  }
}
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

template <class D>
VecOf<D> constant(D d, double c) {
  return hn::Set(d, static_cast<hn::TFromD<D>>(c));
}

template <FewBitFunction kF, class D>
HWY_INLINE VecOf<D> value(D d, VecOf<D> x, double a, double b) {
  const auto zero = hn::Zero(d), one = constant(d, 1);
  using Fn = FewBitFunction;
  if constexpr (kF == Fn::Gelu) return weighted(d, x, normal_cdf(d, x));
  if constexpr (kF == Fn::Silu) return weighted(d, x, sigmoid(d, x));
  if constexpr (kF == Fn::Sigmoid) return sigmoid(d, x);
  if constexpr (kF == Fn::Tanh) return tanh(d, x);
  if constexpr (kF == Fn::Selu || kF == Fn::Elu || kF == Fn::Celu) {
    const double lambda = kF == Fn::Selu ? 1.0507009873554804934193349852946 : 1,
                 alpha = kF == Fn::Selu ? 1.6732632423543772848170429916717 : a;
    const auto low = hn::Mul(constant(d, lambda * alpha),
                             expm1(d, kF == Fn::Celu ? hn::Mul(x, constant(d, 1 / alpha)) : x));
    return hn::IfThenElse(hn::Gt(x, zero), kF == Fn::Selu ? hn::Mul(x, constant(d, lambda)) : x,
                          low);
  }
  if constexpr (kF == Fn::Softplus) {
    const auto scaled = hn::Mul(x, constant(d, a));
    return hn::IfThenElse(hn::Gt(scaled, constant(d, b)), x,
                          hn::Mul(softplus(d, scaled), constant(d, 1 / a)));
  }
  if constexpr (kF == Fn::LogSigmoid) return hn::Neg(softplus(d, hn::Neg(x)));
  if constexpr (kF == Fn::Mish) {  // tanh(log(1 + t)) = n / (n + 2) with n = t (t + 2), t = e^x
    const auto t = exp(d, hn::Min(x, constant(d, 20)));
    const auto n = hn::Mul(t, hn::Add(t, constant(d, 2)));
    return keep_nan<D>(x, hn::IfThenElse(hn::Gt(x, constant(d, 20)), x,
                                         weighted(d, x, hn::Div(n, hn::Add(n, constant(d, 2))))));
  }
  if constexpr (kF == Fn::Hardswish || kF == Fn::Hardsigmoid) {
    const auto w =
        hn::Mul(keep_nan<D>(x, hn::Min(hn::Max(hn::Add(x, constant(d, 3)), zero), constant(d, 6))),
                constant(d, 1.0 / 6));
    return kF == Fn::Hardswish ? weighted(d, x, w) : w;
  }
  if constexpr (kF == Fn::Softsign) {
    const auto y =
        bounded(d, x, static_cast<hn::TFromD<D>>(sizeof(hn::TFromD<D>) == 4 ? 1e30 : 1e300));
    return keep_nan<D>(x, hn::Div(y, hn::Add(one, hn::Abs(y))));
  }
  if constexpr (kF == Fn::Tanhshrink) return hn::Sub(x, tanh(d, x));
  if constexpr (kF == Fn::Relu) return hn::IfThenZeroElse(hn::Le(x, zero), x);
  if constexpr (kF == Fn::Relu6) return keep_nan<D>(x, hn::Min(hn::Max(x, zero), constant(d, 6)));
  if constexpr (kF == Fn::LeakyRelu)
    return hn::IfThenElse(hn::Lt(x, zero), hn::Mul(x, constant(d, a)), x);
  if constexpr (kF == Fn::Hardtanh)
    return keep_nan<D>(x, hn::Min(hn::Max(x, constant(d, a)), constant(d, b)));
  if constexpr (kF == Fn::Hardshrink)
    return hn::IfThenZeroElse(hn::Le(hn::Abs(x), constant(d, a)), x);
  if constexpr (kF == Fn::Softshrink) {
    const auto l = constant(d, a);
    return keep_nan<D>(x,
                       hn::IfThenZeroElse(hn::Le(hn::Abs(x), l), hn::Sub(x, hn::CopySign(l, x))));
  }
  if constexpr (kF == Fn::Threshold)
    return hn::IfThenElse(hn::Le(x, constant(d, a)), constant(d, b), x);
}

template <class T>
using ValueRow = void (*)(const T* x, T* y, int64_t n, double a, double b);
template <class T, FewBitFunction kF>
void value_row(const T* x, T* y, int64_t n, double a, double b) {
  const Tag<T> d;
  each<T>(0, n, [&](auto at) HWY_ATTR { at.store(d, value<kF>(d, at.load(d, x), a, b), y); });
}
template <class T>
ValueRow<T> value_row_of(FewBitFunction f) {
  switch (f) {
#define CASE(F)           \
  case FewBitFunction::F: \
    return &value_row<T, FewBitFunction::F>
    CASE(Gelu);
    CASE(Silu);
    CASE(Sigmoid);
    CASE(Tanh);
    CASE(Selu);
    CASE(Elu);
    CASE(Celu);
    CASE(Softplus);
    CASE(LogSigmoid);
    CASE(Mish);
    CASE(Hardswish);
    CASE(Softsign);
    CASE(Tanhshrink);
    CASE(Relu);
    CASE(Relu6);
    CASE(LeakyRelu);
    CASE(Hardtanh);
    CASE(Hardsigmoid);
    CASE(Hardshrink);
    CASE(Softshrink);
    CASE(Threshold);
#undef CASE
  }
  return nullptr;
}

/// A whole vector of codes, in integers of T's width, as bytes.
template <class T, class I = hwy::MakeSigned<T>>
HWY_INLINE void write_codes(hn::Vec<hn::Rebind<I, Tag<T>>> v, std::uint8_t* codes) {
  const hn::Rebind<I, Tag<T>> di;
  if constexpr (sizeof(T) == 4) {
    const hn::Rebind<std::uint8_t, Tag<std::int32_t>> du8;
    hn::StoreU(hn::DemoteTo(du8, v), du8, codes);
  } else {
    HWY_ALIGN I lane[hn::MaxLanes(di)];
    hn::Store(v, di, lane);
    for (std::size_t k = 0; k < hn::Lanes(di); ++k) codes[k] = static_cast<std::uint8_t>(lane[k]);
  }
}
/// The vector at x + i, zeros beyond n.
template <class T>
HWY_INLINE VecOf<Tag<T>> load_within(const T* x, int64_t i, int64_t n) {
  const Tag<T> d;
  return i + static_cast<int64_t>(hn::Lanes(d)) <= n
             ? hn::LoadU(d, x + i)
             : load_first(d, x + i, static_cast<std::size_t>(n - i));
}

/// Codes by more borders than a few comparisons: tables of the user's.
template <class T>
void codes_by_search(const FewBitForward& a, const T* x, int64_t n, const T* borders, int64_t count,
                     std::uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i) {
    const T scaled = x[i] * static_cast<T>(a.scale),
            v = a.split == FewBitSplit::Folded ? std::abs(scaled) : scaled;
    codes[i] = static_cast<std::uint8_t>(
        v != v ? count : std::lower_bound(borders, borders + count, v) - borders);
  }
}

/// Codes by comparing with each border.
template <class T>
void codes_by_borders(const FewBitForward& a, const T* x, int64_t n, const T* borders,
                      int64_t count, std::uint8_t* codes) {
  const Tag<T> d;
  using I = hwy::MakeSigned<T>;
  const hn::Rebind<I, Tag<T>> di;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const bool fold = a.split == FewBitSplit::Folded;
  const auto scale = hn::Set(d, static_cast<T>(a.scale));
  const auto all = hn::Set(di, static_cast<I>(count));
  int64_t i = 0;
  constexpr int kVectors = 4;  // share the loads of the borders
  for (; i + kVectors * lanes <= n; i += kVectors * lanes) {
    VecOf<Tag<T>> v[kVectors];
    hn::Vec<decltype(di)> code[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      v[j] = hn::LoadU(d, x + i + j * lanes);
      if (a.scale != 1) v[j] = hn::Mul(v[j], scale);
      if (fold) v[j] = hn::Abs(v[j]);
      code[j] = all;
    }
    for (int64_t k = 0; k < count; ++k) {
      const auto border = hn::Set(d, borders[k]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j)
        code[j] = hn::Add(code[j], hn::VecFromMask(di, hn::RebindMask(di, hn::Le(v[j], border))));
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) write_codes<T>(code[j], codes + i + j * lanes);
  }
  for (; i < n; i += lanes) {
    auto v = hn::Mul(load_within(x, i, n), scale);
    if (fold) v = hn::Abs(v);
    auto code = all;
    for (int64_t k = 0; k < count; ++k)
      code =
          hn::Add(code, hn::VecFromMask(di, hn::RebindMask(di, hn::Le(v, hn::Set(d, borders[k])))));
    write_codes<T>(code, codes + i);
  }
}

/// The one bit of exact functions (the splits by lo and hi).
template <class T>
void codes_by_split(const FewBitForward& a, const T* x, int64_t n, std::uint8_t* codes) {
  const Tag<T> d;
  using I = hwy::MakeSigned<T>;
  const hn::Rebind<I, Tag<T>> di;
  const auto lo = hn::Set(d, static_cast<T>(a.lo)), hi = hn::Set(d, static_cast<T>(a.hi));
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto v = load_within(x, i, n);
    auto write = [&](auto outside) HWY_ATTR {  // 1 unless outside
      write_codes<T>(hn::Add(hn::VecFromMask(di, hn::RebindMask(di, outside)), hn::Set(di, I{1})),
                     codes + i);
    };
    switch (a.split) {
      case FewBitSplit::AtLeast:
        write(hn::Lt(v, lo));
        break;
      case FewBitSplit::Between:
        write(hn::Or(hn::Le(v, lo), hn::Ge(v, hi)));
        break;
      case FewBitSplit::Outside:
        write(hn::Le(hn::Abs(v), lo));
        break;
      default:
        write(hn::Le(v, lo));
        break;
    }
  }
}

/// Codes of n <= kFewBitChunk values; writes whole vectors.
template <class T>
void code_row(const FewBitForward& a, const T* x, int64_t n, const T* borders, int64_t count,
              std::uint8_t* codes) {
  if (a.split != FewBitSplit::Borders && a.split != FewBitSplit::Folded)
    return codes_by_split(a, x, n, codes);
  return count > 31 ? codes_by_search(a, x, n, borders, count, codes)
                    : codes_by_borders(a, x, n, borders, count, codes);
}

/// Codes of up to 4 bits by halving: the border to compare with next is looked up in a register. n
/// is a multiple of 32.
#if HWY_TARGET == HWY_AVX2
constexpr bool kCodesInRegisters = true;

/// Codes of `kBits` bits in the bytes of four vectors of 32 bits, side by side: 4 kBits bytes.
template <int kBits>
HWY_INLINE void pack_bytes(__m256i bytes, std::uint8_t* packed, int64_t room) {
  // Pairs, then fours, then eights are joined: each 64-bit lane ends as 8 kBits bits.
  const __m256i pairs =
      _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(static_cast<short>(1 | 1 << (8 + kBits))));
  const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32(1 | 1 << (16 + 2 * kBits)));
  const __m256i eights = _mm256_or_si256(fours, _mm256_srli_epi64(fours, 32 - 4 * kBits));
  alignas(32) std::uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), eights);
  if (room >= 3 * kBits + 8) {  // what is too much the next groups overwrite
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) std::memcpy(packed + k * kBits, words + k, 8);
  } else {
    for (int k = 0; k < 4; ++k) std::memcpy(packed + k * kBits, words + k, kBits);
  }
}

template <int kBits, bool kScaled>
void code_and_pack(const FewBitForward& a, const float* x, int64_t n, const float* borders,
                   int64_t count, std::uint8_t* packed) {
  constexpr int kLevels = 1 << kBits, kVectors = 4;
  alignas(64) float b[kLevels];
  for (int k = 0; k < kLevels; ++k) b[k] = k < count ? borders[k] : kInf<float>;
  const bool nan_below = count < kLevels - 1;  // the last code is not kLevels - 1
  const __m256 scale = _mm256_set1_ps(static_cast<float>(a.scale)),
               keep = _mm256_castsi256_ps(
                   _mm256_set1_epi32(a.split == FewBitSplit::Folded ? 0x7fffffff : -1));
  const __m256i most = _mm256_set1_epi32(static_cast<int>(count));
  const __m256 low = _mm256_setr_ps(b[0 % kLevels], b[1 % kLevels], b[2 % kLevels], b[3 % kLevels],
                                    b[4 % kLevels], b[5 % kLevels], b[6 % kLevels], b[7 % kLevels]);
  const __m256 high =
      _mm256_setr_ps(b[8 % kLevels], b[9 % kLevels], b[10 % kLevels], b[11 % kLevels],
                     b[12 % kLevels], b[13 % kLevels], b[14 % kLevels], b[15 % kLevels]);
  const __m256 first = _mm256_set1_ps(b[kLevels / 2 - 1]);
  for (int64_t i = 0; i < n; i += 8 * kVectors) {
    __m256 v[kVectors];
    __m256i code[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      v[j] = _mm256_loadu_ps(x + i + 8 * j);
      if constexpr (kScaled) v[j] = _mm256_mul_ps(v[j], scale);
      v[j] = _mm256_and_ps(v[j], keep);
      code[j] = _mm256_and_si256(_mm256_castps_si256(_mm256_cmp_ps(v[j], first, _CMP_NLE_UQ)),
                                 _mm256_set1_epi32(kLevels / 2));
    }
#pragma GCC unroll 3
    for (int half = kLevels / 4; half > 0; half /= 2) {
      const __m256i below = _mm256_set1_epi32(half - 1), step = _mm256_set1_epi32(half);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        const __m256i at = half > 1 ? _mm256_or_si256(code[j], below) : code[j];
        __m256 border = _mm256_permutevar8x32_ps(low, at);
        if constexpr (kBits == 4)
          border = _mm256_blendv_ps(border, _mm256_permutevar8x32_ps(high, at),
                                    _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
        code[j] = _mm256_or_si256(
            code[j],
            _mm256_and_si256(_mm256_castps_si256(_mm256_cmp_ps(v[j], border, _CMP_NLE_UQ)), step));
      }
    }
    if (nan_below)
      for (int j = 0; j < kVectors; ++j) code[j] = _mm256_min_epi32(code[j], most);
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(code[0], code[1]),
                                              _mm256_packs_epi32(code[2], code[3]));
    pack_bytes<kBits>(_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)),
                      packed + i / 8 * kBits, (n - i) / 8 * kBits);
  }
}

/// The one bit of exact functions (the splits by lo and hi), n a multiple of 32.
void split_and_pack(const FewBitForward& a, const float* x, int64_t n, std::uint8_t* packed) {
  const __m256 lo = _mm256_set1_ps(static_cast<float>(a.lo)),
               hi = _mm256_set1_ps(static_cast<float>(a.hi)),
               keep = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  auto each_group = [&](auto inside) HWY_ATTR {
    for (int64_t i = 0; i < n; i += 32) {
      std::uint32_t w = 0;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j)
        w |= static_cast<std::uint32_t>(_mm256_movemask_ps(inside(_mm256_loadu_ps(x + i + 8 * j))))
             << 8 * j;
      std::memcpy(packed + i / 8, &w, 4);
    }
  };
  switch (a.split) {
    case FewBitSplit::AtLeast:
      return each_group([&](__m256 v) HWY_ATTR { return _mm256_cmp_ps(v, lo, _CMP_NLT_UQ); });
    case FewBitSplit::Between:
      return each_group([&](__m256 v) HWY_ATTR {
        return _mm256_and_ps(_mm256_cmp_ps(v, lo, _CMP_NLE_UQ), _mm256_cmp_ps(v, hi, _CMP_NGE_UQ));
      });
    case FewBitSplit::Outside:
      return each_group([&](__m256 v) HWY_ATTR {
        return _mm256_cmp_ps(_mm256_and_ps(v, keep), lo, _CMP_NLE_UQ);
      });
    default:
      return each_group([&](__m256 v) HWY_ATTR { return _mm256_cmp_ps(v, lo, _CMP_NLE_UQ); });
  }
}
#else
constexpr bool kCodesInRegisters = false;
template <int kBits, bool kScaled>
void code_and_pack(const FewBitForward&, const float*, int64_t, const float*, int64_t,
                   std::uint8_t*) {}
inline void split_and_pack(const FewBitForward&, const float*, int64_t, std::uint8_t*) {}
#endif

template <class T>
void forward(const FewBitForward& a, const T* x, const T* borders, int64_t count, int64_t n, T* y,
             std::uint8_t* packed) {
  const ValueRow<T> values = value_row_of<T>(a.function);
  with_bits(a.bits, [&](auto bits) {
    constexpr int kBits = decltype(bits)::value;
    parallel_for(
        ceil_div(n, kFewBitChunk), kGrain / 4 / kFewBitChunk,
        [&](int64_t begin, int64_t end) HWY_ATTR {
          alignas(64) std::uint8_t codes[kFewBitChunk + 64];
          for (int64_t c = begin; c < end; ++c) {
            const int64_t from = c * kFewBitChunk, size = std::min(kFewBitChunk, n - from);
            bool coded = false;
            if constexpr (sizeof(T) == 4 && kBits <= 4 && kCodesInRegisters) {
              coded = packed && size % 32 == 0;
              if (!coded) {
              } else if (a.split == FewBitSplit::Borders || a.split == FewBitSplit::Folded) {
                (a.scale == 1 ? &code_and_pack<kBits, false>
                              : &code_and_pack<kBits, true>)(a, x + from, size, borders, count,
                                                             packed + from / 8 * kBits);
              } else {
                split_and_pack(a, reinterpret_cast<const float*>(x + from), size,
                               packed + from / 8);
              }
            }
            if (packed && !coded) {
              code_row(a, x + from, size, borders, count, codes);
              pack_codes<kBits>(codes, size, packed + from / 8 * kBits);
            }
            values(x + from, y + from, size, a.a, a.b);
          }
        });
  });
}

/// out = levels[code] in for whole vectors of eight in [0, n); returns where they end. A look-up
/// reads three bits of its index: below three, what stands above the code picks one of the same
/// levels.
template <int kBits>
HWY_INLINE int64_t scale_by_levels(const std::uint8_t* bytes, const float* levels, const float* in,
                                   int64_t n, float* out) {
  int64_t i = 0;
#if HWY_TARGET == HWY_AVX2
  alignas(32) float table[8], upper[8];
  for (int k = 0; k < 8; ++k)
    table[k] = levels[k & (kBits < 3 ? (1 << kBits) - 1 : 7)],
    upper[k] = levels[kBits == 4 ? 8 + k : 0];
  const __m256 low = _mm256_load_ps(table), high = _mm256_load_ps(upper);
  const __m256i places =
      _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(kBits));
#pragma GCC unroll 4
  for (; i + 8 <= n; i += 8) {
    std::int32_t w;
    std::memcpy(&w, bytes + i / 8 * kBits, 4);
    const __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32(w), places);
    __m256 level = _mm256_permutevar8x32_ps(low, code);
    if constexpr (kBits == 4)
      level = _mm256_blendv_ps(level, _mm256_permutevar8x32_ps(high, code),
                               _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
    _mm256_storeu_ps(out + i, _mm256_mul_ps(level, _mm256_loadu_ps(in + i)));
  }
#endif
  return i;
}

template <class T>
void backward(int bits_, const std::uint8_t* packed, const T* table, int64_t count, const T* g,
              int64_t n, T* gx) {
  HWY_ALIGN T levels[256];
  for (int64_t i = 0; i < 256; ++i) levels[i] = table[std::min(i, count - 1)];
  with_bits(bits_, [&](auto bits) {
    constexpr int kBits = decltype(bits)::value;
    parallel_for(
        ceil_div(n, kFewBitChunk), kGrain / kFewBitChunk, [&](int64_t begin, int64_t end) HWY_ATTR {
          const Tag<T> d;
          const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
          alignas(64) std::uint8_t codes[kFewBitChunk];
          for (int64_t c = begin; c < end; ++c) {
            const int64_t from = c * kFewBitChunk, size = std::min(kFewBitChunk, n - from);
            const T* in = g + from;
            T* out = gx + from;
            int64_t i = 0;
            if constexpr (sizeof(T) == 4 && kBits <= 4 &&
                          kCodesInRegisters) {  // eight codes are in one 32-bit word
              const std::uint8_t* bytes = packed + from / 8 * kBits;
              const int64_t safe =
                  kBits == 4 ? size : size - 24;  // words of 4 bytes end within the chunk's
              i = scale_by_levels<kBits>(bytes, levels, in, safe, out);
            }
            if (i == size) continue;
            unpack_codes<kBits>(packed + (from + i) / 8 * kBits, size - i, codes + i);
            if constexpr (sizeof(T) == 4) {
              const hn::Rebind<std::int32_t, Tag<float>> di;
              const hn::Rebind<std::uint8_t, Tag<float>> du8;
              if constexpr (kBits <= 4 && hn::MaxLanes(Tag<float>()) >= 8) {  // levels in registers
                constexpr int kLanes = static_cast<int>(hn::MaxLanes(Tag<float>()));
                const auto low = hn::Load(d, levels),
                           high = hn::Load(d, levels + (kBits == 4 && kLanes == 8 ? 8 : 0));
                for (; i + lanes <= size; i += lanes) {
                  const auto code = hn::PromoteTo(di, hn::LoadU(du8, codes + i));
                  const auto index = hn::IndicesFromVec(d, hn::And(code, hn::Set(di, kLanes - 1)));
                  auto level = hn::TableLookupLanes(low, index);
                  if constexpr (kBits == 4 && kLanes == 8)
                    level = hn::IfThenElse(hn::RebindMask(d, hn::Gt(code, hn::Set(di, 7))),
                                           hn::TableLookupLanes(high, index), level);
                  hn::StoreU(hn::Mul(level, hn::LoadU(d, in + i)), d, out + i);
                }
              } else {
                for (; i + lanes <= size; i += lanes) {
                  const auto code = hn::PromoteTo(di, hn::LoadU(du8, codes + i));
                  hn::StoreU(hn::Mul(hn::GatherIndex(d, levels, code), hn::LoadU(d, in + i)), d,
                             out + i);
                }
              }
            }
            for (; i < size; ++i) out[i] = levels[codes[i]] * in[i];
          }
        });
  });
}

void forward_any(const FewBitForward& a, DType t, const void* x, const void* borders, int64_t count,
                 int64_t n, void* y, std::uint8_t* packed) {
  if (t == DType::Float32)
    forward(a, static_cast<const float*>(x), static_cast<const float*>(borders), count, n,
            static_cast<float*>(y), packed);
  else
    forward(a, static_cast<const double*>(x), static_cast<const double*>(borders), count, n,
            static_cast<double*>(y), packed);
}
void backward_any(int bits, DType t, const std::uint8_t* packed, const void* levels, int64_t count,
                  const void* g, int64_t n, void* gx) {
  if (t == DType::Float32)
    backward(bits, packed, static_cast<const float*>(levels), count, static_cast<const float*>(g),
             n, static_cast<float*>(gx));
  else
    backward(bits, packed, static_cast<const double*>(levels), count, static_cast<const double*>(g),
             n, static_cast<double*>(gx));
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(forward_any);
HWY_EXPORT(backward_any);
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

bool is(const TensorIn& t, DType dtype, int64_t n) {
  return t.dtype == dtype && t.numel() == n && t.contiguous() && (t.data || n == 0);
}
int64_t packed_bytes(int64_t n, int bits) { return ceil_div(n, 8) * bits; }

Status forward_cpu(const KernelContext&, const FewBitForward& a, const TensorIn& x,
                   const TensorIn& borders, const TensorOut& y, const TensorOut& packed) {
  const int64_t n = x.numel(), count = borders.data ? borders.numel() : 0;
  if (x.dtype != DType::Float32 && x.dtype != DType::Float64)
    return abi::unsupported("needs float32 or float64");
  if (a.bits < 1 || a.bits > 8 || count >= (1 << a.bits))
    return abi::failed("more borders than the bits can tell apart");
  if (!is(x, x.dtype, n) || !is(y, x.dtype, n) || (count && !is(borders, x.dtype, count)) ||
      (packed.data && !is(packed, DType::UInt8, packed_bytes(n, a.bits))))
    return abi::failed(
        "x, y and borders must be contiguous and of one dtype, packed uint8 of ceil(n / 8) * bits "
        "bytes");
  HWY_DYNAMIC_DISPATCH(forward_any)
  (a, x.dtype, x.data, borders.data, count, n, y.as<void>(), packed.as<std::uint8_t>());
  return abi::ok();
}

Status backward_cpu(const KernelContext&, std::int32_t bits, const TensorIn& packed,
                    const TensorIn& levels, const TensorIn& g, const TensorOut& gx) {
  const int64_t n = g.numel(), count = levels.numel();
  if (g.dtype != DType::Float32 && g.dtype != DType::Float64)
    return abi::unsupported("needs float32 or float64");
  if (bits < 1 || bits > 8 || count < 1 || count > (1 << bits))
    return abi::failed("levels do not fit the bits");
  if (!is(g, g.dtype, n) || !is(gx, g.dtype, n) || !is(levels, g.dtype, count) ||
      !is(packed, DType::UInt8, packed_bytes(n, bits)))
    return abi::failed(
        "g, gx and levels must be contiguous and of one dtype, packed uint8 of ceil(n / 8) * bits "
        "bytes");
  HWY_DYNAMIC_DISPATCH(backward_any)
  (bits, g.dtype, packed.as<std::uint8_t>(), levels.data, count, g.data, n, gx.as<void>());
  return abi::ok();
}

Status pack_cpu(const KernelContext&, const TensorIn& codes, std::int32_t bits,
                const TensorOut& packed) {
  const int64_t n = codes.numel();
  if (bits < 1 || bits > 8 || !is(codes, DType::UInt8, n) ||
      !is(packed, DType::UInt8, packed_bytes(n, bits)))
    return abi::failed("codes and packed must be contiguous uint8 of fitting sizes");
  const std::uint8_t* c = codes.as<std::uint8_t>();
  std::uint8_t all = 0;
  for (int64_t i = 0; i < n; ++i) all |= c[i];
  if (all >> bits) return abi::failed("a code does not fit the bits");
  with_bits(bits, [&](auto b) { pack_codes<decltype(b)::value>(c, n, packed.as<std::uint8_t>()); });
  return abi::ok();
}

Status unpack_cpu(const KernelContext&, const TensorIn& packed, std::int32_t bits,
                  const TensorOut& codes) {
  const int64_t n = codes.numel(), whole = n / 8 * 8;
  if (bits < 1 || bits > 8 || !is(codes, DType::UInt8, n) ||
      !is(packed, DType::UInt8, packed_bytes(n, bits)))
    return abi::failed("codes and packed must be contiguous uint8 of fitting sizes");
  with_bits(bits, [&](auto b) {
    constexpr int kBits = decltype(b)::value;
    unpack_codes<kBits>(packed.as<std::uint8_t>(), whole, codes.as<std::uint8_t>());
    if (whole == n) return;
    std::uint8_t last[8];
    unpack_codes<kBits>(packed.as<std::uint8_t>() + whole / 8 * kBits, 8, last);
    std::memcpy(codes.as<std::uint8_t>() + whole, last, static_cast<std::size_t>(n - whole));
  });
  return abi::ok();
}

}  // namespace

void provide_fewbit_cpu(abi::KernelTable& t) {
  t.provide<fewbit_forward>(&forward_cpu);
  t.provide<fewbit_backward>(&backward_cpu);
  t.provide<fewbit_pack>(&pack_cpu);
  t.provide<fewbit_unpack>(&unpack_cpu);
}

}  // namespace dropin::kernels
#endif
