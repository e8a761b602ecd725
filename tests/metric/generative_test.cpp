// FID and IS: limits, samples against statistics, gradients, subsets, bad input.
#include "dropin/metric/generative.h"
#include "support.h"

namespace dropin::testing {
namespace {

FeatureSide samples(const Tensor& x) { return {x, {}, {}}; }
FeatureSide statistics(const Tensor& x) {
  FrechetAccumulator all;
  all.update(x);
  return all.compute();
}

TEST(FrechetDistance, OfKnownDistributions) {
  // of diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2
  const FeatureSide a{{},
                      tensor(std::vector<double>{1, 2}, kFloat64),
                      tensor(std::vector<double>{4, 0, 0, 9}, {2, 2}, kFloat64)},
      b{{}, zeros({2}, kFloat64), eye(2, -1, kFloat64)};
  EXPECT_NEAR(frechet_distance(a, b).item(), 5 + 1 + 4, 1e-12);
  EXPECT_EQ(frechet_distance(b, b).item(), 0);
  const Tensor x = random({5, 3});
  EXPECT_NEAR(frechet_distance(samples(x), samples(x)).item(), 0, 1e-12);
  EXPECT_NEAR(
      frechet_distance(samples(ones({4, 3}, kFloat64)), samples(zeros({4, 3}, kFloat64))).item(), 3,
      1e-12)
      << "constant features are legal";
}

TEST(FrechetDistance, OfSamplesIsThatOfTheirStatistics) {
  for (const auto& [n, m] : {std::pair(40, 30), std::pair(4, 30), std::pair(4, 5)}) {
    const Tensor x = random({n, 6}, kFloat64, 1), y = random({m, 6}, kFloat64, 2) * 1.5 + 0.3;
    const double want = frechet_distance(samples(x), samples(y)).item();
    EXPECT_NEAR(frechet_distance(statistics(x), statistics(y)).item(), want, 1e-6);
    EXPECT_NEAR(frechet_distance(samples(x), statistics(y)).item(), want, 1e-6);
    EXPECT_NEAR(frechet_distance(samples(y), samples(x)).item(), want, 1e-9);
    EXPECT_GE(want, 0);
  }
}

TEST(FrechetAccumulator, MergesBatches) {
  const Tensor x = random({50, 4}) + 100.0;
  FrechetAccumulator a, b, none;
  a.update(x.narrow(0, 0, 7));
  a.update(x.narrow(0, 7, 1));
  b.update(x.narrow(0, 8, 42));
  a.merge(b);
  a.merge(none);
  EXPECT_EQ(a.count(), 50);
  EXPECT_LT(max_difference(a.compute().mean, mean(x, {0})), 1e-12);
  const Tensor c = x - mean(x, {0});
  EXPECT_LT(max_difference(a.compute().cov, matmul(c.mT(), c) * (1.0 / 49)), 1e-11);
  EXPECT_ERROR(none.compute(), StateError, "0 samples");
}

TEST(FrechetDistance, HasGradientsOnOneSideOrBoth) {
  const Tensor u = random({12, 3}, kFloat64, 5), other = random({9, 3}, kFloat64, 2);
  Tensor x = random({12, 3}, kFloat64, 1).requires_grad_();
  for (const FeatureSide& reference : {samples(other), statistics(other)}) {
    const Tensor g = grad({frechet_distance(samples(x), reference)}, {x})[0];
    auto value = [&](double h) {
      return frechet_distance(samples(x.detach() + u * h), reference).item();
    };
    EXPECT_NEAR(sum(g * u).item(), (value(1e-6) - value(-1e-6)) / 2e-6, 1e-6);
  }
  const Tensor h = grad({frechet_distance(statistics(other), samples(x))}, {x})[0];
  EXPECT_LT(max_difference(h, grad({frechet_distance(samples(x), statistics(other))}, {x})[0]),
            1e-12);
}

TEST(InceptionScore, OfProbabilitiesAndLogitsAndParts) {
  expect_values(inception_score({}, eye(4, -1, kFloat64)).y, {4});
  expect_values(inception_score({}, full({3, 4}, 0.25, kFloat64)).y, {1});
  const Tensor logits = random({11, 4}), probs = softmax(logits, 1);
  const InceptionScore a = inception_score(logits, {}, {.splits = 3}),
                       b = inception_score({}, probs, {.splits = 3});
  EXPECT_NEAR(a.y.item(), b.y.item(), 1e-12);
  double total = 0, squares = 0;
  for (int s = 0; s < 3; ++s) {  // two rows are left over
    const double v = inception_score(logits.narrow(0, 3 * s, 3), {}).y.item();
    total += v / 3;
    squares += v * v / 3;
  }
  EXPECT_NEAR(a.y.item(), total, 1e-12);
  EXPECT_NEAR(a.std.item(), std::sqrt(squares - total * total), 1e-9);
}

TEST(InceptionScore, HasGradientsButAtZeroProbability) {
  Tensor p = softmax(random({6, 3}), 1).clone().requires_grad_();
  const Tensor g = grad({inception_score({}, p).y}, {p})[0];
  const Tensor q = mean(p.detach(), {0}, true),
               want = (log(p.detach()) - log(q)) * (inception_score({}, p.detach()).y.item() / 6);
  EXPECT_LT(max_difference(g, want), 1e-12);
  Tensor sure = eye(3, -1, kFloat64).requires_grad_();
  EXPECT_ERROR(inception_score({}, sure).y.backward(), AutogradError, "pass logits");
}

TEST(FidInfinity, TakesTheSubsetsItSays) {
  const Tensor x = random({30, 3}), y = random({25, 3}, kFloat64, 2) + 0.2;
  ExtrapolationOptions o{.min_points = 10, .num_points = 4};
  for (const char* sampling : {"shuffle", "nested", "prefix", "bootstrap"}) {
    o.sampling = sampling;
    const Extrapolation e = fid_infinity(x, samples(y), {}, o);
    expect_values(e.sizes, {10, 16, 23, 30});
    const bool whole = std::string(sampling) != "bootstrap";
    EXPECT_EQ(
        std::abs(e.values.to_vector()[3] - frechet_distance(samples(x), samples(y)).item()) < 1e-9,
        whole)
        << sampling;
  }
  o.sampling = "prefix";
  const Extrapolation e = fid_infinity(x, statistics(y), {}, o);
  Tensor rows = full({4, 30}, -1, kInt64);
  const auto sizes = e.sizes.to_vector<int64_t>();
  for (std::size_t p = 0; p < 4; ++p)
    for (int64_t i = 0; i < sizes[p]; ++i)
      rows.data<int64_t>()[static_cast<int64_t>(p) * 30 + i] = i;
  const Extrapolation given = fid_infinity(x, statistics(y), rows);
  EXPECT_EQ(max_difference(e.values, given.values), 0);
  EXPECT_EQ(e.y.item(), given.y.item());
  // the line through the values
  const auto f = e.values.to_vector();
  double off = 0;
  for (std::size_t p = 0; p < 4; ++p)
    off += f[p] - e.y.item() - e.slope.item() / static_cast<double>(sizes[p]);
  EXPECT_NEAR(off, 0, 1e-9);
}

TEST(IsInfinity, FindsALineAndItsEnd) {
  // rows that repeat: every prefix of whole repeats has one score
  const Tensor four = random({4, 5});
  const Tensor logits = repeat(four, {6, 1});
  const Extrapolation e =
      is_infinity(logits, {}, {}, {.min_points = 4, .num_points = 6, .sampling = "prefix"});
  EXPECT_NEAR(e.y.item(), inception_score(four, {}).y.item(), 1e-12);
  EXPECT_NEAR(e.slope.item(), 0, 1e-10);
  EXPECT_NEAR(is_infinity({}, softmax(logits, 1), {}, {.min_points = 4, .num_points = 3}).y.item(),
              is_infinity(logits, {}, {}, {.min_points = 4, .num_points = 3}).y.item(), 1e-9);
}

TEST(GenerativeMetrics, RefuseWhatTheyCannotMean) {
  const Tensor x = random({30, 3}), p = softmax(x, 1);
  EXPECT_ERROR(frechet_distance(samples(x), samples(random({9, 4}))), ShapeError, "width 3");
  EXPECT_ERROR(frechet_distance(samples(x.narrow(0, 0, 1)), samples(x)), ShapeError, "N >= 2");
  EXPECT_ERROR(frechet_distance(samples(x * NAN), samples(x)), Error, "NaN");
  EXPECT_ERROR(frechet_distance({}, samples(x)), StateError, "either features or");
  EXPECT_ERROR(frechet_distance({x, zeros({3}), {}}, samples(x)), StateError, "either features or");
  EXPECT_ERROR(frechet_distance({{}, zeros({2}), tensor(std::vector<double>{1, 0, 1, 1}, {2, 2})},
                                samples(x)),
               Error, "not symmetric");
  EXPECT_ERROR(inception_score(x, p), StateError, "either logits or probs");
  EXPECT_ERROR(inception_score({}, x), Error, "expected 0 or more");
  EXPECT_ERROR(inception_score({}, p * 1.1), Error, "off 1");
  EXPECT_ERROR(inception_score(x, {}, {.splits = 31}), OptionError, "splits is 31");
  EXPECT_ERROR(fid_infinity(x, samples(x)), OptionError, "less than the 30 samples");
  EXPECT_ERROR(is_infinity(x, {}, {}, {.min_points = 5, .num_points = 1}), OptionError,
               "num_points is 1");
  EXPECT_ERROR(is_infinity(x, {}, {}, {.min_points = 5, .sampling = "all"}), OptionError,
               "sampling is \"all\"");
  EXPECT_ERROR(is_infinity(x, {}, zeros({3, 2}, kInt64)), Error, "several sizes");
  EXPECT_ERROR(is_infinity(x, {}, full({3, 2}, 30, kInt64)), IndexError, "indices hold 30");
}

}  // namespace
}  // namespace dropin::testing
