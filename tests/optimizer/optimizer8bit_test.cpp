// 8-bit optimizers: the rules by their formulas, signs, huge gradients, threads.
#include "dropin/optimizer/optimizer8bit.h"
#include "dropin/core/parallel.h"
#include "dropin/registry/registry.h"
#include "kernels/optim8/map.h"
#include "optimizer/codes8.h"
#include "optimizer/parameters8.h"
#include "support.h"

namespace dropin {
namespace {

using kernels::dynamic_map;
using testing::max_difference;
using testing::random;

// The rules as the definition writes them, in double, on states requantized by the plain search.
struct Reference {
  std::string rule;
  double lr, beta1, beta2, eps, decay;
  int64_t block;
  bool bytes;
  std::vector<double> p, s1, s2;
  int t = 0;
  void requantize(std::vector<double>& s, bool is_signed) const {
    const auto& map = dynamic_map(is_signed);
    for (std::size_t from = 0; from < s.size(); from += static_cast<std::size_t>(block)) {
      const std::size_t to = std::min(s.size(), from + static_cast<std::size_t>(block));
      float top = 0;
      for (std::size_t i = from; i < to; ++i)
        top = std::max(top, std::abs(static_cast<float>(s[i])));
      for (std::size_t i = from; i < to; ++i) {
        int c = nearest_by_distance(map, top > 0 ? static_cast<float>(s[i]) / top : 0);
        if (is_signed && c == 127 && s[i] < 0) c = 126;
        s[i] = map.value[c] * top;
      }
    }
  }
  void step(const std::vector<float>& gradient) {
    ++t;
    for (std::size_t i = 0; i < p.size(); ++i) {
      double g = gradient[i];
      if (!std::isfinite(g)) {
        s1[i] = s2[i] = 0;
        continue;
      }
      if (rule == "adam") {
        p[i] *= 1 - lr * decay;
        s1[i] = beta1 * s1[i] + (1 - beta1) * g;
        s2[i] = beta2 * s2[i] + (1 - beta2) * g * g;
        p[i] -= lr / (1 - std::pow(beta1, t)) * s1[i] /
                (std::sqrt(s2[i]) / std::sqrt(1 - std::pow(beta2, t)) + eps);
      } else if (rule == "sgd") {
        g += decay * p[i];
        s1[i] = t == 1 ? g : beta1 * s1[i] + g;
        p[i] -= lr * s1[i];
      } else if (rule == "lion") {
        p[i] *= 1 - lr * decay;
        const double c = beta1 * s1[i] + (1 - beta1) * g;
        p[i] -= lr * ((c > 0) - (c < 0));
        s1[i] = beta2 * s1[i] + (1 - beta2) * g;
      } else {
        g += decay * p[i];
        s1[i] = rule == "rmsprop" ? beta2 * s1[i] + (1 - beta2) * g * g : s1[i] + g * g;
        p[i] -= lr * g / (std::sqrt(s1[i]) + eps);
      }
    }
    if (!bytes) return;
    requantize(s1, true);
    if (rule == "adam") requantize(s2, false);
  }
};

TEST(Optimizers8bit, FollowTheirFormulas) {
  struct Case {
    const char *name, *rule, *options;
    double lr, b1, b2, eps, decay;
  };
  const Case cases[] = {
      {"Adam8bit", "adam",
       R"({"lr": 0.01, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.1})", 0.01, 0.8, 0.95,
       1e-6, 0.1},
      {"AdamW8bit", "adam", R"({"lr": 0.01})", 0.01, 0.9, 0.999, 1e-8, 1e-2},
      {"SGD8bit", "sgd", R"({"lr": 0.1, "momentum": 0.7, "weight_decay": 0.01})", 0.1, 0.7, 0, 0,
       0.01},
      {"Lion8bit", "lion", R"({"lr": 0.003, "weight_decay": 0.05})", 0.003, 0.9, 0.99, 0, 0.05},
      {"RMSprop8bit", "rmsprop", R"({"lr": 0.003, "alpha": 0.9, "weight_decay": 0.05})", 0.003, 0,
       0.9, 1e-8, 0.05},
      {"Adagrad8bit", "adagrad", R"({"lr": 0.01, "weight_decay": 0.02})", 0.01, 0, 0, 1e-10, 0.02}};
  for (const Case& c : cases)
    for (const int64_t n : {1, 5, 255, 4096, 5003})
      for (const int64_t block : {16, 256, 1000})
        for (const bool bytes : {true, false}) {
          Tensor p = parameter({n}, 3);
          Json o = Json::parse(c.options);
          o.set("block_size", block);
          o.set("min_8bit_size", bytes ? 0 : 1'000'000);
          Box<Optimizer> opt = make_optimizer(c.name, {p}, o);
          Reference r{c.rule,
                      c.lr,
                      c.b1,
                      c.b2,
                      c.eps,
                      c.decay,
                      block,
                      bytes,
                      p.to_vector(),
                      std::vector<double>(static_cast<std::size_t>(n)),
                      std::vector<double>(static_cast<std::size_t>(n))};
          for (int step = 0; step < 4; ++step) {
            Tensor g = random({n}, kFloat32, 10 + static_cast<std::uint64_t>(step)).clone();
            if (step == 2) {
              g.data<float>()[0] = NAN;
              g.data<float>()[n - 1] = INFINITY;
            }
            p.set_grad(g);
            opt->step();
            r.step(std::vector<float>(g.data<float>(), g.data<float>() + n));
          }
          // a state next to a midpoint may round the other way in float, and later moves its
          // parameter by a share of a cell
          const auto got = p.to_vector();
          int64_t off = 0;
          for (std::size_t i = 0; i < got.size(); ++i) {
            off += std::abs(got[i] - r.p[i]) > 2e-6;
            EXPECT_NEAR(got[i], r.p[i], 3e-3) << c.name << " at " << i;
          }
          EXPECT_LE(off, n / 1000)
              << c.name << " n " << n << " block " << block << (bytes ? " bytes" : " floats");
        }
}

TEST(Optimizers8bit, SmallNegativeStatesKeepTheirSign) {
  Tensor p = zeros({16}).requires_grad_();
  SGD8bit opt({p}, {.lr = 0.1, .min_8bit_size = 0});
  Tensor g = zeros({16});
  g.data<float>()[0] = 1;
  g.data<float>()[1] = -1e-9f;
  g.data<float>()[2] = 1e-9f;
  g.data<float>()[3] = -0.0f;
  p.set_grad(g);
  opt.step();
  const auto codes = opt.state_dict().find("state.0.state1").to_vector<int>();
  EXPECT_EQ(codes[0], 255);
  EXPECT_EQ(codes[1], 126);
  EXPECT_EQ(codes[2], 127);
  EXPECT_EQ(codes[3], 127);
}

TEST(Optimizers8bit, NonFiniteAndHugeGradientsStayOutOfTheState) {
  for (const char* name : {"Adam8bit", "SGD8bit", "Lion8bit", "RMSprop8bit", "Adagrad8bit"}) {
    Tensor p = parameter({5000});
    const Tensor before = p.detach().clone();
    Box<Optimizer> opt =
        make_optimizer(name, {p}, Json::parse(R"({"lr": 0.01, "weight_decay": 0.1})"));
    Tensor g = random({5000}, kFloat32, 4).clone();
    for (int64_t i = 0; i < 5000; i += 7) g.data<float>()[i] = i % 2 ? NAN : -INFINITY;
    g.data<float>()[1] = 1e30f;
    g.data<float>()[2] = 3e38f;
    p.set_grad(g);
    opt->step();
    p.set_grad(g);
    opt->step();
    for (int64_t i = 0; i < 5000; i += 7)
      EXPECT_EQ(p.data<float>()[i], before.data<float>()[i]) << name << " " << i;
    for (const auto& [n, t] : opt->state_dict())
      if (n.find("absmax") != std::string::npos) {
        for (double v : t.to_vector()) EXPECT_TRUE(std::isfinite(v)) << name << " " << n;
      }
  }
}

TEST(Optimizers8bit, ThreadsAndLayoutsDoNotMatter) {
  const int threads = get_num_threads();
  std::vector<Tensor> results;
  for (const int t : {1, 2, 3}) {
    set_num_threads(t);
    Tensor p = parameter({300'001});
    Adam8bit opt({p}, {.block_size = 100});
    for (std::uint64_t i = 0; i < 2; ++i) {
      p.set_grad(random(p.sizes(), kFloat32, i));
      opt.step();
    }
    results.push_back(p.detach());
  }
  set_num_threads(threads);
  EXPECT_EQ(max_difference(results[0], results[1]), 0);
  EXPECT_EQ(max_difference(results[0], results[2]), 0);
  Tensor plain = parameter({70, 80}), strided = plain.detach()
                                                    .clone()
                                                    .transpose(0, 1)
                                                    .contiguous()
                                                    .transpose(0, 1)
                                                    .detach()
                                                    .requires_grad_();
  ASSERT_FALSE(strided.is_contiguous());
  Adam8bit a({plain}), b({strided});
  for (const Tensor& p : {plain, strided}) p.set_grad(random({70, 80}, kFloat32, 9));
  a.step();
  b.step();
  EXPECT_EQ(max_difference(plain.detach(), strided.detach()), 0);
  Tensor none = zeros({0}).requires_grad_(), half = zeros({5000}, kBFloat16).requires_grad_();
  Adam8bit c({none, half}, {.lr = 1});
  none.set_grad(zeros({0}));
  half.set_grad(ones({5000}, kBFloat16));
  c.step();
  EXPECT_NEAR(half.select(0, 7).item(), -1, 1e-2);
}

TEST(Optimizers8bit, ASquareBeyondAllFloatsMovesNothing) {
  for (const int64_t least : {16, 4096}) {  // bytes, and floats
    Tensor p = ones({64}).requires_grad_();
    p.set_grad(full({64}, 1e25));
    Adam8bit o({p}, {.lr = 0.1, .min_8bit_size = least});
    o.step();
    testing::expect_values(p, std::vector<double>(64, 1.0));
    o.step();
    for (const double v : p.to_vector()) EXPECT_TRUE(std::isfinite(v));
  }
}

}  // namespace
}  // namespace dropin
