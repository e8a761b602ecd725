#include "dropin/dynamics/neural_ode.h"

#include <cmath>

#include "dropin/dynamics/neural_sde.h"
#include "dropin/registry/registry.h"
#include "kernels/hd.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

// du/dt = rate u + bend t.
class Linear1 : public VectorField {
 public:
  explicit Linear1(double rate = 1, double bend = 0) : bend_(bend) {
    rate_ = &parameter("rate", full({1}, rate, kFloat64));
  }
  Tensor forward(const Tensor& x, double t) override { return x * *rate_ + bend_ * t; }
  Box<Module> make_like() const override { return Box<Module>(new Linear1(rate_->item(), bend_)); }

 private:
  double bend_;
  Tensor* rate_;
};
Box<NeuralODE> exponential(const NeuralODEOptions& o, double rate = 1) {
  return Box<NeuralODE>(new NeuralODE(Box<VectorField>(new Linear1(rate)), o));
}

TEST(NeuralODE, FollowsTheExponential) {
  const Tensor x = random({3, 2});
  for (const char* solver : {"tsit5", "dopri5"}) {
    auto m = exponential({.solver = solver, .rtol = 1e-9, .atol = 1e-9, .t1 = 2});
    EXPECT_LT(max_difference((*m)(x), x * std::exp(2.0)), 1e-7) << solver;
    EXPECT_GT(m->nfe(), 6 * m->steps());
    auto back = exponential({.solver = solver, .rtol = 1e-9, .atol = 1e-9, .t0 = 2, .t1 = 0});
    EXPECT_LT(max_difference((*back)(x), x * std::exp(-2.0)), 1e-8) << solver;
  }
}

TEST(NeuralODE, SolversHaveTheirOrder) {
  const Tensor x = ones({1}, kFloat64);
  for (const auto& [solver, order] :
       {std::pair{"euler", 1}, {"rk4", 4}, {"tsit5", 5}, {"dopri5", 5}}) {
    auto error = [&, s = solver](double dt) {
      auto m = exponential({.solver = s, .adaptive = false, .dt = dt});
      return std::abs((*m)(x).item() - std::exp(1.0));
    };
    EXPECT_NEAR(std::log2(error(1.0 / 16) / error(1.0 / 32)), order, 0.35) << solver;
  }
}

TEST(NeuralODE, SavesAtItsTimesAndEndsOnT1) {
  const Tensor x = random({3});
  for (const bool adaptive : {true, false}) {
    auto m = exponential({.adaptive = adaptive,
                          .dt = 0.3,
                          .rtol = 1e-10,
                          .atol = 1e-10,
                          .saveat = std::vector<double>{0, 0.1, 0.3, 0.77, 1}});
    const Tensor y = (*m)(x);
    ASSERT_EQ(y.sizes(), (Shape{5, 3}));
    const double times[] = {0, 0.1, 0.3, 0.77, 1};
    for (int64_t i = 0; i < 5; ++i)
      EXPECT_LT(max_difference(y[i], x * std::exp(times[i])), adaptive ? 1e-9 : 1e-5) << i;
    if (!adaptive) {
      EXPECT_EQ(m->steps(), 4) << "0.3 0.3 0.3 0.1";
    }
  }
}

TEST(NeuralODE, AdjointAndStepsGiveTheGradientsOfTheFlow) {
  Tensor x = random({4}).requires_grad_();
  for (const bool adjoint : {false, true}) {
    auto m = exponential({.rtol = 1e-10,
                          .atol = 1e-10,
                          .t1 = 1.5,
                          .saveat = std::vector<double>{0.5, 1.5},
                          .adjoint = adjoint},
                         -0.7);
    const Tensor w = random({2, 4}, kFloat64, 3), rate = m->parameters()[0];
    const Tensors g = grad({sum((*m)(x)*w)}, {x, rate});
    const double a = std::exp(-0.35), b = std::exp(-1.05);
    EXPECT_LT(max_difference(g[0], w[0] * a + w[1] * b), 1e-8) << adjoint;
    EXPECT_NEAR(g[1].item(), (sum(w[0] * x) * (0.5 * a) + sum(w[1] * x) * (1.5 * b)).item(), 1e-8)
        << adjoint;
  }
}

TEST(NeuralODE, WithoutTimeItIsTheIdentity) {
  const Tensor x = random({2, 3});
  auto m = exponential({.t0 = 1, .t1 = 1});
  EXPECT_EQ(max_difference((*m)(x), x), 0);
  EXPECT_EQ(m->nfe(), 0);
  EXPECT_EQ((*exponential({}))(zeros({0, 3}, kFloat64)).sizes(), (Shape{0, 3}));
}

TEST(NeuralODE, ThePenaltyReachesTheFieldOnly) {
  for (const char* type : {"error_estimate", "stiffness_estimate"})
    for (const char* where : {"unbiased", "biased"}) {
      auto m = exponential({.regularize = where, .regularize_type = type}, -2);
      Tensor x = random({4}).requires_grad_();
      const NeuralODE::Result r = m->solve(x);
      ASSERT_TRUE(r.reg.defined());
      EXPECT_GE(m->last_reg_time(), 0);
      EXPECT_LT(m->last_reg_time(), 1);
      EXPECT_GT(r.reg_dt.item(), 0);
      const Tensors g = grad({r.reg}, {x, m->parameters()[0]}, {}, false, false, true);
      EXPECT_FALSE(g[0].defined());
      EXPECT_TRUE(g[1].defined());
      m->eval();
      EXPECT_FALSE(m->solve(x).reg.defined());
    }
}

TEST(NeuralODE, ThePenaltysGradientIsTheDerivativeUnlessItsFirstStageRests) {
  auto made = [](double rate, bool detached) {
    return exponential({.regularize = "unbiased",
                        .reg_time = 0.0,
                        .reg_dt = 0.4,
                        .reg_atol = 1e-2,
                        .reg_rtol = 1e-2,
                        .detach_first_stage = detached},
                       rate);
  };
  const Tensor x = random({5});
  auto value = [&](double rate) { return made(rate, false)->solve(x).reg.item(); };
  const double numeric = (value(-1.5 + 1e-6) - value(-1.5 - 1e-6)) / 2e-6;
  auto slope = [&](bool detached) {
    auto m = made(-1.5, detached);
    return grad({m->solve(x).reg}, {m->parameters()[0]})[0].item();
  };
  EXPECT_NEAR(slope(false), numeric, 1e-6 * std::abs(numeric));
  EXPECT_GT(std::abs(slope(true) - numeric), 0.1 * std::abs(numeric));
}

TEST(NeuralODE, AUsersFieldIsClonedWithIt) {
  auto m = exponential({}, -0.3);
  Box<Module> copy = m->clone();
  const Tensor x = random({3});
  EXPECT_EQ(max_difference(copy->call({{"x", x}}).find("y"), (*m)(x)), 0);
}

TEST(NeuralODE, RefusesWhatDoesNotFitInWords) {
  auto refused = [](const NeuralODEOptions& o, const char* text) {
    EXPECT_ERROR(exponential(o), OptionError, text);
  };
  refused({.rtol = 0}, "rtol is 0");
  refused({.adaptive = false}, "expected a positive step because adaptive = false");
  refused({.solver = "rk4", .dt = 0.1}, "rk4 estimates no error");
  refused({.solver = "rk5"}, "solver is \"rk5\"");
  refused({.saveat = std::vector<double>{0.5, 0.2}}, "saveat has 0.2 after 0.5");
  refused({.saveat = std::vector<double>{1.5}}, "saveat has 1.5");
  refused({.t0 = 1, .t1 = 0, .regularize = "biased"}, "expected it after t0");
  refused({.reg_time = 1.0}, "reg_time is 1");
  EXPECT_ERROR(make("NeuralODE", Json::parse(R"({"func": {"type": "MLP"}})")), OptionError,
               "expected an object of type TimeDependentMLP");
  auto slow = exponential({.rtol = 1e-12, .atol = 1e-12, .t1 = 50, .max_steps = 5}, 1);
  EXPECT_ERROR((*slow)(ones({1}, kFloat64)), StateError, "5 steps reach only t = ");
  EXPECT_ERROR((*exponential({}))(full({1}, std::nan(""), kFloat64)), StateError,
               "without reaching the tolerance");
  struct Wide : VectorField {
    Tensor forward(const Tensor& x, double) override { return concat({x, x}, -1); }
  };
  NeuralODE wrong(Box<VectorField>(new Wide), {});
  EXPECT_ERROR(wrong(ones({2, 3})), ShapeError, "the field gives float32 [2, 6]");
}

// --- NeuralSDE

// Geometric Brownian motion: du = a u dt + b u dW.
struct Scale : VectorField {
  double factor;
  explicit Scale(double f) : factor(f) {}
  Tensor forward(const Tensor& x, double) override { return x * factor; }
};

TEST(NeuralSDE, ConvergesStronglyInItsOrder) {
  const double a = 0.5, b = 0.4;
  const int64_t paths = 400, finest = 64;
  const Tensor w = random({finest, paths, 1}, kFloat64, 1) / std::sqrt(finest),
               z = random({finest, paths, 1}, kFloat64, 2) / std::sqrt(finest);
  for (const auto& [solver, order, slack] :
       {std::tuple{"euler_maruyama", 0.5, 0.2}, {"milstein", 1.0, 0.25}, {"sosri", 1.5, 0.4}}) {
    auto error = [&, s = std::string(solver)](int64_t n) {
      NeuralSDE m(Box<VectorField>(new Scale(a)), Box<VectorField>(new Scale(b)),
                  {.solver = s, .dt = 1 / static_cast<double>(n)});
      const int64_t each = finest / n;
      // dZ of a long step: independent of dW, made of the short ones' dZ and their places
      const Tensor dW = sum(w.reshape({n, each, paths, 1}), {1});
      NeuralSDENoise noise{.dW = dW};
      if (s == "sosri") noise.dZ = sum(z.reshape({n, each, paths, 1}), {1});
      const Tensor y = m.solve(ones({paths, 1}, kFloat64), noise).y;
      const Tensor exact = exp(sum(w, {0}) * b + (a - b * b / 2));
      return mean(abs(y - exact)).item();
    };
    if (std::string(solver) == "sosri") {
      EXPECT_LT(error(16), 2e-3);  // its dZ is an integral that the short steps do not give
      continue;
    }
    EXPECT_NEAR(std::log2(error(8) / error(32)) / 2, order, slack) << solver;
  }
}

TEST(NeuralSDE, WithoutDiffusionItIsTheODE) {
  const Tensor x = random({3, 2});
  for (const char* solver : {"sosri", "euler_maruyama", "milstein", "euler_heun"}) {
    NeuralSDE m(Box<VectorField>(new Scale(-1)), Box<VectorField>(new Scale(0)),
                {.solver = solver, .dt = 0.01});
    EXPECT_LT(max_difference(m(x), x * std::exp(-1.0)), 1e-2) << solver;
    EXPECT_EQ(m.steps(), 100);
  }
}

TEST(NeuralSDE, SavesAtStepsAndRefusesTheRest) {
  auto made = [](const NeuralSDEOptions& o) {
    return NeuralSDE(Box<VectorField>(new Scale(-1)), Box<VectorField>(new Scale(0.1)), o);
  };
  NeuralSDE m = made({.dt = 0.25, .saveat = std::vector<double>{0.25, 1}, .seed = 5});
  const Tensor x = random({3});
  EXPECT_EQ(m(x).sizes(), (Shape{2, 3}));
  EXPECT_EQ(max_difference(m(x), m(x)), 0) << "seeded";
  EXPECT_ERROR(made({.dt = 0.25, .saveat = std::vector<double>{0.3}}), OptionError,
               "expected the time of a step");
  EXPECT_ERROR(made({}), OptionError, "dt is 0");
  EXPECT_ERROR(made({.adaptive = true, .dt = 0.1}), OptionError, "adaptive steps");
  EXPECT_ERROR(made({.dt = 0.1, .t0 = 1, .t1 = 0}), OptionError, "t1 not before t0");
  EXPECT_ERROR(made({.dt = 0.1, .regularize_type = "stiffness_estimate"}), OptionError,
               "expected error_estimate");
  NeuralSDE euler = made({.solver = "milstein", .dt = 0.5});
  EXPECT_ERROR(euler.solve(x, {.dZ = zeros({2, 3}, kFloat64)}), OptionError, "dZ is not supported");
  EXPECT_ERROR(euler.solve(x, {.dW = zeros({3, 3}, kFloat64)}), ShapeError, "dW is float64 [3, 3]");
}

}  // namespace
}  // namespace dropin
