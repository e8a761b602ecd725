#include "dropin/retrieval/decision_rule.h"

#include <limits>

namespace dropin {

namespace {

Tensor counted(int64_t n) { return arange(0, n).to(kInt64); }

// probs as float64 on the CPU, checked, divided by the sums where asked.
Tensor checked_rows(std::string_view who, const Tensor& probs, int64_t classes, bool normalize) {
  detail::check_probs(who, probs, classes);
  const Tensor p = probs.to(kCPU).to(kFloat64);
  DROPIN_CHECK(p.numel() == 0 || !any(p.detach() < 0.0).item<bool>(), Error, who,
               ": probs holds a negative number, expected probabilities");
  if (!normalize) return p;
  const Tensor sums = sum(p, {1}, true);
  DROPIN_CHECK(p.numel() == 0 || !any(sums.detach() == 0.0).item<bool>(), Error, who,
               ": a row of probs sums to 0, expected a positive sum to normalize by");
  return p / sums;
}

// scores [B, N] of rows p; 0 times infinity is 0 here.
Tensor expected_distances(const Tensor& p, const LabelDistances& d) {
  const Tensor scores = matmul(p, d.squared);
  if (!d.infinite.defined()) return scores;
  const Tensor far = matmul((p.detach() > 0.0).to(kFloat64), d.infinite) > 0.0;
  return where(logical_and(far, logical_not(isnan(scores.detach()))),
               std::numeric_limits<double>::infinity(), scores);
}

Tensor best_classes(const Tensor& scores, int64_t first_observed) {
  const Tensor s = scores.detach();
  if (s.size(0) == 0) return empty({0}, kInt64);
  const Tensor least = amin(s, {1}), unknown = any(isnan(s), {1});
  const Tensor best = where(isinf(least), first_observed, argmin(s, 1));
  return where(unknown, -1, best);
}

}  // namespace

Decision ArgmaxPredictor::forward(const Tensor& probs) {
  detail::check_probs(who(), probs);
  if (probs.size(0) == 0) return {empty({0}, {kInt64, probs.device()}), probs, {}};
  const Tensor p = probs.detach();
  return {where(any(isnan(p), {1}), -1, argmax(p, 1)), probs, {}};
}

std::vector<std::string> LokiPredictor::examples() {
  return {R"({"normalize": true, "gradient": "straight_through"})"};
}

LokiPredictor::LokiPredictor(const LokiPredictorOptions& o) : Component(o), cache_(new Cache) {
  DROPIN_CHECK(o.gradient == "scores" || o.gradient == "straight_through", OptionError, who(),
               ": gradient is \"", o.gradient, "\", expected scores or straight_through");
  DROPIN_CHECK(o.num_classes >= 0, OptionError, who(), ": num_classes is ", o.num_classes,
               ", expected 0 or more");
  dist_ = &buffer("dist", 1.0 - eye(o.num_classes));
  observed_ = &buffer("observed", counted(o.num_classes));
}

void LokiPredictor::set_metric(const Tensor& dist, const Tensor& observed) {
  const Tensor seen = observed.defined() ? observed : counted(dist.dim() == 2 ? dist.size(0) : 0);
  check_label_metric(who(), dist, seen, options_.check_metric);
  *dist_ = dist.detach().to(dist_->dtype()).to(dist_->device()).clone();
  *observed_ = seen.to(observed_->device()).clone();
}

LokiPredictor LokiPredictor::from_tree(const std::vector<int64_t>& parents, const Tensor& observed,
                                       const LokiPredictorOptions& o) {
  LokiPredictor p(o);
  p.set_metric(tree_distances(parents), observed);
  return p;
}
LokiPredictor LokiPredictor::from_graph(int64_t nodes, const std::vector<GraphEdge>& edges,
                                        const Tensor& observed, const LokiPredictorOptions& o) {
  LokiPredictor p(o);
  p.set_metric(graph_distances(nodes, edges), observed);
  return p;
}
LokiPredictor LokiPredictor::from_embeddings(const Tensor& embeddings, const std::string& metric,
                                             const Tensor& observed,
                                             const LokiPredictorOptions& o) {
  LokiPredictor p(o);
  p.set_metric(embedding_distances(embeddings, metric), observed);
  return p;
}

LabelDistances LokiPredictor::prepared() {
  const std::lock_guard lock(cache_->mutex);
  auto same = [](const Tensor& now, const Tensor& then, std::uint32_t version) {
    return then.defined() && now.data_ptr() == then.data_ptr() && now.sizes() == then.sizes() &&
           now.dtype() == then.dtype() && now.version() == version;
  };
  if (!same(*dist_, cache_->dist, cache_->dist_version) ||
      !same(*observed_, cache_->observed, cache_->observed_version)) {
    no_grad guard;
    check_label_metric(who(), *dist_, *observed_, options_.check_metric);
    cache_->prepared = label_distances(*dist_, *observed_);
    cache_->dist = dist_->detach();
    cache_->observed = observed_->detach();
    cache_->dist_version = dist_->version();
    cache_->observed_version = observed_->version();
  }
  return cache_->prepared;
}

Decision LokiPredictor::forward(const Tensor& probs) {
  const LabelDistances d = prepared();
  const Tensor p = checked_rows(who(), probs, d.squared.size(0), options_.normalize);
  // in float64: ties between classes stay ties
  const Tensor exact = expected_distances(p, d);
  Decision r{best_classes(exact, d.first_observed).to(probs.device()),
             exact.to(probs.dtype()).to(probs.device()),
             {}};
  if (options_.gradient == "straight_through") {
    const Tensor known = where(r.prediction < 0, 0, r.prediction);
    const Tensor hit = one_hot(known, d.squared.size(1)).to(probs.dtype());
    r.onehot = record("straight_through", where((r.prediction < 0).unsqueeze(1), 0.0, hit),
                      {r.scores}, {}, [](const Saved&, const Tensor& g) -> Tensors { return {g}; });
  }
  return r;
}

Tensor LokiPredictor::soft(const Tensor& probs, double tau) {
  DROPIN_CHECK(tau > 0, OptionError, who(), ": tau is ", tau, ", expected a positive number");
  return softmax(forward(probs).scores * (-1 / tau), 1);
}

void LokiPredictor::translate_state(StateDict& state, const std::string& prefix,
                                    std::vector<std::string>&) const {
  detail::fit_buffer(*dist_, state.find(prefix + "dist"));
  detail::fit_buffer(*observed_, state.find(prefix + "observed"));
}

Tensor frechet_mean_predict(const Tensor& probs, const Tensor& dist, const Tensor& observed) {
  const char* who = "frechet_mean_predict";
  no_grad guard;
  check_label_metric(who, dist, observed);
  const LabelDistances d = label_distances(dist, observed);
  const Tensor p = checked_rows(who, probs, d.squared.size(0), false);
  const int64_t rows = std::max<int64_t>(1, (int64_t{1} << 22) / d.squared.size(1));
  Tensors parts{empty({0}, kInt64)};  // blocks of rows: never [B, N]
  for (int64_t b = 0; b < p.size(0); b += rows)
    parts.push_back(best_classes(
        expected_distances(p.slice(0, b, std::min(b + rows, p.size(0))), d), d.first_observed));
  return concat(parts).to(probs.device());
}

Tensor mean_squared_distance(const Tensor& prediction, const Tensor& target, const Tensor& dist) {
  const char* who = "mean_squared_distance";
  DROPIN_CHECK(dist.dim() == 2 && dist.size(0) == dist.size(1), ShapeError, who, ": dist is ",
               dist.sizes(), ", expected [N, N]");
  DROPIN_CHECK(
      prediction.dim() == 1 && prediction.sizes() == target.sizes() && prediction.size(0) > 0,
      ShapeError, who, ": prediction is ", prediction.sizes(), ", target ", target.sizes(),
      ", expected [B >= 1] both");
  DROPIN_CHECK(prediction.dtype() == kInt64 && target.dtype() == kInt64, DTypeError, who,
               ": prediction is ", prediction.dtype(), ", target ", target.dtype(),
               ", expected int64");
  const int64_t n = dist.size(0);
  const std::vector<double> d = dist.to_vector();
  const auto p = prediction.to_vector<int64_t>(), t = target.to_vector<int64_t>();
  double total = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    for (const int64_t v : {p[i], t[i]})
      DROPIN_CHECK(v >= 0 && v < n, IndexError, who, ": class ", v, " at ", static_cast<int64_t>(i),
                   ", expected 0 to ", n - 1);
    const double x = d[static_cast<std::size_t>(p[i] * n + t[i])];
    total += x * x;
  }
  return scalar(total / static_cast<double>(p.size()), kFloat64);
}

}  // namespace dropin
