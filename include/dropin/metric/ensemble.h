// How good and how calibrated an ensemble's probabilities are.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct EnsembleMetricsOptions {
  int64_t num_bins = 15;
  bool binary = false;
  static void fields(auto&& f) {
    f("num_bins", &EnsembleMetricsOptions::num_bins, "bins of confidence, of equal width");
    f("binary", &EnsembleMetricsOptions::binary, "one logit, of class 1 against class 0");
  }
};
struct EnsembleMetrics {
  Tensor probs;                 ///< [N, C]: mean of the members' probabilities
  Tensor nll, brier, accuracy;  ///< []
  Tensor ece, oe, ue;           ///< []: calibration error, of which over- and underconfidence
};
/// logits [M, N, C] (binary: [M, N] or [M, N, 1]), target [N] int64. The prediction is the first of
/// the largest; a confidence on an edge belongs to the upper bin, and 1 to the last. nll is
/// infinite where a target has probability 0. No gradient.
EnsembleMetrics ensemble_metrics(const Tensor& logits, const Tensor& target,
                                 const EnsembleMetricsOptions& o = {});

}  // namespace dropin
