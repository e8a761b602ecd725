#include "dropin/loss/mixup.h"

#include <cmath>

#include "dropin/loss/tunable.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

Tensor ids(const std::vector<double>& v) { return tensor(v, kInt64); }

TEST(MixupBatch, MixesSoftLabelsAndRowsAlike) {
  const Tensor x = random({4, 3}), soft = softmax(random({4, 5}), 1),
               lam = tensor({0.3, 1}, kFloat64);
  const MixupRows r = mixup_batch(x, soft, ids({2, 0}), ids({1, 1}), lam);
  EXPECT_EQ(max_difference(r.x.narrow(0, 0, 4), x), 0);
  EXPECT_LT(max_difference(r.x[4], x[2] * 0.3 + x[0] * 0.7), 1e-15);
  EXPECT_LT(max_difference(r.x[5], x[0]), 1e-15);
  EXPECT_EQ(max_difference(r.target_b, stack({soft[0], soft[0]})), 0);
}

TEST(MixupMPLoss, EqualsCrossEntropyWithSoftTargets) {
  const Tensor z = random({5, 4}).requires_grad_(), lam = tensor({0.2, 0.9}, kFloat64),
               w = tensor({1, 0, 2}, kFloat64);
  const MixupTargets mixed{ids({1, 2}), ids({3, 2}), lam, w};
  const Tensor y = mixup_mp_loss(z, ids({0, 1, 3}), mixed, {.pseudo_weight = 0.5});
  const Tensor p = log_softmax(z, 1);
  double want = -(p[0][0].item() + 2 * p[2][3].item());
  want -= 0.5 * (0.2 * p[3][1].item() + 0.8 * p[3][3].item() + p[4][2].item());
  EXPECT_NEAR(y.item(), want / 5, 1e-12);
  auto soft = [](const Tensor& t) { return one_hot(t, 4).to(kFloat64); };
  const MixupTargets same{soft(mixed.target_a), soft(mixed.target_b), lam, w};
  EXPECT_NEAR(mixup_mp_loss(z, soft(ids({0, 1, 3})), same, {.pseudo_weight = 0.5}).item(), y.item(),
              1e-12);
}

TEST(MixupMPLoss, OfOneLogitIsBinary) {
  const Tensor z = random({4, 1}), two = concat({zeros_like(z), z}, 1);
  const MixupTargets mixed{ids({1}), ids({0}), tensor({0.3}, kFloat64), {}};
  EXPECT_NEAR(mixup_mp_loss(z, ids({0, 1, 1}), mixed, {.binary = true}).item(),
              mixup_mp_loss(two, ids({0, 1, 1}), mixed).item(), 1e-12);
  const Tensor far = tensor({1e4, -1e4}, {2, 1}, kFloat64);
  EXPECT_EQ(mixup_mp_loss(far, ids({1, 0}), {}, {.binary = true}).item(), 0);
}

TEST(MixupMPLoss, RefusesWhatDoesNotFitInWords) {
  const Tensor z = random({3, 4}), lam = tensor({0.5}, kFloat64);
  auto loss = [&](const Tensor& target, const MixupTargets& m) {
    return mixup_mp_loss(z, target, m);
  };
  EXPECT_NEAR(loss(ids({0, 1, 2}), {}).item(), cross_entropy(z, ids({0, 1, 2})).item(), 1e-12);
  EXPECT_ERROR(loss(ids({0, 4}), {ids({0}), ids({0}), lam, {}}), IndexError, "target holds 4");
  EXPECT_ERROR(loss(ids({0, 1}), {ids({0}), ids({0}), lam + 1.0, {}}), OptionError, "[0, 1]");
  EXPECT_ERROR(loss(ids({0, 1}), {ids({0}), {}, lam, {}}), OptionError, "or none");
  EXPECT_ERROR(loss(ids({0, 1}), {ids({0}), ids({0}), lam, tensor({-1, 1}, kFloat64)}), OptionError,
               "negative");
  EXPECT_ERROR(loss(ids({}), {}), ShapeError, "a row at least");
  EXPECT_ERROR(mixup_mp_loss(z, ids({0, 1}), {}, {.pseudo_weight = -1}), OptionError,
               "pseudo_weight is -1");
  EXPECT_ERROR(mixup_batch(z, ids({0, 1, 2}), ids({3}), ids({0}), lam), IndexError, "pick holds 3");
  EXPECT_ERROR(mixup_batch(z, ids({0, 1, 2}), ids({0}), ids({1}), lam), IndexError,
               "partner holds 1");
}

TEST(TunableLoss, WeighsObjectivesPerSample) {
  const Tensor l = random({3, 2}), p = random({3, 2}, kFloat64, 8);
  const Tensor each = tunable_parametric_loss(l, p, {.scales = {1, 10}, .reduction = "none"});
  for (int64_t b = 0; b < 3; ++b)
    EXPECT_NEAR(each[b].item(), (l[b][0] * p[b][0] + l[b][1] * p[b][1] * 10.0).item(), 1e-12);
  EXPECT_ERROR(tunable_parametric_loss(l, p, {.scales = {1}}), OptionError, "scales has 1 numbers");
  EXPECT_ERROR(tunable_parametric_loss(l, p, {.reduction = "max"}), OptionError, "reduction");
}

TEST(TunableLoss, ParametersLieWhereTheirLawSays) {
  Generator g(3);
  const Tensor s = sample_tunable_params(4000, 3, "simplex", &g);
  EXPECT_LT(max_difference(sum(s, {1}), ones({4000})), 1e-5);
  EXPECT_GE(amin(s).item(), 0);
  EXPECT_NEAR(mean(square(s)).item(), 1.0 / 6, 0.01);  // of a uniform law on the simplex
  const Tensor u = sample_tunable_params(4000, 2, "uniform", &g);
  EXPECT_NEAR(mean(u).item(), 0.5, 0.02);
  EXPECT_NEAR(mean(square(u)).item(), 1.0 / 3, 0.02);
  EXPECT_ERROR(sample_tunable_params(2, 2, "normal"), OptionError, "distribution is \"normal\"");
}

}  // namespace
}  // namespace dropin
