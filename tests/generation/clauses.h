// Clauses for tests, and what a text meets of them by definition.
#pragma once
#include <algorithm>

#include "dropin/generation/neurologic.h"
#include "generation/models.h"

namespace dropin::testing {

using Ids = std::vector<int64_t>;

inline Ids output(const Decoded& d, int64_t b) {
  Ids r = d.tokens[b].to_vector<int64_t>();
  r.resize(static_cast<std::size_t>(d.lengths[b].item<int64_t>()));
  return r;
}
inline bool holds(const Ids& text, const Ids& run) {
  return std::search(text.begin(), text.end(), run.begin(), run.end()) != text.end();
}
/// Clauses of example b with a positive literal that hold, by definition.
inline int64_t count_met(const Constraints& c, int64_t b, const Ids& text) {
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
/// Of two examples: alternatives, a phrase, a clause of both kinds, forbidden ones.
inline Constraints mixed() {
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
inline NeuroLogicAStarOptions star(const std::string& lookahead) {
  return {.eos_id = 1,
          .max_new_tokens = 10,
          .num_beams = 4,
          .length_penalty = 0.5,
          .lookahead = lookahead,
          .lookahead_steps = 3,
          .lookahead_width = 2};
}

}  // namespace dropin::testing
