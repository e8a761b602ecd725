#include "dropin/metric/ensemble.h"

#include <algorithm>
#include <cmath>

#include "kernels/hd.h"

namespace dropin {

namespace {

struct Bin {
  double count = 0, confidence = 0, right = 0;
};
// The bin [j / n, (j + 1) / n) of a confidence; the last one is closed.
int64_t bin_of(double c, int64_t n) {
  const auto edge = [n](int64_t j) { return static_cast<double>(j) / static_cast<double>(n); };
  auto j = std::clamp<int64_t>(static_cast<int64_t>(c * static_cast<double>(n)), 0, n - 1);
  while (j + 1 < n && c >= edge(j + 1)) ++j;
  while (j > 0 && c < edge(j)) --j;
  return j;
}

// The targets, once everything is what it should be.
std::vector<int64_t> checked_targets(const Tensor& logits, const Tensor& target,
                                     const EnsembleMetricsOptions& o) {
  const char* who = "EnsembleMetrics";
  DROPIN_CHECK(o.num_bins >= 1, OptionError, who, ": num_bins is ", o.num_bins,
               ", expected at least 1");
  DROPIN_CHECK(is_floating(logits.dtype()), DTypeError, who, ": logits is ", logits.dtype(),
               ", expected a floating-point tensor");
  const bool one = o.binary && (logits.dim() == 2 || (logits.dim() == 3 && logits.size(2) == 1));
  DROPIN_CHECK((o.binary ? one : logits.dim() == 3 && logits.size(2) > 0) && logits.size(0) > 0 &&
                   logits.size(1) > 0,
               ShapeError, who, ": logits is ", logits.sizes(), ", expected ",
               o.binary ? "[M, N] or [M, N, 1]" : "[M, N, C]", " with a member and a row at least");
  const int64_t n = logits.size(1);
  DROPIN_CHECK(target.dtype() == kInt64, DTypeError, who, ": target is ", target.dtype(),
               ", expected int64");
  DROPIN_CHECK(target.sizes() == Shape{n}, ShapeError, who, ": target is ", target.sizes(),
               ", expected [", n, "]");
  const int64_t classes = o.binary ? 2 : logits.size(2);
  std::vector<int64_t> ys = target.to_vector<int64_t>();
  for (const int64_t y : ys)
    DROPIN_CHECK(y >= 0 && y < classes, IndexError, who, ": target holds ", y, ", expected 0 to ",
                 classes - 1);
  return ys;
}

// A running mean over members: never all of them at once. [N, C]
Tensor mean_probabilities(const Tensor& logits, bool binary) {
  Tensor probs;
  for (int64_t b = 0; b < logits.size(0); ++b) {
    Tensor p = logits[b];
    if (binary) {
      const Tensor s = sigmoid(p.reshape({-1}));
      p = stack({1 - s, s}, 1);
    } else {
      p = softmax(p, 1);
    }
    probs = probs.defined() ? probs + (p - probs) * (1 / static_cast<double>(b + 1)) : p;
  }
  return probs;
}

}  // namespace

EnsembleMetrics ensemble_metrics(const Tensor& logits, const Tensor& target,
                                 const EnsembleMetricsOptions& o) {
  no_grad guard;
  const std::vector<int64_t> ys = checked_targets(logits, target, o);
  const int64_t n = logits.size(1), classes = o.binary ? 2 : logits.size(2);
  const Tensor probs = mean_probabilities(logits, o.binary);
  const std::vector<double> all = probs.to_vector();
  std::vector<Bin> bins(at(o.num_bins));
  double nll = 0, brier = 0, right = 0;
  bool broken = false;
  for (int64_t i = 0; i < n; ++i) {
    const double* row = all.data() + i * classes;
    int64_t best = 0;
    for (int64_t k = 0; k < classes; ++k) {
      if (row[k] > row[best]) best = k;
      broken = broken || std::isnan(row[k]);
      const double off = row[k] - (k == ys[at(i)] ? 1 : 0);
      brier += off * off;
    }
    nll -= std::log(row[ys[at(i)]]);
    const double hit = best == ys[at(i)] ? 1 : 0;
    right += hit;
    if (std::isnan(row[best])) continue;
    Bin& bin = bins[at(bin_of(row[best], o.num_bins))];
    bin.count += 1, bin.confidence += row[best], bin.right += hit;
  }
  const auto rows = static_cast<double>(n);
  double over = broken ? std::nan("") : 0, under = over;
  for (const Bin& b : bins) {
    over += std::max(b.confidence - b.right, 0.0) / rows;
    under += std::max(b.right - b.confidence, 0.0) / rows;
  }
  auto number = [&](double v) { return scalar(v, logits.options()); };
  return {probs,
          number(nll / rows),
          number(brier / rows),
          number(right / rows),
          number(over + under),
          number(over),
          number(under)};
}

}  // namespace dropin
