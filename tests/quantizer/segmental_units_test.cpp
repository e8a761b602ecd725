// SegmentalUnitQuantizer: straight through and not, moving averages, jitter, units; bad input.
#include "dropin/quantizer/vector_quantizer.h"
#include "support.h"

namespace dropin::testing {
namespace {

using Ids = std::vector<int64_t>;
SegmentalUnitQuantizer quantizer(SegmentalUnitQuantizerOptions o = {}) {
  o.num_embeddings = 5;
  o.embedding_dim = 3;
  manual_seed(4);
  return SegmentalUnitQuantizer(o);
}
Tensor codes(const Module& m) { return m.state_dict().find("embedding.weight"); }
Tensor lengths(const Ids& v) { return tensor(v); }

TEST(SegmentalUnitQuantizer, TakesTheNearestCodeAndTheFirstOnTies) {
  SegmentalUnitQuantizer q = quantizer();
  q.eval();
  codes(q).select(0, 3).copy_(codes(q).select(0, 1));
  const Tensor x = random({2, 40, 3}, kFloat32);
  const Quantized r = q(x);
  const Tensor far = sum(square(x.unsqueeze(2) - codes(q)), {3});
  EXPECT_EQ(max_difference(r.indices, argmin(far, 2)), 0);
  EXPECT_FALSE(any(eq(r.indices, full({}, 3, kInt64))).item<bool>());
  EXPECT_EQ(
      max_difference(r.y, index_select(codes(q), 0, r.indices.reshape({-1})).reshape(x.sizes())),
      0);
  EXPECT_FALSE(r.y.requires_grad());
  const Tensor second = x.transpose(1, 2).contiguous();
  SegmentalUnitQuantizer channels = quantizer({.channel_dim = 1});
  channels.load_state_dict(q.state_dict());
  channels.eval();
  EXPECT_EQ(max_difference(channels(second).y.transpose(1, 2), r.y), 0);
  EXPECT_EQ(max_difference(channels(second).indices, r.indices), 0);
}

TEST(SegmentalUnitQuantizer, GradientsGoStraightThroughInTrainingOnly) {
  SegmentalUnitQuantizer q = quantizer({.commitment_cost = 0.5});
  q.to(kFloat64);
  const Tensor w = random({2, 4, 3});
  for (const bool training : {true, false}) {
    q.train(training);
    Tensor x = random({2, 4, 3}, kFloat64, 3).requires_grad_();
    const Quantized r = q(x, lengths({4, 1}));
    Tensor total = r.loss * 3.0;
    if (training) total = total + sum(r.y * w);
    const Tensor g = grad({total}, {x})[0];
    const Tensor near = index_select(codes(q), 0, r.indices.reshape({-1})).reshape(x.sizes());
    Tensor want = (x.detach() - near) * (3.0 * 2 * 0.5 / (5 * 3));
    want.select(0, 1).narrow(0, 1, 3).zero_();  // padding
    if (training) want = want + w;
    EXPECT_LT(max_difference(g, want), 1e-12) << training;
  }
}

TEST(SegmentalUnitQuantizer, PaddingLeavesNoTrace) {
  SegmentalUnitQuantizer q = quantizer();
  Tensor x = random({2, 4, 3}, kFloat32);
  const Quantized a = q(x, lengths({2, 3}));
  x.select(0, 0).narrow(0, 2, 2).fill_(100);
  const Quantized b = q(x, lengths({2, 3}));
  EXPECT_EQ(a.loss.item(), b.loss.item());
  EXPECT_EQ(a.perplexity.item(), b.perplexity.item());
  const Quantized none = q(x, lengths({0, 0}));
  EXPECT_EQ(none.loss.item(), 0);
  EXPECT_EQ(none.perplexity.item(), 1);
  q.ema_update();  // without frames only the decay acts
  EXPECT_LT(max_difference(codes(q), codes(quantizer())), 1e-5);
}

TEST(SegmentalUnitQuantizer, MovesItsCodesByTheFramesThatCount) {
  SegmentalUnitQuantizer q = quantizer({.decay = 0.8, .eps = 1e-3});
  const Tensor x = random({2, 6, 3}, kFloat32);
  const StateDict before = q.state_dict();
  const VqEma start{before.find("embedding.weight").clone(),
                    before.find("ema_cluster_size").clone(), before.find("ema_w").clone()};
  const Quantized r = q(x, lengths({6, 2}));
  EXPECT_EQ(max_difference(codes(q), start.embedding), 0) << "not inside forward";
  q.ema_update();
  const Tensor kept = tensor(Ids{0, 1, 2, 3, 4, 5, 6, 7});
  const VqEma want = vq_ema_update(index_select(x.reshape({12, 3}), 0, kept),
                                   index_select(r.indices.reshape({12}), 0, kept), start,
                                   {.decay = 0.8, .eps = 1e-3});
  EXPECT_EQ(max_difference(codes(q), want.embedding), 0);
  EXPECT_GT(max_difference(codes(q), start.embedding), 0);
  EXPECT_NEAR(sum(want.ema_cluster_size).item(), 0.8 * 5 + 0.2 * 8, 1e-5) << "eps keeps the mass";
  EXPECT_ERROR(quantizer().ema_update(), StateError, "before a forward");
  q.eval();
  EXPECT_ERROR(q.ema_update(), StateError, "in evaluation");
}

TEST(SegmentalUnitQuantizer, NanGivesTheFirstCodeAndStaysOut) {
  SegmentalUnitQuantizer q = quantizer();
  Tensor x = random({1, 3, 3}, kFloat32);
  x.select(0, 0).select(0, 1).fill_(NAN);
  const Quantized r = q(x);
  EXPECT_EQ(r.indices.to_vector()[1], 0);
  EXPECT_TRUE(std::isnan(r.loss.item()));
  const Tensor before = codes(q).clone();
  EXPECT_ERROR(q.ema_update(), Error, "NaN");
  EXPECT_EQ(max_difference(codes(q), before), 0);
}

TEST(SegmentalUnitQuantizer, JitterTakesNeighboursInTrainingOnly) {
  for (const bool official : {false, true}) {
    SegmentalUnitQuantizer q = quantizer({.jitter = 0.3, .official_jitter = official});
    const Tensor x = random({3, 200, 3}, kFloat32);
    const Quantized r = q(x);
    const Tensor near = index_select(codes(q), 0, r.indices.reshape({-1})).reshape(x.sizes());
    int moved[3] = {};  // taken from frame t - 1, t, t + 1 (official: t, t + 1, t + 2)
    for (int64_t t = 2; t < 198; ++t) {
      const Tensor got = r.y.detach().select(1, t);
      for (int64_t b = 0; b < 3; ++b) {
        bool found = false;
        for (int k = 0; k < 3; ++k) {
          const int64_t from = t + k - (official ? 0 : 1);
          const bool same =
              max_difference(got.select(0, b), near.select(0, b).select(0, from)) == 0;
          moved[k] += same;
          found = found || same;
        }
        EXPECT_TRUE(found);
      }
    }
    EXPECT_GT(moved[0], 100);
    EXPECT_GT(moved[2], 100);
    q.eval();
    EXPECT_EQ(max_difference(q(x).y, near), 0);
  }
}

TEST(SegmentalUnitQuantizer, DeadCodesBecomeFrames) {
  SegmentalUnitQuantizer q = quantizer();
  const Tensor x = ones({1, 4, 3});
  q(x);
  Generator g(1);
  EXPECT_EQ(q.reset_dead_codes(0.5, &g), 0);
  EXPECT_EQ(q.reset_dead_codes(2, &g), 5);
  EXPECT_EQ(max_difference(codes(q), ones({5, 3})), 0);
}

TEST(SegmentalUnitQuantizer, NormalizedCodesIgnoreLengths) {
  SegmentalUnitQuantizer q = quantizer({.normalize = true});
  q.eval();
  const Tensor x = random({2, 30, 3}, kFloat32);
  EXPECT_EQ(max_difference(q(x).indices, q(x * 7.0).indices), 0);
  EXPECT_LT(max_difference(norm(q(x).y, {2}), ones({2, 30})), 1e-6);
}

TEST(SegmentalUnitQuantizer, LoadsTheOfficialNames) {
  SegmentalUnitQuantizer a = quantizer({.nonneg_init = true}), b = quantizer();
  EXPECT_GE(amin(codes(a)).item(), 0);
  StateDict theirs;
  for (const auto& [name, t] : a.state_dict()) theirs.set("_" + name, t);
  EXPECT_EQ(b.load_state_dict(theirs).renamed.size(), 3u);
  EXPECT_EQ(max_difference(codes(a), codes(b)), 0);
}

TEST(VectorQuantizer, TrainsItsCodesByGradient) {
  VectorQuantizer q({.num_embeddings = 4, .embedding_dim = 3, .commitment_cost = 0.5});
  Tensor x = random({2, 5, 3}, kFloat32).requires_grad_();
  const Quantized r = q(x);
  const Tensor weight = q.parameters()[0];
  const Tensors g = grad({r.loss}, {x, weight});
  const Tensor near = index_select(weight.detach(), 0, r.indices.reshape({-1})).reshape(x.sizes());
  EXPECT_LT(max_difference(g[0], (x.detach() - near) * (0.5 * 2 / 30)), 1e-6);
  EXPECT_NEAR(sum(g[1]).item(), sum((near - x.detach()) * (2.0 / 30)).item(), 1e-5);
}

TEST(RunLengthCollapse, CutsAtLengthsAndMapsToTokens) {
  const Tensor indices = tensor(Ids{5, 5, 2, 2, 2, 5, 7, 7, 7, 7, 7, 7}, {2, 6});
  const Units u = run_length_collapse(indices, lengths({5, 0}));
  expect_values(u.units, {5, 2, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1});
  expect_values(u.durations, {2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  expect_values(u.unit_lengths, {2, 0});
  expect_values(run_length_collapse(indices).unit_lengths, {3, 1});
  const Tensor tokens = units_to_tokens(u.units.narrow(1, 0, 3));
  expect_values(tokens, {9, 6, 0, 0, 0, 0});
  expect_values(tokens_to_units(tokens), {5, 2, -1, -1, -1, -1});
  EXPECT_EQ(run_length_collapse(zeros({2, 0}, kInt64)).units.numel(), 0);
}

TEST(Quantizers, RefuseWhatTheyCannotMean) {
  EXPECT_ERROR(SegmentalUnitQuantizer({.num_embeddings = 0}), OptionError, "num_embeddings 0");
  EXPECT_ERROR(SegmentalUnitQuantizer({.decay = 1}), OptionError, "decay is 1");
  EXPECT_ERROR(SegmentalUnitQuantizer({.eps = 0}), OptionError, "eps is 0");
  EXPECT_ERROR(SegmentalUnitQuantizer({.jitter = 0.6}), OptionError, "jitter is 0.6");
  EXPECT_ERROR(SegmentalUnitQuantizer({.channel_dim = 2}), OptionError, "channel_dim is 2");
  SegmentalUnitQuantizer q = quantizer();
  EXPECT_ERROR(q(zeros({2, 4, 2})), ShapeError, "expected [..., 3]");
  EXPECT_ERROR(q(zeros({2, 4, 3}), lengths({5, 0})), IndexError, "sample 0 is 5");
  EXPECT_ERROR(q(zeros({2, 4, 3}), lengths({1})), ShapeError, "lengths are [1]");
  const VqEma table{ones({2, 3}), ones({2}), ones({2, 3})};
  EXPECT_ERROR(vq_ema_update(ones({1, 3}), lengths({2}), table), IndexError, "index 2");
  EXPECT_ERROR(vq_ema_update(ones({1, 2}), lengths({0}), table), ShapeError, "x is [1, 2]");
  EXPECT_ERROR(run_length_collapse(zeros({2, 3})), DTypeError, "expected int64");
}

}  // namespace
}  // namespace dropin::testing
