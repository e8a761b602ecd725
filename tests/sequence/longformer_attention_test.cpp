#include "dropin/sequence/longformer_attention.h"

#include "dropin/sequence/multihead_attention.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

Tensor mask_of(int64_t batch, int64_t length, const std::vector<std::pair<int, int>>& set) {
  Tensor m = zeros({batch, length}, kBool);
  for (const auto& [b, t] : set) m.data<bool>()[b * length + t] = true;
  return m;
}
void give(Module& to, const Module& from) { to.load_state_dict(from.state_dict(), false); }

TEST(LongformerAttention, EqualsFullAttentionWhenTheWindowCoversTheSequence) {
  LongformerAttention near(
      {.embed_dim = 32, .num_heads = 4, .window = 149, .global_attention = false});
  MultiheadAttention full({.embed_dim = 32, .num_heads = 4});
  give(full, near);
  const Tensor x = random({2, 150, 32}, kFloat32),
               pad = mask_of(2, 150, {{0, 3}, {0, 149}, {1, 0}});
  EXPECT_LT(max_difference(near(x), full(x)), 1e-6);
  const Tensor a = near(x, {.key_padding_mask = pad}), b = full(x, {.key_padding_mask = pad});
  EXPECT_LT(max_difference(a[1].narrow(0, 1, 149), b[1].narrow(0, 1, 149)), 1e-6);
}

TEST(LongformerAttention,
     TheReceptiveFieldIsExact) {  // n layers reach n W d, in steps of d; a global token makes
                                  // everything reachable in two
  const int64_t length = 64, w = 3, at = 40;
  for (const int64_t d : {1, 2}) {
    std::vector<Box<LongformerAttention>> layers;
    for (int i = 0; i < 2; ++i)
      layers.emplace_back(
          new LongformerAttention({.embed_dim = 8, .num_heads = 2, .window = w, .dilation = d}));
    auto reach = [&](const SequenceArgs& args) {
      Tensor x = random({1, length, 8}, kFloat64).requires_grad_();
      Tensor y = x;
      for (auto& l : layers) {
        l->to(kFloat64);
        y = (*l)(y, args);
      }
      sum(y.select(1, at)).backward();
      std::vector<bool> seen;
      for (int64_t j = 0; j < length; ++j)
        seen.push_back(amax(abs(x.grad().select(1, j))).item() > 0);
      return seen;
    };
    const std::vector<bool> local = reach({});
    for (int64_t j = 0; j < length; ++j)
      EXPECT_EQ(local[static_cast<std::size_t>(j)],
                std::abs(j - at) <= 2 * w * d && (j - at) % d == 0)
          << "d " << d << ", token " << j;
    const std::vector<bool> global = reach({.global_attention_mask = mask_of(1, length, {{0, 5}})});
    for (int64_t j = 0; j < length; ++j) EXPECT_TRUE(global[static_cast<std::size_t>(j)]) << j;
  }
}

// The definition, token by token, in float64.
Tensor by_definition(LongformerAttention& m, const Tensor& x, const Tensor& pad,
                     const Tensor& global) {
  const auto& o = m.options();
  const StateDict w = m.state_dict();
  const int64_t b = x.size(0), l = x.size(1), h = o.num_heads, dh = o.embed_dim / h;
  auto project = [&](const std::string& name) {
    return split_heads(linear(x, w.find(name + ".weight"), w.find(name + ".bias")), h);
  };
  const Tensor q = project("q_proj"), k = project("k_proj"), v = project("v_proj");
  const Tensor qg = project("q_proj_global"), kg = project("k_proj_global"),
               vg = project("v_proj_global");
  Tensor y = zeros({b, h, l, dh}, kFloat64);
  const bool *hidden = pad.data<bool>(), *wide = global.data<bool>();
  for (int64_t i = 0; i < b; ++i)
    for (int64_t t = 0; t < l; ++t) {
      if (hidden[i * l + t]) continue;
      const bool all = wide[i * l + t];
      for (int64_t head = 0; head < h; ++head) {
        const int64_t d = o.dilation.values.size() > 1
                              ? o.dilation.values[static_cast<std::size_t>(head)]
                              : o.dilation.values[0];
        Tensor total = zeros({1}, kFloat64), sum_v = zeros({dh}, kFloat64);
        for (int64_t j = 0; j < l; ++j) {
          const int64_t off = j - t, right = o.causal             ? 0
                                             : o.window_right < 0 ? o.window
                                                                  : o.window_right;
          bool seen =
              all || wide[i * l + j] || (off % d == 0 && off >= -o.window * d && off <= right * d);
          if (hidden[i * l + j] || (o.causal && j > t) || !seen) continue;
          const Tensor& kk = all ? kg : k;
          const Tensor e = exp(sum((all ? qg : q)[i][head][t] * kk[i][head][j]) /
                               std::sqrt(static_cast<double>(dh)));
          total = total + e;
          sum_v = sum_v + e * (all ? vg : v)[i][head][j];
        }
        if (total.item() > 0) y[i][head][t].copy_(sum_v / total);
      }
    }
  return linear(merge_heads(y), w.find("out_proj.weight"), w.find("out_proj.bias"));
}

TEST(LongformerAttention, EqualsTheDefinitionWithGlobalTokensAndPadding) {
  no_grad guard;
  const LongformerAttentionOptions all[] = {
      {.embed_dim = 8, .num_heads = 2, .window = 2},
      {.embed_dim = 8, .num_heads = 2, .window = 3, .window_right = 1, .dilation = {1, 3}},
      {.embed_dim = 8, .num_heads = 2, .window = 2, .dilation = 2, .causal = true}};
  for (const auto& o : all) {
    LongformerAttention m(o);
    m.to(kFloat64);
    std::uint64_t seed = 20;
    for (auto& [name, w] : m.named_parameters())
      Tensor(w).copy_(random(w.sizes(), kFloat64, ++seed) * 0.4);
    const Tensor x = random({3, 17, 8}), pad = mask_of(3, 17, {{0, 16}, {0, 2}, {1, 0}, {1, 5}}),
                 global = mask_of(3, 17, {{0, 0}, {0, 9}, {0, 2}, {1, 16}});
    EXPECT_LT(max_difference(m(x, {.key_padding_mask = pad, .global_attention_mask = global}),
                             by_definition(m, x, pad, global)),
              1e-12);
    m.to(kFloat32);
    EXPECT_LT(
        max_difference(m(x.to(kFloat32), {.key_padding_mask = pad, .global_attention_mask = global})
                           .to(kFloat64),
                       by_definition(m, x.to(kFloat32), pad, global).to(kFloat64)),
        1e-5);
  }
}

TEST(LongformerAttention, PaddedRowsGiveTheOutputBias) {
  LongformerAttention m({.embed_dim = 8, .num_heads = 2, .window = 2});
  Tensor(m.state_dict().find("out_proj.bias")).uniform_(1, 2);
  Tensor x = random({2, 6, 8}, kFloat32).clone();
  x[1].fill_(std::nan(""));
  const Tensor pad = mask_of(2, 6, {{1, 0}, {1, 1}, {1, 2}, {1, 3}, {1, 4}, {1, 5}}),
               y = m(x, {.key_padding_mask = pad});
  EXPECT_EQ(max_difference(y[1], m.state_dict().find("out_proj.bias").expand({6, 8})), 0);
  for (const double v : y[0].to_vector()) EXPECT_TRUE(std::isfinite(v));
}

TEST(LongformerAttention, GlobalProjectionsStartAsCopiesAndGetZeroGradientWithoutGlobalTokens) {
  LongformerAttention m({.embed_dim = 8, .num_heads = 2, .window = 2});
  const StateDict s = m.state_dict();
  for (const char* which : {"q_proj", "k_proj", "v_proj"})
    EXPECT_EQ(max_difference(s.find(std::string(which) + ".weight"),
                             s.find(std::string(which) + "_global.weight")),
              0)
        << which;
}

TEST(LongformerAttention, StepsWithGlobalTokensEqualForward) {
  LongformerAttention m(
      {.embed_dim = 8, .num_heads = 2, .window = 2, .dilation = {1, 2}, .causal = true});
  std::uint64_t seed = 3;
  no_grad guard;
  m.to(kFloat64).eval();
  for (auto& [name, w] : m.named_parameters())
    Tensor(w).copy_(random(w.sizes(), kFloat64, ++seed) * 0.5);
  const Tensor x = random({2, 20, 8}), global = mask_of(2, 20, {{0, 0}, {0, 7}, {1, 13}}),
               y = m(x, {.global_attention_mask = global});
  Box<SequenceState> s = m.init_state(2, 20, {.global_tokens = true});
  EXPECT_LT(max_difference(
                m.step(x.narrow(1, 0, 9), *s, {.global_attention_mask = global.narrow(1, 0, 9)}),
                y.narrow(1, 0, 9)),
            1e-12);
  for (int64_t t = 9; t < 20; ++t)
    EXPECT_LT(max_difference(
                  m.step(x.narrow(1, t, 1), *s, {.global_attention_mask = global.narrow(1, t, 1)}),
                  y.narrow(1, t, 1)),
              1e-12)
        << t;
}

TEST(LongformerAttention, ALongRunKeepsARingOfTheWindow) {
  LongformerAttention m({.embed_dim = 8,
                         .num_heads = 2,
                         .window = 3,
                         .dilation = {1, 2},
                         .causal = true,
                         .global_attention = false});
  no_grad guard;
  m.eval();
  const Tensor x = random({1, 200, 8}, kFloat32), y = m(x);
  Box<SequenceState> s = m.init_state(1, 1 << 20);
  for (int64_t t = 0; t < 200; ++t)
    ASSERT_LT(max_difference(m.step(x.narrow(1, t, 1), *s), y.narrow(1, t, 1)), 1e-5) << t;
}

TEST(LongformerAttention, HuggingFaceNamesLoad) {
  LongformerAttention m({.embed_dim = 8, .num_heads = 2, .window = 2});
  StateDict theirs;
  for (const char* n : {"query", "key", "value", "query_global", "key_global", "value_global"})
    for (const char* kind : {".weight", ".bias"})
      theirs.set(std::string("attention.self.") + n + kind,
                 random(kind[1] == 'w' ? Shape{8, 8} : Shape{8}, kFloat32));
  theirs.set("attention.output.dense.weight", random({8, 8}, kFloat32));
  theirs.set("attention.output.dense.bias", random({8}, kFloat32));
  const LoadReport r = m.load_state_dict(theirs);
  EXPECT_EQ(r.renamed.size(), 14u);
  EXPECT_EQ(max_difference(m.state_dict().find("k_proj_global.weight"),
                           theirs.find("attention.self.key_global.weight")),
            0);
  MultiheadAttention packed({.embed_dim = 8, .num_heads = 2});
  const LoadReport from_mha =
      m.load_state_dict(packed.state_dict());  // the global projections start as copies
  EXPECT_EQ(from_mha.missing.size(), 0u);
  EXPECT_EQ(max_difference(m.state_dict().find("v_proj_global.weight"),
                           packed.state_dict().find("v_proj.weight")),
            0);
}

TEST(LongformerAttention, NamesWhatDoesNotFit) {
  EXPECT_ERROR(LongformerAttention({.embed_dim = 510, .num_heads = 8}), OptionError,
               "embed_dim 510 is not divisible by num_heads 8");
  EXPECT_ERROR(LongformerAttention({.embed_dim = 8, .num_heads = 2, .window = 0}), OptionError,
               "window is 0");
  EXPECT_ERROR(LongformerAttention({.embed_dim = 8, .num_heads = 2, .window_right = -2}),
               OptionError, "window_right is -2");
  EXPECT_ERROR(
      LongformerAttention({.embed_dim = 8, .num_heads = 2, .window_right = 1, .causal = true}),
      OptionError, "sees nothing to its right");
  EXPECT_ERROR(LongformerAttention({.embed_dim = 8, .num_heads = 2, .dilation = {1, 2, 3}}),
               OptionError, "dilation has 3 entries, expected 1 or num_heads = 2");
  EXPECT_ERROR(LongformerAttention({.embed_dim = 8, .num_heads = 2, .dilation = 0}), OptionError,
               "dilation is 0");
  LongformerAttention m({.embed_dim = 8, .num_heads = 2, .global_attention = false});
  EXPECT_ERROR(m(zeros({1, 4, 8}), {.global_attention_mask = mask_of(1, 4, {{0, 1}})}), OptionError,
               "global_attention = false");
  EXPECT_EQ(m(zeros({1, 4, 8}), {.global_attention_mask = zeros({1, 4}, kBool)}).size(1), 4)
      << "a mask that names none is fine";
  EXPECT_ERROR(m(zeros({1, 4, 8}), {.global_attention_mask = zeros({1, 4})}), DTypeError,
               "global_attention_mask is float32, expected bool");
  EXPECT_ERROR(m(zeros({1, 4, 8}), {.global_attention_mask = zeros({1, 5}, kBool)}), ShapeError,
               "global_attention_mask is [1, 5]");
  EXPECT_ERROR(m.init_state(1, 4), OptionError, "step() needs causal = true");
}

}  // namespace
}  // namespace dropin
