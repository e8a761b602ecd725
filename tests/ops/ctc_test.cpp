// ctc_loss against torch 2.15's numbers.
#include "dropin/loss/ctc.h"

#include <limits>

#include "dropin/autograd/gradcheck.h"
#include "dropin/ops/ops.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor whole(const std::vector<int64_t>& v) { return tensor(v); }
/// Four classes of which 0 is the blank, five steps, three samples.
Tensor logits() {
  std::vector<double> v;
  for (int64_t i = 0; i < 60; ++i)
    v.push_back(4 * (static_cast<double>((i * 37 + 101 + (i * i % 17) * 13) % 97) / 97 - 0.5));
  return tensor(v, {5, 3, 4}, kFloat64);
}
Tensor targets() { return whole({1, 2, 2, 3, 1, 0, 2, 0, 0}).reshape({3, 3}); }
const std::vector<int64_t> kSteps = {5, 4, 3}, kLabels = {3, 2, 0};

Tensor loss(const Tensor& x, const char* reduction) {
  return ctc_loss(log_softmax(x, 2), targets(), whole(kSteps), whole(kLabels), 0, reduction);
}

TEST(Ctc, LossesAsTorch) {
  const Tensor x = logits();
  expect_values(loss(x, "none"), {5.77020832973, 1.90693391141, 2.04064324334}, 1e-10);
  expect_values(loss(x, "sum"), {9.71778548447}, 1e-10);
  expect_values(loss(x, "mean"), {1.63917099187}, 1e-10);
  const Tensor lp = log_softmax(x, 2);
  const Tensor joined =
      ctc_loss(lp, whole({1, 2, 2, 3, 1}), whole(kSteps), whole(kLabels), 0, "none");
  expect_values(joined, {5.770208329729865, 1.90693391140536, 2.0406432433352286}, 1e-10);
  const Tensor one = ctc_loss(lp.select(1, 1), whole({3, 1}), whole({4}), whole({2}), 0, "sum");
  expect_values(one, {1.90693391140536}, 1e-10);
  EXPECT_EQ(one.dim(), 0);
  EXPECT_EQ(CTCLoss({.reduction = "sum"})(lp, targets(), whole(kSteps), whole(kLabels)).item(),
            loss(x, "sum").item());
}

const std::vector<double> kMeanGradient = {0.006413380095,
                                           -0.05686704242,
                                           0.02263530145,
                                           0.02781836088,
                                           -0.01017902101,
                                           0.003838010756,
                                           0.03863785714,
                                           -0.03229684688,
                                           -0.1990959231,
                                           0.01130656066,
                                           0.1519150208,
                                           0.03587434162,
                                           0.02579078198,
                                           0.002466830699,
                                           -0.03994872079,
                                           0.01169110812,
                                           0.004559728297,
                                           0.02077992553,
                                           0.004976060732,
                                           -0.03031571456,
                                           -0.08348766835,
                                           0.01643139613,
                                           0.0566168874,
                                           0.01043938482,
                                           -0.04744033152,
                                           0.0150848976,
                                           0.01528401897,
                                           0.01707141496,
                                           -0.0249183668,
                                           -0.005046502244,
                                           0.03027305641,
                                           -0.0003081873659,
                                           -0.1898337129,
                                           0.1321394974,
                                           0.006511363522,
                                           0.05118285203,
                                           -0.05176676854,
                                           0.006250364415,
                                           -0.03181527452,
                                           0.07733167865,
                                           0.0143490194,
                                           -0.1001170908,
                                           0.0791051922,
                                           0.00666287924,
                                           0,
                                           0,
                                           0,
                                           0,
                                           0.004510307356,
                                           0.01467563006,
                                           -0.05554359316,
                                           0.03635765575,
                                           0,
                                           0,
                                           0,
                                           0,
                                           0,
                                           0,
                                           0,
                                           0};

TEST(Ctc, GradientsAsTorch) {
  const Tensor x = logits().requires_grad_();
  loss(x, "mean").backward();
  expect_values(x.grad(), kMeanGradient, 1e-10);
  EXPECT_EQ(gradcheck([](const Tensors& in) { return Tensors{loss(in[0], "none")}; }, {x}), "");
}

TEST(Ctc, ImpossibleTargets) {
  const Tensor x = logits().requires_grad_(), lp = log_softmax(x, 2),
               t = whole({1, 1, 1, 3, 1, 0, 2, 0, 0}).reshape({3, 3}), steps = whole({4, 4, 0});
  expect_values(ctc_loss(lp, t, steps, whole({3, 2, 0}), 0, "none").detach(),
                {kInfinity, 1.90693391140536, 0}, 1e-10);
  expect_values(ctc_loss(lp, t, steps, whole({3, 2, 1}), 0, "none").detach(),
                {kInfinity, 1.90693391140536, kInfinity}, 1e-10);
  const Tensor kept = ctc_loss(lp, t, steps, whole({3, 2, 1}), 0, "sum", true);
  EXPECT_NEAR(kept.item(), 1.90693391140536, 1e-10);
  kept.backward();
  EXPECT_TRUE(isfinite(x.grad()).all().item<bool>());
  EXPECT_EQ(abs(x.grad().select(1, 0)).sum().item(), 0);
}

TEST(Ctc, BadArgumentsAreAnsweredInWords) {
  const Tensor lp = log_softmax(logits(), 2);
  const auto with = [&](const Tensor& t, const std::vector<int64_t>& steps,
                        const std::vector<int64_t>& labels, int64_t blank = 0) {
    return ctc_loss(lp, t, whole(steps), whole(labels), blank);
  };
  EXPECT_ERROR(with(targets(), {5, 4, 6}, kLabels), OptionError,
               "input_lengths has 6, expected 0 to 5");
  EXPECT_ERROR(with(targets(), kSteps, {3, 4, 0}), OptionError,
               "target_lengths has 4, expected 0 to 3");
  EXPECT_ERROR(with(targets(), kSteps, {3, 3, 0}), OptionError, "target 0 of sample 1");
  EXPECT_ERROR(with(targets() + 3, kSteps, kLabels), OptionError, "target 4 of sample 0");
  EXPECT_ERROR(with(targets(), kSteps, kLabels, 4), OptionError, "blank is 4");
  EXPECT_ERROR(with(whole({1, 2}), kSteps, {1, 0, 0}), ShapeError, "the sum of target_lengths");
  EXPECT_ERROR(with(targets().narrow(0, 0, 2), kSteps, kLabels), ShapeError, "targets is [2, 3]");
  EXPECT_ERROR(with(targets().to(kFloat32), kSteps, kLabels), DTypeError, "int64");
  EXPECT_ERROR(ctc_loss(lp, targets(), whole({5, 4}), whole(kLabels)), ShapeError,
               "expected int64 [3]");
  EXPECT_ERROR(ctc_loss(lp, targets(), whole(kSteps), whole(kLabels), 0, "max"), OptionError,
               "reduction is \"max\"");
  const Tensor x = logits().requires_grad_();
  EXPECT_ERROR(grad({loss(x, "sum")}, {x}, {}, true, true), AutogradError, "no second derivatives");
}

}  // namespace
}  // namespace dropin
