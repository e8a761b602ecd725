#include "dropin/ops/fft_conv.h"

#include "dropin/autograd/gradcheck.h"
#include "dropin/core/parallel.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

struct Case {
  int64_t batch, channels, length, taps;
  bool reversed = false, pre = false, post = false, skip = true, channels_last = false,
       keep = false;
};
void PrintTo(const Case& c, std::ostream* os) {
  *os << "[" << c.batch << ", " << c.channels << ", " << c.length << "] taps " << c.taps
      << (c.reversed ? " reversed" : "") << (c.pre ? " pre" : "") << (c.post ? " post" : "")
      << (c.skip ? " D" : "") << (c.channels_last ? " channels last" : "")
      << (c.keep ? " kept" : "");
}

std::vector<Case> cases() {
  std::vector<Case> r;
  // direct sums, every radix and their mixtures, lengths that are not a transform's
  for (const int64_t l :
       {1,   2,   7,   31,  32,  33,  36,  40,  47,  48,  60,  64,  65,  80,  96,  100,
        127, 128, 144, 160, 180, 200, 225, 240, 256, 300, 333, 400, 512, 625, 720, 1000})
    r.push_back({2, 9, l, l, false, l % 3 == 0, l % 2 == 0});
  for (const int64_t l : {20, 64, 130, 520}) {
    r.push_back({2, 3, l, std::min<int64_t>(l, 7), true, true, true});
    r.push_back({3, 16, l, l, true, false, true, false, true});
    r.push_back({1, 8, l, 1, true, true, false, true, true, true});
    r.push_back({2, 17, l, l / 2, false, true, true, true, true, true});
    r.push_back({2, 5, l, l, true, true, true, true, false, true});
  }
  r.push_back({1, 8, 4096, 4096, true, true, true});
  r.push_back({1, 3, 5000, 4999});
  r.push_back({1, 8, 6000, 6000, false, false, true, true, true});
  return r;
}

class EveryFftConv : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, EveryFftConv, ::testing::ValuesIn(cases()));

struct Result {
  Tensor y;
  Tensors grads;
};
// f of u, k, D, k_rev, pre, post and the gradients of <f, w>
template <class Fn>
Result run_with_gradients(const Tensors& inputs, const Tensor& w, Fn f) {
  Tensors in;
  for (const Tensor& t : inputs) {
    if (!t.defined())
      in.push_back(t);
    else if (t.dim() == 3 && t.stride(1) == 1 && t.size(1) > 1)
      in.push_back(t.transpose(1, 2).contiguous().transpose(1, 2).detach().requires_grad_());
    else
      in.push_back(t.detach().clone().requires_grad_());
  }
  Result r;
  r.y = f(in);
  Tensors wanted;
  for (const Tensor& t : in)
    if (t.defined()) wanted.push_back(t);
  r.grads = grad({r.y}, wanted, {w.to(r.y.dtype())});
  return r;
}
double length_of(const Tensor& x) { return std::sqrt(sum(square(x.to(kFloat64))).item()); }

TEST_P(EveryFftConv, EqualsTheDefinitionAndItsGradients) {
  const Case& c = GetParam();
  auto sequence = [&](std::uint64_t seed) {
    return c.channels_last ? random({c.batch, c.length, c.channels}, kFloat32, seed).transpose(1, 2)
                           : random({c.batch, c.channels, c.length}, kFloat32, seed);
  };
  auto optional = [](bool wanted, const Tensor& t) { return wanted ? t : Tensor(); };
  const Tensors narrow{
      sequence(1),
      random({c.channels, c.taps}, kFloat32, 2),
      optional(c.skip, random({c.channels}, kFloat32, 3)),
      optional(c.reversed, random({c.channels, std::max<int64_t>(1, c.taps - 1)}, kFloat32, 4)),
      optional(c.pre, sequence(5)),
      optional(c.post, sequence(6))};
  Tensors wide;
  for (const Tensor& t : narrow) wide.push_back(t.defined() ? t.to(kFloat64) : t);
  const Tensor w = random({c.batch, c.channels, c.length}, kFloat64, 9);
  auto args = [&](const Tensors& in) {
    return FftConvArgs{
        .k_rev = in[3], .pre_gate = in[4], .post_gate = in[5], .keep_spectra = c.keep};
  };
  const Result got = run_with_gradients(
      narrow, w, [&](const Tensors& in) { return fft_conv(in[0], in[1], in[2], args(in)); });
  const bool small = c.length <= 1000;
  const Result want = run_with_gradients(wide, w, [&](const Tensors& in) {
    return small ? plain::fft_conv(in[0], in[1], in[2], args(in))
                 : fft_conv(in[0], in[1], in[2], args(in));
  });
  EXPECT_EQ(got.y.dtype(), kFloat32);
  EXPECT_LT(length_of(got.y.to(kFloat64) - want.y), 6e-7 * length_of(want.y));
  ASSERT_EQ(got.grads.size(), want.grads.size());
  for (std::size_t i = 0; i < got.grads.size(); ++i)
    EXPECT_LT(length_of(got.grads[i].to(kFloat64) - want.grads[i]),
              1e-6 * length_of(want.grads[i]) + 1e-9)
        << "gradient " << i;
  // a kept filter spectrum changes rounding at most, the number of threads nothing
  no_grad guard;
  FftConvArgs a = args(narrow);
  a.spectrum = fft_conv_spectrum(narrow[1], c.length, narrow[3]);
  EXPECT_LT(length_of(fft_conv(narrow[0], narrow[1], narrow[2], a) - got.y.detach()),
            3e-7 * length_of(got.y));
  const int threads = get_num_threads();
  set_num_threads(threads == 1 ? 3 : 1);
  const Tensor other = fft_conv(narrow[0], narrow[1], narrow[2], args(narrow));
  set_num_threads(threads);
  EXPECT_EQ(max_difference(other, got.y.detach()), 0);
}

TEST(FftConv,
     LongTransformsAgreeWithTheDefinition) {  // the double path beyond its plain lengths, itself
  const Tensor u = random({1, 2, 300}), k = random({2, 250}), r = random({2, 3}), d = random({2});
  const FftConvArgs a{.k_rev = r, .pre_gate = random({1, 2, 300}, kFloat64, 3)};
  EXPECT_LT(max_difference(fft_conv(u, k, d, a), plain::fft_conv(u, k, d, a)), 1e-11);
}

TEST(FftConv, GradientsAndTheirGradientsAgreeWithDifferences) {
  for (const int64_t l : {1, 5, 140}) {
    auto leaf = [&](const Shape& s, std::uint64_t seed) {
      return random(s, kFloat64, seed).requires_grad_();
    };
    const Tensors in{leaf({2, 2, l}, 1), leaf({2, std::min<int64_t>(l, 4)}, 2),
                     leaf({2}, 3),       leaf({2, 1}, 4),
                     leaf({2, 2, l}, 5), leaf({2, 2, l}, 6)};
    auto f = [](const Tensors& v) -> Tensors {
      return {fft_conv(v[0], v[1], v[2], {.k_rev = v[3], .pre_gate = v[4], .post_gate = v[5]})};
    };
    auto slope = [&](const Tensors& given) -> Tensors {
      enable_grad on;  // differences are taken unrecorded
      Tensors v;
      for (const Tensor& t : given)
        v.push_back(t.requires_grad() ? t : t.detach().requires_grad_());
      return {sum(square(grad({sum(square(f(v)[0]))}, {v[0], v[1]}, {}, true, true)[0]))};
    };
    EXPECT_EQ(gradcheck(f, in), "") << l;
    if (l <= 5) {
      EXPECT_EQ(gradcheck(slope, in), "") << l;
    }
  }
  // float32: the second derivative of the fused op
  Tensor u = random({1, 3, 50}, kFloat32).requires_grad_(),
         k = random({3, 50}, kFloat32, 2).requires_grad_();
  Tensor v = u.detach().to(kFloat64).requires_grad_(), m = k.detach().to(kFloat64).requires_grad_();
  auto second = [](const Tensor& u, const Tensor& k) {
    return grad({sum(square(grad({sum(square(fft_conv(u, k)))}, {u}, {}, true, true)[0]))}, {k})[0];
  };
  const Tensor a = second(u, k).to(kFloat64), b = second(v, m);
  EXPECT_LT(length_of(a - b), 1e-5 * length_of(b));
}

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
