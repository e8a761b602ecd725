// The difference of two rate-distortion curves as one number.
#pragma once
#include "dropin/ops/ops.h"

namespace dropin {

/// How many percent more rate curve b takes than curve a at the same quality, averaged over the
/// qualities that both have (Bjontegaard 2001): negative where b is better. Cubics through log10
/// rate over quality, by least squares. rates and qualities [P], P >= 4, of any order. A scalar of
/// rate_a's dtype; no gradient.
Tensor bd_rate(const Tensor& rate_a, const Tensor& quality_a, const Tensor& rate_b,
               const Tensor& quality_b);

}  // namespace dropin
