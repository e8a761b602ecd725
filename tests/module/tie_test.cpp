// One tensor under two names: listed once, updated once, saved twice, tied in copies.
#include "dropin/embedding/embedding.h"
#include "dropin/module/sequential.h"
#include "dropin/projection/linear.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;

struct TiedNet : Module {
  Child<Embedding> embedding;
  Child<Linear> head;
  explicit TiedNet(bool tied = true) {
    embedding = child<Embedding>("embedding", {.num_embeddings = 5, .embedding_dim = 3});
    head = child<Linear>("head", {.in_features = 3, .out_features = 5, .bias = false});
    if (tied) tie();
  }
  void tie() { head.as()->weight() = embedding.as()->weight(); }
  Tensor& weight() { return embedding.as()->weight(); }
  Tensor& head_weight() { return head.as()->weight(); }
  std::string_view type() const override { return "TiedNet"; }
  Box<Module> make_like() const override { return Box<Module>(new TiedNet(makes_tied)); }
  bool makes_tied = false;  ///< what a copy's constructor does before the state is copied
};
TiedNet& as_net(Module& m) { return dynamic_cast<TiedNet&>(m); }

TEST(Tie, IsListedOnceAndSavedUnderBothNames) {
  TiedNet net;
  EXPECT_EQ(net.parameters().size(), 1u);
  EXPECT_EQ(net.num_parameters(), 15);
  ASSERT_EQ(net.named_parameters().size(), 1u);
  EXPECT_EQ(net.named_parameters()[0].first, "embedding.weight");
  ASSERT_EQ(net.named_parameters(false).size(), 2u);
  EXPECT_EQ(net.named_parameters(false)[1].first, "head.weight");
  EXPECT_EQ(net.state_dict().size(), 2u);
}

TEST(Tie, EveryOptimizerUpdatesItOnce) {
  for (const ComponentInfo& c : registry().all()) {
    if (c.kind != ComponentKind::Optimizer) continue;
    TiedNet net, plain(false);
    {
      no_grad guard;
      plain.weight().copy_(net.weight());
    }
    const Json options = Json::parse(R"({"lr": 0.1})");
    auto one = c.make_optimizer(net.parameters(), options),
         two = c.make_optimizer({plain.weight()}, options);
    net.weight().set_grad(ones({5, 3}));
    plain.weight().set_grad(ones({5, 3}));
    for (int64_t i = 0; i < one->stages(); ++i) {
      one->step();
      two->step();
    }
    EXPECT_EQ(max_difference(net.weight(), plain.weight()), 0) << c.name;
    EXPECT_ERROR(c.make_optimizer({net.weight(), net.head_weight()}, options), OptionError,
                 "parameter 1 is the same tensor as parameter 0, which is in the same group");
    EXPECT_ERROR(one->add_param_group({ones({2}), net.head_weight()}), OptionError,
                 "parameter 2 is the same tensor as parameter 0; a parameter is in more than one");
    EXPECT_EQ(one->param_groups().size(), 1u);
  }
}

TEST(Tie, CountsOnceWhenClipping) {
  TiedNet net;
  net.weight().set_grad(ones({5, 3}));
  EXPECT_NEAR(clip_grad_norm_(net.parameters(), 1e9), std::sqrt(15.0), 1e-6);
  EXPECT_NEAR(clip_grad_norm_({net.weight(), net.head_weight()}, 1), std::sqrt(15.0), 1e-6);
  EXPECT_NEAR(net.weight().grad().view({-1}).to_vector()[0], 1 / std::sqrt(15.0), 1e-6)
      << "scaled once";
}

TEST(Tie, ClonesKeepItHoweverTheyAreMade) {
  for (const bool source_tied : {true, false})
    for (const bool made_tied : {true, false}) {
      TiedNet net(source_tied);
      net.makes_tied = made_tied;
      auto copy = net.clone();
      TiedNet& c = as_net(*copy);
      EXPECT_EQ(c.weight().is_same(c.head_weight()), source_tied) << made_tied;
      EXPECT_FALSE(c.weight().is_same(net.weight()));
      EXPECT_EQ(max_difference(c.weight(), net.weight()), 0);
      EXPECT_EQ(max_difference(c.head_weight(), net.head_weight()), 0) << made_tied;
    }
  Sequential s;  // it clones its children one by one
  s.add<Linear>({.in_features = 3, .out_features = 3})
      .add<Linear>({.in_features = 3, .out_features = 3});
  auto linear = [](Module& m, std::size_t i) {
    return dynamic_cast<Linear*>(m.children()[i].second);
  };
  linear(s, 1)->weight() = linear(s, 0)->weight();
  auto copy = s.clone();
  EXPECT_TRUE(linear(*copy, 1)->weight().is_same(linear(*copy, 0)->weight()));
  EXPECT_FALSE(linear(*copy, 1)->bias().is_same(linear(*copy, 0)->bias()));
}

TEST(Tie, ConversionAndGradientsKeepIt) {
  TiedNet net;
  net.to(kFloat64);
  EXPECT_TRUE(net.weight().is_same(net.head_weight()));
  EXPECT_EQ(net.head_weight().dtype(), kFloat64);
  net.weight().set_grad(ones({5, 3}, kFloat64));
  net.zero_grad();
  EXPECT_FALSE(net.head_weight().grad().defined());
}

TEST(Tie, LoadingTwoValuesKeepsTheLastAndSaysSo) {
  TiedNet net;
  const LoadReport same =
      net.load_state_dict({{"embedding.weight", ones({5, 3})}, {"head.weight", ones({5, 3})}});
  EXPECT_TRUE(same.tied.empty());
  const LoadReport two = net.load_state_dict(
      {{"head.weight", full({5, 3}, 2)}, {"embedding.weight", full({5, 3}, 1)}});
  ASSERT_EQ(two.tied.size(), 1u);
  EXPECT_EQ(two.tied[0],
            "embedding.weight and head.weight are one tensor, and their values differ; that of "
            "head.weight is kept");
  expect_values(net.weight().detach(), std::vector<double>(15, 2.0));
  EXPECT_TRUE(net.weight().is_same(net.head_weight()));
}

TEST(Tie, SwapsKeepIt) {
  TiedNet net;
  swap(net, "Linear", "BitLinear");
  EXPECT_EQ(net.state_dict().find("head.weight").data_ptr(), net.weight().data_ptr());
  EXPECT_TRUE(net.named_parameters(false)[1].second.is_same(net.weight()));
  swap(net, "Embedding", "StableEmbedding");
  EXPECT_TRUE(net.named_parameters(false).back().second.is_same(net.named_parameters()[0].second));
}

}  // namespace
}  // namespace dropin
