#include "dropin/quantizer/transform_coder.h"

#include <cmath>
#include <numbers>

#include "dropin/metric/bd_rate.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

AdaptiveTransformCoderOptions small(const char* transform = "dct") {
  return {.block_size = 3, .lambdas = {0.5, 2, 8}, .transform = transform};
}

TEST(DCT2d, IsOrthonormalAndItsInverseUndoesIt) {
  const Tensor c = DCT2d::matrix(6);
  EXPECT_LT(max_difference(matmul(c, c.mT()), eye(6, 6, kFloat64)), 1e-14);
  DCT2d there({.block_size = 6}), back({.block_size = 6, .inverse = true});
  const Tensor x = random({2, 3, 6, 6});
  EXPECT_LT(max_difference(back(there(x)), x), 1e-13);
  EXPECT_NEAR(there(ones({6, 6}, kFloat64))[0][0].item(), 6, 1e-13);
  EXPECT_ERROR(there(zeros({6, 5})), ShapeError, "because block_size = 6");
  EXPECT_ERROR(DCT2d({}), OptionError, "block_size is 0");
}

TEST(AdaptiveTransformCoder, EveryTransformStartsAsTheDCT) {
  no_grad guard;
  const Tensor x = random({4, 3, 3}, kFloat32) * 3.0, rate = tensor({0, 0.5, 1.7, 2});
  Tensor first;
  for (const char* transform : {"dct", "linear", "mlp"}) {
    AdaptiveTransformCoder m(small(transform));
    m.eval();
    const Coded c = m(x, {.rate = rate});
    if (!first.defined()) first = c.y;
    EXPECT_LT(max_difference(c.y, first), 1e-4) << transform;
  }
}

TEST(AdaptiveTransformCoder, ItsBitsAreThoseOfTheLaw) {
  no_grad guard;
  for (const char* law : {"laplace", "logistic", "gaussian"}) {
    AdaptiveTransformCoderOptions o = small();
    o.block_size = 1;
    o.lambdas = {1};
    o.distribution = law;
    AdaptiveTransformCoder m(o);
    m.to(kFloat64);
    m.eval();
    const double step = std::sqrt(6 / std::numbers::ln2), b = std::log(2.0) + 1e-4;
    auto below = [&](double t) {
      t /= b;
      const std::string name = law;
      if (name == "logistic") return 1 / (1 + std::exp(-t));
      if (name == "gaussian") return std::erfc(-t / std::sqrt(2)) / 2;
      return t < 0 ? std::exp(t) / 2 : 1 - std::exp(-t) / 2;
    };
    for (const double q : {0.0, 1.0, -2.0, 5.0, 300.0}) {
      const Coded c = m(full({1, 1, 1}, q * step, kFloat64));
      EXPECT_EQ(c.symbols.item(), q) << law;
      const double p = std::max(below(0.5 - std::abs(q)) - below(-0.5 - std::abs(q)), 1e-9);
      EXPECT_NEAR(c.bits.item(), -std::log2(p), 1e-5) << law << " " << q;
      EXPECT_LT(c.bits.item(), 29.9);
    }
  }
}

TEST(AdaptiveTransformCoder, SymbolsGoThereAndBackAtEveryRate) {
  no_grad guard;
  AdaptiveTransformCoderOptions o = small("mlp");
  o.context_dim = 2;
  AdaptiveTransformCoder m(o);
  m.eval();
  const Tensor x = random({5, 3, 3}, kFloat32) * 5.0;
  const CoderArgs args{.rate = tensor({0, 0.3, 1, 1.9, 2}), .context = random({5, 2}, kFloat32)};
  const Coded c = m(x, args);
  EXPECT_EQ(m.encode(x, args).to_vector<int64_t>(), c.symbols.to_vector<int64_t>());
  EXPECT_LT(max_difference(m.decode(c.symbols, args), c.y), 1e-6);
  const Box<AdaptiveTransformCoder> one = m.at(0.3);
  one->eval();
  const CoderArgs alone{.context = args.context.narrow(0, 1, 1)};
  const Coded same = (*one)(x.narrow(0, 1, 1), alone);
  EXPECT_LT(max_difference(same.y, c.y.narrow(0, 1, 1)), 1e-5);
  EXPECT_LT(max_difference(same.bits, c.bits.narrow(0, 1, 1)), 1e-3);
}

TEST(AdaptiveTransformCoder, NoiseIsUniformWithinAStep) {
  AdaptiveTransformCoder m(small());
  const Tensor x = zeros({2000, 3, 3});
  const Coded a = m(x), b = m(x, {.noise = full({2000, 9}, 0.25)});
  EXPECT_GT(max_difference(a.y, b.y), 1e-3);
  EXPECT_FALSE(a.symbols.defined());
  m.eval();
  EXPECT_EQ(amax(abs(m(x).y)).item(), 0);
}

TEST(AdaptiveTransformCoder, NanStaysInItsBlockAndEmptyBatchesCostNothing) {
  no_grad guard;
  AdaptiveTransformCoder m(small());
  m.eval();
  Tensor x = random({2, 3, 3}, kFloat32);
  const Coded want = m(x);
  x[0][1][1].fill_(std::nan(""));
  const Coded c = m(x);
  EXPECT_TRUE(std::isnan(c.loss.item()) && std::isnan(c.bits[0].item()));
  EXPECT_EQ(amax(abs(c.symbols[0])).item(), 0);
  EXPECT_EQ(max_difference(c.y[1], want.y[1]), 0);
  EXPECT_ERROR(m.encode(x), OptionError, "not finite or beyond 2^53");
  EXPECT_EQ(m(zeros({0, 3, 3})).loss.item(), 0);
}

TEST(AdaptiveTransformCoder, RefusesWhatDoesNotFitInWords) {
  auto with = [](auto set) {
    AdaptiveTransformCoderOptions o = small();
    set(o);
    AdaptiveTransformCoder made(o);
  };
  EXPECT_ERROR(with([](auto& o) { o.lambdas = {}; }), OptionError, "lambdas is empty");
  EXPECT_ERROR(with([](auto& o) { o.lambdas = {2, 1}; }), OptionError, "lambdas has 1 after 2");
  EXPECT_ERROR(with([](auto& o) { o.transform = "fft"; }), OptionError, "transform is \"fft\"");
  EXPECT_ERROR(with([](auto& o) { o.distribution = "t"; }), OptionError, "distribution is \"t\"");
  AdaptiveTransformCoderOptions o = small();
  o.context_dim = 2;
  AdaptiveTransformCoder m(o);
  const Tensor x = zeros({2, 3, 3}), c = zeros({2, 2});
  EXPECT_ERROR(m(x), StateError, "no context given, expected [2, 2]");
  EXPECT_ERROR(m(x, {.rate = tensor({0, 2.5}), .context = c}), OptionError, "outside [0, 2]");
  EXPECT_ERROR(m(x, {.rate = tensor({0, NAN}), .context = c}), OptionError, "outside [0, 2]");
  EXPECT_ERROR(m(x, {.context = c, .noise = c}), ShapeError, "noise is [2, 2], expected [2, 9]");
}

TEST(DCTCoder, IsTheStandardMemberWithOneStep) {
  const Box<Module> m = make("DCTCoder", Json::parse(R"({"block_size": 4, "lambdas": [1, 2]})"));
  EXPECT_EQ(m->state_dict().find("log_step").sizes(), (Shape{2, 1}));
  EXPECT_TRUE(registry().find("DCTCoder").replaces.empty());
}

TEST(BdRate, OfAFactorIsThatFactor) {
  const Tensor q = tensor({30, 33, 35, 38, 41}, kFloat64), r = exp(q * 0.2);
  EXPECT_NEAR(bd_rate(r, q, r * 0.8, q).item(), -20, 1e-9);
  EXPECT_NEAR(bd_rate(r, q, r, q).item(), 0, 1e-9);
  // the same curve moved by one in quality, from other points
  const Tensor p = tensor({31, 34, 37, 40}, kFloat64);
  EXPECT_NEAR(bd_rate(r, q, exp((p - 1) * 0.2), p).item(), 100 * (std::exp(-0.2) - 1), 1e-9);
}

TEST(BdRate, RefusesWhatDoesNotFitInWords) {
  const Tensor q = tensor({1, 2, 3, 4}, kFloat64), r = q + 1.0;
  EXPECT_ERROR(bd_rate(r.narrow(0, 0, 3), q.narrow(0, 0, 3), r, q), ShapeError, "P at least 4");
  EXPECT_ERROR(bd_rate(r - 2.0, q, r, q), OptionError, "expected positive rates");
  EXPECT_ERROR(bd_rate(r, q, r, q + 10.0), OptionError, "expected them to overlap");
  EXPECT_ERROR(bd_rate(r, tensor({1, 2, 2, 4}, kFloat64), r, q), OptionError, "a quality twice");
}

}  // namespace
}  // namespace dropin
