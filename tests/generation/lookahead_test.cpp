// A*esque look aheads: limits where they are equal, draws, the paper's claim at a small size.
#include "generation/clauses.h"

namespace dropin::testing {
namespace {

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

// Rollouts are drawn for the example and the candidate, wherever their rows lie.
TEST(NeuroLogicAStarDecoder, SampledLookAheadsDoNotDependOnTheBatch) {
  const Constraints all = mixed();
  std::vector<Literal> second;
  for (const Literal& l : all.literals())
    if (l.example == 1) second.push_back(l);
  Constraints few(second);  // the first text has one hypothesis then
  for (int64_t t = 2; t < 12; ++t) few.example(0).never({t});
  NeuroLogicAStarOptions o = star("sample");
  o.lookahead_width = 1;
  o.lookahead_top_k = 5;
  o.lookahead_steps = 6;
  o.alpha = 3;
  int64_t changed = 0;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    NeuroLogicAStarDecoder d(table_lm(12, seed), o);
    auto text = [&](const Constraints& c, std::uint64_t draws) {
      Generator g(draws);
      return output(d.generate({.prompt = prompts(12, {2, 2}), .constraints = c, .generator = &g}),
                    1);
    };
    EXPECT_EQ(text(few, 3), text(all, 3));
    changed += text(all, 3) != text(all, 4);
  }
  EXPECT_GT(changed, 0);
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

}  // namespace
}  // namespace dropin::testing
