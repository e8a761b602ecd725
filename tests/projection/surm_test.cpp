#include "dropin/projection/surm.h"

#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

SURMLinearOptions layer(const std::string& structure, int64_t n) {
  SURMLinearOptions o;
  o.structure = structure;
  o.in_features = o.out_features = n;
  return o;
}
void shake(Module& m) {
  no_grad guard;
  m.to(kFloat64);
  std::uint64_t seed = 30;
  for (auto& [name, p] : m.named_parameters()) p.add_(random(p.sizes(), kFloat64, ++seed));
}

// M entry by entry, as the page writes it.
Tensor by_definition(const SURMLinear& m) {
  const auto& o = m.options();
  const StateDict s = m.state_dict();
  const int64_t in = o.in_features, out = o.out_features;
  auto row = [&](const char* name) { return s.find(name).to_vector(); };
  auto filled = [&](auto entry) {
    Tensor t = zeros({out, in}, kFloat64);
    for (int64_t i = 0; i < out; ++i)
      for (int64_t j = 0; j < in; ++j) t.data<double>()[i * in + j] = entry(i, j);
    return t;
  };
  auto at = [](const std::vector<double>& v, int64_t i) { return v[static_cast<std::size_t>(i)]; };
  auto cyclic = [&](const std::vector<double>& c) {
    return filled([&](int64_t i, int64_t j) { return at(c, (i - j + in) % in); });
  };
  auto skew = [&](const std::vector<double>& h) {
    return filled([&](int64_t i, int64_t j) { return i >= j ? at(h, i - j) : -at(h, in + i - j); });
  };
  auto even = [&](const std::vector<double>& t) {
    return filled([&](int64_t i, int64_t j) { return at(t, std::abs(i - j)); });
  };
  if (o.structure == "ldr") {
    Tensor total = zeros({out, in}, kFloat64);
    for (int64_t k = 0; k < o.num_terms; ++k)
      total = total + matmul(cyclic(s.find("surm.G")[k].to_vector()),
                             skew(s.find("surm.H")[k].to_vector()));
    return total;
  }
  if (o.structure == "kronecker") {
    const Tensor a = s.find("surm.A"), b = s.find("surm.B");
    const int64_t a1 = a.size(0), a2 = a.size(1);
    return filled(
        [&](int64_t i, int64_t j) { return b[i / a1][j / a2].item() * a[i % a1][j % a2].item(); });
  }
  std::vector<double> product = row("surm.A");
  if (o.use_prod && o.structure == "toeplitz" && o.toeplitz_product == "matrix")
    return matmul(even(row("surm.B")), even(row("surm.A")));
  if (o.use_prod)
    for (std::size_t i = 0; i < product.size(); ++i) product[i] *= row("surm.B")[i];
  return o.structure == "circulant" ? cyclic(product) : even(product);
}

std::vector<SURMLinearOptions> structures() {
  std::vector<SURMLinearOptions> all;
  for (const int64_t n : {1, 2, 7, 8})
    for (const char* s : {"circulant", "toeplitz", "ldr", "kronecker"}) {
      SURMLinearOptions o = layer(s, n);
      o.alpha = 0.5;
      all.push_back(o);
      o.use_prod = false;
      o.toeplitz_product = "vector";
      o.num_terms = 3;
      all.push_back(o);
    }
  SURMLinearOptions o = layer("toeplitz", 5);
  o.toeplitz_product = "vector";
  all.push_back(o);
  o = layer("kronecker", 12);
  o.out_features = 10;
  all.push_back(o);
  o.kron_shape = {5, 3};
  o.trainable_alpha = true;
  o.bias = false;
  all.push_back(o);
  return all;
}

TEST(SURMLinear, IsTheFrozenLayerAndItsMatrix) {
  for (const SURMLinearOptions& o : structures()) {
    SCOPED_TRACE(options_str(o));
    SURMLinear m(o);
    const Tensor start = random({3, 2, o.in_features}, kFloat32);
    EXPECT_EQ(max_difference(m(start), linear(start, m.weight(), m.bias())), 0)
        << "M is 0 at the start";
    shake(m);
    const Tensor x = random({3, 2, o.in_features}), want = by_definition(m);
    EXPECT_LT(max_difference(m.dense(), want), 1e-12);
    const double s = o.trainable_alpha ? m.state_dict().find("scale").item() : o.alpha;
    const Tensor y = linear(x, m.weight() + want * s, m.bias());
    EXPECT_LT(max_difference(m(x), y), 1e-11);
    m.eval();
    const Tensor before = m.weight().clone();
    m.merge();
    EXPECT_LT(max_difference(m(x), y), 1e-11) << "merged";
    EXPECT_LT(max_difference((*m.clone()).call({{"x", x}}).find("y"), y), 1e-11) << "a clone";
    m.unmerge();
    EXPECT_LT(max_difference(m.weight(), before), 1e-12);
  }
}

TEST(SURMLinear, OnlyTheUpdateIsTrained) {
  SURMLinear m(layer("circulant", 8));
  EXPECT_EQ(m.num_trainable(), 16);
  EXPECT_EQ(SURMLinear(layer("toeplitz", 8)).num_trainable(), 16);
  EXPECT_FALSE(m.weight().requires_grad());
  sum(m(random({2, 8}, kFloat32))).backward();
  EXPECT_FALSE(m.weight().grad().defined());
  Linear plain({.in_features = 8, .out_features = 8});
  const Box<SURMLinear> taken = SURMLinear::from_linear(plain, layer("ldr", 3));
  const Tensor x = random({2, 8}, kFloat32);
  EXPECT_EQ(max_difference((*taken)(x), plain(x)), 0);
  EXPECT_FALSE(taken->weight().requires_grad());
}

TEST(SURMLinear, AfterASwapTheOldWeightIsFrozen) {
  struct Net : Module {
    Net() { proj = child<Linear>("proj", {.in_features = 6, .out_features = 6}); }
    std::string_view type() const override { return "Net"; }
    Child<Linear> proj;
  };
  for (const char* to : {"SURMLinear", "LoRALinear", "DoRALinear"}) {
    Net net;
    const Tensor weight = net.proj.as()->weight(), x = random({3, 6}, kFloat32), y = net.proj(x);
    const SwapReport r = swap(net, "Linear", to);
    EXPECT_EQ(r.instances[0].carried.size(), 2u);
    if (auto* directed = net.proj.as<DoRALinear>()) directed->reset_magnitude();
    EXPECT_LT(max_difference(net.proj(x), y), 1e-6) << to;
    sum(square(net.proj(x))).backward();
    EXPECT_FALSE(weight.grad().defined()) << to;
    bool learns = false;
    for (const auto& [name, p] : net.named_parameters()) learns = learns || p.grad().defined();
    EXPECT_TRUE(learns) << to;
  }
}

TEST(SURMLinear, KroneckersShapeIsNearTheRoots) {
  SURMLinearOptions o = layer("kronecker", 12);
  o.out_features = 20;  // 3 or 4 from the root of 12; 4 or 5 from that of 20
  EXPECT_EQ(SURMLinear(o).state_dict().find("surm.A").sizes(), (Shape{4, 3}));
}

TEST(SURMAdapter, AddsTheBiasAfterTheActivation) {
  SURMAdapterOptions o;
  o.features = 6;
  o.structure = "kronecker";
  o.activation = "relu";
  o.ln_before = o.ln_after = true;
  SURMAdapter m(o);
  shake(m);
  const StateDict s = m.state_dict();
  const Tensor x = random({4, 6});
  auto normed = [&](const std::string& name, const Tensor& t) {
    return layer_norm(t, {6}, s.find(name + ".weight"), s.find(name + ".bias"), 1e-5);
  };
  const Tensor want = normed(
      "norm_after", x + relu(linear(normed("norm_before", x), m.dense())) + s.find("surm.bias"));
  EXPECT_LT(max_difference(m(x), want), 1e-12);
  o.ln_before = o.ln_after = false;
  SURMAdapter fresh(o);
  EXPECT_EQ(max_difference(fresh(x.to(kFloat32)), x.to(kFloat32)), 0) << "at the start";
}

TEST(LoRALinear, StartsAsTheLayerAndMerges) {
  const LoRALinearOptions o{.in_features = 6, .out_features = 4, .rank = 2, .alpha = 3};
  LoRALinear low(o);
  DoRALinear directed(o);
  const Tensor x = random({3, 6}, kFloat32);
  EXPECT_EQ(max_difference(low(x), linear(x, low.weight(), low.bias())), 0);
  EXPECT_LT(max_difference(directed(x), linear(x, directed.weight(), directed.bias())), 1e-6);
  shake(low);
  shake(directed);
  auto p = [](const Module& m, const char* name) { return m.state_dict().find(name); };
  const Tensor y = x.to(kFloat64), delta = matmul(p(low, "lora_B"), p(low, "lora_A")) * 1.5;
  EXPECT_LT(max_difference(low(y), linear(y, low.weight() + delta, low.bias())), 1e-12);
  const Tensor w = directed.weight() + matmul(p(directed, "lora_B"), p(directed, "lora_A")) * 1.5;
  const Tensor want =
      linear(y, w / norm(w, {-1}, true) * p(directed, "magnitude").unsqueeze(1), directed.bias());
  EXPECT_LT(max_difference(directed(y), want), 1e-12);
  for (detail::FrozenProjection* m : {static_cast<detail::FrozenProjection*>(&low),
                                      static_cast<detail::FrozenProjection*>(&directed)}) {
    m->eval();
    const Tensor before = (*m)(y), weight = m->weight().clone();
    m->merge();
    EXPECT_LT(max_difference((*m)(y), before), 1e-12);
    m->unmerge();
    EXPECT_LT(max_difference(m->weight(), weight), 1e-12);
  }
}

TEST(SURM, NamesWhatDoesNotFit) {
  auto refused = [](auto change, const char* says) {
    SURMLinearOptions o = layer("circulant", 6);
    change(o);
    EXPECT_ERROR(SURMLinear{o}, OptionError, says);
  };
  refused([](auto& o) { o.out_features = 5; }, "expected equal sizes");
  refused([](auto& o) { o.structure = "dense"; }, "structure is \"dense\"");
  refused([](auto& o) { o.num_terms = 0; }, "num_terms is 0");
  refused([](auto& o) { o.toeplitz_product = "x"; }, "toeplitz_product is \"x\"");
  refused([](auto& o) { o.structure = "kronecker", o.kron_shape = {4, 2}; }, "kron_shape must be");
  refused([](auto& o) { o.structure = "kronecker", o.kron_shape = {2}; }, "kron_shape must be");
  refused([](auto& o) { o.dropout = 1; }, "dropout is 1");
  SURMAdapterOptions a;
  a.features = 4;
  a.activation = "swish";
  EXPECT_ERROR(SURMAdapter{a}, OptionError, "activation is \"swish\"");
  SURMLinear m(layer("circulant", 6));
  EXPECT_ERROR(m.merge(), StateError, "expected eval()");
  EXPECT_ERROR(m.unmerge(), StateError, "not merged");
  m.eval();
  m.merge();
  EXPECT_ERROR(m.merge(), StateError, "merged already");
  m.train();
  EXPECT_ERROR(m(zeros({2, 6})), StateError, "expected unmerge() before training");
}

}  // namespace
}  // namespace dropin
