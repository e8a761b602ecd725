// The tape: accumulation, modes, misuse, user functions, checkpointing, anomalies.
#include <functional>

#include "dropin/autograd/gradcheck.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

TEST(Autograd, AccumulatesIntoLeaves) {
  Tensor x = tensor({1, 2, 3}).requires_grad_();
  sum(x * x).backward();
  expect_values(x.grad(), {2, 4, 6});
  sum(x).backward();
  expect_values(x.grad(), {3, 5, 7});
}

TEST(Autograd, SharedGradientsAreNotAliased) {
  Tensor a = tensor({1, 2}).requires_grad_(), b = tensor({3, 4}).requires_grad_();
  sum(a + b).backward();
  a.grad().mul_(10);
  expect_values(b.grad(), {1, 1});
}

TEST(Autograd, GivenGradientIsCopied) {
  Tensor x = tensor({1, 2}).requires_grad_();
  Tensor g = tensor({1, 1});
  (x + 0.0).backward(g);
  x.grad().fill_(7);
  expect_values(g, {1, 1});
}

TEST(Autograd, NoGradRecordsNothing) {
  Tensor x = tensor({1, 2}).requires_grad_();
  {
    no_grad guard;
    EXPECT_FALSE((x * 2.0).requires_grad());
    enable_grad on;
    EXPECT_TRUE((x * 2.0).requires_grad());
  }
  EXPECT_TRUE(grad_enabled());
  EXPECT_FALSE(x.detach().requires_grad());
}

TEST(Autograd, GradLeavesLeavesAlone) {
  Tensor x = tensor({2}).requires_grad_(), unused = tensor({1}).requires_grad_();
  Tensor y = x * x * x;
  Tensors g = grad({sum(y)}, {x}, {}, true);
  expect_values(g[0], {12});
  EXPECT_FALSE(x.grad().defined());
  EXPECT_ERROR(grad({sum(y)}, {x, unused}, {}, true), AutogradError, "input 1 took no part");
  EXPECT_FALSE(grad({sum(y)}, {x, unused}, {}, true, false, true)[1].defined());
}

TEST(Autograd, GradOfAnIntermediate) {
  Tensor x = tensor({2}).requires_grad_();
  Tensor h = x * 3.0, y = sum(h * h);
  expect_values(grad({y}, {h})[0], {12});
}

TEST(Autograd, ThirdDerivative) {
  Tensor x = tensor({2.0}, kFloat64).requires_grad_();
  Tensor d = grad({sum(pow(x, 4))}, {x}, {}, true, true)[0];
  d = grad({sum(d)}, {x}, {}, true, true)[0];
  expect_values(grad({sum(d)}, {x})[0], {48});
}

TEST(Autograd, SecondBackwardNeedsTheGraph) {
  Tensor x = tensor({2}).requires_grad_();
  Tensor y = sum(x * x);
  y.backward({}, true);
  y.backward();
  expect_values(x.grad(), {8});
  EXPECT_ERROR(y.backward(), AutogradError, "second time");
}

TEST(Autograd, NonScalarNeedsAGradient) {
  Tensor x = tensor({1, 2}).requires_grad_();
  EXPECT_ERROR((x * 2.0).backward(), AutogradError, "must be given");
  EXPECT_ERROR(tensor({1}).backward(), AutogradError, "does not require a gradient");
  EXPECT_ERROR((x * 2.0).backward(tensor({1, 2, 3})), ShapeError, "expected [2]");
}

TEST(Autograd, InPlaceOnSavedTensorIsNoticed) {
  Tensor x = tensor({1, 2}).requires_grad_();
  Tensor h = x * 2.0, y = sum(h * h);
  {
    no_grad guard;
    h.mul_(3.0);
  }
  EXPECT_ERROR(y.backward(), AutogradError, "changed in place");
}

TEST(Autograd, InPlaceOnTapedTensorIsDifferentiated) {
  Tensor x = tensor({1, 2}).requires_grad_();
  Tensor h = x * 1.0;
  h.mul_(3.0).add_(x);
  sum(h).backward();
  expect_values(x.grad(), {4, 4});
}

TEST(Autograd, InPlaceOnLeafIsRefused) {
  Tensor x = tensor({1, 2}).requires_grad_();
  EXPECT_ERROR(x.add_(1.0), AutogradError, "leaf");
  EXPECT_ERROR(x.fill_(1.0), AutogradError, "leaf");
  no_grad guard;
  x.add_(1.0);
  expect_values(x, {2, 3});
}

TEST(Autograd, IntegersHaveNoGradients) {
  EXPECT_ERROR(zeros({2}, kInt64).requires_grad_(), AutogradError, "int64");
}

struct CubeTimes : Function<CubeTimes> {
  static Tensor forward(FunctionContext& ctx, const Tensor& x, double k) {
    ctx.save_for_backward({x});
    return x * x * x * k;
  }
  static Tensors backward(FunctionContext& ctx, const Tensors& gys) {
    return {gys[0] * square(ctx.saved()[0]) * 6.0};
  }
};

TEST(Autograd, UserDefinedFunction) {
  Tensor x = random({5}).requires_grad_();
  EXPECT_EQ(
      gradcheck([](const Tensors& v) -> Tensors { return {CubeTimes::apply(v[0], 2.0)}; }, {x}),
      "");
}

struct Two : Function<Two> {
  static inline std::function<Tensors(const Tensor&)> answer;
  static Tensor forward(FunctionContext&, const Tensor& x, double, const Tensor& y) {
    return x + y;
  }
  static Tensors backward(FunctionContext&, const Tensors& gys) { return answer(gys[0]); }
};

TEST(Autograd, UserDefinedGradientsAreChecked) {
  Tensor x = random({2, 3}).requires_grad_(), y = random({1}).requires_grad_();
  const auto backward = [&](std::function<Tensors(const Tensor&)> answer) {
    Two::answer = std::move(answer);
    sum(Two::apply(x, 1.5, y)).backward();
  };
  EXPECT_ERROR(backward([](const Tensor& g) -> Tensors { return {g}; }), AutogradError,
               "Two: its backward returned 1 gradients, expected one for each of its 2");
  EXPECT_ERROR(backward([](const Tensor& g) -> Tensors {
                 return {g, g};
               }),
               AutogradError,
               "Two: its backward returned a gradient that is [2, 3] for input 1, expected [1]");
  EXPECT_ERROR(backward([](const Tensor& g) -> Tensors {
                 return {g.sum(), g.sum(0).narrow(0, 0, 1)};
               }),
               AutogradError, "is [] for input 0, expected [2, 3]");
  EXPECT_ERROR(backward([](const Tensor& g) -> Tensors {
                 return {g.to(kFloat32), {}};
               }),
               AutogradError, "is float32 for input 0, expected float64");
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(y.grad().defined());
  backward([](const Tensor& g) -> Tensors { return {g * 2, {}}; });
  expect_values(x.grad(), {2, 2, 2, 2, 2, 2});
  EXPECT_FALSE(y.grad().defined());
}

TEST(Autograd, GradcheckFindsAWrongGradient) {
  struct Wrong : Function<Wrong> {
    static Tensor forward(FunctionContext&, const Tensor& x) { return x * 2.0; }
    static Tensors backward(FunctionContext&, const Tensors& gys) { return {gys[0] * 2.1}; }
  };
  auto f = [](const Tensors& v) -> Tensors { return {Wrong::apply(v[0])}; };
  EXPECT_NE(gradcheck(f, {random({3}).requires_grad_()}), "");
  EXPECT_NE(gradcheck(f, {random({100}).requires_grad_()}), "")
      << "large inputs are checked along directions";
  EXPECT_ERROR(gradcheck(f, {random({3}, kFloat32).requires_grad_()}), DTypeError, "float64");
}

TEST(Autograd, CheckpointGivesTheSameGradientsWithLessMemory) {
  Tensor w = random({64, 64}, kFloat32).requires_grad_(),
         x = random({64, 64}, kFloat32, 3).requires_grad_();
  auto block = [w](const Tensors& v) -> Tensors {
    Tensor h = v[0];
    for (int i = 0; i < 8; ++i) h = tanh(matmul(h, w)) * 0.5;
    return {dropout(h, 0.3, true)};
  };
  manual_seed(5);
  sum(block({x})[0]).backward();
  const Tensor gw = w.grad(), gx = x.grad();
  w.set_grad({});
  x.set_grad({});
  manual_seed(5);
  const int64_t before = memory_stats().allocated;
  Tensor y = checkpoint(block, {x})[0];
  EXPECT_LE(memory_stats().allocated - before, 2 * 64 * 64 * 4) << "only the output is kept";
  rand({3});  // moves the stream between forward and backward
  sum(y).backward();
  EXPECT_EQ(max_difference(gw, w.grad()), 0);
  EXPECT_EQ(max_difference(gx, x.grad()), 0);
}

TEST(Autograd, AnomalyNamesTheOperation) {
  Tensor x = tensor({0.0}).requires_grad_();
  Tensor y = sum(sqrt(x) * 0.0);
  y.backward({}, true);
  EXPECT_TRUE(std::isnan(x.grad().item()));
  detect_anomaly guard;
  EXPECT_ERROR(y.backward(), AutogradError, "sqrt: its backward returned NaN");
}

TEST(Autograd, LongChainsDoNotOverflowTheStack) {
  Tensor x = tensor({1.0}).requires_grad_();
  {
    Tensor y = x;
    for (int i = 0; i < 200'000; ++i) y = y + 0.0;
    sum(y).backward();
  }
  expect_values(x.grad(), {1});
}

TEST(Autograd, GradientHasTheLeafsDtype) {
  Tensor x = tensor({1, 2}).requires_grad_();
  sum(x.to(kFloat64) * tensor({1, 2}, kFloat64)).backward();
  EXPECT_EQ(x.grad().dtype(), kFloat32);
  Tensor h = tensor({1, 2}, kBFloat16).requires_grad_();
  sum(h * h).backward();
  EXPECT_EQ(h.grad().dtype(), kBFloat16);
  expect_values(h.grad(), {2, 4});
}

TEST(Autograd, ChannelsLastLeavesKeepTheirOrder) {
  const Tensor values = arange(0, 24).to(kFloat32).reshape({1, 2, 3, 4});
  const Tensor x = values.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2}).requires_grad_();
  const Tensor w = ones({2, 1, 1, 1}) * 2.0;
  for (int times = 1; times <= 2; ++times) {
    conv2d(x, w, {}, {.groups = 2}).backward(x.detach());
    EXPECT_EQ(x.grad().strides(), x.strides());
    for (int c = 0; c < 2; ++c)
      for (int h = 0; h < 3; ++h)
        for (int v = 0; v < 4; ++v)
          EXPECT_EQ(x.grad()[0][c][h][v].item<float>(),
                    static_cast<float>(2 * times * (12 * c + 4 * h + v)));
  }
}

}  // namespace
}  // namespace dropin
