// Greedy, beam search and sampling: what they are by definition, limits where they are equal, rows
// that do not see each other, words.
#include "dropin/generation/decoder.h"

#include <algorithm>
#include <cmath>

#include "dropin/registry/registry.h"
#include "generation/models.h"

namespace dropin::testing {
namespace {

// The best text of exactly n tokens, by trying all.
double best_sum(LanguageModel& m, const std::vector<int64_t>& text, int64_t n) {
  if (n == 0) return 0;
  double best = -INFINITY;
  const std::vector<double> lp = next_log_probs(m, text);
  for (std::size_t w = 0; w < lp.size(); ++w) {
    std::vector<int64_t> more = text;
    more.push_back(static_cast<int64_t>(w));
    best = std::max(best, lp[w] + best_sum(m, more, n - 1));
  }
  return best;
}

TEST(GreedyDecoder, TakesTheMostProbableTokens) {
  for (const bool llama : {false, true}) {
    GreedyDecoder d(llama ? llama_lm(2) : table_lm(9, 2), {.max_new_tokens = 7});
    const Tensor p = prompts(9, {2, 3});
    const Decoded got = d.generate({.prompt = p});
    for (int64_t b = 0; b < 2; ++b) {
      std::vector<int64_t> text = row(p, b);
      double sum = 0;
      for (int64_t t = 0; t < 7; ++t) {
        const auto lp = next_log_probs(d.base(), text);
        const auto best = std::max_element(lp.begin(), lp.end());
        sum += *best;
        text.push_back(best - lp.begin());
      }
      EXPECT_EQ(row(got.tokens, b), std::vector<int64_t>(text.begin() + 3, text.end()));
      EXPECT_NEAR(got.scores[b].item(), sum, 1e-4);
    }
  }
}

TEST(GreedyDecoder, EndsAndRepeatsAsItIsTold) {
  GreedyDecoder d(table_lm(6, 4), {.eos_id = 2,
                                   .stop_ids = {4},
                                   .max_new_tokens = 12,
                                   .min_new_tokens = 3,
                                   .no_repeat_ngram = 2});
  const Tensor p = prompts(6, {20, 4});
  const Decoded got = d.generate({.prompt = p});
  int64_t ended = 0;
  for (int64_t b = 0; b < 20; ++b) {
    std::vector<int64_t> text = row(p, b), out = row(got.tokens, b);
    const int64_t n = got.lengths[b].item<int64_t>();
    for (int64_t t = 0; t < 12; ++t) {
      const int64_t token = out[static_cast<std::size_t>(t)];
      EXPECT_EQ(token == -1, t >= n);
      if (token == -1) continue;
      const bool ends = token == 2 || token == 4;
      EXPECT_TRUE(!ends || (t >= 3 && t + 1 == n)) << "row " << b << " place " << t;
      ended += ends;
      for (std::size_t i = 0; i + 1 < text.size(); ++i)
        EXPECT_FALSE(text[i] == text.back() && text[i + 1] == token) << "a bigram again";
      text.push_back(token);
    }
  }
  EXPECT_GT(ended, 0);
}

// Rows padded on the right, and alone.
template <class D>
void expect_rows_alone(D& d, int64_t vocab) {
  const Tensor p = prompts(vocab, {4, 5});
  const std::vector<int64_t> lengths = {5, 2, 1, 4};
  DecodeArgs all{.prompt = p, .prompt_lengths = tensor(lengths)};
  Generator g(8);
  all.uniforms = rand({4, 40}, kFloat32, &g);
  const Decoded want = d.generate(all);
  for (int64_t b = 0; b < 4; ++b) {
    const int64_t n = lengths[static_cast<std::size_t>(b)];
    DecodeArgs one{.prompt = p.narrow(0, b, 1).narrow(1, 0, n)};
    one.uniforms = all.uniforms.narrow(0, b, 1);
    const Decoded got = d.generate(one);
    EXPECT_EQ(row(got.tokens, 0), row(want.tokens, b)) << "row " << b;
    EXPECT_NEAR(got.scores[0].item(), want.scores[b].item(), 1e-4);
  }
}

TEST(Decoders, RowsDoNotSeeEachOther) {
  for (int kind = 0; kind < 5; ++kind) {
    auto model = [kind] {
      if (kind < 2) return kind == 0 ? table_lm(11, 3) : llama_lm(3);
      Box<LanguageModel> m = transformer_lm(kind == 3 ? "half" : "none");
      if (kind == 4) {
        manual_seed(6);
        swap(*m, "MultiheadAttention", "GRU");
      }
      return m;
    };
    GreedyDecoder greedy(model(), {.eos_id = 1, .max_new_tokens = 6});
    BeamSearchDecoder beams(model(), {.eos_id = 1, .max_new_tokens = 6, .num_beams = 3});
    SamplingDecoder sampling(model(), {.eos_id = 1, .max_new_tokens = 6, .top_p = 0.9});
    expect_rows_alone(greedy, 11);
    expect_rows_alone(beams, 11);
    expect_rows_alone(sampling, 11);
  }
}

TEST(BeamSearchDecoder, OneBeamIsGreedy) {
  const Tensor p = prompts(9, {5, 2});
  GreedyDecoder greedy(table_lm(9, 6), {.eos_id = 3, .max_new_tokens = 9, .no_repeat_ngram = 2});
  BeamSearchDecoder one(table_lm(9, 6),
                        {.eos_id = 3, .max_new_tokens = 9, .no_repeat_ngram = 2, .num_beams = 1});
  EXPECT_EQ(
      max_difference(one.generate({.prompt = p}).tokens, greedy.generate({.prompt = p}).tokens), 0);
}

TEST(BeamSearchDecoder, EnoughBeamsFindTheBestText) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    BeamSearchDecoder d(table_lm(4, seed),
                        {.max_new_tokens = 4, .num_beams = 64, .length_penalty = 0});
    const Decoded got = d.generate({.prompt = whole({1, 2}).reshape({1, 2})});
    EXPECT_NEAR(got.scores[0].item(), best_sum(d.base(), {1, 2}, 4), 1e-5);
  }
}

TEST(BeamSearchDecoder, ReturnsTextsInOrderAndNormsThem) {
  const Tensor p = prompts(7, {3, 2});
  BeamSearchDecoder d(table_lm(7, 9), {.eos_id = 1,
                                       .max_new_tokens = 5,
                                       .num_return = 4,
                                       .num_beams = 4,
                                       .length_penalty = 0.7,
                                       .length_includes_prompt = true});
  const Decoded got = d.generate({.prompt = p});
  EXPECT_EQ(got.tokens.sizes(), Shape({3, 4, 5}));
  for (int64_t b = 0; b < 3; ++b)
    for (int64_t r = 0; r < 4; ++r) {
      const auto out = row(got.tokens[b], r);
      const auto n = got.lengths[b][r].item<int64_t>();
      std::vector<int64_t> text = row(p, b);
      double sum = 0;
      for (int64_t t = 0; t < n; ++t) {
        const int64_t w = out[static_cast<std::size_t>(t)];
        sum += next_log_probs(d.base(), text)[static_cast<std::size_t>(w)];
        text.push_back(w);
      }
      EXPECT_NEAR(got.scores[b][r].item(), sum / std::pow(static_cast<double>(n) + 2, 0.7), 1e-4);
      EXPECT_LE(got.scores[b][r].item(), got.scores[b][std::max<int64_t>(r - 1, 0)].item());
    }
}

TEST(BeamSearchDecoder, GroupsDiffer) {
  const Tensor p = prompts(9, {2, 2});
  auto first_tokens = [&](double penalty) {
    BeamSearchDecoder d(table_lm(9, 12), {.max_new_tokens = 3,
                                          .num_return = 4,
                                          .num_beams = 4,
                                          .num_groups = 4,
                                          .diversity_penalty = penalty});
    std::vector<int64_t> r = d.generate({.prompt = p}).tokens[0].select(1, 0).to_vector<int64_t>();
    std::sort(r.begin(), r.end());
    return std::unique(r.begin(), r.end()) - r.begin();
  };
  EXPECT_EQ(first_tokens(0), 1) << "groups of one beam without a penalty are greedy";
  EXPECT_EQ(first_tokens(1000), 4);
}

TEST(TransformerLM, SoftStepsOfOneTokenAreSteps) {
  for (int kind = 0; kind < 3; ++kind) {
    Box<LanguageModel> m = kind == 0   ? table_lm(11, 3)
                           : kind == 1 ? llama_lm(3)
                                       : transformer_lm("none");
    const int64_t v = m->vocab_size();
    Box<LanguageState> a = m->init_state(3), b = m->init_state(3);
    for (int64_t t = 0; t < 4; ++t) {
      const Tensor ids = prompts(v, {3}, 20 + static_cast<std::uint64_t>(t));
      const Tensor want = m->step(ids, *a), got = m->step_soft(one_hot(ids, v).to(kFloat64), *b);
      EXPECT_LT(max_difference(got.to(kFloat64), want.to(kFloat64)), 1e-4) << kind << " " << t;
    }
  }
}

TEST(Decoders, RefuseInWords) {
  auto refused = [](const GreedyOptions& o, const char* says) {
    EXPECT_ERROR(GreedyDecoder(table_lm(5, 1), o), OptionError, says);
  };
  refused({.max_new_tokens = 0}, "max_new_tokens");
  refused({.eos_id = 5}, "end token 5");
  refused({.stop_ids = {-2}}, "end token -2");
  refused({.min_new_tokens = -1}, "min_new_tokens");
  refused({.num_return = 2}, "num_return");
  EXPECT_ERROR(GreedyDecoder(Box<LanguageModel>(), {}), OptionError, "base");
  EXPECT_ERROR(GreedyDecoder(GreedyOptions{}), OptionError, "base");
  auto sampling = [](const SamplingOptions& o, const char* says) {
    EXPECT_ERROR(SamplingDecoder(table_lm(5, 1), o), OptionError, says);
  };
  sampling({.temperature = 0}, "temperature");
  sampling({.top_p = 0}, "top_p");
  sampling({.top_p = 1.5}, "top_p");
  sampling({.top_k = -1}, "top_k");
  sampling({.lookahead_steps = -1}, "lookahead_steps");
  sampling({.repetition_penalty = 0}, "repetition_penalty");
  EXPECT_ERROR(BeamSearchDecoder(table_lm(5, 1), {.num_beams = 0}), OptionError, "num_beams");
  EXPECT_ERROR(BeamSearchDecoder(table_lm(5, 1), {.num_return = 3, .num_beams = 2}), OptionError,
               "num_return");
  EXPECT_ERROR(BeamSearchDecoder(table_lm(5, 1), {.num_beams = 4, .num_groups = 3}), OptionError,
               "num_groups");
  SamplingDecoder d(table_lm(5, 1), {.max_new_tokens = 4});
  const Tensor p = prompts(5, {2, 3});
  EXPECT_ERROR(d.generate({.prompt = p, .prompt_lengths = zeros({2}, kInt64)}), OptionError,
               "prompt 0 has 0 tokens");
  EXPECT_ERROR(d.generate({.prompt = p + 5}), IndexError, "token");
  EXPECT_ERROR(d.generate({.prompt = p, .uniforms = ones({2, 9})}), OptionError, "[0, 1)");
  EXPECT_ERROR(d.generate({.prompt = p, .uniforms = zeros({2, 6})}), ShapeError, "at least 7");
  EXPECT_ERROR(d.generate({.prompt = p, .constraints = Constraints().any({{1}})}), OptionError,
               "constraints");
  GreedyDecoder small(transformer_lm("none"), {.max_new_tokens = 38});
  EXPECT_ERROR(small.generate({.prompt = p}), OptionError, "40 together");
}

TEST(Decoders, NameTheStepOfLogitsThatAreNone) {
  GreedyDecoder d(table_lm(5, 1), {.max_new_tokens = 4});
  d.base().parameters()[0].detach()[3].fill_(std::nan(""));
  const Tensor p = whole({1, 2, 4, 3}).reshape({2, 2});
  EXPECT_ERROR(d.generate({.prompt = p}), StateError, "NaN");
  EXPECT_ERROR(d.generate({.prompt = p.narrow(0, 1, 1)}), StateError, "in row 0");
}

}  // namespace
}  // namespace dropin::testing
