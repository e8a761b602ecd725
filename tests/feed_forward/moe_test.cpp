#include "dropin/feed_forward/moe.h"

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TopKMoEOptions top_k(int64_t k, int64_t experts = 5) {
  TopKMoEOptions o;
  o.d_model = 6;
  o.d_ff = 8;
  o.num_experts = experts;
  o.top_k = k;
  return o;
}
ReMoEOptions rectified(int64_t k = 2) {
  ReMoEOptions o;
  o.d_model = 6;
  o.d_ff = 8;
  o.num_experts = 5;
  o.top_k = k;
  return o;
}

// sum_e gate_te expert_e(x_t) over all experts, by the page.
Tensor dense(const Module& m, const Tensor& gates, const Tensor& x) {
  const StateDict s = m.state_dict();
  const Tensor a = einsum("nd,efd->nef", {x, s.find("experts.w1")}),
               h = silu(a) * einsum("nd,efd->nef", {x, s.find("experts.w3")});
  return einsum("nef,edf,ne->nd", {h, s.find("experts.w2"), gates});
}
Tensor logits_of(const Module& m, const Tensor& x) {
  return matmul(x, m.state_dict().find("router.weight").mT());
}
void wake(Module& m) {  // a router that decides
  no_grad guard;
  m.to(kFloat64);
  for (auto& [name, p] : m.named_parameters())
    if (name == "router.weight") p.copy_(random(p.sizes(), kFloat64, 3));
}

TEST(ReMoE, IsTheSumOverActiveExperts) {
  ReMoEOptions o = rectified();
  o.l1_coeff = 0.25;
  ReMoE m(o);
  wake(m);
  const Tensor x = random({9, 6}), r = relu(logits_of(m, x));
  const MoEResult got = m.route(x);
  EXPECT_LT(max_difference(got.y, dense(m, r, x)), 1e-12);
  EXPECT_LT(max_difference(m.gates(x), r), 1e-12);
  const Tensor n = sum((r > 0.0).to(kFloat64), {0});
  EXPECT_NEAR(got.aux_loss.item(), 0.25 * 5 / (81.0 * 2) * sum(n * sum(r, {0})).item(), 1e-12);
  EXPECT_NEAR(got.sparsity.item(), 1 - sum(n).item() / 45, 1e-12);
  EXPECT_EQ(m.last_load().to_vector(), n.to_vector());
  m.eval();
  EXPECT_EQ(m.route(x).aux_loss.item(), 0);
}

TEST(ReMoE, MaskedTokensTakeNoPart) {
  ReMoE m(rectified());
  wake(m);
  const Tensor x = random({2, 4, 6});
  Tensor mask = zeros({2, 4}, kBool);
  mask[0].narrow(0, 1, 2).fill_(1);
  Tensor dirty = x.clone();
  dirty[0].narrow(0, 1, 2).fill_(std::nan(""));
  const MoEResult got = m.route(dirty, mask);
  EXPECT_EQ(max_difference(got.y[0].narrow(0, 1, 2), zeros({2, 6}, kFloat64)), 0);
  const Tensor real = concat({x[0].narrow(0, 0, 1), x[0].narrow(0, 3, 1), x[1]}, 0);
  const MoEResult alone = m.route(real);
  EXPECT_LT(max_difference(got.y[1], alone.y.narrow(0, 2, 4)), 1e-12);
  EXPECT_NEAR(got.aux_loss.item(), alone.aux_loss.item(), 1e-15);
  EXPECT_NEAR(got.sparsity.item(), alone.sparsity.item(), 1e-15);
  const MoEResult none = m.route(x, ones({2, 4}, kBool));
  EXPECT_EQ(none.y.sizes(), x.sizes());
  EXPECT_EQ(none.aux_loss.item() + none.sparsity.item() + amax(abs(none.y)).item(), 0);
}

TEST(ReMoE, IsContinuousAndTopKIsNot) {
  no_grad guard;
  auto largest_step = [](MixtureOfExperts& m, int64_t steps) {
    const Tensor a = random({1, 6}, kFloat64, 1) * 2.0, b = random({1, 6}, kFloat64, 5) * 2.0,
                 t = linspace(0, 1, steps, kFloat64).unsqueeze(1);
    const Tensor y = m(a + (b - a) * t);
    return amax(norm(y.narrow(0, 1, steps - 1) - y.narrow(0, 0, steps - 1), {-1})).item();
  };
  ReMoE smooth(rectified());
  TopKMoE sharp(top_k(2));
  wake(smooth);
  wake(sharp);
  EXPECT_LT(largest_step(smooth, 10000), largest_step(smooth, 1000) / 8);
  EXPECT_GT(largest_step(sharp, 10000), largest_step(sharp, 1000) / 2);
}

TEST(ReMoE, ATokenWithNaNStaysNaN) {
  ReMoE m(rectified());
  Tensor x = random({4, 6}, kFloat32);
  x[1][2] = std::nan("");
  const Tensor y = m(x);
  EXPECT_FALSE(any(isfinite(y[1])).item<bool>());
  EXPECT_TRUE(all(isfinite(y[0])).item<bool>());
}

TEST(ReMoE, TheCoefficientIsSteeredAndSaved) {
  ReMoEOptions o = rectified();
  o.l1_coeff = 0.5;
  ReMoE m(o);
  m.update_coeff(0.1);  // below 1 - 2 / 5
  EXPECT_NEAR(m.coeff(), 0.6, 1e-6);
  m.update_coeff(0.6f);
  EXPECT_NEAR(m.coeff(), 0.5, 1e-6) << "equal: divided";
  m.set_coeff(0);
  EXPECT_GT(m.coeff(), 0);
  m.set_coeff(1e35);
  EXPECT_NEAR(m.coeff() / 1e30, 1, 1e-6);
  EXPECT_ERROR(m.set_coeff(-1), OptionError, "set_coeff(-1");
  StateDict without = m.state_dict();
  without.take("l1_coeff");
  ReMoE other(o);
  other.load_state_dict(without);
  EXPECT_NEAR(other.coeff(), 0.5, 1e-6) << "a state without it keeps the current value";
  other.load_state_dict(m.state_dict());
  EXPECT_NEAR(other.coeff() / 1e30, 1, 1e-6);
}

TEST(ReMoE, GranularityCutsExperts) {
  ReMoEOptions o = rectified();
  o.granularity = 4;
  ReMoE m(o);
  EXPECT_EQ(m.state_dict().find("experts.w1").sizes(), (Shape{20, 2, 6}));
  EXPECT_EQ(m.last_load().size(0), 20);
}

TEST(TopKMoE, TakesTheMostProbable) {
  for (const bool before : {true, false}) {
    TopKMoEOptions o = top_k(3);
    o.pre_softmax = before;
    TopKMoE m(o);
    wake(m);
    const Tensor x = random({7, 6}), logits = logits_of(m, x), p = softmax(logits, -1);
    const Tensor chosen = logits >= topk(logits, 3).values.narrow(1, 2, 1);
    const Tensor gates = before ? where(chosen, p, 0.0)
                                : softmax(masked_fill(logits, logical_not(chosen), -INFINITY), -1);
    const MoEResult got = m.route(x);
    EXPECT_LT(max_difference(got.y, dense(m, gates, x)), 1e-12);
    EXPECT_NEAR(got.sparsity.item(), 0.4, 1e-12);
    const Tensor n = sum(chosen.to(kFloat64), {0});
    EXPECT_NEAR(got.aux_loss.item(), 0.01 * 5 / (49.0 * 3) * sum(n * sum(p, {0})).item(), 1e-12);
  }
}

TEST(TopKMoE, EqualLogitsTakeTheLowerExperts) {
  TopKMoE m(top_k(2));
  {
    no_grad guard;
    for (auto& [name, p] : m.named_parameters())
      if (name == "router.weight") p.zero_();
  }
  const Tensor g = m.gates(random({3, 6}, kFloat32));
  testing::expect_values(g[0], {0.2, 0.2, 0, 0, 0});
}

TEST(TopKMoE, CapacityDropsTokens) {
  for (const char* policy : {"probs", "position"}) {
    TopKMoEOptions o = top_k(1, 2);
    o.capacity_factor = 0.5;  // ceil(8 / 2 / 2) = 2 tokens each
    o.drop_policy = policy;
    TopKMoE m(o);
    m.to(kFloat64);
    {
      no_grad guard;
      for (auto& [name, p] : m.named_parameters())
        if (name == "router.weight") {
          p.zero_();
          p[0][0] = 1.0;
        }
    }
    Tensor x = zeros({8, 6}, kFloat64);
    x.select(1, 0).copy_(tensor({1, 3, 2, 3, -1, -2, 0.5, -2}, {8}, kFloat64));
    const Tensor gates = m.gates(x);
    std::vector<double> kept;
    for (int64_t t = 0; t < 8; ++t) kept.push_back(sum(gates[t]).item() > 0);
    // expert 0: tokens 0, 1, 2, 3, 6; expert 1: 4, 5, 7; the larger gates are those further out
    EXPECT_EQ(kept, policy == std::string("probs") ? (std::vector<double>{0, 1, 0, 1, 0, 1, 0, 1})
                                                   : (std::vector<double>{1, 1, 0, 0, 1, 1, 0, 0}));
    const MoEResult got = m.route(x);
    EXPECT_NEAR(got.sparsity.item(), 0.75, 1e-12);
    EXPECT_EQ(m.last_load().to_vector(), (std::vector<double>{5, 3})) << "before the capacity";
  }
}

TEST(MixtureOfExperts, NamesWhatDoesNotFit) {
  auto refused = [](auto o, auto change, const char* says) {
    change(o);
    using M = std::conditional_t<std::is_same_v<decltype(o), ReMoEOptions>, ReMoE, TopKMoE>;
    EXPECT_ERROR(M{o}, OptionError, says);
  };
  refused(
      rectified(), [](auto& o) { o.top_k = 0; }, "top_k is 0");
  refused(
      rectified(), [](auto& o) { o.top_k = 6; }, "top_k is 6");
  refused(
      rectified(), [](auto& o) { o.l1_coeff = -1; }, "l1_coeff is -1");
  refused(
      rectified(), [](auto& o) { o.l1_multiplier = 1; }, "l1_multiplier is 1");
  refused(
      rectified(), [](auto& o) { o.granularity = 3; }, "granularity is 3");
  refused(
      rectified(), [](auto& o) { o.activation = "tanh"; }, "activation is \"tanh\"");
  refused(
      top_k(1), [](auto& o) { o.pre_softmax = false; }, "needs top_k >= 2");
  refused(
      top_k(1), [](auto& o) { o.drop_policy = "last"; }, "drop_policy is \"last\"");
  refused(
      top_k(1), [](auto& o) { o.capacity_factor = 0; }, "capacity_factor is 0");
  ReMoE m(rectified());
  EXPECT_ERROR(m.route(zeros({2, 3, 6}), zeros({2, 3})), DTypeError, "key_padding_mask is float32");
  EXPECT_ERROR(m.route(zeros({2, 3, 6}), zeros({2, 4}, kBool)), ShapeError,
               "key_padding_mask is [2, 4], expected [2, 3]");
  EXPECT_ERROR(remoe_lambda_update(ones({2}) * -1.0, ones({2}), {.num_experts = 4}), OptionError,
               "negative");
}

}  // namespace
}  // namespace dropin
