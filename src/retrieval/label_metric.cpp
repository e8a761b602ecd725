#include "dropin/retrieval/label_metric.h"
#include "kernels/hd.h"

#include <cmath>
#include <limits>
#include <queue>
#include <utility>

namespace dropin {

namespace {
constexpr double kFar = std::numeric_limits<double>::infinity();
}  // namespace

Tensor graph_distances(int64_t nodes, const std::vector<GraphEdge>& edges) {
  const char* who = "graph_distances";
  DROPIN_CHECK(nodes >= 0, OptionError, who, ": nodes is ", nodes, ", expected 0 or more");
  std::vector<std::vector<std::pair<int64_t, double>>> next(at(nodes));
  for (const GraphEdge& e : edges) {
    DROPIN_CHECK(e.a >= 0 && e.a < nodes && e.b >= 0 && e.b < nodes, IndexError, who,
                 ": an edge joins ", e.a, " and ", e.b, ", expected nodes 0 to ", nodes - 1);
    DROPIN_CHECK(e.weight >= 0 && std::isfinite(e.weight), OptionError, who, ": the edge between ",
                 e.a, " and ", e.b, " has weight ", e.weight, ", expected 0 or more");
    next[at(e.a)].emplace_back(e.b, e.weight);
    next[at(e.b)].emplace_back(e.a, e.weight);
  }
  Tensor r = empty({nodes, nodes});
  using Entry = std::pair<double, int64_t>;
  for (int64_t from = 0; from < nodes; ++from) {
    std::vector<double> d(at(nodes), kFar);
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> open;
    d[at(from)] = 0;
    open.emplace(0, from);
    while (!open.empty()) {
      const auto [far, v] = open.top();
      open.pop();
      if (far > d[at(v)]) continue;
      for (const auto& [u, w] : next[at(v)])
        if (far + w < d[at(u)]) open.emplace(d[at(u)] = far + w, u);
    }
    for (int64_t v = 0; v < nodes; ++v)
      r.data<float>()[from * nodes + v] = static_cast<float>(d[at(v)]);
  }
  for (int64_t v = 0; v < nodes; ++v)  // sums in two orders may differ in the last bit
    for (int64_t u = 0; u < v; ++u) r.data<float>()[v * nodes + u] = r.data<float>()[u * nodes + v];
  return r;
}

Tensor tree_distances(const std::vector<int64_t>& parents) {
  std::vector<GraphEdge> edges;
  const auto n = static_cast<int64_t>(parents.size());
  for (int64_t v = 0; v < n; ++v) {
    const int64_t p = parents[at(v)];
    DROPIN_CHECK(p >= -1 && p < n, IndexError, "tree_distances: the parent of ", v, " is ", p,
                 ", expected -1 to ", n - 1);
    if (p >= 0 && p != v) edges.push_back({v, p});
  }
  DROPIN_CHECK(static_cast<int64_t>(edges.size()) == n - (n > 0), Error,
               "tree_distances: ", static_cast<int64_t>(edges.size()),
               " nodes have a parent, expected all but one of ", n);
  Tensor d = graph_distances(n, edges);
  DROPIN_CHECK(n == 0 || all(isfinite(d)).item<bool>(), Error,
               "tree_distances: some nodes are not connected, expected one tree");
  return d;
}

Tensor embedding_distances(const Tensor& e, const std::string& metric) {
  const char* who = "embedding_distances";
  DROPIN_CHECK(e.dim() == 2, ShapeError, who, ": embeddings are ", e.sizes(), ", expected [N, E]");
  DROPIN_CHECK(metric == "l2" || metric == "cosine", OptionError, who, ": metric is \"", metric,
               "\", expected l2 or cosine");
  const int64_t n = e.size(0), width = e.size(1);
  std::vector<double> v = e.detach().to_vector();
  for (int64_t i = 0; metric == "cosine" && i < n; ++i) {
    double s = 0;
    for (int64_t k = 0; k < width; ++k) s += v[at(i * width + k)] * v[at(i * width + k)];
    const double scale = 1 / std::max(std::sqrt(s), 1e-12);
    for (int64_t k = 0; k < width; ++k) v[at(i * width + k)] *= scale;
  }
  Tensor r = zeros({n, n});
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < i; ++j) {
      double s = 0;
      for (int64_t k = 0; k < width; ++k) {
        const double x = v[at(i * width + k)] - v[at(j * width + k)];
        s += x * x;
      }
      r.data<float>()[i * n + j] = r.data<float>()[j * n + i] = static_cast<float>(std::sqrt(s));
    }
  return r;
}

namespace {

void check_triangles(std::string_view who, const std::vector<double>& d, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = 0; k < n; ++k)
        DROPIN_CHECK(!(d[at(i * n + j)] > (d[at(i * n + k)] + d[at(k * n + j)]) * (1 + 1e-5)),
                     Error, who, ": dist[", i, ", ", j, "] is longer than the way over ", k,
                     ", expected a metric");
}

}  // namespace

void check_label_metric(std::string_view who, const Tensor& dist, const Tensor& observed,
                        bool triangles) {
  DROPIN_CHECK(dist.dim() == 2 && dist.size(0) == dist.size(1), ShapeError, who, ": dist is ",
               dist.sizes(), ", expected a square [N, N]");
  DROPIN_CHECK(is_floating(dist.dtype()), DTypeError, who, ": dist is ", dist.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(observed.dim() == 1 && observed.size(0) > 0, ShapeError, who, ": observed is ",
               observed.sizes(), ", expected [K >= 1] classes");
  DROPIN_CHECK(observed.dtype() == kInt64, DTypeError, who, ": observed is ", observed.dtype(),
               ", expected int64");
  const int64_t n = dist.size(0);
  const std::vector<double> d = dist.detach().to_vector();
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      const double x = d[at(i * n + j)], y = d[at(j * n + i)];
      DROPIN_CHECK(x >= 0 && y >= 0, Error, who, ": dist[", i, ", ", j, "] is ", x >= 0 ? y : x,
                   ", expected 0 or more");
      DROPIN_CHECK(i != j || x == 0, Error, who, ": dist[", i, ", ", i, "] is ", x,
                   ", expected 0 on the diagonal");
      DROPIN_CHECK(x == y || std::abs(x - y) <= 1e-5 * std::max(x, y), Error, who, ": dist[", i,
                   ", ", j, "] is ", x, " and dist[", j, ", ", i, "] ", y,
                   ", expected a symmetric metric");
    }
  std::vector<bool> seen(at(n));
  for (const int64_t v : observed.to_vector<int64_t>()) {
    DROPIN_CHECK(v >= 0 && v < n, IndexError, who, ": observed class ", v, ", expected 0 to ",
                 n - 1);
    DROPIN_CHECK(!seen[at(v)], Error, who, ": class ", v,
                 " is observed twice, expected each class once");
    seen[at(v)] = true;
  }
  if (triangles) check_triangles(who, d, n);
}

LabelDistances label_distances(const Tensor& dist, const Tensor& observed) {
  const Tensor index = observed.detach().to(kCPU);
  const Tensor rows = index_select(dist.detach().to(kCPU).to(kFloat64), 0, index);
  const Tensor far = isinf(rows);
  LabelDistances r;
  r.squared = square(where(far, 0.0, rows));
  if (any(far).item<bool>()) r.infinite = far.to(kFloat64);
  r.first_observed = index.to_vector<int64_t>()[0];
  return r;
}

}  // namespace dropin
