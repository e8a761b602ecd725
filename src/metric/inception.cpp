#include <cmath>
#include <limits>
#include <numeric>

#include "dropin/metric/generative.h"
#include "metric/shuffle.h"

namespace dropin {

namespace {

void check_classes(std::string_view who, const char* name, const Tensor& x) {
  DROPIN_CHECK(x.dim() == 2 && x.size(0) > 0 && x.size(1) > 0, ShapeError, who, ": ", name, " is ",
               x.sizes(), ", expected [N >= 1, C >= 1]");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who, ": ", name, " is ", x.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(all(isfinite(x.detach())).item<bool>(), Error, who, ": ", name,
               " holds NaN or infinity, expected finite numbers");
}

// The logits or probabilities, checked, float64 on the CPU.
Tensor class_table(std::string_view who, const Tensor& logits, const Tensor& probs) {
  DROPIN_CHECK(logits.defined() != probs.defined(), StateError, who,
               ": expected either logits or probs");
  check_classes(who, logits.defined() ? "logits" : "probs", logits.defined() ? logits : probs);
  if (logits.defined()) return logits.to(kCPU).to(kFloat64);
  const Tensor p = probs.to(kCPU).to(kFloat64), seen = p.detach();
  DROPIN_CHECK(amin(seen).item() >= 0, Error, who, ": probs hold ", amin(seen).item(),
               ", expected 0 or more");
  const double off = amax(abs(sum(seen, {1}) - 1.0)).item();
  DROPIN_CHECK(off <= 1e-3, Error, who, ": a row of probs is off 1 by ", off,
               ", expected rows that sum to 1");
  return record(who == std::string_view("is_infinity") ? "is_infinity" : "inception_score", p, {p},
                {p}, [](const Saved& s, const Tensor& g) -> Tensors {
                  if (any(s[0] == 0.0).item<bool>() && any(ne(g, zeros_like(g))).item<bool>())
                    fail<AutogradError>(
                        {"inception_score: a probability is 0, where the score has "
                         "no derivative; pass logits"});
                  return {g};
                });
}

// exp of the mean divergence from the mean of rows [n, C].
Tensor score_of(const Tensor& rows, bool logits) {
  const auto n = static_cast<double>(rows.size(0));
  if (logits) {
    const Tensor lp = log_softmax(rows, 1), lq = logsumexp(lp, {0}, true) - std::log(n);
    return exp(sum(exp(lp) * (lp - lq)) * (1 / n));
  }
  const Tensor q = mean(rows, {0}, true), none = rows == 0.0, unused = q == 0.0;
  const Tensor terms = rows * (log(where(none, 1.0, rows)) - log(where(unused, 1.0, q)));
  return exp(sum(where(none, 0.0, terms)) * (1 / n));
}

}  // namespace

InceptionScore inception_score(const Tensor& logits, const Tensor& probs,
                               const InceptionScoreOptions& o) {
  const char* who = "inception_score";
  const Tensor table = class_table(who, logits, probs);
  DROPIN_CHECK(o.splits >= 1 && o.splits <= table.size(0), OptionError, who, ": splits is ",
               o.splits, ", expected 1 to ", table.size(0), ", the number of samples");
  const int64_t n = table.size(0) / o.splits;
  Tensors parts;
  for (int64_t s = 0; s < o.splits; ++s)
    parts.push_back(score_of(table.narrow(0, s * n, n), logits.defined()));
  const Tensor scores = stack(parts), y = mean(scores);
  const Tensor& like = logits.defined() ? logits : probs;
  return {y.to(like.dtype()).to(like.device()),
          std_dev(scores.detach(), {0}, 0).to(like.dtype()).to(like.device())};
}

namespace {

using Rows = std::vector<int64_t>;

std::vector<Rows> given_subsets(std::string_view who, const Tensor& indices, int64_t n) {
  DROPIN_CHECK(indices.dim() == 2 && indices.dtype() == kInt64, ShapeError, who, ": indices are ",
               indices.dtype(), " ", indices.sizes(), ", expected int64 [P, K]");
  DROPIN_CHECK(indices.size(0) >= 2, ShapeError, who, ": indices are ", indices.sizes(),
               ", expected two subsets or more");
  const Rows all = indices.to_vector<int64_t>();
  std::vector<Rows> r(static_cast<std::size_t>(indices.size(0)));
  for (std::size_t i = 0; i < all.size(); ++i) {
    DROPIN_CHECK(all[i] >= -1 && all[i] < n, IndexError, who, ": indices hold ", all[i],
                 ", expected 0 to ", n - 1, ", or -1 for none");
    if (all[i] >= 0) r[i / static_cast<std::size_t>(indices.size(1))].push_back(all[i]);
  }
  return r;
}

std::vector<Rows> drawn_subsets(std::string_view who, int64_t n, const ExtrapolationOptions& o) {
  DROPIN_CHECK(o.sampling == "shuffle" || o.sampling == "nested" || o.sampling == "prefix" ||
                   o.sampling == "bootstrap",
               OptionError, who, ": sampling is \"", o.sampling,
               "\", expected shuffle, nested, prefix or bootstrap");
  DROPIN_CHECK(o.num_points >= 2, OptionError, who, ": num_points is ", o.num_points,
               ", expected 2 or more");
  DROPIN_CHECK(o.min_points >= 2 && o.min_points < n, OptionError, who, ": min_points is ",
               o.min_points, ", expected 2 to less than the ", n, " samples there are");
  metric::Draws draws(static_cast<std::uint64_t>(o.seed));
  Rows order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (o.sampling == "nested") metric::shuffle(order, n, draws);
  const double step = static_cast<double>(n - o.min_points) / static_cast<double>(o.num_points - 1);
  std::vector<Rows> r;
  for (int64_t p = 0; p < o.num_points; ++p) {
    const int64_t size = p + 1 == o.num_points
                             ? n
                             : static_cast<int64_t>(static_cast<double>(o.min_points) +
                                                    static_cast<double>(p) * step);
    if (o.sampling == "shuffle") metric::shuffle(order, size, draws);
    r.emplace_back(order.begin(), order.begin() + size);
    if (o.sampling == "bootstrap")
      for (int64_t& row : r.back())
        row = static_cast<int64_t>(draws.below(static_cast<std::uint64_t>(n)));
  }
  return r;
}

// The line through value(rows) of each subset against 1 / size.
template <class Value>
Extrapolation extrapolated(std::string_view who, int64_t n, const Tensor& indices,
                           const ExtrapolationOptions& o, const TensorOptions& like, Value value) {
  no_grad guard;
  const std::vector<Rows> subsets =
      indices.defined() ? given_subsets(who, indices, n) : drawn_subsets(who, n, o);
  Rows sizes;
  for (const Rows& rows : subsets) sizes.push_back(static_cast<int64_t>(rows.size()));
  bool differ = false;
  for (std::size_t p = 0; p < sizes.size(); ++p) {
    DROPIN_CHECK(sizes[p] > 0, ShapeError, who, ": subset ", static_cast<int64_t>(p),
                 " is empty, expected samples");
    differ = differ || sizes[p] != sizes[0];
  }
  DROPIN_CHECK(differ, Error, who, ": all subsets have ", sizes[0],
               " samples, expected several sizes");
  std::vector<double> values;
  for (const Rows& rows : subsets) values.push_back(value(tensor(rows)));
  const auto count = static_cast<double>(values.size());
  double x_mean = 0, f_mean = 0, up = 0, down = 0;
  for (std::size_t p = 0; p < values.size(); ++p) {
    x_mean += 1 / static_cast<double>(sizes[p]) / count;
    f_mean += values[p] / count;
  }
  for (std::size_t p = 0; p < values.size(); ++p) {
    const double x = 1 / static_cast<double>(sizes[p]) - x_mean;
    up += x * (values[p] - f_mean);
    down += x * x;
  }
  const double slope = up / down;
  return {scalar(f_mean - slope * x_mean, like), scalar(slope, like),
          tensor(values, Shape{static_cast<int64_t>(values.size())}, like),
          tensor(sizes).to(like.device)};
}

}  // namespace

Extrapolation fid_infinity(const Tensor& features, const FeatureSide& reference,
                           const Tensor& indices, const ExtrapolationOptions& o) {
  const char* who = "fid_infinity";
  DROPIN_CHECK(features.dim() == 2 && features.size(0) >= 2, ShapeError, who, ": features is ",
               features.sizes(), ", expected [N >= 2, D]");
  const Tensor x = features.detach();
  FeatureSide other = reference;
  if (reference.features.defined() && reference.features.dim() == 2 &&
      reference.features.size(0) > reference.features.size(1)) {  // once, not for each subset
    FrechetAccumulator all;
    all.update(reference.features);
    other = all.compute();
  }
  return extrapolated(who, x.size(0), indices, o, x.options(), [&](const Tensor& rows) {
    FeatureSide some;
    some.features = index_select(x.to(kCPU).to(kFloat64), 0, rows);
    return frechet_distance(some, other).item();
  });
}

Extrapolation is_infinity(const Tensor& logits, const Tensor& probs, const Tensor& indices,
                          const ExtrapolationOptions& o) {
  const char* who = "is_infinity";
  const Tensor table = class_table(who, logits, probs).detach();
  const Tensor& like = logits.defined() ? logits : probs;
  return extrapolated(who, table.size(0), indices, o, like.options(), [&](const Tensor& rows) {
    return score_of(index_select(table, 0, rows), logits.defined()).item();
  });
}

}  // namespace dropin
