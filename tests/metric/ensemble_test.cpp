#include "dropin/metric/ensemble.h"

#include <cmath>

#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

Tensor ids(const std::vector<double>& v) { return tensor(v, kInt64); }
// One member whose probabilities are these.
Tensor sure(const std::vector<double>& p, int64_t rows) {
  return log(tensor(p, {1, rows, static_cast<int64_t>(p.size()) / rows}, kFloat64));
}

TEST(EnsembleMetrics, AreThoseOfTheMeanProbabilities) {
  const Tensor logits = random({3, 40, 5}), y = randint(0, 5, {40}, kInt64);
  const EnsembleMetrics m = ensemble_metrics(logits, y);
  const Tensor p = mean(softmax(logits, 2), {0});
  EXPECT_LT(max_difference(m.probs, p), 1e-12);
  EXPECT_NEAR(m.nll.item(), mean(-log(gather(p, 1, y.unsqueeze(1)))).item(), 1e-12);
  EXPECT_NEAR(m.brier.item(), mean(sum(square(p - one_hot(y, 5).to(kFloat64)), {1})).item(), 1e-12);
  EXPECT_NEAR(m.accuracy.item(), mean((argmax(p, 1) == y).to(kFloat64)).item(), 1e-12);
  EXPECT_NEAR(m.ece.item(), m.oe.item() + m.ue.item(), 1e-12);
}

TEST(EnsembleMetrics, BinsAreHalfOpenAndTheLastIsClosed) {
  // confidences 0.5 (on an edge: the upper bin), 0.6, 0.8 and 1; right, wrong, wrong, right
  const Tensor z = sure({0.5, 0.5, 0.4, 0.6, 0.2, 0.8, 1, 0}, 4), y = ids({0, 0, 0, 0});
  const EnsembleMetrics m = ensemble_metrics(z, y, {.num_bins = 4});
  EXPECT_NEAR(m.ece.item(), (std::abs(1.1 - 1) + std::abs(1.8 - 1)) / 4, 1e-12);
  const EnsembleMetrics fine = ensemble_metrics(z, y, {.num_bins = 20});
  EXPECT_NEAR(fine.ece.item(), (0.5 + 0.6 + 0.8 + 0) / 4, 1e-12);
  EXPECT_NEAR(fine.oe.item(), (0.6 + 0.8) / 4, 1e-12);
  EXPECT_NEAR(fine.ue.item(), 0.5 / 4, 1e-12);
}

TEST(EnsembleMetrics, TheFirstOfEqualsIsPredictedAndImpossibleTargetsCostEverything) {
  const EnsembleMetrics tie = ensemble_metrics(zeros({2, 1, 3}), ids({0}));
  EXPECT_EQ(tie.accuracy.item(), 1);
  EXPECT_EQ(ensemble_metrics(sure({1, 0}, 1), ids({1})).nll.item(), INFINITY);
  Tensor z = zeros({1, 2, 2});
  z[0][0][0].fill_(std::nan(""));
  const EnsembleMetrics m = ensemble_metrics(z, ids({0, 1}));
  EXPECT_TRUE(std::isnan(m.nll.item()) && std::isnan(m.ece.item()));
}

TEST(EnsembleMetrics, OfOneLogitIsOfTwo) {
  const Tensor z = random({2, 7}), y = ids({0, 1, 1, 0, 1, 0, 0});
  const EnsembleMetrics one = ensemble_metrics(z, y, {.binary = true}),
                        two = ensemble_metrics(stack({zeros_like(z), z}, 2), y);
  EXPECT_LT(max_difference(one.probs, two.probs), 1e-12);
  EXPECT_NEAR(one.ece.item(), two.ece.item(), 1e-12);
}

TEST(EnsembleMetrics, RefusesWhatDoesNotFitInWords) {
  const Tensor z = zeros({2, 3, 4});
  EXPECT_ERROR(ensemble_metrics(z, ids({0, 1, 4})), IndexError, "target holds 4");
  EXPECT_ERROR(ensemble_metrics(z, ids({0})), ShapeError, "target is [1], expected [3]");
  EXPECT_ERROR(ensemble_metrics(z, ids({0, 1, 2}), {.num_bins = 0}), OptionError, "num_bins is 0");
  EXPECT_ERROR(ensemble_metrics(zeros({0, 3, 4}), ids({0, 1, 2})), ShapeError, "a member");
}

}  // namespace
}  // namespace dropin
