// Eigen behind plain functions: decompositions of one row-major matrix, in float or double.
#pragma once
#include <cstdint>

namespace dropin::cpu {

/// a [m, n] -> u [m, k], s [k] descending, vt [k, n], k = min(m, n).
template <class T>
void svd(int64_t m, int64_t n, const T* a, T* u, T* s, T* vt);
/// a [m, n] -> q [m, k], r [k, n].
template <class T>
void qr(int64_t m, int64_t n, const T* a, T* q, T* r);
/// Symmetric a [n, n] (lower triangle) -> values [n] ascending, vectors [n, n] in columns. False
/// when it did not converge.
template <class T>
bool eigh(int64_t n, const T* a, T* values, T* vectors);
/// x [n, k] with a x = b. False when a is singular.
template <class T>
bool solve(int64_t n, int64_t k, const T* a, const T* b, T* x);

}  // namespace dropin::cpu
