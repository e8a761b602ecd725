// Every differentiable op against central differences in float64, first and second derivatives; the
// cases of element-wise operations, views and reductions.
#include "autograd/op_cases.h"
#include "dropin/autograd/gradcheck.h"

namespace dropin {
namespace {

using testing::random;

void add_two_operands(OpCases& c) {
  const Tensor x = random({3, 4});
  const Tensor y = random({3, 4}, kFloat64, 8);
  const Tensor row = random({4}, kFloat64, 9);
  const Tensor p = positive({3, 4});
  c.op("add", [](const Tensors& v) { return add(v[0], v[1], 0.7); }, {x, row});
  c.op("sub", [](const Tensors& v) { return v[0] - v[1]; }, {x, random({3, 1})});
  c.op("mul", [](const Tensors& v) { return v[0] * v[1]; }, {x, row});
  c.op("mul_self", [](const Tensors& v) { return v[0] * v[0]; }, {x});
  c.op("div", [](const Tensors& v) { return v[0] / v[1]; }, {x, positive({4})});
  c.op("remainder", [](const Tensors& v) { return remainder(v[0], v[1]); },
       {tensor({0.3, 1.7, -0.4}, kFloat64), tensor({0.7, 0.9, 1.1}, kFloat64)});
  c.op("pow_tensor", [](const Tensors& v) { return pow(v[0], v[1]); }, {p, y});
  c.op("pow_3", [](const Tensors& v) { return pow(v[0], 3); }, {x});
  c.op("pow_half", [](const Tensors& v) { return pow(v[0], 0.5); }, {p});
  c.op("maximum", [](const Tensors& v) { return maximum(v[0], v[1]); }, {x, y});
  c.op("minimum", [](const Tensors& v) { return minimum(v[0], v[1]); }, {x, y});
  c.op("atan2", [](const Tensors& v) { return atan2(v[0], v[1]); }, {x, p});
  c.op("affine", [](const Tensors& v) { return 2.0 - v[0] * 3.0; }, {x});
  c.op("scalar_over", [](const Tensors& v) { return 2.0 / v[0]; }, {p});
}

void add_functions(OpCases& c) {
  const Tensor x = random({3, 4});
  const Tensor p = positive({3, 4});
  c.unary("neg", neg, x);
  c.unary("abs", abs, x);
  c.unary("square", square, x);
  c.unary("exp", exp, x);
  c.unary("exp2", exp2, x);
  c.unary("expm1", expm1, x);
  c.unary("log", log, p);
  c.unary("log2", log2, p);
  c.unary("log1p", log1p, p);
  c.unary("sqrt", sqrt, p);
  c.unary("rsqrt", rsqrt, p);
  c.unary("reciprocal", reciprocal, p);
  c.unary("sin", sin, x);
  c.unary("cos", cos, x);
  c.unary("tan", tan, x * 0.3);
  c.unary("asin", asin, x * 0.2);
  c.unary("acos", acos, x * 0.2);
  c.unary("atan", atan, x);
  c.unary("sinh", sinh, x);
  c.unary("cosh", cosh, x);
  c.unary("tanh", tanh, x);
  c.unary("erf", erf, x);
}

void add_activations(OpCases& c) {
  const Tensor x = random({3, 4});
  const Tensor row = random({4}, kFloat64, 9);
  c.unary("sigmoid", sigmoid, x);
  c.unary("logsigmoid", logsigmoid, x);
  c.unary("relu", relu, x);
  c.unary("relu6", relu6, x * 4.0);
  c.unary("selu", selu, x);
  c.unary("silu", silu, x);
  c.unary("softsign", softsign, x);
  c.unary("hardswish", hardswish, x);
  c.op("softplus", [](const Tensors& v) { return softplus(v[0], 2); }, {x});
  c.op("leaky_relu", [](const Tensors& v) { return leaky_relu(v[0]); }, {x});
  c.op("elu", [](const Tensors& v) { return elu(v[0], 1.3); }, {x});
  c.op("gelu", [](const Tensors& v) { return gelu(v[0]); }, {x});
  c.op("gelu_tanh", [](const Tensors& v) { return gelu(v[0], "tanh"); }, {x});
  c.op("clamp", [](const Tensors& v) { return clamp(v[0], -0.5, 0.8); }, {x});
  c.op("where", [](const Tensors& v) { return where(v[0].detach() > 0.0, v[0], v[1]); }, {x, row});
  c.op("masked_fill", [](const Tensors& v) { return masked_fill(v[0], v[0].detach() > 0.0, 2); },
       {x});
}

void add_views(OpCases& c) {
  const Tensor x = random({3, 4});
  c.op("slice", [](const Tensors& v) { return v[0].slice(1, 1, 4, 2); }, {x});
  c.op("select", [](const Tensors& v) { return v[0].select(0, -1); }, {x});
  c.op("transpose", [](const Tensors& v) { return v[0].transpose(0, 1) * 2.0; }, {x});
  c.op("permute", [](const Tensors& v) { return v[0].permute({2, 0, 1}); }, {random({2, 3, 4})});
  c.op("expand", [](const Tensors& v) { return v[0].expand({2, 3, 4}); }, {random({3, 1})});
  c.op("reshape_of_transpose",
       [](const Tensors& v) {
         return v[0].transpose(0, 1).reshape({2, 6});
       },
       {x});
  c.op("unfold", [](const Tensors& v) { return v[0].unfold(1, 3, 2); }, {random({2, 8, 3})});
  c.op("unfold_last", [](const Tensors& v) { return v[0].unfold(-1, 2, 1); }, {random({2, 5})});
  c.op("diagonal", [](const Tensors& v) { return v[0].diagonal(1); }, {random({4, 5})});
  c.op("to", [](const Tensors& v) { return v[0].to(kFloat64).clone(); }, {x});
  c.op("squeeze", [](const Tensors& v) { return v[0].unsqueeze(1).squeeze(1); }, {x});
}

void add_reductions(OpCases& c) {
  const Tensor x = random({3, 4});
  c.op("sum", [](const Tensors& v) { return sum(v[0], {1}); }, {x});
  c.op("sum_all", [](const Tensors& v) { return sum(v[0]); }, {x});
  c.op("mean", [](const Tensors& v) { return mean(v[0], {0}, true); }, {x});
  c.op("prod", [](const Tensors& v) { return prod(v[0], {1}); }, {x});
  c.op("prod_with_zero", [](const Tensors& v) { return prod(v[0], {0}); },
       {tensor({1, 2, 0, 3, -1, 2}, {3, 2}, kFloat64)});
  c.op("amax", [](const Tensors& v) { return amax(v[0], {1}); }, {distinct({3, 4})});
  c.op("amin", [](const Tensors& v) { return amin(v[0]); }, {distinct({3, 4})});
  c.op("logsumexp", [](const Tensors& v) { return logsumexp(v[0], {1}); }, {x});
  c.op("var", [](const Tensors& v) { return var(v[0], {1}); }, {x});
  c.op("std", [](const Tensors& v) { return std_dev(v[0], {0}, 0, true); }, {x});
  c.op("norm", [](const Tensors& v) { return norm(v[0], {1}); }, {x});
  c.op("max_dim", [](const Tensors& v) { return max(v[0], 1).values; }, {distinct({3, 4})});
  c.op("cumsum", [](const Tensors& v) { return cumsum(v[0], 0); }, {x});
  c.op("cumprod", [](const Tensors& v) { return cumprod(v[0], 1); }, {x});
  c.op("cumprod_with_zero", [](const Tensors& v) { return cumprod(v[0], 0); },
       {tensor({1, 2, 0, 3, -1, 2}, {3, 2}, kFloat64)});
  c.op(
      "logcumsumexp", [](const Tensors& v) { return logcumsumexp(v[0], 1); }, {x}, false);
  c.op("cummax", [](const Tensors& v) { return cummax(v[0], 1); }, {distinct({3, 4})});
  c.op("sort", [](const Tensors& v) { return sort(v[0], 0).values; }, {distinct({3, 4})});
  c.op("topk", [](const Tensors& v) { return topk(v[0], 2, 1).values; }, {distinct({3, 4})});
  c.op("softmax", [](const Tensors& v) { return softmax(v[0], -1); }, {x});
  c.op("softmax_dim0", [](const Tensors& v) { return softmax(v[0], 0); }, {x});
  c.op("log_softmax", [](const Tensors& v) { return log_softmax(v[0], -1); }, {x});
}

std::vector<OpCase> cases() {
  OpCases c;
  add_two_operands(c);
  add_functions(c);
  add_activations(c);
  add_views(c);
  add_reductions(c);
  return c.all;
}
INSTANTIATE_TEST_SUITE_P(Elementwise, Gradients, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(Gradients, AgreeWithDifferences) {
  const OpCase& c = GetParam();
  Tensors in;
  for (const Tensor& t : c.inputs)
    in.push_back(is_floating(t.dtype()) ? t.detach().clone().requires_grad_() : t);
  EXPECT_EQ(gradcheck(c.f, in), "");
}

TEST_P(Gradients, SecondDerivativesAgreeWithDifferences) {
  const OpCase& c = GetParam();
  if (!c.second) GTEST_SKIP() << c.name << " promises first derivatives only";
  Tensors in;
  for (const Tensor& t : c.inputs)
    in.push_back(is_floating(t.dtype()) ? t.detach().clone().requires_grad_() : t);
  auto gradient = [&](const Tensors& x) {
    Tensors wanted;
    for (const Tensor& t : x)
      if (t.requires_grad()) wanted.push_back(t);
    if (wanted.empty()) return Tensors{};
    // a weighted square, so that the gradient is not constant where the op is linear
    const Tensor y = c.f(x)[0];
    const Tensor weight = random(y.sizes(), kFloat64, 21);
    enable_grad on;
    Tensors g = grad({sum(square(y) * weight)}, wanted, {}, true, true, true);
    Tensors out;
    for (const Tensor& t : g)
      if (t.defined()) out.push_back(t);
    return out;
  };
  // inside the differences nothing is recorded, but a gradient needs the tape
  auto f = [&](const Tensors& x) {
    enable_grad on;
    return gradient(x);
  };
  GradcheckOptions o;
  o.rtol = 2e-4;
  o.atol = 2e-5;
  EXPECT_EQ(gradcheck(f, in, o), "");
}

}  // namespace
}  // namespace dropin
