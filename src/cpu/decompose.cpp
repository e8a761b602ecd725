#include "cpu/decompose.h"

#include <Eigen/Eigenvalues>
#include <Eigen/LU>
#include <Eigen/QR>
#include <Eigen/SVD>

namespace dropin::cpu {
namespace {
// All in float64, columns first: a float32 matrix is converted, which costs little beside the
// decomposition, and halves what takes longest of all to compile.
using Matrix = Eigen::MatrixXd;
template <class T>
using Rows = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
Matrix read(const T* a, int64_t m, int64_t n) {
  return Eigen::Map<const Rows<T>>(a, m, n).template cast<double>();
}
template <class T>
void write(const Matrix& a, T* to) {
  Eigen::Map<Rows<T>>(to, a.rows(), a.cols()) = a.template cast<T>();
}

struct Svd {
  Matrix u, s, vt;
};
Svd svd(const Matrix& a) {
  Eigen::BDCSVD<Matrix> d(a, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {d.matrixU(), d.singularValues(), d.matrixV().transpose()};
}
struct Qr {
  Matrix q, r;
};
Qr qr(const Matrix& a) {
  const auto k = std::min(a.rows(), a.cols());
  Eigen::HouseholderQR<Matrix> d(a);
  return {d.householderQ() * Matrix::Identity(a.rows(), k),
          d.matrixQR().topRows(k).template triangularView<Eigen::Upper>()};
}
struct Eigh {
  Matrix values, vectors;
  bool found;
};
Eigh eigh(const Matrix& a) {
  Eigen::SelfAdjointEigenSolver<Matrix> d(a);
  if (d.info() != Eigen::Success) return {{}, {}, false};
  return {d.eigenvalues(), d.eigenvectors(), true};
}
struct Solution {
  Matrix x;
  bool found;
};
Solution solve(const Matrix& a, const Matrix& b) {
  Eigen::PartialPivLU<Matrix> d(a);
  for (Eigen::Index i = 0; i < a.rows(); ++i)
    if (d.matrixLU()(i, i) == 0) return {{}, false};
  return {d.solve(b), true};
}
}  // namespace

template <class T>
void svd(int64_t m, int64_t n, const T* a, T* u, T* s, T* vt) {
  if (!std::min(m, n)) return;
  const Svd d = svd(read(a, m, n));
  write(d.u, u);
  write(d.s, s);
  write(d.vt, vt);
}

template <class T>
void qr(int64_t m, int64_t n, const T* a, T* q, T* r) {
  if (!std::min(m, n)) return;
  const Qr d = qr(read(a, m, n));
  write(d.q, q);
  write(d.r, r);
}

template <class T>
bool eigh(int64_t n, const T* a, T* values, T* vectors) {
  if (!n) return true;
  const Eigh d = eigh(read(a, n, n));
  if (!d.found) return false;
  write(d.values, values);
  write(d.vectors, vectors);
  return true;
}

template <class T>
bool solve(int64_t n, int64_t k, const T* a, const T* b, T* x) {
  if (!n || !k) return true;
  const Solution d = solve(read(a, n, n), read(b, n, k));
  if (d.found) write(d.x, x);
  return d.found;
}

#define DROPIN_INSTANCES(T)                                     \
  template void svd<T>(int64_t, int64_t, const T*, T*, T*, T*); \
  template void qr<T>(int64_t, int64_t, const T*, T*, T*);      \
  template bool eigh<T>(int64_t, const T*, T*, T*);             \
  template bool solve<T>(int64_t, int64_t, const T*, const T*, T*);
DROPIN_INSTANCES(float)
DROPIN_INSTANCES(double)

}  // namespace dropin::cpu
