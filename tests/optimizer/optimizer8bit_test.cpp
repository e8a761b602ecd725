// 8-bit optimizers: the rules by their formulas, what is kept and refused.
#include "dropin/optimizer/optimizer8bit.h"
#include "dropin/core/parallel.h"
#include "dropin/embedding/stable_embedding.h"
#include "dropin/registry/registry.h"
#include "kernels/optim8/map.h"
#include "optimizer/codes8.h"
#include "support.h"

namespace dropin {
namespace {

using kernels::dynamic_map;
using testing::max_difference;
using testing::random;

Tensor parameter(const Shape& s, std::uint64_t seed = 1) {
  return random(s, kFloat32, seed).clone().requires_grad_();
}

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

TEST(Optimizers8bit, StateIsReallyOneByte) {
  const int64_t n = 100'003;
  Tensor p = parameter({n});
  Adam8bit opt({p});
  AdamW standard({p}, {});
  p.set_grad(random({n}, kFloat32, 2));
  const int64_t allocated = memory_stats().allocated;
  opt.step();
  const int64_t taken = memory_stats().allocated - allocated;
  EXPECT_EQ(opt.state_bytes(), 2 * n + 8 * ((n + 255) / 256) + 4);
  EXPECT_LE(taken, opt.state_bytes() + 5 * 4096) << "what the allocator handed out agrees";
  standard.step();
  EXPECT_EQ(standard.state_bytes(), 8 * n + 4);
  EXPECT_EQ(opt.state_dict().find("state.0.state1").dtype(), kUInt8);
}

TEST(Optimizers8bit, SmallMarkedAndOverriddenParametersKeepFloats) {
  StableEmbedding table({.num_embeddings = 100, .embedding_dim = 64});
  Tensor small = parameter({4095}), large = parameter({4096}), chosen = parameter({8192}),
         forced = parameter({100});
  Adam8bit opt({small, large, chosen, forced, table.weight()});
  opt.override(chosen, 32);
  opt.override(forced, 8);
  for (const Tensor& p : {small, large, chosen, forced, table.weight()})
    p.set_grad(random(p.sizes(), kFloat32, 3));
  opt.step();
  const StateDict s = opt.state_dict();
  for (auto [i, t] :
       {std::pair{0, kFloat32}, {1, kUInt8}, {2, kFloat32}, {3, kUInt8}, {4, kFloat32}}) {
    EXPECT_EQ(s.find("state." + std::to_string(i) + ".state1").dtype(), t) << i;
    EXPECT_EQ(s.find("state." + std::to_string(i) + ".state2").dtype(), t) << i;
    EXPECT_EQ(s.contains("state." + std::to_string(i) + ".absmax1"), t == kUInt8) << i;
  }
  EXPECT_ERROR(opt.override(large), OptionError, "has a state already");
  EXPECT_ERROR(opt.override(parameter({3})), OptionError, "does not hold the parameter");
  EXPECT_ERROR(Adam8bit({small}).override(small, 16), OptionError, "optim_bits is 16");
  // 32-bit state gives AdamW itself
  Tensor a = parameter({37}), b = parameter({37});
  AdamW8bit eight({a}, {.lr = 0.01});
  AdamW standard({b}, {.lr = 0.01});
  for (int i = 0; i < 5; ++i) {
    for (const Tensor& p : {a, b})
      p.set_grad(random({37}, kFloat32, 20 + static_cast<std::uint64_t>(i)));
    eight.step();
    standard.step();
  }
  EXPECT_LT(max_difference(a.detach(), b.detach()), 1e-6);
}

TEST(Optimizers8bit, StateDictContinuesTheRun) {
  for (const char* name : {"Adam8bit", "SGD8bit", "Lion8bit"}) {
    const Json o = Json::parse(R"({"lr": 0.01, "min_8bit_size": 100, "percentile_clipping": 90})");
    Tensor a = parameter({4, 101}), b = parameter({7}), c = a.detach().clone().requires_grad_(),
           d = b.detach().clone().requires_grad_();
    Box<Optimizer> one = make_optimizer(name, {a, b}, o), two = make_optimizer(name, {c, d}, o);
    auto step = [&](Optimizer& opt, const Tensors& ps, std::uint64_t seed) {
      for (const Tensor& p : ps) p.set_grad(random(p.sizes(), kFloat32, ++seed));
      opt.step();
    };
    for (std::uint64_t i = 0; i < 3; ++i) step(*one, {a, b}, 10 * i);
    two->load_state_dict(one->state_dict());
    {
      no_grad guard;
      c.copy_(a);
      d.copy_(b);
    }
    for (std::uint64_t i = 3; i < 6; ++i) step(*one, {a, b}, 10 * i), step(*two, {c, d}, 10 * i);
    EXPECT_EQ(max_difference(a.detach(), c.detach()), 0) << name;
    EXPECT_EQ(max_difference(b.detach(), d.detach()), 0) << name;
  }
  Tensor p = parameter({5000});
  Adam8bit opt({p});
  p.set_grad(random({5000}, kFloat32, 1));
  opt.step();
  Adam8bit other({p}, {.block_size = 512});
  StateDict bare;  // without the options that came with it
  for (const auto& [n, t] : opt.state_dict())
    if (n.rfind("state.", 0) == 0) bare.set(n, t);
  EXPECT_ERROR(other.load_state_dict(bare), StateError,
               "block_size 256, this optimizer has block_size 512");
  other.load_state_dict(opt.state_dict());
  EXPECT_EQ(other.param_groups()[0].options.find("block_size")->as_int(), 256);
  Tensor q = parameter({5001});
  Adam8bit longer({q});
  EXPECT_ERROR(longer.load_state_dict(opt.state_dict()), StateError,
               "(5000 values), expected [5001] (5001 values)");
  StateDict cut = opt.state_dict();
  cut.set("state.0.absmax1", zeros({7}));
  EXPECT_ERROR(Adam8bit({p}).load_state_dict(cut), StateError, "absmax1 is [7], expected [20]");
}

TEST(Optimizers8bit, PercentileClippingScalesLargeGradientsDown) {
  // five steps of norm 1, then one of norm 10: with percentile 50 of (1, 1, ...) it counts as 1
  Tensor p = zeros({4}).requires_grad_();
  SGD8bit opt({p}, {.lr = 1, .momentum = 1e-12, .percentile_clipping = 50});
  const Tensor g = tensor({1, 0, 0, 0});
  for (int i = 0; i < 5; ++i) {
    p.set_grad(g.clone());
    opt.step();
  }
  EXPECT_NEAR(p.data<float>()[0], -5, 1e-6);
  p.set_grad(g * 10.0);
  opt.step();
  EXPECT_NEAR(p.data<float>()[0], -6, 1e-5);
  EXPECT_EQ(opt.state_dict().find("state.0.gnorm_vec").numel(), 100);
  p.set_grad(full({4}, NAN));
  opt.step();
  EXPECT_NEAR(p.data<float>()[0], -6, 1e-5) << "a gradient of NaN changes nothing";
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

TEST(Optimizers8bit, RefuseBadOptions) {
  Tensor p = parameter({3});
  EXPECT_ERROR(make_optimizer("SGD8bit", {p}), OptionError, "SGD8bit: lr is required");
  EXPECT_ERROR(SGD8bit({p}, {.lr = 0.1, .momentum = 0}), OptionError, "momentum is 0");
  EXPECT_ERROR(Adam8bit({p}, {.lr = -1}), OptionError, "Adam8bit: lr is -1");
  EXPECT_ERROR(Adam8bit({p}, {.betas = {0.9, 1}}), OptionError, "betas: 1");
  EXPECT_ERROR(Adam8bit({p}, {.betas = {0.9}}), OptionError, "betas has 1 values");
  EXPECT_ERROR(Adam8bit({p}, {.eps = -1e-8}), OptionError, "eps is");
  EXPECT_ERROR(Lion8bit({p}, {.weight_decay = -1}), OptionError, "weight_decay is -1");
  EXPECT_ERROR(AdamW8bit({p}, {.block_size = 8}), OptionError, "block_size is 8");
  EXPECT_ERROR(AdamW8bit({p}, {.percentile_clipping = 0}), OptionError, "percentile_clipping is 0");
  EXPECT_ERROR(AdamW8bit({p}, {.percentile_clipping = 101}), OptionError,
               "percentile_clipping is 101");
  EXPECT_ERROR(RMSprop8bit({p}, {.alpha = 1}), OptionError, "alpha is 1");
  EXPECT_ERROR(Adam8bit({zeros({3}, kInt64)}), DTypeError, "parameter 0 is int64");
  EXPECT_ERROR(make_optimizer("Adam8bit", {p}, Json::parse(R"({"amsgrad": true})")), OptionError,
               "unknown option \"amsgrad\"");
}

TEST(StableEmbedding, NormalisesRowsAndSparesThePadding) {
  StableEmbedding e({.num_embeddings = 7, .embedding_dim = 6, .padding_idx = 2});
  EXPECT_EQ(max_difference(e.weight().detach()[2], zeros({6})), 0);
  const Tensor ids = tensor({0, 2, 6, 2}, {2, 2}, kInt32);
  const Tensor y = e(ids);
  EXPECT_EQ(y.sizes(), (Shape{2, 2, 6}));
  EXPECT_NEAR(mean(y.detach()[0][0]).item(), 0, 1e-6);
  sum(y * random({2, 2, 6}, kFloat32)).backward();
  EXPECT_EQ(max_difference(e.weight().grad()[2], zeros({6})), 0);
  EXPECT_GT(sum(abs(e.weight().grad()[6])).item(), 0);
  EXPECT_ERROR(e(zeros({2})), DTypeError, "ids are float32");
  EXPECT_ERROR(StableEmbedding({.num_embeddings = 3, .embedding_dim = 2, .padding_idx = 3}),
               OptionError, "padding_idx 3");
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
