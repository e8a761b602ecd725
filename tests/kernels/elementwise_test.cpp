#include "kernels/any_array.h"
#include "kernels/elementwise/kernel.h"

namespace dropin::test {
namespace {

using kernels::Binary;
using kernels::Unary;
using kernels::UnaryGrad;

constexpr DType kFloats[] = {kFloat32, kFloat64, kBFloat16, kFloat16};
constexpr DType kInts[] = {kInt8, kUInt8, kInt32, kInt64};
constexpr DType kAll[] = {kFloat32, kFloat64, kBFloat16, kFloat16, kInt8,
                          kUInt8,   kInt32,   kInt64,    kBool};

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
DType result_type(Unary op, DType t) { return op >= Unary::LogicalNot ? kBool : t; }

TEST(Unary, MatchesDoubleOnEveryFloatTypeAndSize) {
  for (const UnaryCase& c : kUnary)
    for (DType t : kFloats)
      for (int64_t n : {0, 1, 3, 16, 1031}) {
        if (t == kFloat16 && std::max(std::fabs(c.lo), c.hi) > 1000) continue;
        Array x(t, {n}), y(result_type(c.op, t), {n});
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
      Array x(t, {n}), y(result_type(c.op, t), {n});
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

double remainder_of(double a, double b) {
  const double r = std::fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
struct BinaryCase {
  Binary op;
  const char* name;
  double (*f)(double, double);
  double ulps;
};
const BinaryCase kBinary[] = {
    {Binary::Add, "add", [](double a, double b) { return a + b; }, 1},
    {Binary::Sub, "sub", [](double a, double b) { return a - b; }, 1},
    {Binary::Mul, "mul", [](double a, double b) { return a * b; }, 1},
    {Binary::Div, "div", [](double a, double b) { return a / b; }, 1},
    {Binary::FloorDiv, "floor_div", [](double a, double b) { return std::floor(a / b); }, 0},
    {Binary::Remainder, "remainder", remainder_of, 1},
    {Binary::Pow, "pow", [](double a, double b) { return std::pow(a, b); }, 2},
    {Binary::Maximum, "maximum",
     [](double a, double b) { return std::isnan(a) || std::isnan(b) ? kNaN : std::max(a, b); }, 0},
    {Binary::Minimum, "minimum",
     [](double a, double b) { return std::isnan(a) || std::isnan(b) ? kNaN : std::min(a, b); }, 0},
    {Binary::Atan2, "atan2", [](double a, double b) { return std::atan2(a, b); }, 2},
    {Binary::Eq, "eq", [](double a, double b) { return double(a == b); }, 0},
    {Binary::Ne, "ne", [](double a, double b) { return double(a != b); }, 0},
    {Binary::Lt, "lt", [](double a, double b) { return double(a < b); }, 0},
    {Binary::Le, "le", [](double a, double b) { return double(a <= b); }, 0},
    {Binary::Gt, "gt", [](double a, double b) { return double(a > b); }, 0},
    {Binary::Ge, "ge", [](double a, double b) { return double(a >= b); }, 0},
    {Binary::LogicalAnd, "and", [](double a, double b) { return double(a != 0 && b != 0); }, 0},
    {Binary::LogicalOr, "or", [](double a, double b) { return double(a != 0 || b != 0); }, 0},
    {Binary::LogicalXor, "xor", [](double a, double b) { return double((a != 0) != (b != 0)); }, 0},
};
DType result_type(Binary op, DType t) { return op >= Binary::Eq ? kBool : t; }

TEST(Binary, MatchesDoubleOnEveryDType) {
  for (const BinaryCase& c : kBinary)
    for (DType t : kAll)
      for (int64_t n : {0, 1, 16, 1031}) {
        if (!is_floating(t) && (c.op == Binary::Div || c.op == Binary::Atan2)) continue;
        if (t == kBool && c.op < Binary::Eq) continue;
        if (t == kUInt8 && c.op == Binary::Sub) continue;
        if (t == kBFloat16 && c.op == Binary::FloorDiv)
          continue;  // double rounding may cross an integer
        Array a(t, {n}), b(t, {n}), y(result_type(c.op, t), {n});
        a.random(c.op == Binary::Pow ? 0
                 : t == kUInt8       ? 0
                                     : -9,
                 c.op == Binary::Pow && !is_floating(t) ? 5 : 9, 1);
        b.random(c.op == Binary::Pow ? 0
                 : t == kUInt8       ? 1
                                     : -9,
                 c.op == Binary::Pow && !is_floating(t) ? 3 : 9, 2);
        if (c.op == Binary::FloorDiv || c.op == Binary::Remainder)
          for (int64_t i = 0; i < n; ++i)
            if (b[i] == 0) b.set(i, 3);
        run<kernels::binary>(kCPU, c.op, a.in(), b.in(), y.out());
        expect_close(
            y, [&](int64_t i) { return c.f(a[i], b[i]); }, c.ulps, 0,
            std::string(c.name) + " " + name(t));
      }
}

TEST(Binary, SpecialValues) {
  const std::vector<double> v = {0.0, -0.0, 1, -1, kInf, -kInf, kNaN, 2.5, -2.5};
  const int64_t n = 81;
  for (DType t : {kFloat32, kFloat64}) {
    Array a(t, {n}), b(t, {n});
    for (int64_t i = 0; i < n; ++i) a.set(i, v[i / 9]), b.set(i, v[i % 9]);
    for (const BinaryCase& c : kBinary) {
      if (c.op == Binary::FloorDiv || c.op == Binary::Remainder) continue;
      Array y(result_type(c.op, t), {n});
      run<kernels::binary>(kCPU, c.op, a.in(), b.in(), y.out());
      expect_close(
          y, [&](int64_t i) { return c.f(a[i], b[i]); }, c.ulps, 0,
          std::string(c.name) + " special");
    }
  }
}

TEST(Binary, DivisionFollowsPythonsSign) {
  const double rows[][4] = {
      {7, 3, 2, 1}, {-7, 3, -3, 2}, {7, -3, -3, -2}, {-7, -3, 2, -1}, {6, -3, -2, 0}};
  for (DType t : {kFloat32, kFloat64, kInt8, kInt32, kInt64})
    for (const auto& r : rows) {
      Array a(t, {1}), b(t, {1}), y(t, {1});
      a.set(0, r[0]), b.set(0, r[1]);
      run<kernels::binary>(kCPU, Binary::FloorDiv, a.in(), b.in(), y.out());
      EXPECT_EQ(y[0], r[2]) << name(t);
      run<kernels::binary>(kCPU, Binary::Remainder, a.in(), b.in(), y.out());
      EXPECT_EQ(y[0], r[3]) << name(t);
    }
  Array a(kInt32, {3}), zero(kInt32, {3}), y(kInt32, {3});
  EXPECT_THROW(run<kernels::binary>(kCPU, Binary::FloorDiv, a.in(), zero.in(), y.out()), Error);
  a.set(0, -2147483648.0);
  zero.values({-1});
  run<kernels::binary>(kCPU, Binary::FloorDiv, a.in(), zero.in(), y.out());  // must not trap
  EXPECT_EQ(y[0], -2147483648.0);
}

TEST(Binary, BroadcastsAndTakesEveryLayout) {
  for (const Sizes& s : {Sizes{5, 7}, Sizes{3, 65, 67}, Sizes{40, 3, 300}, Sizes{2, 4, 100, 100}})
    for (Layout la : kLayouts)
      for (Layout ly : kLayouts)
        for (DType t : {kFloat32, kFloat64, kBFloat16, kInt32})
          for (Binary op : {Binary::Add, Binary::Lt}) {
            Array a(t, s, la), row(t, {s.back()}),
                column(t,
                       [&] {
                         Sizes c(s.size(), 1);
                         c[0] = s[0];
                         return c;
                       }()),
                y(result_type(op, t), s, ly);
            a.random(-9, 9, 1), row.random(-9, 9, 2), column.random(-9, 9, 3);
            auto f = [&](double u, double v) { return op == Binary::Add ? u + v : double(u < v); };
            run<kernels::binary>(kCPU, op, a.in(), row.broadcast(s), y.out());
            expect_close(
                y, [&](int64_t i) { return f(a[i], row[i % s.back()]); }, 1, 0, "row");
            run<kernels::binary>(kCPU, op, column.broadcast(s), a.in(), y.out());
            const int64_t inner = count(s) / s[0];
            with_threads(
                [&] { run<kernels::binary>(kCPU, op, column.broadcast(s), a.in(), y.out()); });
            expect_close(
                y, [&](int64_t i) { return f(column[i / inner], a[i]); }, 1, 0, "column");
          }
}

TEST(Binary, RepeatsShortRowsAndTakesLargeTransposedOperands) {
  for (const Sizes& s : {Sizes{20000, 3}, Sizes{701, 67}, Sizes{5, 90, 101}}) {
    Array x(kFloat32, s, Layout::Transposed), y(kFloat32, s), bias(kFloat32, {s.back()}),
        z(kBFloat16, s, Layout::Transposed), w(kFloat32, s);
    x.random(-2, 2, 1), bias.random(-2, 2, 2), z.random(-2, 2, 3);
    with_threads(
        [&] { run<kernels::binary>(kCPU, Binary::Add, x.in(), bias.broadcast(s), y.out()); });
    expect_close(
        y, [&](int64_t i) { return x[i] + bias[i % s.back()]; }, 1, 0, "row");
    run<kernels::binary>(kCPU, Binary::Sub, y.in(), x.in(), y.out());
    expect_close(
        y,
        [&](int64_t i) {
          return static_cast<double>(static_cast<float>(x[i] + bias[i % s.back()])) - x[i];
        },
        1, 0, "over its input");
    run<kernels::copy>(kCPU, z.in(), w.out());
    expect_close(
        w, [&](int64_t i) { return z[i]; }, 0, 0, "converted");
  }
}

TEST(Binary, MayWriteOverItsInput) {
  Array a(kFloat32, {1000}), b(kFloat32, {1000});
  a.random(-1, 1, 1), b.random(-1, 1, 2);
  std::vector<double> want;
  for (int64_t i = 0; i < 1000; ++i) want.push_back(a[i] - b[i]);
  run<kernels::binary>(kCPU, Binary::Sub, a.in(), b.in(), a.out());
  expect_close(
      a, [&](int64_t i) { return want[i]; }, 1, 0, "sub in place");
}

TEST(Affine, AndAxpyAndClampAndWhere) {
  for (DType t : kAll) {
    if (t == kBool) continue;
    const Sizes s = {3, 77};
    Array x(t, s, Layout::Strided), y(t, s), lo(t, {1, 77});
    const double a = t == kUInt8 ? 1 : -9;
    x.random(a, 9, 1), y.random(a, 9, 2), lo.random(a, 9, 3);
    Array before = y;
    run<kernels::affine>(kCPU, x.in(), 2.0, 3.0, y.out());
    expect_close(
        y, [&](int64_t i) { return 2 * x[i] + 3; }, 1, 0, "affine");
    y = before;
    run<kernels::axpy>(kCPU, 2.0, lo.broadcast(s), y.out());
    expect_close(
        y, [&](int64_t i) { return before[i] + 2 * lo[i % 77]; }, 1, 0, "axpy");
    run<kernels::clamp>(kCPU, x.in(), 2.0, 5.0, y.out());
    expect_close(
        y, [&](int64_t i) { return std::min(std::max(x[i], 2.0), 5.0); }, 0, 0, "clamp");
    for (Layout l : {Layout::Dense, Layout::Transposed}) {
      Array c(kBool, s, l), one(t, {1, 1});
      c.random(0, 1, 4), one.set(0, 7);
      run<kernels::where>(kCPU, c.in(), x.in(), one.broadcast(s), y.out());
      expect_close(
          y, [&](int64_t i) { return c[i] ? x[i] : 7; }, 0, 0, "where");
      run<kernels::where>(kCPU, c.in(), lo.broadcast(s), x.in(), y.out());
      expect_close(
          y, [&](int64_t i) { return c[i] ? lo[i % 77] : x[i]; }, 0, 0, "where");
    }
  }
  Array x(kFloat32, {3}), y(kFloat32, {3});
  x.values({kNaN, kInf, -kInf});
  run<kernels::clamp>(kCPU, x.in(), -1.0, 1.0, y.out());
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_EQ(y[1], 1);
  EXPECT_EQ(y[2], -1);
}

TEST(Affine, FactorsBeyondTheIntegersSaturate) {
  Array x(kInt64, {3}), y(kInt64, {3});
  x.values({0, 1, -1});
  run<kernels::affine>(kCPU, x.in(), 1.0, kInf, y.out());
  EXPECT_EQ(y.out().as<int64_t>()[0], std::numeric_limits<int64_t>::max());
  run<kernels::affine>(kCPU, x.in(), kNaN, -2.5, y.out());
  EXPECT_EQ(y[1], -2);
  run<kernels::axpy>(kCPU, -1e300, x.in(), y.out());
  EXPECT_EQ(y[0], -2);
  Array b(kInt8, {2}), c(kInt8, {2});
  b.values({-128, 127});
  run<kernels::clamp>(kCPU, b.in(), kNaN, kNaN, c.out());
  EXPECT_EQ(c[0], -128);
  EXPECT_EQ(c[1], 127);
}

double converted(double v, DType from, DType to) {
  if (to == kBool) return v != 0;
  if (is_floating(to) || !is_floating(from)) return v;
  if (std::isnan(v)) return 0;
  const double lo = to == kInt8 ? -128 : to == kUInt8 ? 0 : to == kInt32 ? -2147483648.0 : -0x1p63;
  const double hi = to == kInt8 ? 127 : to == kUInt8 ? 255 : to == kInt32 ? 2147483647.0 : 0x1p63;
  return std::trunc(std::min(std::max(v, lo), hi));
}

TEST(Copy, ConvertsEveryPairInEveryLayout) {
  for (DType from : kAll)
    for (DType to : kAll)
      for (Layout lf : kLayouts)
        for (Layout lt : kLayouts) {
          const Sizes s = {3, 17, 37};
          Array x(from, s, lf), y(to, s, lt);
          x.random(from == kUInt8 || to == kUInt8 ? 0 : -100, 100);
          run<kernels::copy>(kCPU, x.in(), y.out());
          expect_close(
              y, [&](int64_t i) { return converted(x[i], from, to); }, 0.51, 0,
              std::string(name(from)) + " to " + name(to));
        }
}

TEST(Copy, SaturatesAndRounds) {
  for (DType from : {kFloat32, kFloat64, kBFloat16})
    for (DType to : kInts) {
      Array x(from, {7}), y(to, {7});
      x.values({kNaN, kInf, -kInf, 1e30, -1e30, -1.75, 3.99});
      run<kernels::copy>(kCPU, x.in(), y.out());
      expect_close(
          y, [&](int64_t i) { return converted(x[i], from, to); }, 0, 0,
          std::string(name(from)) + " to " + name(to));
    }
  for (DType to :
       {kBFloat16, kFloat16}) {  // vectors agree with the scalar conversion, ties included
    Array x(kFloat32, {4096}), y(to, {4096});
    std::mt19937 rng(3);
    for (int64_t i = 0; i < 4096; ++i) {
      std::uint32_t u = static_cast<std::uint32_t>(rng());
      if (i % 3 == 0) u = (u & 0xffff0000u) | 0x8000u;
      if (i % 3 == 1) u = (u & 0x87ffe000u) | 0x38001000u;
      float f;
      std::memcpy(&f, &u, 4);
      x.set(i, f);
    }
    x.set(0, kInf), x.set(1, -kInf), x.set(2, kNaN), x.set(3, 65519.9), x.set(4, 65520),
        x.set(5, 1e-8), x.set(6, 3e-8), x.set(7, -6e-5);
    run<kernels::copy>(kCPU, x.in(), y.out());
    expect_close(
        y,
        [&](int64_t i) {
          const float f = static_cast<float>(x[i]);
          return static_cast<double>(to == kBFloat16 ? static_cast<float>(bfloat16(f))
                                                     : static_cast<float>(float16(f)));
        },
        0, 0, name(to));
    Array back(kFloat32, {4096});
    run<kernels::copy>(kCPU, y.in(), back.out());
    expect_close(
        back, [&](int64_t i) { return y[i]; }, 0, 0, "back");
  }
}

TEST(Copy, TransposesEveryItemSize) {
  for (DType t : {kInt8, kBFloat16, kFloat32, kFloat64})
    for (const Sizes& s :
         {Sizes{100, 131}, Sizes{4, 64, 64}, Sizes{33, 5, 200}, Sizes{1, 9}, Sizes{600, 500}}) {
      Array x(t, s, Layout::Reversed), y(t, s), z(t, s, Layout::Transposed);
      x.random(-100, 100);
      with_threads([&] {
        run<kernels::copy>(kCPU, x.in(), y.out());
        run<kernels::copy>(kCPU, x.in(), z.out());
      });
      expect_close(
          y, [&](int64_t i) { return x[i]; }, 0, 0, "transposed");
      expect_close(
          z, [&](int64_t i) { return x[i]; }, 0, 0, "transposed");
    }
}

TEST(Fill, WritesEveryDTypeAndLayout) {
  for (DType t : kAll)
    for (Layout l : kLayouts) {
      Array y(t, {5, 90}, l);
      run<kernels::fill>(kCPU, 3.0, y.out());
      expect_close(
          y, [&](int64_t) { return t == kBool ? 1.0 : 3.0; }, 0, 0, name(t));
    }
  Array y(kInt8, {2});
  run<kernels::fill>(kCPU, 1e9, y.out());
  EXPECT_EQ(y[0], 127);
}

}  // namespace
}  // namespace dropin::test
