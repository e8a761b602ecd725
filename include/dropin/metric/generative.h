// Scores of generators: FID and Inception Score, and both extrapolated to unlimited samples.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

/// Samples [N, D], or their mean [D] and covariance [D, D].
struct FeatureSide {
  Tensor features, mean, cov;
};
/// |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2) of two normal distributions (Heusel et al.
/// 2017), never below 0, of any number of samples. float64 inside. Differentiable in features, not
/// in given means and covariances; no second derivatives.
Tensor frechet_distance(const FeatureSide& side, const FeatureSide& reference);

/// Count, mean and covariance over batches, float64.
class FrechetAccumulator {
 public:
  void update(const Tensor& features);
  void merge(const FrechetAccumulator& other);
  int64_t count() const { return count_; }
  /// mean and cov. StateError below two samples.
  FeatureSide compute() const;

 private:
  int64_t count_ = 0;
  Tensor mean_, moment_;  ///< [D], [D, D] of centred rows
};

struct InceptionScoreOptions {
  int64_t splits = 1;
  static void fields(auto&& f) {
    f("splits", &InceptionScoreOptions::splits, "parts that are scored one by one");
  }
};
struct InceptionScore {
  Tensor y;    ///< [] mean over the parts
  Tensor std;  ///< [] their deviation; no gradient
};
/// exp of the mean divergence of class probabilities [N, C] from their mean (Salimans et al. 2016).
/// One of logits and probs is defined. Differentiable; probabilities of 0 are not (AutogradError),
/// logits are.
InceptionScore inception_score(const Tensor& logits, const Tensor& probs,
                               const InceptionScoreOptions& o = {});

struct ExtrapolationOptions {
  int64_t min_points = 5000, num_points = 15;
  std::string sampling = "shuffle";
  int64_t seed = 0;
  static void fields(auto&& f) {
    using O = ExtrapolationOptions;
    f("min_points", &O::min_points, "samples of the smallest subset");
    f("num_points", &O::num_points, "subsets");
    f("sampling", &O::sampling,
      "\"shuffle\" (the authors'), \"nested\", \"prefix\" (for Sobol noise) or \"bootstrap\"");
    f("seed", &O::seed, "of the subsets");
  }
};
struct Extrapolation {
  Tensor y, slope;  ///< [] value at 1/n = 0, and rise by 1/n
  Tensor values;    ///< [P] of each subset
  Tensor sizes;     ///< int64 [P]
};
/// frechet_distance at subsets of several sizes, extrapolated along a line in 1/n (Chong, Forsyth
/// 2020, arXiv 1911.07023). indices int64 [P, K], -1 padded: the caller's subsets. No gradient.
Extrapolation fid_infinity(const Tensor& features, const FeatureSide& reference,
                           const Tensor& indices = {}, const ExtrapolationOptions& o = {});
/// The same of inception_score.
Extrapolation is_infinity(const Tensor& logits, const Tensor& probs, const Tensor& indices = {},
                          const ExtrapolationOptions& o = {});

}  // namespace dropin
