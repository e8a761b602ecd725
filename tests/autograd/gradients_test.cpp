// Every differentiable op against central differences in float64, first and second derivatives.
#include <functional>

#include "dropin/autograd/gradcheck.h"
#include "support.h"

namespace dropin {
namespace {

using testing::random;

struct OpCase {
  std::string name;
  std::function<Tensors(const Tensors&)> f;
  Tensors inputs;
  bool second = true;  ///< second derivatives exist and are checked too
};

void PrintTo(const OpCase& c, std::ostream* os) { *os << c.name; }

Tensor positive(const Shape& s, std::uint64_t seed = 7) {
  return abs(random(s, kFloat64, seed)) + 0.5;
}
// Distinct values, so that maxima and sorts have no ties within the step of the differences.
Tensor distinct(const Shape& s) {
  Generator g(3);
  return (randperm(s.numel(), &g).to(kFloat64) * 0.37 - 1.5).reshape(s);
}
Tensor ids(const std::vector<double>& v, const Shape& s) { return tensor(v, s, kInt64); }

std::vector<OpCase> cases() {
  std::vector<OpCase> c;
  auto unary = [&](const char* name, Tensor (*f)(const Tensor&), const Tensor& x) {
    c.push_back({name, [f](const Tensors& v) -> Tensors { return {f(v[0])}; }, {x}});
  };
  auto op = [&](const char* name, std::function<Tensor(const Tensors&)> f, Tensors in,
                bool second = true) {
    c.push_back({name, [f](const Tensors& v) -> Tensors { return {f(v)}; }, std::move(in), second});
  };
  const Tensor x = random({3, 4}), y = random({3, 4}, kFloat64, 8), row = random({4}, kFloat64, 9),
               p = positive({3, 4}), q = positive({3, 4}, 11);
  op("add", [](const Tensors& v) { return add(v[0], v[1], 0.7); }, {x, row});
  op("sub", [](const Tensors& v) { return v[0] - v[1]; }, {x, random({3, 1})});
  op("mul", [](const Tensors& v) { return v[0] * v[1]; }, {x, row});
  op("mul_self", [](const Tensors& v) { return v[0] * v[0]; }, {x});
  op("div", [](const Tensors& v) { return v[0] / v[1]; }, {x, positive({4})});
  op("remainder", [](const Tensors& v) { return remainder(v[0], v[1]); },
     {tensor({0.3, 1.7, -0.4}, kFloat64), tensor({0.7, 0.9, 1.1}, kFloat64)});
  op("pow_tensor", [](const Tensors& v) { return pow(v[0], v[1]); }, {p, y});
  op("pow_3", [](const Tensors& v) { return pow(v[0], 3); }, {x});
  op("pow_half", [](const Tensors& v) { return pow(v[0], 0.5); }, {p});
  op("maximum", [](const Tensors& v) { return maximum(v[0], v[1]); }, {x, y});
  op("minimum", [](const Tensors& v) { return minimum(v[0], v[1]); }, {x, y});
  op("atan2", [](const Tensors& v) { return atan2(v[0], v[1]); }, {x, p});
  op("affine", [](const Tensors& v) { return 2.0 - v[0] * 3.0; }, {x});
  op("scalar_over", [](const Tensors& v) { return 2.0 / v[0]; }, {p});
  unary("neg", neg, x);
  unary("abs", abs, x);
  unary("square", square, x);
  unary("exp", exp, x);
  unary("exp2", exp2, x);
  unary("expm1", expm1, x);
  unary("log", log, p);
  unary("log2", log2, p);
  unary("log1p", log1p, p);
  unary("sqrt", sqrt, p);
  unary("rsqrt", rsqrt, p);
  unary("reciprocal", reciprocal, p);
  unary("sin", sin, x);
  unary("cos", cos, x);
  unary("tan", tan, x * 0.3);
  unary("asin", asin, x * 0.2);
  unary("acos", acos, x * 0.2);
  unary("atan", atan, x);
  unary("sinh", sinh, x);
  unary("cosh", cosh, x);
  unary("tanh", tanh, x);
  unary("erf", erf, x);
  unary("sigmoid", sigmoid, x);
  unary("logsigmoid", logsigmoid, x);
  unary("relu", relu, x);
  unary("relu6", relu6, x * 4.0);
  unary("selu", selu, x);
  unary("silu", silu, x);
  unary("softsign", softsign, x);
  unary("hardswish", hardswish, x);
  op("softplus", [](const Tensors& v) { return softplus(v[0], 2); }, {x});
  op("leaky_relu", [](const Tensors& v) { return leaky_relu(v[0]); }, {x});
  op("elu", [](const Tensors& v) { return elu(v[0], 1.3); }, {x});
  op("gelu", [](const Tensors& v) { return gelu(v[0]); }, {x});
  op("gelu_tanh", [](const Tensors& v) { return gelu(v[0], "tanh"); }, {x});
  op("clamp", [](const Tensors& v) { return clamp(v[0], -0.5, 0.8); }, {x});
  op("where", [](const Tensors& v) { return where(v[0].detach() > 0.0, v[0], v[1]); }, {x, row});
  op("masked_fill", [](const Tensors& v) { return masked_fill(v[0], v[0].detach() > 0.0, 2); },
     {x});
  // views
  op("slice", [](const Tensors& v) { return v[0].slice(1, 1, 4, 2); }, {x});
  op("select", [](const Tensors& v) { return v[0].select(0, -1); }, {x});
  op("transpose", [](const Tensors& v) { return v[0].transpose(0, 1) * 2.0; }, {x});
  op("permute", [](const Tensors& v) { return v[0].permute({2, 0, 1}); }, {random({2, 3, 4})});
  op("expand", [](const Tensors& v) { return v[0].expand({2, 3, 4}); }, {random({3, 1})});
  op("reshape_of_transpose",
     [](const Tensors& v) {
       return v[0].transpose(0, 1).reshape({2, 6});
     },
     {x});
  op("unfold", [](const Tensors& v) { return v[0].unfold(1, 3, 2); }, {random({2, 8, 3})});
  op("unfold_last", [](const Tensors& v) { return v[0].unfold(-1, 2, 1); }, {random({2, 5})});
  op("diagonal", [](const Tensors& v) { return v[0].diagonal(1); }, {random({4, 5})});
  op("to", [](const Tensors& v) { return v[0].to(kFloat64).clone(); }, {x});
  op("squeeze", [](const Tensors& v) { return v[0].unsqueeze(1).squeeze(1); }, {x});
  // reductions
  op("sum", [](const Tensors& v) { return sum(v[0], {1}); }, {x});
  op("sum_all", [](const Tensors& v) { return sum(v[0]); }, {x});
  op("mean", [](const Tensors& v) { return mean(v[0], {0}, true); }, {x});
  op("prod", [](const Tensors& v) { return prod(v[0], {1}); }, {x});
  op("prod_with_zero", [](const Tensors& v) { return prod(v[0], {0}); },
     {tensor({1, 2, 0, 3, -1, 2}, {3, 2}, kFloat64)});
  op("amax", [](const Tensors& v) { return amax(v[0], {1}); }, {distinct({3, 4})});
  op("amin", [](const Tensors& v) { return amin(v[0]); }, {distinct({3, 4})});
  op("logsumexp", [](const Tensors& v) { return logsumexp(v[0], {1}); }, {x});
  op("var", [](const Tensors& v) { return var(v[0], {1}); }, {x});
  op("std", [](const Tensors& v) { return std_dev(v[0], {0}, 0, true); }, {x});
  op("norm", [](const Tensors& v) { return norm(v[0], {1}); }, {x});
  op("max_dim", [](const Tensors& v) { return max(v[0], 1).values; }, {distinct({3, 4})});
  op("cumsum", [](const Tensors& v) { return cumsum(v[0], 0); }, {x});
  op("cumprod", [](const Tensors& v) { return cumprod(v[0], 1); }, {x});
  op("cumprod_with_zero", [](const Tensors& v) { return cumprod(v[0], 0); },
     {tensor({1, 2, 0, 3, -1, 2}, {3, 2}, kFloat64)});
  op(
      "logcumsumexp", [](const Tensors& v) { return logcumsumexp(v[0], 1); }, {x}, false);
  op("cummax", [](const Tensors& v) { return cummax(v[0], 1); }, {distinct({3, 4})});
  op("sort", [](const Tensors& v) { return sort(v[0], 0).values; }, {distinct({3, 4})});
  op("topk", [](const Tensors& v) { return topk(v[0], 2, 1).values; }, {distinct({3, 4})});
  op("softmax", [](const Tensors& v) { return softmax(v[0], -1); }, {x});
  op("softmax_dim0", [](const Tensors& v) { return softmax(v[0], 0); }, {x});
  op("log_softmax", [](const Tensors& v) { return log_softmax(v[0], -1); }, {x});
  // joining and indexing
  op("concat", [](const Tensors& v) { return concat({v[0], v[1], v[0]}, 1); }, {x, random({3, 2})});
  op("stack", [](const Tensors& v) { return stack({v[0], v[1]}, 1); }, {x, y});
  op("split", [](const Tensors& v) { return split(v[0], 3, 1)[0]; }, {x});
  op("pad", [](const Tensors& v) { return pad(v[0], {1, -1, 0, 2}, 3); }, {x});
  op("flip", [](const Tensors& v) { return flip(v[0], {0, 1}); }, {x});
  op("roll", [](const Tensors& v) { return roll(v[0], 3, 1); }, {x});
  op("repeat", [](const Tensors& v) { return repeat(v[0], {2, 1, 3}); }, {x});
  op("repeat_interleave", [](const Tensors& v) { return repeat_interleave(v[0], 2, 1); }, {x});
  op("tril", [](const Tensors& v) { return tril(v[0], 1); }, {x});
  op("triu", [](const Tensors& v) { return triu(v[0]); }, {x});
  op("gather",
     [](const Tensors& v) {
       return gather(v[0], 1, ids({0, 0, 3, 1, 2, 2}, {3, 2}));
     },
     {x});
  op("scatter",
     [](const Tensors& v) {
       return scatter(v[0], 1, ids({0, 3, 1}, {3, 1}), v[1]);
     },
     {x, random({3, 1})});
  op("scatter_add",
     [](const Tensors& v) {
       return scatter_add(v[0], 1, ids({0, 0, 3, 1, 2, 2}, {3, 2}), v[1]);
     },
     {x, random({3, 2})});
  op("index_select",
     [](const Tensors& v) {
       return index_select(v[0], 0, ids({2, 0, 2}, {3}));
     },
     {x});
  op("index_add",
     [](const Tensors& v) {
       return index_add(v[0], 0, ids({2, 0}, {2}), v[1]);
     },
     {x, random({2, 4})});
  op("masked_select", [](const Tensors& v) { return masked_select(v[0], v[0].detach() > 0.0); },
     {x});
  op("embedding",
     [](const Tensors& v) {
       return embedding(v[0], ids({1, 1, 2, 0}, {2, 2}));
     },
     {random({4, 3})});
  // products
  op("matmul", [](const Tensors& v) { return matmul(v[0], v[1]); },
     {random({3, 4}), random({4, 5})});
  op("matmul_broadcast", [](const Tensors& v) { return matmul(v[0], v[1]); },
     {random({2, 1, 3, 4}), random({3, 4, 2})});
  op("matmul_tall", [](const Tensors& v) { return matmul(v[0], v[1]); },
     {random({2, 3, 4}), random({4, 2})});
  op("matmul_vector", [](const Tensors& v) { return matmul(v[0], v[1]); },
     {random({2, 3, 4}), random({4})});
  op("dot", [](const Tensors& v) { return matmul(v[0], v[1]); },
     {random({4}), random({4}, kFloat64, 2)});
  op("linear", [](const Tensors& v) { return linear(v[0], v[1], v[2]); },
     {random({2, 3, 4}), random({5, 4}), random({5})});
  op("einsum_attention",
     [](const Tensors& v) {
       return einsum("bqhd,bkhd->bhqk", {v[0], v[1]});
     },
     {random({2, 3, 2, 4}), random({2, 2, 2, 4})});
  op("einsum_three", [](const Tensors& v) { return einsum("ij,jk,k->i", v); },
     {random({2, 3}), random({3, 4}), random({4})});
  op("einsum_trace", [](const Tensors& v) { return einsum("ii", v); }, {random({3, 3})});
  op("einsum_ellipsis", [](const Tensors& v) { return einsum("...ij,jk->...ik", v); },
     {random({2, 2, 3}), random({3, 2})});
  // norms
  op("layer_norm", [](const Tensors& v) { return layer_norm(v[0], {4}, v[1], v[2]); },
     {x, row, random({4})});
  op("layer_norm_plain", [](const Tensors& v) { return layer_norm(v[0], {3, 4}); }, {x});
  op("rms_norm", [](const Tensors& v) { return rms_norm(v[0], v[1]); }, {x, row});
  op("group_norm", [](const Tensors& v) { return group_norm(v[0], 2, v[1], v[2]); },
     {random({2, 4, 3}), row, random({4})});
  op("batch_norm_train",
     [](const Tensors& v) { return batch_norm(v[0], {}, {}, v[1], v[2], true); },
     {random({3, 2, 2, 2}), random({2}), random({2}, kFloat64, 4)});
  op("batch_norm_eval",
     [](const Tensors& v) {
       return batch_norm(v[0], tensor({0.1, -0.2}, kFloat64), tensor({0.5, 2}, kFloat64), v[1],
                         v[2], false);
     },
     {random({3, 2, 2}), random({2}), random({2}, kFloat64, 4)});
  // convolution and pooling
  op("conv2d",
     [](const Tensors& v) {
       return conv2d(v[0], v[1], v[2],
                     {.stride = {2, 1},
                      .pad_begin = {1, 0},
                      .pad_end = {0, 1},
                      .dilation = {1, 2},
                      .groups = 2});
     },
     {random({2, 4, 5, 6}), random({2, 2, 2, 3}), random({2})});
  op("conv1d", [](const Tensors& v) { return conv1d(v[0], v[1], {}, 1, 2, 0); },
     {random({2, 2, 5}), random({3, 2, 3})});
  op("depthwise",
     [](const Tensors& v) {
       return conv2d(v[0], v[1], {}, {.pad_begin = {2, 2}, .pad_end = {2, 2}, .groups = 3});
     },
     {random({1, 3, 5, 4}), random({3, 1, 5, 5})});
  op("max_pool2d",
     [](const Tensors& v) {
       return max_pool2d(v[0], {.kernel = {2, 2}, .stride = {2, 1}, .padding = {1, 0}});
     },
     {distinct({1, 2, 4, 4})});
  op("avg_pool2d",
     [](const Tensors& v) {
       return avg_pool2d(v[0], {.kernel = {3, 2},
                                .stride = {2, 2},
                                .padding = {1, 1},
                                .ceil_mode = true,
                                .count_include_pad = false});
     },
     {random({2, 2, 5, 4})});
  op("adaptive_avg_pool2d",
     [](const Tensors& v) {
       return adaptive_avg_pool2d(v[0], {2, 3});
     },
     {random({2, 2, 5, 4})});
  // losses
  op("cross_entropy",
     [](const Tensors& v) {
       return cross_entropy(v[0], ids({1, 3, -100}, {3}), {}, "mean", -100, 0.1);
     },
     {x});
  op("cross_entropy_weighted",
     [](const Tensors& v) {
       return cross_entropy(v[0], ids({1, 3, 0}, {3}), tensor({1, 2, 0.5, 0.3}, kFloat64), "mean",
                            -100, 0.2);
     },
     {x});
  op("nll_loss", [](const Tensors& v) { return nll_loss(v[0], ids({1, 3, 0}, {3}), "sum"); }, {x});
  op("mse_loss", [](const Tensors& v) { return mse_loss(v[0], v[1]); }, {x, y});
  op("l1_loss", [](const Tensors& v) { return l1_loss(v[0], v[1]); }, {x, y});
  op("bce", [](const Tensors& v) { return binary_cross_entropy(sigmoid(v[0]), sigmoid(v[1])); },
     {x, y});
  op("bce_logits",
     [](const Tensors& v) { return binary_cross_entropy_with_logits(v[0], sigmoid(v[1])); },
     {x, y});
  // attention
  op("attention_causal",
     [](const Tensors& v) { return attention(v[0], v[1], v[2], {.causal = true, .alibi = true}); },
     {random({1, 4, 3, 4}), random({1, 2, 5, 4}), random({1, 2, 5, 3}, kFloat64, 5)});
  op("attention_bias",
     [](const Tensors& v) { return attention(v[0], v[0], v[0], {.attn_mask = v[1]}); },
     {random({1, 2, 3, 4}), random({3, 3})});
  op("rope_half", [](const Tensors& v) { return rope(v[0], "half"); }, {random({1, 2, 3, 4})});
  op("rope_interleaved", [](const Tensors& v) { return rope(v[0], "interleaved", 100, 2); },
     {random({1, 2, 3, 4})});
  // decompositions: functions of the factors that do not depend on their signs
  op(
      "svd",
      [](const Tensors& v) {
        auto d = svd(v[0]);
        return matmul(d.U * sin(d.S).unsqueeze(-2), d.Vh);
      },
      {random({4, 3})}, false);
  op(
      "svd_wide",
      [](const Tensors& v) {
        auto d = svd(v[0]);
        return matmul(d.U * sin(d.S).unsqueeze(-2), d.Vh);
      },
      {random({2, 3, 4})}, false);
  op(
      "qr",
      [](const Tensors& v) {
        auto d = qr(v[0]);
        return matmul(sin(d.Q), d.R);
      },
      {random({4, 3})}, false);
  op(
      "eigh",
      [](const Tensors& v) {
        auto d = eigh(v[0] + v[0].mT());
        return matmul(d.vectors * sin(d.values), d.vectors.mT());
      },
      {random({3, 3})}, false);
  op("solve", [](const Tensors& v) { return solve(v[0], v[1]); }, {random({3, 3}), random({3, 2})});
  op("inverse", [](const Tensors& v) { return inverse(v[0]); }, {random({3, 3})});
  return c;
}

class Gradients : public ::testing::TestWithParam<OpCase> {};

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

INSTANTIATE_TEST_SUITE_P(Ops, Gradients, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace dropin
