#include "dropin/module/init.h"

#include <cmath>

namespace dropin::init {

Tensor uniform(const Shape& sizes, double bound) {
  Tensor t = empty(sizes);
  t.uniform_(-bound, bound);
  return t;
}
Tensor normal(const Shape& sizes, double std, double mean) {
  Tensor t = empty(sizes);
  t.normal_(mean, std);
  return t;
}
Tensor trunc_normal(const Shape& sizes, double std) {
  Tensor t = empty(sizes);
  t.normal_(0, 1);
  float* p = t.data<float>();
  for (int64_t i = 0; i < t.numel(); ++i) {
    while (!(std::abs(p[i]) <= 2)) p[i] = randn({}).item<float>();
    p[i] *= static_cast<float>(std);
  }
  return t;
}
Tensor xavier_uniform(const Shape& sizes, int64_t fan_in, int64_t fan_out, double gain) {
  return uniform(sizes, gain * std::sqrt(6.0 / static_cast<double>(fan_in + fan_out)));
}
Tensor default_uniform(const Shape& sizes, int64_t fan_in) {
  return uniform(sizes, fan_in > 0 ? 1 / std::sqrt(static_cast<double>(fan_in)) : 0);
}

}  // namespace dropin::init
