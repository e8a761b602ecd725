// The geodesic flow kernel between two subspaces (Gong et al. 2012).
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

/// G = 1/2 (Ps Ps' + Pt Pt') + P w0 P' + T w0 T' + P w1 T' + T w1 P', float64: the mean over the
/// geodesic from the span of Ps to that of Pt of the projections. w0 is less 1/2.
struct GeodesicFactors {
  Tensor source, target;  ///< Ps [d, s], Pt [d, t]
  Tensor P, T;            ///< principal vectors [d, k]
  Tensor w0, w1, theta;   ///< [k]; theta ascending
};

struct GeodesicFlowKernelOptions {
  std::string center = "feature";
  int64_t source_dim = 0, target_dim = 0;
  double rank_tol = 1e-5;
  static void fields(auto&& f) {
    using O = GeodesicFlowKernelOptions;
    f("center", &O::center,
      "\"feature\": minus each row's mean; \"sample\": minus the mean row; \"none\"");
    f("source_dim", &O::source_dim, "most dimensions of the source's subspace; 0: its rank");
    f("target_dim", &O::target_dim, "most dimensions of the target's subspace; 0: its rank");
    f("rank_tol", &O::rank_tol, "singular values below this share of the largest do not count");
  }
};
struct GeodesicKernel {
  Tensor kernel;  ///< [d, d]
  Tensor theta;   ///< [k] angles between the subspaces, ascending; no gradient
};
/// The kernel of the subspaces of the rows of source [n, d] and target [m, d], which are scaled to
/// length 1. Differentiable, also where angles are equal; no second derivatives.
GeodesicKernel geodesic_flow_kernel(const Tensor& source, const Tensor& target,
                                    const GeodesicFlowKernelOptions& o = {});
/// Its factors, for use without a d x d matrix.
GeodesicFactors geodesic_factors(const Tensor& source, const Tensor& target,
                                 const GeodesicFlowKernelOptions& o = {});

namespace detail {
/// x_i' G y_i, x_i' G x_i and y_i' G y_i for rows x and y [B, d], float64, where G is the kernel of
/// the centred rows `source` and `target`, whose subspaces have at most s and t dimensions.
/// Differentiable in all four, in the last two unless detached.
struct GeodesicForms {
  Tensor xy, xx, yy;
};
struct GeodesicSizes {
  int64_t source_dim, target_dim;
  double rank_tol;
};
GeodesicForms geodesic_forms(std::string_view who, const Tensor& x, const Tensor& y,
                             const Tensor& source, const Tensor& target, const GeodesicSizes& sizes,
                             bool detach_kernel);
void check_geodesic_options(std::string_view who, const std::string& center, double rank_tol);
Tensor centred(const Tensor& rows, const std::string& center);
}  // namespace detail

}  // namespace dropin
