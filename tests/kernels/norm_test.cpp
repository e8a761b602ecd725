#include "kernels/any_array.h"
#include "kernels/norm/kernel.h"

namespace dropin::test {
namespace {

struct RowShape {
  int64_t rows, n;
};
const RowShape kRows[] = {{0, 5}, {1, 1}, {3, 7}, {5, 64}, {2, 3000}, {700, 33}};
constexpr double kEps = 1e-5;

/// Layer or RMS normalisation of one row and its gradients, in double.
struct Reference {
  std::vector<long double> hat, y, gx, gw, gb, rstd;
  Reference(const Array& x, const Array& g, const Array& w, const Array& b, RowShape s, bool center)
      : gw(s.n), gb(s.n) {
    for (int64_t r = 0; r < s.rows; ++r) {
      const long double n = static_cast<long double>(s.n);
      long double m = 0, v = 0, c1 = 0, c2 = 0;
      for (int64_t j = 0; center && j < s.n; ++j) m += x[r * s.n + j] / n;
      for (int64_t j = 0; j < s.n; ++j) v += (x[r * s.n + j] - m) * (x[r * s.n + j] - m) / n;
      rstd.push_back(1 / std::sqrt(v + kEps));
      for (int64_t j = 0; j < s.n; ++j) {
        const int64_t i = r * s.n + j;
        hat.push_back((x[i] - m) * rstd[r]);
        y.push_back(hat[i] * w[j] + (center ? b[j] : 0));
        gw[j] += g[i] * hat[i], gb[j] += g[i];
        c1 += g[i] * w[j] / n, c2 += g[i] * w[j] * hat[i] / n;
      }
      for (int64_t j = 0; j < s.n; ++j)
        gx.push_back(rstd[r] * (g[r * s.n + j] * w[j] - (center ? c1 : 0) - hat[r * s.n + j] * c2));
    }
  }
};

TEST(LayerNorm, MatchesDoubleForwardAndBackward) {
  for (RowShape s : kRows)
    for (DType t : {kFloat32, kFloat64})
      for (bool affine : {true, false})
        for (double offset : {0.0, 20.0}) {
          Array x(t, {s.rows, s.n}), g(t, {s.rows, s.n}), w(t, {s.n}), b(t, {s.n}),
              y(t, {s.rows, s.n}), gx(t, {s.rows, s.n});
          Array mean(t, {s.rows}), rstd(t, {s.rows}), gw(t, {s.n}), gb(t, {s.n});
          x.random(offset - 2, offset + 2), g.random(-1, 1, 2);
          if (affine)
            w.random(0.5, 2, 3), b.random(-1, 1, 4);
          else
            w.values({1}), b.values({0});
          const Reference want(x, g, w, b, s, true);
          const kernels::NormInputs in{x.in(), s.n, affine ? w.in() : abi::TensorIn{},
                                       affine ? b.in() : abi::TensorIn{}, kEps};
          const kernels::NormGradients out{gx.out(), affine ? gw.out() : abi::TensorOut{},
                                           affine ? gb.out() : abi::TensorOut{}};
          with_threads([&] {
            run<kernels::layer_norm_forward>(kCPU, in, y.out(), mean.out(), rstd.out());
            run<kernels::layer_norm_backward>(kCPU, g.in(), in, mean.in(), rstd.in(), out);
          });
          if (s.n == 1) continue;                     // no spread: only eps is left
          const double loose = offset != 0 ? 20 : 1;  // the mean is rounded to x's dtype
          expect_close(
              y, [&](int64_t i) { return want.y[i]; }, 6 * loose, 1, "y");
          expect_close(
              rstd, [&](int64_t i) { return want.rstd[i]; }, 4 * loose, 0, "rstd");
          expect_close(
              gx, [&](int64_t i) { return want.gx[i]; }, 12 * loose, 1, "gx");
          if (!affine) continue;
          expect_close(
              gw, [&](int64_t i) { return want.gw[i]; }, 8 * loose, 30, "gw");
          expect_close(
              gb, [&](int64_t i) { return want.gb[i]; }, 8, 30, "gb");
        }
}

TEST(LayerNorm, TakesNoGradientOfX) {
  Array x(kFloat32, {3, 9}), g(kFloat32, {3, 9}), mean(kFloat32, {3}), rstd(kFloat32, {3}),
      gb(kFloat32, {9});
  g.values({1});
  run<kernels::layer_norm_backward>(kCPU, g.in(), kernels::NormInputs{x.in(), 9}, mean.in(),
                                    rstd.in(), kernels::NormGradients{{}, {}, gb.out()});
  EXPECT_EQ(gb[8], 3);
}

TEST(LayerNorm, WeightGradientDoesNotDependOnTheNumberOfThreads) {
  const int64_t rows = 3000, n = 100;
  Array x(kFloat32, {rows, n}), g(kFloat32, {rows, n}), mean(kFloat32, {rows}),
      rstd(kFloat32, {rows}), gw(kFloat32, {n}), first(kFloat32, {n});
  x.random(-1, 1), g.random(-1, 1, 2), rstd.values({1.5});
  const int before = get_num_threads();
  for (int threads : {1, 2, 5}) {
    set_num_threads(threads);
    run<kernels::layer_norm_backward>(kCPU, g.in(), kernels::NormInputs{x.in(), n}, mean.in(),
                                      rstd.in(), kernels::NormGradients{{}, gw.out(), {}});
    if (threads == 1) first = gw;
    for (int64_t j = 0; j < n; ++j) ASSERT_EQ(gw[j], first[j]);
  }
  set_num_threads(before);
}

TEST(RmsNorm, MatchesDoubleForwardAndBackward) {
  for (RowShape s : kRows)
    for (DType t : {kFloat32, kFloat64})
      for (bool weighted : {true, false}) {
        Array x(t, {s.rows, s.n}), g(t, {s.rows, s.n}), w(t, {s.n}), y(t, {s.rows, s.n}),
            gx(t, {s.rows, s.n}), rstd(t, {s.rows}), gw(t, {s.n});
        x.random(-2, 2), g.random(-1, 1, 2);
        if (weighted)
          w.random(0.5, 2, 3);
        else
          w.values({1});
        const kernels::NormInputs in{x.in(), s.n, weighted ? w.in() : abi::TensorIn{}, {}, kEps};
        const Reference want(x, g, w, w, s, false);
        run<kernels::rms_norm_forward>(kCPU, in, y.out(), rstd.out());
        run<kernels::rms_norm_backward>(
            kCPU, g.in(), in, rstd.in(),
            kernels::NormGradients{gx.out(), weighted ? gw.out() : abi::TensorOut{}, {}});
        expect_close(
            y, [&](int64_t i) { return want.y[i]; }, 6, 0, "y");
        expect_close(
            gx, [&](int64_t i) { return want.gx[i]; }, 16, 2, "gx");
        if (weighted)
          expect_close(
              gw, [&](int64_t i) { return want.gw[i]; }, 8, 30, "gw");
      }
}

TEST(BatchNorm, MatchesDoubleForwardAndBackward) {
  for (const Sizes& s : {Sizes{4, 3, 5}, Sizes{64, 17, 1}, Sizes{300, 40}, Sizes{2, 3, 4, 5},
                         Sizes{3, 70, 1000}, Sizes{2, 1, 5000}})
    for (DType t : {kFloat32, kFloat64})
      for (bool affine : {true, false})
        for (bool training : {true, false}) {
          const int64_t c = s[1], inner = count(s) / s[0] / c;
          const long double n = static_cast<long double>(s[0] * inner);
          Array x(t, s), g(t, s), y(t, s), gx(t, s), mean(t, {c}), var(t, {c}), rstd(t, {c}),
              w(t, {c}), b(t, {c}), gw(t, {c}), gb(t, {c});
          x.random(1, 5), g.random(-1, 1, 2);
          if (affine)
            w.random(0.5, 2, 3), b.random(-1, 1, 4);
          else
            w.values({1}), b.values({0});
          const abi::TensorIn weight = affine ? w.in() : abi::TensorIn{},
                              bias = affine ? b.in() : abi::TensorIn{};
          std::vector<long double> m(c), v(c), total(c), dot(c);
          auto channel = [&](int64_t i) { return i / inner % c; };
          for (int64_t i = 0; i < x.size(); ++i) m[channel(i)] += x[i] / n;
          for (int64_t i = 0; i < x.size(); ++i)
            v[channel(i)] += (x[i] - m[channel(i)]) * (x[i] - m[channel(i)]) / n;
          auto r = [&](int64_t k) { return 1 / std::sqrt(v[k] + kEps); };
          for (int64_t i = 0; i < x.size(); ++i)
            total[channel(i)] += g[i],
                dot[channel(i)] += g[i] * (x[i] - m[channel(i)]) * r(channel(i));
          with_threads([&] {
            run<kernels::batch_norm_stats>(kCPU, x.in(), kEps, mean.out(), var.out(), rstd.out());
            const kernels::BatchNormInputs in{x.in(), mean.in(), rstd.in(), weight, bias, training};
            run<kernels::batch_norm_forward>(kCPU, in, y.out());
            run<kernels::batch_norm_backward>(
                kCPU, g.in(), in,
                kernels::NormGradients{gx.out(), affine ? gw.out() : abi::TensorOut{},
                                       affine ? gb.out() : abi::TensorOut{}});
          });
          expect_close(
              mean, [&](int64_t k) { return m[k]; }, 6, 0, "mean");
          expect_close(
              var, [&](int64_t k) { return v[k]; }, 8, 0, "var");
          expect_close(
              y,
              [&](int64_t i) {
                return (x[i] - m[channel(i)]) * r(channel(i)) * w[channel(i)] + b[channel(i)];
              },
              12, 2, "y");
          expect_close(
              gx,
              [&](int64_t i) {
                const int64_t k = channel(i);
                if (!training) return g[i] * w[k] * r(k);
                return w[k] * r(k) * (g[i] - total[k] / n - (x[i] - m[k]) * r(k) * dot[k] / n);
              },
              12, 1, "gx");
          if (!affine) continue;
          expect_close(
              gw, [&](int64_t k) { return dot[k]; }, 12, 60, "gw");
          expect_close(
              gb, [&](int64_t k) { return total[k]; }, 12, 60, "gb");
        }
}

}  // namespace
}  // namespace dropin::test
