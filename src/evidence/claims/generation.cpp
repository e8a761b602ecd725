// Claims of the room generation.
#include <fmt/format.h>

#include <algorithm>

#include "dropin/generation/neurologic.h"
#include "evidence/claims.h"
#include "evidence/claims/tensors.h"

namespace dropin::evidence {

namespace {

// NeuroLogicAStarDecoder: words that random models of pairs have to say

constexpr int64_t kWords = 120, kEnd = 0;

struct PairOptions {
  int64_t vocab_size = kWords;
  static void fields(auto&& f) { f("vocab_size", &PairOptions::vocab_size, "token ids"); }
};
struct PairRows : LanguageState {
  explicit PairRows(int64_t n) : count(n) {}
  int64_t rows() const override { return count; }
  Box<LanguageState> select(const std::vector<int64_t>& rows) const override {
    return Box<LanguageState>(new PairRows(static_cast<int64_t>(rows.size())));
  }
  int64_t count;
};
// The next token depends on the last one alone.
class PairLM : public Component<PairLM, PairOptions, LanguageModel> {
 public:
  explicit PairLM(const PairOptions& o) : Component(o) {
    table_ = &parameter("table", zeros({o.vocab_size, o.vocab_size}));
  }
  int64_t vocab_size() const override { return options_.vocab_size; }
  Box<LanguageState> init_state(int64_t rows) override {
    return Box<LanguageState>(new PairRows(rows));
  }
  Tensor step(const Tensor& tokens, LanguageState&) override {
    return index_select(*table_, 0, tokens);
  }
  bool has_soft_step() const override { return true; }
  Tensor step_soft(const Tensor& probs, LanguageState&) override {
    return matmul(probs.to(table_->dtype()), *table_);
  }

 private:
  Tensor* table_;
};

// Normal logits; six successors of each token are raised by 4, the end is 3 below the best one.
Box<LanguageModel> random_pairs(std::uint64_t seed) {
  Box<PairLM> m(new PairLM({}));
  Tensor z = normal({kWords, kWords}, seed);
  Generator g(seed + 1000);
  for (int64_t i = 0; i < kWords; ++i) {
    float* row = z.data<float>() + i * kWords;
    const std::vector<int64_t> next = (randperm(kWords - 1, &g) + 1).to_vector<int64_t>();
    for (std::size_t k = 0; k < 6; ++k) row[next[k]] += 4;
    row[kEnd] = *std::max_element(row + 1, row + kWords) - 3;
  }
  no_grad guard;
  m->parameters()[0].copy_(z);
  return m;
}

// What a decoder's texts hold of the clauses.
struct Held {
  double clauses = 0, all = 0, log_prob = 0;  // shares, and a token's mean
};

struct WordTask {
  std::vector<std::vector<int64_t>> clauses;  // of which one word each must occur
  int64_t first;                              // token
};
WordTask random_words(std::uint64_t seed) {
  Generator g(seed + 2000);
  const std::vector<int64_t> w = (randperm(kWords - 1, &g) + 1).to_vector<int64_t>();
  return {{{w[0], w[1]}, {w[2]}, {w[3], w[4]}}, w[5]};
}

template <class D>
Held held_of(typename D::Options o, bool told) {
  constexpr int64_t kModels = 60;
  o.eos_id = kEnd;
  o.max_new_tokens = 16;
  o.no_repeat_ngram = 3;
  o.num_beams = 5;
  Held h;
  for (int64_t i = 0; i < kModels; ++i) {
    const WordTask task = random_words(static_cast<std::uint64_t>(i));
    Constraints c;
    for (const auto& clause : task.clauses) {
      std::vector<std::vector<int64_t>> runs;
      for (const int64_t w : clause) runs.push_back({w});
      if (told) c.any(runs);
    }
    Generator g(static_cast<std::uint64_t>(i));
    D decoder(random_pairs(static_cast<std::uint64_t>(i)), o);
    const Decoded d = decoder.generate(
        {.prompt = full({1, 1}, task.first, kInt64), .constraints = c, .generator = &g});
    const std::vector<int64_t> text = d.tokens.to_vector<int64_t>();
    double met = 0;
    for (const auto& clause : task.clauses)
      met +=
          std::find_first_of(text.begin(), text.end(), clause.begin(), clause.end()) != text.end();
    h.clauses += met / static_cast<double>(task.clauses.size() * kModels);
    h.all += (met == static_cast<double>(task.clauses.size())) / static_cast<double>(kModels);
    h.log_prob += d.scores.item() / static_cast<double>(kModels);
  }
  return h;
}

void constrained_words(Findings& f, const ClaimData&) {
  auto told = [&f](const char* name, const Held& h) {
    f.report(
        fmt::format("{}: clauses satisfied {:.2f}, all of them {:.2f}, log-probability of a "
                    "token {:.2f}",
                    name, h.clauses, h.all, h.log_prob));
    return h;
  };
  const Held beam = told("beam search", held_of<BeamSearchDecoder>({}, false)),
             logic = told("NeuroLogic", held_of<NeuroLogicDecoder>({}, true)),
             star = told("A*, greedy", held_of<NeuroLogicAStarDecoder>({}, true));
  auto look = [](const char* how, double alpha, int64_t width) {
    NeuroLogicAStarOptions o;
    o.lookahead = how;
    o.alpha = alpha;
    o.lookahead_width = width;
    return held_of<NeuroLogicAStarDecoder>(o, true);
  };
  told("A*, soft", look("soft", 0.25, 1));
  told("A*, 4 beams", look("beam", 0.45, 4));
  told("A*, 5 samples", look("sample", 0.3, 5));
  f.above("A*, greedy: clauses satisfied", star.clauses, 0.95);
  f.above("what it gains over NeuroLogic", star.clauses - logic.clauses, 0.1);
  f.above("what NeuroLogic gains over beam search", logic.clauses - beam.clauses, 0.4);
  f.below("what its tokens lose in log-probability to beam search", beam.log_prob - star.log_prob,
          0.4);
}

}  // namespace

void generation_claims(Claims& all) {
  all.push_back({{"NeuroLogicAStarDecoder", "NeuroLogicDecoder"},
                 "",
                 "more of the words that a text must hold than beam search and NeuroLogic bring, "
                 "in texts about as probable",
                 "state of the art on constrained generation tasks; here 60 random models of 120 "
                 "tokens, 3 clauses, 5 beams, 16 tokens",
                 constrained_words,
                 ""});
}

}  // namespace dropin::evidence
