// The loss of a tunable network: objectives weighed by the parameters that steer it.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct TunableLossOptions {
  std::vector<double> scales = {};
  std::string reduction = "mean";
  static void fields(auto&& f) {
    f("scales", &TunableLossOptions::scales, "of the objectives; empty: 1");
    f("reduction", &TunableLossOptions::reduction, "over samples: mean, sum or none");
  }
};
/// sum_i params[b, i] scales[i] losses[b, i], reduced over samples (Maggioni et al. 2023). losses
/// and params [B, P]. Both get gradients.
Tensor tunable_parametric_loss(const Tensor& losses, const Tensor& params,
                               const TunableLossOptions& o = {});

/// Parameters for a batch in training, [batch, num_params]: "simplex" (uniform among those that
/// are not negative and sum to 1) or "uniform" (each within [0, 1]).
Tensor sample_tunable_params(int64_t batch, int64_t num_params,
                             const std::string& distribution = "simplex", Generator* g = nullptr);

}  // namespace dropin
