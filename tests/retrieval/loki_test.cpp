// Loki: where it is argmax, what trees and grids promise, infinite distances, bad input.
#include "dropin/registry/registry.h"
#include "dropin/retrieval/decision_rule.h"
#include "support.h"

namespace dropin::testing {
namespace {

using Ids = std::vector<int64_t>;
Tensor classes(const Ids& v) { return tensor(v); }

// A tree of n nodes, each below an earlier one.
Ids random_tree(int64_t n, std::uint64_t seed) {
  Generator g(seed);
  const auto u = rand({n}, kFloat64, &g).to_vector();
  Ids parents{-1};
  for (int64_t v = 1; v < n; ++v)
    parents.push_back(
        static_cast<int64_t>(u[static_cast<std::size_t>(v)] * static_cast<double>(v)));
  return parents;
}
Tensor grid(int64_t rows, int64_t columns) {
  std::vector<GraphEdge> edges;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      if (r + 1 < rows) edges.push_back({r * columns + c, (r + 1) * columns + c});
      if (c + 1 < columns) edges.push_back({r * columns + c, r * columns + c + 1});
    }
  return graph_distances(rows * columns, edges);
}

TEST(LokiPredictor, OfTheZeroOneMetricIsArgmax) {
  const Tensor probs = softmax(random({20, 6}), 1);
  LokiPredictor loki({.num_classes = 6});
  ArgmaxPredictor argmax;
  EXPECT_EQ(max_difference(loki(probs).prediction, argmax(probs).prediction), 0);
  EXPECT_EQ(argmax(tensor(std::vector<double>{1, 3, 3}, {1, 3})).prediction.item(), 1);
}

TEST(LokiPredictor, NamesAClassBetweenTheObservedOnes) {
  LokiPredictor loki = LokiPredictor::from_tree({-1, 0, 0}, classes({1, 2}));  // 1 - 0 - 2
  const Decision d = loki(tensor(std::vector<double>{0.5, 0.5, 0.9, 0.1}, {2, 2}));
  expect_values(d.prediction, {0, 1});
  expect_values(d.scores, {1, 2, 2, 1, 0.4, 3.6});
}

TEST(LokiPredictor, RowsAreScaledByTheirSumsAndStraightThroughPassesGradients) {
  LokiPredictor loki = LokiPredictor::from_tree(
      {-1, 0, 0}, classes({1, 2}), {.normalize = true, .gradient = "straight_through"});
  Tensor probs = tensor(std::vector<double>{3, 1}, {1, 2}, kFloat64).requires_grad_();
  const Decision d = loki(probs);
  expect_values(d.scores.detach(), {1, 1, 3});
  expect_values(d.onehot.detach(), {1, 0, 0});
  const Tensor w = tensor(std::vector<double>{1, 2, 4}, {1, 3}, kFloat64);
  const Tensor through = grad({sum(d.onehot * w)}, {probs}, {}, true)[0],
               direct = grad({sum(d.scores * w)}, {probs})[0];
  EXPECT_EQ(max_difference(through, direct), 0);
  EXPECT_NEAR(sum(through * probs.detach()).item(), 0, 1e-12) << "scale is irrelevant";
  expect_values(loki.soft(probs, 0.5).detach(), softmax(d.scores.detach() * -2.0, 1).to_vector());
}

TEST(LokiPredictor, InfiniteDistancesCountWhereTheProbabilityIsPositive) {
  LokiPredictor loki =
      LokiPredictor::from_graph(4, {{0, 1}, {2, 3}}, classes({3, 1}));  // two components
  const Decision d = loki(tensor(std::vector<double>{0, 1, 0.5, 0.5, 1, 0}, {3, 2}));
  expect_values(d.prediction, {1, 3, 3});  // in row 1 all are infinite: the first observed class
  expect_values(d.scores, {1, 0, INFINITY, INFINITY, INFINITY, INFINITY, INFINITY, INFINITY,
                           INFINITY, INFINITY, 1, 0});
}

TEST(LokiPredictor, ARowWithNanHasNoPrediction) {
  LokiPredictor loki({.num_classes = 2});
  const Decision d = loki(tensor(std::vector<double>{std::nan(""), 1, 0, 1}, {2, 2}));
  expect_values(d.prediction, {-1, 1});
  EXPECT_TRUE(std::isnan(d.scores.select(0, 0).select(0, 1).item()));
}

TEST(LokiPredictor, TakesTheSizesOfTheFileAndTheFunctionPredictsTheSame) {
  LokiPredictor a = LokiPredictor::from_tree(random_tree(9, 4), classes({2, 8, 5})), b({});
  b.load_state_dict(a.state_dict());
  const Tensor probs = softmax(random({7, 3}), 1);
  EXPECT_EQ(max_difference(a(probs).scores, b(probs).scores), 0);
  EXPECT_EQ(
      max_difference(frechet_mean_predict(probs, a.state_dict().find("dist"), classes({2, 8, 5})),
                     a(probs).prediction),
      0);
}

TEST(LokiPredictor, RefusesWhatIsNoMetric) {
  auto with = [](const std::vector<double>& d, const Ids& observed = {0},
                 const LokiPredictorOptions& o = {}) {
    LokiPredictor(o).set_metric(tensor(d, {3, 3}), classes(observed));
  };
  EXPECT_ERROR(with({0, 1, 2, 3, 0, 1, 2, 1, 0}), Error, "symmetric");
  EXPECT_ERROR(with({0, -1, 2, -1, 0, 1, 2, 1, 0}), Error, "is -1");
  EXPECT_ERROR(with({0, 1, 2, 1, 5, 1, 2, 1, 0}), Error, "0 on the diagonal");
  EXPECT_ERROR(with({0, 1, 2, 1, 0, std::nan(""), 2, std::nan(""), 0}), Error,
               "expected 0 or more");
  const std::vector<double> line{0, 1, 9, 1, 0, 1, 9, 1, 0};
  EXPECT_ERROR(with(line, {0}, {.check_metric = true}), Error, "longer than the way over");
  with(line);
  EXPECT_ERROR(with(line, {}), ShapeError, "observed is [0]");
  EXPECT_ERROR(with(line, {1, 1}), Error, "observed twice");
  EXPECT_ERROR(with(line, {3}), IndexError, "class 3");
  EXPECT_ERROR(LokiPredictor({.num_classes = 2})(tensor(std::vector<double>{-1, 2}, {1, 2})), Error,
               "negative");
  EXPECT_ERROR(LokiPredictor({.normalize = true, .num_classes = 2})(zeros({1, 2})), Error,
               "sums to 0");
  EXPECT_ERROR(LokiPredictor({})(zeros({1, 2})), ShapeError, "observed is [0]");
}

TEST(LokiLocus, OfATreeIsTheUnionOfPathsByBothMethods) {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const int64_t n = 14;
    const Tensor d = tree_distances(random_tree(n, seed));
    const Ids observed{1, 6, 13, 9};
    const auto dist = d.to_vector();
    std::vector<double> want;
    for (int64_t v = 0; v < n; ++v) {
      bool on = false;
      auto at = [&](int64_t i, int64_t j) { return dist[static_cast<std::size_t>(i * n + j)]; };
      for (const int64_t i : observed)
        for (const int64_t j : observed) on = on || at(i, v) + at(v, j) == at(i, j);
      want.push_back(on);
    }
    expect_values(LokiLocus(d, classes(observed)), want);
    expect_values(LokiLocus(d, classes(observed), {.method = "exact"}), want);
  }
}

TEST(LokiLocus, CornersOfAGridReachItAllAndACompleteGraphNothingMore) {
  EXPECT_TRUE(all(LokiLocus(grid(4, 5), classes({0, 19}))).item<bool>());
  EXPECT_TRUE(all(LokiLocus(grid(4, 5), classes({0, 19, 4}), {.method = "exact"})).item<bool>());
  for (const char* method : {"pairwise", "exact"})
    expect_values(LokiLocus(1.0 - eye(5), classes({3, 0, 1}), {.method = method}), {1, 1, 0, 1, 0});
  expect_values(LokiLocus(grid(1, 3), classes({1})), {0, 1, 0});
}

TEST(LokiLocus, ExactFindsWhatOnlyThreeClassesReachTogether) {
  // equal sides, and a centre that is too far from the middle of each side
  const double side = 2, in = 1.5;
  const Tensor d = tensor(
      std::vector<double>{0, side, side, in, side, 0, side, in, side, side, 0, in, in, in, in, 0},
      {4, 4}, kFloat64);
  expect_values(LokiLocus(d, classes({0, 1, 2})), {1, 1, 1, 0});
  expect_values(LokiLocus(d, classes({0, 1, 2}), {.method = "exact"}), {1, 1, 1, 1});
}

TEST(LokiNextClass, PicksUntilEverythingIsReachable) {
  const Tensor d = tree_distances(random_tree(20, 2));
  for (const char* method : {"furthest", "largest_gain", "random"}) {
    const NextClasses n = LokiNextClass(d, classes({0}), {.method = method, .count = 50});
    const auto sizes = n.locus_size.to_vector();
    EXPECT_EQ(sizes.size(), static_cast<std::size_t>(n.order.size(0)) + 1) << method;
    EXPECT_EQ(sizes.back(), 20) << method;
    EXPECT_TRUE(std::is_sorted(sizes.begin(), sizes.end()));
  }
  EXPECT_EQ(LokiNextClass(1.0 - eye(2), classes({0, 1})).order.size(0), 0);
}

TEST(MeanSquaredDistance, AveragesSquares) {
  const Tensor d = tree_distances({-1, 0, 1});
  EXPECT_EQ(mean_squared_distance(classes({0, 2}), classes({2, 1}), d).item(), 2.5);
  EXPECT_ERROR(mean_squared_distance(classes({3}), classes({0}), d), IndexError, "class 3");
}

}  // namespace
}  // namespace dropin::testing
