#include <gtest/gtest.h>

#include <limits>

#include "kernels/gemm/kernel.h"
#include "src/cpu/onednn.h"
#include "tests/kernels/arrays.h"

namespace dropin {
namespace {

using testing::Array;
using testing::WithThreads;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct WithOneDnn {
  bool before = cpu::onednn_enabled();
  explicit WithOneDnn(bool on) { cpu::set_onednn_enabled(on); }
  ~WithOneDnn() { cpu::set_onednn_enabled(before); }
};

template <class T>
double tolerance() {
  if (std::is_same_v<T, double>) return 1e-13;
  if (std::is_same_v<T, float>) return 2e-6;
  return std::is_same_v<T, bfloat16> ? 8e-3 : 1e-3;
}

struct Layout {
  std::vector<int> a = {0, 1, 2}, b = {0, 1, 2}, c = {0, 1, 2};
};

/// Against a loop in double, the error relative to the sum of the magnitudes.
template <class T>
void check_matmul(int64_t t, int64_t m, int64_t n, int64_t k, double beta, const Layout& l = {},
                  bool broadcast = false) {
  Array<T> a = Array<T>({t, m, k}, l.a).random(1),
           b = Array<T>({broadcast ? 1 : t, k, n}, l.b).random(2), c({t, m, n}, l.c);
  if (beta == 0)
    c.fill(static_cast<T>(kNaN));
  else
    c.random(3);
  Array<T> before = c;
  abi::TensorIn b_in = b.in();
  if (broadcast) b_in.sizes[0] = t, b_in.strides[0] = 0;
  run<kernels::matmul>(kCPU, a.in(), b_in, beta, c.out());
  EXPECT_TRUE(c.guarded());
  double worst = 0;
  for (int64_t u = 0; u < t; ++u)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double want = beta == 0 ? 0 : beta * static_cast<double>(before(u, i, j)), magnitude = 1;
        for (int64_t p = 0; p < k; ++p) {
          const double x =
              static_cast<double>(a(u, i, p)) * static_cast<double>(b(broadcast ? 0 : u, p, j));
          want += x;
          magnitude += std::abs(x);
        }
        const double error = std::abs(static_cast<double>(c(u, i, j)) - want) / magnitude;
        if (!(error <= worst)) worst = error;
      }
  EXPECT_LE(worst, tolerance<T>())
      << "T " << t << " M " << m << " N " << n << " K " << k << " beta " << beta << " a[" << l.a[1]
      << l.a[2] << "] b[" << l.b[1] << l.b[2] << "] c[" << l.c[1] << l.c[2] << "]";
}

template <class T>
class Matmul : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double, bfloat16, float16>;
TYPED_TEST_SUITE(Matmul, FloatTypes);

TYPED_TEST(Matmul, AgreesWithTheLoopForOddSizesAndAllLayouts) {
  const std::vector<std::vector<int>> orders = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {2, 1, 0}};
  for (bool onednn : {true, false}) {
    WithOneDnn with(onednn);
    for (auto [t, m, n, k] : std::vector<std::array<int64_t, 4>>{
             {1, 1, 1, 1}, {2, 3, 5, 7}, {3, 1, 17, 33}, {1, 33, 1, 19}, {2, 13, 50, 65}})
      for (const auto& a : orders)
        for (const auto& b : orders)
          for (const auto& c : orders)
            for (double beta : {0.0, 1.0, -0.5})
              check_matmul<TypeParam>(t, m, n, k, beta, {a, b, c});
  }
}

TYPED_TEST(Matmul, TilesOverThreads) {
  for (int threads : {2, 5}) {
    WithThreads w(threads);
    for (bool onednn : {true, false}) {
      WithOneDnn with(onednn);
      check_matmul<TypeParam>(1, 211, 197, 301, 1);
      check_matmul<TypeParam>(1, 211, 197, 301, 0, {{0, 2, 1}, {0, 2, 1}, {0, 2, 1}});
      check_matmul<TypeParam>(1, 17, 19, 9001, 0.5);
      check_matmul<TypeParam>(3, 300, 70, 64, 0);
      check_matmul<TypeParam>(40, 33, 70, 64, 0, {{0, 1, 2}, {0, 2, 1}, {0, 1, 2}});
      check_matmul<TypeParam>(5, 40, 60, 64, 0, {}, true);
      check_matmul<TypeParam>(1, 1, 3001, 517, 0, {{0, 1, 2}, {0, 2, 1}, {0, 1, 2}});
      check_matmul<TypeParam>(1, 3001, 1, 517, 0);
    }
  }
}

TYPED_TEST(Matmul, EmptySizes) {
  check_matmul<TypeParam>(0, 3, 4, 5, 0);
  check_matmul<TypeParam>(2, 0, 4, 5, 0);
  check_matmul<TypeParam>(2, 3, 0, 5, 0);
  check_matmul<TypeParam>(2, 3, 4, 0, 0);
  check_matmul<TypeParam>(2, 3, 4, 0, 2);
}

TEST(MatmulIntegers, WrapAround) {
  Array<std::int32_t> a({1, 1, 2}), b({1, 2, 1}), c({1, 1, 1});
  a(0, 0, 0) = 1 << 30, a(0, 0, 1) = 3, b(0, 0, 0) = 4, b(0, 1, 0) = 5, c(0, 0, 0) = 7;
  run<kernels::matmul>(kCPU, a.in(), b.in(), 2.0, c.out());
  EXPECT_EQ(c(0, 0, 0), 29);
  Array<int64_t> p = Array<int64_t>({2, 5, 3}, {0, 2, 1}).random(1, -50, 50),
                 q = Array<int64_t>({2, 3, 4}).random(2, -50, 50), r({2, 5, 4});
  run<kernels::matmul>(kCPU, p.in(), q.in(), 0.0, r.out());
  for (int t = 0; t < 2; ++t)
    for (int i = 0; i < 5; ++i)
      for (int j = 0; j < 4; ++j) {
        int64_t want = 0;
        for (int k = 0; k < 3; ++k) want += p(t, i, k) * q(t, k, j);
        EXPECT_EQ(r(t, i, j), want);
      }
}

template <class T>
class Linear : public ::testing::Test {};
TYPED_TEST_SUITE(Linear, FloatTypes);

TYPED_TEST(Linear, AgreesWithTheLoop) {
  using T = TypeParam;
  for (int threads : {1, 3})
    for (bool onednn : {true, false})
      for (bool with_bias : {false, true})
        for (auto [m, n, k] : std::vector<std::array<int64_t, 3>>{{1, 1, 1},
                                                                  {1, 1000, 300},
                                                                  {2, 257, 129},
                                                                  {3, 65, 100},
                                                                  {4, 30, 8},
                                                                  {7, 9, 40},
                                                                  {16, 33, 511},
                                                                  {31, 64, 64},
                                                                  {33, 31, 65},
                                                                  {300, 10, 77},
                                                                  {0, 3, 4},
                                                                  {5, 4, 0}}) {
          WithThreads w(threads);
          WithOneDnn o(onednn);
          Array<T> x = Array<T>({m, k}).random(1), wt = Array<T>({n, k}).random(2),
                   bias = Array<T>({n}).random(3), y({m, n});
          abi::TensorIn none;
          run<kernels::linear_forward>(kCPU, x.in(), wt.in(), with_bias ? bias.in() : none,
                                       y.out());
          EXPECT_TRUE(y.guarded());
          double worst = 0;
          for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) {
              double want = with_bias ? static_cast<double>(bias(j)) : 0, magnitude = 1;
              for (int64_t p = 0; p < k; ++p) {
                const double v = static_cast<double>(x(i, p)) * static_cast<double>(wt(j, p));
                want += v;
                magnitude += std::abs(v);
              }
              const double error = std::abs(static_cast<double>(y(i, j)) - want) / magnitude;
              if (!(error <= worst)) worst = error;
            }
          EXPECT_LE(worst, tolerance<T>())
              << m << " " << n << " " << k << " bias " << with_bias << " onednn " << onednn;
        }
}

TEST(LinearRows, MayBeSpacedApart) {
  Array<float> x = Array<float>({4, 20}).random(1), w = Array<float>({6, 30}).random(2),
               y = Array<float>({4, 9}).fill(7.0f);
  abi::TensorIn xi = x.in(), wi = w.in();
  abi::TensorOut yo = y.out();
  xi.sizes[1] = wi.sizes[1] = 15, yo.sizes[1] = 6;
  run<kernels::linear_forward>(kCPU, xi, wi, abi::TensorIn{}, yo);
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 9; ++j) {
      double want = j < 6 ? 0 : 7;
      for (int k = 0; j < 6 && k < 15; ++k) want += static_cast<double>(x(i, k)) * w(j, k);
      EXPECT_NEAR(y(i, j), want, 1e-5);
    }
}

TEST(MatmulErrors, SizesAndTypesAreChecked) {
  Array<float> a({1, 2, 3}), b({1, 4, 2}), c({1, 2, 2});
  EXPECT_THROW(run<kernels::matmul>(kCPU, a.in(), b.in(), 0.0, c.out()), Error);
  Array<double> d({1, 3, 2});
  EXPECT_THROW(run<kernels::matmul>(kCPU, a.in(), d.in(), 0.0, c.out()), Error);
}

}  // namespace
}  // namespace dropin
