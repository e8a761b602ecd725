#include "dropin/sequence/dcmh_attention.h"

#include "dropin/registry/registry.h"
#include "dropin/sequence/multihead_attention.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

void shake(Module& m, double by) {
  no_grad guard;
  m.to(kFloat64);
  std::uint64_t seed = 20;
  for (auto& [name, p] : m.named_parameters()) p.add_(random(p.sizes(), kFloat64, ++seed), by);
}

// M_c(t) of every token, [B, L, H, H], as the page writes it.
Tensor matrices(const DCMHAttention& m, const Tensor& x, int64_t c) {
  const auto& o = m.options();
  const StateDict s = m.state_dict();
  const int64_t h = o.num_heads, r = o.rank;
  const Tensor hidden =
      gelu(einsum("bld,dk->blk", {x, s.find("dyn_w_proj.dw1").select(1, 0).select(1, c)}));
  const Tensor w = einsum("blk,krh->blrh", {hidden, s.find("dyn_w_proj.qkw")[0][c]});
  Tensor w1 = w.narrow(2, 0, r);
  w1 = w1 / sqrt(mean(square(w1), {-1}, true) + 1e-6);
  const Tensor g =
      tanh(einsum("bld,dh->blh", {x, s.find("dyn_w_proj.dd").select(1, 0).narrow(1, c * h, h)}));
  return einsum("blrm,blrn->blmn", {w1, w.narrow(2, r, r)}) + g.unsqueeze(-1) * eye(h, h, kFloat64);
}

Tensor by_definition(const DCMHAttention& m, const Tensor& x) {
  const auto& o = m.options();
  const StateDict s = m.state_dict();
  const int64_t h = o.num_heads, l = x.size(1);
  auto heads = [&](const std::string& p) {
    return split_heads(linear(x, s.find(p + ".weight"), s.find(p + ".bias")), h);
  };
  auto compose = [&](const Tensor& a, int64_t c, const char* fixed) {
    Tensor y = a;
    if (o.static_mixing)
      y = y + einsum("bmts,mn->bnts", {a, s.find(std::string("dyn_w_proj.") + fixed)[0]});
    if (o.query_wise) y = y + einsum("bmts,btmn->bnts", {a, matrices(m, x, c)});
    if (o.key_wise) y = y + einsum("bmts,bsmn->bnts", {a, matrices(m, x, c + 1)});
    return y;
  };
  const Tensor scores = matmul(heads("q_proj"), heads("k_proj").mT()) /
                        std::sqrt(static_cast<double>(o.embed_dim / h));
  const Tensor i = arange(l).unsqueeze(1), j = arange(l).unsqueeze(0);
  Tensor forbidden = zeros({l, l}, kBool);
  if (o.causal) forbidden = logical_or(forbidden, j > i);
  if (o.window_size) forbidden = logical_or(forbidden, abs(i - j) > o.window_size);
  const Tensor p = softmax(masked_fill(compose(scores, 0, "pre_proj.w"), forbidden, -INFINITY), -1);
  return linear(merge_heads(matmul(compose(p, 2, "post_proj.w"), heads("v_proj"))),
                s.find("out_proj.weight"), s.find("out_proj.bias"));
}

TEST(DCMHAttention, IsThePairwiseDefinition) {
  no_grad guard;
  for (const DCMHAttentionOptions& o :
       {DCMHAttentionOptions{.embed_dim = 12, .num_heads = 3},
        {.embed_dim = 12,
        .num_heads = 2,
        .rank = 3,
        .dyn_hidden = 5,
        .causal = false,
        .static_mixing = true,
        .bias = true},
        {.embed_dim = 12, .num_heads = 4, .window_size = 2, .query_wise = false},
        {.embed_dim = 10, .num_heads = 5, .causal = false, .window_size = 3, .key_wise = false},
        {.embed_dim = 6, .num_heads = 1}}) {
    DCMHAttention m(o);
    shake(m, 0.3);
    const Tensor x = random({2, 9, o.embed_dim});
    EXPECT_LT(max_difference(m(x), by_definition(m, x)), 1e-10) << options_str(o);
    EXPECT_LT(max_difference(m(x.narrow(1, 0, 1)), by_definition(m, x.narrow(1, 0, 1))), 1e-11);
  }
}

// The tiled kernel in float32 against the composed definition in float64, all gradients.
TEST(DCMHAttention, TilesAreTheDefinition) {
  for (const DCMHAttentionOptions& o :
       {DCMHAttentionOptions{.embed_dim = 24, .num_heads = 2},
        {.embed_dim = 24,
        .num_heads = 3,
        .rank = 3,
        .causal = false,
        .static_mixing = true,
        .bias = true},
        {.embed_dim = 24, .num_heads = 4, .rank = 1, .window_size = 70, .query_wise = false},
        {.embed_dim = 20, .num_heads = 5, .rank = 5, .causal = false, .key_wise = false},
        {.embed_dim = 16, .num_heads = 2, .window_size = 5, .static_mixing = true}})
    for (const int64_t length : {1, 11, 64, 150}) {
      SCOPED_TRACE(options_str(o) + " of " + std::to_string(length));
      DCMHAttention wide(o), narrow(o);
      shake(wide, 0.1);
      narrow.load_state_dict(wide.state_dict());
      Tensor pad = zeros({2, length}, kBool);
      if (length > 11) pad[1].narrow(0, 20, 40).fill_(1);
      Tensor x = random({2, length, o.embed_dim}, kFloat32).requires_grad_(),
             x64 = x.detach().to(kFloat64).requires_grad_();
      const Tensor y = narrow(x, {.key_padding_mask = pad}),
                   want = wide(x64, {.key_padding_mask = pad}), g = random(y.sizes(), kFloat32, 3);
      EXPECT_LT(max_difference(y, want), 2e-5);
      y.backward(g);
      want.backward(g.to(kFloat64));
      auto same = [](const Tensor& a, const Tensor& b, const std::string& name) {
        EXPECT_LT(max_difference(a, b), 2e-4 * (1 + amax(abs(b)).item())) << name;
      };
      same(x.grad(), x64.grad(), "x");
      auto all = wide.named_parameters(), mine = narrow.named_parameters();
      for (std::size_t i = 0; i < all.size(); ++i)
        if (all[i].second.grad().defined())
          same(mine[i].second.grad(), all[i].second.grad(), all[i].first);
    }
}

TEST(DCMHAttention, WithoutItsMatricesIsMultiheadAttention) {
  for (const bool causal : {false, true}) {
    DCMHAttention m({.embed_dim = 8, .num_heads = 2, .causal = causal, .bias = true});
    MultiheadAttention plain({.embed_dim = 8, .num_heads = 2, .causal = causal});
    for (auto& [name, p] : m.named_parameters()) {
      no_grad guard;
      if (name == "dyn_w_proj.dd") p.zero_();
      if (name == "dyn_w_proj.qkw") p.narrow(3, 2, 2).zero_();
    }
    StateDict kept;
    for (const auto& [name, t] : m.state_dict())
      if (name.find("dyn_w") == std::string::npos) kept.set(name, t);
    plain.load_state_dict(kept);
    const Tensor x = random({2, 7, 8}, kFloat32);
    EXPECT_LT(max_difference(m(x), plain(x)), 1e-6);
  }
}

TEST(DCMHAttention, UnusedBranchesHaveZeroGradients) {
  DCMHAttention m({.embed_dim = 8, .num_heads = 2, .key_wise = false});
  shake(m, 0.1);
  sum(square(m(random({1, 5, 8})))).backward();
  for (auto& [name, p] : m.named_parameters())
    if (name == "dyn_w_proj.qkw") {
      EXPECT_EQ(amax(abs(p.grad()[0][1])).item() + amax(abs(p.grad()[0][3])).item(), 0);
      EXPECT_GT(amax(abs(p.grad()[0][0])).item(), 0);
    }
}

TEST(DCMHAttention, ANaNKeyReachesOnlyThoseThatSeeIt) {
  DCMHAttention m({.embed_dim = 8, .num_heads = 2, .window_size = 2});
  Tensor x = random({1, 9, 8}, kFloat32);
  x[0][4].fill_(std::nan(""));
  const Tensor y = m(x);
  for (int64_t t = 0; t < 9; ++t)
    EXPECT_EQ(all(isfinite(y[0][t])).item<bool>(), t < 4 || t > 6) << t;
}

TEST(DCMHAttention, FullyMaskedRowsGiveTheBias) {
  DCMHAttention m({.embed_dim = 8, .num_heads = 2, .bias = true});
  for (auto& [name, p] : m.named_parameters()) {
    no_grad guard;
    if (name == "out_proj.bias") p.fill_(0.25);
  }
  Tensor pad = zeros({1, 4}, kBool);
  pad.narrow(1, 0, 2).fill_(1);
  const Tensor y = m(random({1, 4, 8}, kFloat32), {.key_padding_mask = pad});
  EXPECT_EQ(max_difference(y[0].narrow(0, 0, 2), full({2, 8}, 0.25)), 0);
}

TEST(DCMHAttention, OfficialNamesLoadAndTheAliasIsKnown) {
  EXPECT_EQ(registry().find("DynamicallyComposableAttention").name, "DCMHAttention");
  DCMHAttention m({.embed_dim = 8, .num_heads = 2});
  StateDict theirs = m.state_dict();
  for (const char* ours : {"q_proj.weight", "k_proj.weight", "v_proj.weight"}) theirs.take(ours);
  theirs.set("wqkv.weight", random({24, 8}, kFloat32));
  theirs.set("wo.weight", theirs.take("out_proj.weight"));
  m.load_state_dict(theirs);
  EXPECT_EQ(max_difference(m.state_dict().find("k_proj.weight"),
                           theirs.find("wqkv.weight").narrow(0, 8, 8)),
            0);
}

TEST(DCMHAttention, NamesWhatDoesNotFit) {
  using M = DCMHAttention;
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 3}), OptionError, "not divisible");
  EXPECT_ERROR(M({.embed_dim = 6, .num_heads = 2, .rope_base = 10000}), OptionError, "is odd");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .rank = 0}), OptionError, "rank is 0");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .dyn_hidden = -1}), OptionError,
               "dyn_hidden is -1");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .window_size = -1}), OptionError,
               "window_size is -1");
}

}  // namespace
}  // namespace dropin
