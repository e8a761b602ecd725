// NeuroLogic decoding: what a text meets, counted by hand; words.
#include "dropin/generation/neurologic.h"

#include <algorithm>
#include <cmath>

#include "generation/clauses.h"

namespace dropin::testing {
namespace {

TEST(NeuroLogicDecoder, CountsWhatTheTextMeetsAndKeepsWhatIsForbiddenOut) {
  int64_t all = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    NeuroLogicDecoder d(table_lm(12, seed), {.eos_id = 1,
                                             .max_new_tokens = 10,
                                             .no_repeat_ngram = 3,
                                             .num_beams = 4,
                                             .length_penalty = 0.5});
    const Decoded got = d.generate({.prompt = prompts(12, {2, 2}), .constraints = mixed()});
    for (int64_t b = 0; b < 2; ++b) {
      const Ids text = output(got, b);
      EXPECT_EQ(got.satisfied[b].item<int64_t>(), count_met(mixed(), b, text));
      EXPECT_FALSE(holds(text, {9}) || holds(text, {b + 2, 0})) << "forbidden";
      all += got.satisfied[b].item<int64_t>() == 3;
    }
  }
  EXPECT_GE(all, 10) << "of 40 texts";
}

TEST(NeuroLogicDecoder, AClauseOfNegativeLiteralsForbidsTheLastOfThem) {
  int64_t one = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    NeuroLogicDecoder d(table_lm(5, seed), {.max_new_tokens = 16, .num_beams = 2});
    Constraints c;
    c.clause({{.tokens = {2}, .positive = false}, {.tokens = {3}, .positive = false}});
    const Ids text = output(d.generate({.prompt = prompts(5, {1, 2}), .constraints = c}), 0);
    EXPECT_FALSE(holds(text, {2}) && holds(text, {3}));
    one += holds(text, {2}) || holds(text, {3});
  }
  EXPECT_GT(one, 0);
}

// Of one beam: where no candidate may have fewer clauses than another, the clause comes first.
TEST(NeuroLogicDecoder, TheToleranceDropsCandidatesOfFewerClauses) {
  int64_t others = 0;
  for (std::uint64_t seed = 1; seed <= 10; ++seed)
    for (const int64_t tolerance : {0, 1}) {
      NeuroLogicDecoder d(
          table_lm(8, seed),
          {.max_new_tokens = 4, .num_beams = 1, .prune_factor = 100, .sat_tolerance = tolerance});
      const Ids text = output(
          d.generate({.prompt = prompts(8, {1, 2}), .constraints = Constraints().any({{2}})}), 0);
      EXPECT_TRUE(tolerance > 0 || text[0] == 2) << seed;
      others += text[0] != 2;
    }
  EXPECT_GT(others, 5);
}

TEST(NeuroLogicDecoder, ExamplesDoNotSeeEachOther) {
  for (const char* kind : {"none", "greedy", "soft", "beam", "sample"}) {
    NeuroLogicAStarOptions o = star(kind);
    o.alpha = 2;  // so that look ahead decides
    if (o.lookahead == "none") {
      o.lookahead = "greedy";
      o.alpha = 0;
    }
    NeuroLogicAStarDecoder d(llama_lm(4), o);
    const Tensor p = prompts(13, {2, 4});
    auto tokens = [&](const Tensor& rows, const Ids& lengths, const Constraints& c) {
      Generator g(3);
      return d.generate(
          {.prompt = rows, .prompt_lengths = tensor(lengths), .constraints = c, .generator = &g});
    };
    const Decoded both = tokens(p, {4, 2}, mixed());
    std::vector<Literal> mine;
    const Constraints all = mixed();
    for (const Literal& l : all.literals())
      if (l.example == 0) mine.push_back(l);
    const Decoded one = tokens(p.narrow(0, 0, 1), {4}, Constraints(mine));
    EXPECT_EQ(output(one, 0), output(both, 0)) << kind;
    EXPECT_NEAR(one.scores[0].item(), both.scores[0].item(), 1e-4) << kind;
  }
}

TEST(NeuroLogicDecoder, WithoutClausesNothingIsCounted) {
  NeuroLogicDecoder d(table_lm(8, 2), {.eos_id = 1, .max_new_tokens = 6, .num_return = 8});
  const Decoded got = d.generate({.prompt = prompts(8, {2, 2})});
  EXPECT_EQ(amax(got.satisfied).item(), 0);
  EXPECT_GT(amin(got.lengths.select(1, 0)).item(), 0);
  Constraints never;
  never.never({3});
  EXPECT_EQ(d.generate({.prompt = prompts(8, {2, 2}), .constraints = never}).satisfied[0][0].item(),
            0);
}

TEST(NeuroLogicDecoder, ContradictionsRunToTheEndAndAreToldOf) {
  NeuroLogicDecoder d(table_lm(8, 2), {.max_new_tokens = 6, .num_return = 10});
  Constraints c;
  c.any({{3}}).never({3}).any({{4}});
  const Decoded got = d.generate({.prompt = prompts(8, {1, 2}), .constraints = c});
  EXPECT_EQ(got.satisfied[0][0].item(), 1);
  EXPECT_EQ(got.lengths[0][0].item(), 6);
  EXPECT_EQ(got.satisfied[0][9].item(), -1) << "five hypotheses at the end, no ten";
  EXPECT_EQ(got.lengths[0][9].item(), 0);
  EXPECT_EQ(got.scores[0][9].item(), -INFINITY);
}

TEST(NeuroLogicDecoder, RefusesInWords) {
  auto refused = [](const NeuroLogicOptions& o, const char* says) {
    EXPECT_ERROR(NeuroLogicDecoder(table_lm(5, 1), o), OptionError, says);
  };
  refused({.num_return = 11}, "num_return");
  refused({.num_beams = 0}, "num_beams");
  refused({.prune_factor = 0}, "prune_factor");
  refused({.sat_tolerance = -1}, "sat_tolerance");
  auto star_refused = [](const NeuroLogicAStarOptions& o, const char* says) {
    EXPECT_ERROR(NeuroLogicAStarDecoder(table_lm(5, 1), o), OptionError, says);
  };
  star_refused({.lookahead = "far"}, "lookahead");
  star_refused({.lookahead_steps = -1}, "lookahead_steps");
  star_refused({.alpha = -1}, "alpha");
  star_refused({.lookahead_width = 0}, "lookahead_width");
  star_refused({.soft_temperature = 0}, "soft_temperature");
  star_refused({.fallback = "some"}, "fallback");
  NeuroLogicDecoder d(table_lm(5, 1), {.eos_id = 2, .max_new_tokens = 4});
  auto with = [&](const Constraints& c) {
    d.generate({.prompt = prompts(5, {1, 2}), .constraints = c});
  };
  EXPECT_ERROR(with(Constraints().any({{5}})), IndexError, "token 5");
  EXPECT_ERROR(with(Constraints().any({{1, 2}})), OptionError, "end token 2");
  EXPECT_ERROR(with(Constraints().example(1).any({{1}})), OptionError, "literal_example");
  EXPECT_ERROR(with(Constraints(std::vector<Literal>(1))), OptionError, "empty");
}

}  // namespace
}  // namespace dropin::testing
