// The tiled kernel against the definition in float64, forward and gradients, over what a score may
// be told.
#include "dropin/ops/attention.h"
#include "sequence/random_masks.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

struct AttentionCase {
  std::string name;
  Shape q, k;
  int64_t value_width;
  AttentionParams params;
};

void PrintTo(const AttentionCase& c, std::ostream* os) { *os << c.name; }

void add_shapes(std::vector<AttentionCase>& c) {
  c.push_back({"dense", {2, 3, 70, 16}, {2, 3, 130, 16}, 16, {}});
  c.push_back({"one_query", {2, 2, 1, 8}, {2, 2, 77, 8}, 8, {.causal = true}});
  c.push_back({"causal_square", {1, 2, 150, 24}, {1, 2, 150, 24}, 24, {.causal = true}});
  c.push_back({"causal_long_keys", {1, 2, 65, 16}, {1, 2, 200, 16}, 20, {.causal = true}});
  c.push_back({"causal_short_keys", {1, 1, 100, 16}, {1, 1, 30, 16}, 16, {.causal = true}});
  c.push_back({"causal_top_left",
               {1, 1, 40, 16},
               {1, 1, 90, 16},
               16,
               {.causal = true, .causal_offset = 0}});
  c.push_back({"grouped_odd_widths", {2, 6, 67, 13}, {2, 2, 129, 13}, 7, {.scale = 0.3}});
  c.push_back(
      {"alibi_causal", {1, 3, 66, 16}, {1, 3, 100, 16}, 16, {.causal = true, .alibi = true}});
  c.push_back({"decode_many_keys", {1, 4, 3, 16}, {1, 2, 3000, 16}, 16, {.causal = true}});
  c.push_back({"decode_sigmoid", {1, 2, 1, 16}, {1, 2, 3000, 16}, 16, {.sigmoid_bias = -7}});
  c.push_back({"no_keys", {1, 2, 5, 8}, {1, 2, 0, 8}, 8, {}});
  c.push_back({"no_queries", {1, 2, 0, 8}, {1, 2, 5, 8}, 8, {}});
}

void add_masks(std::vector<AttentionCase>& c) {
  c.push_back({"padding",
               {3, 2, 70, 16},
               {3, 2, 140, 16},
               16,
               {.key_padding_mask = bernoulli({3, 140}, 0.5, 3)}});
  Tensor ends = zeros({2, 200}, kBool);
  ends[0].narrow(0, 100, 100).fill_(1);
  ends[1].fill_(1);
  c.push_back(
      {"padding_whole_row", {2, 1, 30, 16}, {2, 1, 200, 16}, 16, {.key_padding_mask = ends}});
  Tensor mask = bernoulli({90, 70}, 0.3, 5);
  mask.select(0, 17).fill_(1);
  c.push_back(
      {"bool_mask_with_a_blind_row", {2, 2, 90, 16}, {2, 2, 70, 16}, 16, {.attn_mask = mask}});
  c.push_back({"float_mask",
               {2, 2, 70, 16},
               {2, 2, 70, 16},
               16,
               {.attn_mask = random({2, 1, 70, 70}, kFloat32, 4)}});
}

void add_patterns(std::vector<AttentionCase>& c) {
  c.push_back(
      {"window", {1, 2, 300, 16}, {1, 2, 300, 16}, 16, {.window_left = 20, .window_right = 9}});
  c.push_back(
      {"window_causal", {1, 2, 200, 16}, {1, 2, 200, 16}, 16, {.causal = true, .window_left = 70}});
  c.push_back({"sigmoid", {2, 2, 70, 16}, {2, 2, 90, 16}, 16, {.sigmoid_bias = -4.5}});
  c.push_back({"sigmoid_causal_alibi_padded",
               {2, 2, 90, 16},
               {2, 2, 90, 16},
               16,
               {.causal = true,
                .key_padding_mask = bernoulli({2, 90}, 0.3, 8),
                .alibi = true,
                .sigmoid_bias = -2}});
  c.push_back({"dilation",
               {1, 3, 200, 16},
               {1, 3, 200, 16},
               16,
               {.window_left = 9, .window_right = 5, .step = {1, 2, 7}}});
  c.push_back({"dilation_causal_alibi_padded",
               {2, 2, 150, 16},
               {2, 2, 150, 16},
               16,
               {.causal = true,
                .key_padding_mask = bernoulli({2, 150}, 0.4, 6),
                .alibi = true,
                .window_left = 30,
                .step = {3, 4}}});
  c.push_back({"segments",
               {2, 2, 300, 16},
               {2, 2, 300, 16},
               16,
               {.segment = 90, .step = {1, 1}, .first = {0, 0}}});
  c.push_back({"segments_thinned",
               {1, 4, 333, 16},
               {1, 4, 333, 16},
               16,
               {.causal = true, .segment = 150, .step = {2, 2, 5, 200}, .first = {0, 1, 4, 199}}});
  c.push_back({"dilation_sigmoid",
               {1, 2, 100, 16},
               {1, 2, 100, 16},
               16,
               {.window_left = 20, .sigmoid_bias = -3, .step = {2, 3}}});
}

std::vector<AttentionCase> cases() {
  std::vector<AttentionCase> c;
  add_shapes(c);
  add_masks(c);
  add_patterns(c);
  return c;
}

class Tiled : public ::testing::TestWithParam<AttentionCase> {};

INSTANTIATE_TEST_SUITE_P(Attention, Tiled, ::testing::ValuesIn(cases()),
                         [](const auto& i) { return i.param.name; });

TEST_P(Tiled, EqualsTheDefinition) {
  const AttentionCase& c = GetParam();
  Shape vs = c.k;
  vs[3] = c.value_width;
  Tensors wide{random(c.q, kFloat64, 1), random(c.k, kFloat64, 2), random(vs, kFloat64, 3)}, narrow;
  for (Tensor& t : wide) {
    t = t.to(kFloat32).to(kFloat64).clone();
    narrow.push_back(t.to(kFloat32).clone().requires_grad_());
    t.requires_grad_();
  }
  const Tensor want = plain::attention(wide[0], wide[1], wide[2], c.params),
               got = attention(narrow[0], narrow[1], narrow[2], c.params);
  EXPECT_LT(max_difference(want, got), 2e-6);
  const Tensor g = random(want.sizes(), kFloat32, 4);
  want.backward(g.to(kFloat64));
  got.backward(g);
  for (int i = 0; i < 3; ++i)
    EXPECT_LT(max_difference(wide[static_cast<std::size_t>(i)].grad(),
                             narrow[static_cast<std::size_t>(i)].grad()),
              1e-5)
        << "qkv"[i];
}

TEST_P(Tiled, LogSumExpEqualsTheDefinition) {
  const AttentionCase& c = GetParam();
  if (c.params.sigmoid_bias) GTEST_SKIP() << "sigmoid weights have none";
  Tensors wide{random(c.q, kFloat64, 1), random(c.k, kFloat64, 2)}, narrow;
  for (Tensor& t : wide) {
    t = t.to(kFloat32).to(kFloat64).clone();
    narrow.push_back(t.to(kFloat32).clone().requires_grad_());
    t.requires_grad_();
  }
  auto total = [&](const Tensors& x) {
    AttentionWithLse r = attention_with_lse(x[0], x[1], x[1], c.params);
    return sum(r.o * 0.5) + sum(where(isfinite(r.lse), square(r.lse), 0.0));
  };
  const Tensor a = total(wide), b = total(narrow);
  EXPECT_NEAR(a.item(), b.item(), 1e-5 * std::max(1.0, std::abs(a.item())));
  a.backward();
  b.backward();
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_LT(max_difference(wide[i].grad(), narrow[i].grad()), 5e-5);
}

}  // namespace
}  // namespace dropin
