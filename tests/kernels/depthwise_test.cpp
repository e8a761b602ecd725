#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/conv/kernel.h"
#include "tests/kernels/arrays.h"

namespace dropin {
namespace {

using kernels::ConvGeometry;
using kernels::DepthwiseRun;
using testing::WithThreads;

struct Group {
  int64_t channels, kh, kw, pad_top, pad_left, pad_bottom, pad_right, dh = 1, dw = 1;
};
struct Case {
  int64_t batch, h, w, sh, sw;
  std::vector<Group> groups;
};

struct Lcg {
  std::uint64_t s;
  float operator()() {
    s = s * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<double>(s >> 11) / 9007199254740992.0 * 2 - 1);
  }
};

// An image array in either layout; `at` is [b, c, h, w].
struct Image {
  int64_t B, C, H, W;
  bool last;
  std::vector<float> v;
  Image(int64_t b, int64_t c, int64_t h, int64_t w, bool l)
      : B(b), C(c), H(h), W(w), last(l), v(static_cast<std::size_t>(b * c * h * w) + 1, 77.0f) {}
  float& operator()(int64_t b, int64_t c, int64_t h, int64_t w) {
    return v[static_cast<std::size_t>(last ? ((b * H + h) * W + w) * C + c
                                           : ((b * C + c) * H + h) * W + w)];
  }
  abi::TensorOut view() {
    abi::TensorOut t;
    t.data = v.data(), t.ndim = 4;
    const int64_t sizes[] = {B, C, H, W}, plain[] = {C * H * W, H * W, W, 1},
                  wide[] = {C * H * W, 1, W * C, C};
    for (int i = 0; i < 4; ++i) t.sizes[i] = sizes[i], t.strides[i] = last ? wide[i] : plain[i];
    return t;
  }
  void fill(float x) { std::fill(v.begin(), v.end() - 1, x); }
  void random(std::uint64_t seed) {
    Lcg r{seed};
    for (int64_t b = 0; b < B; ++b)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t h = 0; h < H; ++h)
          for (int64_t w = 0; w < W; ++w) (*this)(b, c, h, w) = r();
  }
};

abi::TensorOut vector_of(std::vector<float>& v, std::initializer_list<int64_t> sizes) {
  abi::TensorOut t;
  t.data = v.data(), t.ndim = static_cast<int>(sizes.size());
  int64_t step = 1, i = t.ndim;
  for (const int64_t* s = sizes.end(); s != sizes.begin();)
    t.sizes[--i] = *--s, t.strides[i] = step, step *= *s;
  return t;
}

int64_t channels_of(const Case& k) {
  int64_t c = 0;
  for (const Group& g : k.groups) c += g.channels;
  return c;
}
int64_t rows_of(const Case& k) {
  const Group& g = k.groups[0];
  return (k.h + g.pad_top + g.pad_bottom - g.dh * (g.kh - 1) - 1) / k.sh + 1;
}
int64_t columns_of(const Case& k) {
  const Group& g = k.groups[0];
  return (k.w + g.pad_left + g.pad_right - g.dw * (g.kw - 1) - 1) / k.sw + 1;
}

/// The arrays of one call, random inputs and NaN where the kernels write.
struct Arrays {
  int64_t C, P, Q;
  Image x, y, gy, gx;
  std::vector<std::vector<float>> w, bias, gw, gb;
  std::vector<DepthwiseRun> runs;

  Arrays(const Case& k, bool last)
      : C(channels_of(k)),
        P(rows_of(k)),
        Q(columns_of(k)),
        x(k.batch, C, k.h, k.w, last),
        y(k.batch, C, P, Q, last),
        gy(k.batch, C, P, Q, last),
        gx(k.batch, C, k.h, k.w, last) {
    x.random(1), gy.random(2);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    y.fill(nan), gx.fill(nan);
    for (std::size_t i = 0; i < k.groups.size(); ++i) {
      const Group& g = k.groups[i];
      const auto n = static_cast<std::size_t>(g.channels * g.kh * g.kw),
                 c = static_cast<std::size_t>(g.channels);
      Lcg r{10 + i};
      w.emplace_back(n), bias.emplace_back(c), gw.emplace_back(n, nan), gb.emplace_back(c, nan);
      for (float& v : w.back()) v = r();
      for (float& v : bias.back()) v = r();
    }
    for (std::size_t i = 0; i < k.groups.size(); ++i) {
      const Group& g = k.groups[i];
      runs.push_back(
          {vector_of(w[i], {g.channels, 1, g.kh, g.kw}), vector_of(bias[i], {g.channels}),
           vector_of(gw[i], {g.channels, 1, g.kh, g.kw}), vector_of(gb[i], {g.channels}),
           ConvGeometry{
               {k.sh, k.sw}, {g.dh, g.dw}, {g.pad_top, g.pad_left}, {g.pad_bottom, g.pad_right}}});
    }
  }
  void call() {
    const kernels::DepthwiseRuns runs_of_call{runs.data(), static_cast<int64_t>(runs.size())};
    run<kernels::mixed_depthwise_forward>(kCPU, x.view(), runs_of_call, y.view());
    run<kernels::mixed_depthwise_backward>(kCPU, gy.view(), x.view(), runs_of_call, gx.view());
  }
};

/// The greatest errors, as shares of what sums of so many values may be off.
struct Worst {
  double y = 0, gx = 0, gw = 0, gb = 0;
};
void note(double& worst, double got, double want, double scale) {
  const double e = std::abs(got - want) / scale;
  if (!(e <= worst)) worst = e;
}

/// Channel c of group i, which is channel c0 + c of the image, by the plain loops; adds to want_gx.
void check_channel(const Case& k, Arrays& a, std::size_t i, int64_t c, int64_t c0,
                   std::vector<double>& want_gx, Worst& worst) {
  const Group& g = k.groups[i];
  std::vector<double> want_gw(static_cast<std::size_t>(g.kh * g.kw), 0.0);
  double want_gb = 0;
  for (int64_t b = 0; b < k.batch; ++b)
    for (int64_t p = 0; p < a.P; ++p)
      for (int64_t q = 0; q < a.Q; ++q) {
        double s = a.bias[i][static_cast<std::size_t>(c)];
        const double gr = a.gy(b, c0 + c, p, q);
        want_gb += gr;
        for (int64_t m = 0; m < g.kh; ++m)
          for (int64_t n = 0; n < g.kw; ++n) {
            const int64_t h = p * k.sh + m * g.dh - g.pad_top, v = q * k.sw + n * g.dw - g.pad_left;
            if (h < 0 || h >= k.h || v < 0 || v >= k.w) continue;
            const double wv = a.w[i][static_cast<std::size_t>((c * g.kh + m) * g.kw + n)],
                         xv = a.x(b, c0 + c, h, v);
            s += wv * xv;
            want_gw[static_cast<std::size_t>(m * g.kw + n)] += gr * xv;
            want_gx[static_cast<std::size_t>(((b * a.C + c0 + c) * k.h + h) * k.w + v)] += gr * wv;
          }
        note(worst.y, a.y(b, c0 + c, p, q), s, 4);
      }
  for (int64_t t = 0; t < g.kh * g.kw; ++t)
    note(worst.gw, a.gw[i][static_cast<std::size_t>(c * g.kh * g.kw + t)],
         want_gw[static_cast<std::size_t>(t)], std::sqrt(1.0 * k.batch * a.P * a.Q) + 1);
  note(worst.gb, a.gb[i][static_cast<std::size_t>(c)], want_gb,
       std::sqrt(1.0 * k.batch * a.P * a.Q) + 1);
}

void check(const Case& k, bool last) {
  SCOPED_TRACE(::testing::Message()
               << "B " << k.batch << " H " << k.h << " W " << k.w << " stride " << k.sh << "x"
               << k.sw << " first kernel " << k.groups[0].kh << "x" << k.groups[0].kw
               << " dilation " << k.groups[0].dh << "x" << k.groups[0].dw << " channels "
               << k.groups[0].channels << (last ? " channels-last" : ""));
  Arrays a(k, last);
  a.call();
  EXPECT_EQ(a.y.v.back(), 77.0f);
  EXPECT_EQ(a.gx.v.back(), 77.0f);
  std::vector<double> want_gx(static_cast<std::size_t>(k.batch * a.C * k.h * k.w), 0.0);
  Worst worst;
  int64_t c0 = 0;
  for (std::size_t i = 0; i < k.groups.size(); ++i) {
    for (int64_t c = 0; c < k.groups[i].channels; ++c)
      check_channel(k, a, i, c, c0, want_gx, worst);
    c0 += k.groups[i].channels;
  }
  for (int64_t b = 0; b < k.batch; ++b)
    for (int64_t c = 0; c < a.C; ++c)
      for (int64_t h = 0; h < k.h; ++h)
        for (int64_t v = 0; v < k.w; ++v)
          note(worst.gx, a.gx(b, c, h, v),
               want_gx[static_cast<std::size_t>(((b * a.C + c) * k.h + h) * k.w + v)], 4);
  EXPECT_LT(worst.y, 2e-6) << "y";
  EXPECT_LT(worst.gx, 2e-6) << "gx";
  EXPECT_LT(worst.gw, 2e-6) << "gw";
  EXPECT_LT(worst.gb, 2e-6) << "gb";
}

TEST(Depthwise, AgreesWithTheLoopsForEveryKernelStrideAndDilation) {
  for (const bool last : {false, true})
    for (int64_t kh = 1; kh <= 13; ++kh)
      for (const int64_t s : {1, 2, 3})
        for (const int64_t d : {1, 2, 3}) {
          const int64_t kw = kh % 3 == 0   ? kh - 1
                             : kh % 5 == 0 ? 1
                                           : kh,
                        reach = d * (kh - 1), across = d * (kw - 1);
          for (const auto& [h, w] : {std::pair<int64_t, int64_t>{7, 14}, {19, 5}, {1, 33}})
            check({1,
                   h,
                   w,
                   s,
                   s,
                   {{last ? 18 : 3, kh, kw, reach / 2, across / 2, reach - reach / 2,
                     across - across / 2, d, d}}},
                  last);
        }
}

TEST(Depthwise, TakesUnevenStridesPaddingsAndDilations) {
  for (auto [last, more] :
       {std::pair{false, 0}, {true, 0}, {true, 16}}) {  // `more` channels: whole vectors and a rest
    check({2, 13, 17, 2, 1, {{5 + more, 3, 5, 2, 0, 0, 3, 2, 1}}}, last);
    check({2, 12, 18, 1, 2, {{5 + more, 5, 4, 0, 3, 4, 0, 1, 3}}}, last);
    check({1, 9, 9, 1, 1, {{2 + more, 3, 3, 7, 6, 5, 8}}}, last);  // more padding than kernel
    check({1, 2, 2, 3, 3, {{3 + more, 3, 3, 4, 4, 5, 5}}}, last);  // windows that see only padding
    check({1, 30, 30, 4, 5, {{2 + more, 2, 2, 0, 0, 0, 0}}}, last);  // pixels that no window sees
    check({1, 5, 5, 1, 1, {{1 + more, 5, 5, 0, 0, 0, 0}}}, last);    // one output
    check({3, 1, 1, 1, 1, {{9 + more, 3, 3, 1, 1, 1, 1}}}, last);
    check({1, 150, 260, 1, 1, {{1 + more, 5, 3, 2, 1, 2, 1}}}, last);  // several bands
    check({1, 150, 260, 2, 2, {{1 + more, 7, 7, 2, 2, 3, 3}}}, last);
    check({1, 40, 9, 1, 1, {{2 + more, 3, 3, 20, 20, 20, 20, 20, 20}}},
          last);  // dilated as far as the picture
  }
}

TEST(Depthwise, MixesKernelsAndDoesNotDependOnThreads) {
  const Case mixed{3,
                   14,
                   15,
                   2,
                   2,
                   {{5, 3, 3, 0, 1, 1, 1},
                    {3, 5, 5, 1, 2, 2, 2},
                    {17, 7, 7, 2, 3, 3, 3},
                    {1, 9, 9, 3, 4, 4, 4},
                    {2, 11, 11, 4, 5, 5, 5}}};
  for (const int threads : {1, 2, 5}) {
    WithThreads t(threads);
    for (const bool last : {false, true}) check(mixed, last);
  }
  Image x(4, 24, 28, 28, false), one(4, 24, 28, 28, false), many(4, 24, 28, 28, false);
  x.random(3);
  std::vector<float> w(24 * 25, 0.3f), g1(24 * 25), g2(24 * 25);
  const ConvGeometry same{{1, 1}, {1, 1}, {2, 2}, {2, 2}};
  for (const bool first : {true, false}) {
    WithThreads t(first ? 1 : 3);
    DepthwiseRun r{
        vector_of(w, {24, 1, 5, 5}), {}, vector_of(first ? g1 : g2, {24, 1, 5, 5}), {}, same};
    run<kernels::mixed_depthwise_backward>(kCPU, x.view(), x.view(), kernels::DepthwiseRuns{&r, 1},
                                           (first ? one : many).view());
  }
  EXPECT_EQ(one.v, many.v);
  EXPECT_EQ(g1, g2);
}

TEST(Depthwise, WhatIsNotFiniteStaysWhereItIsSeen) {
  for (const bool last : {false, true}) {
    Image x(1, 3, 9, 11, last), y(1, 3, 9, 11, last), gy(1, 3, 9, 11, last), gx(1, 3, 9, 11, last);
    x.random(1), gy.random(2);
    x(0, 1, 4, 10) = std::numeric_limits<float>::infinity();
    std::vector<float> w(27, 0.5f), gw(27);
    DepthwiseRun r{vector_of(w, {3, 1, 3, 3}),
                   {},
                   vector_of(gw, {3, 1, 3, 3}),
                   {},
                   ConvGeometry{{1, 1}, {1, 1}, {1, 1}, {1, 1}}};
    run<kernels::mixed_depthwise_forward>(kCPU, x.view(), kernels::DepthwiseRuns{&r, 1}, y.view());
    run<kernels::mixed_depthwise_backward>(kCPU, gy.view(), x.view(), kernels::DepthwiseRuns{&r, 1},
                                           gx.view());
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t h = 0; h < 9; ++h)
        for (int64_t v = 0; v < 11; ++v)
          EXPECT_EQ(std::isfinite(y(0, c, h, v)), !(c == 1 && h >= 3 && h <= 5 && v >= 9))
              << c << " " << h << " " << v;
    for (int t = 0; t < 27; ++t)
      EXPECT_EQ(std::isfinite(gw[static_cast<std::size_t>(t)]), t < 9 || t >= 18 || t % 3 == 0)
          << t;  // the last column is never under a right tap
  }
}

TEST(Depthwise, ArraysAreChecked) {
  Image x(1, 4, 5, 5, false), y(1, 4, 5, 5, false);
  x.fill(1);
  std::vector<float> w(36);
  DepthwiseRun r{
      vector_of(w, {4, 1, 3, 3}), {}, {}, {}, ConvGeometry{{1, 1}, {1, 1}, {1, 1}, {1, 1}}};
  EXPECT_NO_THROW(run<kernels::mixed_depthwise_forward>(kCPU, x.view(),
                                                        kernels::DepthwiseRuns{&r, 1}, y.view()));
  r.g.pad_end[0] = 2;
  EXPECT_THROW(run<kernels::mixed_depthwise_forward>(kCPU, x.view(), kernels::DepthwiseRuns{&r, 1},
                                                     y.view()),
               Error);
  r.g.pad_end[0] = 1, r.g.stride[1] = 0;
  EXPECT_THROW(run<kernels::mixed_depthwise_forward>(kCPU, x.view(), kernels::DepthwiseRuns{&r, 1},
                                                     y.view()),
               Error);
  r.g.stride[1] = 1, r.w = vector_of(w, {3, 1, 3, 3});
  EXPECT_THROW(run<kernels::mixed_depthwise_forward>(kCPU, x.view(), kernels::DepthwiseRuns{&r, 1},
                                                     y.view()),
               Error);
}

}  // namespace
}  // namespace dropin
