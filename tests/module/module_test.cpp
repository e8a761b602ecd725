// Modules: names, state, modes, cloning, swapping, decoding.
#include "dropin/activation/activation.h"
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

TEST(Sequential, TakesItsLayersInTheConstructor) {
  Sequential m(Linear({.in_features = 3, .out_features = 4}), ReLU(),
               Sequential(Linear({.in_features = 4, .out_features = 2})));
  EXPECT_EQ(m.state_dict().get("2.0.weight", "m").sizes(), (Shape{2, 4}));
  const Tensor x = randn({5, 3}), w = m.get_parameter("0.weight"), b = m.get_parameter("0.bias");
  const Tensor h = relu(linear(x, w, b));
  EXPECT_TRUE(
      allclose(m(x), linear(h, m.get_parameter("2.0.weight"), m.get_parameter("2.0.bias"))));
  Sequential moved(std::move(m));
  EXPECT_EQ(moved.children().size(), 3u);
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

}  // namespace
}  // namespace dropin
