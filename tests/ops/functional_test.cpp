// Functions put together from others, against torch 2.15's numbers.
#include "dropin/ops/functional.h"

#include "dropin/autograd/gradcheck.h"
#include "dropin/ops/ops.h"
#include "ops/common.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using Row = std::vector<double>;
constexpr double kClose = 1e-9;

Tensor rows() { return tensor(Row{1, -2, .5, 3, 0, 2, -1, .25}, {2, 4}, kFloat64); }
Tensor turned() { return flip(rows(), {1}); }

TEST(Functional, SmallFunctionsOfTorch) {
  const Tensor x = rows();
  expect_values(erfc(x[0]), {0.1572992071, 1.995322265, 0.4795001222, 2.2090497e-05}, kClose);
  expect_values(log10(abs(x[0]) + 1), {0.3010299957, 0.4771212547, 0.1760912591, 0.6020599913},
                kClose);
  EXPECT_EQ(count_nonzero(x).item<int64_t>(), 7);
  expect_values(count_nonzero(x, 1), {4, 3});
  expect_values(diff(x), {-3, 2.5, 2.5, 2, -3, 1.25});
  expect_values(diff(x, 0), {-1, 4, -1.5, -2.75});
  EXPECT_EQ(trace(x).item(), 3);
  EXPECT_EQ(tile(x, {2}).sizes(), (Shape{2, 8}));
  EXPECT_EQ(tile(x, {3, 1, 2}).sizes(), (Shape{3, 2, 8}));
  const Tensors grid = meshgrid({tensor({1, 2}), tensor({3, 4, 5})});
  expect_values(grid[0], {1, 1, 1, 2, 2, 2});
  expect_values(grid[1], {3, 4, 5, 3, 4, 5});
  const Tensor ids = tensor(std::vector<int64_t>{1, 3, 1});
  expect_values(bincount(ids, {}, 6), {0, 2, 0, 1, 0, 0});
  expect_values(bincount(ids, tensor({.5, 1, 2})), {0, 2.5, 0, 1});
  expect_values(cdist(x, x.index({{}, tensor(std::vector<int64_t>{1, 0, 3, 2})})),
                {5.522680509, 4.589389938, 4.589389938, 3.335416016}, kClose);
  EXPECT_ERROR(bincount(ids - 2), OptionError, "x holds -1");
  EXPECT_ERROR(trace(ids), ShapeError, "expected [n, m]");
  EXPECT_ERROR(meshgrid({x}), ShapeError, "expected [n]");
}

TEST(Functional, ActivationsAndPools) {
  const Tensor x = rows(), p = arange(0.0, 16.0).reshape({1, 4, 2, 2});
  expect_values(glu(x), {0.6224593312, -1.905148254, 0, 1.124353002}, kClose);
  expect_values(glu(x, 0), {0.5, -1.761594156, 0.1344707107, 1.686529503}, kClose);
  expect_values(softmin(x[0], 0), {0.04372618171, 0.8782638372, 0.07209228587, 0.005917695186},
                kClose);
  expect_values(hardtanh(x[0], -1.5, 2), {1, -1.5, .5, 2});
  const Tensor shuffled = pixel_shuffle(p, 2);
  EXPECT_EQ(shuffled.sizes(), (Shape{1, 1, 4, 4}));
  expect_values(shuffled, {0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15});
  EXPECT_TRUE(pixel_unshuffle(shuffled, 2).equal(p));
  const Tensor signal = x.unsqueeze(0);
  expect_values(max_pool1d(signal, 2), {1, 3, 2, .25});
  expect_values(avg_pool1d(signal, 3, 1, 1),
                {-1.0 / 3, -.5 / 3, .5, 3.5 / 3, 2.0 / 3, 1.0 / 3, 1.25 / 3, -.25}, kClose);
  expect_values(adaptive_avg_pool1d(signal, 3), {-.5, -.75, 1.75, 1, .5, -.375}, kClose);
  EXPECT_ERROR(glu(ones({3})), ShapeError, "is odd");
  EXPECT_ERROR(pixel_shuffle(p, 3), ShapeError, "does not go by a factor of 3");
  EXPECT_ERROR(pixel_unshuffle(p, 0), OptionError, "the factor is 0");
  EXPECT_ERROR(max_pool1d(x, 2), ShapeError, "expected [B, C, L]");
}

TEST(Functional, GumbelSoftmaxDrawsByItsLogits) {
  Generator g(5);
  const Tensor x = log(tensor({.1, .2, .7})).expand({20000, 3}).clone().requires_grad_();
  const Tensor y = gumbel_softmax(x, 0.5, true, -1, &g);
  const Tensor share = y.detach().mean(0);
  EXPECT_NEAR(share[0].item(), .1, .01);
  EXPECT_NEAR(share[2].item(), .7, .015);
  expect_values(y.detach().sum(1).mean(), {1}, 1e-5);
  EXPECT_GT(abs(grad({sum(y.narrow(1, 0, 1))}, {x})[0]).sum().item(), 0);
  EXPECT_ERROR(gumbel_softmax(x, 0), OptionError, "tau is 0");
}

TEST(Functional, GumbelNoiseIsFiniteWhateverIsDrawn) {
  const Tensor ends = tensor({0, 0x1p-24, .5, 1 - 0x1p-24});
  for (const DType t : {kFloat32, kFloat64}) {
    const std::vector<double> noise = ops_detail::gumbel_noise(ends.to(t)).to_vector();
    EXPECT_NEAR(noise[0], 87.3365, 1e-3);
    EXPECT_NEAR(noise[1], 24 * std::log(2), 1e-4);
    EXPECT_NEAR(noise[3], -std::log(24 * std::log(2)), 1e-5);
  }
  Generator g(1);  // of 16 bits one in 256 is 0
  const Tensor y = gumbel_softmax(zeros({5000, 4}, kBFloat16), 1, false, -1, &g);
  EXPECT_TRUE(all(isfinite(y)).item<bool>());
}

TEST(Functional, Losses) {
  const Tensor x = rows(), y = turned(), target = tensor({1, -1}, kFloat64);
  expect_values(pairwise_distance(x, y), {4.527692569, 4.257346591}, kClose);
  expect_values(pairwise_distance(x, y, 3), {3.615213396, 3.78049213}, kClose);
  expect_values(cosine_embedding_loss(x, y, target, .1, "none"), {0.7192982456, 0}, kClose);
  expect_values(margin_ranking_loss(x[0], x[1], tensor({-1, -1, 1, -1}, kFloat64), .5, "none"),
                {1.5, 0, 0, 3.25});
  expect_values(triplet_margin_loss(x, y, -x, 1, 2, 1e-6, "none"), {0, 0.7573460359}, kClose);
  expect_values(poisson_nll_loss(x, abs(x), true, 1e-8, "none"),
                {1.718281828, 4.135335283, 1.398721271, 11.08553692, 1, 3.389056099, 1.367879441,
                 1.221525417},
                1e-8);
  expect_values(poisson_nll_loss(abs(x), abs(x), false), {0.5468401903}, kClose);
  const Tensor var = tensor(Row{.5, 1e-9, 2, 1, 1, 1, .1, 3}, {2, 4}, kFloat64).requires_grad_();
  const Tensor loss = gaussian_nll_loss(x, y, var);
  EXPECT_NEAR(loss.item(), 390631.1993, 1e-4);
  const Tensor slope = grad({loss}, {var})[0];
  EXPECT_NEAR(slope[0][1].item(), -390624937500.0, 1e3);
  expect_values(slope[1], {0.05859375, -0.5, -55.625, 0.02039930556}, 1e-8);
  EXPECT_ERROR(gaussian_nll_loss(x, y, -var), OptionError, "negative number");
  EXPECT_ERROR(cosine_embedding_loss(x, y, ones({3})), ShapeError, "expected [2]");
  EXPECT_ERROR(margin_ranking_loss(x, y, x, 0, "max"), OptionError, "reduction is \"max\"");
}

TEST(Functional, Gradients) {
  const Tensor x = testing::random({2, 4}, kFloat64, 3).clone().requires_grad_(),
               y = testing::random({2, 4}, kFloat64, 4).clone().requires_grad_();
  EXPECT_EQ(gradcheck(
                [](const Tensors& in) {
                  const Tensor &a = in[0], &b = in[1];
                  return Tensors{glu(a),          diff(a),
                                 cdist(a, b),     pairwise_distance(a, b, 3),
                                 softmin(b, 1),   log10(square(a) + 1),
                                 erfc(b),         triplet_margin_loss(a, b, b * 2),
                                 trace(a),        avg_pool1d(a.unsqueeze(0), 2),
                                 tile(a, {2, 2}), cosine_embedding_loss(a, b, ones({2}))};
                },
                {x, y}),
            "");
}

}  // namespace
}  // namespace dropin
