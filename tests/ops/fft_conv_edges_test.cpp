// Edges of the long convolution: nothing wraps or leaks, bad input; and the short causal one.
#include "dropin/ops/fft_conv.h"
#include "ops/fft_conv_results.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(FftConv, TheFutureDoesNotReachThePast) {
  // 1e-6 of the row's maximum is the bound of the specification; the transform itself stays well
  // below, the direct sum is exact
  for (const int64_t l : {32, 64, 1000, 16384}) {
    const Tensor u = random({1, 8, l}, kFloat32), k = random({8, l}, kFloat32, 2),
                 y = fft_conv(u, k);
    const double top = amax(abs(y)).item();
    for (const int64_t cut : {l / 4, l - 1}) {
      Tensor changed = u.clone();
      changed.narrow(2, cut, l - cut).mul_(-1);
      const double moved =
          max_difference(fft_conv(changed, k).narrow(2, 0, cut), y.narrow(2, 0, cut));
      EXPECT_LE(moved, l <= 32 ? 0 : 1e-6 * top) << l << " cut at " << cut;
    }
  }
}

TEST(FftConv, ASpectrumMayLieAnywhere) {
  const Tensor u = random({1, 9, 100}, kFloat32), k = random({9, 100}, kFloat32, 2),
               s = fft_conv_spectrum(k, 100), y = fft_conv(u, k, {}, {.spectrum = s});
  const Tensor shifted = concat({zeros({3}), s}).narrow(0, 3, s.numel()),
               strided = stack({s, s}, 1).select(1, 0);
  EXPECT_EQ(max_difference(fft_conv(u, k, {}, {.spectrum = shifted}), y), 0);
  EXPECT_EQ(max_difference(fft_conv(u, k, {}, {.spectrum = strided}), y), 0);
}

TEST(FftConv, NothingWrapsAround) {
  Tensor u = zeros({1, 1, 100}), k = zeros({1, 100});
  u.data<float>()[99] = 1;
  k.data<float>()[99] = k.data<float>()[1] = 1;
  EXPECT_LT(amax(abs(fft_conv(u, k))).item(), 1e-6);
  EXPECT_LT(amax(abs(fft_conv(u.flip({2}), zeros({1, 1}), {}, {.k_rev = k}))).item(), 1e-6);
}

TEST(FftConv, ANonFiniteSampleSpoilsItsRowOnly) {
  Tensor u = random({2, 9, 200}, kFloat32), k = random({9, 200}, kFloat32, 2);
  const Tensor clean = fft_conv(u, k);
  for (const float bad : {std::nanf(""), INFINITY}) {
    Tensor v = u.clone();
    v.data<float>()[3 * 200 + 150] = bad;  // batch 0, channel 3
    const Tensor y = fft_conv(v, k);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t c = 0; c < 9; ++c) {
        if (b == 0 && c == 3)
          EXPECT_TRUE(std::isnan(sum(y[b][c]).item()));
        else
          EXPECT_EQ(max_difference(y[b][c], clean[b][c]), 0);
      }
  }
}

TEST(FftConv, SixteenBitTypesComputeInFloat32) {
  const Tensor u = random({2, 4, 300}, kFloat32), k = random({4, 300}, kFloat32, 2);
  const Tensor y = fft_conv(u.to(kBFloat16), k.to(kBFloat16)),
               want = fft_conv(u.to(kBFloat16).to(kFloat32), k.to(kBFloat16).to(kFloat32))
                          .to(kBFloat16);
  EXPECT_EQ(y.dtype(), kBFloat16);
  EXPECT_EQ(max_difference(y, want), 0);
  EXPECT_TRUE(
      all(isfinite(fft_conv(full({1, 1, 4096}, 10, kFloat16), full({1, 4096}, 1e-3, kFloat16))))
          .item<bool>());
}

TEST(FftConv, RefusesWhatDoesNotFit) {
  const Tensor u = zeros({2, 3, 10}), k = zeros({3, 10});
  EXPECT_ERROR(fft_conv(zeros({2, 3}), k), ShapeError, "u is [2, 3], expected [B, C, L]");
  EXPECT_ERROR(fft_conv(zeros({2, 3, 0}), k), ShapeError, "expected L of at least 1");
  EXPECT_ERROR(fft_conv(u, zeros({3, 11})), ShapeError, "k is [3, 11], expected 1 <= Lk <= L = 10");
  EXPECT_ERROR(fft_conv(u, zeros({3, 0})), ShapeError, "expected 1 <= Lk");
  EXPECT_ERROR(fft_conv(u, zeros({4, 10})), ShapeError, "k is [4, 10], expected [3, Lk]");
  EXPECT_ERROR(fft_conv(u, k, zeros({4})), ShapeError, "D is [4], expected [3]");
  EXPECT_ERROR(fft_conv(u, k, {}, {.k_rev = zeros({3, 12})}), ShapeError, "k_rev is [3, 12]");
  EXPECT_ERROR(fft_conv(u, k, {}, {.pre_gate = zeros({2, 3, 9})}), ShapeError,
               "pre_gate is [2, 3, 9], expected [2, 3, 10]");
  EXPECT_ERROR(fft_conv(u, k, {}, {.post_gate = zeros({3, 10})}), ShapeError,
               "post_gate is [3, 10]");
  EXPECT_ERROR(fft_conv(u.to(kInt64), k), DTypeError, "floating-point");
  EXPECT_ERROR(fft_conv(u, k, {}, {.spectrum = zeros({5})}), ShapeError, "spectrum has 5 numbers");
  EXPECT_EQ(fft_conv(zeros({0, 3, 100}), zeros({3, 100})).sizes(), (Shape{0, 3, 100}));
  EXPECT_EQ(fft_conv(zeros({2, 0, 100}), zeros({0, 100})).sizes(), (Shape{2, 0, 100}));
  Tensor e = zeros({3, 100}).requires_grad_();
  sum(fft_conv(zeros({0, 3, 100}), e)).backward();
  EXPECT_EQ(amax(abs(e.grad())).item(), 0);
}

TEST(CausalDepthwiseConv, EqualsTheDefinition) {
  for (const int64_t taps : {1, 3, 4, 9})
    for (const int64_t l : {1, 2, 7, 700}) {
      const Tensors wide{random({3, l, 13}, kFloat64, 1), random({13, 1, taps}, kFloat64, 2),
                         random({13}, kFloat64, 3)};
      const Tensor w = random({3, l, 13}, kFloat64, 4);
      Tensors narrow;
      for (const Tensor& t : wide) narrow.push_back(t.to(kFloat32));
      const Result got = run_with_gradients(
          narrow, w, [](const Tensors& in) { return causal_depthwise_conv(in[0], in[1], in[2]); });
      const Result want = run_with_gradients(
          wide, w, [](const Tensors& in) { return causal_depthwise_conv(in[0], in[1], in[2]); });
      EXPECT_LT(max_difference(got.y.to(kFloat64), want.y), 1e-5);
      for (std::size_t i = 0; i < 3; ++i)
        EXPECT_LT(length_of(got.grads[i].to(kFloat64) - want.grads[i]),
                  1e-6 * length_of(want.grads[i]) + 1e-12)
            << "gradient " << i << " taps " << taps << " L " << l;
      const Tensor x = random({3, 13, l}, kFloat64, 1).transpose(1, 2);
      EXPECT_LT(max_difference(causal_depthwise_conv(x.to(kFloat32), narrow[1]).to(kFloat64),
                               causal_depthwise_conv(x, wide[1])),
                1e-5);
    }
  EXPECT_ERROR(causal_depthwise_conv(zeros({2, 5, 3}), zeros({4, 1, 3})), ShapeError,
               "weight is [4, 1, 3], expected [3, 1, K]");
  EXPECT_ERROR(causal_depthwise_conv(zeros({2, 5}), zeros({4, 1, 3})), ShapeError, "x is [2, 5]");
  EXPECT_ERROR(causal_depthwise_conv(zeros({2, 5, 3}), zeros({3, 1, 3}), zeros({2})), ShapeError,
               "bias is [2]");
}

}  // namespace
}  // namespace dropin
