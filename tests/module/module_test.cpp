// Modules: names, state, modes, cloning, swapping, decoding.
#include <limits>
#include "dropin/activation/activation.h"
#include "dropin/model/convnet.h"
#include "dropin/model/transformer.h"

#include "dropin/module/parameters.h"
#include "dropin/module/sequential.h"
#include "dropin/registry/registry.h"
#include "dropin/sequence/rnn.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

std::vector<std::string> names(const std::vector<std::pair<std::string, Tensor>>& v) {
  std::vector<std::string> r;
  for (auto& [n, t] : v) r.push_back(n);
  return r;
}

TEST(Module, NamesAreDottedAndInOrder) {
  MultiheadAttention m({.embed_dim = 8, .num_heads = 2});
  EXPECT_EQ(names(m.named_parameters()),
            (std::vector<std::string>{"q_proj.weight", "q_proj.bias", "k_proj.weight",
                                      "k_proj.bias", "v_proj.weight", "v_proj.bias",
                                      "out_proj.weight", "out_proj.bias"}));
  EXPECT_EQ(m.num_parameters(), 4 * (64 + 8));
  BatchNorm2d bn({.num_features = 3});
  EXPECT_EQ(names(bn.named_buffers()),
            (std::vector<std::string>{"running_mean", "running_var", "num_batches_tracked"}));
}

TEST(Module, StrictLoadingListsEverythingAndChangesNothing) {
  Linear m({.in_features = 2, .out_features = 3});
  const Tensor before = m.weight().detach().clone();
  try {
    m.load_state_dict({{"weight", zeros({3, 4})}, {"extra", zeros({1})}});
    FAIL();
  } catch (const StateError& e) {
    const std::string s = e.what();
    EXPECT_NE(s.find("missing: bias"), std::string::npos) << s;
    EXPECT_NE(s.find("unexpected: extra"), std::string::npos) << s;
    EXPECT_NE(s.find("weight is [3, 4], expected [3, 2]"), std::string::npos) << s;
  }
  EXPECT_EQ(max_difference(before, m.weight()), 0);
  const LoadReport r = m.load_state_dict({{"weight", ones({3, 2})}}, /*strict=*/false);
  EXPECT_EQ(r.missing, std::vector<std::string>{"bias"});
  expect_values(m.weight().detach(), {1, 1, 1, 1, 1, 1});
}

TEST(Module, LoadsTorchNamesOfAttention) {
  MultiheadAttention m({.embed_dim = 4, .num_heads = 2});
  const Tensor packed = random({12, 4}, kFloat32), bias = random({12}, kFloat32);
  const LoadReport r = m.load_state_dict({{"in_proj_weight", packed},
                                          {"in_proj_bias", bias},
                                          {"out_proj.weight", zeros({4, 4})},
                                          {"out_proj.bias", zeros({4})}});
  EXPECT_EQ(r.renamed.size(), 2u);
  EXPECT_EQ(max_difference(m.state_dict().find("k_proj.weight"), packed.narrow(0, 4, 4)), 0);
  EXPECT_EQ(max_difference(m.state_dict().find("v_proj.bias"), bias.narrow(0, 8, 4)), 0);
}

TEST(Module, ConversionKeepsHandlesAlive) {
  Linear m({.in_features = 2, .out_features = 2});
  Tensor held = m.weight();
  m.to(kFloat64);
  EXPECT_EQ(held.dtype(), kFloat64);
  EXPECT_TRUE(held.is_same(m.weight()));
  EXPECT_TRUE(held.requires_grad());
  EXPECT_EQ(m(zeros({1, 2}, kFloat64)).dtype(), kFloat64);
  EXPECT_ERROR(m.to(kInt64), DTypeError, "floating-point types only");
}

TEST(Module, CloneIsDeepAndKeepsSwappedChildren) {
  Transformer m({.vocab_size = 10, .embed_dim = 8, .num_layers = 1, .num_heads = 2, .max_len = 6});
  swap(m, "LayerNorm", "RMSNorm");
  m.eval();
  const Generator stream = default_generator();
  Box<Module> copy = m.clone();
  EXPECT_EQ(default_generator().offset(), stream.offset())
      << "cloning does not move the random stream";
  EXPECT_EQ(copy->str(), m.str());
  EXPECT_FALSE(copy->is_training());
  const Tensor ids = tensor({1, 2, 3}, {1, 3}, kInt64), before = m(ids).detach();
  EXPECT_EQ(max_difference(copy->call({{"x", ids}}).get("y", "").detach(), before), 0);
  no_grad guard;
  for (auto& p : copy->parameters()) p.zero_();
  EXPECT_EQ(max_difference(m(ids).detach(), before), 0);
}

TEST(Module, MovesKeepReferences) {
  std::vector<MLP> layers;
  for (int i = 0; i < 5; ++i) layers.emplace_back(MLPOptions{.embed_dim = 4});
  EXPECT_EQ(layers[0](zeros({1, 4})).sizes(), (Shape{1, 4}));
}

TEST(Module, PrintsATree) {
  MLP m({.embed_dim = 4, .hidden_dim = 6});
  EXPECT_NE(m.str().find("(fc1): Linear(in_features=4, out_features=6, bias=true)  # 30"),
            std::string::npos)
      << m.str();
}

TEST(Swap, CarriesWhatFitsAndReportsTheRest) {
  Transformer m({.vocab_size = 10, .embed_dim = 8, .num_layers = 2, .num_heads = 2, .max_len = 6});
  const Tensor weight = m.state_dict().find("block0.norm1.weight").clone();
  const SwapReport r = swap(m, "LayerNorm", "RMSNorm", Json::parse(R"({"eps": 0.01})"));
  ASSERT_EQ(r.instances.size(), 5u);
  EXPECT_EQ(r.instances[0].path, "block0.norm1");
  EXPECT_EQ(r.instances[0].carried, std::vector<std::string>{"weight"});
  EXPECT_EQ(r.instances[0].dropped, std::vector<std::string>{"bias"});
  EXPECT_EQ(max_difference(m.state_dict().find("block0.norm1.weight"), weight), 0);
  EXPECT_NE(m.str().find("RMSNorm(normalized_shape=[8], eps=0.01"), std::string::npos);
  m(tensor({1, 2, 3}, {1, 3}, kInt64)).sum().backward();
}

TEST(Swap, RefusesWhatCannotBe) {
  Transformer m({.vocab_size = 10, .embed_dim = 8, .num_layers = 1, .num_heads = 2, .max_len = 6});
  const std::string before = m.str();
  EXPECT_ERROR(swap(m, "LayerNorn", "RMSNorm"), OptionError, "the nearest name is \"LayerNorm\"");
  EXPECT_ERROR(swap(m, "LayerNorm", "Linear"), OptionError, "only members of one family");
  EXPECT_ERROR(swap(m, "GRU", "LSTM"), OptionError, "the model has no GRU");
  EXPECT_ERROR(swap(m, "LayerNorm", "RMSNorm", Json::parse(R"({"epsilon": 1})")), OptionError,
               "unknown option \"epsilon\"; the nearest is \"eps\"");
  EXPECT_EQ(m.str(), before);
}

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

TEST(Parameters, HoldNamedPartsAndAreCloned) {
  Parameters c;
  Tensor& w = c.add("w1", ones({2, 3}));
  c.add_buffer("count", zeros({}, kInt64));
  c.bundle("surm").add("A", ones({2}));
  std::vector<std::string> names;
  for (const auto& [n, t] : c.state_dict()) names.push_back(n);
  EXPECT_EQ(names.size(), 3u);
  EXPECT_TRUE(c.state_dict().contains("surm.A"));
  EXPECT_TRUE(w.requires_grad());
  {
    no_grad guard;
    w.fill_(3);
  }
  const Box<Module> copy = c.clone();
  EXPECT_EQ(copy->state_dict().find("w1")[1][2].item(), 3);
  EXPECT_EQ(copy->named_parameters().size(), 2u);
  EXPECT_FALSE(copy->state_dict().find("w1").is_same(w));
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

TEST(Sequential, CallsAnyFamily) {
  Sequential s;
  s.add<Linear>({.in_features = 4, .out_features = 4})
      .add<GELU>()
      .add<LayerNorm>({.normalized_shape = {4}})
      .add<GRU>({.input_size = 4, .hidden_size = 3});
  EXPECT_EQ(s(zeros({2, 5, 4})).sizes(), (Shape{2, 5, 3}));
  EXPECT_EQ(s.state_dict().find("0.weight").sizes(), (Shape{4, 4}));
  EXPECT_EQ(s.clone()->call({{"x", zeros({2, 5, 4})}}).get("y", "").sizes(), (Shape{2, 5, 3}));
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
