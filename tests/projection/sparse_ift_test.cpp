#include "dropin/projection/sparse_ift.h"

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

SparseIFTLinearOptions layer(const std::string& transform, double sparsity = 0.5) {
  SparseIFTLinearOptions o;
  o.in_features = 12;
  o.out_features = 10;
  o.transform = transform;
  o.sparsity = sparsity;
  return o;
}
Tensor masked(const Module& m, const std::string& name) {
  const StateDict s = m.state_dict();
  const Tensor w = s.find(name + ".weight"), mask = s.find(name + ".weight_mask");
  return mask.defined() ? where(mask, w, 0.0) : w;
}
double active(const Tensor& mask) { return sum(mask.to(kFloat64)).item(); }

TEST(SparseIFTLinear, SizesAreThePapers) {
  struct Row {
    double s;
    int64_t in, out, branches, factor, u_only, doped;
  };
  for (const Row& r : {Row{0.5, 16, 14, 2, 11, 8, 2},
                       {0.75, 24, 20, 4, 22, 10, 4},
                       {0.9, 37, 31, 10, 55, 11, 4}}) {
    SparseIFTLinear wide(layer("wide", r.s)), many(layer("parallel", r.s)),
        two(layer("factorized", r.s)), doped(layer("doped", r.s));
    EXPECT_EQ(wide.state_dict().find("weight").sizes(), (Shape{r.out, r.in}));
    EXPECT_EQ(many.core().sparse_weights().size(), static_cast<std::size_t>(r.branches));
    EXPECT_EQ(two.state_dict().find("U.weight").sizes(), (Shape{r.factor, 12}));
    EXPECT_EQ(doped.state_dict().find("U.weight").sizes(), (Shape{r.doped, 12}));
    SparseIFTLinearOptions o = layer("factorized", r.s);
    o.sparse_u_only = true;
    SparseIFTLinear half(o);
    EXPECT_EQ(half.state_dict().find("U.weight").sizes(), (Shape{r.u_only, 12}));
    EXPECT_FALSE(half.state_dict().contains("V.weight_mask"));
  }
  SparseIFTLinearOptions o = layer("wide", 0.75);
  o.widen_in = false;
  EXPECT_EQ(SparseIFTLinear(o).state_dict().find("weight").sizes(), (Shape{20, 12}));
  o = layer("doped", 0.1);
  o.in_features = o.out_features = 3;  // rank 0
  SparseIFTLinear tiny(o);
  EXPECT_FALSE(tiny.state_dict().contains("U.weight"));
  EXPECT_EQ(tiny(random({2, 3}, kFloat32)).sizes(), (Shape{2, 3}));
}

TEST(SparseIFTLinear, EachFormIsItsDefinition) {
  const Tensor x = random({7, 12});
  auto made = [](const SparseIFTLinearOptions& o) {
    auto m = Box<SparseIFTLinear>(new SparseIFTLinear(o));
    m->to(kFloat64);
    return m;
  };
  const auto bias = [](const Module& m) { return m.state_dict().find("bias"); };
  auto normed = [](const Tensor& y, const Module& m, const std::string& name) {
    const StateDict s = m.state_dict();
    const Tensor mu = mean(y, {0}), v = var(y, {0}, 0);
    return (y - mu) / sqrt(v + 1e-5) * s.find(name + ".weight") + s.find(name + ".bias");
  };
  auto o = layer("parallel", 0.6);  // round half to even: 2 branches
  o.norm = "batchnorm";
  auto m = made(o);
  ASSERT_EQ(m->core().sparse_weights().size(), 2u);
  Tensor want = bias(*m);
  for (const char* b : {"branches.0", "branches.1"})
    want = want + normed(linear(x, masked(*m, b)), *m, std::string(b) + ".norm");
  EXPECT_LT(max_difference((*m)(x), want), 1e-11);
  o = layer("factorized");
  o.norm = "batchnorm";
  m = made(o);
  want = linear(relu(normed(linear(x, masked(*m, "U")), *m, "norm")), masked(*m, "V"), bias(*m));
  EXPECT_LT(max_difference((*m)(x), want), 1e-11);
  o.norm = o.activation = "none";
  m = made(o);
  EXPECT_LT(max_difference((*m)(x), linear(linear(x, masked(*m, "U")), masked(*m, "V"), bias(*m))),
            1e-12);
  EXPECT_NEAR(m->core().folded_weight_norm().item(),
              sum(square(matmul(masked(*m, "V"), masked(*m, "U")))).item(), 1e-9);
  m = made(layer("doped", 0.75));
  want = linear(x, masked(*m, "sparse")) + linear(linear(x, masked(*m, "U")), masked(*m, "V")) +
         bias(*m);
  EXPECT_LT(max_difference((*m)(x), want), 1e-12);
}

TEST(SparseIFTLinear, MasksStartAsAsked) {
  for (const char* kind : {"exact", "topk", "dense", "random"}) {
    SparseIFTLinearOptions o = layer("doped", 0.7);
    o.in_features = o.out_features = 30;
    o.mask_init = kind;
    SparseIFTLinear m(o);
    const Tensor mask = m.state_dict().find("sparse.weight_mask"),
                 w = m.state_dict().find("sparse.weight").detach();
    const std::string name = kind;
    if (name == "random") {
      EXPECT_NEAR(active(mask), 270, 60);
    } else {
      EXPECT_EQ(active(mask), name == "dense" ? 900 : name == "topk" ? 900 - 630 : 270);
    }
    if (name == "topk")
      EXPECT_GE(amin(where(mask, abs(w), 9.0)).item(), amax(where(mask, 0.0, abs(w))).item());
  }
  SparseIFTLinearOptions o = layer("wide");
  o.density = 0.25;
  EXPECT_EQ(active(SparseIFTLinear(o).state_dict().find("weight_mask")), 56);
}

TEST(SparseIFTLinear, GradientsAreMaskedUnlessTheDenseOnesAreWanted) {
  SparseIFTLinear m(layer("wide"));
  const detail::SparseIFT::Weight held = m.core().sparse_weights()[0];
  const Tensor x = random({5, 16}, kFloat32), mask = *held.mask, w = *held.weight;
  const Tensor dense = matmul(ones({14, 5}), x);
  sum(m(x)).backward();
  EXPECT_LT(max_difference(w.grad(), where(mask, dense, 0.0)), 1e-5);
  m.zero_grad();
  m.core().want_dense_grad(true);
  sum(m(x)).backward();
  EXPECT_LT(max_difference(w.grad(), dense), 1e-5);
  const Tensor y = m(x);
  m.core().fold();
  EXPECT_EQ(max_difference(m(x), y), 0);
  EXPECT_EQ(amax(where(mask, 0.0, abs(w.detach()))).item(), 0);
}

TEST(SparseIFTLinear, AMaskOfZerosGivesTheBias) {
  SparseIFTLinearOptions o = layer("wide");
  o.density = 0;
  SparseIFTLinear m(o);
  const Tensor y = m(random({3, 16}, kFloat32));
  EXPECT_EQ(max_difference(y, m.core().bias().expand({3, 14})), 0);
}

TEST(SparseIFTLinear, NamesWhatDoesNotFit) {
  auto refused = [](auto change, const char* says) {
    SparseIFTLinearOptions o = layer("wide");
    change(o);
    EXPECT_ERROR(SparseIFTLinear{o}, OptionError, says);
  };
  refused([](auto& o) { o.sparsity = 1; }, "sparsity is 1");
  refused([](auto& o) { o.sparsity = 0; }, "sparsity is 0");
  refused([](auto& o) { o.transform = "thin"; }, "transform is \"thin\"");
  refused([](auto& o) { o.norm = "layer"; }, "norm is \"layer\"");
  refused([](auto& o) { o.activation = "gelu"; }, "activation is \"gelu\"");
  refused([](auto& o) { o.mask_init = "none"; }, "mask_init is \"none\"");
  refused([](auto& o) { o.density = 2; }, "density is 2");
  SparseIFTLinear m(layer("wide"));
  EXPECT_ERROR(m(zeros({2, 12})), ShapeError, "expected [*, 16] because in_features = 12");
  EXPECT_ERROR(m.core().folded_weight_norm(), OptionError, "not of wide");
  StateDict wrong = m.state_dict();
  wrong.set("weight_mask", zeros({14, 15}, kBool));
  EXPECT_ERROR(m.load_state_dict(wrong), StateError, "weight_mask");
}

}  // namespace
}  // namespace dropin
