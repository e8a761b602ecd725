#include "loss/geodesic_flow.h"

#include <algorithm>
#include <cmath>

namespace dropin::geodesic {

static constexpr double kRightAngle = 1e-6;  ///< cosines up to this have no unique geodesic

static Subspace subspace_of(std::string_view who, const char* name, const Tensor& rows,
                            int64_t most, double tolerance) {
  const SVD d = svd(rows);
  const std::vector<double> s = d.S.to_vector();
  int64_t rank = 0;
  for (const double v : s) rank += v > tolerance * s[0] && v > 0;
  DROPIN_CHECK(rank > 0, Error, who, ": the subspace of ", name,
               " has no dimensions, expected rows that differ from what centring takes away");
  return {d.Vh.mT().narrow(1, 0, rank).contiguous(), d.S.narrow(0, 0, rank),
          d.U.narrow(1, 0, rank).contiguous(), rank, std::min(most, rank)};
}

static Weight weight_of(double theta) {
  const double s = std::sin(theta), c = std::cos(theta);
  if (c <= kRightAngle) return {0, 0, 0, 0};
  if (theta < 0.1) {
    const double u = theta * theta;
    const double w0 = 1.0 / 3 +
                      u * (2.0 / 45 + u * (2.0 / 315 + u * (4.0 / 4725 + u * (2.0 / 18711)))),
                 w1 = 1.0 / 6 + u * (7.0 / 180 + u * (31.0 / 5040 +
                                                      u * (127.0 / 151200 + u * (73.0 / 684288))));
    // d/dcos = -2 theta / sin theta d/du
    const double by = theta > 0 ? -2 * theta / s : -2;
    return {w0 - 0.5, w1, by * (2.0 / 45 + u * (4.0 / 315 + u * (12.0 / 4725 + u * (8.0 / 18711)))),
            by * (7.0 / 180 + u * (62.0 / 5040 + u * (381.0 / 151200 + u * (292.0 / 684288))))};
  }
  const double n0 = 1 - s * c / theta, n1 = s / theta - c, d = 2 * s * s;
  const double n0_by = -(c * c - s * s) / theta + s * c / (theta * theta),
               n1_by = c / theta - s / (theta * theta) + s, d_by = 4 * s * c;
  return {n0 / d - 0.5, n1 / d, -(n0_by - n0 / d * d_by) / d / s, -(n1_by - n1 / d * d_by) / d / s};
}

Flow flow_of(std::string_view who, const Tensor& source, const Tensor& target,
             const detail::GeodesicSizes& sizes) {
  no_grad guard;
  Flow f{subspace_of(who, "the source", source, sizes.source_dim, sizes.rank_tol),
         subspace_of(who, "the target", target, sizes.target_dim, sizes.rank_tol),
         {},
         {},
         {},
         {},
         {},
         {},
         {}};
  const Tensor Ps = f.source.basis(), Pt = f.target.basis();
  const SVD d = svd(matmul(Ps.mT(), Pt));
  f.U = d.U;
  f.V = d.Vh.mT().contiguous();
  f.P = matmul(Ps, f.U);
  f.T = matmul(Pt, f.V);
  // accurate at both ends, as the arc cosine is not
  const auto apart = norm(f.P - f.T, {0}).to_vector(), along = norm(f.P + f.T, {0}).to_vector();
  for (std::size_t i = 0; i < apart.size(); ++i) {
    f.theta.push_back(2 * std::atan2(apart[i], along[i]));
    f.weights.push_back(weight_of(f.theta[i]));
    const double c = std::cos(f.theta[i]);
    f.cosine.push_back(c <= kRightAngle ? 0 : c);
  }
  return f;
}

Tensor form(const Flow& f, const Tensor& x, const Tensor& y) {
  auto part = [&](const Tensor& m) { return std::pair(matmul(x, m), matmul(y, m)); };
  const auto [xs, ys] = part(f.source.basis());
  const auto [xt, yt] = part(f.target.basis());
  const auto [xp, yp] = part(f.P);
  const auto [xq, yq] = part(f.T);
  return (sum(xs * ys, {1}) + sum(xt * yt, {1})) * 0.5 +
         sum((xp * yp + xq * yq) * f.column(&Weight::w0) +
                 (xp * yq + xq * yp) * f.column(&Weight::w1),
             {1});
}

// How turns of the principal vectors change the kernel: [k, k].
static Tensor turned(const Flow& f, const Tensor& C, const Tensor& D, const Tensor& E) {
  const auto k = static_cast<int64_t>(f.theta.size());
  Tensor core = zeros({k, k}, kFloat64);
  const auto c = C.to_vector(), d = D.to_vector(), e = E.to_vector();
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j) {
      const auto a = static_cast<std::size_t>(i), b = static_cast<std::size_t>(j);
      const double gi = f.cosine[a], gj = f.cosine[b];
      if (gi == 0 && gj == 0) continue;
      const Weight &wi = f.weights[a], &wj = f.weights[b];
      double d0, plus, minus;
      if (gi > 0 && gj > 0 && std::abs(gi - gj) < 1e-5) {  // the limits of the quotients
        const Weight w = weight_of((f.theta[a] + f.theta[b]) / 2);
        const double g = (gi + gj) / 2;
        d0 = w.by_cosine0 / (2 * g);
        plus = (w.by_cosine1 * g + w.w1) / (2 * g);
        minus = (w.by_cosine1 * g - w.w1) / (2 * g);
      } else {
        const double q = 1 / (gj * gj - gi * gi);
        d0 = (wj.w0 - wi.w0) * q;
        plus = (wj.w1 * gj - wi.w1 * gi) * q;
        minus = (wj.w1 * gi - wi.w1 * gj) * q;
      }
      const auto ij = static_cast<std::size_t>(i * k + j), ji = static_cast<std::size_t>(j * k + i);
      core.data<double>()[ij] = 2 * ((c[ij] * gj + e[ij] * gi) * d0 + d[ij] * plus + d[ji] * minus);
    }
  return core;
}

// The gradient of the rows from that of their basis Ps.
static Tensor rows_gradient(const Subspace& s, const Tensor& basis_gradient) {
  const Tensor W = matmul(s.Q.mT(), basis_gradient);  // [r, kept]
  const Tensor R1 = s.R.narrow(1, 0, s.kept), S1 = s.S.narrow(0, 0, s.kept);
  Tensor g = matmul(R1 / S1, (basis_gradient - matmul(s.Q, W)).mT());
  if (s.rank == s.kept) return g;
  const int64_t rest = s.rank - s.kept;
  const Tensor R2 = s.R.narrow(1, s.kept, rest), S2 = s.S.narrow(0, s.kept, rest),
               Q2 = s.Q.narrow(1, s.kept, rest);
  const Tensor F = W.narrow(0, s.kept, rest) / (square(S1) - square(S2).unsqueeze(1));
  g = g + matmul(R1 * S1, matmul(F.mT(), Q2.mT()));
  return g + matmul(R2 * S2, matmul(F, s.basis().mT()));
}

Tensors flow_gradients(const Flow& f, const std::function<Tensor(const Tensor&)>& times) {
  const Tensor Ps = f.source.basis(), Pt = f.target.basis(), w0 = f.column(&Weight::w0),
               w1 = f.column(&Weight::w1);
  const Tensor GP = times(f.P), GT = times(f.T);
  const Tensor gP = (GP * w0 + GT * w1) * 2.0, gT = (GT * w0 + GP * w1) * 2.0;
  const Tensor core = turned(f, matmul(f.P.mT(), GP), matmul(f.P.mT(), GT), matmul(f.T.mT(), GT));
  std::vector<double> inverse;
  for (const double g : f.cosine) inverse.push_back(g > 0 ? 1 / g : 0);
  const Tensor by_cosine = tensor(inverse, kFloat64);
  auto outside = [](const Tensor& basis, const Tensor& m) {
    return m - matmul(basis, matmul(basis.mT(), m));
  };
  Tensor gM = matmul(matmul(f.U, core), f.V.mT());
  gM = gM + matmul(outside(f.U, matmul(Ps.mT(), gP)) * by_cosine, f.V.mT());
  gM = gM + matmul(f.U, (outside(f.V, matmul(Pt.mT(), gT)) * by_cosine).mT());
  const Tensor gPs = matmul(gP, f.U.mT()) + matmul(Pt, gM.mT()) + times(Ps),
               gPt = matmul(gT, f.V.mT()) + matmul(Ps, gM) + times(Pt);
  return {rows_gradient(f.source, gPs), rows_gradient(f.target, gPt)};
}

}  // namespace dropin::geodesic
