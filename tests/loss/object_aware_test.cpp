#include "dropin/loss/object_aware.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dropin/ops/assignment.h"
#include "dropin/ops/normalize.h"
#include "kernels/hd.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

double cost_of(const Tensor& cost, const std::vector<int64_t>& rows) {
  double sum = 0;
  for (std::size_t c = 0; c < rows.size(); ++c)
    if (rows[c] >= 0) sum += cost[rows[c]][static_cast<int64_t>(c)].item();
  return sum;
}

TEST(Hungarian, EqualsEveryOrderTriedOut) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const Tensor cost = random({5, 3}, kFloat64, seed);
    std::vector<int64_t> order(5);
    std::iota(order.begin(), order.end(), 0);
    double best = INFINITY;
    do {
      best = std::min(best, cost_of(cost, {order[0], order[1], order[2]}));
    } while (std::next_permutation(order.begin(), order.end()));
    EXPECT_NEAR(cost_of(cost, hungarian(cost).to_vector<int64_t>()), best, 1e-12) << seed;
    const std::vector<int64_t> wide = hungarian(cost.mT()).to_vector<int64_t>();
    EXPECT_EQ(std::count(wide.begin(), wide.end(), -1), 2);
    EXPECT_NEAR(cost_of(cost.mT(), wide), best, 1e-12) << seed;
  }
}

TEST(Hungarian, TakesEmptyAndRefusesNan) {
  EXPECT_EQ(hungarian(zeros({3, 0})).numel(), 0);
  expect_values(hungarian(zeros({0, 2})), {-1, -1});
  EXPECT_ERROR(hungarian(tensor({0, NAN}, {1, 2})), OptionError, "cost at [0, 1] is nan");
  EXPECT_ERROR(hungarian(tensor({INFINITY}, {1, 1})), OptionError, "expected finite numbers");
  EXPECT_ERROR(hungarian(zeros({3})), ShapeError, "expected [R, C]");
}

TEST(BoxSetLoss, OfTheTargetsThemselvesIsTheirEps) {
  const Tensor boxes = tensor({0.3, 0.4, 0.2, 0.1, 0.6, 0.6, 0.3, 0.3}, {1, 2, 4}, kFloat64),
               mask = ones({1, 2}, kBool);
  const Tensor pred =
      concat({boxes.narrow(1, 1, 1), full({1, 1, 4}, 0.5, kFloat64), boxes.narrow(1, 0, 1)}, 1);
  const BoxSetLosses standard = box_set_loss(pred, boxes, mask, {.iou_eps = 0});
  EXPECT_NEAR(standard.y.item(), 0, 1e-12);
  expect_values(standard.matched, {2, 0});
  const double a = 0.02, b = 0.09, e = 1e-4;
  EXPECT_NEAR(box_set_loss(pred, boxes, mask).y.item(), (2 - a / (a + e) - b / (b + e)), 1e-12);
}

TEST(BoxSetLoss, DistantBoxesAreWorseThanDisjoint) {
  auto loss = [](double x) {
    return box_set_loss(tensor({0.1, 0.5, 0.1, 0.1}, {1, 1, 4}, kFloat64),
                        tensor({x, 0.5, 0.1, 0.1}, {1, 1, 4}, kFloat64), ones({1, 1}, kBool),
                        {.l1_weight = 0, .giou_weight = 1, .iou_eps = 0})
        .y.item();
  };
  EXPECT_NEAR(loss(0.3), 1 + 0.1 / 0.3, 1e-12);
  EXPECT_GT(loss(0.8), loss(0.3));
}

TEST(BoxSetLoss, WithoutTargetsIsZeroWithAGradientOfZero) {
  Tensor pred = sigmoid(random({2, 3, 4})).detach().requires_grad_();
  const BoxSetLosses r =
      box_set_loss(pred, full({2, 2, 4}, std::nan(""), kFloat64), zeros({2, 2}, kBool));
  r.y.backward();
  EXPECT_EQ(r.y.item(), 0);
  EXPECT_EQ(amax(abs(pred.grad())).item(), 0);
  expect_values(r.matched, {-1, -1, -1, -1});
}

TEST(BoxSetLoss, RefusesWhatDoesNotFitInWords) {
  const Tensor pred = full({1, 1, 4}, 0.5), two = full({1, 2, 4}, 0.5);
  EXPECT_ERROR(box_set_loss(pred, two, ones({1, 2}, kBool)), ShapeError,
               "sample 0 has 2 targets, expected at most 1");
  EXPECT_ERROR(box_set_loss(pred, two * 0.0, ones({1, 2}, kBool)), OptionError,
               "width and height positive");
  EXPECT_ERROR(box_set_loss(pred, pred, ones({1, 1})), DTypeError, "box_mask is float32");
  EXPECT_ERROR(box_set_loss(full({1, 1, 4}, std::nan("")), pred, ones({1, 1}, kBool)), OptionError,
               "expected finite numbers");
}

TEST(WordContrastiveLoss, MatchesEachNounToAnObjectOfItsOwn) {
  const Tensor nouns = eye(5, 5, kFloat64);
  // object 0 is noun 2, object 1 is nouns 2 and 3 alike
  const Tensor objects = stack({nouns[2], (nouns[2] + nouns[3]) * 0.5}).unsqueeze(0);
  const Tensor y =
      word_contrastive_loss(nouns, objects, tensor({3, 2}, {1, 2}, kInt64), {.temperature = 0.5});
  auto ce = [](const Tensor& o, const Tensor& all, int64_t target) {
    const Tensor logits = matmul(all, o / norm(o)) * 2.0;
    return -log_softmax(logits, 0)[target].item();
  };
  EXPECT_NEAR(y.item(), (ce(objects[0][0], nouns, 2) + ce(objects[0][1], nouns, 3)) / 2, 1e-12);
}

TEST(WordContrastiveLoss, SynonymsHardlyCountAndNoNounsCostNothing) {
  const Tensor close = tensor({1, 0, 0.99, 0.1, 0, 1, 0, -1}, {4, 2}, kFloat64),
               object = tensor({1, 0.05}, {1, 1, 2}, kFloat64),
               id = tensor({0 + 1}, {1, 1}, kInt64);
  const Tensor nouns = concat({zeros({1, 2}, kFloat64), close});
  const double with = word_contrastive_loss(nouns, object, id).item(),
               without = word_contrastive_loss(nouns, object, id, {.noun_threshold = 1.5}).item();
  EXPECT_LT(with, 1e-5);
  EXPECT_GT(without, 0.3);
  Tensor o = random({2, 3, 4}).requires_grad_();
  const Tensor none = word_contrastive_loss(random({4, 4}), o, zeros({2, 2}, kInt64));
  EXPECT_EQ(none.item(), 0);
  EXPECT_EQ(
      word_contrastive_loss(random({4, 4}), random({1, 1, 4}), tensor({1, 2, 3}, {1, 3}, kInt64))
          .numel(),
      1)
      << "more nouns than objects";
  EXPECT_ERROR(word_contrastive_loss(random({4, 4}), o, full({2, 1}, 4, kInt64)), IndexError,
               "noun_ids holds 4");
  EXPECT_ERROR(word_contrastive_loss(random({4, 4}), o, zeros({2, 1}, kInt64), {.temperature = 0}),
               OptionError, "temperature is 0");
}

TEST(EgoNCELoss, CountsAllPositivesAlikeInBothDirections) {
  const int64_t v = 3;
  const Tensor text = random({2 * v, 4}), video = random({v, 4}, kFloat64, 2);
  Tensor verbs = zeros({v, v}, kFloat64), nouns = zeros({v, v}, kFloat64);
  verbs[0][2].fill_(0.5), nouns[0][2].fill_(0.5), verbs[1][0].fill_(1);  // only 0 -> 2 in both
  const Tensor mask = tensor({1, 0, 0, 0, 1, 1}, {6}).to(kBool);         // no caption of video 1
  const Tensor s = matmul(normalize(text), normalize(video).mT()) / 0.1;
  const std::vector<int64_t> kept{0, 4, 5};
  double want = 0;
  auto rows = [&](int64_t c) { return log_softmax(s[kept[at(c)]], 0); };
  want -= ((rows(0)[0] + rows(0)[2]).item() / 2 + rows(1)[2].item() + rows(2)[2].item()) / 3;
  auto column = [&](int64_t i) { return log_softmax(stack({s[0][i], s[4][i], s[5][i]}), 0); };
  want -= (column(0)[0].item() + sum(column(2)).item() / 3) / 2;  // video 1 has no positive
  EXPECT_NEAR(ego_nce_loss(text, video, verbs, nouns, mask, {.temperature = 0.1}).item(), want,
              1e-10);
  EXPECT_EQ(ego_nce_loss(text, video, verbs, nouns, zeros({6}, kBool)).item(), 0);
  EXPECT_ERROR(ego_nce_loss(random({5, 4}), video, verbs, nouns), ShapeError, "[V R, E]");
  EXPECT_ERROR(ego_nce_loss(text, video, verbs, zeros({2, 2})), ShapeError, "noun_sim is [2, 2]");
}

}  // namespace
}  // namespace dropin
