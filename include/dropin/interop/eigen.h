// Tensors as Eigen maps and back. Include Eigen first: this header uses whatever Eigen is there and
// brings none of its own.
#pragma once
#if !defined(EIGEN_CORE_H) && !defined(EIGEN_CORE_MODULE_H)
#error "include <Eigen/Core> before dropin/interop/eigen.h"
#endif
#include "dropin/tensor/tensor.h"

namespace dropin {

template <class T>
using EigenMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using EigenMap = Eigen::Map<EigenMatrix<T>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;

/// The memory of a cpu tensor [m, n] (or [n], as a column) of element type T, any strides. The
/// tensor must outlive the map. ShapeError, DTypeError or DeviceError when it is something else.
template <class T>
EigenMap<T> as_eigen(const Tensor& t) {
  if (!t.device().is_cpu())
    fail<DeviceError>({"as_eigen: the tensor is on ", t.device(), ", expected cpu"});
  if (t.dim() != 1 && t.dim() != 2)
    fail<ShapeError>({"as_eigen: the tensor is ", t.sizes(), ", expected [m, n] or [n]"});
  const bool column = t.dim() == 1;
  return EigenMap<T>(
      t.data<T>(), t.size(0), column ? 1 : t.size(1),
      Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(t.stride(0), column ? 1 : t.stride(1)));
}

/// A copy of a matrix expression as a tensor [rows, columns].
template <class Derived>
Tensor from_eigen(const Eigen::MatrixBase<Derived>& m) {
  using T = typename Derived::Scalar;
  Tensor t = empty({m.rows(), m.cols()}, dtype_of<T>::value);
  as_eigen<T>(t) = m;
  return t;
}

}  // namespace dropin
