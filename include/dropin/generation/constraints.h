// Constraints: what a text must and must not hold, clause by clause.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/module/named_tensors.h"

namespace dropin {

/// A run of tokens that occurs in the output (positive) or does not.
struct Literal {
  std::vector<int64_t> tokens;
  bool positive = true;
  bool key = true;  ///< positive ones: A* looks ahead for it
  int64_t clause = 0, example = 0;
};

/// Clauses of literals, all of which have to hold; a clause holds if one of its literals does.
///   Constraints().any({{7}, {9, 4}}).never({2, 11})
class Constraints {
 public:
  Constraints() = default;
  explicit Constraints(std::vector<Literal> literals) : literals_(std::move(literals)) {}
  /// Clauses that follow are of this prompt of the batch; 0 before the first call.
  Constraints& example(int64_t index) {
    example_ = index;
    return *this;
  }
  /// One of these runs has to occur.
  Constraints& any(const std::vector<std::vector<int64_t>>& runs);
  /// This run must not occur.
  Constraints& never(const std::vector<int64_t>& run);
  /// Any literals; their clause and example are set here.
  Constraints& clause(std::vector<Literal> literals);
  /// The word or one of its inflected forms, with and without a blank before it, has to occur;
  /// `encode` gives a text's tokens.
  Constraints& word(const std::string& word,
                    const std::function<std::vector<int64_t>(const std::string&)>& encode);
  /// literal_tokens [M, K] int64 (-1: padding), literal_example, literal_clause [M] int64,
  /// literal_positive and, where not all are, literal_key [M] bool. None without literal_tokens.
  /// Errors say `who`: StateError for a missing tensor, ShapeError, DTypeError, OptionError for a
  /// literal that is empty or has -1 inside.
  static Constraints of(const NamedTensors& in, std::string_view who);

  const std::vector<Literal>& literals() const { return literals_; }
  bool empty() const { return literals_.empty(); }

 private:
  std::vector<Literal> literals_;
  int64_t example_ = 0;
};

/// An English word and its regular forms: "carry" -> carry, carries, carried, carrying.
std::vector<std::string> inflected_forms(const std::string& word);

}  // namespace dropin
