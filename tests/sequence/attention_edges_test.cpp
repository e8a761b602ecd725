// Attention where numbers or shapes are extreme, and its mixtures.
#include "dropin/ops/attention.h"
#include "sequence/random_masks.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(Attention, MergingPartsEqualsTheWhole) {
  const Tensor q = random({1, 2, 20, 8}, kFloat32, 1), k = random({1, 2, 150, 8}, kFloat32, 2),
               v = random({1, 2, 150, 8}, kFloat32, 3);
  std::vector<AttentionWithLse> parts;
  for (const auto& [at, n] : {std::pair{0, 70}, {70, 1}, {71, 79}})
    parts.push_back(attention_with_lse(q, k.narrow(2, at, n), v.narrow(2, at, n)));
  EXPECT_LT(max_difference(merge_attention(parts).o, attention(q, k, v)), 1e-6);
}

TEST(Attention, NonFiniteMaskedKeysDoNotLeak) {
  Tensor q = random({1, 1, 80, 8}, kFloat32, 1), k = random({1, 1, 80, 8}, kFloat32, 2).clone(),
         v = random({1, 1, 80, 8}, kFloat32, 3).clone();
  Tensor pad = zeros({1, 80}, kBool);
  pad[0].narrow(0, 40, 10).fill_(1);
  const AttentionParams p{.key_padding_mask = pad};
  auto run = [&](Tensors* grads) {
    Tensors x{q.clone().requires_grad_(), k.clone().requires_grad_(), v.clone().requires_grad_()};
    const Tensor y = attention(x[0], x[1], x[2], p);
    sum(y).backward();
    for (const Tensor& t : x) grads->push_back(t.grad());
    return y.detach();
  };
  Tensors clean, dirty;
  const Tensor y = run(&clean);
  k.narrow(2, 40, 5).fill_(std::nan(""));
  v.narrow(2, 43, 7).fill_(INFINITY);
  EXPECT_LT(max_difference(run(&dirty), y), 1e-6);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_LT(max_difference(clean[i], dirty[i]), 1e-5);
}

TEST(Attention, LargeScoresDoNotOverflow) {
  const Tensor q = full({1, 1, 2, 1}, 1e19), k = tensor({1e19, 2e19, -1e19}, {1, 1, 3, 1}),
               v = tensor({1, 2, 3}, {1, 1, 3, 1});
  testing::expect_values(attention(q, k, v, {.scale = 1}), {2, 2});
}

TEST(Attention, StridedHeadsNeedNoCopy) {
  const Tensor x = random({2, 70, 24}, kFloat32);
  const Tensor y = attention(split_heads(x, 3), split_heads(x, 3), split_heads(x, 3));
  EXPECT_TRUE(y.transpose(1, 2).is_contiguous()) << "merging heads is a view";
  EXPECT_LT(max_difference(
                y, plain::attention(split_heads(x, 3), split_heads(x, 3), split_heads(x, 3), {})),
            5e-6)
      << "both are float32";
}

TEST(Attention, MemoryIsLinearInLength) {
  const Tensor q = random({1, 1, 4096, 16}, kFloat32).requires_grad_();
  reset_peak_memory();
  const int64_t before = memory_stats().allocated;
  sum(attention(q, q, q)).backward();
  EXPECT_LT(memory_stats().peak - before, 12 * 4096 * 16 * 4) << "scores alone would be 64 MB";
}

TEST(Attention, MixtureEqualsTheDefinition) {
  const std::vector<AttentionParams> patterns{
      {.causal = true, .segment = 64, .step = {1, 1}, .first = {0, 0}},
      {.key_padding_mask = bernoulli({2, 700}, 0.3, 9),
       .step = {1, 2},
       .first = {0, 1}},  // longer than what is kept
      {.causal = true, .segment = 200, .step = {2, 2}, .first = {0, 1}},
      {.causal = true, .segment = 0, .step = {5, 5}, .first = {3, 0}}};
  for (bool exact : {true, false}) {
    Tensors wide, narrow;
    for (std::uint64_t i = 0; i < 3; ++i) {
      narrow.push_back(random({2, 2, 700, 16}, kFloat32, i));
      wide.push_back(narrow.back().to(kFloat64).requires_grad_());
      narrow.back().requires_grad_();
    }
    const AttentionWithLse want =
                               plain::attention_mixture(wide[0], wide[1], wide[2], patterns, exact),
                           got =
                               attention_mixture(narrow[0], narrow[1], narrow[2], patterns, exact);
    EXPECT_LT(max_difference(want.o, got.o), 2e-6);
    EXPECT_LT(max_difference(want.lse, got.lse), 2e-6);
    const Tensor g = random(want.o.sizes(), kFloat32, 4);
    auto total = [](const AttentionWithLse& a, const Tensor& g) {
      return sum(a.o * g) + sum(where(isfinite(a.lse), square(a.lse), 0.0));
    };
    total(want, g.to(kFloat64)).backward();
    total(got, g).backward();
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_LT(max_difference(wide[i].grad(), narrow[i].grad()), 3e-5) << "qkv"[i] << exact;
  }
}

TEST(Attention, SecondDerivativesGoThroughTheDefinition) {
  Tensor q = random({1, 1, 3, 4}, kFloat32).requires_grad_();
  Tensor g = grad({sum(square(attention(q, q, q)))}, {q}, {}, true, true)[0];
  Tensor h = grad({sum(square(g))}, {q})[0];
  Tensor w = q.detach().to(kFloat64).requires_grad_();
  Tensor gw = grad({sum(square(attention(w, w, w)))}, {w}, {}, true, true)[0];
  const Tensor want = grad({sum(square(gw))}, {w})[0];
  EXPECT_LT(max_difference(h, want), 1e-5 * amax(abs(want)).item<double>());
}

TEST(Attention, ARowOfNaNScoresIsNaN) {
  const double nan = std::nan("");
  for (const bool causal : {false, true})
    for (const int64_t length : {1, 5, 70, 130}) {
      Tensor q = random({1, 1, length, 8}, kFloat32), k = random({1, 1, length, 8}, kFloat32, 8),
             v = random({1, 1, length, 8}, kFloat32, 9);
      q.select(2, 0).fill_(nan);  // one query
      Tensor y = attention(q, k, v, {.causal = causal});
      EXPECT_TRUE(std::isnan(y.select(2, 0).to_vector()[0])) << length;
      if (length > 1) EXPECT_TRUE(std::isfinite(y.select(2, 1).to_vector()[0])) << length;
      q.select(2, 0).fill_(0);
      k.slice(2, 0, std::min<int64_t>(64, length))
          .fill_(nan);  // all keys of a block: whoever sees one of them
      y = attention(q, k, v, {.causal = causal});
      for (const double value : y.to_vector()) ASSERT_TRUE(std::isnan(value)) << length;
    }
}

TEST(Attention, TheFreeFunctionAlignsAsAsked) {
  const Tensor q = random({1, 2, 3, 4}, kFloat32), k = random({1, 2, 7, 4}, kFloat32, 8),
               v = random({1, 2, 7, 4}, kFloat32, 9);
  EXPECT_EQ(max_difference(scaled_dot_product_attention(q, k, v, {}, 0, true),
                           attention(q, k, v, {.causal = true, .causal_offset = 0})),
            0);
  EXPECT_EQ(max_difference(scaled_dot_product_attention(q, k, v, {}, 0, true, {}, std::nullopt),
                           attention(q, k, v, {.causal = true})),
            0);
}

}  // namespace
}  // namespace dropin
