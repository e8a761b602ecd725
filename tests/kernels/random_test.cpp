#include <gtest/gtest.h>

#include "kernels/random/kernel.h"
#include "kernels/random/philox.h"
#include "tests/kernels/arrays.h"

namespace dropin {
namespace {

using kernels::Distribution;
using testing::Array;
using testing::WithThreads;
namespace philox = kernels::philox;

// The known answers published with Random123 (kat_vectors, philox4x32 10).
TEST(Philox, KnownAnswers) {
  auto expect = [](philox::Block b, std::uint32_t w0, std::uint32_t w1, std::uint32_t w2,
                   std::uint32_t w3) {
    EXPECT_EQ(b.w[0], w0);
    EXPECT_EQ(b.w[1], w1);
    EXPECT_EQ(b.w[2], w2);
    EXPECT_EQ(b.w[3], w3);
  };
  expect(philox::block(0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  expect(philox::block(~0ull, ~0ull, ~0ull), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
  expect(philox::block(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull),
         0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1);
}

TEST(Philox, BelowIsTheUpperHalfOfTheProduct) {
  EXPECT_EQ(philox::below(0xffffffffu, 0xffffffffu, 10), 9u);
  EXPECT_EQ(philox::below(0x80000000u, 0, 10), 5u);
  EXPECT_EQ(philox::below(0xffffffffu, 0xffffffffu, 0x123456789abcdefull), 0x123456789abcdeeull);
}

template <class T>
class Random : public ::testing::Test {};
using Types = ::testing::Types<float, double, bfloat16, float16>;
TYPED_TEST_SUITE(Random, Types);

TYPED_TEST(Random, ElementsDependOnTheirPositionOnly) {
  using T = TypeParam;
  const int64_t per = std::is_same_v<T, double> ? 2 : 4;  // elements a block
  for (Distribution d : {Distribution::Uniform, Distribution::Normal, Distribution::Bernoulli}) {
    Array<T> all({300001}), other({300001}), tail({101});
    {
      WithThreads t(1);
      run<kernels::random_fill>(kCPU, d, 0.25, 2.0, std::uint64_t{42}, std::uint64_t{7}, all.out());
    }
    WithThreads t(3);
    run<kernels::random_fill>(kCPU, d, 0.25, 2.0, std::uint64_t{42}, std::uint64_t{7}, other.out());
    run<kernels::random_fill>(kCPU, d, 0.25, 2.0, std::uint64_t{42}, std::uint64_t{7 + 1000},
                              tail.out());
    EXPECT_TRUE(all.guarded() && tail.guarded());
    for (int64_t i = 0; i < all.numel(); ++i)
      ASSERT_EQ(static_cast<double>(all(i)), static_cast<double>(other(i)));
    for (int64_t i = 0; i < 101; ++i)
      ASSERT_EQ(static_cast<double>(tail(i)), static_cast<double>(all(1000 * per + i)));
  }
}

TYPED_TEST(Random, MomentsAndRanges) {
  using T = TypeParam;
  const int64_t n = 400000;
  Array<T> y({n});
  auto moments = [&](double& mean, double& var, double& low, double& high) {
    mean = var = 0, low = 1e9, high = -1e9;
    for (int64_t i = 0; i < n; ++i) {
      const double v = static_cast<double>(y(i));
      mean += v / n, low = std::min(low, v), high = std::max(high, v);
    }
    for (int64_t i = 0; i < n; ++i)
      var += (static_cast<double>(y(i)) - mean) * (static_cast<double>(y(i)) - mean) / n;
  };
  double mean, var, low, high;
  run<kernels::random_fill>(kCPU, Distribution::Uniform, -1.0, 3.0, std::uint64_t{1},
                            std::uint64_t{0}, y.out());
  moments(mean, var, low, high);
  EXPECT_NEAR(mean, 1, 0.01);
  EXPECT_NEAR(var, 16.0 / 12, 0.01);
  EXPECT_GE(low, -1);
  EXPECT_LT(high, 3);
  run<kernels::random_fill>(kCPU, Distribution::Normal, 0.5, 2.0, std::uint64_t{1},
                            std::uint64_t{0}, y.out());
  moments(mean, var, low, high);
  EXPECT_NEAR(mean, 0.5, 0.015);
  EXPECT_NEAR(var, 4, 0.04);
  EXPECT_LT(high, 2 * 6.0);
  EXPECT_GT(high, 2 * 4.0);
  run<kernels::random_fill>(kCPU, Distribution::Bernoulli, 0.3, 0.0, std::uint64_t{1},
                            std::uint64_t{0}, y.out());
  moments(mean, var, low, high);
  EXPECT_NEAR(mean, 0.3, 0.005);
}

TEST(RandomWords, BecomeNumbersAsDocumented) {
  Array<float> u({4}), z({4});
  Array<double> v({2});
  run<kernels::random_fill>(kCPU, Distribution::Uniform, 0.0, 1.0, std::uint64_t{0},
                            std::uint64_t{0}, u.out());
  run<kernels::random_fill>(kCPU, Distribution::Uniform, 0.0, 1.0, std::uint64_t{0},
                            std::uint64_t{0}, v.out());
  run<kernels::random_fill>(kCPU, Distribution::Normal, 0.0, 1.0, std::uint64_t{0},
                            std::uint64_t{0}, z.out());
  const std::uint32_t w[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(u(i), static_cast<float>(w[i] >> 8) / 16777216.0f);
  EXPECT_EQ(v(0), static_cast<double>(0x6627e8d5e169c58dull >> 11) / 9007199254740992.0);
  for (int i = 0; i < 4; i += 2) {
    const double r = std::sqrt(-2 * std::log(((w[i] >> 8) + 1) / 16777216.0)),
                 angle = 2 * M_PI * ((w[i + 1] >> 8) / 16777216.0);
    EXPECT_NEAR(z(i), r * std::cos(angle), 2e-6);
    EXPECT_NEAR(z(i + 1), r * std::sin(angle), 2e-6);
  }
}

TEST(RandomNormal, IsAccurateEverywhere) {
  const int64_t n = 1 << 16;
  Array<float> z({n});
  run<kernels::random_fill>(kCPU, Distribution::Normal, 0.0, 1.0, std::uint64_t{9},
                            std::uint64_t{0}, z.out());
  double worst = 0;
  for (int64_t i = 0; i < n; i += 2) {
    const philox::Block b = philox::block(9, i / 4);
    const std::uint32_t w0 = b.w[i % 4], w1 = b.w[i % 4 + 1];
    const double r = std::sqrt(-2 * std::log(((w0 >> 8) + 1) / 16777216.0)),
                 angle = 2 * M_PI * ((w1 >> 8) / 16777216.0);
    worst = std::max(
        {worst, std::abs(z(i) - r * std::cos(angle)), std::abs(z(i + 1) - r * std::sin(angle))});
  }
  EXPECT_LT(worst, 2e-6);
}

TEST(RandomNormal, IsAccurateInFloat64) {
  const int64_t n = 1 << 16;
  Array<double> z({n});
  run<kernels::random_fill>(kCPU, Distribution::Normal, 0.0, 1.0, std::uint64_t{9},
                            std::uint64_t{0}, z.out());
  double worst = 0;
  for (int64_t i = 0; i < n; i += 2) {
    const philox::Block b = philox::block(9, i / 2);
    const double r = std::sqrt(-2 * std::log(philox::open_double(b.w[0], b.w[1]))),
                 angle = 2 * M_PI * philox::unit_double(b.w[2], b.w[3]);
    worst = std::max(
        {worst, std::abs(z(i) - r * std::cos(angle)), std::abs(z(i + 1) - r * std::sin(angle))});
  }
  EXPECT_LT(worst, 6e-15);
}

TEST(RandomWords, CarryIntoTheUpperCounter) {
  const std::uint64_t offset = 0xffffffffull - 100;
  Array<float> u({2000});
  run<kernels::random_fill>(kCPU, Distribution::Uniform, 0.0, 1.0, std::uint64_t{3}, offset,
                            u.out());
  for (int64_t i = 0; i < 2000; ++i)
    ASSERT_EQ(u(i), philox::unit_float(
                        philox::block(3, offset + static_cast<std::uint64_t>(i / 4)).w[i % 4]));
}

TEST(RandomIntegers, FillTheirRangeEvenly) {
  const int64_t n = 300000;
  Array<int64_t> y({n});
  run<kernels::random_fill>(kCPU, Distribution::Integer, -3.0, 4.0, std::uint64_t{5},
                            std::uint64_t{0}, y.out());
  int64_t counts[7] = {};
  for (int64_t i = 0; i < n; ++i) {
    ASSERT_TRUE(y(i) >= -3 && y(i) < 4);
    ++counts[y(i) + 3];
  }
  for (int64_t c : counts) EXPECT_NEAR(static_cast<double>(c), n / 7.0, 1000);
  Array<float> f({100});
  run<kernels::random_fill>(kCPU, Distribution::Integer, -3.0, 4.0, std::uint64_t{5},
                            std::uint64_t{0}, f.out());
  for (int64_t i = 0; i < 100; ++i) EXPECT_EQ(f(i), static_cast<float>(y(i)));
  EXPECT_THROW(run<kernels::random_fill>(kCPU, Distribution::Integer, 4.0, 4.0, std::uint64_t{5},
                                         std::uint64_t{0}, y.out()),
               Error);
  EXPECT_THROW(run<kernels::random_fill>(kCPU, Distribution::Uniform, 0.0, 4.0, std::uint64_t{5},
                                         std::uint64_t{0}, y.out()),
               Error);
}

TYPED_TEST(Random, DropoutScalesWhatItKeeps) {
  using T = TypeParam;
  const int64_t n = 100003;
  Array<T> x = Array<T>({n}).random(1), y({n});
  Array<bool> mask({n});
  run<kernels::dropout>(kCPU, x.in(), 0.2, std::uint64_t{3}, std::uint64_t{4}, y.out(), mask.out());
  EXPECT_TRUE(y.guarded() && mask.guarded());
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    kept += mask(i);
    ASSERT_NEAR(static_cast<double>(y(i)), mask(i) ? static_cast<double>(x(i)) / 0.8 : 0.0, 1e-2);
  }
  EXPECT_NEAR(static_cast<double>(kept) / n, 0.8, 0.01);
  run<kernels::dropout>(kCPU, x.in(), 0.0, std::uint64_t{3}, std::uint64_t{4}, y.out(), mask.out());
  for (int64_t i = 0; i < n; ++i) ASSERT_EQ(static_cast<double>(y(i)), static_cast<double>(x(i)));
  run<kernels::dropout>(kCPU, x.in(), 1.0, std::uint64_t{3}, std::uint64_t{4}, y.out(), mask.out());
  for (int64_t i = 0; i < n; ++i) ASSERT_EQ(static_cast<double>(y(i)), 0.0);
}

}  // namespace
}  // namespace dropin
