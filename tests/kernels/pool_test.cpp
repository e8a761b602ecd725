#include <gtest/gtest.h>

#include <limits>

#include "kernels/pool/kernel.h"
#include "tests/kernels/arrays.h"

namespace dropin {
namespace {

using kernels::PoolGeometry;
using testing::Array;
using testing::WithThreads;

int64_t out_size(int64_t in, int64_t k, int64_t s, int64_t pad, int64_t d, bool ceil) {
  const int64_t room = in + 2 * pad - d * (k - 1) - 1;
  int64_t n = (ceil ? (room + s - 1) / s : room / s) + 1;
  if (ceil && (n - 1) * s >= in + pad) --n;
  return n;
}

struct Case {
  int64_t b, c, h, w;
  PoolGeometry g;
  bool ceil = false;
};

std::vector<Case> cases() {
  return {
      {2, 3, 7, 9, {{2, 2}, {2, 2}}},
      {2, 3, 7, 9, {{2, 2}, {2, 2}}, true},
      {1, 4, 11, 40, {{3, 3}, {1, 1}, {1, 1}}},
      {2, 2, 10, 13, {{3, 3}, {2, 2}, {1, 1}}, true},
      {1, 2, 12, 10, {{5, 3}, {3, 2}, {2, 1}}, true},
      {1, 1, 1, 20, {{1, 4}, {1, 3}, {0, 2}}},
      {1, 2, 6, 6, {{3, 3}, {4, 4}, {1, 1}}, true},
      {0, 3, 6, 6, {{3, 3}, {1, 1}}},
      {70, 3, 28, 28, {{3, 3}, {2, 2}, {1, 1}}},
  };
}

template <class T>
class Pool : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Pool, Types);

TYPED_TEST(Pool, MaxTakesTheFirstGreatestAndScattersBack) {
  using T = TypeParam;
  for (Case k : cases())
    for (int64_t dilation : {1, 2}) {
      k.g.dilation[0] = k.g.dilation[1] = dilation;
      const int64_t P = out_size(k.h, k.g.kernel[0], k.g.stride[0], k.g.padding[0], dilation,
                                 k.ceil),
                    Q = out_size(k.w, k.g.kernel[1], k.g.stride[1], k.g.padding[1], dilation,
                                 k.ceil);
      if (P < 1 || Q < 1 || (k.ceil && dilation > 1)) continue;
      Array<T> x({k.b, k.c, k.h, k.w}), y({k.b, k.c, P, Q}),
          gy = Array<T>({k.b, k.c, P, Q}).random(2), gx({k.b, k.c, k.h, k.w});
      Array<int64_t> index({k.b, k.c, P, Q});
      std::mt19937 r(5);
      for (int64_t i = 0; i < x.numel(); ++i)
        x.data()[i] = static_cast<T>(static_cast<int>(r() % 4));  // many ties
      if (x.numel()) x.data()[x.numel() / 2] = std::numeric_limits<T>::quiet_NaN();
      Array<T> want_gx({k.b, k.c, k.h, k.w});
      want_gx.fill(0);
      run<kernels::max_pool2d_forward>(kCPU, x.in(), k.g, y.out(), index.out());
      run<kernels::max_pool2d_backward>(kCPU, gy.in(), index.in(), gx.fill(9).out());
      EXPECT_TRUE(y.guarded() && index.guarded() && gx.guarded());
      for (int64_t b = 0; b < k.b; ++b)
        for (int64_t c = 0; c < k.c; ++c)
          for (int64_t p = 0; p < P; ++p)
            for (int64_t q = 0; q < Q; ++q) {
              T best = 0;
              int64_t at = -1;
              for (int64_t i = 0; i < k.g.kernel[0]; ++i)
                for (int64_t j = 0; j < k.g.kernel[1]; ++j) {
                  const int64_t h = p * k.g.stride[0] + i * dilation - k.g.padding[0],
                                w = q * k.g.stride[1] + j * dilation - k.g.padding[1];
                  if (h < 0 || h >= k.h || w < 0 || w >= k.w) continue;
                  const T v = x(b, c, h, w);
                  if (at < 0 || v > best || (std::isnan(v) && !std::isnan(best)))
                    best = v, at = h * k.w + w;
                }
              ASSERT_EQ(index(b, c, p, q), at);
              ASSERT_TRUE(y(b, c, p, q) == best || (std::isnan(best) && std::isnan(y(b, c, p, q))));
              want_gx(b, c, at / k.w, at % k.w) += gy(b, c, p, q);
            }
      for (int64_t i = 0; i < gx.numel(); ++i) ASSERT_NEAR(gx.data()[i], want_gx.data()[i], 1e-5);
    }
}

TYPED_TEST(Pool, MaxOfMinusInfinityStillHasAnIndex) {
  using T = TypeParam;
  Array<T> x({1, 1, 2, 2}), y({1, 1, 1, 1});
  Array<int64_t> index({1, 1, 1, 1});
  x.fill(-std::numeric_limits<T>::infinity());
  run<kernels::max_pool2d_forward>(kCPU, x.in(), PoolGeometry{{2, 2}}, y.out(), index.out());
  EXPECT_EQ(index(0, 0, 0, 0), 0);
}

TYPED_TEST(Pool, AverageDividesAsDocumented) {
  using T = TypeParam;
  for (Case k : cases())
    for (bool include : {true, false})
      for (int64_t divisor : {0, 5}) {
        WithThreads t(include ? 3 : 1);
        k.g.count_include_pad = include, k.g.divisor_override = divisor;
        const int64_t P = out_size(k.h, k.g.kernel[0], k.g.stride[0], k.g.padding[0], 1, k.ceil),
                      Q = out_size(k.w, k.g.kernel[1], k.g.stride[1], k.g.padding[1], 1, k.ceil);
        Array<T> x = Array<T>({k.b, k.c, k.h, k.w}).random(1), y({k.b, k.c, P, Q}),
                 gy = Array<T>({k.b, k.c, P, Q}).random(2), gx({k.b, k.c, k.h, k.w});
        Array<double> want_gx({k.b, k.c, k.h, k.w});
        want_gx.fill(0);
        run<kernels::avg_pool2d_forward>(kCPU, x.in(), k.g, y.fill(7).out());
        run<kernels::avg_pool2d_backward>(kCPU, gy.in(), k.g, gx.fill(7).out());
        EXPECT_TRUE(y.guarded() && gx.guarded());
        for (int64_t b = 0; b < k.b; ++b)
          for (int64_t c = 0; c < k.c; ++c)
            for (int64_t p = 0; p < P; ++p)
              for (int64_t q = 0; q < Q; ++q) {
                double sum = 0, padded = 0, real = 0;
                auto each = [&](auto&& f) {
                  for (int64_t i = 0; i < k.g.kernel[0]; ++i)
                    for (int64_t j = 0; j < k.g.kernel[1]; ++j)
                      f(p * k.g.stride[0] + i - k.g.padding[0],
                        q * k.g.stride[1] + j - k.g.padding[1]);
                };
                each([&](int64_t h, int64_t w) {
                  if (h >= k.h + k.g.padding[0] || w >= k.w + k.g.padding[1])
                    return;  // only ceil_mode reaches these
                  ++padded;
                  if (h < 0 || h >= k.h || w < 0 || w >= k.w) return;
                  ++real;
                  sum += x(b, c, h, w);
                });
                const double by = divisor ? static_cast<double>(divisor) : include ? padded : real;
                ASSERT_NEAR(y(b, c, p, q), sum / by, 1e-5);
                each([&](int64_t h, int64_t w) {
                  if (h >= 0 && h < k.h && w >= 0 && w < k.w)
                    want_gx(b, c, h, w) += gy(b, c, p, q) / by;
                });
              }
        for (int64_t i = 0; i < gx.numel(); ++i) ASSERT_NEAR(gx.data()[i], want_gx.data()[i], 1e-5);
      }
}

TYPED_TEST(Pool, AdaptiveAverages) {
  using T = TypeParam;
  for (auto [h, w, P, Q] : std::vector<std::array<int64_t, 4>>{
           {7, 9, 1, 1}, {7, 9, 3, 4}, {3, 2, 5, 7}, {56, 56, 7, 7}, {4, 4, 4, 4}}) {
    Array<T> x = Array<T>({2, 3, h, w}).random(1), y({2, 3, P, Q}),
             gy = Array<T>({2, 3, P, Q}).random(2), gx({2, 3, h, w});
    Array<double> want_gx({2, 3, h, w});
    want_gx.fill(0);
    run<kernels::adaptive_avg_pool2d_forward>(kCPU, x.in(), y.out());
    run<kernels::adaptive_avg_pool2d_backward>(kCPU, gy.in(), gx.fill(7).out());
    for (int b = 0; b < 2; ++b)
      for (int c = 0; c < 3; ++c)
        for (int64_t p = 0; p < P; ++p)
          for (int64_t q = 0; q < Q; ++q) {
            const int64_t h0 = p * h / P, h1 = ((p + 1) * h + P - 1) / P, w0 = q * w / Q,
                          w1 = ((q + 1) * w + Q - 1) / Q;
            double sum = 0;
            for (int64_t i = h0; i < h1; ++i)
              for (int64_t j = w0; j < w1; ++j) {
                sum += x(b, c, i, j);
                want_gx(b, c, i, j) += static_cast<double>(gy(b, c, p, q)) /
                                       static_cast<double>((h1 - h0) * (w1 - w0));
              }
            ASSERT_NEAR(y(b, c, p, q), sum / static_cast<double>((h1 - h0) * (w1 - w0)), 1e-5);
          }
    for (int64_t i = 0; i < gx.numel(); ++i) ASSERT_NEAR(gx.data()[i], want_gx.data()[i], 1e-5);
  }
}

TEST(PoolErrors, AForeignIndexIsRefused) {
  Array<float> gy({1, 1, 1, 1}), gx({1, 1, 2, 2});
  Array<int64_t> index({1, 1, 1, 1});
  index.fill(4);
  EXPECT_THROW(run<kernels::max_pool2d_backward>(kCPU, gy.fill(1).in(), index.in(), gx.out()),
               Error);
}

}  // namespace
}  // namespace dropin
