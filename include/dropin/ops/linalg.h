// Decompositions (through Eigen, in the tensor's own precision) of [*, m, n], with gradients.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

struct SVD {
  Tensor U, S, Vh;
};  ///< reduced: U [*, m, k], S [*, k] descending, Vh [*, k, n]
struct QR {
  Tensor Q, R;
};  ///< reduced
struct Eigh {
  Tensor values, vectors;
};  ///< ascending
SVD svd(const Tensor& a);
QR qr(const Tensor& a);
/// Eigenvalues and vectors of symmetric matrices (the lower triangle is read).
Eigh eigh(const Tensor& a);
/// Solution of a x = b, a [*, n, n], b [*, n, k].
Tensor solve(const Tensor& a, const Tensor& b);
Tensor inverse(const Tensor& a);

}  // namespace dropin
