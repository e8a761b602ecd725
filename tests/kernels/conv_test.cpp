#include <gtest/gtest.h>

#include <limits>

#include "kernels/conv/kernel.h"
#include "src/cpu/onednn.h"
#include "tests/kernels/arrays.h"

namespace dropin {
namespace {

using kernels::ConvGeometry;
using testing::Array;
using testing::WithThreads;

struct Case {
  int64_t b, c, o, h, w, kh, kw;
  ConvGeometry g;
};

int64_t out_size(const Case& k, int d) {
  const int64_t in[2] = {k.h, k.w}, kernel[2] = {k.kh, k.kw};
  return (in[d] + k.g.pad_begin[d] + k.g.pad_end[d] - k.g.dilation[d] * (kernel[d] - 1) - 1) /
             k.g.stride[d] +
         1;
}

/// f(b, o, p, q, c, i, j, h, w): every product of the convolution, c being the channel within the
/// weights.
template <class F>
void each_product(const Case& k, F&& f) {
  const int64_t cg = k.c / k.g.groups, og = k.o / k.g.groups;
  for (int64_t b = 0; b < k.b; ++b)
    for (int64_t o = 0; o < k.o; ++o)
      for (int64_t p = 0; p < out_size(k, 0); ++p)
        for (int64_t q = 0; q < out_size(k, 1); ++q)
          for (int64_t c = 0; c < cg; ++c)
            for (int64_t i = 0; i < k.kh; ++i)
              for (int64_t j = 0; j < k.kw; ++j) {
                const int64_t h = p * k.g.stride[0] + i * k.g.dilation[0] - k.g.pad_begin[0],
                              w = q * k.g.stride[1] + j * k.g.dilation[1] - k.g.pad_begin[1];
                if (h >= 0 && h < k.h && w >= 0 && w < k.w)
                  f(b, o, p, q, o / og * cg + c, c, i, j, h, w);
              }
}

template <class T>
void expect_near(Array<T>& got, Array<double>& want, const char* what) {
  EXPECT_TRUE(got.guarded()) << what;
  double worst = 0, largest = 1;
  for (int64_t i = 0; i < got.numel(); ++i) {
    largest = std::max(largest, std::abs(want.data()[i]));
    const double e = std::abs(static_cast<double>(got.data()[i]) - want.data()[i]);
    if (!(e <= worst)) worst = e;
  }
  EXPECT_LE(worst, (std::is_same_v<T, double> ? 1e-13 : 5e-6) * largest) << what;
}

template <class T>
void check(const Case& k) {
  SCOPED_TRACE(::testing::Message()
               << "B " << k.b << " C " << k.c << " O " << k.o << " H " << k.h << " W " << k.w
               << " k " << k.kh << "x" << k.kw << " groups " << k.g.groups << " stride "
               << k.g.stride[0] << " dilation " << k.g.dilation[0] << " onednn "
               << cpu::onednn_enabled() << " threads " << get_num_threads());
  const int64_t P = out_size(k, 0), Q = out_size(k, 1), cg = k.c / k.g.groups;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  Array<T> x = Array<T>({k.b, k.c, k.h, k.w}).random(1),
           w = Array<T>({k.o, cg, k.kh, k.kw}).random(2), bias = Array<T>({k.o}).random(3),
           gy = Array<T>({k.b, k.o, P, Q}).random(4), y({k.b, k.o, P, Q}), gx({k.b, k.c, k.h, k.w}),
           gw({k.o, cg, k.kh, k.kw}), gb({k.o});
  Array<double> want_y({k.b, k.o, P, Q}), want_gx({k.b, k.c, k.h, k.w}),
      want_gw({k.o, cg, k.kh, k.kw}), want_gb({k.o});
  want_y.fill(0), want_gx.fill(0), want_gw.fill(0), want_gb.fill(0);
  each_product(
      k, [&](auto b, auto o, auto p, auto q, auto channel, auto c, auto i, auto j, auto h, auto v) {
        const double xv = x(b, channel, h, v), wv = w(o, c, i, j), gv = gy(b, o, p, q);
        want_y(b, o, p, q) += xv * wv;
        want_gx(b, channel, h, v) += gv * wv;
        want_gw(o, c, i, j) += gv * xv;
      });
  run<kernels::conv2d_forward>(kCPU, x.in(), w.in(), abi::TensorIn{}, k.g, y.fill(nan).out());
  expect_near(y, want_y, "y without bias");
  for (int64_t b = 0; b < k.b; ++b)
    for (int64_t o = 0; o < k.o; ++o)
      for (int64_t p = 0; p < P; ++p)
        for (int64_t q = 0; q < Q; ++q) {
          want_y(b, o, p, q) += static_cast<double>(bias(o));
          want_gb(o) += static_cast<double>(gy(b, o, p, q));
        }
  run<kernels::conv2d_forward>(kCPU, x.in(), w.in(), bias.in(), k.g, y.fill(nan).out());
  expect_near(y, want_y, "y");
  run<kernels::conv2d_backward_input>(kCPU, gy.in(), w.in(), k.g, gx.fill(nan).out());
  expect_near(gx, want_gx, "gx");
  run<kernels::conv2d_backward_weight>(kCPU, gy.in(), x.in(), k.g, gw.fill(nan).out(),
                                       gb.fill(nan).out());
  expect_near(gw, want_gw, "gw");
  expect_near(gb, want_gb, "gb");
  run<kernels::conv2d_backward_weight>(kCPU, gy.in(), x.in(), k.g, gw.fill(nan).out(),
                                       abi::TensorOut{});
  expect_near(gw, want_gw, "gw alone");
}

std::vector<Case> cases() {
  return {
      {2, 3, 5, 7, 9, 3, 3, {}},
      {1, 4, 6, 8, 8, 1, 1, {}},
      {3, 16, 32, 9, 7, 1, 1, {{2, 2}}},
      {2, 5, 7, 1, 20, 1, 5, {{1, 2}, {1, 3}, {0, 4}, {0, 3}}},
      {2, 16, 32, 12, 11, 3, 3, {{2, 1}, {1, 1}, {1, 0}, {0, 2}}},
      {3, 8, 12, 13, 10, 3, 2, {{1, 1}, {2, 3}, {2, 3}, {1, 0}, 4}},
      {2, 6, 6, 10, 9, 5, 5, {{1, 1}, {1, 1}, {2, 2}, {2, 2}, 6}},
      {2, 4, 12, 11, 13, 3, 3, {{2, 2}, {1, 1}, {1, 1}, {1, 1}, 4}},
      {2, 32, 32, 17, 19, 7, 7, {{1, 1}, {1, 1}, {3, 3}, {3, 3}, 32}},
      {2, 32, 32, 20, 20, 3, 3, {{2, 2}, {2, 2}, {0, 2}, {3, 1}, 32}},
      {1, 2, 3, 4, 4, 4, 4, {}},
      {1, 3, 4, 2, 2, 3, 3, {{3, 3}, {1, 1}, {4, 4}, {5, 5}}},  // windows that see only padding
      {0, 3, 4, 5, 5, 3, 3, {}},
  };
}

TEST(Conv2d, AgreesWithTheLoopsInFloat32) {
  for (bool onednn : {true, false})
    for (int threads : {1, 2, 5}) {
      WithThreads t(threads);
      cpu::set_onednn_enabled(onednn);
      for (const Case& k : cases()) check<float>(k);
    }
  cpu::set_onednn_enabled(true);
}

TEST(Conv2d, AgreesWithTheLoopsInFloat64) {
  for (int threads : {1, 3}) {
    WithThreads t(threads);
    for (const Case& k : cases()) check<double>(k);
  }
}

TEST(Conv2d, IsCutOverThreads) {
#ifdef __SANITIZE_THREAD__
  constexpr bool slow = true;  // the loops that it is compared with take minutes then
#else
  constexpr bool slow = false;
#endif
  for (bool onednn : {true, false})
    for (int threads : {2, 3}) {
      if (slow && onednn != (threads == 2)) continue;
      WithThreads t(threads);
      cpu::set_onednn_enabled(onednn);
      const ConvGeometry same{{1, 1}, {1, 1}, {1, 1}, {1, 1}};
      check<float>({1, 40, 72, 33, 31, 3, 3, same});
      check<float>({1, 64, 128, 20, 20, 1, 1, {}});
      check<float>({7, 12, 20, 40, 41, 3, 3, same});
      check<float>({1, 48, 96, 30, 30, 3, 3, {{1, 1}, {1, 1}, {1, 1}, {1, 1}, 6}});
    }
  cpu::set_onednn_enabled(true);
}

TEST(Conv2d, AWholeBatchIsSummedInPieces) {
  WithThreads t(2);
  check<float>({9, 8, 8, 160, 170, 3, 3, {{2, 2}, {1, 1}, {1, 1}, {1, 1}}});
}

TEST(Conv2d, TheSecondCallCreatesNoPrimitive) {
  Array<float> x = Array<float>({5, 16, 30, 30}).random(1),
               w = Array<float>({32, 16, 3, 3}).random(2), y({5, 32, 28, 28}), gx({5, 16, 30, 30}),
               gw({32, 16, 3, 3});
  auto all = [&] {
    run<kernels::conv2d_forward>(kCPU, x.in(), w.in(), abi::TensorIn{}, ConvGeometry{}, y.out());
    run<kernels::conv2d_backward_input>(kCPU, y.in(), w.in(), ConvGeometry{}, gx.out());
    run<kernels::conv2d_backward_weight>(kCPU, y.in(), x.in(), ConvGeometry{}, gw.out(),
                                         abi::TensorOut{});
  };
  all();
  const int64_t created = cpu::onednn_primitives_created();
  all();
  EXPECT_EQ(cpu::onednn_primitives_created(), created);
}

TEST(Conv2d, SizesAreChecked) {
  Array<float> x({1, 4, 5, 5}), w({6, 4, 3, 3}), y({1, 6, 3, 3}), wrong({1, 6, 4, 3});
  ConvGeometry g;
  EXPECT_NO_THROW(run<kernels::conv2d_forward>(kCPU, x.fill(0).in(), w.fill(0).in(),
                                               abi::TensorIn{}, g, y.out()));
  EXPECT_THROW(run<kernels::conv2d_forward>(kCPU, x.in(), w.in(), abi::TensorIn{}, g, wrong.out()),
               Error);
  g.groups = 3;
  EXPECT_THROW(run<kernels::conv2d_forward>(kCPU, x.in(), w.in(), abi::TensorIn{}, g, y.out()),
               Error);
  g.groups = 1, g.stride[0] = 0;
  EXPECT_THROW(run<kernels::conv2d_forward>(kCPU, x.in(), w.in(), abi::TensorIn{}, g, y.out()),
               Error);
}

}  // namespace
}  // namespace dropin
