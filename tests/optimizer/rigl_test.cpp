#include "dropin/optimizer/rigl.h"

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

double active(const Tensor& mask) { return sum(mask.to(kFloat64)).item(); }

TEST(RiglUpdate, DropsTheSmallestAndGrowsByTheGradient) {
  const Tensor w = tensor({5, -1, 3, 0, 2, 0, 0, 0}, {8}, kFloat64),
               mask = tensor({1, 1, 1, 0, 1, 0, 0, 0}, {8}, kBool),
               g = tensor({0, 9, 0, 1, 0, -7, 1, 8}, {8}, kFloat64);
  const RiglMasks m = rigl_update(w, mask, g, {.sparsity = 0.5, .drop_fraction = 0.5});
  testing::expect_values(m.mask.to(kFloat64), {1, 1, 1, 0, 0, 0, 0, 1});
  testing::expect_values(m.grown.to(kFloat64), {0, 1, 0, 0, 0, 0, 0, 1});
  const RiglMasks none = rigl_update(w, mask, g, {.sparsity = 0.5, .drop_fraction = 0.2});
  EXPECT_EQ(max_difference(none.mask.to(kFloat64), mask.to(kFloat64)), 0) << "nothing to drop";
  const RiglMasks more = rigl_update(w, mask, g, {.sparsity = 0.25, .drop_fraction = 0});
  EXPECT_EQ(active(more.mask), 6) << "growth up to the target";
}

TEST(RiglUpdate, EqualsGoByIndexAndNaNIsSmallest) {
  const Tensor equal = ones({6}), mask = tensor({1, 1, 1, 1, 0, 0}, {6}, kBool);
  const RiglMasks m = rigl_update(equal, mask, zeros({6}), {.sparsity = 0.4, .drop_fraction = 0.5});
  testing::expect_values(m.mask.to(kFloat64), {1, 1, 1, 0, 0, 0});
  Tensor w = equal.clone(), g = ones({6});
  w[0] = std::nan("");
  g[2] = std::nan("");
  const RiglMasks n = rigl_update(w, mask, g, {.sparsity = 0.4, .drop_fraction = 0.5});
  testing::expect_values(n.mask.to(kFloat64), {1, 1, 1, 0, 0, 0});
  testing::expect_values(n.grown.to(kFloat64), {1, 0, 0, 0, 0, 0});
}

TEST(RiglUpdate, NamesWhatDoesNotFit) {
  const Tensor w = ones({2, 3}), mask = ones({2, 3}, kBool);
  EXPECT_ERROR(rigl_update(w, mask, ones({3, 2}), {}), ShapeError, "expected one shape");
  EXPECT_ERROR(rigl_update(w, w, w, {}), DTypeError, "mask is float32");
  EXPECT_ERROR(rigl_update(w, mask, w, {.drop_fraction = 1}), OptionError, "drop_fraction is 1");
  EXPECT_ERROR(rigl_update(w, mask, w, {.sparsity = 1}), OptionError, "sparsity is 1");
}

TEST(RigLSparsifier, MasksMoveAndKeepTheirCount) {
  for (const char* method : {"rigl", "set", "static"}) {
    manual_seed(2);
    Tensor w = random({8, 10}, kFloat32).clone().requires_grad_();
    Tensor mask = rand({8, 10}) < 0.25;
    const double count = active(mask);
    bool dense = false;
    Adam adam({w}, {.lr = 0.01});
    RigLSparsifier s(
        adam, {{w, mask, [&](bool on) { dense = on; }}},
        {.sparsity = 1 - count / 80, .total_steps = 40, .frequency = 5, .method = method});
    Tensor ever = mask.clone();
    const Tensor x = random({30, 10}, kFloat32, 3), target = random({30, 8}, kFloat32, 4);
    for (int i = 0; i < 40; ++i) {
      EXPECT_EQ(dense, s.changes_at(s.steps() + 1));
      const Tensor before = mask.clone();
      adam.zero_grad();
      const Tensor held = w * mask.to(kFloat32);  // and the dense gradient as the layers give it
      sum(square(linear(x, held) - target)).backward();
      if (dense) {
        const Tensor leaf = held.detach().requires_grad_();
        w.set_grad(grad({sum(square(linear(x, leaf) - target))}, {leaf})[0]);
      }
      s.step();
      EXPECT_NEAR(active(mask), count, 1);
      EXPECT_EQ(amax(abs(where(mask, 0.0, w.detach()))).item(), 0) << "outside the mask";
      const Tensor fresh = logical_and(mask, logical_not(before));
      if (active(fresh) > 0) {
        EXPECT_TRUE(s.changes_at(s.steps()));
        EXPECT_EQ(amax(abs(where(fresh, w.detach(), 0.0))).item(), 0) << "new weights start at 0";
        EXPECT_EQ(amax(abs(where(fresh, adam.state_dict().find("state.0.exp_avg"), 0.0))).item(),
                  0);
      }
      ever = logical_or(ever, mask);
    }
    if (method == std::string("static"))
      EXPECT_EQ(active(ever), count);
    else
      EXPECT_GT(active(ever), 1.3 * count);
  }
}

TEST(RigLSparsifier, TheScheduleIsThePapers) {
  Tensor w = ones({2, 2}).requires_grad_();
  SGD sgd({w}, {.lr = 0.1});
  const std::vector<MaskedParameter> p{{w, ones({2, 2}, kBool)}};
  RigLSparsifier s(sgd, p, {.drop_fraction = 0.4, .total_steps = 400, .frequency = 50});
  EXPECT_FALSE(s.changes_at(0));
  EXPECT_TRUE(s.changes_at(250));
  EXPECT_FALSE(s.changes_at(251));
  EXPECT_FALSE(s.changes_at(300)) << "the end is left out";
  EXPECT_NEAR(s.drop_fraction_at(0), 0.4, 1e-12);
  EXPECT_NEAR(s.drop_fraction_at(150), 0.2, 1e-12);
  RigLSparsifier e(sgd, p, {.drop_fraction = 0.4, .end = 100, .schedule = "exponential"});
  EXPECT_NEAR(e.drop_fraction_at(50), 0.4 * std::exp(-1.5), 1e-12);
  EXPECT_ERROR(RigLSparsifier(sgd, p, {.begin = 5, .end = 5}), OptionError, "begin < end");
  EXPECT_ERROR(RigLSparsifier(sgd, p, {.end = 5, .method = "snip"}), OptionError,
               "method is \"snip\"");
  RigLSparsifier now(sgd, p, {.end = 5, .frequency = 1});
  EXPECT_ERROR(now.step(), StateError, "has no gradient");
}

TEST(ErkDensities, SumToTheTargetAndGiveSmallLayersMore) {
  const std::vector<Shape> shapes{{64, 3, 3, 3}, {64, 64, 3, 3}, {10, 64}};
  const std::vector<double> d = erk_densities(shapes, 0.9);
  double kept = 0, all = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const double n = i == 0 ? 1728 : i == 1 ? 36864 : 640;
    kept += d[i] * n;
    all += n;
    EXPECT_LE(d[i], 1);
  }
  EXPECT_NEAR(kept, 0.1 * all, 1e-6);
  EXPECT_GT(d[0], d[1]);
  EXPECT_GT(d[2], d[0]);
}

}  // namespace
}  // namespace dropin
