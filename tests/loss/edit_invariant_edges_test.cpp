// Edges of the edit-invariant loss: masks, impossible targets, noise, bad input.
#include "dropin/loss/sequence_loss.h"
#include "loss/edit_ids.h"
#include "support.h"

namespace dropin::testing {
namespace {

TEST(EditInvariantSequenceLoss, WhatIsMaskedTakesNoPart) {
  Tensor logits = random({2, 4, 5}).clone().requires_grad_();
  {
    no_grad guard;
    logits.select(0, 1).fill_(std::nan(""));
    logits.select(0, 0).select(0, 3).fill_(-HUGE_VAL);
  }
  const Tensor target = ids({1, 2, 3, -100, -100, -100, -100, -100}, {2, 4});
  EditInvariantSequenceLoss(logits, target, {}, {.ce_factor = 1}).loss.backward();
  EXPECT_EQ(max_difference(logits.grad().select(0, 1), zeros({4, 5}, kFloat64)), 0);
  EXPECT_EQ(max_difference(logits.grad().select(0, 0).select(0, 3), zeros({5}, kFloat64)), 0);
  EXPECT_GT(sum(abs(logits.grad())).item(), 0);
  logits.set_grad({});
  const Tensor none = full({2, 4}, -100, kInt64);
  const auto l = EditInvariantSequenceLoss(logits, none, {}, {.ce_factor = 1});
  EXPECT_EQ(l.loss.item(), 0);
  l.loss.backward();
  EXPECT_EQ(max_difference(logits.grad(), zeros({2, 4, 5}, kFloat64)), 0);
  EXPECT_EQ(EditInvariantSequenceLoss(zeros({0, 4, 5}), zeros({0, 4}, kInt64)).loss.item(), 0);
  EXPECT_EQ(EditInvariantSequenceLoss(zeros({2, 4, 5}), zeros({2, 0}, kInt64)).loss.item(), 0);
  const Tensor half = random({1, 3, 4}, kFloat32).to(kBFloat16);
  EXPECT_EQ(EditInvariantSequenceLoss(half, zeros({1, 3}, kInt64)).loss.dtype(), kFloat32);
}

TEST(EditInvariantSequenceLoss, AnImpossibleTargetIsFlooredInTheNgramsOnly) {
  Tensor logits = zeros({1, 2, 3}, kFloat64);
  logits.select(0, 0).select(0, 0).narrow(0, 1, 1).fill_(-HUGE_VAL);
  logits.requires_grad_();
  Options o;
  o.ngrams = {0};
  const auto l = EditInvariantSequenceLoss(logits, ids({1, 1}, {1, 2}), {}, o);
  EXPECT_NEAR(l.ngram_loss.item(), (20 + std::log(3)) / 2, 1e-12);
  EXPECT_EQ(l.ce_loss.item(), HUGE_VAL);
  EXPECT_EQ(l.loss.item(), l.ngram_loss.item());
  l.loss.backward();
  EXPECT_TRUE(all(isfinite(logits.grad())).item<bool>());
}

TEST(EditInvariantSequenceLoss, DrawsItsNoiseInTrainingOnly) {
  const Tensor logits = random({2, 6, 9}),
               target = ids({1, 2, 3, 4, 5, 6, 0, 0, 8, 7, 7, 1}, {2, 6});
  auto loss = [&](bool training, std::uint64_t seed) {
    Generator g(seed);
    EditInvariantArgs args;
    args.training = training;
    args.generator = &g;
    return EditInvariantSequenceLoss(logits, target, args).loss.item();
  };
  EXPECT_EQ(loss(false, 1), loss(false, 2));
  EXPECT_EQ(loss(true, 1), loss(true, 1));
  EXPECT_NE(loss(true, 1), loss(true, 2));
  EXPECT_NE(loss(true, 1), loss(false, 1));
}

TEST(EditInvariantSequenceLoss, RefusesWhatItCannotMean) {
  const Tensor logits = random({2, 3, 4}), target = ids({0, 1, 2, 3, 0, 1}, {2, 3});
  auto with = [&](auto change) {
    Options o;
    change(o);
    EditInvariantSequenceLoss(logits, target, {}, o);
  };
  EXPECT_ERROR(with([](Options& o) { o.ngrams = {}; }), OptionError, "ngrams is empty");
  EXPECT_ERROR(with([](Options& o) { o.weights = {1}; }), OptionError, "1 weights");
  EXPECT_ERROR(with([](Options& o) { o.weights = {1, -1}; }), OptionError, "a weight is -1");
  EXPECT_ERROR(with([](Options& o) { o.weights = {0, 0}; }), OptionError, "all weights are 0");
  EXPECT_ERROR(with([](Options& o) { o.tau = 0; }), OptionError, "tau is 0");
  EXPECT_ERROR(with([](Options& o) { o.min_log_prob = 0; }), OptionError, "min_log_prob is 0");
  EXPECT_ERROR(with([](Options& o) { o.label_smoothing = 1; }), OptionError, "label_smoothing");
  EXPECT_ERROR(with([](Options& o) { o.position = "hard"; }), OptionError, "position is \"hard\"");
  auto loss = [&](const Tensor& x, const Tensor& y, const EditInvariantArgs& args = {},
                  const Options& o = {}) { EditInvariantSequenceLoss(x, y, args, o); };
  EXPECT_ERROR(loss(logits, ids({0, 1, 2, 3, 4, 1}, {2, 3})), IndexError,
               "sample 1 at position 1 is 4");
  EXPECT_ERROR(loss(random({2, 0, 4}), target), ShapeError, "expected [B, T > 0, V > 0]");
  EXPECT_ERROR(loss(random({2, 4, 4}), target, {}, {.ce_factor = 1}), ShapeError, "3 for 4");
  EditInvariantArgs args;
  args.gumbel = zeros({2, 2, 3, 4});
  EXPECT_ERROR(loss(logits, target, args), ShapeError, "gumbel is [2, 2, 3, 4]");
  args.gumbel = full({2, 2, 3, 3}, HUGE_VAL);
  EXPECT_ERROR(loss(logits, target, args), Error, "finite noise");
  Tensor bad = logits.clone();
  bad.select(0, 1).select(0, 2).narrow(0, 0, 1).fill_(std::nan(""));
  EXPECT_ERROR(loss(bad, target), Error, "sample 1 at position 2");
  bad = logits.clone();
  bad.select(0, 0).select(0, 1).fill_(-HUGE_VAL);
  EXPECT_ERROR(loss(bad, target), Error, "sample 0 at position 1");
}

}  // namespace
}  // namespace dropin::testing
