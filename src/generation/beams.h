// What searches with several hypotheses share.
#pragma once
#include "generation/decoding.h"

namespace dropin::generation {

/// How many hypotheses, and what their scores are.
struct BeamRules {
  int64_t beams = 5;
  double penalty = 1;
  bool with_prompt = false;
  /// S over its length's power.
  double score(const Hypothesis& h) const;
};
/// OptionError for options that are none; `most` results.
template <class O>
BeamRules beam_rules(const Limits& l, const O& o, int64_t most) {
  DROPIN_CHECK(o.num_beams >= 1, OptionError, l.who, ": num_beams is ", o.num_beams,
               ", expected at least 1");
  DROPIN_CHECK(o.num_return <= most, OptionError, l.who, ": num_return is ", o.num_return,
               ", expected at most ", most);
  return {o.num_beams, o.length_penalty, o.length_includes_prompt};
}

/// A hypothesis with one more token.
struct Grown {
  int64_t parent, token;
  double sum;
};
/// The best k of all (hypothesis, token), by sum, then hypothesis, then token. lp: a row each.
std::vector<Grown> best_grown(const std::vector<Hypothesis>& beam,
                              const std::vector<std::vector<double>>& lp, int64_t k);
/// The hypothesis that g is. Its row is its parent's.
Hypothesis grown(const std::vector<Hypothesis>& beam, const Grown& g);

/// One example's search: `beam` lives, `pool` has ended.
struct BeamState {
  std::vector<Hypothesis> beam;
  Pool pool;
  bool done = false;
};

/// Steps all searches side by side. propose(search, rows) reads the rows of a search's beam, which
/// choose(search, t) then replaces by the next one, whose hypotheses name the rows they come from.
/// between(rows) lies between the two.
template <class Search, class Between>
void run_searches(const Limits& l, Rows rows, std::vector<Search>& all, Between&& between) {
  for (int64_t t = 1; t <= l.max_new; ++t) {
    for (Search& s : all)
      if (!s.done) s.propose(rows);
    between(rows);
    std::vector<int64_t> from, tokens;
    for (Search& s : all) {
      if (s.done) continue;
      s.choose(t);
      if (s.done) continue;
      for (Hypothesis& h : s.beam) {
        from.push_back(h.row);
        tokens.push_back(h.text.back());
        h.row = static_cast<int64_t>(tokens.size()) - 1;
      }
    }
    if (tokens.empty() || t == l.max_new) return;
    rows.advance(from, tokens);
  }
}

}  // namespace dropin::generation
