// Affine maps, conversions, transposing copies and fills.
#include "kernels/any_array.h"
#include "kernels/elementwise/kernel.h"
#include "kernels/elementwise_cases.h"

namespace dropin::test {
namespace {

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
