// Draws by weights, on the CPU.
#include "dropin/ops/sampling.h"

#include <algorithm>
#include <cmath>

#include "dropin/ops/elementwise.h"
#include "dropin/ops/reduce.h"
#include "ops/common.h"

namespace dropin {

namespace {

/// The sum of one row of weights; OptionError for weights that are none.
double weight_sum(const double* w, int64_t n, int64_t num_samples, bool replacement) {
  double total = 0;
  int64_t above = 0;
  for (int64_t i = 0; i < n; ++i) {
    DROPIN_CHECK(w[i] >= 0 && std::isfinite(w[i]), OptionError, "multinomial: weight ", i, " is ",
                 w[i], ", expected finite numbers of at least 0");
    total += w[i];
    above += w[i] > 0;
  }
  DROPIN_CHECK(above > 0, OptionError, "multinomial: all weights of a row are 0");
  DROPIN_CHECK(replacement || above >= num_samples, OptionError, "multinomial: ", num_samples,
               " samples without replacement of ", above, " weights above 0");
  return total;
}

/// The first index whose sum of weights so far is above u times all.
void draw_replaced(const double* w, int64_t n, double total, const double* u, int64_t samples,
                   int64_t* out) {
  std::vector<double> sums;
  std::vector<int64_t> at;
  double so_far = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (w[i] <= 0) continue;
    so_far += w[i];
    sums.push_back(so_far);
    at.push_back(i);
  }
  for (int64_t k = 0; k < samples; ++k) {
    const auto hit = std::upper_bound(sums.begin(), sums.end(), u[k] * total);
    out[k] = at[static_cast<std::size_t>(
        std::min<std::ptrdiff_t>(hit - sums.begin(), static_cast<std::ptrdiff_t>(at.size()) - 1))];
  }
}

/// Waiting times -log(u) / weight: the shortest come first.
void draw_once(const double* w, int64_t n, const double* u, int64_t samples, int64_t* out) {
  std::vector<std::pair<double, int64_t>> times;
  for (int64_t i = 0; i < n; ++i)
    if (w[i] > 0) times.emplace_back(-std::log1p(-u[i]) / w[i], i);
  std::partial_sort(times.begin(), times.begin() + samples, times.end());
  for (int64_t k = 0; k < samples; ++k) out[k] = times[static_cast<std::size_t>(k)].second;
}

}  // namespace

Tensor multinomial(const Tensor& x, int64_t num_samples, bool replacement, Generator* g) {
  ops_detail::need_floating("multinomial", x);
  DROPIN_CHECK((x.dim() == 1 || x.dim() == 2) && x.size(-1) > 0, ShapeError,
               "multinomial: the weights are ", x.sizes(), ", expected [n] or [rows, n]");
  DROPIN_CHECK(num_samples > 0, OptionError, "multinomial: num_samples is ", num_samples,
               ", expected at least 1");
  const int64_t n = x.size(-1), rows = x.numel() / n;
  const Tensor w = x.detach().to(kFloat64, kCPU).contiguous();
  std::vector<double> totals;
  for (int64_t r = 0; r < rows; ++r)
    totals.push_back(weight_sum(w.data<double>() + r * n, n, num_samples, replacement));
  const int64_t draws = replacement ? num_samples : n;
  const Tensor u = rand({rows, draws}, kFloat64, g);
  Tensor y = empty({rows, num_samples}, kInt64);
  for (int64_t r = 0; r < rows; ++r) {
    const double *wr = w.data<double>() + r * n, *ur = u.data<double>() + r * draws;
    int64_t* out = y.data<int64_t>() + r * num_samples;
    if (replacement)
      draw_replaced(wr, n, totals[static_cast<std::size_t>(r)], ur, num_samples, out);
    else
      draw_once(wr, n, ur, num_samples, out);
  }
  return (x.dim() == 1 ? y.reshape({num_samples}) : y).to(x.device());
}

Tensor bernoulli(const Tensor& x, Generator* g) {
  ops_detail::need_floating("bernoulli", x);
  const Tensor p = x.detach();
  DROPIN_CHECK(all((p >= 0) & (p <= 1)).item<bool>(), OptionError,
               "bernoulli: a probability is not in 0 to 1");
  return (rand(p.sizes(), {kFloat64, p.device()}, g) < p.to(kFloat64)).to(p.dtype());
}

Tensor Tensor::multinomial(int64_t num_samples, bool replacement, Generator* g) const {
  return dropin::multinomial(*this, num_samples, replacement, g);
}

}  // namespace dropin
