#include "dropin/feed_forward/bilinear_mlp.h"

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(BilinearMLP, IsAQuadraticFormOfItsInput) {
  for (const bool bias : {false, true}) {
    BilinearMLP m({.d_model = 6, .d_hidden = 9, .d_out = 4, .bias = bias});
    m.to(kFloat64);
    const Tensor x = random({7, 6}), u = random({3, 4}, kFloat64, 2);
    const Tensor want = matmul(m(x), u.mT());  // [N, K]
    const Tensor in = bias ? concat({x, ones({7, 1}, kFloat64)}, 1) : x;
    const Tensor q = m.interaction(u);
    const Tensor plus = bias ? matmul(u, m.state_dict().find("o.bias")) : zeros({3}, kFloat64);
    EXPECT_LT(max_difference(einsum("nd,kde,ne->nk", {in, q, in}) + plus, want), 1e-11);
    EXPECT_EQ(max_difference(q, q.mT()), 0);
    const int64_t width = q.size(1);
    EXPECT_LT(max_difference(m.truncated(u, width, x), want), 1e-11) << "all eigenpairs";
    const BilinearMLP::Eigen e = m.eigen(u);
    EXPECT_LT(max_difference(einsum("kid,ki,kie->kde", {e.vectors, e.values, e.vectors}), q),
              1e-11);
    for (int64_t i = 1; i < width; ++i) EXPECT_GE(e.values[0][i].item(), e.values[0][i - 1].item());
  }
}

TEST(BilinearMLP, TruncationKeepsTheLargest) {
  BilinearMLP m({.d_model = 6, .d_hidden = 9});
  m.to(kFloat64);
  const Tensor x = random({5, 6}), u = random({2, 6}, kFloat64, 3);
  const BilinearMLP::Eigen e = m.eigen(u);
  const Tensor parts = square(einsum("nd,kid->nki", {x, e.vectors})) * e.values;  // [N, K, D]
  for (int64_t k = 0; k < 2; ++k) {
    const int64_t top = argmax(abs(e.values[k]), 0).item<int64_t>();
    EXPECT_LT(max_difference(m.truncated(u, 1, x).select(1, k), parts.select(1, k).select(1, top)),
              1e-12);
    const Tensor both = parts.select(1, k).select(1, 0) + parts.select(1, k).select(1, 5);
    EXPECT_LT(max_difference(m.truncated(u, 2, x, KeptPairs::EachSign).select(1, k), both), 1e-12);
  }
  EXPECT_EQ(max_difference(m.truncated(u, 0, x), zeros({5, 2}, kFloat64)), 0);
}

TEST(BilinearMLP, HosvdIsTheSvdOfTheInteractions) {
  BilinearMLP m({.d_model = 4, .d_hidden = 7, .d_out = 5, .bias = true});
  m.to(kFloat64);
  const Tensor all = m.interaction(eye(5, 5, kFloat64)).reshape({5, 25});
  const SVD want = svd(all);
  const BilinearMLP::Directions got = m.hosvd(3);
  EXPECT_LT(max_difference(got.values, want.S.narrow(0, 0, 3)), 1e-7);
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(std::abs(sum(got.outputs[i] * want.U.select(1, i)).item()), 1, 1e-6);
    EXPECT_NEAR(std::abs(sum(got.interactions[i].flatten() * want.Vh[i]).item()), 1, 1e-6);
  }
}

TEST(BilinearMLP, TakesOverAGatedLayer) {
  for (const bool bias : {false, true}) {
    GatedMLP gated({.embed_dim = 6, .activation = "silu", .bias = bias});
    const Box<BilinearMLP> m = BilinearMLP::from_swiglu(gated);
    const StateDict s = gated.state_dict();
    const Tensor x = random({3, 6}, kFloat32);
    auto part = [&](const std::string& name, const Tensor& in) {
      return linear(in, s.find(name + ".weight"), s.find(name + ".bias"));
    };
    EXPECT_LT(max_difference((*m)(x), part("down", part("gate", x) * part("up", x))), 1e-6);
  }
  const Json r = BilinearMLP::options_from("MLP", Json::parse(R"({"embed_dim": 6})"), Json());
  EXPECT_EQ(r.find("d_hidden")->as_int(), 24);
}

TEST(BilinearMLP, NoiseIsInUnitsOfTheInputAndForTrainingOnly) {
  BilinearMLP m({.d_model = 6, .d_hidden = 9, .noise = 0.5});
  const Tensor x = random({50, 6}, kFloat32);
  manual_seed(1);
  const Tensor a = m(x);
  manual_seed(1);
  const Tensor scaled = m(x * 10.0) / 100.0;  // quadratic, noise and all
  EXPECT_LT(max_difference(a, scaled), 1e-4);
  EXPECT_GT(max_difference(a, m(x)), 1e-3);
  m.eval();
  EXPECT_EQ(max_difference(m(x), m(x)), 0);
}

TEST(BilinearMLP, NamesWhatDoesNotFit) {
  using M = BilinearMLP;
  EXPECT_ERROR(M({.d_model = 4, .d_hidden = 4, .gate = "gelu"}), OptionError, "gate is \"gelu\"");
  EXPECT_ERROR(M({.d_model = 4, .d_hidden = 4, .noise = -1}), OptionError, "noise is -1");
  EXPECT_ERROR(M({.d_model = 4}), OptionError, "d_hidden 0");
  M m({.d_model = 4, .d_hidden = 4}), gated({.d_model = 4, .d_hidden = 4, .gate = "relu"});
  EXPECT_ERROR(m(zeros({2, 5})), ShapeError, "expected [*, 4]");
  EXPECT_ERROR(gated.interaction(zeros({1, 4})), OptionError, "no quadratic form");
  EXPECT_ERROR(gated.eigen(zeros({1, 4})), OptionError, "no quadratic form");
  EXPECT_ERROR(m.interaction(zeros({1, 5})), ShapeError, "directions are [1, 5], expected [K, 4]");
  EXPECT_ERROR(m.eigen(full({1, 4}, std::nan(""))), Error, "not finite");
  const Tensor w = random({8, 3}, kFloat32).requires_grad_();
  const BilinearEigen e = bilinear_eigen(w, random({2, 4}, kFloat32), random({1, 2}, kFloat32));
  EXPECT_ERROR(grad({sum(e.eigenvalues)}, {w}), AutogradError, "no gradient");
}

}  // namespace
}  // namespace dropin
