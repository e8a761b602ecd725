#include "dropin/quantizer/binary_spherical.h"

#include <cmath>

#include "dropin/ops/normalize.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

BinarySphericalQuantizer made(int64_t d, int64_t g, double tau = 3, double beta = 0,
                              const char* entropy = "group") {
  return BinarySphericalQuantizer({.embed_dim = d,
                                   .group_size = g,
                                   .beta = beta,
                                   .input_format = "blc",
                                   .persample_entropy_compute = entropy,
                                   .inv_temperature = tau});
}

TEST(BinarySphericalQuantizer, SignsAreCodesAndZeroIsMinus) {
  const auto q = made(4, 2);
  const BinaryCodes c = q.codes(tensor({1, -2, 0, 3, NAN, 1, 1, -1}, {2, 4}));
  testing::expect_values(c.y, {.5, -.5, -.5, .5, -.5, .5, .5, -.5});
  testing::expect_values(c.indices, {9, 6});
  testing::expect_values(c.group_indices, {2, 1, 1, 2});
  EXPECT_TRUE(std::isnan(c.loss.item()));
}

TEST(BinarySphericalQuantizer, SoftCodesFactorize) {
  // The same entropies from all 2^g codes by their inner products.
  const int64_t d = 6, g = 3, n = 5;
  const double tau = 2, c = 1 / std::sqrt(6.0);
  const auto q = made(d, g, tau);
  const Tensor z = normalize(random({n, d}));
  double each = 0, all = 0;
  for (int64_t group = 0; group < d / g; ++group) {
    Tensor logits = zeros({n, 8}, kFloat64);
    for (int64_t u = 0; u < 8; ++u)
      for (int64_t i = 0; i < g; ++i) {
        const double sign = (u >> (g - 1 - i) & 1) ? c : -c;
        logits.select(1, u).add_(z.select(1, group * g + i) * (2 * tau * sign));
      }
    const Tensor p = softmax(logits, 1), mean_p = mean(p, {0});
    auto entropy = [](const Tensor& x) { return -sum((x + 1e-8) * log(x + 1e-8)).item(); };
    each += entropy(p) / n;
    all += entropy(mean_p);
  }
  const BinaryCodes r = q.codes(z);
  EXPECT_NEAR(r.codebook_entropy.item(), all, 1e-10);
  EXPECT_NEAR(r.loss.item(), (each - all) / tau, 1e-10);
  const auto analytical = made(d, g, tau, 0, "analytical");
  const BinaryCodes bits = analytical.codes(z);
  EXPECT_NEAR(bits.loss.item() * tau + bits.codebook_entropy.item(), each, 1e-6);
  EXPECT_GT(bits.codebook_entropy.item(), all) << "an upper bound";
}

TEST(BinarySphericalQuantizer, TheStraightThroughGradientHasTheCodesScale) {
  const auto q = made(9, 3, 1, 0.5);
  Tensor z = random({4, 9}).requires_grad_();
  const BinaryCodes r = q.codes(z);
  const Tensor w = random({4, 9}, kFloat64, 2);
  EXPECT_LT(max_difference(grad({sum(r.y * w)}, {z}, {}, true)[0], w / 3.0), 1e-12);
  auto value = [&](const Tensor& at) { return q.codes(at).loss.item(); };
  const Tensor u = random({4, 9}, kFloat64, 3);
  const double numeric = (value(z.detach() + u * 1e-6) - value(z.detach() - u * 1e-6)) / 2e-6;
  EXPECT_NEAR(sum(grad({r.loss}, {z})[0] * u).item(), numeric, 1e-6 * std::abs(numeric));
}

TEST(BinarySphericalQuantizer, TheDistanceToTheSphereIsThePapers) {
  for (const auto& [d, want] :
       {std::pair<int64_t, double>{9, 0.3594}, {18, 0.3819}, {28, 0.3899}}) {
    const auto q = made(d, 1);
    const Tensor z = normalize(random({40000, d}, kFloat32));
    EXPECT_NEAR(mean(sum(square(z - q.codes(z).y), {1})).item(), want, 0.003) << d;
  }
}

TEST(BinarySphericalQuantizer, CodesGoThroughIndicesAndBytes) {
  for (const int64_t d : {5, 28, 63}) {
    const auto q = made(d, 1);
    const BinaryCodes c = q.codes(random({7, 3, d}, kFloat32));
    EXPECT_EQ(max_difference(q.indices_to_codes(c.indices), c.y), 0) << d;
    EXPECT_EQ(max_difference(q.group_indices_to_codes(c.group_indices), c.y), 0) << d;
    EXPECT_EQ(max_difference(q.codes_to_indices(c.y), c.indices), 0) << d;
    const Tensor bytes = q.pack_bits(c.indices);
    EXPECT_EQ(bytes.numel(), (21 * d + 7) / 8);
    EXPECT_EQ(q.unpack_bits(bytes, 21).to_vector<int64_t>(), c.indices.to_vector<int64_t>()) << d;
    EXPECT_ERROR(q.unpack_bits(bytes, 20), ShapeError, "expected uint8");
  }
  EXPECT_EQ(BinarySphericalQuantizer::usage(tensor({3, 1, 3, 9}, kInt64)), 3);
  const auto wide = made(64, 16);
  EXPECT_FALSE(wide.codes(random({2, 64}, kFloat32)).indices.defined());
  EXPECT_ERROR(wide.codes_to_indices(zeros({2, 64})), OptionError, "at most 63");
}

TEST(BinarySphericalQuantizer, SaturatedAndEmptyInputsAreFinite) {
  const auto q = made(4, 2, 100);
  const BinaryCodes far = q.codes(tensor({INFINITY, -INFINITY, 1e30, -1e30}, {1, 4}));
  EXPECT_TRUE(std::isfinite(far.loss.item()));
  testing::expect_values(far.indices, {10});
  EXPECT_EQ(q.codes(zeros({0, 4})).loss.item(), 0);
}

TEST(BinarySphericalQuantizer, RefusesWhatDoesNotFitInWords) {
  EXPECT_ERROR(made(10, 3), OptionError, "embed_dim 10 is not divisible by group_size 3");
  EXPECT_ERROR(made(34, 17), OptionError, "group_size is 17, expected at most 16");
  EXPECT_ERROR(made(4, 2, 0), OptionError, "inv_temperature is 0");
  EXPECT_ERROR(made(4, 2, 1, 0, "hard"), OptionError, "expected group or analytical");
  EXPECT_ERROR(BinarySphericalQuantizer({.input_format = "bcl"}), OptionError,
               "expected bchw or blc");
  EXPECT_ERROR(made(4, 2).codes(zeros({2, 5})), ShapeError, "because embed_dim = 4");
  auto q = made(4, 2);
  EXPECT_ERROR(q(zeros({1, 2, 4}), tensor({1}, kInt64)), OptionError, "lengths is not supported");
}

TEST(BSQBottleneck, DecodesWhatItEncodes) {
  no_grad guard;
  BSQBottleneck m({.in_dim = 6, .out_dim = 5, .embed_dim = 8, .group_size = 4});
  const Tensor x = random({2, 3, 6}, kFloat32);
  const Quantized q = m(x);
  EXPECT_EQ(m.encode(x).to_vector<int64_t>(), q.indices.to_vector<int64_t>());
  EXPECT_LT(max_difference(m.decode(q.indices), q.y), 1e-6);
}

}  // namespace
}  // namespace dropin
