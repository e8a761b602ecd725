// Subspaces of rows, the geodesic between two of them, and its gradients; off the tape, float64.
#pragma once
#include <functional>

#include "dropin/loss/geodesic.h"

namespace dropin::geodesic {

// The span of centred rows [m, d] = R diag(S) Q': the first `kept` columns of Q, and what the
// gradient needs of the others.
struct Subspace {
  Tensor Q, S, R;  ///< [d, r], [r], [m, r]
  int64_t rank, kept;
  Tensor basis() const { return Q.narrow(1, 0, kept); }
};

// What a pair at this angle weighs (w0 less 1/2), and the derivatives by its cosine.
struct Weight {
  double w0, w1, by_cosine0, by_cosine1;
};
struct Flow {
  Subspace source, target;
  Tensor U, V, P, T;  ///< principal vectors P = Ps U, T = Pt V
  std::vector<double> theta, cosine;
  std::vector<Weight> weights;
  Tensor column(double Weight::*field) const {
    std::vector<double> v;
    for (const Weight& w : weights) v.push_back(w.*field);
    return tensor(v, kFloat64);
  }
};

Flow flow_of(std::string_view who, const Tensor& source, const Tensor& target,
             const detail::GeodesicSizes& sizes);
/// x_i' G y_i for rows.
Tensor form(const Flow& f, const Tensor& x, const Tensor& y);
/// Gradients of the centred rows of source and target; `times` multiplies by the symmetric gradient
/// of the kernel.
Tensors flow_gradients(const Flow& f, const std::function<Tensor(const Tensor&)>& times);

}  // namespace dropin::geodesic
