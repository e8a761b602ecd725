#include "dropin/ops/fft_conv.h"
#include "dropin/autograd/gradcheck.h"
#include "dropin/core/parallel.h"
#include "ops/fft_conv_results.h"
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

}  // namespace
}  // namespace dropin
