#include "dropin/detection/delf.h"

#include <cmath>

#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

TEST(AttentiveLocalFeatures, PoolsUnitFeaturesByTheirScores) {
  no_grad guard;
  for (const char* pooling : {"mean", "sum"}) {
    AttentiveLocalFeatures m({.in_channels = 4, .hidden = 5, .pooling = pooling});
    m.eval();
    const Tensor x = random({2, 4, 3, 2}, kFloat32);
    const AttentiveLocalFeatures::Result r = m.attend(x);
    EXPECT_GE(amin(r.scores).item(), 0);
    const Tensor unit = x / norm(x, {1}, true), all = sum(unit * r.scores.unsqueeze(1), {2, 3});
    EXPECT_LT(max_difference(r.y, std::string(pooling) == "sum" ? all : all / 6.0), 1e-5);
  }
}

TEST(AttentiveLocalFeatures, TrainsItsStatisticsSlowlyAndCanRestItsFeatures) {
  AttentiveLocalFeatures m({.in_channels = 3, .hidden = 4, .detach_features = true});
  Tensor x = (random({2, 3, 4, 4}, kFloat32) + 2.0).requires_grad_();
  const Tensor hidden = conv2d(x, m.state_dict().find("attention.conv1.weight"), {});
  sum(m.attend(x).y).backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_LT(max_difference(m.state_dict().find("attention.bn1.running_mean"),
                           mean(hidden, {0, 2, 3}) * 0.01),
            1e-6);
}

TEST(AttentiveLocalFeatures, ItsCodeIsTheDescriptor) {
  no_grad guard;
  AttentiveLocalFeatures m({.in_channels = 4, .hidden = 3, .reduced_dim = 2});
  const Tensor x = random({2, 4, 3, 3}, kFloat32);
  const auto r = m.attend(x);
  EXPECT_EQ(r.descriptors.sizes(), (Shape{2, 2, 3, 3}));
  EXPECT_GT(r.reconstruction.item(), 0);
  EXPECT_ERROR(AttentiveLocalFeatures({.in_channels = 4, .pooling = "max"}), OptionError,
               "pooling is \"max\"");
  EXPECT_ERROR(m(zeros({2, 3, 3, 3})), ShapeError, "because in_channels = 4");
}

SelectLocalFeaturesOptions selection() {
  SelectLocalFeaturesOptions o;
  o.scales = {1, 0.5};
  o.score_threshold = 0.5;
  o.pca_dim = 2;
  return o;
}

TEST(SelectLocalFeatures, KeepsTheBestInOrder) {
  const Tensor f0 = random({3, 2, 2}), f1 = random({3, 1, 1});
  const Tensor s0 = tensor({0.7, NAN, 2, 0.7}, {2, 2}), s1 = tensor({INFINITY}, {1, 1});
  const LocalFeatures r =
      select_local_features({f0, f1}, {s0, s1}, zeros({3}), eye(3), {}, selection());
  expect_values(r.scores, {INFINITY, 2, 0.7, 0.7});
  expect_values(r.locations, {0, 0, 0, 32, 0, 0, 32, 32}, 1e-4);
  expect_values(r.feature_scales, {2, 1, 1, 1});
  EXPECT_LT(max_difference(norm(r.descriptors, {1}), ones({4}, kFloat64)), 1e-6);
  SelectLocalFeaturesOptions o = selection();
  o.nms_iou = 0.5;  // the fields of 291 overlap all but wholly
  EXPECT_EQ(select_local_features({f0, f1}, {s0, s1}, zeros({3}), eye(3), {}, o).scores.numel(), 2);
  o.score_threshold = INFINITY;
  o.scales = {1};
  EXPECT_EQ(select_local_features({f0}, {s0}, zeros({3}), eye(3), {}, o).descriptors.sizes(),
            (Shape{0, 2}));
}

TEST(SelectLocalFeatures, AnEmptyPlaceHasAnEmptyDescriptor) {
  const Tensor r =
      select_local_features({zeros({3, 1, 1}), ones({3, 1, 1})}, {ones({1, 1}), ones({1, 1})},
                            ones({3}), eye(3), {}, selection())
          .descriptors;
  expect_values(r[0], {0, 0});
}

TEST(FitPca, FindsDirectionsByVariance) {
  const Tensor x = random({500, 3}) * tensor({0.1, 2, 1}, kFloat64) + 5.0;
  const Pca p = fit_pca(x);
  EXPECT_NEAR(p.mean[0].item(), 5, 0.05);
  EXPECT_NEAR(p.matrix[0][1].item(), 1, 0.01);
  EXPECT_NEAR(p.variance[0].item(), 4, 0.6);
  EXPECT_LT(max_difference(matmul(p.matrix, p.matrix.mT()), eye(3, 3, kFloat64)), 1e-12);
}

TEST(MatchLocalFeatures, TakesTheFirstNearestStrictlyWithin) {
  const Tensor a = tensor({0, 0, 0, 0, 3, 0}, {3, 2}), b = tensor({0, 0, 3, 0.8, 3, 0.5}, {3, 2});
  expect_values(match_local_features(a, b), {0, -1, 2});
  MatchLocalFeaturesOptions o;
  o.ratio = 0.5;
  expect_values(match_local_features(a, b, o), {-1, -1, 2});
  o = {};
  o.distance_threshold = 2;
  o.mutual = true;
  expect_values(match_local_features(a, b, o), {0, -1, 2});
  expect_values(match_local_features(zeros({0, 2}), b), {-1, -1, -1});
  EXPECT_ERROR(match_local_features(a, zeros({2, 3})), ShapeError, "the same D in both");
}

TEST(RansacAffine, FindsTheMapAmongOutliers) {
  const Tensor map = tensor({1.1, 0.2, -30, -0.1, 0.9, 12}, {2, 3}, kFloat64);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Generator g(seed);
    const Tensor p = rand({300, 2}, kFloat64, &g) * 500.0, noise = randn({300, 2}, kFloat64, &g);
    Tensor q = matmul(p, map.narrow(1, 0, 2).mT()) + map.select(1, 2) + noise;
    q.narrow(0, 120, 180).copy_(rand({180, 2}, kFloat64, &g) * 500.0);
    const AffineMap r = ransac_affine(p, q, {.seed = static_cast<int64_t>(seed)});
    EXPECT_TRUE(all(r.inliers.narrow(0, 0, 120)).item<bool>()) << seed;
    EXPECT_EQ(r.num_inliers.item<int64_t>(), sum(r.inliers.to(kInt64)).item<int64_t>());
    const Tensor centre = full({2}, 250, kFloat64);
    auto at = [&](const Tensor& m) { return matmul(m.narrow(1, 0, 2), centre) + m.select(1, 2); };
    EXPECT_LT(norm(at(r.affine) - at(map)).item(), 3) << seed;
  }
}

TEST(RansacAffine, WithoutATriangleThereIsNoMap) {
  const Tensor line = tensor({0, 0, 1, 1, 2, 2, 3, 3}, {4, 2});
  for (const Tensor& p : {line, line.narrow(0, 0, 2), zeros({0, 2})}) {
    const AffineMap r = ransac_affine(p, p);
    EXPECT_EQ(r.num_inliers.item(), 0);
    expect_values(r.affine, {1, 0, 0, 0, 1, 0});
    EXPECT_EQ(r.inliers.numel(), p.size(0));
  }
  EXPECT_ERROR(ransac_affine(line, line.narrow(0, 0, 3)), ShapeError, "the same M in both");
  EXPECT_ERROR(ransac_affine(line, line, {.min_samples = 2}), OptionError, "min_samples 2");
}

}  // namespace
}  // namespace dropin
