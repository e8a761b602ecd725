// RMSprop, Adagrad, Lion, Muon and Adafactor against torch 2.15's parameters.
#include "dropin/optimizer/adaptive.h"

#include "dropin/ops/ops.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;

/// The values that adaptive.py uses.
Tensor pattern_values(const Shape& sizes, int64_t seed) {
  std::vector<double> v;
  for (int64_t i = 0; i < sizes.numel(); ++i)
    v.push_back(static_cast<double>((i * 37 + seed * 101 + (i * i % 17) * 13) % 97) / 97 - 0.5);
  return tensor(v, sizes, kFloat64);
}

struct OptimizerCase {
  const char *name, *options;
  Shape sizes;
  std::vector<double> after;
};
#include "adaptive.inc"

TEST(Adaptive, FourStepsAsTorch) {
  for (const OptimizerCase& c : kOptimizerCases) {
    SCOPED_TRACE(std::string(c.name) + c.options);
    const Tensor p = pattern_values(c.sizes, 1).requires_grad_();
    Box<Optimizer> opt = make_optimizer(c.name, {p}, Json::parse(c.options));
    for (int64_t step = 0; step < 4; ++step) {
      p.set_grad(pattern_values(c.sizes, 10 + step));
      opt->step();
    }
    expect_values(p.detach(), c.after, 1e-10);
  }
}

TEST(Adaptive, StatesHaveTorchsNames) {
  const Tensor p = ones({2, 3}).requires_grad_();
  p.set_grad(ones({2, 3}));
  struct Names {
    const char *optimizer, *options;
    std::vector<std::string> state;
  };
  const Names all[] = {{"RMSprop",
                        R"({"momentum": 0.9, "centered": true})",
                        {"step", "square_avg", "momentum_buffer", "grad_avg"}},
                       {"Adagrad", "{}", {"step", "sum"}},
                       {"Lion", "{}", {"exp_avg"}},
                       {"Muon", "{}", {"momentum_buffer"}},
                       {"Adafactor", "{}", {"step", "row_var", "col_var"}}};
  for (const Names& n : all) {
    Box<Optimizer> opt = make_optimizer(n.optimizer, {p}, Json::parse(n.options));
    opt->step();
    const StateDict s = opt->state_dict();
    for (const std::string& name : n.state)
      EXPECT_TRUE(s.contains("state.0." + name)) << n.optimizer << " " << name;
    Box<Optimizer> again = make_optimizer(n.optimizer, {p}, Json::parse(n.options));
    again->load_state_dict(s);
    EXPECT_EQ(again->state_bytes(), opt->state_bytes()) << n.optimizer;
  }
}

TEST(Adaptive, AMomentumMayBeTurnedOnLater) {
  const Tensor p = zeros({2}).requires_grad_();
  RMSprop opt({p}, {.lr = 0.1});
  p.set_grad(ones({2}));
  opt.step();
  opt.set_options(0, Json::parse(R"({"momentum": 0.5, "centered": true})"));
  opt.step();
  EXPECT_TRUE(opt.state_dict().contains("state.0.momentum_buffer"));
  EXPECT_TRUE(isfinite(p.detach()).all().item<bool>());
}

TEST(Adaptive, MuonsStepIsNearlyOrthogonal) {
  const Tensor p = zeros({6, 4}).requires_grad_();
  Muon opt({p}, {.lr = 1, .weight_decay = 0, .ns_coefficients = {2, -1.5, 0.5}, .ns_steps = 30});
  p.set_grad(testing::random({6, 4}, kFloat32, 3));
  opt.step();
  const Tensor u = p.detach() * (1 / std::sqrt(1.5));
  EXPECT_LT(testing::max_difference(matmul(u.t(), u), eye(4)), 1e-4);
  const Tensor bias = zeros({3}).requires_grad_();  // its direction, as a matrix of one row
  Muon other({bias}, {.lr = 1, .weight_decay = 0, .ns_coefficients = {2, -1.5, 0.5}});
  bias.set_grad(tensor({3, 0, 4}));
  other.step();
  expect_values(bias.detach(), {-0.6, 0, -0.8}, 1e-5);
}

TEST(Adaptive, BadOptionsAreAnsweredInWords) {
  const Tensor p = zeros({2}).requires_grad_();
  EXPECT_ERROR(RMSprop({p}, {.alpha = -1}), OptionError, "RMSprop: alpha is -1");
  EXPECT_ERROR(Adagrad({p}, {.lr_decay = -1}), OptionError, "Adagrad: lr_decay is -1");
  EXPECT_ERROR(Lion({p}, {.betas = {0.9}}), OptionError, "betas has 1 values, expected 2");
  EXPECT_ERROR(Lion({p}, {.betas = {0.9, 1}}), OptionError, "beta 1 is not in 0 <= beta < 1");
  EXPECT_ERROR(Muon({p}, {.ns_coefficients = {1, 2}}), OptionError, "ns_coefficients has 2");
  EXPECT_ERROR(Muon({p}, {.ns_steps = 100}), OptionError, "ns_steps is 100");
  EXPECT_ERROR(Muon({p}, {.adjust_lr_fn = "spectral"}), OptionError,
               "adjust_lr_fn is \"spectral\"");
  EXPECT_ERROR(Adafactor({p}, {.beta2_decay = 0.5}), OptionError, "beta2_decay is 0.5");
  EXPECT_ERROR(Adafactor({p}, {.eps = Json(1.0)}), OptionError, "eps is 1");
  EXPECT_ERROR(Adafactor({p}, {.d = 0.5}), OptionError, "d is 0.5");
}

}  // namespace
}  // namespace dropin
