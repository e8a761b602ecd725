#include "kernels/any_array.h"
#include "kernels/softmax/kernel.h"

namespace dropin::test {
namespace {

const Sizes kShapes[] = {{1},     {1, 1},   {3, 0},     {0, 3},    {5, 7},
                         {4, 64}, {3, 100}, {2, 3, 17}, {2, 5000}, {300, 130}};

long double log_sum_exp(const Array& x, int64_t row, int64_t n) {
  long double top = -kInf, sum = 0;
  for (int64_t j = 0; j < n; ++j) top = std::max<long double>(top, x[row * n + j]);
  for (int64_t j = 0; j < n; ++j) sum += std::exp(x[row * n + j] - top);
  return top + std::log(sum);
}

TEST(Softmax, MatchesDoubleForwardAndBackward) {
  for (const Sizes& s : kShapes)
    for (DType t : {kFloat32, kFloat64, kBFloat16, kFloat16})
      for (bool log : {false, true})
        for (double shift : {0.0, -300.0}) {
          if (shift != 0 && item_size(t) == 2) continue;
          Array x(t, s), y(t, s), g(t, s), gx(t, s);
          const int64_t n = s.back(), rows = n ? count(s) / n : 0;
          x.random(shift - 6, shift + 6), g.random(-1, 1, 2);
          with_threads([&] { run<kernels::softmax_forward>(kCPU, x.in(), log, y.out()); });
          std::vector<long double> lse;
          for (int64_t r = 0; r < rows; ++r) lse.push_back(log_sum_exp(x, r, n));
          // the subtraction of the largest is exact to half an ulp of the difference
          expect_close(
              y,
              [&](int64_t i) {
                return static_cast<double>(log ? x[i] - lse[i / n] : std::exp(x[i] - lse[i / n]));
              },
              8, log ? 12 : 0, "softmax");
          with_threads(
              [&] { run<kernels::softmax_backward>(kCPU, g.in(), y.in(), log, gx.out()); });
          std::vector<long double> dot(static_cast<std::size_t>(rows));
          for (int64_t i = 0; i < x.size(); ++i) dot[i / n] += log ? g[i] : g[i] * y[i];
          expect_close(
              gx,
              [&](int64_t i) {
                return static_cast<double>(log ? g[i] - std::exp(y[i]) * dot[i / n]
                                               : y[i] * (g[i] - dot[i / n]));
              },
              8, log ? 3 : 0.2, "softmax gradient");
        }
}

TEST(Softmax, InfinitiesAndNaN) {
  for (DType t : {kFloat32, kFloat64})
    for (bool log : {false, true}) {
      Array x(t, {4, 11}), y(t, {4, 11});
      x.random(-1, 1);
      for (int j = 0; j < 11; ++j) x.set(j, -kInf);
      x.set(11, -kInf), x.set(21, -kInf);
      x.set(24, kNaN), x.set(43, kNaN);
      run<kernels::softmax_forward>(kCPU, x.in(), log, y.out());
      for (int j = 0; j < 11; ++j)
        EXPECT_TRUE(std::isnan(y[j]) && std::isnan(y[22 + j]) && std::isnan(y[33 + j]));
      EXPECT_EQ(y[11], log ? -kInf : 0);
      EXPECT_EQ(y[21], log ? -kInf : 0);
      EXPECT_TRUE(std::isfinite(y[12]));
    }
}

TEST(CrossEntropy, MatchesDoubleForwardAndBackward) {
  for (int64_t c : {1, 2, 10, 33, 3000})
    for (int64_t n : {0, 1, 7, 40})
      for (DType t : {kFloat32, kFloat64})
        for (bool weighted : {false, true})
          for (double eps : {0.0, 0.1}) {
            Array x(t, {n, c}), w(t, {c}), target(kInt64, {n}), loss(t, {n}), lse(t, {n}),
                g(t, {n}), gx(t, {n, c});
            x.random(-5, 5), w.random(0.1, 2, 2), g.random(-1, 1, 3);
            for (int64_t i = 0; i < n; ++i)
              target.set(i, i % 5 == 4 ? -100.0 : static_cast<double>(i * 7 % c));
            const kernels::CrossEntropyInputs in{x.in(), target.in(),
                                                 weighted ? w.in() : abi::TensorIn{}, -100, eps};
            run<kernels::cross_entropy_forward>(kCPU, in, loss.out(), lse.out());
            auto weight_at = [&](int64_t j) { return weighted ? w[j] : 1.0; };
            double total = 0;
            for (int64_t j = 0; j < c; ++j) total += weight_at(j);
            std::vector<long double> exact;
            for (int64_t i = 0; i < n; ++i) exact.push_back(log_sum_exp(x, i, c));
            expect_close(
                lse, [&](int64_t i) { return static_cast<double>(exact[i]); }, 4, 1, "lse");
            expect_close(
                loss,
                [&](int64_t i) {
                  if (target[i] < 0) return 0.0;
                  const int64_t k = static_cast<int64_t>(target[i]);
                  long double smooth = 0;
                  for (int64_t j = 0; j < c; ++j)
                    smooth += weight_at(j) * (exact[i] - x[i * c + j]);
                  return static_cast<double>((1 - eps) * weight_at(k) * (exact[i] - x[i * c + k]) +
                                             eps / static_cast<double>(c) * smooth);
                },
                10, 3, "loss");
            run<kernels::cross_entropy_backward>(kCPU, g.in(), in, lse.in(), gx.out());
            expect_close(
                gx,
                [&](int64_t at) {
                  const int64_t i = at / c, j = at % c;
                  if (target[i] < 0) return 0.0;
                  const int64_t k = static_cast<int64_t>(target[i]);
                  const double p = static_cast<double>(std::exp(x[at] - exact[i]));
                  return g[i] * ((1 - eps) * weight_at(k) * (p - (j == k)) +
                                 eps / static_cast<double>(c) * (p * total - weight_at(j)));
                },
                12, 0.5, "gx");
          }
}

TEST(CrossEntropy, RefusesTargetsOutOfRange) {
  Array x(kFloat32, {2, 3}), target(kInt64, {2}), loss(kFloat32, {2}), lse(kFloat32, {2});
  target.set(1, 3);
  EXPECT_THROW(run<kernels::cross_entropy_forward>(
                   kCPU, kernels::CrossEntropyInputs{x.in(), target.in()}, loss.out(), lse.out()),
               IndexError);
  target.set(1, -1);
  EXPECT_THROW(run<kernels::cross_entropy_forward>(
                   kCPU, kernels::CrossEntropyInputs{x.in(), target.in()}, loss.out(), lse.out()),
               IndexError);
}

}  // namespace
}  // namespace dropin::test
