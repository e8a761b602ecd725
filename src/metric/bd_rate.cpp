#include "dropin/metric/bd_rate.h"

#include <algorithm>
#include <cmath>

namespace dropin {

namespace {

struct Curve {
  Tensor rate, quality;  // float64 [P]
  double low, high;
};
Curve curve(const char* which, const Tensor& rate, const Tensor& quality) {
  const char* who = "bd_rate";
  DROPIN_CHECK(is_floating(rate.dtype()) && is_floating(quality.dtype()), DTypeError, who,
               ": curve ", which, " is ", rate.dtype(), " and ", quality.dtype(),
               ", expected floating-point tensors");
  DROPIN_CHECK(rate.dim() == 1 && rate.sizes() == quality.sizes() && rate.size(0) >= 4, ShapeError,
               who, ": curve ", which, " is ", rate.sizes(), " and ", quality.sizes(),
               ", expected [P] twice, P at least 4");
  DROPIN_CHECK(
      all(logical_and(rate > 0.0, isfinite(rate))).item<bool>() &&
          all(isfinite(quality)).item<bool>(),
      OptionError, who, ": curve ", which,
      " has a rate or quality that is not finite or a rate of 0 or less, expected positive "
      "rates");
  std::vector<double> q = quality.to_vector();
  std::sort(q.begin(), q.end());
  DROPIN_CHECK(std::adjacent_find(q.begin(), q.end()) == q.end(), OptionError, who, ": curve ",
               which, " has a quality twice, expected different ones");
  return {rate.to(kCPU).to(kFloat64), quality.to(kCPU).to(kFloat64), q.front(), q.back()};
}

// The mean of the cubic through log10 rate over [low, high].
double mean_log_rate(const Curve& c, double low, double high) {
  const double middle = (low + high) / 2, half = (high - low) / 2;
  const Tensor t = (c.quality - middle) / half;
  const QR f = qr(stack({ones_like(t), t, square(t), t * square(t)}, 1));
  const Tensor a = solve(f.R, matmul(f.Q.mT(), log(c.rate).unsqueeze(1) / std::log(10.0)));
  return a[0][0].item() + a[2][0].item() / 3;  // odd powers cancel
}

}  // namespace

Tensor bd_rate(const Tensor& rate_a, const Tensor& quality_a, const Tensor& rate_b,
               const Tensor& quality_b) {
  no_grad guard;
  const Curve a = curve("a", rate_a, quality_a), b = curve("b", rate_b, quality_b);
  const double low = std::max(a.low, b.low), high = std::min(a.high, b.high);
  DROPIN_CHECK(high > low, OptionError, "bd_rate: qualities are ", a.low, " to ", a.high, " and ",
               b.low, " to ", b.high, ", expected them to overlap");
  const double d = mean_log_rate(b, low, high) - mean_log_rate(a, low, high);
  return scalar(100 * (std::pow(10.0, d) - 1), rate_a.options());
}

}  // namespace dropin
