// Functions of one array and their gradients.
#include "kernels/any_array.h"
#include "kernels/elementwise/kernel.h"
#include "kernels/elementwise_cases.h"

namespace dropin::test {
namespace {

using kernels::Unary;
using kernels::UnaryGrad;

constexpr DType kFloats[] = {kFloat32, kFloat64, kBFloat16, kFloat16};

double sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

double softplus(double x) {
  return std::isnan(x) ? x : std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
}

double gelu_tanh(double x) {
  if (std::isinf(x)) return x > 0 ? x : 0;
  return x * sigmoid(2 * 0.7978845608028653559 * (x + 0.044715 * x * x * x));
}

double sign(double x) { return (x > 0) - (x < 0); }

double cdf(double x) { return static_cast<double>(0.5L * std::erfc(-x * std::sqrt(0.5L))); }

double bell(double x) { return 0.39894228040143267794 * std::exp(-x * x / 2); }

struct UnaryCase {
  Unary op;
  const char* name;
  double (*f)(double);
  double lo, hi, ulps, floor;
};

const UnaryCase kUnary[] = {
    {Unary::Neg, "neg", [](double x) { return -x; }, -9, 9, 0, 0},
    {Unary::Abs, "abs", [](double x) { return std::fabs(x); }, -9, 9, 0, 0},
    {Unary::Sign, "sign", sign, -2, 2, 0, 0},
    {Unary::Square, "square", [](double x) { return x * x; }, -9, 9, 1, 0},
    {Unary::Exp, "exp", [](double x) { return std::exp(x); }, -100, 88, 2, 0},
    {Unary::Exp, "exp", [](double x) { return std::exp(x); }, -2, 2, 2, 0},
    {Unary::Exp2, "exp2", [](double x) { return std::exp2(x); }, -140, 127, 2, 0},
    {Unary::Expm1, "expm1", [](double x) { return std::expm1(x); }, -3, 20, 4, 0},
    {Unary::Log, "log", [](double x) { return std::log(x); }, 0, 50, 4, 0},
    {Unary::Log2, "log2", [](double x) { return std::log2(x); }, 0, 50, 2, 0},
    {Unary::Log1p, "log1p", [](double x) { return std::log1p(x); }, -1, 5, 4, 0},
    {Unary::Sqrt, "sqrt", [](double x) { return std::sqrt(x); }, 0, 50, 1, 0},
    {Unary::Rsqrt, "rsqrt", [](double x) { return 1 / std::sqrt(x); }, 0, 50, 2, 0},
    {Unary::Reciprocal, "reciprocal", [](double x) { return 1 / x; }, -4, 4, 1, 0},
    {Unary::Sin, "sin", [](double x) { return std::sin(x); }, -50, 50, 3, 0.3},
    {Unary::Cos, "cos", [](double x) { return std::cos(x); }, -50, 50, 3, 0.3},
    {Unary::Sin, "sin", [](double x) { return std::sin(x); }, -60000, 60000, 3, 0.3},
    {Unary::Tan, "tan", [](double x) { return std::tan(x); }, -1.5, 1.5, 2, 0},
    {Unary::Asin, "asin", [](double x) { return std::asin(x); }, -1, 1, 2, 0},
    {Unary::Acos, "acos", [](double x) { return std::acos(x); }, -1, 1, 2, 0},
    {Unary::Atan, "atan", [](double x) { return std::atan(x); }, -5, 5, 2, 0},
    {Unary::Sinh, "sinh", [](double x) { return std::sinh(x); }, -5, 5, 2, 0},
    {Unary::Cosh, "cosh", [](double x) { return std::cosh(x); }, -5, 5, 2, 0},
    {Unary::Tanh, "tanh", [](double x) { return std::tanh(x); }, -5, 5, 4, 0},
    {Unary::Sigmoid, "sigmoid", sigmoid, -80, 80, 3, 0},
    {Unary::LogSigmoid, "log_sigmoid", [](double x) { return -softplus(-x); }, -30, 30, 4, 0},
    {Unary::Softplus, "softplus", softplus, -30, 30, 4, 0},
    {Unary::Relu, "relu", [](double x) { return x <= 0 ? 0 : x; }, -4, 4, 0, 0},
    {Unary::Silu, "silu", [](double x) { return x == -kInf ? 0 : x * sigmoid(x); }, -40, 40, 4, 0},
    {Unary::Gelu, "gelu", [](double x) { return x == -kInf ? 0 : x * cdf(x); }, -10, 10, 30,
     0},  // far in the tail without FMA; 5 with it
    {Unary::GeluTanh, "gelu_tanh", gelu_tanh, -4, 4, 40,
     0},  // the exponent's rounding is multiplied by it
    {Unary::Erf, "erf", [](double x) { return std::erf(x); }, -5, 5, 3, 0},
    {Unary::Floor, "floor", [](double x) { return std::floor(x); }, -9, 9, 0, 0},
    {Unary::Ceil, "ceil", [](double x) { return std::ceil(x); }, -9, 9, 0, 0},
    {Unary::Round, "round", [](double x) { return std::nearbyint(x); }, -9, 9, 0, 0},
    {Unary::Trunc, "trunc", [](double x) { return std::trunc(x); }, -9, 9, 0, 0},
    {Unary::LogicalNot, "logical_not", [](double x) { return double(x == 0); }, -1, 1, 0, 0},
    {Unary::IsNan, "isnan", [](double x) { return double(std::isnan(x)); }, -1, 1, 0, 0},
    {Unary::IsInf, "isinf", [](double x) { return double(std::isinf(x)); }, -1, 1, 0, 0},
    {Unary::IsFinite, "isfinite", [](double x) { return double(std::isfinite(x)); }, -1, 1, 0, 0},
};

DType unary_type(Unary op, DType t) { return op >= Unary::LogicalNot ? kBool : t; }

TEST(Unary, MatchesDoubleOnEveryFloatTypeAndSize) {
  for (const UnaryCase& c : kUnary)
    for (DType t : kFloats)
      for (int64_t n : {0, 1, 3, 16, 1031}) {
        if (t == kFloat16 && std::max(std::fabs(c.lo), c.hi) > 1000) continue;
        Array x(t, {n}), y(unary_type(c.op, t), {n});
        x.random(c.lo, c.hi);
        run<kernels::unary>(kCPU, c.op, x.in(), y.out());
        // in 16 bits the input is what counts, and the result is rounded once
        expect_close(
            y, [&](int64_t i) { return c.f(x[i]); },
            std::max(c.ulps, is_floating(y.dtype()) ? 0.51 : 0.0), c.floor,
            std::string(c.name) + " " + name(t));
      }
}

TEST(Unary, TreatsSpecialValuesLikeTheCLibrary) {
  const std::vector<double> special = {0.0,   -0.0, 1,     -1,    kInf, -kInf, kNaN, 0.5,
                                       -0.5,  1e30, -1e30, 88.7,  89,   -87.4, -104, -200,
                                       1e-40, 2,    -2,    709.7, -745, 710};
  for (const UnaryCase& c : kUnary)
    for (DType t : {kFloat32, kFloat64}) {
      const int64_t n = static_cast<int64_t>(special.size());
      Array x(t, {n}), y(unary_type(c.op, t), {n});
      x.values(special);
      run<kernels::unary>(kCPU, c.op, x.in(), y.out());
      expect_close(
          y, [&](int64_t i) { return c.f(x[i]); }, std::max(c.ulps, 4.0),
          std::max(c.floor, t == kFloat32 ? 1e-28 : 1e-290),
          std::string(c.name) + " special " + name(t));
    }
}

TEST(Unary, TakesEveryLayout) {
  for (Layout from : kLayouts)
    for (Layout to : kLayouts)
      for (const Sizes& s : {Sizes{}, Sizes{1}, Sizes{5, 7}, Sizes{3, 70, 130}, Sizes{2, 1, 3, 5},
                             Sizes{4, 0, 3}, Sizes{300, 3, 200}})
        for (DType t : {kFloat32, kFloat16, kFloat64}) {
          Array x(t, s, from), y(t, s, to);
          x.random(-3, 3);
          with_threads([&] { run<kernels::unary>(kCPU, Unary::Square, x.in(), y.out()); });
          expect_close(
              y, [&](int64_t i) { return x[i] * x[i]; }, 1, 0, "square");
        }
}

TEST(Unary, ReadsBroadcastInputs) {
  Array x(kFloat32, {4, 1, 3});
  x.random(-2, 2);
  const Sizes s = {4, 70, 3};
  Array y(kFloat32, s);
  run<kernels::unary>(kCPU, Unary::Neg, x.broadcast(s), y.out());
  expect_close(
      y, [&](int64_t i) { return -x[i / 210 * 3 + i % 3]; }, 0, 0, "neg");
}

TEST(Unary, IntegersWrapAndOthersAreRefused) {
  for (DType t : kInts) {
    Array x(t, {37}), y(t, {37});
    x.random(t == kUInt8 ? 0 : -11, 11);
    run<kernels::unary>(kCPU, Unary::Square, x.in(), y.out());
    expect_close(
        y, [&](int64_t i) { return x[i] * x[i]; }, 0, 0, "square");
    run<kernels::unary>(kCPU, Unary::Sign, x.in(), y.out());
    expect_close(
        y, [&](int64_t i) { return sign(x[i]); }, 0, 0, "sign");
    if (t != kUInt8) {
      run<kernels::unary>(kCPU, Unary::Abs, x.in(), y.out());
      expect_close(
          y, [&](int64_t i) { return std::fabs(x[i]); }, 0, 0, "abs");
    }
    EXPECT_THROW(run<kernels::unary>(kCPU, Unary::Exp, x.in(), y.out()), DTypeError);
  }
  Array x(kInt8, {1}), y(kInt8, {1});
  x.set(0, -128);
  run<kernels::unary>(kCPU, Unary::Neg, x.in(), y.out());
  EXPECT_EQ(y[0], -128);
}

TEST(UnaryGrad, MatchesTheDerivative) {
  struct Case {
    UnaryGrad op;
    const char* name;
    double (*slope)(double);
    double lo, hi, ulps;
  };
  const Case cases[] = {
      {UnaryGrad::Tanh, "tanh", [](double y) { return 1 - y * y; }, -0.9, 0.9, 6},
      {UnaryGrad::Sigmoid, "sigmoid", [](double y) { return y * (1 - y); }, 0, 1, 4},
      {UnaryGrad::Exp, "exp", [](double y) { return y; }, 0, 4, 1},
      {UnaryGrad::Sqrt, "sqrt", [](double y) { return 0.5 / y; }, 0.1, 4, 2},
      {UnaryGrad::Rsqrt, "rsqrt", [](double y) { return -0.5 * y * y * y; }, 0.1, 4, 4},
      {UnaryGrad::Reciprocal, "reciprocal", [](double y) { return -y * y; }, -4, 4, 3},
      {UnaryGrad::Relu, "relu", [](double y) { return double(y > 0); }, -1, 1, 0},
      {UnaryGrad::Log, "log", [](double x) { return 1 / x; }, 0.1, 4, 1},
      {UnaryGrad::Silu, "silu", [](double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); },
       -1, 20, 10},
      {UnaryGrad::Gelu, "gelu", [](double x) { return cdf(x) + x * bell(x); }, -0.6, 8, 6},
      {UnaryGrad::Softplus, "softplus", sigmoid, -30, 30, 4},
      {UnaryGrad::Square, "square", [](double x) { return 2 * x; }, -3, 3, 1},
      {UnaryGrad::Abs, "abs", sign, -3, 3, 0},
      {UnaryGrad::Sin, "sin", [](double x) { return std::cos(x); }, -1.2, 1.2, 4},
      {UnaryGrad::Cos, "cos", [](double x) { return -std::sin(x); }, 0.1, 3, 4},
      {UnaryGrad::GeluTanh, "gelu_tanh",
       [](double x) {
         const double h = 1e-5;
         return (gelu_tanh(x + h) - gelu_tanh(x - h)) / (2 * h);
       },
       -0.6, 4, 40},
  };
  for (const Case& c : cases)
    for (DType t : kFloats)
      for (int64_t n : {1, 77}) {
        if (c.op == UnaryGrad::GeluTanh && t == kFloat64)
          continue;  // the reference is a difference quotient
        Array g(t, {n}), s(t, {n}), gx(t, {n});
        g.random(-2, 2);
        s.random(c.lo, c.hi, 5);
        run<kernels::unary_grad>(kCPU, c.op, g.in(), s.in(), gx.out());
        expect_close(
            gx, [&](int64_t i) { return g[i] * c.slope(s[i]); }, std::max(c.ulps, 0.6), 0.02,
            std::string("grad ") + c.name + " " + name(t));
      }
}

TEST(UnaryGrad, HasLimitsAtLargeAndInfiniteValues) {
  const std::vector<double> at = {-kInf, -1e38, -1e20, -1000, 1000, 1e20, 1e38, kInf, kNaN};
  const int64_t n = static_cast<int64_t>(at.size());
  for (UnaryGrad op : {UnaryGrad::Silu, UnaryGrad::Gelu, UnaryGrad::GeluTanh, UnaryGrad::Softplus})
    for (DType t : {kFloat32, kFloat64, kBFloat16}) {
      Array g(t, {n}), s(t, {n}), gx(t, {n});
      g.values({3});
      s.values(at);
      run<kernels::unary_grad>(kCPU, op, g.in(), s.in(), gx.out());
      expect_close(
          gx, [&](int64_t i) { return std::isnan(at[i]) ? kNaN
                                      : at[i] > 0       ? 3
                                                        : 0; }, 0, 0,
          "limit");
    }
}

}  // namespace
}  // namespace dropin::test
