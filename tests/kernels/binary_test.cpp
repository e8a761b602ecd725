// Operations of two arrays.
#include "kernels/any_array.h"
#include "kernels/elementwise/kernel.h"
#include "kernels/elementwise_cases.h"

namespace dropin::test {
namespace {

using kernels::Binary;

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

DType binary_type(Binary op, DType t) { return op >= Binary::Eq ? kBool : t; }

TEST(Binary, MatchesDoubleOnEveryDType) {
  for (const BinaryCase& c : kBinary)
    for (DType t : kAll)
      for (int64_t n : {0, 1, 16, 1031}) {
        if (!is_floating(t) && (c.op == Binary::Div || c.op == Binary::Atan2)) continue;
        if (t == kBool && c.op < Binary::Eq) continue;
        if (t == kUInt8 && c.op == Binary::Sub) continue;
        if (t == kBFloat16 && c.op == Binary::FloorDiv)
          continue;  // double rounding may cross an integer
        Array a(t, {n}), b(t, {n}), y(binary_type(c.op, t), {n});
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
      Array y(binary_type(c.op, t), {n});
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
                y(binary_type(op, t), s, ly);
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

}  // namespace
}  // namespace dropin::test
