// Disentanglement metrics: ties, types, what dependence does to mig and dmig, classifiers of SAP,
// bad input.
#include "dropin/metric/disentanglement.h"
#include "support.h"

namespace dropin::testing {
namespace {

using Options = DisentanglementOptions;
Tensor uniform(const Shape& sizes, std::uint64_t seed) {
  Generator g(seed);
  return rand(sizes, kFloat64, &g);
}

// The page's data: a_0 of 8 values, a_1 = a_0 with probability q, a_2 of 4; perfect latents z_i and
// two of noise.
std::pair<Tensor, Tensor> dependent(double q, int64_t n) {
  const Tensor u = uniform({n, 4}, 3);
  const Tensor a0 = floor(u.select(1, 0) * 8.0), other = floor(u.select(1, 1) * 8.0),
               a1 = where(u.select(1, 2) < q, a0, other), a2 = floor(u.select(1, 3) * 4.0);
  const Tensor a = stack({a0, a1, a2}, 1), z = a + (uniform({n, 3}, 4) - 0.5) * 0.6;
  return {concat({z, random({n, 2})}, 1), a};
}

TEST(Dmig, StaysAtOneWhereMigFallsWithDependence) {
  for (const double q : {0.0, 0.6, 0.9}) {
    const auto [z, a] = dependent(q, 600);
    for (const char* estimator : {"knn", "histogram"}) {
      Options o;
      o.discrete = Json(true);
      o.estimator = estimator;
      o.exact_labels = true;
      EXPECT_GT(dmig(z, a, o).y.to_vector()[0], 0.88) << q << estimator;
      EXPECT_LT(dmig(z, a, o).y.to_vector()[0], 1.12) << q << estimator;
      if (q == 0.9) {
        EXPECT_LT(mig(z, a, o).y.to_vector()[0], 0.35) << estimator;
      }
    }
  }
}

TEST(Disentanglement, TheBundleIsItsParts) {
  const auto [z, a] = dependent(0.5, 120);
  Options o;
  o.discrete = Json(true);
  o.reg_dim = {2, 0, 1};
  const DependencyAwareBundle b = dependency_aware_bundle(z, a, o);
  const DisentanglementScores m = mig(z, a, o), d = dmig(z, a, o), x = xmig(z, a, o),
                              l = dlig(z, a, o);
  EXPECT_EQ(max_difference(b.mig, m.y), 0);
  EXPECT_EQ(max_difference(b.dmig, d.y), 0);
  EXPECT_EQ(max_difference(b.xmig, x.y), 0);
  EXPECT_EQ(max_difference(b.dlig, l.y), 0);
  EXPECT_EQ(max_difference(b.mi, m.mi), 0);
  // each score by its definition from the tables
  const auto mi = b.mi.to_vector(), t = b.attribute_mi.to_vector();
  auto info = [&](double n, int i) {
    return mi[static_cast<std::size_t>(n) * 3 + static_cast<std::size_t>(i)];
  };
  for (int i = 0; i < 3; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const auto own = static_cast<double>(o.reg_dim[at]), k = d.subtrahend.to_vector()[at];
    double rest = t[at * 4];
    for (std::size_t r = 0; r < 3; ++r)
      if (static_cast<double>(o.reg_dim[r]) == k) rest -= t[at * 3 + r];
    EXPECT_NEAR(d.y.to_vector()[at], (info(own, i) - info(k, i)) / rest, 1e-12);
    EXPECT_GE(x.subtrahend.to_vector()[at], 3);
    const auto other = static_cast<int>(l.subtrahend.to_vector()[at]);
    EXPECT_NEAR(l.y.to_vector()[at],
                (info(own, i) - info(own, other)) /
                    (t[at * 4] - t[at * 3 + static_cast<std::size_t>(other)]),
                1e-12);
  }
}

TEST(Mig, OfContinuousAttributesHasADiagonalWithoutTheData) {
  // T[i, i] = psi(N) - psi(k + 1), whatever the distribution
  const Tensor a = exp(random({50, 1})), z = concat({a, random({50, 1})}, 1);
  double want = 0;
  for (int n = 4; n < 50; ++n) want += 1.0 / n;
  EXPECT_NEAR(mig(z, a).normalizer.item(), want, 1e-12);
}

TEST(Mig, ConstantLatentsTellNothingAndTiesTakeTheLast) {
  const Tensor a = floor(uniform({60, 1}, 1) * 3.0);
  Options o;
  o.discrete = Json(true);
  o.estimator = "histogram";
  const DisentanglementScores s = mig(concat({zeros({60, 2}, kFloat64), a, a}, 1), a, o);
  expect_values(s.mi, {0, 0, s.normalizer.item(), s.normalizer.item()}, 1e-12);
  expect_values(s.y, {0}, 1e-12);
  EXPECT_EQ(s.subtrahend.item(), 2) << "the best is 3, the last on ties";
}

TEST(Disentanglement, TypesMixAndOneAttributeMayBeAVector) {
  const auto [z, a] = dependent(0, 80);
  Options all, some;
  all.discrete = Json(true);
  some.discrete = Json::parse("[false, true, false]");
  const Tensor labels = mig(z, a, all).mi, mixed = mig(z, a, some).mi, plain = mig(z, a).mi;
  EXPECT_EQ(max_difference(mixed.select(1, 1), labels.select(1, 1)), 0);
  EXPECT_EQ(max_difference(mixed.select(1, 0), plain.select(1, 0)), 0);
  EXPECT_EQ(max_difference(mig(z, a.select(1, 2), all).mi.select(1, 0), labels.select(1, 2)), 0);
  EXPECT_EQ(max_difference(mig(z, a.to(kInt64), all).mi, labels), 0);
}

TEST(Modularity, IsOneForLatentsOfOneAttributeAndZeroForAll) {
  const Tensor a = floor(uniform({200, 2}, 1) * 4.0);
  Options o;
  o.discrete = Json(true);
  o.estimator = "histogram";
  const Tensor both = a.select(1, 0) * 4.0 + a.select(1, 1);
  const auto y =
      modularity(stack({a.select(1, 0), both, zeros({200}, kFloat64)}, 1), a, o).y.to_vector();
  EXPECT_GT(y[0], 0.95);
  EXPECT_LT(y[1], 0.05);
  EXPECT_EQ(y[2], 0);
}

TEST(Sap, CountsWhatALineTellsApart) {
  const Tensor a = floor(uniform({90, 1}, 1) * 3.0), noise = random({90, 1}) * 0.05;
  Options o;
  o.discrete = Json(true);
  const Tensor two = (a > 0.0).to(kFloat64);
  const DisentanglementScores s =
      sap(concat({random({90, 1}, kFloat64, 5), two * 4.0 + noise}, 1), two, o);
  EXPECT_EQ(s.mi.to_vector()[1], 1);
  EXPECT_EQ(s.y.item(), 1 - s.mi.to_vector()[0]);
  EXPECT_EQ(s.subtrahend.item(), 0);
  // no line tells the middle of three from both ends: all samples get the ends' label
  const Tensor middle = (a == 1.0).to(kFloat64);
  EXPECT_NEAR(sap(concat({a + noise, noise}, 1), middle, o).mi.to_vector()[0],
              1 - mean(middle).item(), 1e-12);
  // one line for each of three labels tells them all apart
  EXPECT_EQ(sap(concat({a + noise, noise}, 1), a, o).mi.to_vector()[0], 1);
}

TEST(Sap, HasNoCorrelationWithAConstantLatent) {
  const Tensor a = random({30, 1}), z = concat({a * -2.0 + 1.0, full({30, 1}, 3.0, kFloat64)}, 1);
  expect_values(sap(z, a).mi, {1, 0}, 1e-12);
  EXPECT_ERROR(sap(z, ones({30, 1}, kFloat64)), Error, "attribute 0 is constant");
}

TEST(DisentanglementAccumulator, GathersBatchesAndReallyEmpties) {
  const auto [z, a] = dependent(0.3, 60);
  Options o;
  o.discrete = Json(true);
  DisentanglementAccumulator acc("dmig", o);
  EXPECT_ERROR(acc.compute(), StateError, "before update()");
  acc.update(random({5, 5}), zeros({5, 3}, kFloat64));
  acc.reset();
  acc.update(z.narrow(0, 0, 25), a.narrow(0, 0, 25));
  acc.update(z.narrow(0, 25, 35), a.narrow(0, 25, 35));
  EXPECT_EQ(max_difference(acc.compute().find("y"), dmig(z, a, o).y), 0);
  EXPECT_ERROR(DisentanglementAccumulator("beta").compute(), StateError, "before update");
}

TEST(Disentanglement, RefusesWhatItCannotMean) {
  const Tensor z = random({20, 4}), a = random({20, 2}, kFloat64, 2);
  Options o;
  EXPECT_ERROR(mig(z, random({19, 2})), ShapeError, "a is [19, 2]");
  EXPECT_ERROR(mig(z * NAN, a), Error, "z holds nan");
  EXPECT_ERROR(mig(z.narrow(0, 0, 3), a.narrow(0, 0, 3)), ShapeError, "more than n_neighbors = 3");
  EXPECT_ERROR(mig(z.narrow(1, 0, 1), a), ShapeError, "1 latent");
  EXPECT_ERROR(dmig(z.narrow(1, 0, 2), random({20, 3})), ShapeError, "2 latents for 3 attributes");
  EXPECT_ERROR(dlig(z, a.narrow(1, 0, 1)), ShapeError, "1 attribute");
  EXPECT_ERROR(modularity(z, a.narrow(1, 0, 1)), ShapeError, "1 attribute");
  EXPECT_ERROR(xmig(z.narrow(1, 0, 2), a), ShapeError, "every latent is in reg_dim");
  o.reg_dim = {0, 4};
  EXPECT_ERROR(dmig(z, a, o), OptionError, "reg_dim holds 4");
  o.reg_dim = {0};
  EXPECT_ERROR(dmig(z, a, o), OptionError, "reg_dim has 1");
  o = {};
  o.discrete = Json(true);
  EXPECT_ERROR(mig(z, a, o), Error, "no label of attribute 0 occurs twice");
  EXPECT_ERROR(sap(z, ones({20, 1}, kFloat64), o), Error, "one label only");
  o.estimator = "histogram";
  EXPECT_ERROR(mig(z, ones({20, 1}, kFloat64), o), Error, "an attribute that varies");
  const Tensor twice = floor(uniform({20, 1}, 5) * 3.0);
  const Tensor same = concat({twice, twice}, 1), seen = concat({twice, twice}, 1);
  EXPECT_ERROR(dmig(seen, same, o), Error, "nothing beyond attribute 1");
  o.degenerate = "nan";
  EXPECT_TRUE(std::isnan(dmig(seen, same, o).y.to_vector()[0]));
  Options bad;
  bad.bins = 0;
  EXPECT_ERROR(mig(z, a, bad), OptionError, "bins 0");
  bad = {};
  bad.discrete = Json::parse("[true]");
  EXPECT_ERROR(mig(z, a, bad), OptionError, "expected a bool or 2");
  Tensor leaf = z.clone().requires_grad_();
  EXPECT_ERROR(sum(mig(leaf, a).y).backward(), AutogradError, "piecewise constant");
}

}  // namespace
}  // namespace dropin::testing
