// How products are cut into tiles for the threads; the tiles themselves go to oneDNN or to
// cpu_blocked.cpp.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "dropin/core/dtype.h"
#include "dropin/core/parallel.h"
#include "kernels/gemm/kernel.h"
#include "kernels/hd.h"
#include "src/cpu/gemm.h"
#include "src/cpu/onednn.h"
#include "src/cpu/scratch.h"

namespace dropin::cpu {
namespace {

constexpr double kMinFlops =
    4e6;  // per range of parallel_for: some 40 us, well above the cost of waking a thread
constexpr double kMinBytes = 1 << 18;  // the same for kernels bound by memory
constexpr int64_t kSkinnyRows = 32;    // up to here reading b in place beats packing it

/// Whether a matrix can be handed to a BLAS: rows (or, transposed, columns) contiguous and not
/// overlapping.
bool blas_layout(int64_t rows, int64_t cols, int64_t row, int64_t col) {
  return (col == 1 || cols == 1) && (row >= cols || rows == 1);
}

struct BlasOperand {
  const float* data;
  int64_t ld;
  bool trans;
  Scratch<float> copy;
};

BlasOperand blas_operand(Matrix<const float> m, int64_t rows, int64_t cols) {
  if (blas_layout(rows, cols, m.row, m.col)) return {m.data, rows == 1 ? cols : m.row, false, {}};
  if (blas_layout(cols, rows, m.col, m.row)) return {m.data, cols == 1 ? rows : m.col, true, {}};
  BlasOperand o{nullptr, cols, false, Scratch<float>(rows * cols)};
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) o.copy[i * cols + j] = m.data[i * m.row + j * m.col];
  o.data = o.copy.data();
  return o;
}

template <class T>
void scale(int64_t M, int64_t N, T beta, Matrix<T> c) {
  for (int64_t i = 0; i < M; ++i)
    for (int64_t j = 0; j < N; ++j) {
      T& v = c.data[i * c.row + j * c.col];
      v = beta == T(0) ? T(0) : v * beta;
    }
}

inline float half_to_float(
    std::uint16_t h) {  // branch-free, so that loops of it become vector code
  const std::uint32_t magnitude = static_cast<std::uint32_t>(h & 0x7fffu) << 13,
                      sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  float f;
  std::memcpy(&f, &magnitude, 4);
  f *= 5.192296858534828e+33f;  // 2^112: the difference of the exponents' biases
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  u = (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : u) | sign;
  std::memcpy(&f, &u, 4);
  return f;
}

/// n elements `stride` apart, as T.
template <class T>
void load(const void* data, DType dtype, int64_t at, int64_t stride, int64_t n, T* out) {
  auto copy = [&](auto get) {
    if (stride == 1)
      for (int64_t i = 0; i < n; ++i) out[i] = get(at + i);
    else
      for (int64_t i = 0; i < n; ++i) out[i] = get(at + i * stride);
  };
  if constexpr (std::is_same_v<T, double>) {
    copy([p = static_cast<const double*>(data)](int64_t i) { return p[i]; });
  } else if (dtype == DType::BFloat16) {
    copy([p = static_cast<const bfloat16*>(data)](int64_t i) { return static_cast<float>(p[i]); });
  } else if (dtype == DType::Float16) {
    copy([p = static_cast<const std::uint16_t*>(data)](int64_t i) { return half_to_float(p[i]); });
  } else {
    copy([p = static_cast<const float*>(data)](int64_t i) { return p[i]; });
  }
}

template <class T>
void store(void* data, DType dtype, int64_t at, T v) {
  if constexpr (std::is_same_v<T, double>)
    static_cast<double*>(data)[at] = v;
  else if (dtype == DType::BFloat16)
    static_cast<bfloat16*>(data)[at] = v;
  else if (dtype == DType::Float16)
    static_cast<float16*>(data)[at] = v;
  else
    static_cast<float*>(data)[at] = v;
}

/// Rows i0.. and columns j0.. of product t of an operand, converted to T where it is of another
/// type.
template <class T>
struct Piece {
  Matrix<const T> m;
  Scratch<T> copy;
  Piece(const Operand& o, int64_t t, int64_t i0, int64_t rows, int64_t j0, int64_t cols) {
    const int64_t at = t * o.batch + i0 * o.row + j0 * o.col;
    if (o.dtype == dtype_of<T>::value) {
      m = {static_cast<const T*>(o.data) + at, o.row, o.col};
      return;
    }
    copy = Scratch<T>(rows * cols);
    if (o.row == 1) {
      for (int64_t j = 0; j < cols; ++j)
        load<T>(o.data, o.dtype, at + j * o.col, 1, rows, copy.data() + j * rows);
      m = {copy.data(), 1, rows};
    } else {
      for (int64_t i = 0; i < rows; ++i)
        load<T>(o.data, o.dtype, at + i * o.row, o.col, cols, copy.data() + i * cols);
      m = {copy.data(), cols, 1};
    }
  }
};

struct Plan {
  bool skinny = false;
  int64_t tile_m, tile_n, tiles_m = 1, tiles_n = 1, k_parts = 1, grain = 1;
};

Plan plan(const BatchedGemm& g, bool skinny) {
  Plan p{skinny, g.M, g.N};
  const int64_t threads = in_parallel_region() ? 1 : get_num_threads();
  const double work =
      std::max(2.0 * g.M * g.N * g.K / kMinFlops,
               skinny ? static_cast<double>(g.N) * g.K * item_size(g.b.dtype) / kMinBytes : 0.0);
  if (threads > 1 && g.T < 2 * threads && work >= 2) {
    // One large tile per thread: oneDNN's product falls to half its rate on tiles small enough for
    // its kernel without packing (512 x 512 in rows of 1024).
    const int64_t tiles_per_product = skinny               ? ceil_div(2 * threads, g.T)
                                      : g.T == 1           ? threads
                                      : g.T % threads == 0 ? 1
                                                           : ceil_div(2 * threads, g.T);
    const int64_t want =
        std::min<int64_t>(tiles_per_product, static_cast<int64_t>(std::min(work, 4096.0)));
    if (skinny) {
      p.tile_n = std::max<int64_t>(8, ceil_div(ceil_div(g.N, want), 8) * 8);
      p.tiles_n = ceil_div(g.N, p.tile_n);
    } else {
      // Cutting into tm x tn tiles reads a tn times and b tm times.
      double best = 0;
      const int64_t most_m = ceil_div(g.M, 48), most_n = ceil_div(g.N, 48);
      for (int64_t tm = 1; tm <= std::min(want, most_m); ++tm) {
        const int64_t tn = std::min(ceil_div(want, tm), most_n), missing = ceil_div(want, tm * tn);
        const double cost =
            (static_cast<double>(tn) * g.M + static_cast<double>(tm) * g.N) * missing;
        if (tm > 1 && cost >= best) continue;
        best = cost;
        p.tile_m = ceil_div(ceil_div(g.M, tm), 8) * 8;
        p.tile_n = ceil_div(ceil_div(g.N, tn), 16) * 16;
      }
      p.tiles_m = ceil_div(g.M, p.tile_m);
      p.tiles_n = ceil_div(g.N, p.tile_n);
      // A small result of a long sum: parts of the sum, added up in order.
      const int64_t tiles = g.T * p.tiles_m * p.tiles_n;
      if (tiles < threads && g.K >= 1024) p.k_parts = std::min(threads / tiles, g.K / 512);
    }
  }
  const double each = work / static_cast<double>(p.tiles_m * p.tiles_n * p.k_parts);
  p.grain = each >= 1 ? 1 : static_cast<int64_t>(std::min(1 / std::max(each, 1e-9), 1e9));
  return p;
}

template <class T>
void run_tile(const BatchedGemm& g, const Plan& p, int64_t t, int64_t i0, int64_t M, int64_t j0,
              int64_t N) {
  Piece<T> a(g.a, t, i0, M, 0, g.K), b(g.b, t, 0, g.K, j0, N);
  const int64_t c0 = t * g.c.batch + i0 * g.c.row + j0 * g.c.col;
  void* cdata = const_cast<void*>(g.c.data);
  const bool direct = g.c.dtype == dtype_of<T>::value && (g.c.col == 1 || p.skinny);
  Scratch<T> bias, tile;
  const T* bias_row = nullptr;
  if (g.bias) {
    if (g.c.dtype == dtype_of<T>::value) {
      bias_row = static_cast<const T*>(g.bias) + j0;
    } else {
      bias = Scratch<T>(N);
      load<T>(g.bias, g.c.dtype, j0, 1, N, bias.data());
      bias_row = bias.data();
    }
  }
  Matrix<T> c{static_cast<T*>(cdata) + c0, g.c.row, g.c.col};
  T beta = static_cast<T>(g.beta);
  if (!direct) {
    tile = Scratch<T>(M * N);
    c = {tile.data(), N, 1};
    if (beta != T(0))
      for (int64_t i = 0; i < M; ++i)
        load<T>(cdata, g.c.dtype, c0 + i * g.c.row, g.c.col, N, c.data + i * N);
  }
  if (p.skinny) {
    skinny_gemm<T>(M, N, g.K, a.m.data, a.m.row, b.m.data, b.m.col, bias_row, c);
  } else {
    if (bias_row) {
      for (int64_t i = 0; i < M; ++i)
        for (int64_t j = 0; j < N; ++j) {
          T& v = c.data[i * c.row + j];
          v = beta == T(0) ? bias_row[j] : beta * v + bias_row[j];
        }
      beta = T(1);
    }
    gemm(M, N, g.K, a.m, b.m, beta, c);
  }
  if (!direct)
    for (int64_t i = 0; i < M; ++i)
      for (int64_t j = 0; j < N; ++j)
        store<T>(cdata, g.c.dtype, c0 + i * g.c.row + j * g.c.col, tile[i * N + j]);
}

/// The K dimension in parts, each into its own scratch, then added in order.
template <class T>
void run_k_parts(const BatchedGemm& g, const Plan& p) {
  const int64_t part = ceil_div(g.K, p.k_parts), parts = ceil_div(g.K, part), area = g.M * g.N;
  Scratch<T> sums(parts * area);
  T* const out = sums.data();
  for (int64_t t = 0; t < g.T; ++t) {
    parallel_for(parts, 1, [&](int64_t from, int64_t to) {
      for (int64_t k = from; k < to; ++k) {
        const int64_t k0 = k * part, kk = std::min(part, g.K - k0);
        Piece<T> a(g.a, t, 0, g.M, k0, kk), b(g.b, t, k0, kk, 0, g.N);
        gemm(g.M, g.N, kk, a.m, b.m, T(0), Matrix<T>{out + k * area, g.N, 1});
      }
    });
    Scratch<T> row(2 * g.N);
    for (int64_t i = 0; i < g.M; ++i) {
      T* const r = out + i * g.N;
      for (int64_t k = 1; k < parts; ++k)
        for (int64_t j = 0; j < g.N; ++j) r[j] += out[k * area + i * g.N + j];
      const int64_t c0 = t * g.c.batch + i * g.c.row;
      void* cdata = const_cast<void*>(g.c.data);
      if (g.beta != 0) {
        load<T>(cdata, g.c.dtype, c0, g.c.col, g.N, row.data());
        for (int64_t j = 0; j < g.N; ++j) r[j] += static_cast<T>(g.beta) * row[j];
      }
      if (g.bias) {
        load<T>(g.bias, g.c.dtype, 0, 1, g.N, row.data());
        for (int64_t j = 0; j < g.N; ++j) r[j] += row[j];
      }
      for (int64_t j = 0; j < g.N; ++j) store<T>(cdata, g.c.dtype, c0 + j * g.c.col, r[j]);
    }
  }
}

template <class T>
void run_batched(BatchedGemm g) {
  // One shared b and stacked a: one tall product.
  if (g.T > 1 && g.b.batch == 0 && g.a.batch == g.M * g.a.row && g.c.batch == g.M * g.c.row) {
    g.M *= g.T;
    g.T = 1;
  }
  const bool same = g.a.dtype == dtype_of<T>::value && g.b.dtype == dtype_of<T>::value &&
                    g.c.dtype == dtype_of<T>::value;
  auto can_skinny = [&] {
    return same && g.beta == 0 && g.K >= 8 && g.M <= kSkinnyRows && g.a.col == 1 && g.b.row == 1;
  };
  auto transpose = [&] {
    std::swap(g.M, g.N);
    std::swap(g.a, g.b);
    for (Operand* o : {&g.a, &g.b, &g.c}) std::swap(o->row, o->col);
  };
  if (g.M == 1) g.c.row = g.N;
  if (g.N == 1) g.c.col = 1;
  bool skinny = can_skinny() && (g.M <= g.N || g.bias);
  if (!skinny && !g.bias) {
    transpose();
    skinny = can_skinny();
    if (!skinny && (g.c.row == 1 || g.c.col != 1)) transpose();
  }
  const Plan p = plan(g, skinny);
  if (p.k_parts > 1) return run_k_parts<T>(g, p);
  const int64_t per = p.tiles_m * p.tiles_n;
  parallel_for(g.T * per, p.grain, [&](int64_t from, int64_t to) {
    for (int64_t u = from; u < to; ++u) {
      const int64_t t = u / per, i0 = u % per / p.tiles_n * p.tile_m, j0 = u % p.tiles_n * p.tile_n;
      run_tile<T>(g, p, t, i0, std::min(p.tile_m, g.M - i0), j0, std::min(p.tile_n, g.N - j0));
    }
  });
}

}  // namespace

void gemm(int64_t M, int64_t N, int64_t K, Matrix<const float> a, Matrix<const float> b, float beta,
          Matrix<float> c) {
  if (M == 0 || N == 0) return;
  if (K == 0) return scale(M, N, beta, c);
  // The weight gradient's shape, a long sum into a result so small that oneDNN would not pack: it
  // reads rows a power of two apart at half its rate.
  const bool unpacked = M >= 128 && N >= 128 && K >= 1024 &&
                        1.0 / static_cast<double>(M) + 1.0 / static_cast<double>(N) >= 0.0038;
  if (onednn_enabled() && !unpacked && (c.row >= N || M == 1)) {
    const BlasOperand x = blas_operand(a, M, K), y = blas_operand(b, K, N);
    if (onednn::sgemm(x.trans, y.trans, M, N, K, x.data, x.ld, y.data, y.ld, beta, c.data,
                      M == 1 ? N : c.row))
      return;
  }
  blocked_gemm<float>(M, N, K, a, b, beta, c);
}

void gemm(int64_t M, int64_t N, int64_t K, Matrix<const double> a, Matrix<const double> b,
          double beta, Matrix<double> c) {
  if (M == 0 || N == 0) return;
  if (K == 0) return scale(M, N, beta, c);
  blocked_gemm<double>(M, N, K, a, b, beta, c);
}

void batched_gemm(const BatchedGemm& g) {
  if (g.T <= 0 || g.M <= 0 || g.N <= 0) return;
  if (g.c.dtype == DType::Float64)
    run_batched<double>(g);
  else
    run_batched<float>(g);
}

}  // namespace dropin::cpu

namespace dropin::kernels {
namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

cpu::Operand operand(const TensorIn& t) {
  return {t.data, t.dtype, t.sizes[0] == 1 ? 0 : t.strides[0], t.strides[1], t.strides[2]};
}
bool is_f32_like(DType t) {
  return t == DType::Float32 || t == DType::BFloat16 || t == DType::Float16;
}

/// Integers wrap around, so the sums are unsigned.
template <class T>
void integer_matmul(const TensorIn& a, const TensorIn& b, double beta, const TensorOut& c) {
  using U = std::make_unsigned_t<T>;
  const int64_t M = c.sizes[1], N = c.sizes[2], K = a.sizes[2];
  const U scale = static_cast<U>(static_cast<int64_t>(beta));
  parallel_for(
      c.sizes[0] * M, std::max<int64_t>(1, 100000 / std::max<int64_t>(1, N * K)),
      [&](int64_t from, int64_t to) {
        for (int64_t u = from; u < to; ++u) {
          const int64_t t = u / M, m = u % M;
          const T* x = a.as<T>() + t * a.strides[0] + m * a.strides[1];
          const T* w = b.as<T>() + t * b.strides[0];
          T* y = c.as<T>() + t * c.strides[0] + m * c.strides[1];
          for (int64_t n = 0; n < N; ++n) {
            T& v = y[n * c.strides[2]];
            v = scale == 0 ? T(0) : static_cast<T>(static_cast<U>(static_cast<U>(v) * scale));
          }
          for (int64_t k = 0; k < K; ++k) {
            const U s = static_cast<U>(x[k * a.strides[2]]);
            for (int64_t n = 0; n < N; ++n) {
              T& v = y[n * c.strides[2]];
              v = static_cast<T>(static_cast<U>(
                  static_cast<U>(v) +
                  static_cast<U>(s * static_cast<U>(w[k * b.strides[1] + n * b.strides[2]]))));
            }
          }
        }
      });
}

Status matmul_cpu(const abi::KernelContext&, const TensorIn& a, const TensorIn& b, double beta,
                  const TensorOut& c) {
  if (a.ndim != 3 || b.ndim != 3 || c.ndim != 3 || a.sizes[1] != c.sizes[1] ||
      b.sizes[2] != c.sizes[2] || a.sizes[2] != b.sizes[1] || a.sizes[0] != c.sizes[0] ||
      b.sizes[0] != c.sizes[0])
    return abi::failed("matmul: sizes do not fit");
  if ((is_f32_like(a.dtype) && is_f32_like(b.dtype) && is_f32_like(c.dtype)) ||
      (a.dtype == DType::Float64 && b.dtype == DType::Float64 && c.dtype == DType::Float64)) {
    cpu::BatchedGemm g{c.sizes[0], c.sizes[1], c.sizes[2], a.sizes[2], operand(a),
                       operand(b), operand(c), beta,       nullptr};
    cpu::batched_gemm(g);
    return abi::ok();
  }
  if (a.dtype != c.dtype || b.dtype != c.dtype)
    return abi::unsupported("matmul: a, b and c are of different types");
  switch (c.dtype) {
    case DType::Int8:
      integer_matmul<std::int8_t>(a, b, beta, c);
      break;
    case DType::UInt8:
      integer_matmul<std::uint8_t>(a, b, beta, c);
      break;
    case DType::Int32:
      integer_matmul<std::int32_t>(a, b, beta, c);
      break;
    case DType::Int64:
      integer_matmul<int64_t>(a, b, beta, c);
      break;
    default:
      return abi::unsupported("matmul: no kernel for bool");
  }
  return abi::ok();
}

Status linear_forward_cpu(const abi::KernelContext&, const TensorIn& x, const TensorIn& w,
                          const TensorIn& bias, const TensorOut& y) {
  if (x.ndim != 2 || w.ndim != 2 || y.ndim != 2 || x.sizes[1] != w.sizes[1] ||
      x.sizes[0] != y.sizes[0] || w.sizes[0] != y.sizes[1] ||
      (bias.data && bias.numel() != w.sizes[0]))
    return abi::failed("linear_forward: sizes do not fit");
  const bool f32 = is_f32_like(x.dtype) && is_f32_like(w.dtype) && is_f32_like(y.dtype);
  const bool f64 =
      x.dtype == DType::Float64 && w.dtype == DType::Float64 && y.dtype == DType::Float64;
  if (!(f32 || f64) || (bias.data && bias.dtype != y.dtype))
    return abi::unsupported("linear_forward: no kernel for these types");
  cpu::BatchedGemm g;
  g.M = y.sizes[0], g.N = y.sizes[1], g.K = x.sizes[1];
  g.a = {x.data, x.dtype, 0, x.strides[0], x.strides[1]};
  g.b = {w.data, w.dtype, 0, w.strides[1], w.strides[0]};
  g.c = {y.data, y.dtype, 0, y.strides[0], y.strides[1]};
  g.bias = bias.data;
  cpu::batched_gemm(g);
  return abi::ok();
}

}  // namespace

void provide_gemm_cpu(abi::KernelTable& t) {
  t.provide<matmul>(&matmul_cpu);
  t.provide<linear_forward>(&linear_forward_cpu);
}

}  // namespace dropin::kernels
