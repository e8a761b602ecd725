// Small matrix products in registers, for kernels that work tile by tile. Included once per target,
// after hwy/highway.h (no ordinary include guard).
#if defined(DROPIN_KERNELS_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_KERNELS_TILE_INL_H_
#undef DROPIN_KERNELS_TILE_INL_H_
#else
#define DROPIN_KERNELS_TILE_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// --- small matrix products: C[M, N] (+)= A B, where A(r, k) = a[r * ar + k * ak] is broadcast and
// B's rows are vectors

#if HWY_TARGET <= HWY_AVX3
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

template <int R, int W>
HWY_INLINE void product_block(int64_t depth, const float* a, int64_t ar, int64_t ak, const float* b,
                              int64_t ldb, float* c, int64_t ldc, bool add) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> acc[R][W];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int w = 0; w < W; ++w)
      acc[r][w] = add ? hn::LoadU(d, c + r * ldc + w * lanes) : hn::Zero(d);
  int64_t k = 0;
#if !HWY_NATIVE_FMA  // every product is rounded: sums of four first keep the error down, at the
                     // same cost
  for (; k + 4 <= depth; k += 4)
#pragma GCC unroll 2
    for (int w = 0; w < W; ++w) {
      hn::Vec<decltype(d)> row[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) row[i] = hn::LoadU(d, b + (k + i) * ldb + w * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const float* x = a + r * ar + k * ak;
        const auto even = hn::MulAdd(hn::Set(d, x[ak]), row[1], hn::Mul(hn::Set(d, x[0]), row[0])),
                   odd = hn::MulAdd(hn::Set(d, x[3 * ak]), row[3],
                                    hn::Mul(hn::Set(d, x[2 * ak]), row[2]));
        acc[r][w] = hn::Add(acc[r][w], hn::Add(even, odd));
      }
    }
#endif
  for (; k < depth; ++k) {
    hn::Vec<decltype(d)> row[W];
#pragma GCC unroll 2
    for (int w = 0; w < W; ++w) row[w] = hn::LoadU(d, b + k * ldb + w * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto x = hn::Set(d, a[r * ar + k * ak]);
#pragma GCC unroll 2
      for (int w = 0; w < W; ++w) acc[r][w] = hn::MulAdd(x, row[w], acc[r][w]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int w = 0; w < W; ++w) hn::StoreU(acc[r][w], d, c + r * ldc + w * lanes);
}

template <int R>
HWY_NOINLINE void product_rows(int64_t n, int64_t depth, const float* a, int64_t ar, int64_t ak,
                               const float* b, int64_t ldb, float* c, int64_t ldc, bool add) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes)
    product_block<R, 2>(depth, a, ar, ak, b + j, ldb, c + j, ldc, add);
  for (; j + lanes <= n; j += lanes)
    product_block<R, 1>(depth, a, ar, ak, b + j, ldb, c + j, ldc, add);
  for (; j < n; ++j)
    for (int r = 0; r < R; ++r) {
      float s = add ? c[r * ldc + j] : 0;
      for (int64_t k = 0; k < depth; ++k) s += a[r * ar + k * ak] * b[k * ldb + j];
      c[r * ldc + j] = s;
    }
}

[[maybe_unused]] void product(int64_t m, int64_t n, int64_t depth, const float* a, int64_t ar,
                              int64_t ak, const float* b, int64_t ldb, float* c, int64_t ldc,
                              bool add) {
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows)
    product_rows<kRows>(n, depth, a + i * ar, ar, ak, b, ldb, c + i * ldc, ldc, add);
  for (; i + 4 <= m; i += 4)
    product_rows<4>(n, depth, a + i * ar, ar, ak, b, ldb, c + i * ldc, ldc, add);
  for (; i < m; ++i) product_rows<1>(n, depth, a + i * ar, ar, ak, b, ldb, c + i * ldc, ldc, add);
}

// The same where A's zeros stand for masked pairs and B may hold NaN or Inf there: those products
// are left out.
[[maybe_unused]] void careful_product(int64_t m, int64_t n, int64_t depth, const float* a,
                                      int64_t ar, int64_t ak, const float* b, int64_t ldb, float* c,
                                      int64_t ldc, bool add) {
  for (int64_t i = 0; i < m; ++i) {
    if (!add) std::fill_n(c + i * ldc, n, 0.0f);
    for (int64_t k = 0; k < depth; ++k) {
      const float x = a[i * ar + k * ak];
      if (x != 0)
        for (int64_t j = 0; j < n; ++j) c[i * ldc + j] += x * b[k * ldb + j];
    }
  }
}
[[maybe_unused]] void masked_product(bool careful, int64_t m, int64_t n, int64_t depth,
                                     const float* a, int64_t ar, int64_t ak, const float* b,
                                     int64_t ldb, float* c, int64_t ldc, bool add) {
  (careful ? careful_product : product)(m, n, depth, a, ar, ak, b, ldb, c, ldc, add);
}

[[maybe_unused]] bool all_finite(const float* p, int64_t rows, int64_t n, int64_t stride) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);  // 0 * x is NaN unless x is finite
  float rest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t j = 0;
    for (; j + lanes <= n; j += lanes)
      sum = hn::MulAdd(hn::LoadU(d, p + r * stride + j), hn::Zero(d), sum);
    for (; j < n; ++j) rest += p[r * stride + j] * 0.0f;
  }
  return hn::AllFalse(d, hn::IsNaN(sum)) && rest == 0;
}

// rows [n, width] with a stride -> columns [width, ld]; what is beyond n is 0.
[[maybe_unused]] void pack_transposed(const float* x, int64_t n, int64_t width, int64_t stride,
                                      float* out, int64_t ld) {
  int64_t j = 0;
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86
  {  // 8 rows by 4 columns: rows j and j + 4 share a vector, whose halves are transposed side by
     // side
    const hn::FixedTag<float, 8> d;
    const hn::FixedTag<float, 4> half;
    const hn::Repartition<double, decltype(d)> pairs;
    for (; j + 8 <= n; j += 8) {
      const float* row = x + j * stride;
      int64_t c = 0;
      for (; c + 4 <= width; c += 4) {
        auto both = [&](int64_t r) {
          return hn::Combine(d, hn::LoadU(half, row + (r + 4) * stride + c),
                             hn::LoadU(half, row + r * stride + c));
        };
        const auto r0 = both(0), r1 = both(1), r2 = both(2), r3 = both(3);
        const auto lo01 = hn::BitCast(pairs, hn::InterleaveLower(d, r0, r1)),
                   hi01 = hn::BitCast(pairs, hn::InterleaveUpper(d, r0, r1));
        const auto lo23 = hn::BitCast(pairs, hn::InterleaveLower(d, r2, r3)),
                   hi23 = hn::BitCast(pairs, hn::InterleaveUpper(d, r2, r3));
        float* to = out + c * ld + j;
        hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, lo01, lo23)), d, to);
        hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, lo01, lo23)), d, to + ld);
        hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, hi01, hi23)), d, to + 2 * ld);
        hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, hi01, hi23)), d, to + 3 * ld);
      }
      for (; c < width; ++c)
        for (int64_t r = 0; r < 8; ++r) out[c * ld + j + r] = row[r * stride + c];
    }
  }
#endif
  for (; j < n; ++j)
    for (int64_t c = 0; c < width; ++c) out[c * ld + j] = x[j * stride + c];
  for (int64_t c = 0; c < width; ++c) std::fill(out + c * ld + n, out + (c + 1) * ld, 0.0f);
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
