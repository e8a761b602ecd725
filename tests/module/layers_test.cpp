// What single layers promise: transformers, norms, attention, activations.
#include <limits>

#include "dropin/activation/activation.h"
#include "dropin/model/transformer.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

TEST(Transformer, StepEqualsForward) {
  for (const char* positions : {"none", "half"}) {
    manual_seed(1);
    Transformer m({.vocab_size = 11,
                   .embed_dim = 8,
                   .num_layers = 2,
                   .num_heads = 2,
                   .max_len = 8,
                   .rope = positions});
    m.eval();
    Generator g(2);
    const Tensor ids = randint(0, 11, {2, 7}, kInt64, &g);
    const Tensor all = m(ids).detach();
    TransformerState s = m.init_state(2);
    const Tensor first = m.step(ids.narrow(1, 0, 3), s);
    EXPECT_LT(max_difference(first, all.narrow(1, 0, 3)), 1e-5);
    for (int64_t t = 3; t < 7; ++t)
      EXPECT_LT(max_difference(m.step(ids.narrow(1, t, 1), s), all.narrow(1, t, 1)), 1e-5);
    if (positions == std::string("none"))
      EXPECT_ERROR(m(randint(0, 11, {1, 9})), ShapeError, "max_len");
  }
}

// Prompts of different lengths in one batch, beams and tokens taken back: each entry is as if
// alone.
TEST(Transformer, StatesAreSelectedTakenBackAndPadded) {
  for (const char* rope : {"none", "half"}) {
    Transformer m({.vocab_size = 9,
                   .embed_dim = 8,
                   .num_layers = 2,
                   .num_heads = 2,
                   .max_len = 12,
                   .rope = rope});
    m.eval();
    no_grad guard;
    const Tensor ids = randint(0, 9, {2, 6});
    const Tensor pad = tensor({1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {2, 6}, kBool);
    TransformerState s = m.init_state(2, {.keep = 2});
    const Tensor y = m.step(ids, s, {.key_padding_mask = pad});
    EXPECT_LT(
        max_difference(y.narrow(0, 0, 1).narrow(1, 2, 4), m(ids.narrow(0, 0, 1).narrow(1, 2, 4))),
        1e-5);
    EXPECT_LT(max_difference(y.narrow(0, 1, 1), m(ids.narrow(0, 1, 1))), 1e-5);
    TransformerState beams = s.select({0, 0, 1});
    const Tensor next = randint(0, 9, {3, 2});
    const Tensor z = m.step(next, beams);
    const Tensor whole = concat({ids.narrow(0, 0, 1).narrow(1, 2, 4), next.narrow(0, 1, 1)}, 1);
    EXPECT_LT(max_difference(z.narrow(0, 1, 1), m(whole).narrow(1, 4, 2)), 1e-5) << rope;
    beams.rollback(2);
    EXPECT_EQ(beams.length(), 6);
    EXPECT_LT(max_difference(m.step(next, beams), z), 1e-6);
    TransformerState copy = s.clone();
    m.step(ids.narrow(1, 0, 1), copy);
    EXPECT_EQ(s.length(), 6);
    EXPECT_ERROR(m.step(zeros({3, 1}, kInt64), s), ShapeError, "ids have batch 3, the state 2");
    EXPECT_ERROR(s.rollback(7), StateError, "");
    EXPECT_EQ(s.length(), 6) << "a refusal changes nothing";
  }
}

TEST(BatchNorm, RunningStatisticsFollowTheFormula) {
  BatchNorm2d m({.num_features = 1});
  const Tensor x = tensor({1, 2, 3, 6}, {1, 1, 2, 2});
  m(x);
  const StateDict s = m.state_dict();
  EXPECT_NEAR(s.find("running_mean").item(), 0.3, 1e-6);
  EXPECT_NEAR(s.find("running_var").item(), 0.9 + 0.1 * 14.0 / 3, 1e-6);
  EXPECT_EQ(s.find("num_batches_tracked").item(), 1);
  EXPECT_ERROR(m(zeros({1, 1, 1, 1})), ShapeError, "more than 1 value per channel");
  BatchNorm2d average({.num_features = 1, .momentum = std::nullopt});
  average(x);
  average(x * 3.0);
  EXPECT_NEAR(average.state_dict().find("running_mean").item(), 6, 1e-5) << "mean of 3 and 9";
  average.eval();
  average(x);
  EXPECT_NEAR(average.state_dict().find("running_mean").item(), 6, 1e-5);
}

TEST(Attention, FullyMaskedRowsGiveTheBiasAndNoGradient) {
  MultiheadAttention m({.embed_dim = 4, .num_heads = 2});
  m.to(kFloat64);
  Tensor x = random({2, 3, 4}).requires_grad_();
  const Tensor pad = tensor({0, 0, 1, 1, 1, 1}, {2, 3}, kBool);
  const Tensor y = m.forward(x, {.key_padding_mask = pad});
  EXPECT_LT(max_difference(y[1], m.state_dict().find("out_proj.bias").expand({3, 4})), 1e-12);
  sum(y[1]).backward();
  EXPECT_EQ(sum(abs(x.grad())).item(), 0);
}

TEST(Attention, MaskedNonFiniteValuesDoNotLeak) {
  Tensor q = random({1, 1, 3, 2}), k = random({1, 1, 3, 2}, kFloat64, 2),
         v = random({1, 1, 3, 2}, kFloat64, 3).clone();
  const Tensor clean = attention(q, k, v, {.causal = true});
  v.select(2, 2).fill_(std::nan(""));
  const Tensor y = attention(q, k, v, {.causal = true});
  EXPECT_EQ(max_difference(y.narrow(2, 0, 2), clean.narrow(2, 0, 2)), 0);
  EXPECT_TRUE(std::isnan(y.select(2, 2).to_vector()[0]));
}

TEST(Activation, OptionsAndLimitsAsTorch) {
  const Tensor x = tensor(std::vector<double>{-2, -0.5, 0, 0.5, 3}, kFloat64);
  testing::expect_values(CELU({.alpha = -0.7})(x),
                         {-0.7 * std::expm1(2 / 0.7), -0.7 * std::expm1(0.5 / 0.7), 0, 0.5, 3},
                         1e-12);
  testing::expect_values(ELU({.alpha = 2})(x),
                         {2 * std::expm1(-2), 2 * std::expm1(-0.5), 0, 0.5, 3}, 1e-12);
  testing::expect_values(Softplus({.beta = 2, .threshold = 4})(x),
                         {std::log1p(std::exp(-4.0)) / 2, std::log1p(std::exp(-1.0)) / 2,
                          std::log(2) / 2, std::log1p(std::exp(1.0)) / 2, 3},
                         1e-12);
  testing::expect_values(Hardshrink({.lambda = 0.5})(x), {-2, 0, 0, 0, 3});
  testing::expect_values(Softshrink({.lambda = 0.25})(x), {-1.75, -0.25, 0, 0.25, 2.75});
  testing::expect_values(Threshold({.threshold = 0.5, .value = 9})(x), {9, 9, 9, 9, 3});
  testing::expect_values(Hardtanh({.min_val = -1, .max_val = 0.5})(x), {-1, -0.5, 0, 0.5, 0.5});
  testing::expect_values(
      Mish()(x),
      {-2 * std::tanh(std::log1p(std::exp(-2.0))), -0.5 * std::tanh(std::log1p(std::exp(-0.5))), 0,
       0.5 * std::tanh(std::log1p(std::exp(0.5))), 3 * std::tanh(std::log1p(std::exp(3.0)))},
      1e-12);
  EXPECT_ERROR(Hardtanh({.min_val = 1, .max_val = 1}), OptionError, "Hardtanh: min_val");
  EXPECT_ERROR(CELU({.alpha = 0}), OptionError, "CELU: alpha is 0");
  const Tensor far = tensor(std::vector<double>{-INFINITY, INFINITY}, kFloat32).requires_grad_();
  sum(Hardswish()(far)).backward();
  testing::expect_values(far.grad(), {0, 1});
}

TEST(Norm, SizesAreANumberOrAList) {
  const Tensor x = testing::random({2, 3, 4}, kFloat64);
  EXPECT_EQ(make("LayerNorm", Json::parse(R"({"normalized_shape": 4})"))->options_json().dump(),
            LayerNorm({.normalized_shape = 4}).options_json().dump());
  RMSNorm two({.normalized_shape = {3, 4}});
  const Tensor want =
      x / sqrt(mean(square(x), {1, 2}, true) + std::numeric_limits<double>::epsilon());
  EXPECT_LT(testing::max_difference(two(x), want), 1e-12);
  EXPECT_ERROR(two(testing::random({3, 5})), ShapeError, "RMSNorm: x is [3, 5]");
  EXPECT_ERROR(RMSNorm(RMSNormOptions{}), OptionError, "normalized_shape is required");
}

TEST(Conv1d, TakesTorchsListsOfOne) {
  EXPECT_EQ(
      make(
          "Conv1d",
          Json::parse(
              R"({"in_channels": 2, "out_channels": 3, "kernel_size": [3], "stride": [2], "padding": [1]})"))
          ->call({{"x", testing::random({1, 2, 7}, kFloat32)}})
          .find("y")
          .sizes(),
      (Shape{1, 3, 4}));
  EXPECT_ERROR(make("Conv1d",
                    Json::parse(R"({"in_channels": 2, "out_channels": 3, "kernel_size": [3, 3]})")),
               OptionError, "Conv1d: option kernel_size is [3,3], expected one number");
}

}  // namespace
}  // namespace dropin
