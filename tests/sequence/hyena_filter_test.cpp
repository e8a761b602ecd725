// The implicit filter of Hyena: positions, kept taps, states and groups of its parameters.
#include <numbers>

#include "dropin/optimizer/optimizer.h"
#include "dropin/sequence/hyena.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

StateDict copy_of(const Module& m) {
  StateDict s;
  for (const auto& [n, t] : m.state_dict()) s.set(n, t.clone());
  return s;
}

TEST(HyenaFilter, TableOfPositionsAsThePaperSays) {
  const HyenaFilter f({.d_model = 3, .l_max = 10, .filter_order = 4, .emb_dim = 5});
  const StateDict s = f.state_dict();
  const Tensor z = s.find("pos_emb.z"), t = s.find("pos_emb.t"),
               deltas = s.find("modulation.deltas");
  ASSERT_EQ(z.sizes(), (Shape{1, 10, 5}));
  ASSERT_EQ(t.sizes(), (Shape{1, 10, 1}));
  for (int64_t p = 0; p < 10; ++p) {
    const double w = 2 * std::numbers::pi * static_cast<double>(p) / 10;
    testing::expect_values(z[0][p],
                           {static_cast<double>(p) / 9, std::cos(1e-4 * w), std::cos(w),
                            -std::sin(1e-4 * w), -std::sin(w)},
                           1e-6);
    EXPECT_NEAR(t[0][p].item(), static_cast<double>(p) / 9, 1e-7);
  }
  testing::expect_values(deltas.reshape({3}),
                         {std::log(0.01) / 1.5, (std::log(0.01) / 1.5 + std::log(0.01) / 0.3) / 2,
                          std::log(0.01) / 0.3},
                         1e-5);
  EXPECT_NEAR(deltas[0][0][0].item(), -3.0701, 1e-4);
  EXPECT_NEAR(deltas[0][0][2].item(), -15.3506, 1e-4);
  EXPECT_EQ(s.find("implicit_filter.1.freq").sizes(), (Shape{1, 4}));
  EXPECT_EQ(s.find("implicit_filter.6.weight").sizes(), (Shape{3, 4}));
  EXPECT_FALSE(s.contains("implicit_filter.6.bias"));
  EXPECT_FALSE(s.contains("implicit_filter.3.freq"));
}

TEST(HyenaFilter, PositionsAreSlicedNotRescaled) {
  const HyenaFilter f({.d_model = 3, .l_max = 20, .filter_order = 4});
  EXPECT_LT(max_difference(f.filter(7), f.filter(20).narrow(0, 0, 7)), 1e-6);
}

TEST(HyenaFilter, KeepsItsFilterUntilAParameterChanges) {
  HyenaFilter f({.d_model = 8, .l_max = 64, .filter_order = 4});
  f.eval();
  const Tensor x = random({2, 8, 64}, kFloat32);
  no_grad guard;
  const Tensor first = f(x);
  ASSERT_TRUE(f.taps(64)[0].spectrum.defined());
  EXPECT_TRUE(f.taps(64)[0].spectrum.is_same(f.taps(64)[0].spectrum)) << "made once";
  EXPECT_EQ(max_difference(f(x), first), 0);
  for (auto& [n, p] : f.named_parameters()) {
    const Tensor before = p.clone(), kept = f.taps(64)[0].k;
    p.add_(0.5);
    EXPECT_GT(max_difference(f(x), first), 1e-6) << n << " changed, the filter did not";
    p.copy_(before);
    EXPECT_LT(max_difference(f(x), first), 1e-6) << n;
  }
  EXPECT_EQ(f(x.narrow(2, 0, 40)).sizes(), (Shape{2, 8, 40}));
  EXPECT_LT(max_difference(f(x), first), 1e-6) << "after another length";
  {
    enable_grad on;
    EXPECT_FALSE(f.taps(64)[0].spectrum.defined()) << "recorded: made anew";
    Tensor loss = sum(f(x));
    loss.backward();
    for (auto& [n, p] : f.named_parameters()) EXPECT_TRUE(p.grad().defined()) << n;
  }
}

TEST(HyenaFilter, ALengthOfOneIsLegal) {
  HyenaFilter f({.d_model = 2, .l_max = 1, .filter_order = 4});
  const Tensor x = random({1, 2, 1}, kFloat32), y = f(x);
  const Tensor want = x.reshape({2}) * (f.filter(1).reshape({2}) + f.state_dict().find("bias"));
  EXPECT_LT(max_difference(y.reshape({2}), want), 1e-6);
  HyenaOperator h({.d_model = 4, .l_max = 1});
  EXPECT_EQ(h(random({2, 1, 4}, kFloat32)).sizes(), (Shape{2, 1, 4}));
}

TEST(HyenaOperator, RepeatedFrequenciesOfACheckpointMustAgree) {
  HyenaOperator h({.d_model = 4, .l_max = 8, .filter_order = 4});
  StateDict s = copy_of(h);
  const Tensor freq = s.find("filter_fn.implicit_filter.1.freq");
  s.set("filter_fn.implicit_filter.3.freq", freq.clone());
  s.set("filter_fn.implicit_filter.5.freq", freq.clone());
  const LoadReport r = h.load_state_dict(s);
  EXPECT_EQ(r.renamed.size(), 2u);
  s.set("filter_fn.implicit_filter.5.freq", freq + 1.0);
  EXPECT_ERROR(h.load_state_dict(s), StateError,
               "filter_fn.implicit_filter.5.freq differs from filter_fn.implicit_filter.1.freq");
  s.set("filter_fn.implicit_filter.5.freq", freq.clone());
  s.set("filter_fn.implicit_filter.7.freq", freq.clone());  // there is no such sine
  EXPECT_ERROR(h.load_state_dict(s), StateError, "unexpected: filter_fn.implicit_filter.7.freq");
}

TEST(HyenaOperator, SkipCoefficientsWithoutBiasExistAndRest) {
  HyenaOperator h({.d_model = 4, .l_max = 8, .bias = false});
  const Tensor x = random({1, 8, 4}, kFloat32), y = h(x);
  sum(square(y)).backward();
  for (auto& [n, p] : h.named_parameters())
    if (n == "filter_fn.bias") {
      EXPECT_FALSE(p.grad().defined() && amax(abs(p.grad())).item() != 0);
      no_grad guard;
      p.fill_(100);
    }
  EXPECT_EQ(max_difference(h(x).detach(), y.detach()), 0);
}

TEST(HyenaOperator, TableOfPositionsIsABufferWhenItDoesNotLearn) {
  const HyenaOperator a({.d_model = 4, .l_max = 8}), b({.d_model = 4, .l_max = 8, .lr_pos_emb = 0});
  auto has = [](const std::vector<std::pair<std::string, Tensor>>& list) {
    for (const auto& [n, t] : list)
      if (n == "filter_fn.pos_emb.z") return true;
    return false;
  };
  EXPECT_TRUE(has(a.named_parameters()));
  EXPECT_FALSE(has(a.named_buffers()));
  EXPECT_FALSE(has(b.named_parameters()));
  EXPECT_TRUE(has(b.named_buffers()));
}

TEST(HyenaOperator, GroupsCoverEveryParameterOnceWithTheHints) {
  HyenaOperator h({.d_model = 4, .l_max = 8, .lr = 0.02, .wd = 0.1, .lr_pos_emb = 1e-4});
  const auto groups = h.param_groups();
  std::size_t count = 0;
  for (const auto& g : groups) count += g.params.size();
  EXPECT_EQ(count, h.parameters().size());
  AdamW optimizer(groups.back().params, {.lr = 0.5, .weight_decay = 0.3});
  for (std::size_t i = 0; i + 1 < groups.size(); ++i)
    optimizer.add_param_group(groups[i].params,
                              groups[i].options);  // refuses a parameter held twice
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].options.dump(), R"({"lr":0.02,"weight_decay":0.1})");
  EXPECT_EQ(groups[1].options.dump(), R"({"lr":1e-04,"weight_decay":0.0})");
  EXPECT_EQ(groups[1].params.size(), 1u);
}

}  // namespace
}  // namespace dropin
