// Values and gradients at zeros, ties, equal values, ends of domains, saturation and infinities.
#include <fmt/format.h>

#include <functional>
#include <map>
#include <optional>

#include "support.h"

namespace dropin {
namespace {

struct Case {
  const char* name;
  DType dtype;
  std::vector<std::vector<double>> inputs;
  std::vector<double> result;
  std::vector<std::vector<double>> gradients;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
#include "special_points/activations.inc"
#include "special_points/functions.inc"
#include "special_points/losses.inc"
#include "special_points/pairs.inc"
#include "special_points/reductions.inc"
#include "special_points/rows.inc"
#include "special_points/with_numbers.inc"
  };
  return all;
}

using In = const Tensors&;
using Functions = std::map<std::string, std::function<Tensor(In)>>;

/// 1, 2, 3, ... times x, so that a sum does not hide which element has which gradient.
Tensor counted(const Tensor& x) { return x * arange(1, x.numel() + 1, 1, x.dtype()); }
Tensor cosine(const Tensor& a, const Tensor& b) {  // torch bounds each norm from below by eps
  auto length = [](const Tensor& x) { return maximum(norm(x), scalar(1e-8, x.options())); };
  return sum(a / length(a) * (b / length(b)));
}

const Functions& of_one() {
  static const Functions m = {
#define UNARY(NAME)                        \
  {                                        \
#NAME, [](In x) { return NAME(x[0]); } \
  }
      UNARY(neg),   UNARY(abs),      UNARY(sign),       UNARY(square),      UNARY(exp),
      UNARY(exp2),  UNARY(expm1),    UNARY(log),        UNARY(log2),        UNARY(log1p),
      UNARY(sqrt),  UNARY(rsqrt),    UNARY(reciprocal), UNARY(sin),         UNARY(cos),
      UNARY(tan),   UNARY(asin),     UNARY(acos),       UNARY(atan),        UNARY(sinh),
      UNARY(cosh),  UNARY(tanh),     UNARY(erf),        UNARY(floor),       UNARY(ceil),
      UNARY(round), UNARY(trunc),    UNARY(sigmoid),    UNARY(logsigmoid),  UNARY(softplus),
      UNARY(relu),  UNARY(relu6),    UNARY(leaky_relu), UNARY(elu),         UNARY(selu),
      UNARY(silu),  UNARY(softsign), UNARY(hardswish),  UNARY(hardsigmoid), UNARY(gelu),
#undef UNARY
  };
  return m;
}
const Functions& of_one_and_numbers() {
  const double inf = INFINITY;
  static const Functions m = {
      {"softplus(2, 5)", [](In x) { return softplus(x[0], 2, 5); }},
      {"leaky_relu(-1)", [](In x) { return leaky_relu(x[0], -1); }},
      {"elu(2)", [](In x) { return elu(x[0], 2); }},
      {"gelu_tanh", [](In x) { return gelu(x[0], "tanh"); }},
      {"clamp(0, 1)", [](In x) { return clamp(x[0], 0, 1); }},
      {"clamp(1, 0)", [](In x) { return clamp(x[0], 1, 0); }},
      {"clamp(-inf, 0)", [inf](In x) { return clamp(x[0], -inf, 0); }},
      {"x * 0", [](In x) { return x[0] * 0.0; }},
      {"x / 0", [](In x) { return x[0] / 0.0; }},
      {"1 / x", [](In x) { return 1.0 / x[0]; }},
      {"0 / x", [](In x) { return 0.0 / x[0]; }},
      {"1 - x", [](In x) { return 1.0 - x[0]; }},
      {"2 ^ x", [](In x) { return pow(2.0, x[0]); }},
      {"0 ^ x", [](In x) { return pow(0.0, x[0]); }},
      {"x % 2", [](In x) { return remainder(x[0], 2.0); }},
      {"abs(x) ^ 0.5", [](In x) { return sqrt(abs(x[0])); }},
      {"where(x > 0, log, x)", [](In x) { return where(x[0] > 0, log(x[0]), x[0]); }},
      {"masked_fill(x == 0, 1)", [](In x) { return masked_fill(x[0], x[0] == 0, 1) * 2; }},
      {"x ^ 0", [](In x) { return pow(x[0], 0); }},
      {"x ^ 1", [](In x) { return pow(x[0], 1); }},
      {"x ^ 2", [](In x) { return pow(x[0], 2); }},
      {"x ^ 3", [](In x) { return pow(x[0], 3); }},
      {"x ^ 0.5", [](In x) { return pow(x[0], 0.5); }},
      {"x ^ -0.5", [](In x) { return pow(x[0], -0.5); }},
      {"x ^ -1", [](In x) { return pow(x[0], -1); }},
      {"x ^ -2", [](In x) { return pow(x[0], -2); }},
      {"x ^ 1.5", [](In x) { return pow(x[0], 1.5); }},
  };
  return m;
}
const Functions& of_two() {
  static const Functions m = {
      {"add", [](In x) { return add(x[0], x[1]); }},
      {"sub", [](In x) { return sub(x[0], x[1]); }},
      {"mul", [](In x) { return mul(x[0], x[1]); }},
      {"div", [](In x) { return div(x[0], x[1]); }},
      {"maximum", [](In x) { return maximum(x[0], x[1]); }},
      {"minimum", [](In x) { return minimum(x[0], x[1]); }},
      {"atan2", [](In x) { return atan2(x[0], x[1]); }},
      {"pow", [](In x) { return pow(x[0], x[1]); }},
      {"remainder", [](In x) { return remainder(x[0], x[1]); }},
      {"where(a > b, a, b)", [](In x) { return where(x[0] > x[1], x[0], x[1]); }},
      {"mse_loss", [](In x) { return mse_loss(x[0], x[1], "none"); }},
      {"l1_loss", [](In x) { return l1_loss(x[0], x[1], "none"); }},
      {"hypot", [](In x) { return sqrt(x[0] * x[0] + x[1] * x[1]); }},
      {"binary_cross_entropy", [](In x) { return binary_cross_entropy(x[0], x[1], "none"); }},
      {"binary_cross_entropy_with_logits",
       [](In x) { return binary_cross_entropy_with_logits(x[0], x[1], "none"); }},
  };
  return m;
}
const Functions& elementwise() {
  static const Functions m = [] {
    Functions all = of_one();
    all.insert(of_one_and_numbers().begin(), of_one_and_numbers().end());
    all.insert(of_two().begin(), of_two().end());
    return all;
  }();
  return m;
}
const Functions& over_a_row() {
  static const Functions m = {
      {"sum", [](In x) { return sum(x[0]); }},
      {"mean", [](In x) { return mean(x[0]); }},
      {"prod", [](In x) { return prod(x[0]); }},
      {"amax", [](In x) { return amax(x[0]); }},
      {"amin", [](In x) { return amin(x[0]); }},
      {"max", [](In x) { return max(x[0], 0).values; }},
      {"min", [](In x) { return min(x[0], 0).values; }},
      {"var", [](In x) { return var(x[0]); }},
      {"var(0)", [](In x) { return var(x[0], {}, 0); }},
      {"std", [](In x) { return std_dev(x[0]); }},
      {"std(0)", [](In x) { return std_dev(x[0], {}, 0); }},
      {"norm", [](In x) { return norm(x[0]); }},
      {"logsumexp", [](In x) { return logsumexp(x[0], {0}); }},
      {"softmax", [](In x) { return counted(softmax(x[0], 0)); }},
      {"log_softmax", [](In x) { return counted(log_softmax(x[0], 0)); }},
      {"cumsum", [](In x) { return cumsum(x[0], 0); }},
      {"cumprod", [](In x) { return cumprod(x[0], 0); }},
      {"logcumsumexp", [](In x) { return logcumsumexp(x[0], 0); }},
      {"cummax", [](In x) { return cummax(x[0], 0); }},
      {"sort", [](In x) { return counted(sort(x[0]).values); }},
      {"layer_norm", [](In x) { return counted(layer_norm(x[0], x[0].sizes())); }},
      {"rms_norm", [](In x) { return counted(rms_norm(x[0])); }},
      {"cross_entropy", [](In x) { return cross_entropy(x[0].unsqueeze(0), tensor({0}, kInt64)); }},
      {"nll_loss", [](In x) { return nll_loss(x[0].unsqueeze(0), tensor({0}, kInt64)); }},
      {"distance", [](In x) { return norm(x[0] - x[0].detach()); }},
      {"cosine_similarity", [](In x) { return cosine(x[0], flip(x[0].detach(), {0})); }},
      {"cosine_similarity of two", [](In x) { return cosine(x[0], x[1]); }},
      {"distance of two", [](In x) { return norm(x[0] - x[1]); }},
      {"normalize", [](In x) { return counted(x[0] / clamp(norm(x[0]), 1e-12, INFINITY)); }},
  };
  return m;
}

std::string text(const std::vector<double>& v) {
  std::string s;
  for (double x : v) s += " " + fmt::format("{}", x);
  return s;
}

double others(const std::vector<double>& x, std::size_t i, std::size_t end) {
  double p = 1;
  for (std::size_t k = 0; k < end; ++k)
    if (k != i) p *= x[k];
  return p;
}

/// Where torch computes 0 * inf or inf / inf, or overflows on the way, the limit that we give: of
/// the result, or of the gradient of the first input. Nothing where we give what torch gives.
std::optional<double> limit_of(const Case& c, bool result, std::size_t i) {
  const std::vector<double>& x = c.inputs[0];
  const std::string_view n = c.name;
  if (n == "silu" || n == "gelu" || n == "gelu_tanh") {  // x above, 0 below
    if (result) return x[i] == -INFINITY ? std::optional<double>(-0.0) : std::nullopt;
    return std::abs(x[i]) > 1e20 ? std::optional<double>(x[i] > 0 ? 1 : 0) : std::nullopt;
  }
  if (result) return {};
  if (n == "0 / x")
    return std::abs(x[i]) > 0 ? std::optional<double>(-0.0) : std::nullopt;  // -0 / x^2
  if (n == "prod") return others(x, i, x.size());
  if (n == "cumprod") {
    double sum = 0;
    for (std::size_t j = i; j < x.size(); ++j) sum += others(x, i, j + 1);
    return sum;
  }
  if (n == "logsumexp" && std::all_of(x.begin(), x.end(), [](double v) { return v == -INFINITY; }))
    return 0;  // a row that is masked as a whole
  if (n == "normalize" && std::any_of(x.begin(), x.end(), [](double v) { return std::isinf(v); }))
    return std::isfinite(x[i]) ? std::optional<double>(0) : std::nullopt;
  return {};
}

/// Each number apart: exact where torch has infinity or NaN, else to the dtype's precision.
bool is_same(double got, double want, DType dtype) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want)) return got == want;
  const bool wide = dtype == kFloat64;
  return std::abs(got - want) <= (wide ? 1e-7 : 1e-5) * std::abs(want) + (wide ? 1e-12 : 5e-7);
}
void expect_same(const char* what, const Tensor& got, const std::vector<double>& want,
                 const Case& c, std::size_t input = 0) {
  const std::vector<double> v = got.detach().to_vector();
  ASSERT_EQ(v.size(), want.size()) << what;
  const std::string_view kind = what;
  for (std::size_t i = 0; i < v.size(); ++i) {
    std::string at = std::string(what) + " of " + c.name + " (" + name(c.dtype) + ") at";
    if (c.inputs[0].size() == want.size())
      for (const auto& x : c.inputs) at += " " + fmt::format("{}", x[i]);
    else
      at += text(c.inputs[0]);
    const auto limit =
        std::isfinite(want[i]) || input ? std::nullopt : limit_of(c, kind == "result", i);
    // a gradient made of operations (a recorded one, and cumprod's) may be torch's, or the limit
    const bool torchs = is_same(v[i], want[i], c.dtype);
    if (limit && !(torchs && (kind == "recorded gradient" || c.name == std::string("cumprod"))))
      EXPECT_TRUE(is_same(v[i], *limit, c.dtype)) << at << ": got " << v[i] << ", limit " << *limit;
    else
      EXPECT_TRUE(torchs) << at << ": got " << v[i] << ", torch " << want[i];
  }
}

void check(const Case& c, const std::function<Tensor(In)>& f) {
  for (const bool create_graph : {false, true}) {  // the fused gradient, and the recorded one
    Tensors xs;
    for (const auto& x : c.inputs) xs.push_back(tensor(x, c.dtype).requires_grad_());
    const Tensor y = f(xs);
    expect_same("result", y, c.result, c);
    const Tensors g = grad({sum(y)}, xs, {}, true, create_graph, true);
    for (std::size_t i = 0; i < xs.size(); ++i)
      expect_same(create_graph ? "recorded gradient" : "gradient",
                  g[i].defined() ? g[i] : zeros_like(xs[i]), c.gradients[i], c, i);
  }
}

TEST(SpecialPoints, EveryElementwiseFunctionAsTorch) {
  std::size_t points = 0;
  for (const Case& c : cases())
    if (const auto f = elementwise().find(c.name); f != elementwise().end()) {
      check(c, f->second);
      points += c.inputs[0].size();
    }
  EXPECT_GT(points, 4000u);
}
TEST(SpecialPoints, EveryFunctionOfARowAsTorch) {
  std::size_t rows = 0;
  for (const Case& c : cases())
    if (const auto f = over_a_row().find(c.name); f != over_a_row().end()) {
      check(c, f->second);
      ++rows;
    }
  EXPECT_GT(rows, 600u);
}
TEST(SpecialPoints, EveryEntryIsKnown) {
  for (const Case& c : cases())
    EXPECT_EQ(elementwise().count(c.name) + over_a_row().count(c.name), 1u) << c.name;
}

}  // namespace
}  // namespace dropin
