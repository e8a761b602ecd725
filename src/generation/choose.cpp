#include "generation/choose.h"

#include <algorithm>
#include <cmath>

#include "generation/utilities.h"
#include "kernels/hd.h"

namespace dropin {

std::vector<int64_t> generation::best_first(const std::vector<double>& scores, int64_t count) {
  std::vector<int64_t> left, order;
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (!std::isnan(scores[i])) left.push_back(static_cast<int64_t>(i));
  while (!left.empty() && static_cast<int64_t>(order.size()) < count) {
    double best = scores[at(left[0])];
    for (const int64_t i : left) best = std::max(best, scores[at(i)]);
    const double tie = std::isinf(best) ? best : best - 1e-12 * std::max(1.0, std::abs(best));
    const auto first =
        std::find_if(left.begin(), left.end(), [&](int64_t i) { return scores[at(i)] >= tie; });
    order.push_back(*first);
    left.erase(first);
  }
  return order;
}

void generation::choose(std::string_view who, const std::vector<double>& scores, int64_t nbest,
                        Choice& c) {
  const std::vector<int64_t> order = best_first(scores, nbest);
  DROPIN_CHECK(!order.empty(), OptionError, who, ": every score is NaN, expected a number");
  c.index = scalar(order[0], kInt64);
  if (nbest > 1) c.order = tensor(order);
}

Choice majority_vote(const Tensor& candidates, const Tensor& lengths, const Tensor& weights) {
  const char* who = "majority_vote";
  const auto rows = generation::read_sequences(who, "candidates", candidates, lengths, {});
  const int64_t n = static_cast<int64_t>(rows.size());
  const bool given = weights.defined();
  if (given) {
    DROPIN_CHECK(is_floating(weights.dtype()) && weights.sizes() == Shape{n}, ShapeError, who,
                 ": weights is ", weights.dtype(), " ", weights.sizes(), ", expected floats [", n,
                 "]");
    double most = 0;
    for (const double w : weights.to_vector()) {
      DROPIN_CHECK(w >= 0 && std::isfinite(w), OptionError, who, ": a weight is ", w,
                   ", expected finite numbers of 0 or more");
      most = std::max(most, w);
    }
    DROPIN_CHECK(most > 0, OptionError, who, ": all weights are 0, expected a positive one");
  }
  const DType type = given ? weights.dtype() : kFloat32;
  Tensor same = zeros({n, n}, kFloat64);
  double* to = same.data<double>();
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) to[i * n + j] = rows[at(i)] == rows[at(j)];
  const Tensor w = given ? weights.to(kFloat64) : full({n}, 1 / static_cast<double>(n), kFloat64);
  Choice c;
  const Tensor scores = sum(same * w, {1});
  generation::choose(who, scores.detach().to_vector(), 1, c);
  c.scores = scores.to(type);
  return c;
}

Choice most_likely(const Tensor& log_probs, const Tensor& lengths, const MostLikelyOptions& o) {
  const char* who = "most_likely";
  DROPIN_CHECK(o.normalize == "none" || o.normalize == "length", OptionError, who,
               ": normalize is \"", o.normalize, "\", expected none or length");
  DROPIN_CHECK(is_floating(log_probs.dtype()), DTypeError, who, ": log_probs is ",
               log_probs.dtype(), ", expected floats");
  DROPIN_CHECK(log_probs.dim() == 1 && log_probs.size(0) > 0, ShapeError, who, ": log_probs is ",
               log_probs.sizes(), ", expected [N], N at least 1");
  Tensor scores = log_probs.to(kFloat64);
  if (lengths.defined()) {
    DROPIN_CHECK(lengths.dtype() == kInt64 && lengths.sizes() == log_probs.sizes(), ShapeError, who,
                 ": lengths is ", lengths.dtype(), " ", lengths.sizes(), ", expected int64 ",
                 log_probs.sizes());
    for (const int64_t l : lengths.to_vector<int64_t>())
      DROPIN_CHECK(l >= 0, IndexError, who, ": a length is ", l, ", expected 0 or more");
  }
  if (o.normalize == "length") {
    DROPIN_CHECK(lengths.defined(), StateError, who, ": normalize length needs lengths");
    scores = scores / maximum(lengths.to(kFloat64), ones_like(scores));
  }
  Choice c;
  generation::choose(who, scores.detach().to_vector(), 1, c);
  c.scores = scores.to(log_probs.dtype());
  return c;
}

}  // namespace dropin
