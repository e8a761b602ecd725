#include "dropin/optimizer/runge_kutta.h"

#include <cmath>
#include <complex>

#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

// Rounds of the damped rotation M w, by the stage interface.
Tensor rotated(const char* method, double lr, int steps) {
  const Tensor m = tensor({0.05, 1, -1, 0.05}, {2, 2}, kFloat64);
  Tensor w = ones({2}, kFloat64).requires_grad_();
  RungeKuttaOptimizer o({w}, {.lr = lr, .method = method});
  for (int i = 0; i < steps * o.stages(); ++i) {
    w.set_grad(matmul(m, w.detach()));
    o.step();
  }
  return w.detach();
}

TEST(RungeKuttaOptimizer, MultipliesByItsStabilityPolynomial) {
  using Complex = std::complex<double>;
  const Complex z = -0.3 * Complex(0.05, 1);
  const struct {
    const char* method;
    Complex r;
  } kinds[] = {{"euler", 1.0 + z},
               {"rk2", 1.0 + z + z * z / 2.0},
               {"rk2_midpoint", 1.0 + z + z * z / 2.0},
               {"rk4", 1.0 + z + z * z / 2.0 + z * z * z / 6.0 + z * z * z * z / 24.0}};
  for (const auto& kind : kinds)
    EXPECT_NEAR(norm(rotated(kind.method, 0.3, 5)).item(),
                std::sqrt(2) * std::pow(std::abs(kind.r), 5), 1e-12)
        << kind.method;
}

TEST(RungeKuttaOptimizer, IsStableWhereDescentIsNot) {
  EXPECT_NEAR(norm(rotated("euler", 0.2, 200)).item(), 10.3, 0.05);
  EXPECT_NEAR(norm(rotated("rk2", 0.5, 200)).item(), 0.0256, 5e-5);
  EXPECT_NEAR(norm(rotated("rk4", 0.5, 200)).item(), 0.00944, 5e-6);
}

TEST(RungeKuttaOptimizer, AClosureIsCalledOncePerStage) {
  for (const auto& [method, calls] :
       {std::pair{"euler", 1}, {"rk2", 2}, {"rk2_midpoint", 2}, {"rk4", 4}}) {
    Tensor w = random({3}).requires_grad_(), v = w.detach().clone().requires_grad_();
    RungeKuttaOptimizer a({w}, {.lr = 0.1, .method = method, .weight_decay = 0.2}),
        b({v}, {.lr = 0.1, .method = method, .weight_decay = 0.2});
    int count = 0;
    const double first = sum(square(w)).item();
    const Tensor loss = a.step([&] {
      ++count;
      a.zero_grad();
      const Tensor l = sum(square(w));
      l.backward();
      return l;
    });
    EXPECT_EQ(count, calls);
    EXPECT_EQ(loss.item(), first);
    EXPECT_FALSE(a.pending());
    for (int i = 0; i < calls; ++i) {
      v.set_grad(v.detach() * 2.0);
      b.step();
    }
    EXPECT_EQ(max_difference(w, v), 0) << method;
  }
}

TEST(RungeKuttaOptimizer, AnUnfinishedStepCanBeUndoneAndIsGuarded) {
  for (const DType dtype : {kFloat32, kBFloat16}) {
    Tensor w = random({5}, kFloat32).to(dtype).clone().requires_grad_();
    const Tensor before = w.detach().clone();
    RungeKuttaOptimizer o({w}, {.lr = 0.3, .method = "rk4"});
    w.set_grad(full({5}, std::nan(""), dtype));
    o.step();
    w.set_grad(ones({5}, dtype));
    o.step();
    EXPECT_EQ(o.stage(), 2);
    EXPECT_ERROR(o.add_param_group({zeros({1}).requires_grad_()}), StateError, "2 of 4 gradients");
    EXPECT_ERROR(o.set_lr(0.1), StateError, "unfinished");
    EXPECT_ERROR(o.load_state_dict({}), StateError, "unfinished");
    EXPECT_ERROR(o.step([&] { return w.sum(); }), StateError, "unfinished");
    o.abort();
    EXPECT_FALSE(o.pending());
    EXPECT_EQ(max_difference(w, before), 0);
    EXPECT_EQ(o.state_bytes(), 0);
  }
}

TEST(RungeKuttaOptimizer, APendingStepIsSavedAndGoesOn) {
  Tensor w = random({4}).requires_grad_();
  RungeKuttaOptimizer a({w}, {.lr = 0.1, .method = "rk4"});
  auto push = [](RungeKuttaOptimizer& o, const Tensor& p, int i) {
    p.set_grad(random({4}, kFloat64, static_cast<std::uint64_t>(30 + i)));
    o.step();
  };
  push(a, w, 0);
  push(a, w, 1);
  Tensor v = w.detach().clone().requires_grad_();
  RungeKuttaOptimizer b({v}, {.lr = 0.1, .method = "rk4"});
  b.load_state_dict(a.state_dict());
  EXPECT_EQ(b.stage(), 2);
  for (int i = 2; i < 6; ++i) push(a, w, i), push(b, v, i);
  EXPECT_EQ(max_difference(w, v), 0);
}

TEST(RungeKuttaOptimizer, RefusesWhatDoesNotFitInWords) {
  Tensor w = random({4}).requires_grad_(), v = random({2}).requires_grad_();
  EXPECT_ERROR(RungeKuttaOptimizer({w}, {.lr = 0}), OptionError, "lr is 0");
  EXPECT_ERROR(RungeKuttaOptimizer({w}, {.method = "rk3"}), OptionError, "method is \"rk3\"");
  EXPECT_ERROR(make_optimizer("RungeKuttaOptimizer", {w}, Json::parse(R"({"momentum": 0.9})")),
               OptionError, "unknown option \"momentum\"");
  RungeKuttaOptimizer o({w, v}, {.lr = 0.1});
  EXPECT_ERROR(o.step([&] {
    o.zero_grad();
    const Tensor l = sum(w);
    l.backward();
    return l;
  }),
               StateError, "left parameter 1 without a gradient");
  w.set_grad(ones({4}, kFloat64));
  o.step();
  v.set_grad(ones({2}, kFloat64));
  EXPECT_ERROR(o.step(), StateError, "parameter 1 has a gradient at stage 1 and had none before");
}

TEST(GradientReversal, TurnsTheGradientAndSharesTheValues) {
  GradientReversal layer({.lambda = 0.7});
  Tensor x = random({3, 2}).requires_grad_();
  const Tensor y = layer(x);
  EXPECT_EQ(y.data_ptr(), x.data_ptr());
  const Tensor w = random({3, 2}, kFloat64, 9).requires_grad_();
  const Tensor g = grad({sum(y * w)}, {x}, {}, true, true)[0];
  EXPECT_LT(max_difference(g, w * -0.7), 1e-15);
  EXPECT_LT(max_difference(grad({sum(g)}, {w})[0], full({3, 2}, -0.7, kFloat64)), 1e-15);
}

TEST(GradientReversal, GrowsWithTheIterationsOfTraining) {
  GradientReversal layer({.warm = true, .alpha = 10, .lo = 0.1, .hi = 1, .max_iters = 4});
  for (int i = 0; i < 6; ++i) {
    EXPECT_NEAR(layer.coefficient(), 1.8 / (1 + std::exp(-10 * i / 4.0)) - 0.9 + 0.1, 1e-12);
    layer(zeros({1}));
    layer.eval();
    layer(zeros({1}));  // not an iteration
    layer.train();
  }
  EXPECT_EQ(layer.clone()->options_json().find("iter")->as_int(), 6);
  GradientReversal still({.warm = true, .auto_step = false, .iter = 3});
  still(zeros({1}));
  EXPECT_EQ(still.options().iter, 3);
  EXPECT_ERROR(GradientReversal({.max_iters = 0}), OptionError, "max_iters is 0");
}

}  // namespace
}  // namespace dropin
