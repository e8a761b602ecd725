// What the decoders share: prompts, hypotheses, the model's rows, bans, results.
#pragma once
#include <algorithm>
#include <string_view>
#include <vector>

#include "dropin/generation/decoder.h"
#include "generation/clauses.h"
#include "kernels/hd.h"

namespace dropin::generation {

inline constexpr double kBanned = -kernels::kInf<double>;

/// A prompt, what was generated behind it, and what that met of the clauses.
struct Hypothesis {
  std::vector<int64_t> text;
  int64_t prompt = 0;  ///< tokens of the prompt
  double sum = 0;      ///< of log-probabilities
  int64_t row = 0;     ///< of the model that ends with it
  int64_t example = 0, result = 0;
  const Clauses* clauses = nullptr;
  std::vector<char> occurred = {};

  int64_t length() const { return static_cast<int64_t>(text.size()) - prompt; }
  TokenSpan output() const { return TokenSpan(text).subspan(at(prompt)); }
  void append(int64_t token);
  int64_t met() const { return clauses ? clauses->met(occurred) : 0; }
  bool complete() const { return !clauses || met() == clauses->counted(); }
};

/// A prompt with nothing behind it, which row `example` ends with.
Hypothesis start_of(const std::vector<int64_t>& prompt, int64_t example);

/// Where texts end, and which tokens they must not hold.
struct Limits {
  std::string_view who;
  int64_t vocab = 0, max_new = 0, min_new = 0, ngram = 0, returns = 1;
  int64_t max_len = INT64_MAX;  ///< of a text, as the base says
  std::vector<int64_t> ends = {};
  bool is_end(int64_t token) const {
    return std::find(ends.begin(), ends.end(), token) != ends.end();
  }
  /// The log-probabilities of h's next token with -inf for those that must not come.
  std::vector<double> masked(const Hypothesis& h, const double* lp) const;
  /// The same in place.
  void ban(const Hypothesis& h, double* lp) const;
};
/// OptionError for options that are none.
void check_limits(const Limits& l, int64_t min_new, int64_t end);
template <class O>
Limits limits_of(std::string_view who, const O& o, const LanguageModel& base) {
  Limits l{who, base.vocab_size(), o.max_new_tokens, o.min_new_tokens, o.no_repeat_ngram};
  l.max_len = base.max_len();
  if constexpr (requires { o.num_return; }) l.returns = o.num_return;
  if (o.eos_id != -1) l.ends.push_back(o.eos_id);
  l.ends.insert(l.ends.end(), o.stop_ids.begin(), o.stop_ids.end());
  for (const int64_t e : l.ends) check_limits(l, o.min_new_tokens, e);
  check_limits(l, o.min_new_tokens, 0);
  return l;
}

using Prompts = std::vector<std::vector<int64_t>>;
/// Rows of args.prompt. Errors say `who`; a prompt with what is generated must fit the model.
Prompts read_prompts(const Limits& l, const DecodeArgs& args);
/// OptionError where there are constraints.
void refuse_constraints(const Limits& l, const DecodeArgs& args);

/// Rows of a model, each with the log-probabilities of its next token.
class Rows {
 public:
  /// Reads prompts.
  Rows(std::string_view who, LanguageModel& model, const Prompts& prompts);
  int64_t count() const { return static_cast<int64_t>(example_.size()); }
  const double* operator[](int64_t row) const { return lp_.data() + row * vocab_; }
  /// Copies of some rows, without log-probabilities.
  Rows select(const std::vector<int64_t>& rows) const;
  /// One more token for every row.
  void step(const std::vector<int64_t>& tokens);
  void step_soft(const Tensor& probs);
  /// Goes on with some rows and a token for each.
  void advance(const std::vector<int64_t>& rows, const std::vector<int64_t>& tokens);
  /// The same in a copy: select(rows) and step(tokens).
  Rows next(const std::vector<int64_t>& rows, const std::vector<int64_t>& tokens) const;

 private:
  Rows(std::string_view who, LanguageModel& model) : who_(who), model_(&model) {}
  void read(const Tensor& logits);
  std::string_view who_;
  LanguageModel* model_;
  Box<LanguageState> state_;
  std::vector<int64_t> example_;  // of each row
  std::vector<double> lp_;
  int64_t vocab_ = 0, steps_ = 0;
};

/// Up to k indices of the largest values above -inf: value descending, then index ascending.
std::vector<int64_t> best_of(const double* values, int64_t n, int64_t k);
/// The first largest index; -1 where all are -inf.
int64_t best_index(const double* values, int64_t n);
/// The first index whose cumulative share of exp(z) exceeds u; the last one with a share at the
/// end; -1 where all are -inf.
int64_t draw(const double* z, int64_t n, double u);
/// log_softmax in place, in float64.
void normalize_row(double* z, int64_t n);

/// A finished text.
struct Finished {
  std::vector<int64_t> tokens;
  double score = 0;
  int64_t met = 0;
};
Finished finished(const Hypothesis& h, double score);
/// The best finished texts, by (met, score); earlier ones win ties.
class Pool {
 public:
  explicit Pool(int64_t size) : size_(size) {}
  void add(Finished f);
  bool full() const { return static_cast<int64_t>(kept_.size()) == size_; }
  const std::vector<Finished>& kept() const { return kept_; }

 private:
  int64_t size_;
  std::vector<Finished> kept_;
};
/// Tensors of each example's results, on the prompt's device; `met` adds satisfied.
Decoded decoded(const Limits& l, const std::vector<std::vector<Finished>>& results, bool met,
                const Device& device);

/// Gives a token for each text (-1: none); may change their log-probabilities lp.
using ChooseTokens = std::function<std::vector<int64_t>(
    const Rows& rows, const std::vector<Hypothesis*>& texts, std::vector<std::vector<double>>& lp)>;
/// Every prompt `returns` times, each text by itself.
std::vector<std::vector<Finished>> one_by_one(const Limits& l, LanguageModel& model,
                                              const Prompts& prompts, const ChooseTokens& choose);

/// Numbers in [0, 1) of each result's places: those given, or of a seed, the example, the result
/// and the place alone.
class Uniforms {
 public:
  /// Draws the seed; without given ones nothing is read.
  explicit Uniforms(Generator* generator);
  /// Checks args.uniforms: [B, (R,) T], T at least `places`.
  Uniforms(const Limits& l, const DecodeArgs& args, int64_t batch, int64_t places);
  double operator()(int64_t example, int64_t result, int64_t place) const;
  /// Of any numbers that name a draw.
  double of(std::initializer_list<int64_t> key) const;

 private:
  std::uint64_t seed_ = 0;
  std::vector<double> given_;
  int64_t returns_ = 1, width_ = 0;
};

/// The mean log-probability, before bans, of the at most `steps` tokens that greedily follow each
/// row; NaN where none does.
std::vector<double> greedy_means(const Limits& l, Rows rows, std::vector<Hypothesis> texts,
                                 int64_t steps);

}  // namespace dropin::generation
