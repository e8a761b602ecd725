// Initial values, PyTorch's formulas, from the calling thread's default generator.
#pragma once
#include "dropin/tensor/tensor.h"

namespace dropin::init {

/// Uniform in [-bound, bound).
Tensor uniform(const Shape& sizes, double bound);
Tensor normal(const Shape& sizes, double std, double mean = 0);
/// Normal cut at two standard deviations, as timm's and torch's trunc_normal_.
Tensor trunc_normal(const Shape& sizes, double std);
/// bound = gain sqrt(6 / (fan_in + fan_out)).
Tensor xavier_uniform(const Shape& sizes, int64_t fan_in, int64_t fan_out, double gain = 1);
/// PyTorch's default of Linear and Conv: kaiming_uniform with a = sqrt(5), which is uniform within
/// 1/sqrt(fan_in).
Tensor default_uniform(const Shape& sizes, int64_t fan_in);

}  // namespace dropin::init
