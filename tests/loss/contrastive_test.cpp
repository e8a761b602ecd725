// Contrastive losses against their definition in loops, conflicts, empty batches; grounding.
#include "dropin/loss/contrastive.h"
#include "dropin/autograd/gradcheck.h"
#include "support.h"

namespace dropin::testing {
namespace {

// The page's step 1, with pairs left out whose texts are nearer than the threshold.
double reference(const Tensor& x, const Tensor& t, double scale, double threshold) {
  const Tensor a = x / norm(x, {1}, true), b = t / norm(t, {1}, true);
  const Tensor s = matmul(a, b.mT()) * scale, near = matmul(b, b.mT());
  const int64_t n = x.size(0);
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    double rows = 0, columns = 0;
    for (int64_t j = 0; j < n; ++j) {
      if (i != j && threshold > 0 && near.select(0, i).select(0, j).item() > threshold) continue;
      rows += std::exp(s.select(0, i).select(0, j).item());
      columns += std::exp(s.select(0, j).select(0, i).item());
    }
    total += std::log(rows) + std::log(columns) - 2 * s.select(0, i).select(0, i).item();
  }
  return total / static_cast<double>(2 * n);
}

TEST(ClipLoss, AgreesWithItsDefinition) {
  const Tensor x = random({6, 5}, kFloat64, 1), t = random({6, 5}, kFloat64, 2),
               s = full({}, 7.0, kFloat64);
  EXPECT_NEAR(ClipLoss(x, t, s).item(), reference(x, t, 7, 0), 1e-12);
  EXPECT_EQ(ClipLoss(x.narrow(0, 0, 1), t.narrow(0, 0, 1), s).item(), 0);
  EXPECT_EQ(ClipLoss(zeros({0, 5}), zeros({0, 5}), s).item(), 0);
  EXPECT_TRUE(std::isfinite(ClipLoss(zeros({2, 5}), zeros({2, 5}), full({}, 100.0)).item()));
}

TEST(ClipLoss, OfManyRowsGoesByBlocks) {
  const int64_t n = 5000;
  Tensor x = random({n, 3}, kFloat32, 1).requires_grad_(), t = random({n, 3}, kFloat32, 2);
  const Tensor s = full({}, 2.0);
  const Tensor y = ClipLoss(x, t, s), g = grad({y}, {x})[0];
  const Tensor a = x.detach() / norm(x.detach(), {1}, true), b = t / norm(t, {1}, true);
  const Tensor scores = matmul(a, b.mT()) * 2.0, own = sum(a * b, {1}) * 2.0;
  const double want =
      (mean(logsumexp(scores, {1}) - own).item() + mean(logsumexp(scores, {0}) - own).item()) / 2;
  EXPECT_NEAR(y.item(), want, 1e-4);
  EXPECT_TRUE(all(isfinite(g)).item<bool>());
  const Tensor u = random({n, 3}, kFloat32, 3);
  const double h = 1e-2;
  const double numeric =
      (ClipLoss(x.detach() + u * h, t, s).item() - ClipLoss(x.detach() - u * h, t, s).item()) /
      (2 * h);
  EXPECT_NEAR(sum(g * u).item(), numeric, 2e-3);
}

TEST(RegionTextContrastiveLoss, CollectsValidRegionsAndDropsConflicts) {
  const Tensor x = random({2, 3, 4}, kFloat64, 1), t = random({2, 3, 4}, kFloat64, 2),
               s = full({}, 5.0, kFloat64);
  t.select(0, 1).select(0, 2).copy_(t.select(0, 0).select(0, 0) * 2.0);  // the same caption
  const Tensor mask = tensor(std::vector<bool>{true, true, false, false, true, true}, {2, 3});
  auto valid = [&](const Tensor& v) {
    return index_select(v.reshape({6, 4}), 0, tensor(std::vector<int64_t>{0, 1, 4, 5}));
  };
  for (const double threshold : {0.0, 0.9, -1.0})
    EXPECT_NEAR(RegionTextContrastiveLoss(x, t, s, mask, {.conflict_threshold = threshold}).item(),
                reference(valid(x), valid(t), 5, threshold), 1e-12)
        << threshold;
  EXPECT_NEAR(RegionTextContrastiveLoss(x, t, s).item(),
              reference(x.reshape({6, 4}), t.reshape({6, 4}), 5, 0), 1e-12);
  // of two regions with one caption the filter leaves nothing to tell apart
  const Tensor same = ones({1, 2, 4}, kFloat64), two = random({1, 2, 4});
  EXPECT_EQ(RegionTextContrastiveLoss(two, same, s, {}, {.conflict_threshold = 0.5}).item(), 0);
  EXPECT_GE(RegionTextContrastiveLoss(same, same, s).item(), std::log(2) - 1e-12);
}

TEST(RegionTextContrastiveLoss, WithoutRegionsIsZeroWithZeroGradients) {
  Tensor x = random({2, 3, 4}).requires_grad_();
  const Tensor y =
      RegionTextContrastiveLoss(x, random({2, 3, 4}), full({}, 5.0), zeros({2, 3}, kBool));
  EXPECT_EQ(y.item(), 0);
  y.backward();
  EXPECT_EQ(max_difference(x.grad(), zeros({2, 3, 4}, kFloat64)), 0);
}

TEST(ContrastiveLosses, RefuseWhatTheyCannotMean) {
  const Tensor x = random({3, 4});
  EXPECT_ERROR(ClipLoss(x, random({3, 5}), full({}, 1.0)), ShapeError, "image_features is [3, 4]");
  EXPECT_ERROR(ClipLoss(x, x, full({}, -1.0)), Error, "logit_scale is -1");
  EXPECT_ERROR(ClipLoss(x, x, full({}, NAN)), Error, "logit_scale is nan");
  EXPECT_ERROR(ClipLoss(x, x, ones({2})), ShapeError, "logit_scale is [2]");
  const Tensor r = random({2, 3, 4});
  EXPECT_ERROR(RegionTextContrastiveLoss(r, r, ones({}), ones({2, 2}, kBool)), ShapeError,
               "region_mask is [2, 2]");
  EXPECT_ERROR(RegionTextContrastiveLoss(r, r, ones({}), {}, {.gather = true}), OptionError,
               "gather is true");
}

TEST(GroundingLoss, AddsDistanceAndOverlap) {
  // sigmoid(0) = 1/2: the box from 1/4 to 3/4
  const Tensor pred = zeros({1, 1, 4}, kFloat64);
  auto box = [](const std::vector<double>& v) { return tensor(v, {1, 1, 4}, kFloat64); };
  EXPECT_NEAR(GroundingLoss(pred, box({0.25, 0.25, 0.75, 0.75}), {}, {.giou_weight = 1}).item(), 0,
              1e-15);
  EXPECT_NEAR(GroundingLoss(pred, box({0, 0, 1, 1})).item(), 0.25, 1e-15);
  EXPECT_NEAR(GroundingLoss(pred, box({0, 0, 1, 1}), {}, {.giou_weight = 2}).item(),
              0.25 + 2 * 0.75, 1e-15);
  // apart: GIoU = -(hull - union) / hull
  EXPECT_NEAR(GroundingLoss(pred, box({0.75, 0.25, 1.25, 0.75}), {}, {.giou_weight = 1}).item(),
              0.25 + 1, 1e-15);
  // a point far away: no overlap
  EXPECT_NEAR(GroundingLoss(pred, box({1, 1, 1, 1}), {}, {.giou_weight = 1}).item(),
              0.5 + 1 + (0.5625 - 0.25) / 0.5625, 1e-15);
  const Tensor mask = zeros({1, 1}, kBool);
  EXPECT_EQ(GroundingLoss(pred, box({0, 0, 1, 1}), mask).item(), 0);
  EXPECT_ERROR(GroundingLoss(pred, zeros({1, 2, 4})), ShapeError, "boxes [1, 2, 4]");
}

TEST(GroundingLoss, HasItsDerivative) {
  const Tensor boxes = sigmoid(random({2, 3, 4}, kFloat64, 2));
  Tensor pred = random({2, 3, 4}).requires_grad_();
  const Tensor u = random({2, 3, 4}, kFloat64, 3);
  auto value = [&](const Tensor& p) { return GroundingLoss(p, boxes, {}, {.giou_weight = 0.5}); };
  const Tensor g = grad({value(pred)}, {pred})[0];
  const double h = 1e-6, numeric = (value(pred.detach() + u * h).item() -
                                    value(pred.detach() - u * h).item()) /
                                   (2 * h);
  EXPECT_NEAR(sum(g * u).item(), numeric, 1e-7);
}

}  // namespace
}  // namespace dropin::testing
