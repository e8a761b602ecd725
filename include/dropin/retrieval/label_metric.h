// Distances between labels: where they come from, what they must be, which labels a predictor by
// Frechet mean can reach.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct GraphEdge {
  int64_t a, b;
  double weight = 1;
};
/// Steps between the nodes of a tree, float32 [N, N]; parents[root] is -1 (or the root itself).
Tensor tree_distances(const std::vector<int64_t>& parents);
/// Shortest paths of an undirected graph, float32 [N, N]; infinite where there is none.
Tensor graph_distances(int64_t nodes, const std::vector<GraphEdge>& edges);
/// Distances between rows of e [N, E]: "l2" |a - b|, or "cosine" |n(a) - n(b)|.
Tensor embedding_distances(const Tensor& e, const std::string& metric = "l2");

/// A checked metric in the form that scores are computed from, float64 on the CPU.
struct LabelDistances {
  Tensor squared;   ///< [K, N] of the observed classes, 0 where infinite
  Tensor infinite;  ///< [K, N] ones where infinite; undefined: nowhere
  int64_t first_observed = 0;
};
/// ShapeError, IndexError or Error unless dist is a metric [N, N] (symmetric within 1e-5, not
/// negative, zero diagonal, no NaN; the triangle inequality on request) and observed int64 [K >= 1]
/// has distinct classes in [0, N).
void check_label_metric(std::string_view who, const Tensor& dist, const Tensor& observed,
                        bool triangles = false);
LabelDistances label_distances(const Tensor& dist, const Tensor& observed);

struct LokiLocusOptions {
  std::string method = "pairwise";
  static void fields(auto&& f) {
    f("method", &LokiLocusOptions::method,
      "\"pairwise\": exact on trees, else a subset; or \"exact\": linear programs");
  }
};
/// The classes that minimize sum_i p_i d(v, observed_i)^2 for some probabilities p, ties counted:
/// bool [N]. Roberts et al. 2023, section 4.
Tensor LokiLocus(const Tensor& dist, const Tensor& observed, const LokiLocusOptions& o = {});

struct LokiNextClassOptions {
  std::string method = "furthest";
  int64_t count = 1, seed = 0;
  static void fields(auto&& f) {
    using O = LokiNextClassOptions;
    f("method", &O::method,
      "\"furthest\" from the locus, \"largest_gain\" of the locus, or \"random\"");
    f("count", &O::count, "how many classes to pick, one after the other");
    f("seed", &O::seed, "of random picks");
  }
};
struct NextClasses {
  Tensor order;       ///< int64 [picks], fewer than count when everything is reachable
  Tensor locus_size;  ///< int64 [picks + 1], before the first pick and after each
};
/// Which classes to observe next so that more become reachable (pairwise locus).
NextClasses LokiNextClass(const Tensor& dist, const Tensor& observed,
                          const LokiNextClassOptions& o = {});

}  // namespace dropin
