// NeuroLogic decoding: what a text meets, counted by hand; limits where look aheads are equal;
// words.
#include "dropin/generation/neurologic.h"

#include <algorithm>
#include <cmath>

#include "generation/models.h"

namespace dropin::testing {
namespace {

using Ids = std::vector<int64_t>;

Ids output(const Decoded& d, int64_t b) {
  Ids r = d.tokens[b].to_vector<int64_t>();
  r.resize(static_cast<std::size_t>(d.lengths[b].item<int64_t>()));
  return r;
}
bool holds(const Ids& text, const Ids& run) {
  return std::search(text.begin(), text.end(), run.begin(), run.end()) != text.end();
}
// Clauses of example b with a positive literal that hold, by definition.
int64_t count_met(const Constraints& c, int64_t b, const Ids& text) {
  std::vector<bool> counted(20), met(20);
  for (const Literal& l : c.literals()) {
    if (l.example != b) continue;
    const auto k = static_cast<std::size_t>(l.clause);
    counted[k] = counted[k] || l.positive;
    met[k] = met[k] || holds(text, l.tokens) == l.positive;
  }
  int64_t n = 0;
  for (std::size_t k = 0; k < 20; ++k) n += counted[k] && met[k];
  return n;
}
// Of two examples: alternatives, a phrase, a clause of both kinds, forbidden ones.
Constraints mixed() {
  Constraints c;
  for (const int64_t b : {0, 1})
    c.example(b)
        .any({{2}, {3}})
        .any({{4, 5}})
        .clause({{.tokens = {6, 7}}, {.tokens = {8}, .positive = false}})
        .never({9})
        .never({b + 2, 0});
  return c;
}
NeuroLogicAStarOptions star(const std::string& lookahead) {
  return {.eos_id = 1,
          .max_new_tokens = 10,
          .num_beams = 4,
          .length_penalty = 0.5,
          .lookahead = lookahead,
          .lookahead_steps = 3,
          .lookahead_width = 2};
}

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
    NeuroLogicDecoder d(table_lm(6, seed), {.max_new_tokens = 12, .num_beams = 2});
    Constraints c;
    c.clause({{.tokens = {2}, .positive = false}, {.tokens = {3, 4}, .positive = false}});
    const Ids text = output(d.generate({.prompt = prompts(6, {1, 2}), .constraints = c}), 0);
    EXPECT_FALSE(holds(text, {2}) && holds(text, {3, 4}));
    one += holds(text, {2}) || holds(text, {3, 4});
  }
  EXPECT_GT(one, 0);
}

TEST(NeuroLogicDecoder, ExamplesDoNotSeeEachOther) {
  for (const char* kind : {"none", "greedy", "soft", "beam", "sample"}) {
    NeuroLogicAStarOptions o = star(kind);
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

TEST(NeuroLogicAStarDecoder, WithoutWeightItIsNeuroLogic) {
  const DecodeArgs args{.prompt = prompts(12, {2, 2}), .constraints = mixed()};
  NeuroLogicDecoder plain(
      table_lm(12, 5), {.eos_id = 1, .max_new_tokens = 10, .num_beams = 4, .length_penalty = 0.5});
  NeuroLogicAStarOptions o = star("greedy");
  o.alpha = 0;
  NeuroLogicAStarDecoder zero(table_lm(12, 5), o);
  o.alpha = 0.5;
  o.lookahead_steps = 0;
  NeuroLogicAStarDecoder none(table_lm(12, 5), o);
  const Decoded want = plain.generate(args);
  EXPECT_EQ(max_difference(zero.generate(args).tokens, want.tokens), 0);
  EXPECT_EQ(max_difference(none.generate(args).tokens, want.tokens), 0);
}

TEST(NeuroLogicAStarDecoder, LookAheadsAgreeWhereTheyShould) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const DecodeArgs args{.prompt = prompts(12, {2, 2}, seed), .constraints = mixed()};
    auto decoded = [&](const NeuroLogicAStarOptions& o) {
      return NeuroLogicAStarDecoder(table_lm(12, seed), o).generate(args);
    };
    const Decoded want = decoded(star("greedy"));
    NeuroLogicAStarOptions o = star("beam");
    o.lookahead_width = 1;
    EXPECT_EQ(max_difference(decoded(o).tokens, want.tokens), 0) << "a beam of one";
    o = star("sample");
    o.lookahead_top_k = 1;
    EXPECT_EQ(max_difference(decoded(o).tokens, want.tokens), 0) << "drawn from one token";
    o = star("soft");
    o.soft_temperature = 1e-3;
    EXPECT_EQ(max_difference(decoded(o).tokens, want.tokens), 0) << "cold soft tokens";
  }
}

TEST(NeuroLogicAStarDecoder, ChunksDoNotMatter) {
  const DecodeArgs args{.prompt = prompts(12, {2, 2}), .constraints = mixed()};
  for (const char* kind : {"greedy", "soft", "beam", "sample"}) {
    Tensor want;
    for (const int64_t chunk : {1, 7, 1000}) {
      NeuroLogicAStarOptions o = star(kind);
      o.lookahead_chunk = chunk;
      o.fallback = "likelihood";
      Generator g(3);
      DecodeArgs with = args;
      with.generator = &g;
      const Tensor got = NeuroLogicAStarDecoder(table_lm(12, 5), o).generate(with).tokens;
      if (want.defined()) {
        EXPECT_EQ(max_difference(got, want), 0) << kind << " " << chunk;
      }
      want = got;
    }
  }
}

// A model of the user's own: the last token's row of a table.
class BigramLM : public LanguageModel {
 public:
  explicit BigramLM(const Tensor& table) : table_(parameter("table", table)) {}
  struct Rows : LanguageState {
    explicit Rows(int64_t n) : count(n) {}
    int64_t rows() const override { return count; }
    Box<LanguageState> select(const std::vector<int64_t>& rows) const override {
      return Box<LanguageState>(new Rows(static_cast<int64_t>(rows.size())));
    }
    int64_t count;
  };
  int64_t vocab_size() const override { return table_.size(1); }
  Box<LanguageState> init_state(int64_t rows) override {
    return Box<LanguageState>(new Rows(rows));
  }
  Tensor step(const Tensor& tokens, LanguageState&) override {
    return index_select(table_, 0, tokens);
  }

 private:
  Tensor& table_;
};

// N(0, 1) logits, 6 successors of each token raised by 4, the end 3 below the best.
Tensor random_bigrams(int64_t v, Generator& g) {
  Tensor t = randn({v, v}, kFloat32, &g);
  for (int64_t i = 0; i < v; ++i) {
    const Tensor next = randperm(v, &g).narrow(0, 0, 6);
    for (const int64_t k : next.to_vector<int64_t>()) t[i].narrow(0, k, 1).add_(4);
    t[i].narrow(0, 0, 1).fill_(-99);
    t[i].narrow(0, 0, 1).fill_(amax(t[i]).item() - 3);
  }
  return t;
}

// The paper's claim at a small size.
TEST(NeuroLogicAStarDecoder, MeetsMoreClausesThanNeuroLogicAndThatMoreThanBeamSearch) {
  constexpr int64_t v = 120, models = 60;
  double met[3] = {};
  for (std::uint64_t seed = 1; seed <= models; ++seed) {
    Generator g(seed);
    const Tensor table = random_bigrams(v, g);
    auto model = [&] { return Box<LanguageModel>(new BigramLM(table.clone())); };
    const Ids w = (randperm(v - 1, &g) + 1).narrow(0, 0, 6).to_vector<int64_t>();
    Constraints c;
    c.any({{w[0]}, {w[1]}}).any({{w[2]}}).any({{w[3]}, {w[4]}});
    const DecodeArgs args{.prompt = full({1, 1}, w[5], kInt64), .constraints = c};
    BeamSearchDecoder beams(model(), {.eos_id = 0, .max_new_tokens = 16, .no_repeat_ngram = 3});
    met[0] +=
        static_cast<double>(count_met(c, 0, output(beams.generate({.prompt = args.prompt}), 0)));
    NeuroLogicDecoder logic(model(), {.eos_id = 0, .max_new_tokens = 16, .no_repeat_ngram = 3});
    met[1] += logic.generate(args).satisfied.item();
    NeuroLogicAStarDecoder ahead(model(),
                                 {.eos_id = 0, .max_new_tokens = 16, .no_repeat_ngram = 3});
    met[2] += ahead.generate(args).satisfied.item();
  }
  for (double& m : met) m /= 3 * models;
  EXPECT_GE(met[2], 0.95);
  EXPECT_GE(met[2], met[1] + 0.1);
  EXPECT_GE(met[1], met[0] + 0.4);
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
