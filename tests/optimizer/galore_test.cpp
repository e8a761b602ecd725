#include "dropin/optimizer/galore.h"

#include <cmath>

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

Tensor gradient(const Shape& s, int step) {
  return random(s, kFloat64, static_cast<std::uint64_t>(100 + step));
}
template <class O>
void train(O& o, const Tensors& ps, int from, int to) {
  for (int i = from; i < to; ++i) {
    for (const Tensor& p : ps) p.set_grad(gradient(p.sizes(), i));
    o.step();
  }
}

TEST(GaLoreAdamW, StepsInTheSubspaceOfItsGradient) {
  Tensor p = random({6, 4}).requires_grad_();
  const Tensor before = p.detach().clone(), g = gradient({6, 4}, 0);
  GaLoreAdamW o({p},
                {.lr = 0.1, .weight_decay = 0.01, .rank = 2, .scale = 0.5, .proj_type = "full"});
  p.set_grad(g);
  o.step();
  const StateDict s = o.state_dict();
  const Tensor left = s.find("state.0.proj.P"), right = s.find("state.0.proj.Q");
  ASSERT_EQ(left.sizes(), (Shape{6, 2}));
  ASSERT_EQ(right.sizes(), (Shape{4, 2}));
  EXPECT_LT(max_difference(matmul(left.mT(), left), eye(2, 2, kFloat64)), 1e-12);
  for (const Tensor& basis : {left, right})
    EXPECT_GT(amin(gather(basis, 0, argmax(abs(basis), 0, true))).item(), 0);
  const Tensor core = matmul(matmul(left.mT(), g), right), m = core * 0.1, v = square(core) * 0.001;
  const Tensor step = m / (sqrt(v) + 1e-6) * (0.1 * std::sqrt(1 - 0.999) / (1 - 0.9));
  const Tensor want = (before - matmul(matmul(left, step), right.mT()) * 0.5) * (1 - 0.1 * 0.01);
  EXPECT_LT(max_difference(p, want), 1e-10);
}

TEST(GaLoreAdamW, CompressesTheSideThatItsKindNames) {
  for (const auto& [kind, tall, wide] : {std::tuple{"std", Shape{5, 2}, Shape{2, 5}},
                                         {"reverse_std", Shape{2, 3}, Shape{3, 2}},
                                         {"left", Shape{2, 3}, Shape{2, 5}},
                                         {"right", Shape{5, 2}, Shape{3, 2}},
                                         {"full", Shape{2, 2}, Shape{2, 2}}}) {
    const Tensor a = random({5, 3}).requires_grad_(), b = random({3, 5}).requires_grad_();
    GaLoreAdamW o({a, b}, {.rank = 2, .proj_type = kind});
    train(o, {a, b}, 0, 1);
    EXPECT_EQ(o.state_dict().find("state.0.exp_avg").sizes(), tall) << kind;
    EXPECT_EQ(o.state_dict().find("state.1.exp_avg").sizes(), wide) << kind;
  }
}

TEST(GaLoreAdamW, ProjectsWhatItIsTold) {
  Tensor a = random({4, 3}).requires_grad_(), b = random({4, 3}).requires_grad_(),
         c = random({7}).requires_grad_();
  GaLoreAdamW o({a, c}, {.rank = 2, .galore_params = std::vector<int64_t>{2}});
  o.add_param_group({b});
  train(o, {a, b, c}, 0, 2);
  const StateDict s = o.state_dict();
  EXPECT_EQ(s.find("state.0.exp_avg").sizes(), (Shape{4, 3}));
  EXPECT_EQ(s.find("state.2.exp_avg").sizes(), (Shape{4, 2}));
  // step, two moments of 12 and of 7; step, proj.Q [3, 2], two moments of 8
  EXPECT_EQ(o.state_bytes(), 3 * 4 + 8 * (2 * 12 + 2 * 7 + 6 + 2 * 8));
}

TEST(NaturalGaLore, MultipliesByTheInverseOfTheHistory) {
  Tensor p = random({3, 5}).requires_grad_();
  const double damping = 0.3;
  NaturalGaLore o(
      {p}, {.lr = 0.01, .rank = 2, .proj_type = "std", .natural_history = 3, .damping = damping});
  Tensor fisher = eye(10, 10, kFloat64) * damping, average = zeros({2, 5}, kFloat64), left;
  Tensors history;
  for (int i = 0; i < 5; ++i) {
    train(o, {p}, i, i + 1);
    if (i == 0) left = o.state_dict().find("state.0.proj.P").clone();
    const Tensor core = matmul(left.mT(), gradient({3, 5}, i)).reshape({10, 1});
    history.push_back(core);
    if (history.size() > 3) history.erase(history.begin());
    Tensor sum_of = fisher;
    for (const Tensor& h : history) sum_of = sum_of + matmul(h, h.mT());
    average = average * 0.9 + solve(sum_of, core).reshape({2, 5}) * 0.1;
    EXPECT_LT(max_difference(o.state_dict().find("state.0.exp_avg"), average), 1e-12) << i;
  }
  EXPECT_EQ(o.state_dict().find("state.0.history").sizes(), (Shape{3, 10}));
}

TEST(NaturalGaLore, ResumesBitByBit) {
  for (const char* svd : {"exact", "randomized"}) {
    const NaturalGaLoreOptions options{.lr = 0.01,
                                       .rank = 2,
                                       .update_proj_gap = 3,
                                       .proj_type = "full",
                                       .natural_history = 4,
                                       .svd = svd};
    const Tensor a = random({20, 14}).requires_grad_(), v = random({5}).requires_grad_();
    NaturalGaLore whole({a, v}, options);
    train(whole, {a, v}, 0, 2);
    const Tensor b = a.detach().clone().requires_grad_(), w = v.detach().clone().requires_grad_();
    NaturalGaLore part({b, w}, options);
    part.load_state_dict(whole.state_dict());
    train(whole, {a, v}, 2, 9);
    train(part, {b, w}, 2, 9);
    EXPECT_EQ(max_difference(a, b), 0) << svd;
    EXPECT_EQ(max_difference(v, w), 0) << svd;
  }
}

TEST(GaLoreAdamW, TheRandomizedSubspaceIsNearTheExactOne) {
  const Tensor low = matmul(random({40, 3}, kFloat64, 1), random({3, 30}, kFloat64, 2)) +
                     random({40, 30}, kFloat64, 3) * 1e-3;
  Tensor bases[2];
  for (const bool exact : {false, true}) {
    Tensor p = zeros({40, 30}, kFloat64).requires_grad_();
    GaLoreAdamW o({p}, {.rank = 3, .proj_type = "left", .svd = exact ? "exact" : "randomized"});
    p.set_grad(low);
    o.step();
    bases[exact] = o.state_dict().find("state.0.proj.P");
  }
  EXPECT_LT(max_difference(bases[0], bases[1]), 1e-5);
}

TEST(GaLoreAdamW, RefreshesOnDemand) {
  Tensor p = random({6, 4}).requires_grad_();
  GaLoreAdamW o({p}, {.rank = 2});
  auto basis = [&] { return o.state_dict().find("state.0.proj.Q").clone(); };
  train(o, {p}, 0, 1);
  const Tensor first = basis();
  train(o, {p}, 1, 2);
  EXPECT_EQ(max_difference(basis(), first), 0);
  o.refresh_projection();
  train(o, {p}, 2, 3);
  EXPECT_GT(max_difference(basis(), first), 1e-3);
}

TEST(GaLoreAdamW, AGradientOfZeroOnlyDecays) {
  Tensor p = random({4, 3}).requires_grad_();
  const Tensor before = p.detach().clone();
  GaLoreAdamW o({p}, {.lr = 0.1, .weight_decay = 0.5, .rank = 2});
  p.set_grad(zeros({4, 3}, kFloat64));
  o.step();
  EXPECT_LT(max_difference(p, before * 0.95), 1e-15);
  EXPECT_EQ(max_difference(o.state_dict().find("state.0.proj.Q"), eye(3, 2, kFloat64)), 0);
}

TEST(GaLoreAdamW, RefusesWhatDoesNotFitAndChangesNothing) {
  Tensor a = random({4, 3}).requires_grad_(), b = random({4, 3}).requires_grad_();
  GaLoreAdamW o({a, b}, {.rank = 2});
  const Tensor before = a.detach().clone();
  a.set_grad(ones({4, 3}, kFloat64));
  b.set_grad(full({4, 3}, std::nan(""), kFloat64));
  EXPECT_ERROR(o.step(), StateError, "gradient of parameter 1 is not finite");
  EXPECT_EQ(max_difference(a, before), 0);
  EXPECT_EQ(o.state_bytes(), 0);
  EXPECT_ERROR(GaLoreAdamW({a}, {.rank = -1}), OptionError, "rank is -1");
  EXPECT_ERROR(GaLoreAdamW({a}, {.update_proj_gap = 0}), OptionError, "update_proj_gap is 0");
  EXPECT_ERROR(GaLoreAdamW({a}, {.proj_type = "both"}), OptionError, "proj_type is \"both\"");
  EXPECT_ERROR(NaturalGaLore({a}, {.natural_history = 0}), OptionError, "natural_history is 0");
  EXPECT_ERROR(NaturalGaLore({a}, {.damping = 0}), OptionError, "damping is 0");
}

}  // namespace
}  // namespace dropin
