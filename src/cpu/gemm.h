// Matrix products on plain pointers.
#pragma once
#include <cstdint>

#include "dropin/abi/abi.h"

namespace dropin::cpu {

/// A matrix with any strides, in elements.
template <class T>
struct Matrix {
  T* data;
  int64_t row, col;
};

/// One thread: c = a b + beta c with a [M, K], b [K, N], c [M, N] whose columns are contiguous
/// (c.col is 1). beta 0 does not read c. f32 goes to oneDNN while that is enabled.
void gemm(int64_t M, int64_t N, int64_t K, Matrix<const float> a, Matrix<const float> b, float beta,
          Matrix<float> c);
void gemm(int64_t M, int64_t N, int64_t K, Matrix<const double> a, Matrix<const double> b,
          double beta, Matrix<double> c);

/// The library's own kernel behind the above: packs both operands, any strides.
template <class T>
void blocked_gemm(int64_t M, int64_t N, int64_t K, Matrix<const T> a, Matrix<const T> b, T beta,
                  Matrix<T> c);

/// c[m, n] = sum_k a[m, k] b[n, k] + bias[n] for few rows (M small): both operands' rows are
/// contiguous in k (strides a_row, b_row), nothing is packed. bias may be null; c has any strides.
/// Reads b once: the speed of memory when M is 1.
template <class T>
void skinny_gemm(int64_t M, int64_t N, int64_t K, const T* a, int64_t a_row, const T* b,
                 int64_t b_row, const T* bias, Matrix<T> c);

/// An operand of batched_gemm: strides in elements, any.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::Float32;
  int64_t batch = 0, row = 0, col = 0;
};

/// c[t] = a[t] b[t] + beta c[t] + bias for t < T; a [M, K], b [K, N], c [M, N]. bias [N]
/// (contiguous, of c's dtype) or null.
struct BatchedGemm {
  int64_t T = 1, M = 0, N = 0, K = 0;
  Operand a, b, c;
  double beta = 0;
  const void* bias = nullptr;
};

/// Threaded over the products and over tiles of each. f64 where c is f64 (then a and b are, too);
/// otherwise f32 arithmetic on any of f32, bf16 and f16.
void batched_gemm(const BatchedGemm& g);

}  // namespace dropin::cpu
