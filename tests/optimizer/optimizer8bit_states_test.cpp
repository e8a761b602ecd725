// 8-bit optimizers: what is kept, saved, overridden and refused.
#include "dropin/embedding/stable_embedding.h"
#include "dropin/optimizer/optimizer8bit.h"
#include "dropin/registry/registry.h"
#include "kernels/optim8/map.h"
#include "optimizer/codes8.h"
#include "optimizer/parameters8.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

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

}  // namespace
}  // namespace dropin
