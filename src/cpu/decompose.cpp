#include "cpu/decompose.h"

#include <Eigen/Eigenvalues>
#include <Eigen/LU>
#include <Eigen/QR>
#include <Eigen/SVD>

namespace dropin::cpu {
namespace {
template <class T> using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T> using In = Eigen::Map<const Matrix<T>>;
template <class T> using Out = Eigen::Map<Matrix<T>>;
}  // namespace

template <class T> void svd(std::int64_t m, std::int64_t n, const T* a, T* u, T* s, T* vt) {
  const std::int64_t k = std::min(m, n);
  if (!k) return;
  Eigen::BDCSVD<Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>> d(In<T>(a, m, n), Eigen::ComputeThinU | Eigen::ComputeThinV);
  Out<T>(u, m, k) = d.matrixU();
  Out<T>(s, k, 1) = d.singularValues();
  Out<T>(vt, k, n) = d.matrixV().transpose();
}

template <class T> void qr(std::int64_t m, std::int64_t n, const T* a, T* q, T* r) {
  const std::int64_t k = std::min(m, n);
  if (!k) return;
  Eigen::HouseholderQR<Matrix<T>> d(In<T>(a, m, n));
  Out<T>(q, m, k) = d.householderQ() * Matrix<T>::Identity(m, k);
  Out<T>(r, k, n) = d.matrixQR().topRows(k).template triangularView<Eigen::Upper>();
}

template <class T> bool eigh(std::int64_t n, const T* a, T* values, T* vectors) {
  if (!n) return true;
  Eigen::SelfAdjointEigenSolver<Matrix<T>> d(In<T>(a, n, n));
  if (d.info() != Eigen::Success) return false;
  Out<T>(values, n, 1) = d.eigenvalues();
  Out<T>(vectors, n, n) = d.eigenvectors();
  return true;
}

template <class T> bool solve(std::int64_t n, std::int64_t k, const T* a, const T* b, T* x) {
  if (!n || !k) return true;
  Eigen::PartialPivLU<Matrix<T>> d(In<T>(a, n, n));
  for (std::int64_t i = 0; i < n; ++i)
    if (d.matrixLU()(i, i) == T(0)) return false;
  Out<T>(x, n, k) = d.solve(In<T>(b, n, k));
  return true;
}

#define DROPIN_INSTANCES(T)                                                        \
  template void svd<T>(std::int64_t, std::int64_t, const T*, T*, T*, T*);          \
  template void qr<T>(std::int64_t, std::int64_t, const T*, T*, T*);               \
  template bool eigh<T>(std::int64_t, const T*, T*, T*);                           \
  template bool solve<T>(std::int64_t, std::int64_t, const T*, const T*, T*);
DROPIN_INSTANCES(float)
DROPIN_INSTANCES(double)

}  // namespace dropin::cpu
