// BitLinear kernels. Weights stay packed as they are saved: a shift and a mask of 32 bytes give 32
// unsigned codes, those of every 4th (8th) weight, so the activations are laid out in that order
// once per call; sums of codes times activations become sums of values by subtracting the
// activations' own sum. AVX2: vpmaddubsw adds pairs in int16. A lane grows by at most 2 * 2 * 128 =
// 512 a step (ternary), so 63 steps fit in 32767; 60 are taken before widening.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/bitlinear/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "dropin/core/parallel.h"
#include "kernels/bitlinear/kernel.h"
#include "kernels/row-inl.h"
#include "kernels/strided.h"
#include "src/cpu/scratch.h"

#ifndef DROPIN_BITLINEAR_ARGS_
#define DROPIN_BITLINEAR_ARGS_
namespace dropin::kernels {
struct BitProduct {
  int64_t m, n, k, row_bytes, row_groups;
  const std::int8_t* q;
  const float *t, *e;
  const std::uint8_t* packed;
  const float *scale, *bias;
  float* y;
};
/// The bytes of a row that hold a slice of K, in blocks of 32 bytes; codes are taken out plane by
/// plane.
struct BitSlice {
  int64_t first, last;  // elements
  int64_t byte, blocks, planes;
  BitSlice(int64_t g, int64_t groups, int64_t k, bool ternary)
      : first(k / groups * g), last(first + k / groups), planes(ternary ? 4 : 8) {
    byte = first / planes;
    blocks = ceil_div(ceil_div(last, planes) - byte, 32);
  }
  int64_t codes() const { return blocks * 32 * planes; }
};
constexpr int64_t kPanelRows = 16, kDirectTokens = 8, kFlushSteps = 60;
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

// --- activations

template <class T>
void range_of(const T* h, int64_t n, T* lowest, T* highest, bool* finite) {
  const Tag<T> d;
  auto lo = hn::Set(d, kInf<T>), hi = hn::Neg(lo),
       zero = hn::Zero(d);  // 0 * x is NaN unless x is finite
  const auto inf = lo;
  each<T>(0, n, [&](auto at) HWY_ATTR {
    const auto v = at.load(d, h);
    zero = hn::MulAdd(v, hn::Zero(d), zero);
    const auto keep = hn::RebindMask(d, hn::Eq(at.only(d, hn::Set(d, T(1))), hn::Set(d, T(1))));
    lo = hn::Min(lo, hn::IfThenElse(keep, v, inf));
    hi = hn::Max(hi, hn::IfThenElse(keep, v, hn::Neg(inf)));
  });
  *lowest = hn::GetLane(hn::MinOfLanes(d, lo));
  *highest = hn::GetLane(hn::MaxOfLanes(d, hi));
  *finite = hn::AllFalse(d, hn::IsNaN(zero));
}
template <class T>
void top_of(const T* h, int64_t n, T* top, bool* finite) {
  const Tag<T> d;
  auto hi = hn::Zero(d), zero = hn::Zero(d);
  each<T>(0, n, [&](auto at) HWY_ATTR {
    const auto v = at.load(d, h);
    zero = hn::MulAdd(v, hn::Zero(d), zero);
    hi = hn::Max(hi, hn::Abs(v));
  });
  *top = max_lanes(d, hi);
  *finite = hn::AllFalse(d, hn::IsNaN(zero));
}

template <class T>
void quantize_slice(const T* h, int64_t n, T scale, T offset, T least, T most, std::int8_t* q) {
  const Tag<T> d;
  const auto s = hn::Set(d, scale), e = hn::Set(d, offset), lo = hn::Set(d, least),
             hi = hn::Set(d, most);
  int64_t i = 0;
  if constexpr (sizeof(T) == 4) {
    const hn::Rebind<std::int32_t, Tag<float>> di;
    const hn::Rebind<std::int8_t, Tag<float>> d8;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    for (; i + lanes <= n; i += lanes)
      hn::StoreU(
          hn::DemoteTo(d8, hn::NearestInt(hn::Min(
                               hn::Max(hn::Mul(hn::Sub(hn::LoadU(d, h + i), e), s), lo), hi))),
          d8, q + i);
    (void)di;
  }
  for (; i < n; ++i)
    q[i] =
        static_cast<std::int8_t>(std::nearbyint(std::clamp((h[i] - offset) * scale, least, most)));
}

template <class T>
void quantize_rows(const BitActivations& a, const T* h, int64_t m, int64_t k, std::int8_t* q, T* t,
                   T* e) {
  const int64_t g = a.groups, n = k / g;
  auto measure = [&](int64_t row, int64_t slice, T* lowest, T* highest, bool* finite) {
    const T* p = h + row * k + slice * n;
    if (a.shift)
      range_of(p, n, lowest, highest, finite);
    else
      top_of(p, n, highest, finite);
  };
  auto fill = [&](T lowest, T highest, bool finite, T* t_out, T* e_out) {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    *t_out = finite ? std::max(a.shift ? highest - lowest : highest, static_cast<T>(1e-5)) : nan;
    if (!(*t_out <= std::numeric_limits<T>::max())) *t_out = nan;
    if (a.shift) *e_out = finite ? lowest : nan;
  };
  const int64_t grain = std::max<int64_t>(1, kGrain / 2 / std::max<int64_t>(k, 1));
  if (a.per_tensor) {
    std::vector<T> lo(static_cast<std::size_t>(m * g)), hi(static_cast<std::size_t>(m * g));
    std::vector<char> ok(static_cast<std::size_t>(m * g));
    parallel_for(m, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t s = 0; s < g; ++s) {
          bool finite;
          measure(r, s, &lo[r * g + s], &hi[r * g + s], &finite);
          ok[r * g + s] = finite;
        }
    });
    for (int64_t s = 0; s < g; ++s) {
      T lowest = kInf<T>, highest = a.shift ? -lowest : 0;
      bool finite = true;
      for (int64_t r = 0; r < m; ++r) {
        lowest = std::min(lowest, lo[r * g + s]);
        highest = std::max(highest, hi[r * g + s]);
        finite = finite && ok[r * g + s];
      }
      if (m == 0) lowest = highest = 0;
      fill(lowest, highest, finite, t + s, a.shift ? e + s : nullptr);
    }
  }
  parallel_for(m, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t s = 0; s < g; ++s) {
        const int64_t at = a.per_tensor ? s : r * g + s;
        if (!a.per_tensor) {
          T lowest = 0, highest = 0;
          bool finite;
          measure(r, s, &lowest, &highest, &finite);
          fill(lowest, highest, finite, t + at, a.shift ? e + at : nullptr);
        }
        std::int8_t* out = q + r * k + s * n;
        if (std::isnan(t[at]))
          std::memset(out, 0, static_cast<std::size_t>(n));
        else
          quantize_slice<T>(h + r * k + s * n, n, static_cast<T>(a.qmax) / t[at],
                            a.shift ? e[at] : T(0), a.shift ? T(0) : T(-128), T(127), out);
      }
  });
}
void quantize_any(const BitActivations& a, DType type, const void* h, int64_t m, int64_t k,
                  std::int8_t* q, void* t, void* e) {
  if (type == DType::Float32)
    quantize_rows(a, static_cast<const float*>(h), m, k, q, static_cast<float*>(t),
                  static_cast<float*>(e));
  else
    quantize_rows(a, static_cast<const double*>(h), m, k, q, static_cast<double*>(t),
                  static_cast<double*>(e));
}

template <class T>
void dequantize_rows(const BitActivations& a, const std::int8_t* q, const T* t, const T* e,
                     int64_t m, int64_t k, T* h) {
  const int64_t g = a.groups, n = k / g;
  parallel_for(
      m, std::max<int64_t>(1, kGrain / std::max<int64_t>(k, 1)),
      [&](int64_t begin, int64_t end) HWY_ATTR {
        for (int64_t r = begin; r < end; ++r)
          for (int64_t s = 0; s < g; ++s) {
            const int64_t at = a.per_tensor ? s : r * g + s;
            const T step = t[at] / static_cast<T>(a.qmax), offset = a.shift ? e[at] : T(0);
            const std::int8_t* in = q + r * k + s * n;
            T* out = h + r * k + s * n;
            int64_t i = 0;
            if constexpr (sizeof(T) == 4) {
              const Tag<float> d;
              const hn::Rebind<std::int32_t, Tag<float>> di;
              const hn::Rebind<std::int8_t, Tag<float>> d8;
              const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
              const auto vs = hn::Set(d, step), ve = hn::Set(d, offset);
              for (; i + lanes <= n; i += lanes)
                hn::StoreU(
                    hn::MulAdd(hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, in + i))), vs, ve),
                    d, out + i);
            }
            for (; i < n; ++i) out[i] = static_cast<T>(in[i]) * step + offset;
          }
      });
}
void dequantize_any(const BitActivations& a, DType type, const std::int8_t* q, const void* t,
                    const void* e, int64_t m, int64_t k, void* h) {
  if (type == DType::Float32)
    dequantize_rows(a, q, static_cast<const float*>(t), static_cast<const float*>(e), m, k,
                    static_cast<float*>(h));
  else
    dequantize_rows(a, q, static_cast<const double*>(t), static_cast<const double*>(e), m, k,
                    static_cast<double*>(h));
}

// --- weights

/// Per row of w [n, k]: the sum, which only 1 bit needs, and that of the magnitudes.
void row_sums(bool ternary, const float* w, int64_t n, int64_t k, double* sums) {
  const Tag<float> d;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(k, 1));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t r = begin; r < end; ++r) {
      const float* p = w + r * k;
      auto plain = hn::Zero(d);
      double total = 0;
      sums[2 * r + 1] = sum_row<float>(k, [&](auto at) HWY_ATTR { return hn::Abs(at.load(d, p)); });
      if (!ternary)
        for (int64_t from = 0; from < k; from += kSumBlock) {
          plain = hn::Zero(d);
          each<float>(from, std::min(k, from + kSumBlock),
                      [&](auto at) HWY_ATTR { plain = hn::Add(plain, at.only(d, at.load(d, p))); });
          total += static_cast<double>(sum_lanes(d, plain));
        }
      sums[2 * r] = total;
    }
  });
}

/// The codes of a row: whether a value exceeds the threshold, or the ternary value + 1. `codes` has
/// 64 bytes more than the row.
void codes_of_row(bool ternary, const float* p, int64_t k, float threshold, std::uint8_t* codes) {
  const Tag<float> d;
  const hn::Rebind<std::int32_t, Tag<float>> di;
  const hn::Rebind<std::uint8_t, Tag<float>> du8;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto limit = hn::Set(d, threshold), minus = hn::Neg(limit);
  auto code = [&](auto v) HWY_ATTR {  // comparisons give -1
    const auto above = hn::VecFromMask(di, hn::RebindMask(di, hn::Gt(v, limit)));
    if (!ternary) return hn::Neg(above);
    return hn::Sub(
        hn::Add(hn::Set(di, 1), hn::VecFromMask(di, hn::RebindMask(di, hn::Lt(v, minus)))), above);
  };
  int64_t i = 0;
  for (; i + lanes <= k; i += lanes)
    hn::StoreU(hn::DemoteTo(du8, code(hn::LoadU(d, p + i))), du8, codes + i);
  if (i < k)
    hn::StoreU(hn::DemoteTo(du8, code(load_first(d, p + i, static_cast<std::size_t>(k - i)))), du8,
               codes + i);
  std::memset(codes + k, ternary ? 1 : 0, 8);
}

/// `bytes` bytes of 8 or 4 codes each; the multiplication moves code j to the top byte's bits.
void pack_codes(bool ternary, const std::uint8_t* codes, int64_t bytes, std::uint8_t* out) {
  for (int64_t b = 0; b < bytes; ++b) {
    if (ternary) {
      std::uint32_t c;
      std::memcpy(&c, codes + 4 * b, 4);
      out[b] = static_cast<std::uint8_t>(c * 0x01041040u >> 24);
    } else {
      std::uint64_t c;
      std::memcpy(&c, codes + 8 * b, 8);
      out[b] = static_cast<std::uint8_t>(c * 0x0102040810204080u >> 56);
    }
  }
}

void pack_rows(bool ternary, const float* w, int64_t n, int64_t k, int64_t groups,
               std::uint8_t* packed, float* scale) {
  std::vector<double> sums(static_cast<std::size_t>(2 * n));
  row_sums(ternary, w, n, k, sums.data());
  std::vector<float> threshold(static_cast<std::size_t>(groups));
  const int64_t rows = n / groups, bytes = ceil_div(k, ternary ? 4 : 8);
  for (int64_t g = 0; g < groups; ++g) {
    double plain = 0, size = 0;
    for (int64_t r = g * rows; r < (g + 1) * rows; ++r)
      plain += sums[2 * r], size += sums[2 * r + 1];
    const double count = static_cast<double>(rows * k);
    scale[g] = static_cast<float>(size / count);
    if (ternary) scale[g] = std::max(scale[g], 1e-5f);
    threshold[g] = ternary ? 0.5f * scale[g] : static_cast<float>(plain / count);
  }
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(k, 1));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(k + 64));
    for (int64_t r = begin; r < end; ++r) {
      codes_of_row(ternary, w + r * k, k, threshold[r / rows], codes.data());
      pack_codes(ternary, codes.data(), bytes, packed + r * bytes);
    }
  });
}

void unpack_rows(bool ternary, const std::uint8_t* packed, const float* scale, int64_t n, int64_t k,
                 int64_t groups, float* w) {
  const int64_t planes = ternary ? 4 : 8, bytes = ceil_div(k, planes), rows = n / groups;
  std::vector<float> tables(static_cast<std::size_t>(groups) * 256 *
                            planes);  // per group, the values of every byte
  for (int64_t g = 0; g < groups; ++g)
    for (int b = 0; b < 256; ++b)
      for (int64_t i = 0; i < planes; ++i)
        tables[(g * 256 + b) * planes + i] =
            scale[g] * static_cast<float>(ternary ? (b >> 2 * i & 3) - 1 : 2 * (b >> i & 1) - 1);
  parallel_for(n, std::max<int64_t>(1, kGrain / std::max<int64_t>(k, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r) {
                   const float* table = tables.data() + r / rows * 256 * planes;
                   const std::uint8_t* in = packed + r * bytes;
                   float* out = w + r * k;
                   int64_t i = 0;
                   if (ternary)
                     for (; i + 4 <= k; i += 4) std::memcpy(out + i, table + in[i / 4] * 4, 16);
                   else
                     for (; i + 8 <= k; i += 8) std::memcpy(out + i, table + in[i / 8] * 8, 32);
                   for (; i < k; ++i) out[i] = table[in[i / planes] * planes + i % planes];
                 }
               });
}

// --- the product

/// The activations of one token and slice in the order in which planes come out of the blocks,
/// zeros outside the slice; returns their sum.
inline std::int32_t arrange(const BitSlice& s, const std::int8_t* q, std::int8_t* out) {
  std::memset(out, 0, static_cast<std::size_t>(s.codes()));
  std::int32_t sum = 0;
  const int64_t base = s.byte * s.planes, block = 32 * s.planes;
  for (int64_t b = 0; b < s.blocks; ++b) {
    const int64_t from = base + b * block;
    std::int8_t* o = out + b * block;
    if (from >= s.first && from + block <= s.last) {
      const std::int8_t* in = q + from;
      if (s.planes == 4)
        for (int64_t j = 0; j < 32; ++j)
          for (int64_t i = 0; i < 4; ++i) o[i * 32 + j] = in[4 * j + i];
      else
        for (int64_t j = 0; j < 32; ++j)
          for (int64_t i = 0; i < 8; ++i) o[i * 32 + j] = in[8 * j + i];
      for (int64_t i = 0; i < block; ++i) sum += in[i];
      continue;
    }
    for (int64_t x = std::max(from, s.first); x < std::min(from + block, s.last); ++x) {
      o[(x - from) % s.planes * 32 + (x - from) / s.planes] = q[x];
      sum += q[x];
    }
  }
  return sum;
}

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
HWY_INLINE std::int32_t add_lanes(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
HWY_INLINE __m256i widen(__m256i v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }

/// sums[t] = sum of codes times activations, codes straight from a packed row of `blocks` blocks;
/// activations of token t at q + t * stride.
template <bool kTernary, int T>
HWY_INLINE void dot_packed(const std::uint8_t* row, int64_t blocks, const std::int8_t* q,
                           int64_t stride, std::int32_t* sums) {
  constexpr int kPlanes = kTernary ? 4 : 8,
                kBlocks = static_cast<int>(kFlushSteps) / 4;  // a bit's lanes grow half as fast
  const __m256i mask = _mm256_set1_epi8(kTernary ? 3 : 1);
  __m256i wide[T];
  for (int t = 0; t < T; ++t) wide[t] = _mm256_setzero_si256();
  for (int64_t b = 0; b < blocks;) {
    __m256i acc[T];
    for (int t = 0; t < T; ++t) acc[t] = _mm256_setzero_si256();
    for (const int64_t stop = std::min(blocks, b + kBlocks); b < stop; ++b) {
      __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 32 * b));
#pragma GCC unroll 8
      for (int i = 0; i < kPlanes; ++i) {
        const __m256i u = _mm256_and_si256(v, mask);
        v = _mm256_srli_epi16(v, kTernary ? 2 : 1);
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t)
          acc[t] = _mm256_add_epi16(
              acc[t], _mm256_maddubs_epi16(u, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(
                                                  q + t * stride + (b * kPlanes + i) * 32))));
      }
    }
    for (int t = 0; t < T; ++t) wide[t] = _mm256_add_epi32(wide[t], widen(acc[t]));
  }
  for (int t = 0; t < T; ++t) sums[t] = add_lanes(wide[t]);
}

/// sums[r * T + t] for R unpacked rows (stride n) and T tokens (stride `stride`), n a multiple
/// of 32.
template <int R, int T>
HWY_INLINE void dot_tile(const std::uint8_t* u, int64_t n, const std::int8_t* q, int64_t stride,
                         std::int32_t* sums) {
  __m256i wide[R * T];
  for (auto& w : wide) w = _mm256_setzero_si256();
  for (int64_t k = 0; k < n;) {
    __m256i acc[R * T];
#pragma GCC unroll 16
    for (auto& a : acc) a = _mm256_setzero_si256();
    for (const int64_t stop = std::min(n, k + 32 * kFlushSteps); k < stop; k += 32) {
      __m256i x[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t)
        x[t] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + t * stride + k));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(u + r * n + k));
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t)
          acc[r * T + t] = _mm256_add_epi16(acc[r * T + t], _mm256_maddubs_epi16(c, x[t]));
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R * T; ++i) wide[i] = _mm256_add_epi32(wide[i], widen(acc[i]));
  }
#pragma GCC unroll 16
  for (int i = 0; i < R * T; ++i) sums[i] = add_lanes(wide[i]);
}
#else
template <bool kTernary, int T>
void dot_packed(const std::uint8_t* row, int64_t blocks, const std::int8_t* q, int64_t stride,
                std::int32_t* sums) {
  constexpr int kPlanes = kTernary ? 4 : 8, kMask = kTernary ? 3 : 1, kShift = kTernary ? 2 : 1;
  for (int t = 0; t < T; ++t) {
    std::int32_t s = 0;
    for (int64_t b = 0; b < blocks; ++b)
      for (int i = 0; i < kPlanes; ++i) {
        const std::int8_t* x = q + t * stride + (b * kPlanes + i) * 32;
        for (int j = 0; j < 32; ++j) s += (row[32 * b + j] >> i * kShift & kMask) * x[j];
      }
    sums[t] = s;
  }
}
template <int R, int T>
void dot_tile(const std::uint8_t* u, int64_t n, const std::int8_t* q, int64_t stride,
              std::int32_t* sums) {
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      std::int32_t s = 0;
      for (int64_t k = 0; k < n; ++k) s += u[r * n + k] * q[t * stride + k];
      sums[r * T + t] = s;
    }
}
#endif

/// The codes of a packed row, plane by plane of each block, as `arrange` orders the activations.
template <bool kTernary>
void unpack_planes(const std::uint8_t* row, const BitSlice& s, std::uint8_t* out) {
  constexpr int kPlanes = kTernary ? 4 : 8, kShift = kTernary ? 2 : 1, kMask = kTernary ? 3 : 1;
  for (int64_t b = 0; b < s.blocks; ++b) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
    __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 32 * b));
    const __m256i mask = _mm256_set1_epi8(kMask);
#pragma GCC unroll 8
    for (int i = 0; i < kPlanes; ++i) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (b * kPlanes + i) * 32),
                          _mm256_and_si256(v, mask));
      v = _mm256_srli_epi16(v, kShift);
    }
#else
    for (int i = 0; i < kPlanes; ++i)
      for (int j = 0; j < 32; ++j)
        out[(b * kPlanes + i) * 32 + j] =
            static_cast<std::uint8_t>(row[32 * b + j] >> i * kShift & kMask);
#endif
  }
}

/// The product of one slice of the activations, arranged as its packed rows are, with all rows.
template <bool kTernary>
struct SliceProduct {
  const BitActivations& a;
  const BitProduct& p;
  const int64_t g, tokens, width, rows_per_group;
  const BitSlice s;
  const std::int8_t* arranged;
  const std::int32_t* own;  ///< each token's sum

  static HWY_INLINE std::int32_t value(std::int32_t codes, std::int32_t q) {
    return kTernary ? codes - q : 2 * codes - q;
  }
  /// One finished sum: the slice's share of y.
  HWY_INLINE void finish(int64_t o, int64_t t, std::int32_t sum, std::int32_t of_ones) const {
    const int64_t at = a.per_tensor ? g : t * a.groups + g;
    float v = p.t[at] / static_cast<float>(a.qmax) * static_cast<float>(value(sum, own[t]));
    if (a.shift) v += p.e[at] * static_cast<float>(of_ones);
    v *= p.scale[o / rows_per_group];
    float& y = p.y[t * p.n + o];
    if (g > 0)
      y += v;
    else
      y = p.bias ? v + p.bias[o] : v;
  }
  /// A row's bytes; blocks that would end beyond the array are copied to `last`.
  HWY_INLINE const std::uint8_t* bytes(int64_t o, std::uint8_t* last) const {
    const int64_t from = o * p.row_bytes + s.byte, span = s.blocks * 32, all = p.n * p.row_bytes;
    if (from + span <= all) return p.packed + from;
    std::memset(last, 0, static_cast<std::size_t>(span));
    std::memcpy(last, p.packed + from, static_cast<std::size_t>(all - from));
    return last;
  }
  /// Few tokens: row o as it is packed.
  HWY_INLINE void direct(int64_t o, std::uint8_t* last) const {
    std::int32_t sums[kDirectTokens + 4] = {};
    const std::uint8_t* row = bytes(o, last);
    for (int64_t t = 0; t < tokens; t += 4) {
      const std::int8_t* x = arranged + t * width;
      switch (std::min<int64_t>(tokens - t, 4)) {
        case 1:
          dot_packed<kTernary, 1>(row, s.blocks, x, width, sums + t);
          break;
        case 2:
          dot_packed<kTernary, 2>(row, s.blocks, x, width, sums + t);
          break;
        case 3:
          dot_packed<kTernary, 3>(row, s.blocks, x, width, sums + t);
          break;
        default:
          dot_packed<kTernary, 4>(row, s.blocks, x, width, sums + t);
          break;
      }
    }
    const std::int32_t of_ones = a.shift ? value(sums[p.m], own[p.m]) : 0;
    for (int64_t t = 0; t < p.m; ++t) finish(o, t, sums[t], of_ones);
  }
  /// Many tokens: the rows of a panel are unpacked once, then met by two tokens at a time.
  HWY_INLINE void panel(int64_t first, std::uint8_t* codes, std::uint8_t* last) const {
    const int64_t rows = std::min(kPanelRows, p.n - first);
    for (int64_t r = 0; r < rows; ++r)
      unpack_planes<kTernary>(bytes(first + r, last), s, codes + r * s.codes());
    std::int32_t of_ones[kPanelRows] = {};
    if (a.shift)
      for (int64_t r = 0; r < rows; ++r) {
        std::int32_t sum;
        dot_tile<1, 1>(codes + r * s.codes(), s.codes(), arranged + p.m * width, width, &sum);
        of_ones[r] = value(sum, own[p.m]);
      }
    for (int64_t t = 0; t < p.m; t += 2) {
      const std::int8_t* x = arranged + t * width;
      const bool pair = t + 1 < p.m;
      int64_t r = 0;
      for (; r + 4 <= rows; r += 4) {
        std::int32_t sums[8];
        const std::uint8_t* u = codes + r * s.codes();
        if (pair)
          dot_tile<4, 2>(u, s.codes(), x, width, sums);
        else
          dot_tile<4, 1>(u, s.codes(), x, width, sums);
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j <= pair; ++j)
            finish(first + r + i, t + j, sums[i * (1 + pair) + j], of_ones[r + i]);
      }
      for (; r < rows; ++r)
        for (int j = 0; j <= pair; ++j) {
          std::int32_t sum;
          dot_tile<1, 1>(codes + r * s.codes(), s.codes(), x + j * width, width, &sum);
          finish(first + r, t + j, sum, of_ones[r]);
        }
    }
  }
};

template <bool kTernary>
void product(const BitActivations& a, const BitProduct& p) {
  const int64_t tokens = p.m + (a.shift ? 1 : 0);  // one more, of ones, for the sums of the weights
  int64_t width = 0;
  for (int64_t g = 0; g < a.groups; ++g)
    width = std::max(width, BitSlice(g, a.groups, p.k, kTernary).codes());
  cpu::Scratch<std::int8_t> arranged(tokens * width + 64);
  cpu::Scratch<std::int32_t> own(tokens + 16);
  cpu::Scratch<std::int8_t> ones(a.shift ? p.k + 1 : 1);
  if (a.shift) std::memset(ones.data(), 1, static_cast<std::size_t>(p.k));
  const int64_t panels = ceil_div(p.n, kPanelRows);
  const int64_t grain =
      std::max<int64_t>(1, kGrain * 2 / std::max<int64_t>(1, kPanelRows * tokens * width / 32));
  for (int64_t g = 0; g < a.groups; ++g) {
    const BitSlice s(g, a.groups, p.k, kTernary);
    parallel_for(tokens, std::max<int64_t>(1, kGrain / std::max<int64_t>(width, 1)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t t = begin; t < end; ++t)
                     own[t] = arrange(s, t < p.m ? p.q + t * p.k : ones.data(),
                                      arranged.data() + t * width);
                 });
    parallel_for(panels, grain, [&](int64_t begin, int64_t end) HWY_ATTR {
      const SliceProduct<kTernary> slice{
          a, p, g, tokens, width, p.n / p.row_groups, s, arranged.data(), own.data()};
      cpu::Scratch<std::uint8_t> last(s.blocks * 32);
      if (tokens <= kDirectTokens) {
        for (int64_t o = begin * kPanelRows; o < std::min(p.n, end * kPanelRows); ++o)
          slice.direct(o, last.data());
        return;
      }
      cpu::Scratch<std::uint8_t> codes(kPanelRows * s.codes());
      for (int64_t i = begin; i < end; ++i) slice.panel(i * kPanelRows, codes.data(), last.data());
    });
  }
}
void product_any(bool ternary, const BitActivations& a, const BitProduct& p) {
  ternary ? product<true>(a, p) : product<false>(a, p);
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(quantize_any);
HWY_EXPORT(dequantize_any);
HWY_EXPORT(pack_rows);
HWY_EXPORT(unpack_rows);
HWY_EXPORT(product_any);
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

bool is(const TensorIn& t, DType dtype, int64_t n) {
  return t.dtype == dtype && t.numel() == n && t.contiguous() && (t.data || n == 0);
}
int64_t row_bytes(int64_t k, bool ternary) { return ternary ? ceil_div(k, 4) : ceil_div(k, 8); }
bool fit(const BitActivations& a, const TensorIn& h, const TensorIn& q, const TensorIn& t,
         const TensorIn& e) {
  if (h.ndim != 2 || a.groups < 1 || h.sizes[1] % a.groups) return false;
  const int64_t scales = (a.per_tensor ? 1 : h.sizes[0]) * a.groups;
  return (h.dtype == DType::Float32 || h.dtype == DType::Float64) && is(h, h.dtype, h.numel()) &&
         is(q, DType::Int8, h.numel()) && is(t, h.dtype, scales) &&
         (!a.shift || is(e, h.dtype, scales));
}
constexpr const char* kMisfit =
    "h must be [M, K] float32 or float64, q int8 of its size, t (and e) a value per token and "
    "slice; all contiguous";

Status quantize_cpu(const KernelContext&, const BitActivations& a, const TensorIn& h,
                    const TensorOut& q, const TensorOut& t, const TensorOut& e) {
  if (!fit(a, h, q, t, e)) return abi::failed(kMisfit);
  HWY_DYNAMIC_DISPATCH(quantize_any)
  (a, h.dtype, h.data, h.sizes[0], h.sizes[1], q.as<std::int8_t>(), t.as<void>(), e.as<void>());
  return abi::ok();
}
Status dequantize_cpu(const KernelContext&, const BitActivations& a, const TensorIn& q,
                      const TensorIn& t, const TensorIn& e, const TensorOut& h) {
  if (!fit(a, h, q, t, e)) return abi::failed(kMisfit);
  HWY_DYNAMIC_DISPATCH(dequantize_any)
  (a, h.dtype, q.as<std::int8_t>(), t.data, e.data, h.sizes[0], h.sizes[1], h.as<void>());
  return abi::ok();
}
bool fit_weight(bool ternary, const TensorIn& w, const TensorIn& packed, const TensorIn& scale) {
  return w.ndim == 2 && is(w, DType::Float32, w.numel()) &&
         is(packed, DType::UInt8, w.sizes[0] * row_bytes(w.sizes[1], ternary)) &&
         scale.numel() > 0 && is(scale, DType::Float32, scale.numel()) &&
         w.sizes[0] % scale.numel() == 0;
}
Status pack_cpu(const KernelContext&, bool ternary, const TensorIn& w, const TensorOut& packed,
                const TensorOut& scale) {
  if (!fit_weight(ternary, w, packed, scale))
    return abi::failed(
        "w must be [N, K] float32, packed uint8 [N, bytes of a row], scale float32 [groups of "
        "rows]");
  HWY_DYNAMIC_DISPATCH(pack_rows)
  (ternary, w.as<float>(), w.sizes[0], w.sizes[1], scale.numel(), packed.as<std::uint8_t>(),
   scale.as<float>());
  return abi::ok();
}
Status unpack_cpu(const KernelContext&, bool ternary, const TensorIn& packed, const TensorIn& scale,
                  const TensorOut& w) {
  if (!fit_weight(ternary, w, packed, scale))
    return abi::failed(
        "w must be [N, K] float32, packed uint8 [N, bytes of a row], scale float32 [groups of "
        "rows]");
  HWY_DYNAMIC_DISPATCH(unpack_rows)
  (ternary, packed.as<std::uint8_t>(), scale.as<float>(), w.sizes[0], w.sizes[1], scale.numel(),
   w.as<float>());
  return abi::ok();
}
Status linear_cpu(const KernelContext&, bool ternary, const BitActivations& a, const BitCodes& h,
                  const BitWeight& weight, const TensorIn& bias, const TensorOut& y) {
  const TensorIn &q = h.q, &t = h.t, &e = h.e, &packed = weight.packed, &scale = weight.scale;
  if (q.ndim != 2 || y.ndim != 2 || q.sizes[0] != y.sizes[0] || a.groups < 1 ||
      q.sizes[1] % a.groups)
    return abi::failed("q must be [M, K] and y [M, N]");
  const int64_t m = q.sizes[0], k = q.sizes[1], n = y.sizes[1],
                scales = (a.per_tensor ? 1 : m) * a.groups;
  if (!is(q, DType::Int8, m * k) || !is(t, DType::Float32, scales) ||
      (a.shift && !is(e, DType::Float32, scales)) ||
      !is(packed, DType::UInt8, n * row_bytes(k, ternary)) || scale.numel() < 1 ||
      n % scale.numel() || !is(scale, DType::Float32, scale.numel()) ||
      (bias.data && !is(bias, DType::Float32, n)) || !is(y, DType::Float32, m * n))
    return abi::failed(
        "q int8, packed uint8 and float32 t, e, scale, bias, y must be contiguous and of fitting "
        "sizes");
  if (m == 0 || n == 0) return abi::ok();
  HWY_DYNAMIC_DISPATCH(product_any)
  (ternary, a,
   {m, n, k, row_bytes(k, ternary), scale.numel(), q.as<std::int8_t>(), t.as<float>(),
    e.as<float>(), packed.as<std::uint8_t>(), scale.as<float>(), bias.as<float>(), y.as<float>()});
  return abi::ok();
}

}  // namespace

void provide_bitlinear_cpu(abi::KernelTable& t) {
  t.provide<bit_quantize_activations>(&quantize_cpu);
  t.provide<bit_dequantize_activations>(&dequantize_cpu);
  t.provide<bit_pack_weight>(&pack_cpu);
  t.provide<bit_unpack_weight>(&unpack_cpu);
  t.provide<bit_linear>(&linear_cpu);
}

}  // namespace dropin::kernels
#endif
