// Optimizers against PyTorch's formulas written out, groups, state, clipping, schedules.
#include "dropin/optimizer/optimizer.h"
#include "dropin/projection/linear.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

Tensor parameter(const Shape& s, DType t = kFloat64, std::uint64_t seed = 1) {
  return random(s, t, seed).clone().requires_grad_();
}

TEST(SGD, FollowsTorchsFormula) {
  for (const bool nesterov : {false, true}) {
    Tensor p = parameter({5});
    std::vector<double> w = p.to_vector(), buf(5);
    SGD opt({p}, {.lr = 0.1, .momentum = 0.9, .weight_decay = 0.01, .nesterov = nesterov});
    for (int step = 0; step < 4; ++step) {
      const Tensor g = random({5}, kFloat64, 10 + static_cast<std::uint64_t>(step));
      p.set_grad(g.clone());
      opt.step();
      for (std::size_t i = 0; i < 5; ++i) {
        const double d = g.to_vector()[i] + 0.01 * w[i];
        buf[i] = step ? 0.9 * buf[i] + d : d;
        w[i] -= 0.1 * (nesterov ? d + 0.9 * buf[i] : buf[i]);
      }
    }
    expect_values(p.detach(), w, 1e-14);
  }
}

TEST(Adam, FollowsTorchsFormula) {
  for (const bool decoupled : {false, true})
    for (const bool amsgrad : {false, true})
      for (const DType dtype : {kFloat64, kFloat32}) {
        Tensor p = parameter({37}, dtype);
        std::vector<double> w = p.to_vector(), m(37), v(37), top(37);
        Json options =
            Json::parse(R"({"lr": 0.02, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.1})");
        options.set("amsgrad", amsgrad);
        Box<Optimizer> opt = make_optimizer(decoupled ? "AdamW" : "Adam", {p}, options);
        for (int step = 1; step <= 5; ++step) {
          const Tensor g = random({37}, dtype, 10 + static_cast<std::uint64_t>(step));
          p.set_grad(g.clone());
          opt->step();
          const auto gv = g.to_vector();
          for (std::size_t i = 0; i < 37; ++i) {
            double d = gv[i];
            if (decoupled)
              w[i] *= 1 - 0.02 * 0.1;
            else
              d += 0.1 * w[i];
            m[i] = 0.8 * m[i] + 0.2 * d;
            v[i] = 0.95 * v[i] + 0.05 * d * d;
            top[i] = std::max(top[i], v[i]);
            w[i] -= 0.02 / (1 - std::pow(0.8, step)) * m[i] /
                    (std::sqrt((amsgrad ? top[i] : v[i]) / (1 - std::pow(0.95, step))) + 1e-6);
          }
        }
        expect_values(p.detach(), w, dtype == kFloat64 ? 1e-13 : 2e-6);
      }
}

TEST(Optimizer, GroupsHaveTheirOwnOptions) {
  Tensor a = parameter({1}), b = parameter({1}), c = parameter({1});
  const double a0 = a.item(), b0 = b.item(), c0 = c.item();
  SGD opt({a, c}, {.lr = 1});
  opt.add_param_group({b}, Json::parse(R"({"lr": 0.5})"));
  a.set_grad(ones({1}, kFloat64));
  b.set_grad(ones({1}, kFloat64));
  opt.step();
  EXPECT_DOUBLE_EQ(a.item(), a0 - 1);
  EXPECT_DOUBLE_EQ(b.item(), b0 - 0.5);
  EXPECT_DOUBLE_EQ(c.item(), c0) << "no gradient, no step";
  EXPECT_ERROR(opt.add_param_group({a}), OptionError, "more than one group");
  EXPECT_ERROR(opt.add_param_group({parameter({1})}, Json::parse(R"({"rate": 1})")), OptionError,
               "unknown option \"rate\"");
  EXPECT_ERROR(SGD({a}, {.lr = -1}), OptionError, "lr is -1");
  EXPECT_ERROR(SGD({}, {}), OptionError, "no parameters");
  EXPECT_ERROR(Adam({a}, {.betas = {0.9, 1.0}}), OptionError, "beta 1");
  EXPECT_ERROR(make_optimizer("AdamV", {a}), OptionError, "nearest name is \"Adam\"");
}

TEST(Optimizer, StateRoundTripContinuesEqual) {
  Tensor a = parameter({7}), b = a.detach().clone().requires_grad_();
  AdamW one({a}), two({b});
  auto push = [](Tensor& p, Optimizer& o, std::uint64_t seed) {
    p.set_grad(random({7}, kFloat64, seed));
    o.step();
  };
  push(a, one, 1);
  push(a, one, 2);
  EXPECT_EQ(one.state_dict().find("state.0.step").item(), 2);
  {
    no_grad guard;
    b.copy_(a);
  }
  two.load_state_dict(one.state_dict());
  push(a, one, 3);
  push(b, two, 3);
  EXPECT_EQ(max_difference(a, b), 0);
  EXPECT_ERROR(two.load_state_dict({{"state.5.exp_avg", zeros({7})}}), StateError,
               "state.5.exp_avg");
  EXPECT_ERROR(two.load_state_dict({{"state.0.exp_avg", zeros({3})}}), StateError, "expected [7]");
}

TEST(Optimizer, ClippingAndSchedule) {
  Tensor a = parameter({2}), b = parameter({1});
  a.set_grad(tensor({3, 0}, kFloat64));
  b.set_grad(tensor({4}, kFloat64));
  EXPECT_DOUBLE_EQ(clip_grad_norm_({a, b}, 1), 5);
  EXPECT_NEAR(b.grad().item(), 0.8, 1e-6);
  EXPECT_DOUBLE_EQ(warmup_cosine(0, 10, 100, 1), 0.1);
  EXPECT_DOUBLE_EQ(warmup_cosine(10, 10, 100, 1), 1);
  EXPECT_NEAR(warmup_cosine(100, 10, 100, 1, 0.2), 0.2, 1e-12);
}

TEST(Optimizer, FitsALine) {
  manual_seed(0);
  Linear m({.in_features = 2, .out_features = 1});
  Adam opt(m.parameters(), {.lr = 0.05});
  const Tensor x = random({64, 2}, kFloat32), y = matmul(x, tensor({2, -3}, {2, 1})) + 0.5;
  double loss = 0;
  for (int i = 0; i < 300; ++i) {
    opt.zero_grad();
    const Tensor l = mse_loss(m(x), y);
    l.backward();
    opt.step();
    loss = l.item();
  }
  EXPECT_LT(loss, 1e-4);
}

}  // namespace
}  // namespace dropin
