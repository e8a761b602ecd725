// 8-bit optimizer steps: per block of values decode, update and find the new maxima (the new states
// stay in L1), then encode. Threads take whole blocks. Encoding needs no search and no division:
// the code is floor of a chain of lines in |x| (map.h), with |x| by one multiplication; lanes that
// come so close to a midpoint that rounding could matter are done again by division and comparison,
// so every code is exact.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optim8/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
#include <limits>

#include "dropin/core/parallel.h"
#include "hwy/cache_control.h"
#include "kernels/optim8/kernel.h"
#include "kernels/optim8/map.h"
#include "kernels/row-inl.h"
#include "kernels/strided.h"
#include "src/cpu/scratch.h"

#ifndef DROPIN_OPTIM8_ARGS_
#define DROPIN_OPTIM8_ARGS_
namespace dropin::kernels {
/// Null where there is none.
struct Arrays8 {
  float* p = nullptr;
  const float* g = nullptr;
  void *s1 = nullptr, *s2 = nullptr;
  float *absmax1 = nullptr, *absmax2 = nullptr;
  int64_t n = 0;
};
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

using F = Tag<float>;
using V = VecOf<F>;
constexpr float kMost = std::numeric_limits<float>::max();
constexpr int64_t kAhead = 512;  // values: lines are asked for so long before, one by one,
                                 // since memory cannot take many at once
const hn::Rebind<std::int32_t, F> di;
const hn::Rebind<std::uint8_t, F> du8;

/// Of y the power of two below.
HWY_INLINE V power_below(V y) {
  const hn::RebindToUnsigned<decltype(di)> du;
  return hn::BitCast(F(), hn::And(hn::BitCast(du, y), hn::Set(du, 0xff800000u)));
}
/// Min and max of floats that are not negative: as integers they run in any vector unit, and NaN is
/// the largest.
HWY_INLINE V lesser(V a, V b) {
  return hn::BitCast(F(), hn::Min(hn::BitCast(di, a), hn::BitCast(di, b)));
}
HWY_INLINE V larger(V a, V b) {
  return hn::BitCast(F(), hn::Max(hn::BitCast(di, a), hn::BitCast(di, b)));
}

/// States from codes without a table look-up: the decade's line, scaled by absmax, at the code.
template <bool kSigned>
struct Decoder {
  V slope, offset;  // of the eight decades, on targets of eight lanes
  float scale;
  const DynamicMap& map = dynamic_map(kSigned);
  explicit Decoder(float absmax) : scale(absmax) {
    const F d;
    if constexpr (hn::MaxLanes(F()) == 8) {
      const V by = hn::Set(d, absmax);
      slope = hn::Mul(hn::LoadU(d, map.decade_slope), by),
      offset = hn::Mul(hn::LoadU(d, map.decade_offset), by);
    } else if constexpr (hn::MaxLanes(F()) > 8) {
      HWY_ALIGN float s[hn::MaxLanes(F())], o[hn::MaxLanes(F())];
      for (std::size_t i = 0; i < hn::MaxLanes(F()); ++i)
        s[i] = map.decade_slope[i & 7] * absmax, o[i] = map.decade_offset[i & 7] * absmax;
      slope = hn::Load(d, s), offset = hn::Load(d, o);
    }
  }
  /// kVectors vectors of states, step by step side by side: threads that share a core see only few
  /// instructions ahead.
  template <int kVectors>
  HWY_INLINE void decode(const std::uint8_t* codes, V* v) const {
    const F d;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    if constexpr (hn::MaxLanes(F()) >= 8) {
      V f[kVectors], u[kVectors], r[kVectors];
      const hn::RebindToUnsigned<decltype(di)> du;
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        const auto c = hn::PromoteTo(di, hn::LoadU(du8, codes + k * lanes));
        f[k] = hn::ConvertTo(d, kSigned ? hn::Sub(c, hn::Set(di, 127)) : c);
      }
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k)
        u[k] = kSigned ? hn::Add(hn::Abs(f[k]), hn::Set(d, 0.5f))
                       : hn::MulAdd(f[k], hn::Set(d, 257.0f / 256), hn::Set(d, 1.0f));
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) r[k] = hn::Sub(u[k], power_below(u[k]));
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        auto exponent = hn::ShiftRight<23>(hn::BitCast(du, u[k]));
        if constexpr (hn::MaxLanes(F()) > 8)
          exponent = hn::And(exponent, hn::Set(du, 7));  // eight lanes read three bits
        const auto index = hn::IndicesFromVec(d, hn::BitCast(di, exponent));
        v[k] = hn::MulAdd(hn::TableLookupLanes(slope, index), r[k],
                          hn::TableLookupLanes(offset, index));
        if constexpr (kSigned) v[k] = hn::Xor(v[k], hn::And(f[k], hn::SignBit(d)));
      }
    } else {
      for (int k = 0; k < kVectors; ++k)
        v[k] = hn::Mul(
            hn::GatherIndex(d, map.value, hn::PromoteTo(di, hn::LoadU(du8, codes + k * lanes))),
            hn::Set(d, scale));
    }
  }
  HWY_INLINE V operator()(const std::uint8_t* codes) const {
    V v;
    decode<1>(codes, &v);
    return v;
  }
};
HWY_INLINE V codes_to_values(const F d, const float* map, const std::uint8_t* codes) {
  return hn::GatherIndex(d, map, hn::PromoteTo(di, hn::LoadU(du8, codes)));
}

/// The code of value v in a block of this absmax; `signs`: optimizer states, where a negative value
/// keeps its sign.
HWY_INLINE std::uint8_t encode_one(const DynamicMap& map, float v, float absmax, bool signs) {
  const int c = map.nearest(absmax > 0 ? v / absmax : 0.0f);
  return static_cast<std::uint8_t>(signs && c == map.zero && v < 0 ? c - 1 : c);
}

/// y = the chain of map.h at x, where no x is below decade kFirst: two sums side by side, since one
/// would wait for each of its products. The terms that weigh most come last, so that roundings stay
/// small.
template <int kFirst, int kVectors>
HWY_INLINE void apply_chain(const DynamicMap& map, const V* x, V* y) {
  const F d;
  constexpr int kLast = DynamicMap::kDecades - 1;
  V z[kVectors];
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) {
    y[k] = hn::Load(d, map.wide_start[kFirst]);
    z[k] =
        hn::Mul(hn::Load(d, map.wide_less[kLast]), lesser(x[k], hn::Load(d, map.wide_bend[kLast])));
  }
#pragma GCC unroll 8
  for (int j = kFirst + 1; j < kLast; ++j) {
    const V bend = hn::Load(d, map.wide_bend[j]), less = hn::Load(d, map.wide_less[j]);
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) y[k] = hn::MulAdd(less, lesser(x[k], bend), y[k]);
  }
  const V end = hn::Load(d, map.wide_end), more = hn::Load(d, map.wide_more),
          slope = hn::Load(d, map.wide_slope);
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) y[k] = hn::MulAdd(more, larger(x[k], end), y[k]);
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) z[k] = hn::MulAdd(slope, x[k], z[k]);
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) y[k] = hn::Add(y[k], z[k]);
}

/// The floor of 0 <= y < 2^31, without care for what lies outside.
HWY_INLINE hn::Vec<decltype(di)> floor_of(V y) {
#if HWY_TARGET == HWY_AVX2
  return decltype(floor_of(y)){_mm256_cvttps_epi32(y.raw)};
#else
  return hn::ConvertTo(di, y);
#endif
}

/// Four vectors of floors (map.h) of the values at v to their codes.
template <bool kSigned, bool kSigns>
HWY_INLINE void store_codes(hn::Vec<decltype(di)>* floors, const float* v, std::uint8_t* p) {
#if HWY_TARGET == HWY_AVX2
  __m256i low = _mm256_packs_epi32(floors[0].raw, floors[1].raw),
          high = _mm256_packs_epi32(floors[2].raw, floors[3].raw), codes;
  if constexpr (kSigned) {
    const __m256i *bits = reinterpret_cast<const __m256i*>(v), zero = _mm256_set1_epi8(127);
    const __m256i a = _mm256_packs_epi32(_mm256_loadu_si256(bits), _mm256_loadu_si256(bits + 1)),
                  b = _mm256_packs_epi32(_mm256_loadu_si256(bits + 2),
                                         _mm256_loadu_si256(bits + 3));
    const __m256i size = _mm256_packus_epi16(low, high),
                  size_below = kSigns ? _mm256_max_epu8(size, _mm256_set1_epi8(1)) : size;
    codes = _mm256_blendv_epi8(_mm256_add_epi8(size, zero), _mm256_subs_epu8(zero, size_below),
                               _mm256_packs_epi16(a, b));  // there is no -1: it saturates
  } else {
    const __m256i one = _mm256_set1_epi16(1);
    codes = _mm256_packus_epi16(_mm256_sub_epi16(low, one), _mm256_sub_epi16(high, one));
  }
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(p),
      _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
#else
  const F d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int k = 0; k < 4; ++k) {
    auto code = floors[k];
    if constexpr (kSigned) {
      const auto minus = hn::BroadcastSignBit(hn::BitCast(di, hn::LoadU(d, v + k * lanes)));
      if constexpr (kSigns) code = hn::Max(code, hn::Neg(minus));  // there is no -0 among states
      code = hn::Add(hn::Sub(hn::Xor(code, minus), minus),
                     hn::Set(di, 127));  // -128 would be -1: the conversion to bytes makes it 0
    } else {
      code = hn::Sub(code, hn::Set(di, 1));
    }
    hn::StoreU(hn::DemoteTo(du8, code), du8, p + k * lanes);
  }
#endif
}

/// Codes that may be one off, made exact where the floors left too little.
HWY_NOINLINE void correct(const DynamicMap& map, const float* v, const float* rest, int64_t n,
                          float absmax, bool signs, std::uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i) {
    if (rest[i] >= 4 * DynamicMap::kBias) continue;
    const int c = settled(map.mid, codes[i], v[i] / absmax);
    codes[i] = static_cast<std::uint8_t>(signs && c == map.zero && v[i] < 0 ? c - 1 : c);
  }
}

/// Codes of n <= block values, all finite.
template <bool kSigned, bool kSigns>
void encode_block(const float* HWY_RESTRICT v, int64_t n, float absmax,
                  std::uint8_t* HWY_RESTRICT codes) {
  const F d;
  const DynamicMap& map = dynamic_map(kSigned);
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  if (absmax > 1e-37f && absmax < 1e37f) {  // the reciprocal is as exact as others
    const V inverse = hn::Set(d, 1 / absmax), large = hn::Set(d, kSigned ? 1e-4f : 1e-5f),
            late = hn::Set(d, 0.4f), two = hn::Set(d, 2.0f);
    constexpr int kVectors = 4;  // share the loads of the lines
    for (; i + kVectors * lanes <= n; i += kVectors * lanes) {
      V x[kVectors], y[kVectors];
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        x[k] = hn::Mul(hn::LoadU(d, v + i + k * lanes), inverse);
        if constexpr (kSigned) x[k] = hn::Abs(x[k]);
      }
      const V least = lesser(lesser(x[0], x[1]), lesser(x[2], x[3]));
      // squares reach further down: a branch that goes either way costs more than two lines
      if (hn::AllTrue(d, hn::Ge(least, large)))
        apply_chain<kSigned ? 3 : 2, kVectors>(map, x, y);
      else
        apply_chain<0, kVectors>(map, x, y);
      hn::Vec<decltype(di)> code[kVectors];
      V rest[kVectors];
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) rest[k] = hn::Add(power_below(y[k]), late);
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) y[k] = lesser(y[k], hn::MulSub(y[k], two, rest[k]));
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) code[k] = floor_of(y[k]);
      store_codes<kSigned, kSigns>(code, v + i, codes + i);
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) rest[k] = hn::Sub(y[k], hn::ConvertTo(d, code[k]));
      const V lowest = lesser(lesser(rest[0], rest[1]), lesser(rest[2], rest[3]));
      if (HWY_UNLIKELY(!hn::AllTrue(d, hn::Ge(lowest, hn::Set(d, 4 * DynamicMap::kBias))))) {
        HWY_ALIGN float rests[kVectors * hn::MaxLanes(F())];
        for (int k = 0; k < kVectors; ++k) hn::Store(rest[k], d, rests + k * lanes);
        correct(map, v + i, rests, kVectors * lanes, absmax, kSigns, codes + i);
      }
    }
  }
  for (; i < n; ++i) codes[i] = encode_one(map, v[i], absmax, kSigns);
}

void quantize_all(const float* x, int64_t n, bool is_signed, int64_t block, std::uint8_t* codes,
                  float* absmax) {
  const int64_t blocks = ceil_div(n, block);
  parallel_for(blocks, std::max<int64_t>(1, kGrain / block),
               [&](int64_t begin, int64_t end) HWY_ATTR {
                 const F d;
                 cpu::Scratch<float> finite(std::min(block, n));
                 for (int64_t b = begin; b < end; ++b) {
                   const int64_t from = b * block, size = std::min(block, n - from);
                   V top = hn::Zero(d);
                   each<float>(0, size, [&](auto at) HWY_ATTR {
                     const V v = at.load(d, x + from), ok = hn::IfThenElseZero(hn::IsFinite(v), v);
                     top = hn::Max(top, hn::Abs(ok));
                     at.store(d, is_signed ? ok : hn::Max(ok, hn::Zero(d)), finite.data());
                   });
                   absmax[b] = max_lanes(d, top);
                   if (is_signed)
                     encode_block<true, false>(finite.data(), size, absmax[b], codes + from);
                   else
                     encode_block<false, false>(finite.data(), size, absmax[b], codes + from);
                 }
               });
}

void dequantize_all(const std::uint8_t* codes, const float* absmax, int64_t n, bool is_signed,
                    int64_t block, float* y) {
  const int64_t blocks = ceil_div(n, block);
  const float* map = dynamic_map(is_signed).value;
  parallel_for(blocks, std::max<int64_t>(1, kGrain / block),
               [&](int64_t begin, int64_t end) HWY_ATTR {
                 const F d;
                 const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
                 for (int64_t b = begin; b < end; ++b) {
                   const V scale = hn::Set(d, absmax[b]);
                   const int64_t stop = std::min(n, (b + 1) * block);
                   int64_t i = b * block;
                   for (; i + lanes <= stop; i += lanes)
                     hn::StoreU(hn::Mul(codes_to_values(d, map, codes + i), scale), d, y + i);
                   for (; i < stop; ++i) y[i] = map[codes[i]] * absmax[b];
                 }
               });
}

/// The rule on vectors: p, and the states s1, s2 of one place, from the scaled gradient. Returns
/// the gradient with its decay.
template <Rule8 kRule>
struct Update {
  const F d;
  V rate, root, eps, decay, keep1, take1, keep2, take2;
  bool first;
  explicit Update(const Step8& a) : first(a.step == 1) {
    auto constant = [&](double c) HWY_ATTR { return hn::Set(d, static_cast<float>(c)); };
    const double t = static_cast<double>(a.step);
    const bool adam = kRule == Rule8::Adam;
    rate = constant(adam ? -a.lr / (1 - std::pow(a.beta1, t)) : -a.lr);
    root = constant(adam ? 1 / std::sqrt(1 - std::pow(a.beta2, t)) : 1);
    eps = constant(a.eps);
    decay = constant(adam || kRule == Rule8::Lion ? 1 - a.lr * a.weight_decay : a.weight_decay);
    keep1 = constant(a.beta1), take1 = constant(1 - a.beta1), keep2 = constant(a.beta2),
    take2 = constant(1 - a.beta2);
  }
  /// Adam's moments alone, and what they do to p: two loops with short chains run faster than one.
  HWY_INLINE void moments(V g, V& s1, V& s2) const {
    s1 = hn::MulAdd(keep1, s1, hn::MulAdd(take1, g, hn::Zero(d)));  // never -0
    s2 = hn::MulAdd(hn::Mul(take2, g), g, hn::Mul(keep2, s2));
  }
  HWY_INLINE V moved(V p, V s1, V s2) const {
    // the reciprocal is good to 2 ulp: the divider is busy with the root
    const V bottom = hn::MulAdd(hn::Sqrt(s2), root, eps), guess = hn::ApproximateReciprocal(bottom),
            one = hn::Set(d, 1.0f);
    return hn::MulAdd(hn::Mul(rate, s1),
                      hn::MulAdd(guess, hn::NegMulAdd(bottom, guess, one), guess),
                      hn::Mul(p, decay));
  }
  HWY_INLINE V operator()(V& p, V g, V& s1, V& s2) const {
    const V most = hn::Set(d, kMost);
    if constexpr (kRule == Rule8::Adam) {
      moments(g, s1, s2);
      p = hn::MulAdd(
          p, decay,
          hn::Div(hn::Mul(rate, s1),
                  hn::MulAdd(hn::Sqrt(s2), root, eps)));  // an s2 beyond all floats moves nothing
      s2 = hn::Min(s2, most);
    } else if constexpr (kRule == Rule8::Momentum) {
      g = hn::MulAdd(decay, p, g);
      s1 = first ? g : hn::MulAdd(keep1, s1, g);
      s1 = hn::Max(hn::Min(s1, most), hn::Neg(most));
      p = hn::MulAdd(rate, s1, p);
    } else if constexpr (kRule == Rule8::Lion) {
      p = hn::Mul(p, decay);
      const V c = hn::MulAdd(keep1, s1, hn::Mul(take1, g));
      p = hn::Add(p, hn::IfThenZeroElse(hn::Eq(c, hn::Zero(d)), hn::CopySign(rate, hn::Neg(c))));
      s1 = hn::MulAdd(keep2, s1, hn::Mul(take2, g));
    } else {
      g = hn::MulAdd(decay, p, g);
      const V square = kRule == Rule8::RmsProp ? hn::Mul(take2, g) : g;
      s1 = hn::MulAdd(square, g, kRule == Rule8::RmsProp ? hn::Mul(keep2, s1) : s1);
      p = hn::Add(p, hn::Div(hn::Mul(rate, g), hn::Add(hn::Sqrt(s1), eps)));
      s1 = hn::Min(s1, most);
    }
    return g;
  }
};

/// Adam on the whole vectors of a block of bytes: the moments of all of them, then what these do to
/// p. m1, m2: their greatest magnitudes. Returns false, with p unchanged, where one is not finite.
template <Rule8 kRule>
HWY_INLINE bool adam_vectors(const Update<kRule>& update, const Arrays8& t, V gs, int64_t from,
                             int64_t size, const Decoder<true>& decode1,
                             const Decoder<false>& decode2, const std::uint8_t* c1,
                             const std::uint8_t* c2, float* n1, float* n2, V& m1, V& m2) {
  const F d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), whole = size / lanes * lanes;
  const bool more = hn::MaxLanes(F()) >= 8 && size <= 4096 && from + size + kAhead <= t.n;
  if (more)
    for (int64_t k = 0; k < size; k += 64)
      hwy::Prefetch(c1 + kAhead + k), hwy::Prefetch(c2 + kAhead + k);
  int64_t i = 0;
  auto vectors = [&](auto count) HWY_ATTR {
    constexpr int kVectors = count;
    for (; i + kVectors * lanes <= size; i += kVectors * lanes) {
      V g[kVectors], s1[kVectors], s2[kVectors];
      if (more)
        for (int64_t k = 0; k < kVectors * lanes; k += 16)
          hwy::Prefetch(t.p + from + i + kAhead + k), hwy::Prefetch(t.g + from + i + kAhead + k);
      decode1.template decode<kVectors>(c1 + i, s1);
      decode2.template decode<kVectors>(c2 + i, s2);
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        g[k] = hn::Mul(hn::LoadU(d, t.g + from + i + k * lanes), gs);
        update.moments(g[k], s1[k], s2[k]);
      }
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        m1 = larger(m1, hn::Abs(s1[k]));  // not finite once a gradient is not
        m2 = larger(m2, s2[k]);
        hn::StoreU(s1[k], d, n1 + i + k * lanes);
        hn::StoreU(s2[k], d, n2 + i + k * lanes);
      }
    }
  };
  vectors(std::integral_constant<int, 2>());
  vectors(std::integral_constant<int, 1>());
  const V most = hn::Set(d, kMost);
  if (HWY_UNLIKELY(!hn::AllTrue(d, hn::And(hn::Le(m1, most), hn::Le(m2, most))))) return false;
#pragma GCC unroll 2
  for (i = 0; i < whole; i += lanes)
    hn::StoreU(
        update.moved(hn::LoadU(d, t.p + from + i), hn::LoadU(d, n1 + i), hn::LoadU(d, n2 + i)), d,
        t.p + from + i);
  return true;
}

/// One block. With bytes: codes before, new states to n1, n2 and their absmax; else the states in
/// place.
template <Rule8 kRule, bool kBytes>
HWY_INLINE void step_block(const Update<kRule>& update, const Arrays8& t, float gradient_scale,
                           int64_t from, int64_t size, float scale1, float scale2, float* n1,
                           float* n2, float* top1, float* top2) {
  constexpr bool kTwo = kRule == Rule8::Adam;
  const F d;
  const float *map1 = dynamic_map(true).value, *map2 = dynamic_map(false).value;
  const std::uint8_t *c1 = static_cast<const std::uint8_t*>(t.s1) + from,
                     *c2 = static_cast<const std::uint8_t*>(t.s2) + (kTwo ? from : 0);
  const Decoder<true> decode1(scale1);
  const Decoder<false> decode2(scale2);
  const V gs = hn::Set(d, gradient_scale), zero = hn::Zero(d), most = hn::Set(d, kMost);
  V m1 = zero, m2 = zero;
  auto place = [&](auto at, V s1, V s2) HWY_ATTR {
    const V old = at.load(d, t.p + from), g = hn::Mul(at.load(d, t.g + from), gs);
    V p = old;
    const auto finite = hn::Le(hn::Abs(update(p, g, s1, s2)), most);
    p = hn::IfThenElse(finite, p, old);
    s1 = hn::Add(hn::IfThenElseZero(finite, s1), zero);  // -0 becomes 0
    m1 = hn::Max(m1, at.only(d, hn::Abs(s1)));
    at.store(d, p, t.p + from);
    at.store(d, s1, n1);
    if constexpr (kTwo) {
      s2 = hn::IfThenElseZero(finite, s2);
      m2 = hn::Max(m2, at.only(d, s2));
      at.store(d, s2, n2);
    }
  };
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  if constexpr (kTwo && kBytes) {
    const bool finite =
        adam_vectors<kRule>(update, t, gs, from, size, decode1, decode2, c1, c2, n1, n2, m1, m2);
    const int64_t whole = size / lanes * lanes;
    if (!finite) {  // again, element by element with care
      m1 = m2 = zero;
      for (; i < whole; i += lanes) place(Whole<float>{i}, decode1(c1 + i), decode2(c2 + i));
    }
    i = whole;
  }
  for (; i + lanes <= size; i += lanes) {
    const Whole<float> at{i};
    if constexpr (kBytes)
      place(at, decode1(c1 + i), kTwo ? decode2(c2 + i) : zero);
    else
      place(at, at.load(d, n1), kTwo ? at.load(d, n2) : zero);
  }
  if (i < size) {
    const Part<float> at{i, size - i};
    if constexpr (kBytes) {
      HWY_ALIGN float v1[hn::MaxLanes(F())] = {}, v2[hn::MaxLanes(F())] = {};
      for (int64_t k = i; k < size; ++k) {
        v1[k - i] = map1[c1[k]] * scale1;
        if (kTwo) v2[k - i] = map2[c2[k]] * scale2;
      }
      place(at, hn::Load(d, v1), hn::Load(d, v2));
    } else {
      place(at, at.load(d, n1), kTwo ? at.load(d, n2) : zero);
    }
  }
  *top1 = max_lanes(d, m1);
  *top2 = max_lanes(d, m2);
}

template <Rule8 kRule>
void step_rule(const Step8& a, const Arrays8& t) {
  constexpr bool kTwo = kRule == Rule8::Adam;
  const float gs = static_cast<float>(a.gradient_scale);
  if (!t.absmax1) {  // states of floats
    parallel_for(t.n, kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
      float top1, top2;
      step_block<kRule, false>(Update<kRule>(a), t, gs, begin, end - begin, 1, 1,
                               static_cast<float*>(t.s1) + begin,
                               static_cast<float*>(t.s2) + (kTwo ? begin : 0), &top1, &top2);
    });
    return;
  }
  const int64_t blocks = ceil_div(t.n, a.block);
  parallel_for(
      blocks, std::max<int64_t>(1, kGrain / a.block), [&](int64_t begin, int64_t end) HWY_ATTR {
        const Update<kRule> update(a);
        const int64_t most = std::min(a.block, t.n);
        cpu::Scratch<float> fresh(2 * most);
        float *n1 = fresh.data(), *n2 = n1 + most;
        for (int64_t b = begin; b < end; ++b) {
          const int64_t from = b * a.block, size = std::min(a.block, t.n - from);
          float top1, top2;
          step_block<kRule, true>(update, t, gs, from, size, t.absmax1[b], kTwo ? t.absmax2[b] : 0,
                                  n1, n2, &top1, &top2);
          t.absmax1[b] = top1;
          encode_block<true, true>(n1, size, top1, static_cast<std::uint8_t*>(t.s1) + from);
          if constexpr (kTwo) {
            t.absmax2[b] = top2;
            encode_block<false, false>(n2, size, top2, static_cast<std::uint8_t*>(t.s2) + from);
          }
        }
      });
}

void step_all(const Step8& a, const Arrays8& t) {
  switch (a.rule) {
    case Rule8::Adam:
      return step_rule<Rule8::Adam>(a, t);
    case Rule8::Momentum:
      return step_rule<Rule8::Momentum>(a, t);
    case Rule8::Lion:
      return step_rule<Rule8::Lion>(a, t);
    case Rule8::RmsProp:
      return step_rule<Rule8::RmsProp>(a, t);
    case Rule8::Adagrad:
      return step_rule<Rule8::Adagrad>(a, t);
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(quantize_all);
HWY_EXPORT(dequantize_all);
HWY_EXPORT(step_all);
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

bool is(const TensorIn& t, DType dtype, int64_t n) {
  return t.dtype == dtype && t.numel() == n && t.contiguous() && (t.data || n == 0);
}

Status quantize_cpu(const KernelContext&, const TensorIn& x, bool is_signed, int64_t block,
                    const TensorOut& codes, const TensorOut& absmax) {
  const int64_t n = x.numel();
  if (block < 1) return abi::failed("block must be positive");
  if (!is(x, DType::Float32, n) || !is(codes, DType::UInt8, n) ||
      !is(absmax, DType::Float32, ceil_div(n, block)))
    return abi::failed(
        "x must be contiguous float32, codes uint8 of its size, absmax float32 of a value per "
        "block");
  HWY_DYNAMIC_DISPATCH(quantize_all)
  (x.as<float>(), n, is_signed, block, codes.as<std::uint8_t>(), absmax.as<float>());
  return abi::ok();
}

Status dequantize_cpu(const KernelContext&, const TensorIn& codes, const TensorIn& absmax,
                      bool is_signed, int64_t block, const TensorOut& y) {
  const int64_t n = codes.numel();
  if (block < 1) return abi::failed("block must be positive");
  if (!is(codes, DType::UInt8, n) || !is(absmax, DType::Float32, ceil_div(n, block)) ||
      !is(y, DType::Float32, n))
    return abi::failed(
        "codes must be contiguous uint8, y float32 of its size, absmax float32 of a value per "
        "block");
  HWY_DYNAMIC_DISPATCH(dequantize_all)
  (codes.as<std::uint8_t>(), absmax.as<float>(), n, is_signed, block, y.as<float>());
  return abi::ok();
}

Status step_cpu(const KernelContext&, const Step8& a, const TensorOut& p, const TensorIn& g,
                const State8& state1, const State8& state2) {
  const TensorOut &s1 = state1.values, &absmax1 = state1.absmax, &s2 = state2.values,
                  &absmax2 = state2.absmax;
  const int64_t n = p.numel();
  const bool bytes = absmax1.data != nullptr, two = a.rule == Rule8::Adam;
  const DType state = bytes ? DType::UInt8 : DType::Float32;
  if (n == 0) return abi::ok();
  if (a.block < 1) return abi::failed("block must be positive");
  if (!is(p, DType::Float32, n) || !is(g, DType::Float32, n))
    return abi::failed("p and g must be contiguous float32 and of one size");
  if (!is(s1, state, n) || (two && !is(s2, state, n)) ||
      (bytes && !is(absmax1, DType::Float32, ceil_div(n, a.block))) ||
      (bytes && two && !is(absmax2, DType::Float32, ceil_div(n, a.block))))
    return abi::failed(
        "states must be contiguous, of p's size, uint8 with an absmax per block, or float32");
  HWY_DYNAMIC_DISPATCH(step_all)
  (a, {p.as<float>(), g.as<float>(), s1.as<void>(), s2.as<void>(), absmax1.as<float>(),
       absmax2.as<float>(), n});
  return abi::ok();
}

}  // namespace

void provide_optim8_cpu(abi::KernelTable& t) {
  t.provide<blockwise_quantize>(&quantize_cpu);
  t.provide<blockwise_dequantize>(&dequantize_cpu);
  t.provide<optimizer8_step>(&step_cpu);
}

}  // namespace dropin::kernels
#endif
