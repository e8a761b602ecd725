// A packed, register-blocked matrix product for float and double (f64 always, f32 when oneDNN is
// off), and dot-product kernels for few rows.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/hd.h"
#include "src/cpu/gemm.h"
#include "src/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm/cpu_blocked.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

// A lambda that must be inlined: one that is not would take the address of what it captures and
// force vectors into memory.
#ifndef DROPIN_LAMBDA
#define DROPIN_LAMBDA HWY_ATTR __attribute__((always_inline))
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Rows of the register tile: with two vectors of columns, 12 of the 16 (24 of the 32) registers
// hold sums.
#if HWY_TARGET <= HWY_AVX3
constexpr int kMR = 12;
#else
constexpr int kMR = 6;
#endif
constexpr int64_t kKC = 256, kMC = 96;  // a block of a: 96 KiB (f32), stays in L2; a panel of
                                        // b: kKC * 2 vectors, stays in L1

template <class T>
HWY_INLINE void store_tile(const T* tile, int64_t nr, T beta, T* c, int64_t c_row, int64_t rows,
                           int64_t cols) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      const T old = beta == T(0) ? T(0) : beta * c[i * c_row + j];
      c[i * c_row + j] = tile[i * nr + j] + old;
    }
}

/// One register tile: a packed [K][kMR], b packed [K][NR].
template <class T>
HWY_INLINE void micro_kernel(int64_t K, const T* HWY_RESTRICT a, const T* HWY_RESTRICT b, T beta,
                             T* c, int64_t c_row, int64_t rows, int64_t cols) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d)), nr = 2 * L;
  V s[kMR][2];
  for (int i = 0; i < kMR; ++i) s[i][0] = s[i][1] = hn::Zero(d);
  for (int64_t k = 0; k < K; ++k, a += kMR, b += nr) {
    const V b0 = hn::Load(d, b), b1 = hn::Load(d, b + L);
    HWY_UNROLL(12)
    for (int i = 0; i < kMR; ++i) {
      const V x = hn::Set(d, a[i]);
      s[i][0] = hn::MulAdd(x, b0, s[i][0]);
      s[i][1] = hn::MulAdd(x, b1, s[i][1]);
    }
  }
  if (rows == kMR && cols == nr) {
    const V vbeta = hn::Set(d, beta);
    for (int i = 0; i < kMR; ++i, c += c_row) {
      if (beta != T(0)) {
        s[i][0] = hn::MulAdd(vbeta, hn::LoadU(d, c), s[i][0]);
        s[i][1] = hn::MulAdd(vbeta, hn::LoadU(d, c + L), s[i][1]);
      }
      hn::StoreU(s[i][0], d, c);
      hn::StoreU(s[i][1], d, c + L);
    }
  } else {
    HWY_ALIGN T tile[kMR * 2 * HWY_MAX_BYTES / sizeof(T)];
    for (int i = 0; i < kMR; ++i) {
      hn::Store(s[i][0], d, tile + i * nr);
      hn::Store(s[i][1], d, tile + i * nr + L);
    }
    store_tile(tile, nr, beta, c, c_row, rows, cols);
  }
}

/// Panels of `width` rows of m [count, K], k-major, the last one filled up with zeros.
template <class T>
void pack(const T* m, int64_t along, int64_t k_stride, int64_t count, int64_t K, int64_t width,
          T* out) {
  for (int64_t at = 0; at < count; at += width, out += width * K) {
    const int64_t n = std::min(width, count - at);
    const T* p = m + at * along;
    if (along == 1) {
      for (int64_t k = 0; k < K; ++k) {
        for (int64_t i = 0; i < n; ++i) out[k * width + i] = p[k * k_stride + i];
        for (int64_t i = n; i < width; ++i) out[k * width + i] = T(0);
      }
    } else {
      for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0; k < K; ++k) out[k * width + i] = p[i * along + k * k_stride];
      for (int64_t i = n; i < width; ++i)
        for (int64_t k = 0; k < K; ++k) out[k * width + i] = T(0);
    }
  }
}

template <class T>
void blocked(int64_t M, int64_t N, int64_t K, Matrix<const T> a, Matrix<const T> b, T beta,
             Matrix<T> c) {
  const hn::ScalableTag<T> d;
  const int64_t nr = 2 * static_cast<int64_t>(hn::Lanes(d));
  const int64_t nc = std::min<int64_t>(ceil_div(N, nr) * nr, 16 * nr * 8), kc = std::min(K, kKC);
  Scratch<T> a_pack(kMC * kc), b_pack(nc * kc);
  for (int64_t j0 = 0; j0 < N; j0 += nc) {
    const int64_t n = std::min(nc, N - j0);
    for (int64_t k0 = 0; k0 < K; k0 += kc) {
      const int64_t kk = std::min(kc, K - k0);
      const T scale = k0 == 0 ? beta : T(1);
      pack(b.data + k0 * b.row + j0 * b.col, b.col, b.row, n, kk, nr, b_pack.data());
      for (int64_t i0 = 0; i0 < M; i0 += kMC) {
        const int64_t m = std::min(kMC, M - i0);
        pack(a.data + i0 * a.row + k0 * a.col, a.row, a.col, m, kk, int64_t{kMR}, a_pack.data());
        for (int64_t j = 0; j < n; j += nr)
          for (int64_t i = 0; i < m; i += kMR)
            micro_kernel<T>(kk, a_pack.data() + i * kk, b_pack.data() + j * kk, scale,
                            c.data + (i0 + i) * c.row + j0 + j, c.row,
                            std::min<int64_t>(kMR, m - i), std::min(nr, n - j));
      }
    }
  }
}

/// f(0), ..., f(N - 1) with constants, so that arrays of vectors indexed by them live in registers.
template <class F, int... I>
HWY_INLINE void each(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
HWY_INLINE void each(F&& f) {
  each(std::make_integer_sequence<int, N>{}, f);
}

/// R rows of a times S rows of b.
template <class T, int R, int S>
HWY_INLINE void dots(int64_t K, const T* HWY_RESTRICT a, int64_t a_row, const T* HWY_RESTRICT b,
                     int64_t b_row, const T* bias, T* c, int64_t c_row, int64_t c_col) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  V s[R * S];
  each<R * S>([&](auto i) DROPIN_LAMBDA { s[i] = hn::Zero(d); });
  int64_t k = 0;
  for (; k + L <= K; k += L) {
    V x[R];
    each<R>([&](auto r) DROPIN_LAMBDA { x[r] = hn::LoadU(d, a + r * a_row + k); });
    each<S>([&](auto j) DROPIN_LAMBDA {
      const V w = hn::LoadU(d, b + j * b_row + k);
      each<R>([&](auto r) DROPIN_LAMBDA { s[r * S + j] = hn::MulAdd(x[r], w, s[r * S + j]); });
    });
  }
  T sums[R * S];
  each<R * S>([&](auto i) DROPIN_LAMBDA { sums[i] = hn::GetLane(hn::SumOfLanes(d, s[i])); });
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < S; ++j) {
      T sum = sums[r * S + j];
      for (int64_t t = k; t < K; ++t) sum += a[r * a_row + t] * b[j * b_row + t];
      c[r * c_row + j * c_col] = sum + (bias ? bias[j] : T(0));
    }
}

/// S rows of b against all M rows of a, at most R at once.
template <class T, int R, int S>
HWY_INLINE void columns(int64_t M, int64_t K, const T* a, int64_t a_row, const T* b, int64_t b_row,
                        const T* bias, T* c, int64_t c_row, int64_t c_col) {
  for (; M >= R; M -= R, a += R * a_row, c += R * c_row)
    dots<T, R, S>(K, a, a_row, b, b_row, bias, c, c_row, c_col);
  if constexpr (R > 1) columns<T, R - 1, S>(M, K, a, a_row, b, b_row, bias, c, c_row, c_col);
}

template <class T>
void skinny(int64_t M, int64_t N, int64_t K, const T* a, int64_t a_row, const T* b, int64_t b_row,
            const T* bias, Matrix<T> c) {
#if HWY_TARGET <= HWY_AVX3
  constexpr int kR = 4, kS1 = 8, kS2 = 8, kS3 = 8, kS = 6;  // 24 sums, 4 vectors of a, 1 of b
#else
  constexpr int kR = 3, kS1 = 8, kS2 = 4, kS3 = 4, kS = 4;  // 12 sums, 3 vectors of a, 1 of b
#endif
  int64_t n = 0;
  auto run = [&]<int R, int S>() HWY_ATTR {
    for (; n + S <= N; n += S)
      columns<T, R, S>(M, K, a, a_row, b + n * b_row, b_row, bias ? bias + n : nullptr,
                       c.data + n * c.col, c.row, c.col);
  };
  if (M == 1) run.template operator()<1, kS1>();
  if (M == 2) run.template operator()<2, kS2>();
  if (M == 3) run.template operator()<3, kS3>();
  if (M > 3) run.template operator()<kR, kS>();
  run.template operator()<kR, 1>();
}

void BlockedF32(int64_t M, int64_t N, int64_t K, Matrix<const float> a, Matrix<const float> b,
                float beta, Matrix<float> c) {
  blocked<float>(M, N, K, a, b, beta, c);
}
void BlockedF64(int64_t M, int64_t N, int64_t K, Matrix<const double> a, Matrix<const double> b,
                double beta, Matrix<double> c) {
  blocked<double>(M, N, K, a, b, beta, c);
}
void SkinnyF32(int64_t M, int64_t N, int64_t K, const float* a, int64_t ar, const float* b,
               int64_t br, const float* bias, Matrix<float> c) {
  skinny<float>(M, N, K, a, ar, b, br, bias, c);
}
void SkinnyF64(int64_t M, int64_t N, int64_t K, const double* a, int64_t ar, const double* b,
               int64_t br, const double* bias, Matrix<double> c) {
  skinny<double>(M, N, K, a, ar, b, br, bias, c);
}

}  // namespace HWY_NAMESPACE
}  // namespace dropin::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::cpu {
HWY_EXPORT(BlockedF32);
HWY_EXPORT(BlockedF64);
HWY_EXPORT(SkinnyF32);
HWY_EXPORT(SkinnyF64);

template <>
void blocked_gemm<float>(int64_t M, int64_t N, int64_t K, Matrix<const float> a,
                         Matrix<const float> b, float beta, Matrix<float> c) {
  HWY_DYNAMIC_DISPATCH(BlockedF32)(M, N, K, a, b, beta, c);
}
template <>
void blocked_gemm<double>(int64_t M, int64_t N, int64_t K, Matrix<const double> a,
                          Matrix<const double> b, double beta, Matrix<double> c) {
  HWY_DYNAMIC_DISPATCH(BlockedF64)(M, N, K, a, b, beta, c);
}
template <>
void skinny_gemm<float>(int64_t M, int64_t N, int64_t K, const float* a, int64_t ar, const float* b,
                        int64_t br, const float* bias, Matrix<float> c) {
  HWY_DYNAMIC_DISPATCH(SkinnyF32)(M, N, K, a, ar, b, br, bias, c);
}
template <>
void skinny_gemm<double>(int64_t M, int64_t N, int64_t K, const double* a, int64_t ar,
                         const double* b, int64_t br, const double* bias, Matrix<double> c) {
  HWY_DYNAMIC_DISPATCH(SkinnyF64)(M, N, K, a, ar, b, br, bias, c);
}
}  // namespace dropin::cpu
#endif
