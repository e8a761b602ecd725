// Losses, comparisons and products of torch.nn.functional, against torch 2.15's numbers.
#include "dropin/ops/ops.h"

#include "support.h"

namespace dropin {
namespace {

using Row = std::vector<double>;

Tensor row(const Row& v) { return tensor(v, kFloat64); }
const Row kX = {0, .5, -1, 2, -3, 1}, kY = {0, 0, 0, 0.5, 1, 0};

TEST(Losses, SmoothL1AndHuberWithTheirCorners) {
  const double kDefault = -1;
  struct Case {
    double beta;
    bool huber;
    Row loss, gradient;
  };
  const Case cases[] = {
      {kDefault, false, {0, .125, .5, 1, 3.5, .5}, {0, .5, -1, 1, -1, 1}},
      {.5, false, {0, .25, .75, 1.25, 3.75, .75}, {0, 1, -1, 1, -1, 1}},
      {0, false, {0, .5, 1, 1.5, 4, 1}, {0, 1, -1, 1, -1, 1}},
      {2, true, {0, .125, .5, 1.125, 6, .5}, {0, .5, -1, 1.5, -2, 1}},
  };
  for (const Case& c : cases) {
    const Tensor x = row(kX).requires_grad_();
    const Tensor loss = c.huber              ? huber_loss(x, row(kY), "none", c.beta)
                        : c.beta == kDefault ? smooth_l1_loss(x, row(kY), "none")
                                             : smooth_l1_loss(x, row(kY), "none", c.beta);
    EXPECT_TRUE(allclose(loss.detach(), row(c.loss), 0, 1e-14)) << c.beta;
    EXPECT_TRUE(allclose(grad({loss.sum()}, {x})[0], row(c.gradient), 0, 1e-14)) << c.beta;
  }
  EXPECT_NEAR(smooth_l1_loss(row(kX), row(kY)).item(), 5.625 / 6, 1e-14);
  EXPECT_ERROR(smooth_l1_loss(row(kX), row({1})), ShapeError, "the input is [6], the target [1]");
  EXPECT_ERROR(huber_loss(row(kX), row(kY), "mean", 0), OptionError, "delta is 0");
  EXPECT_ERROR(smooth_l1_loss(row(kX), row(kY), "mean", -1), OptionError, "beta is -1");
}

TEST(Losses, KlDivOfProbabilitiesAndLogarithms) {
  const Tensor x = log(tensor(Row{.2, .3, .5, .1, .1, .8}, {2, 3}, kFloat64)),
               t = tensor(Row{.5, .5, 0, .2, .2, .6}, {2, 3}, kFloat64);
  const Tensor each = tensor(Row{0.4581453659370775, 0.2554128118829954, 0, 0.13862943611198902,
                                 0.13862943611198902, -0.17260924347106862},
                             {2, 3}, kFloat64);
  EXPECT_TRUE(allclose(kl_div(x, t, "none"), each, 0, 1e-14));
  EXPECT_NEAR(kl_div(x, t).item(), 0.13636796776216373, 1e-14);
  EXPECT_NEAR(kl_div(x, t, "batchmean").item(), 0.40910390328649116, 1e-14);
  EXPECT_NEAR(kl_div(x[1], log(t[1]), "sum", true).item(), 0.10464962875290951, 1e-14);
  const Tensor wanted = t.clone().requires_grad_();
  for (const double v : grad({kl_div(x, wanted, "sum")}, {wanted})[0].to_vector())
    EXPECT_TRUE(std::isfinite(v)) << "also where the target is 0";
  EXPECT_ERROR(kl_div(x, t, "batch"), OptionError, "reduction is \"batch\"");
}

TEST(Comparisons, AllcloseKnowsInfinitiesAndNan) {
  const double inf = INFINITY, nan = NAN;
  const Tensor a = row({1, 1e-9, inf, -inf, nan}), b = row({1 + 9e-6, 0, inf, -inf, nan});
  EXPECT_EQ(isclose(a, b).to_vector(), (Row{1, 1, 1, 1, 0}));
  EXPECT_FALSE(allclose(a, b));
  EXPECT_TRUE(allclose(a, b, 1e-5, 1e-8, true));
  EXPECT_EQ(isclose(row({inf, 1, 0}), row({-inf, inf, 1.1e-8})).to_vector(), (Row{0, 0, 0}));
  EXPECT_TRUE(allclose(zeros({0}), zeros({0})));
  EXPECT_TRUE(allclose(tensor({1, 2}, kInt64), tensor({1, 2}, kInt64)));
  EXPECT_ERROR(isclose(a, b.to(kFloat32)), DTypeError, "a is float64 and b float32");
}

TEST(Products, BmmTakesBatchesOnly) {
  const Tensor a = randn({3, 2, 4}), b = randn({3, 4, 5});
  EXPECT_TRUE(allclose(bmm(a, b), matmul(a, b), 0, 0));
  EXPECT_ERROR(bmm(a, b[0]), ShapeError, "bmm: a is [3, 2, 4] and b [4, 5]");
  EXPECT_ERROR(bmm(a, randn({2, 4, 5})), ShapeError, "expected [B, N, M] and [B, M, P]");
}

TEST(Factories, LikeAnother) {
  const Tensor x = zeros({2, 3}, kFloat64);
  for (const Tensor& y : {full_like(x, 7), rand_like(x), randn_like(x)}) {
    EXPECT_EQ(y.sizes(), x.sizes());
    EXPECT_EQ(y.dtype(), kFloat64);
  }
  EXPECT_EQ(full_like(x, 7).to_vector(), Row(6, 7));
  Generator a(3), b(3);
  EXPECT_TRUE(allclose(randn_like(x, &a), randn({2, 3}, kFloat64, &b), 0, 0));
}

}  // namespace
}  // namespace dropin
