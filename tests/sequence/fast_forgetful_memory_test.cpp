#include "dropin/sequence/fast_forgetful_memory.h"

#include <cmath>
#include <complex>
#include <numbers>

#include "dropin/autograd/gradcheck.h"
#include "dropin/ops/traces.h"
#include "dropin/registry/registry.h"
#include "dropin/sequence/rnn.h"
#include "kernels/hd.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;
using Args = FastForgetfulMemoryArgs;

FastForgetfulMemoryOptions small() {
  return {.input_size = 5, .memory_size = 4, .context_size = 3, .output_size = 6};
}
Tensor flags(const std::vector<double>& values, const Shape& sizes) {
  return tensor(values, sizes).to(kBool);
}

TEST(Traces, TheKernelEqualsTheDefinition) {
  for (const int64_t m : {1, 4, 17, 40})
    for (const int64_t t : {0, 1, 6}) {
      Tensors in{random({2, t, m}, kFloat64, 1), random({m, 3, 2}, kFloat64, 2) * 0.5,
                 random({2, m, 3, 2}, kFloat64, 3)};
      TraceArgs args;
      if (t == 6) {
        args.reset = flags({0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0}, {2, 6});
        args.hold = flags({0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1}, {2, 6});
      }
      for (Tensor& x : in) x.requires_grad_();
      const Tensor got = traces(in[0], in[1], in[2], args),
                   want = plain::traces(in[0], in[1], in[2], args);
      EXPECT_LT(max_difference(got, want), 1e-13) << m << " " << t;
      if (t == 0) continue;
      const Tensor seed = random(got.sizes(), kFloat64, 4);
      const Tensors a = grad({got}, in, {seed}), b = grad({want}, in, {seed});
      for (std::size_t i = 0; i < 3; ++i)
        EXPECT_LT(max_difference(a[i], b[i]), 1e-12) << m << " gradient " << i;
    }
}

// 65536 tokens of one trace in float32, decays near 1 and near 0, beside the authors' way: gamma^n
// before a cumulative sum and gamma^-n after it.
TEST(Traces, AreExactOverLongSequencesWherePowersOverflow) {
  const int64_t t = 65536;
  const Tensor u = random({1, t, 1}, kFloat32, 5);
  for (const double rate : {-1e-8, -0.01, -20.0}) {
    const std::complex<double> gamma = std::exp(std::complex<double>(rate, 0.7));
    const Tensor g = tensor({gamma.real(), gamma.imag()}, {1, 1, 2});
    const std::vector<double> got = traces(u, g, zeros({1, 1, 1, 2})).to_vector();
    const std::complex<double> held(g[0][0][0].item(), g[0][0][1].item());
    std::complex<double> s = 0;
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < t; ++i) {
      s = held * s + static_cast<double>(u.data<float>()[i]);
      worst = std::max(worst, std::abs(s - std::complex(got[at(2 * i)], got[at(2 * i + 1)])));
      largest = std::max(largest, std::abs(s));
    }
    EXPECT_LT(worst, 2e-5 * largest) << rate;
    if (rate > -0.001) continue;
    const Tensor n = arange(0, t, 1, kFloat64);
    const Tensor powers = exp(n * -rate) * u.reshape({t}).to(kFloat64);
    EXPECT_FALSE(all(isfinite(exp(n * rate) * cumsum(powers, 0).to(kFloat32))).item<bool>());
  }
}

TEST(FastForgetfulMemory, StartsWithTheAuthorsRates) {
  const FastForgetfulMemory m(small());
  const double limit = std::log(1.7976931348623157e308) / 1024 - 0.01;
  EXPECT_NEAR(m.limit(), limit, 1e-12);
  const StateDict s = m.state_dict();
  const double high = std::log(0.01) / 1024, low = -limit + 0.01;
  testing::expect_values(s.find("ffa.a").reshape({4}),
                         {low, low + (high - low) / 3, low + (high - low) * 2 / 3, high}, 1e-6);
  testing::expect_values(
      s.find("ffa.b").reshape({3}),
      {2 * std::numbers::pi, 2 * std::numbers::pi / 512.5, 2 * std::numbers::pi / 1024}, 1e-5);
}

TEST(FastForgetfulMemory, StepsEqualOnePass) {
  no_grad guard;
  FastForgetfulMemory m(small());
  const Tensor x = random({2, 9, 5}, kFloat32);
  const FastForgetfulMemory::Result all = m.forward(x, Args{});
  Tensor state = m.initial_state(2);
  for (int64_t t = 0; t < 9; ++t) {
    const auto r = m.step(x.select(1, t), state);
    EXPECT_LT(max_difference(r.y, all.y.select(1, t)), 1e-5);
    const auto one = m.forward(x.narrow(1, t, 1), Args{.state = state});
    EXPECT_EQ(max_difference(one.y.squeeze(1), r.y), 0);
    state = r.state;
  }
  EXPECT_LT(max_difference(state, all.state), 1e-5);
}

TEST(FastForgetfulMemory, AnEpisodeIsAsIfItStoodAlone) {
  no_grad guard;
  FastForgetfulMemory m(small());
  const Tensor x = random({1, 10, 5}, kFloat32);
  const Tensor start = flags({1, 0, 0, 0, 1, 0, 0, 0, 0, 1}, {1, 10});
  const auto all = m.forward(x, Args{.state = random({1, 4, 3, 2}, kFloat32), .start = start});
  for (const auto& [from, count] : {std::pair<int64_t, int64_t>{0, 4}, {4, 5}, {9, 1}}) {
    const auto alone = m.forward(x.narrow(1, from, count), Args{});
    EXPECT_LT(max_difference(all.y.narrow(1, from, count), alone.y), 1e-6);
  }
  EXPECT_LT(max_difference(all.state, m.forward(x.narrow(1, 9, 1), Args{}).state), 1e-6);
}

TEST(FastForgetfulMemory, PaddingLeavesTheState) {
  no_grad guard;
  FastForgetfulMemory m(small());
  const Tensor x = random({1, 6, 5}, kFloat32);
  Tensor dirty = x.clone();
  dirty[0][2].fill_(std::nan(""));
  dirty[0][5].fill_(std::nan(""));
  const auto padded = m.forward(dirty, Args{.key_padding_mask = flags({0, 0, 1, 0, 0, 1}, {1, 6})});
  const auto packed = m.forward(concat({x.narrow(1, 0, 2), x.narrow(1, 3, 2)}, 1), Args{});
  EXPECT_LT(max_difference(padded.y.narrow(1, 3, 2), packed.y.narrow(1, 2, 2)), 1e-6);
  EXPECT_LT(max_difference(padded.state, packed.state), 1e-6);
  EXPECT_EQ(amax(abs(padded.y[0][2])).item(), 0);
}

TEST(FastForgetfulMemory, GradientsAreTheDerivativeWithinTheRange) {
  FastForgetfulMemoryOptions o = small();
  o.max_len = 100;
  o.max_period = 9;
  FastForgetfulMemory m(o);
  m.to(kFloat64);
  m.eval();
  Tensor x = random({2, 5, 5}), s = random({2, 4, 3, 2});
  auto named = m.named_parameters();
  Tensors in{x, s};
  for (auto& [name, p] : named) in.push_back(p);
  auto f = [&](const Tensors& v) -> Tensors {
    for (std::size_t i = 0; i < named.size(); ++i) named[i].second.set_data(v[i + 2].detach());
    const auto r = m.forward(v[0], Args{.state = v[1]});
    return {r.y, r.state};
  };
  Tensors leaves{x.requires_grad_(), s.requires_grad_()};
  for (auto& [name, p] : named) leaves.push_back(p);
  const auto r = m.forward(x, Args{.state = s});
  const Tensor wy = random(r.y.sizes(), kFloat64, 21), ws = random(r.state.sizes(), kFloat64, 22);
  const Tensors g = grad({r.y, r.state}, leaves, {wy, ws});
  no_grad guard;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const Tensor u = random(leaves[i].sizes(), kFloat64, 40 + i);
    auto value = [&](double h) {
      Tensors v;
      for (const Tensor& t : in) v.push_back(t.detach().clone());
      v[i] = v[i] + u * h;
      const Tensors out = f(v);
      for (std::size_t k = 0; k < named.size(); ++k)
        if (k + 2 == i) named[k].second.set_data(v[i] - u * h);
      return (sum(out[0] * wy) + sum(out[1] * ws)).item();
    };
    const double numeric = (value(1e-6) - value(-1e-6)) / 2e-6;
    EXPECT_NEAR(sum(g[i] * u).item(), numeric, 1e-5 * std::max(1.0, std::abs(numeric))) << i;
  }
}

TEST(FastForgetfulMemory, RatesAreProjectedInTrainingAndLeftOtherwise) {
  FastForgetfulMemory m(small());
  Tensor a;
  for (auto& [name, p] : m.named_parameters())
    if (name == "ffa.a") a = p;
  const Tensor outside = tensor({-5, -0.3, 0.2, -1e-9}, {1, 1, 4});
  auto set = [&] {
    no_grad guard;
    a.copy_(outside);
  };
  const Tensor x = random({1, 3, 5}, kFloat32);
  set();
  m.eval();
  const Tensor quiet = m(x);
  EXPECT_EQ(max_difference(a, outside), 0) << "eval writes nothing";
  m(x.narrow(1, 0, 1));
  m.train();
  m(x.narrow(1, 0, 1));
  EXPECT_EQ(max_difference(a, outside), 0) << "nor does one token";
  const Tensor y = m(x);
  EXPECT_LT(max_difference(y, quiet), 1e-6);
  testing::expect_values(a.reshape({4}), {-m.limit(), -0.3, -1e-8, -1e-8}, 1e-6);
  sum(square(y)).backward();
  EXPECT_GT(abs(a.grad().reshape({4})[2]).item(), 0) << "the gradient passes";
  FastForgetfulMemoryOptions o = small();
  o.clamp_single_step = true;
  FastForgetfulMemory each(o);
  each.load_state_dict(m.state_dict());
  for (auto& [name, p] : each.named_parameters())
    if (name == "ffa.a") a = p;
  set();
  each(x.narrow(1, 0, 1));
  EXPECT_NEAR(a.reshape({4})[0].item(), -each.limit(), 1e-6);
}

TEST(FastForgetfulMemory, WithoutLearningItsRatesRest) {
  FastForgetfulMemoryOptions o = small();
  o.learn_decay = o.learn_oscillate = o.decay = o.oscillate = false;
  FastForgetfulMemory m(o);
  sum(square(m(random({1, 4, 5}, kFloat32)))).backward();
  for (auto& [name, p] : m.named_parameters())
    EXPECT_EQ(p.grad().defined(), name.rfind("ffa", 0) != 0) << name;
  testing::expect_values(m.state_dict().find("ffa.b").reshape({3}), {1e-6, 1e-6, 1e-6}, 1e-12);
}

TEST(FastForgetfulMemory, TakesTimeFirstAndNoTokens) {
  no_grad guard;
  FastForgetfulMemory m(small());
  FastForgetfulMemoryOptions o = small();
  o.batch_first = false;
  FastForgetfulMemory other(o);
  other.load_state_dict(m.state_dict());
  const Tensor x = random({2, 7, 5}, kFloat32);
  EXPECT_EQ(max_difference(other(x.transpose(0, 1)).transpose(0, 1), m(x)), 0);
  const Tensor state = random({2, 4, 3, 2}, kFloat32);
  const auto none = m.forward(zeros({2, 0, 5}), Args{.state = state});
  EXPECT_EQ(none.y.sizes(), (Shape{2, 0, 6}));
  EXPECT_EQ(max_difference(none.state, state), 0);
}

TEST(FastForgetfulMemory, OneOutputHasNoVariance) {
  no_grad guard;
  FastForgetfulMemoryOptions o = small();
  o.output_size = 1;
  FastForgetfulMemory m(o);
  const Tensor x = random({1, 3, 5}, kFloat32), y = m(x);
  const Tensor pre = linear(x, m.state_dict().find("pre.weight"), m.state_dict().find("pre.bias"));
  EXPECT_LT(max_difference(y, pre.narrow(2, 4, 1) * (1 - sigmoid(pre.narrow(2, 9, 1)))), 1e-6);
}

TEST(FastForgetfulMemory, NanIsForgottenAtTheNextStart) {
  no_grad guard;
  FastForgetfulMemory m(small());
  Tensor x = random({1, 6, 5}, kFloat32);
  x[0][1].fill_(std::nan(""));
  const Tensor y = m.forward(x, Args{.start = flags({0, 0, 0, 1, 0, 0}, {1, 6})}).y;
  EXPECT_TRUE(all(isnan(y[0].narrow(0, 1, 2))).item<bool>());
  EXPECT_TRUE(all(isfinite(y[0].narrow(0, 3, 3))).item<bool>());
}

TEST(FastForgetfulMemory, TakesTheRecurrentLayersPlace) {
  struct Net : Module {
    Child<GRU> memory;
    Net() { memory = child<GRU>("memory", GRU::Options{.input_size = 6, .hidden_size = 16}); }
  };
  Net net;
  swap(net, "GRU", "FFM");
  EXPECT_EQ(net.memory(zeros({2, 3, 6})).sizes(), (Shape{2, 3, 16}));
}

TEST(FastForgetfulMemory, RefusesWhatDoesNotFitInWords) {
  FastForgetfulMemory m(small());
  const Tensor x = zeros({2, 4, 5});
  EXPECT_ERROR(m(zeros({2, 4, 6})), ShapeError, "expected [B, T, 5] because input_size = 5");
  EXPECT_ERROR(m.forward(x, Args{.state = zeros({2, 4, 3})}), ShapeError,
               "state is [2, 4, 3], expected [2, 4, 3, 2]");
  EXPECT_ERROR(m.forward(x, Args{.start = zeros({2, 4})}), DTypeError,
               "start is float32, expected bool");
  EXPECT_ERROR(m.forward(x, Args{.start = zeros({2, 5}, kBool)}), ShapeError, "start is [2, 5]");
  auto wrong = [](auto set) {
    FastForgetfulMemoryOptions o = small();
    set(o);
    FastForgetfulMemory made(o);
  };
  EXPECT_ERROR(wrong([](auto& o) { o.max_len = 0; }), OptionError, "max_len is 0");
  EXPECT_ERROR(wrong([](auto& o) { o.max_len = 100000; }), OptionError, "at most 70977");
  EXPECT_ERROR(wrong([](auto& o) { o.memory_size = 0; }), OptionError, "memory_size 0");
  EXPECT_ERROR(wrong([](auto& o) { o.max_period = 0; }), OptionError, "max_period 0");
}

}  // namespace
}  // namespace dropin
