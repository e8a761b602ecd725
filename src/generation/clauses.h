// The clauses of one example, and what a text has met of them.
#pragma once
#include <span>
#include <vector>

#include "dropin/generation/constraints.h"

namespace dropin::generation {

using TokenSpan = std::span<const int64_t>;

/// Literals are numbered; which of them occurred is a flag each.
class Clauses {
 public:
  Clauses() = default;
  /// Those of `all` that are of this example.
  Clauses(const Constraints& all, int64_t example);

  std::vector<char> none() const { return std::vector<char>(literals_.size(), 0); }
  /// Marks what `output`, by its last token, makes occur.
  void append(TokenSpan output, std::vector<char>& occurred) const;
  /// Clauses with a positive literal, and how many of them hold.
  int64_t counted() const { return counted_; }
  int64_t met(const std::vector<char>& occurred) const;
  /// For each clause whether a positive literal occurred.
  std::vector<bool> reached(const std::vector<char>& occurred) const;
  /// Positive literals of counted clauses that do not hold.
  std::vector<const Literal*> open(const std::vector<char>& occurred) const;
  /// -inf for tokens that would break a clause of negative literals.
  void ban(TokenSpan output, const std::vector<char>& occurred, double* lp) const;

 private:
  struct Clause {
    std::vector<std::size_t> literals;
    bool positive = false;
  };
  bool holds(const Clause& c, const std::vector<char>& occurred) const;
  std::vector<Literal> literals_;
  std::vector<Clause> clauses_;
  int64_t counted_ = 0;
};

/// Whether the first `count` tokens of `run` end the output.
bool ends_with(TokenSpan output, TokenSpan run, std::size_t count);
/// How many tokens of an unfinished run end the output: the most, 0 where it is not begun.
int64_t begun(TokenSpan output, TokenSpan run);

}  // namespace dropin::generation
