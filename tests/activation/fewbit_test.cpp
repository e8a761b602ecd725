// Few-bit activations: tables, packing, exact forward, step-function backward, bytes kept.
#include "dropin/activation/fewbit.h"
#include "activation/tabled.h"
#include "dropin/projection/linear.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

// The standard functions, composed.
Tensor standard(const std::string& f, const Tensor& x) {
  if (f == "gelu") return gelu(x);
  if (f == "silu") return silu(x);
  if (f == "sigmoid") return sigmoid(x);
  if (f == "tanh") return tanh(x);
  if (f == "selu") return selu(x);
  if (f == "elu" || f == "celu") return elu(x);
  if (f == "softplus") return softplus(x);
  if (f == "logsigmoid") return logsigmoid(x);
  if (f == "mish") return x * tanh(softplus(x));
  if (f == "hardswish") return hardswish(x);
  if (f == "softsign") return softsign(x);
  return x - tanh(x);
}

TEST(FewBit, ForwardIsExactAndBackwardIsTheTable) {
  for (const char* name : kTabled)
    for (int bits = 1; bits <= 4; ++bits)
      for (const bool fold : {false, true})
        for (const DType dtype : {kFloat32, kFloat64})
          for (const int64_t n : {1, 8, 1001, 70'003}) {
            if (fold && !fewbit_even(name)) continue;
            const FewBitTable t = fewbit_table(name, bits, fold);
            Tensor x = (random({n}, dtype, 5) * 3.0).clone();
            auto set = [&](int64_t i, double v) { x.select(0, i).fill_(v); };
            if (n > 8) {
              set(0, t.borders[0]);  // in the tensor's precision, as the table is
              set(1, 0), set(2, 60), set(3, -60), set(4, NAN), set(5, INFINITY), set(6, -INFINITY);
            }
            x.requires_grad_();
            const Tensor borders = tensor(t.borders, dtype), levels = tensor(t.levels, dtype),
                         g = random({n}, dtype, 6);
            const Tensor y = fewbit_activation(
                x, {.function = name, .a = 1, .b = 20, .bits = bits, .fold = fold}, borders,
                levels);
            y.backward(g);
            const auto v = x.detach().to_vector(), b = borders.to_vector(), l = levels.to_vector(),
                       gv = g.to_vector(), gx = x.grad().to_vector();
            for (std::size_t i = 0; i < v.size(); ++i) {
              const double a = fold ? std::abs(v[i]) : v[i];
              std::size_t c = 0;
              while (c < b.size() && !(a <= b[c])) ++c;
              const double want =
                  dtype == kFloat32
                      ? static_cast<double>(static_cast<float>(l[c]) * static_cast<float>(gv[i]))
                      : l[c] * gv[i];
              ASSERT_EQ(gx[i], want)
                  << name << " " << bits << (fold ? " folded" : "") << " at x = " << v[i];
            }
            if (n > 8) {
              EXPECT_TRUE(std::isnan(y.detach().to_vector()[4]));
            }
            const Tensor finite = where(isfinite(x.detach()), x.detach(), 1.0),
                         f = fewbit_activation(
                             finite,
                             {.function = name, .a = 1, .b = 20, .bits = bits, .fold = fold},
                             borders, levels);
            EXPECT_LT(max_difference(f, standard(name, finite)), dtype == kFloat32 ? 8e-6 : 1e-13)
                << name;
          }
}

TEST(FewBit, PiecewiseLinearGradientsAreExact) {
  struct Row {
    const char *name, *options;
    std::function<double(double)> f, slope;
  };
  const Row rows[] = {
      {"FewBitReLU", "{}", [](double x) { return std::max(x, 0.0); },
       [](double x) { return x > 0; }},
      {"FewBitReLU6", "{}", [](double x) { return std::clamp(x, 0.0, 6.0); },
       [](double x) { return x > 0 && x < 6; }},
      {"FewBitLeakyReLU", R"({"negative_slope": 0.2})",
       [](double x) { return x < 0 ? 0.2 * x : x; }, [](double x) { return x >= 0 ? 1 : 0.2; }},
      {"FewBitHardtanh", R"({"min_val": -2, "max_val": 0.5})",
       [](double x) { return std::clamp(x, -2.0, 0.5); },
       [](double x) { return x > -2 && x < 0.5; }},
      {"FewBitHardsigmoid", "{}", [](double x) { return std::clamp(x + 3, 0.0, 6.0) / 6; },
       [](double x) { return x > -3 && x < 3 ? 1.0 / 6 : 0; }},
      {"FewBitHardshrink", R"({"lambda": 0.7})", [](double x) { return std::abs(x) > 0.7 ? x : 0; },
       [](double x) { return std::abs(x) > 0.7; }},
      {"FewBitSoftshrink", R"({"lambda": 1})",
       [](double x) { return x > 1    ? x - 1
                             : x < -1 ? x + 1
                                      : 0; },
       [](double x) { return std::abs(x) > 1; }},
      {"FewBitThreshold", R"({"threshold": 0.5, "value": -3})",
       [](double x) { return x > 0.5 ? x : -3; }, [](double x) { return x > 0.5; }}};
  std::vector<double> values = {-8, -3, -2, -1, -0.5, 0, 0.5, 1, 3, 6, 9, 0.25, -0.25};
  for (int i = 0; i < 50; ++i) values.push_back(-7 + 0.29 * i);
  for (const Row& r : rows) {
    Box<Module> m = make(r.name, Json::parse(r.options));
    m->to(kFloat64);
    EXPECT_TRUE(m->state_dict().size() == 0);
    Tensor x = tensor(values, kFloat64).requires_grad_();
    const Tensor y = m->call({{"x", x}}).get("y", r.name);
    sum(y).backward();
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(y.detach().to_vector()[i], r.f(values[i]), 1e-15)
          << r.name << " at " << values[i];
      EXPECT_EQ(x.grad().to_vector()[i], r.slope(values[i])) << r.name << " at " << values[i];
    }
    const Tensor odd = tensor({NAN, INFINITY, -INFINITY}).requires_grad_(),
                 z = make(r.name, Json::parse(r.options))->call({{"x", odd}}).get("y", r.name);
    EXPECT_TRUE(std::isnan(z.detach().to_vector()[0])) << r.name;
    sum(z).backward();
    for (double v : odd.grad().to_vector()) EXPECT_TRUE(std::isfinite(v)) << r.name;
  }
}

// Bytes that the tape of f holds: what is allocated while its result lives beyond what it was
// before and the result itself.
template <class F>
int64_t kept_bytes(F f) {
  const int64_t before = memory_stats().allocated;
  Tensor y = f();
  const int64_t after = memory_stats().allocated;
  const int64_t result = y.numel() * item_size(y.dtype());
  return after - before - result;
}

TEST(FewBit, KeepsBitsForBackward) {
  const int64_t n = 1 << 20;
  Tensor leaf = random({n}, kFloat32).requires_grad_();
  for (int bits = 1; bits <= 4; ++bits) {
    FewBitGELU f({.bits = bits});
    const int64_t kept = kept_bytes(
        [&] { return f(leaf * 1.0); });  // the product's result is free once its codes are made
    EXPECT_GE(kept, n * bits / 8);
    EXPECT_LE(kept, n * bits / 8 + 8192) << bits;
  }
  EXPECT_GE(kept_bytes([&] { return gelu(leaf * 1.0); }), n * 4)
      << "the standard one keeps its input";
  {
    no_grad guard;
    EXPECT_LE(kept_bytes([&] { return FewBitGELU({.bits = 4})(leaf); }), 8192)
        << "no codes without a gradient";
  }
  FewBitReLU6 r;
  const int64_t one = kept_bytes([&] { return r(leaf * 1.0); });
  EXPECT_LE(one, n / 8 + 8192);
}

TEST(FewBit, TapeOfADeepNetwork) {
  // 12 x (Linear, GELU) without the Linears' own inputs differing: what the activations add
  auto tape = [](bool few) {
    manual_seed(1);
    const int64_t width = 256, rows = 512;
    std::vector<Box<Linear>> layers;
    for (int i = 0; i < 12; ++i)
      layers.emplace_back(new Linear({.in_features = width, .out_features = width}));
    FewBitGELU f({.bits = 3});
    const Tensor x = random({rows, width}, kFloat32);
    return kept_bytes([&] {
      Tensor h = x;
      for (auto& l : layers) h = few ? f((*l)(h)) : gelu((*l)(h));
      return h;
    });
  };
  const int64_t element = 512 * 256;
  const int64_t standard = tape(false), few = tape(true);
  EXPECT_NEAR(static_cast<double>(standard - few) / static_cast<double>(12 * element), 4 - 3.0 / 8,
              0.05)
      << "bytes saved per element and activation";
}

TEST(FewBit, InPlaceStridesHalvesAndMisuse) {
  FewBitSiLU f;
  const Tensor a = random({3, 50}, kFloat32).requires_grad_();
  Tensor x = a * 2.0;
  const void* memory = x.data_ptr();
  const Tensor want = f(a * 2.0);
  const Tensor y = f.forward_(x);
  EXPECT_EQ(y.data_ptr(), memory);
  EXPECT_EQ(max_difference(y.detach(), want.detach()), 0);
  sum(y).backward();
  const Tensor g = a.grad();
  a.set_grad({});
  sum(want).backward();
  EXPECT_EQ(max_difference(g, a.grad()), 0);
  EXPECT_ERROR(f.forward_(a), AutogradError, "leaf");
  Tensor t = a.detach().transpose(0, 1).detach().requires_grad_();
  const Tensor z = f(t);
  z.backward(ones_like(z));
  EXPECT_EQ(t.grad().sizes(), (Shape{50, 3}));
  EXPECT_EQ(f(random({5}, kFloat32).to(kBFloat16)).dtype(), kBFloat16);
  EXPECT_EQ(f(zeros({0, 3}).requires_grad_()).sizes(), (Shape{0, 3}));
  EXPECT_ERROR(f(zeros({3}, kInt32)), DTypeError, "got int32");
  EXPECT_ERROR(grad({sum(f(a))}, {a}, {}, false, true), AutogradError,
               "cannot be differentiated again");
}

TEST(FewBit, OptionsAndStates) {
  EXPECT_ERROR(FewBitGELU({.bits = 0}), OptionError, "bits is 0");
  EXPECT_ERROR(FewBitGELU({.bits = 9}), OptionError, "bits is 9");
  EXPECT_ERROR(FewBitGELU({.bits = 5}), OptionError, "no built-in table of 5 bits");
  EXPECT_ERROR(FewBitGELU({.bits = 3, .fold = true}), OptionError, "fold needs an even derivative");
  EXPECT_ERROR(FewBitELU({.alpha = 0.5}), OptionError, "alpha is 0.5");
  EXPECT_ERROR(FewBitStepwise({1, 1}, {0, 1, 2}, "gelu"), OptionError, "not strictly increasing");
  EXPECT_ERROR(FewBitStepwise({1}, {0, 1, 2}, "gelu"), OptionError, "expected 2 for 3 levels");
  EXPECT_ERROR(FewBitStepwise({1}, {0, 1}, "gelo"), OptionError, "function is \"gelo\"");
  EXPECT_ERROR(FewBitStepwise(std::vector<double>(256), std::vector<double>(257), "gelu"),
               OptionError, "257 levels");
  FewBitTanh f({.bits = 2});
  StateDict s = f.state_dict();
  EXPECT_EQ(s.find("borders").sizes(), (Shape{3}));
  EXPECT_EQ(s.find("levels").sizes(), (Shape{4}));
  StateDict mine{{"borders", tensor({1, 2, 3})}, {"levels", tensor({4, 3, 2, 1})}};
  f.load_state_dict(mine);
  Tensor x = tensor({0.5, -1.5, 2.5, 3.5}).requires_grad_();
  sum(f(x)).backward();
  expect_values(x.grad(), {4, 3, 2, 1});
  EXPECT_ERROR(
      f.load_state_dict({{"borders", tensor({1, 3, 3})}, {"levels", tensor({4, 3, 2, 1})}}),
      StateError, "not strictly increasing");
  const FewBitTable wide = fewbit_table("gelu", 6);
  FewBitStepwise many(wide.borders, wide.levels, "gelu");
  Tensor v = (random({4001}, kFloat32) * 2.0).requires_grad_(),
         w = v.detach().clone().requires_grad_();
  sum(many(v)).backward();
  sum(gelu(w)).backward();
  EXPECT_LT(max_difference(v.grad(), w.grad()), 0.06) << "64 levels come near the derivative";
  FewBitSoftplus scaled({.beta = 2, .threshold = 20});
  Tensor u = tensor({0.4, -0.4, 30}).requires_grad_();
  sum(scaled(u)).backward();
  expect_values(scaled(u.detach()),
                {std::log1p(std::exp(0.8)) / 2, std::log1p(std::exp(-0.8)) / 2, 30}, 1e-6);
  expect_values(u.grad(), {0.75363, 0.24637, 0.99946}, 1e-4);
}

}  // namespace
}  // namespace dropin
