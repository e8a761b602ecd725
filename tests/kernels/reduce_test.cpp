#include "kernels/any_array.h"
#include "kernels/reduce/kernel.h"
#include "kernels/reduce_groups.h"

namespace dropin::test {
namespace {

using kernels::Reduce;

double expected(Reduce op, const std::vector<double>& v) {
  const double n = static_cast<double>(v.size());
  long double sum = 0, prod = 1, squares = 0;
  double top = -kInf, low = kInf;
  bool nan = false;
  for (double x : v)
    sum += x, prod *= x, top = std::max(top, x), low = std::min(low, x),
                         squares += static_cast<long double>(x) * x, nan = nan || std::isnan(x);
  switch (op) {
    case Reduce::Sum:
      return static_cast<double>(sum);
    case Reduce::Mean:
      return static_cast<double>(sum / n);
    case Reduce::Prod:
      return static_cast<double>(prod);
    case Reduce::Max:
      return nan ? kNaN : top;
    case Reduce::Min:
      return nan ? kNaN : low;
    case Reduce::Any:
      return top > 0;
    case Reduce::All:
      return low > 0;
    case Reduce::SumSquares:
      return static_cast<double>(squares);
    case Reduce::LogSumExp: {
      if (nan) return kNaN;
      if (std::isinf(top)) return top;
      long double e = 0;
      for (double x : v) e += std::exp(static_cast<long double>(x) - top);
      return static_cast<double>(top + std::log(e));
    }
  }
  return 0;
}

TEST(Reduce, FloatsMatchDoubleForEveryMaskAndLayout) {
  for (const Sizes& s : kShapes)
    for (Layout l : kLayouts)
      for (DType t : {kFloat32, kFloat64, kBFloat16, kFloat16})
        for (std::uint32_t mask = 0; mask < (1u << s.size()); ++mask) {
          if (count(s) > 10000 && is_floating(t) && item_size(t) == 2) continue;
          Array x(t, s, l);
          x.random(-2, 2);
          const auto g = groups(x, mask);
          for (Reduce op : {Reduce::Sum, Reduce::Mean, Reduce::Max, Reduce::Min, Reduce::SumSquares,
                            Reduce::LogSumExp}) {
            Array y(t, kept(s, mask));
            run<kernels::reduce>(kCPU, op, x.in(), mask, y.out());
            double floor = op == Reduce::Sum ? static_cast<double>(g[0].size()) * 0.25
                           : op == Reduce::LogSumExp || op == Reduce::Mean ? 0.5
                                                                           : 0;
            expect_close(
                y, [&](int64_t i) { return expected(op, g[i]); }, op == Reduce::SumSquares ? 8 : 4,
                floor,
                "op " + std::to_string(int(op)) + " mask " + std::to_string(mask) + " " + name(t));
          }
        }
}

TEST(Reduce, Products) {
  for (DType t : {kFloat32, kFloat64, kInt32, kInt8}) {
    Array x(t, {6, 5, 4}), y(is_floating(t) ? t : kInt64, {6, 1, 4});
    x.random(1, 2);
    const auto g = groups(x, 2);
    run<kernels::reduce>(kCPU, Reduce::Prod, x.in(), 2u, y.out());
    expect_close(
        y, [&](int64_t i) { return expected(Reduce::Prod, g[i]); }, 6, 0, name(t));
  }
}

TEST(Reduce, IntegersAndBool) {
  for (const Sizes& s : kShapes)
    for (Layout l : kLayouts)
      for (std::uint32_t mask = 0; mask < (1u << s.size()); ++mask) {
        for (DType t : {kInt8, kUInt8, kInt32, kInt64}) {
          Array x(t, s, l);
          x.random(t == kUInt8 ? 0 : -100, 100);
          const auto g = groups(x, mask);
          for (Reduce op : {Reduce::Sum, Reduce::Max, Reduce::Min}) {
            Array y(op == Reduce::Sum ? kInt64 : t, kept(s, mask));
            run<kernels::reduce>(kCPU, op, x.in(), mask, y.out());
            expect_close(
                y, [&](int64_t i) { return expected(op, g[i]); }, 0, 0, name(t));
          }
        }
        Array x(kBool, s, l);
        x.random(0, 1);
        const auto g = groups(x, mask);
        for (Reduce op : {Reduce::Any, Reduce::All}) {
          Array y(kBool, kept(s, mask), l);
          run<kernels::reduce>(kCPU, op, x.in(), mask, y.out());
          expect_close(
              y, [&](int64_t i) { return expected(op, g[i]); }, 0, 0, "bool");
        }
      }
}

TEST(Reduce, EmptyAndBroadcastInputs) {
  Array x(kFloat32, {3, 0}), y(kFloat32, {3, 1});
  run<kernels::reduce>(kCPU, Reduce::Sum, x.in(), 2u, y.out());
  EXPECT_EQ(y[2], 0);
  run<kernels::reduce>(kCPU, Reduce::Prod, x.in(), 2u, y.out());
  EXPECT_EQ(y[2], 1);
  run<kernels::reduce>(kCPU, Reduce::Mean, x.in(), 2u, y.out());
  EXPECT_TRUE(std::isnan(y[2]));
  run<kernels::reduce>(kCPU, Reduce::LogSumExp, x.in(), 2u, y.out());
  EXPECT_EQ(y[2], -kInf);
  Array none(kFloat32, {0, 3}), nothing(kFloat32, {0, 1});
  run<kernels::reduce>(kCPU, Reduce::Sum, none.in(), 2u, nothing.out());
  Array row(kFloat32, {1, 5}), sum(kFloat32, {1, 5}), all(kFloat32, {1, 1});
  row.values({1, 2, 3, 4, 5});
  run<kernels::reduce>(kCPU, Reduce::Sum, row.broadcast({7, 5}), 1u, sum.out());
  EXPECT_EQ(sum[4], 35);
  run<kernels::reduce>(kCPU, Reduce::Sum, row.broadcast({7, 5}), 3u, all.out());
  EXPECT_EQ(all[0], 105);
}

TEST(Reduce, SpecialValues) {
  for (DType t : {kFloat32, kFloat64})
    for (int64_t n : {5, 100})
      for (int64_t at : {int64_t{0}, int64_t{3}, n - 1})
        for (double v : {kNaN, kInf, -kInf}) {
          Array x(t, {n, 1}), wide(t, {n, 40});
          x.random(-1, 1), x.set(at, v);
          wide.random(-1, 1), wide.set(at * 40 + 35, v);
          for (Reduce op : {Reduce::Sum, Reduce::Max, Reduce::Min, Reduce::LogSumExp}) {
            Array y(t, {1, 1}), z(t, {1, 40});
            run<kernels::reduce>(kCPU, op, x.in(), 1u, y.out());
            expect_close(
                y, [&](int64_t) { return expected(op, groups(x, 1)[0]); }, 4, 1, "row");
            run<kernels::reduce>(kCPU, op, wide.in(), 1u, z.out());
            expect_close(
                z, [&](int64_t i) { return expected(op, groups(wide, 1)[i]); }, 6, 5, "column");
          }
        }
  Array x(kFloat32, {2}), y(kFloat32, {1});
  x.values({-kInf, -kInf});
  run<kernels::reduce>(kCPU, Reduce::LogSumExp, x.in(), 1u, y.out());
  EXPECT_EQ(y[0], -kInf);
}

TEST(Reduce, DoesNotDependOnTheNumberOfThreads) {
  for (const Sizes& s : {Sizes{3000000}, Sizes{3, 500000}, Sizes{40000, 70}, Sizes{64, 64, 300},
                         Sizes{90001, 7}, Sizes{37, 2111, 5}})
    for (std::uint32_t mask = 1; mask < (1u << s.size()); ++mask) {
      Array x(kFloat32, s), one(kFloat32, kept(s, mask)), many(kFloat32, kept(s, mask));
      x.random(-1, 1);
      const int before = get_num_threads();
      set_num_threads(1);
      run<kernels::reduce>(kCPU, Reduce::Sum, x.in(), mask, one.out());
      set_num_threads(3);
      run<kernels::reduce>(kCPU, Reduce::Sum, x.in(), mask, many.out());
      set_num_threads(before);
      for (int64_t i = 0; i < one.size(); ++i) ASSERT_EQ(one[i], many[i]);
    }
}

TEST(Reduce, SumsManyFloatsAccurately) {
  const int64_t n = 5000000;
  Array x(kFloat32, {n}), y(kFloat32, {1});
  x.values({0.1});
  run<kernels::reduce>(kCPU, Reduce::Sum, x.in(), 1u, y.out());
  EXPECT_NEAR(y[0] / (static_cast<double>(0.1f) * n), 1, 3e-6);
}

}  // namespace
}  // namespace dropin::test
