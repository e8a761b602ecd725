#include "dropin/ops/fft.h"

#include <numbers>

#include "dropin/autograd/gradcheck.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

// sum_t x[t] exp(sign 2 pi i k t / n) along dimension 0 of [n, 2]
Tensor by_definition(const Tensor& x, double sign) {
  const int64_t n = x.size(0);
  const auto v = x.to_vector();
  std::vector<double> y(static_cast<std::size_t>(2 * n));
  for (int64_t k = 0; k < n; ++k)
    for (int64_t t = 0; t < n; ++t) {
      const double a = sign * 2 * std::numbers::pi * static_cast<double>(k * t % n) /
                       static_cast<double>(n),
                   c = std::cos(a), s = std::sin(a);
      const double re = v[static_cast<std::size_t>(2 * t)],
                   im = v[static_cast<std::size_t>(2 * t + 1)];
      y[static_cast<std::size_t>(2 * k)] += re * c - im * s;
      y[static_cast<std::size_t>(2 * k + 1)] += re * s + im * c;
    }
  return tensor(y, {n, 2}, kFloat64);
}
double length_of(const Tensor& x) { return std::sqrt(sum(square(x.to(kFloat64))).item()); }

TEST(Fft, EqualsTheDefinitionAtAnyLength) {
  for (const int64_t n :
       {1,  2,  3,  4,  5,  6,  7,  8,   9,   11,  12,  13,  15,  16,  17,  19,
        25, 30, 31, 49, 60, 64, 97, 121, 128, 143, 169, 210, 243, 289, 509, 1000}) {
    const Tensor x = random({n, 2}, kFloat64, static_cast<std::uint64_t>(n)),
                 want = by_definition(x, -1);
    EXPECT_LT(length_of(fft(x) - want), 1e-13 * length_of(want)) << n;
    EXPECT_LT(length_of(fft(x.to(kFloat32)).to(kFloat64) - want), 4e-7 * length_of(want)) << n;
    EXPECT_LT(length_of(ifft(x) * static_cast<double>(n) - by_definition(x, 1)),
              1e-13 * length_of(want))
        << n;
    EXPECT_LT(length_of(ifft(fft(x)) - x), 1e-13 * length_of(x)) << n;
  }
}

TEST(Fft, RealTransformsAreTheHalfOfTheComplexOnes) {
  for (const int64_t n : {1, 2, 3, 4, 5, 8, 17, 30, 37, 64}) {
    const Tensor x = random({3, n, 4}, kFloat64), full = fft(stack({x, zeros_like(x)}, -1), 1),
                 half = rfft(x, 0, 1);
    EXPECT_EQ(half.sizes(), (Shape{3, n / 2 + 1, 4, 2}));
    EXPECT_LT(max_difference(half, full.narrow(1, 0, n / 2 + 1)), 1e-12) << n;
    EXPECT_LT(max_difference(irfft(half, n, 1), x), 1e-12) << n;
  }
  const Tensor x = random({2, 10}, kFloat64);
  EXPECT_LT(max_difference(rfft(x, 16), rfft(concat({x, zeros({2, 6}, kFloat64)}, 1))), 1e-13)
      << "filled with zeros";
  EXPECT_LT(max_difference(rfft(x, 7), rfft(x.narrow(1, 0, 7))), 1e-13) << "cut";
  EXPECT_LT(max_difference(irfft(rfft(x), 6), irfft(rfft(x).narrow(1, 0, 4), 6)), 1e-13);
}

TEST(Fft, ManySignalsAndStridesAreOneSignalEach) {
  const Tensor x = random({5, 24, 7, 2}, kFloat64), y = fft(x, 1);
  for (int64_t i = 0; i < 5; ++i)
    for (int64_t j = 0; j < 7; ++j)
      EXPECT_LT(max_difference(y[i].select(1, j), by_definition(x[i].select(1, j), -1)), 1e-11);
  EXPECT_LT(max_difference(fft(x.transpose(0, 1), 0), y.transpose(0, 1)), 1e-13);
  EXPECT_LT(max_difference(fft(x, -2), y), 1e-13);
}

TEST(Fft, AMillionSamplesKeepSixDigits) {
  for (const int64_t n : {int64_t{1} << 20, int64_t{1000003}}) {  // a power of two and a prime
    const Tensor x = random({n, 2}, kFloat32, 3), wide = fft(x.to(kFloat64)), narrow = fft(x);
    EXPECT_LT(length_of(narrow.to(kFloat64) - wide), 1e-6 * length_of(wide)) << n;
    EXPECT_LT(max_difference(narrow.to(kFloat64), wide), 1e-6 * amax(abs(wide)).item()) << n;
    EXPECT_LT(length_of(ifft(wide) - x.to(kFloat64)), 1e-12 * length_of(x)) << n;
    // single frequencies by their sums, against the double transform itself
    const auto v = x.to_vector();
    for (const int64_t k : {int64_t{0}, int64_t{1}, n / 3, n - 1}) {
      double re = 0, im = 0;
      for (int64_t t = 0; t < n; ++t) {
        const double a = -2 * std::numbers::pi * static_cast<double>(k * t % n) /
                         static_cast<double>(n),
                     c = std::cos(a), s = std::sin(a);
        re += v[static_cast<std::size_t>(2 * t)] * c - v[static_cast<std::size_t>(2 * t + 1)] * s;
        im += v[static_cast<std::size_t>(2 * t)] * s + v[static_cast<std::size_t>(2 * t + 1)] * c;
      }
      EXPECT_NEAR(wide[k][0].item(), re, 1e-8 * std::sqrt(static_cast<double>(n)))
          << n << " at " << k;
      EXPECT_NEAR(wide[k][1].item(), im, 1e-8 * std::sqrt(static_cast<double>(n)))
          << n << " at " << k;
    }
  }
}

TEST(Fft, GradientsAgreeWithDifferences) {
  for (const int64_t n : {1, 4, 5, 6, 17}) {
    Tensor z = random({2, n, 3, 2}, kFloat64).requires_grad_(),
           x = random({2, n, 3}, kFloat64).requires_grad_(),
           h = random({2, n / 2 + 1, 3, 2}, kFloat64).requires_grad_();
    EXPECT_EQ(gradcheck([](const Tensors& in) -> Tensors { return {fft(in[0], 1)}; }, {z}), "")
        << n;
    EXPECT_EQ(gradcheck([](const Tensors& in) -> Tensors { return {ifft(in[0], 1)}; }, {z}), "")
        << n;
    EXPECT_EQ(gradcheck([n](const Tensors& in) -> Tensors { return {rfft(in[0], n + 2, 1)}; }, {x}),
              "")
        << n;
    EXPECT_EQ(gradcheck([n](const Tensors& in) -> Tensors { return {irfft(in[0], n, 1)}; }, {h}),
              "")
        << n;
    auto slope = [](const Tensors& given) -> Tensors {
      enable_grad on;  // differences are taken unrecorded
      const Tensors in{given[0].requires_grad() ? given[0] : given[0].detach().requires_grad_()};
      return grad({sum(square(square(rfft(in[0], 0, 1))))}, {in[0]}, {}, true, true);
    };
    EXPECT_EQ(gradcheck(slope, {x}), "") << n;
  }
}

TEST(Fft, RefusesWhatIsNotASignal) {
  EXPECT_ERROR(fft(zeros({4, 3})), ShapeError, "x is [4, 3], expected complex numbers as pairs");
  EXPECT_ERROR(fft(zeros({2})), ShapeError, "expected complex numbers");
  EXPECT_ERROR(fft(zeros({0, 2})), ShapeError, "at least one sample");
  EXPECT_ERROR(rfft(zeros({3, 0})), ShapeError, "at least one sample");
  EXPECT_ERROR(rfft(scalar(1)), ShapeError, "is a scalar");
  EXPECT_ERROR(rfft(zeros({3}), -1), OptionError, "n is -1");
  EXPECT_ERROR(irfft(zeros({1, 2})), ShapeError, "give n");
  EXPECT_ERROR(rfft(zeros({3}, kInt64)), DTypeError, "floating-point");
  EXPECT_ERROR(fft(zeros({4, 2}), 1), IndexError, "fft");
  EXPECT_EQ(fft(zeros({0, 4, 2})).sizes(), (Shape{0, 4, 2}));
}

}  // namespace
}  // namespace dropin
