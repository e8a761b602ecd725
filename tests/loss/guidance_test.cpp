// Guidance on directions and on geodesics: the kernel against its integral, its invariances, rows
// that have not moved, bad input.
#include "dropin/loss/guidance.h"
#include "dropin/autograd/gradcheck.h"
#include "dropin/loss/geodesic.h"
#include "dropin/ops/normalize.h"
#include "support.h"

namespace dropin::testing {
namespace {

Tensor rows(int64_t n, int64_t d, std::uint64_t seed) { return random({n, d}, kFloat64, seed); }

// The mean of the projections along the flow, by Gauss-Legendre on pieces of [0, 1].
Tensor integral(const GeodesicFactors& f) {
  constexpr int kPieces = 20;
  const double node[] = {-std::sqrt(0.6), 0, std::sqrt(0.6)},
               share[] = {5.0 / 18, 8.0 / 18, 5.0 / 18};
  const auto theta = f.theta.to_vector();
  // directions without a partner keep half of their projection
  auto rest = [](const Tensor& basis, const Tensor& principal) {
    return matmul(basis, basis.mT()) - matmul(principal, principal.mT());
  };
  Tensor total = (rest(f.source, f.P) + rest(f.target, f.T)) * 0.5;
  for (int piece = 0; piece < kPieces; ++piece)
    for (int k = 0; k < 3; ++k) {
      const double z = (piece + 0.5 + 0.5 * node[k]) / kPieces;
      Tensors columns;
      for (std::size_t i = 0; i < theta.size(); ++i) {
        const auto at = static_cast<int64_t>(i);
        const double s = std::sin(theta[i]),
                     a = theta[i] < 1e-9 ? 1 - z : std::sin((1 - z) * theta[i]) / s,
                     b = theta[i] < 1e-9 ? z : std::sin(z * theta[i]) / s;
        columns.push_back(f.P.select(1, at) * a + f.T.select(1, at) * b);
      }
      const Tensor phi = stack(columns, 1);
      total = total + matmul(phi, phi.mT()) * (share[k] / kPieces);
    }
  return total;
}

TEST(GeodesicFlowKernel, IsTheMeanOfTheFlow) {
  for (const auto& [n, m] : {std::pair(3, 3), std::pair(2, 4), std::pair(4, 1)}) {
    const Tensor source = rows(n, 9, 1), target = rows(m, 9, 2);
    const GeodesicFlowKernelOptions o{.center = "none"};
    const Tensor kernel = geodesic_flow_kernel(source, target, o).kernel;
    EXPECT_LT(max_difference(kernel, integral(geodesic_factors(source, target, o))), 1e-9);
    EXPECT_LT(max_difference(kernel, geodesic_flow_kernel(target, source, o).kernel), 1e-12);
    EXPECT_GT(amin(eigh(kernel).values).item(), -1e-12);
  }
}

TEST(GeodesicFlowKernel, DependsOnTheSpansAlone) {
  const Tensor source = rows(3, 8, 1), target = rows(3, 8, 2), mix = rows(3, 3, 3);
  const GeodesicFlowKernelOptions o{.center = "none"};
  EXPECT_LT(max_difference(geodesic_flow_kernel(source, target, o).kernel,
                           geodesic_flow_kernel(matmul(mix, source), target, o).kernel),
            1e-11);
  // of one subspace with itself: the projection onto it
  const GeodesicKernel own = geodesic_flow_kernel(source, source, o);
  EXPECT_LT(max_difference(matmul(own.kernel, source.mT()), source.mT()), 1e-12);
  EXPECT_LT(amax(own.theta).item(), 1e-7);
}

TEST(GeodesicFlowKernel, SmallAndLargeAnglesMeetAtTheSeries) {
  // from one formula to the other at 0.1 the kernel stays smooth
  auto kernel = [](double angle) {
    const Tensor a = tensor(std::vector<double>{1, 0}, {1, 2}, kFloat64),
                 b = tensor(std::vector<double>{std::cos(angle), std::sin(angle)}, {1, 2},
                            kFloat64);
    return geodesic_flow_kernel(a, b, {.center = "none"}).kernel;
  };
  EXPECT_LT(max_difference(kernel(0.1 - 1e-12), kernel(0.1 + 1e-12)), 1e-11);
}

TEST(GeodesicFlowKernel, GradientsOfTruncatedUnequalSubspaces) {
  for (const auto& [s, t] : {std::pair(0, 0), std::pair(2, 1), std::pair(1, 3)})
    for (const char* center : {"feature", "sample", "none"}) {
      const Tensor w = random({6, 6}, kFloat64, 9);
      auto f = [&, s = s, t = t](const Tensors& in) -> Tensors {
        return {sum(
            geodesic_flow_kernel(in[0], in[1], {.center = center, .source_dim = s, .target_dim = t})
                .kernel *
            w)};
      };
      const Tensors at{rows(4, 6, 1).requires_grad_(), rows(3, 6, 2).requires_grad_()};
      const Tensors g = grad(f(at), at);
      for (std::size_t i = 0; i < 2; ++i) {
        const Tensor u = random(at[i].sizes(), kFloat64, 5);
        auto value = [&](double h) {
          no_grad guard;
          Tensors moved{at[0].detach(), at[1].detach()};
          moved[i] = moved[i] + u * h;
          return f(moved)[0].item();
        };
        const double numeric = (value(1e-6) - value(-1e-6)) / 2e-6;
        EXPECT_NEAR(sum(g[i] * u).item(), numeric, 1e-6 * std::max(1.0, std::abs(numeric)))
            << center << " " << s << " " << t;
      }
    }
}

TEST(GeodesicDistillationLoss, WithReferenceHasExactGradientsWhenAsked) {
  GeodesicDistillationLoss loss({.intra_weight = 0.7, .detach_kernel = false});
  GuidanceArgs args;
  args.image_source = rows(5, 9, 3);
  args.text_source = rows(5, 9, 4);
  args.image_reference = rows(5, 9, 5);
  const Tensor text = rows(5, 9, 2), u = rows(5, 9, 6);
  Tensor image = rows(5, 9, 1).requires_grad_();
  const Tensor g = grad({loss(image, text, args).loss}, {image})[0];
  auto value = [&](double h) { return loss(image.detach() + u * h, text, args).loss.item(); };
  EXPECT_NEAR(sum(g * u).item(), (value(1e-6) - value(-1e-6)) / 2e-6, 1e-7);
  args.image_reference = image;  // the same picture twice: nothing to keep near
  GeodesicDistillationLoss both({.inter_weight = 0});
  EXPECT_NEAR(both(image, text, args).loss.item(), 0, 1e-12);
}

TEST(GuidanceLosses, RowsThatHaveNotMovedPullByTheTextAlone) {
  for (const bool geodesic : {false, true}) {
    GeodesicDistillationLoss a;
    DirectionalCLIPLoss b;
    GuidanceLoss& loss = geodesic ? static_cast<GuidanceLoss&>(a) : b;
    const Tensor source = rows(4, 6, 1), text = rows(1, 6, 2);
    GuidanceArgs args;
    args.image_source = source;
    Tensor image = (source * 3.0).requires_grad_();  // the same directions
    const Guidance g = loss(image, text, args);
    expect_values(g.loss.detach(), {1}, 1e-12);
    expect_values(g.similarity, {0, 0, 0, 0}, 1e-12);
    // d/d image of n(image) y is y less its part along the image, over the image's length
    const Tensor n = normalize(image.detach(), 1), y = normalize(text, 1);
    const Tensor want = (y - n * sum(n * y, {1}, true)) / norm(image.detach(), {1}, true) * -0.25;
    EXPECT_LT(max_difference(grad({g.loss}, {image})[0], want), 1e-12);
  }
}

TEST(GuidanceLosses, ReduceAndAverageTexts) {
  DirectionalCLIPLoss none({.reduction = "none"}), total({.reduction = "sum"}), average;
  const Tensor image = rows(3, 5, 1), text = rows(3, 5, 2);
  EXPECT_NEAR(sum(none(image, text).loss).item(), total(image, text).loss.item(), 1e-12);
  EXPECT_NEAR(mean(none(image, text).loss).item(), average(image, text).loss.item(), 1e-12);
  DirectionalCLIPLoss reduced({.text_reduce = "mean"});
  const Tensor one = mean(normalize(rows(7, 5, 3), 1), {0}, true);
  EXPECT_NEAR(reduced(image, rows(7, 5, 3)).loss.item(), average(image, one).loss.item(), 1e-12);
  EXPECT_EQ(none(image, text).loss.size(0), 3);
  Tensor zero = zeros({2, 5}, kFloat64).requires_grad_();
  const Guidance g = average(zero, text.narrow(0, 0, 2));
  EXPECT_EQ(g.loss.item(), 1);
  EXPECT_EQ(max_difference(grad({g.loss}, {zero})[0], zeros({2, 5}, kFloat64)), 0);
}

TEST(GuidanceLosses, RefuseWhatTheyCannotMean) {
  GeodesicDistillationLoss loss;
  const Tensor image = rows(3, 5, 1), text = rows(3, 5, 2);
  EXPECT_ERROR(loss(rows(0, 5, 1), text), ShapeError, "n >= 1");
  EXPECT_ERROR(loss(image, rows(2, 5, 1)), ShapeError, "[1 or 3, 5]");
  EXPECT_ERROR(loss(image, rows(3, 4, 1)), ShapeError, "text is [3, 4]");
  GuidanceArgs args;
  args.image_reference = rows(2, 5, 1);
  EXPECT_ERROR(loss(image, text, args), ShapeError, "image_reference is [2, 5]");
  args = {};
  args.text_source = text;
  EXPECT_ERROR(loss(image, text, args), Error, "no direction");
  EXPECT_ERROR(loss(image * NAN, text), Error, "image holds NaN");
  EXPECT_ERROR(loss(ones({3, 5}), text), Error, "the source has no dimensions");
  EXPECT_ERROR(GeodesicDistillationLoss({.center = "row"}), OptionError, "center is \"row\"");
  EXPECT_ERROR(GeodesicDistillationLoss({.source_dim = 0}), OptionError, "source_dim 0");
  EXPECT_ERROR(GeodesicDistillationLoss({.rank_tol = 1}), OptionError, "rank_tol is 1");
  EXPECT_ERROR(DirectionalCLIPLoss({.text_reduce = "max"}), OptionError, "text_reduce is \"max\"");
  EXPECT_ERROR(DirectionalCLIPLoss({.reduction = "max"}), OptionError, "reduction is \"max\"");
  EXPECT_ERROR(geodesic_flow_kernel(image, rows(3, 4, 1)), ShapeError, "target is [3, 4]");
}

}  // namespace
}  // namespace dropin::testing
