// Sampling: limits where it is greedy, frequencies, seeds.
#include <algorithm>
#include <cmath>

#include "dropin/generation/decoder.h"
#include "generation/models.h"

namespace dropin::testing {
namespace {

TEST(SamplingDecoder, OneTokenLeftIsGreedy) {
  const Tensor p = prompts(9, {4, 3});
  GreedyDecoder greedy(table_lm(9, 6), {.eos_id = 3, .max_new_tokens = 9});
  SamplingDecoder one(table_lm(9, 6), {.eos_id = 3, .max_new_tokens = 9, .top_k = 1});
  SamplingDecoder cold(table_lm(9, 6), {.eos_id = 3, .max_new_tokens = 9, .temperature = 1e-4});
  SamplingDecoder sure(table_lm(9, 6), {.eos_id = 3, .max_new_tokens = 9, .min_p = 1});
  const Decoded want = greedy.generate({.prompt = p});
  for (SamplingDecoder* d : {&one, &cold, &sure}) {
    const Decoded got = d->generate({.prompt = p});
    EXPECT_EQ(max_difference(got.tokens, want.tokens), 0);
    EXPECT_LT(max_difference(got.scores, want.scores), 1e-5);
  }
}

TEST(SamplingDecoder, DrawsWithTheModelsProbabilities) {
  SamplingDecoder d(table_lm(5, 3), {.max_new_tokens = 1, .num_return = 4000, .temperature = 0.8});
  Generator g(4);
  const Decoded got = d.generate({.prompt = whole({2, 1}).reshape({1, 2}), .generator = &g});
  std::vector<double> counts(5), p = next_log_probs(d.base(), {2, 1});
  for (const int64_t t : got.tokens.to_vector<int64_t>()) counts[static_cast<std::size_t>(t)] += 1;
  double total = 0;
  for (double& x : p) total += x = std::exp(x / 0.8);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(counts[i] / 4000, p[i] / total, 0.03) << i;
}

TEST(SamplingDecoder, TheSameSeedGivesTheSameWhateverTheBatch) {
  SamplingDecoder d(table_lm(9, 6), {.max_new_tokens = 9});
  const Tensor p = prompts(9, {4, 3});
  auto tokens = [&](const Tensor& rows, std::uint64_t seed) {
    Generator g(seed);
    return d.generate({.prompt = rows, .generator = &g}).tokens;
  };
  const Tensor all = tokens(p, 5);
  EXPECT_EQ(max_difference(all, tokens(p, 5)), 0);
  EXPECT_GT(max_difference(all, tokens(p, 6)), 0);
  EXPECT_EQ(max_difference(all.narrow(0, 0, 2), tokens(p.narrow(0, 0, 2), 5)), 0);
  const Tensor wide = concat({p, zeros({4, 3}, kInt64)}, 1);
  Generator g(5);
  const Decoded padded =
      d.generate({.prompt = wide, .prompt_lengths = full({4}, 3, kInt64), .generator = &g});
  EXPECT_EQ(max_difference(all, padded.tokens), 0);
}

TEST(SamplingDecoder, RepetitionsBecomeRare) {
  const Tensor p = prompts(9, {20, 3});
  auto repeats = [&](double penalty) {
    SamplingDecoder d(table_lm(9, 6), {.max_new_tokens = 5, .repetition_penalty = penalty});
    Generator g(3);
    const Tensor out = d.generate({.prompt = p, .generator = &g}).tokens;
    int64_t n = 0;
    for (int64_t b = 0; b < 20; ++b) {
      std::vector<int64_t> r = row(out, b);
      std::sort(r.begin(), r.end());
      n += 5 - (std::unique(r.begin(), r.end()) - r.begin());
    }
    return n;
  };
  EXPECT_GT(repeats(1), 0);
  EXPECT_EQ(repeats(1000), 0);
}

}  // namespace
}  // namespace dropin::testing
