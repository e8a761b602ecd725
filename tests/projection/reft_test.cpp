#include "dropin/projection/reft.h"

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

// R^T by the page: the product of reflections, one matrix each.
Tensor by_reflections(const Tensor& x, const Tensor& base) {
  const int64_t d = x.size(0), r = x.size(1);
  Tensor product = eye(d, d, kFloat64);
  for (int64_t j = 0; j < r; ++j) {
    Tensor v = zeros({d}, kFloat64);
    v.narrow(0, j, d - j).copy_(x.select(1, j).narrow(0, j, d - j));
    v[j] = 1.0;
    const double tau = 2 / sum(square(v)).item();
    product = matmul(product, eye(d, d, kFloat64) - v.unsqueeze(1) * v.unsqueeze(0) * tau);
  }
  return matmul(base, product).narrow(1, 0, r) * sign(x.diagonal());
}

TEST(LoReFT, TheRotationIsTorchsAndStaysOrthonormal) {
  LoReFT m({.embed_dim = 7, .low_rank_dimension = 3});
  m.to(kFloat64);
  const Tensor base = m.state_dict().find("rotate_layer.base");
  EXPECT_LT(max_difference(m.rotation(), base.narrow(1, 0, 3)), 1e-12) << "at the start";
  {
    no_grad guard;
    for (auto& [name, p] : m.named_parameters())
      if (name == "rotate_layer.original") {
        p.add_(random({7, 3}));
        p.diagonal().copy_(tensor({1, -1, 1}, {3}, kFloat64));
      }
  }
  const Tensor x = m.state_dict().find("rotate_layer.original").detach(),
               rt = m.rotation().detach();
  EXPECT_LT(max_difference(rt, by_reflections(x, base)), 1e-6) << "base is of float32";
  EXPECT_LT(max_difference(matmul(rt.mT(), rt), eye(3, 3, kFloat64)), 1e-5);
  const Tensor g = grad({sum(m.rotation() * random({7, 3}))}, {m.parameters()[2]})[0];
  EXPECT_EQ(max_difference(triu(g, 0), zeros({7, 3}, kFloat64)), 0) << "diagonal and above";
  EXPECT_GT(amax(abs(g)).item(), 0);
}

TEST(LoReFT, ReplacesCoordinatesAndKeepsTheRest) {
  LoReFT m({.embed_dim = 6, .low_rank_dimension = 2, .act_fn = "tanh"});
  DiReFT direct({.embed_dim = 6, .low_rank_dimension = 2, .act_fn = "tanh"});
  direct.load_state_dict(m.state_dict());
  const Tensor x = random({4, 6}, kFloat32), rt = m.rotation(), y = m(x);
  const StateDict s = m.state_dict();
  const Tensor source =
      tanh(linear(x, s.find("learned_source.weight"), s.find("learned_source.bias")));
  EXPECT_LT(max_difference(matmul(y, rt), source), 1e-5);
  const Tensor keep = eye(6) - matmul(rt, rt.mT());
  EXPECT_LT(max_difference(matmul(y, keep), matmul(x, keep)), 1e-5);
  EXPECT_LT(max_difference(direct(x), x + matmul(source, rt.mT())), 1e-6);
  LoReFT same({.embed_dim = 6, .low_rank_dimension = 2, .identity_init = true});
  EXPECT_LT(max_difference(same(x), x), 1e-6);
}

TEST(LoReFT, OtherRowsPassBitByBit) {
  LoReFT m({.embed_dim = 6, .low_rank_dimension = 2});
  const Tensor x = random({2, 5, 6}, kFloat32), all = m(x);
  const Tensor y = m(x, tensor({0, 3, 3, -1, -1, -1, -1, -1}, {2, 4}, kInt64));
  for (int64_t t = 0; t < 5; ++t) {
    const bool edited = t == 0 || t == 3;
    EXPECT_EQ(max_difference(y[0][t], edited ? all[0][t] : x[0][t]) < 1e-6, true) << t;
    if (!edited) EXPECT_EQ(max_difference(y[0][t], x[0][t]), 0);
  }
  EXPECT_EQ(max_difference(y[1], x[1]), 0);
  EXPECT_EQ(max_difference(m(x, zeros({2, 0}, kInt64)), x), 0);
  LoReFT dropped({.embed_dim = 6, .low_rank_dimension = 2, .dropout = 0.9});
  const Tensor z = dropped(x, tensor({1, 2}, {2, 1}, kInt64));
  EXPECT_EQ(max_difference(z[0][0], x[0][0]), 0) << "dropout is of edited rows";
}

TEST(LoReFT, RetractRestoresOrthonormalColumns) {
  LoReFT m({.embed_dim = 6, .low_rank_dimension = 6, .parametrization = "none"});
  {
    no_grad guard;
    for (auto& [name, p] : m.named_parameters())
      if (name == "rotate_layer.weight") p.add_(random({6, 6}, kFloat32), 0.1);
  }
  m.retract();
  EXPECT_LT(max_difference(matmul(m.rotation().mT(), m.rotation()), eye(6)), 1e-5);
  LoReFT turned({.embed_dim = 6, .low_rank_dimension = 2});
  EXPECT_ERROR(turned.retract(), OptionError, "parametrization \"none\"");
}

TEST(LoReFT, FilesOfPyreftLoad) {
  LoReFT from({.embed_dim = 6, .low_rank_dimension = 2, .parametrization = "none"});
  StateDict theirs;
  const StateDict s = from.state_dict();
  theirs.set("weight", s.find("learned_source.weight"));
  theirs.set("bias", s.find("learned_source.bias"));
  theirs.set("rotate_layer", s.find("rotate_layer.weight"));
  const Tensor x = random({3, 6}, kFloat32);
  for (const char* kind : {"none", "householder"}) {
    LoReFT m({.embed_dim = 6, .low_rank_dimension = 2, .parametrization = kind});
    m.load_state_dict(theirs);
    EXPECT_LT(max_difference(m(x), from(x)), 1e-5) << kind;
  }
}

TEST(LoReFT, NamesWhatDoesNotFit) {
  EXPECT_ERROR(LoReFT({.embed_dim = 6, .low_rank_dimension = 6}), OptionError, "use \"none\"");
  EXPECT_ERROR(LoReFT({.embed_dim = 6, .low_rank_dimension = 7}), OptionError,
               "low_rank_dimension is 7");
  EXPECT_ERROR(DiReFT({.embed_dim = 6, .low_rank_dimension = 0}), OptionError,
               "low_rank_dimension is 0");
  EXPECT_ERROR(LoReFT({.embed_dim = 6, .low_rank_dimension = 2, .act_fn = "swish"}), OptionError,
               "act_fn is \"swish\"");
  EXPECT_ERROR(LoReFT({.embed_dim = 6, .low_rank_dimension = 2, .variant = "x"}), OptionError,
               "variant is \"x\"");
  EXPECT_ERROR(DiReFT({.embed_dim = 6, .low_rank_dimension = 2, .identity_init = true}),
               OptionError, "identity_init");
  LoReFT m({.embed_dim = 6, .low_rank_dimension = 2});
  const Tensor x = zeros({2, 5, 6});
  EXPECT_ERROR(m(x, full({2, 1}, 5, kInt64)), IndexError, "positions hold 5, expected -1");
  EXPECT_ERROR(m(x, full({2, 1}, -2, kInt64)), IndexError, "positions hold -2");
  EXPECT_ERROR(m(x, zeros({2, 1})), DTypeError, "positions are float32");
  EXPECT_ERROR(m(x, zeros({3, 1}, kInt64)), ShapeError, "positions are [3, 1], expected [2, K]");
  EXPECT_ERROR(m(zeros({5, 6}), zeros({5, 1}, kInt64)), ShapeError, "expected [B, L, D]");
  StateDict bad;
  for (const auto& [name, t] : m.state_dict()) bad.set(name, t.clone());
  bad.find("rotate_layer.original")[0][0] = 0.0;
  EXPECT_ERROR(m.load_state_dict(bad), StateError, "a diagonal that is not 1 or -1");
}

TEST(ReftPositions, TakesAtMostHalfFromEachEnd) {
  const Tensor n = tensor({9, 4, 3, 1, 0}, {5}, kInt64);
  testing::expect_values(reft_positions(n, "f2+l2").to(kFloat64),
                         {0, 1, 7, 8, 0, 1, 2, 3, 0, 2, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1});
  EXPECT_EQ(reft_positions(n, "l3").sizes(), (Shape{5, 3}));
  for (const char* bad : {"", "f", "3", "f2+f2", "l2+f2", "f-1", "f2+", "f2+l2x"})
    EXPECT_ERROR(reft_positions(n, bad), OptionError, "expected f<p>+l<s>");
  EXPECT_ERROR(reft_positions(n * -1, "f1"), IndexError, "lengths hold -9");
}

}  // namespace
}  // namespace dropin
