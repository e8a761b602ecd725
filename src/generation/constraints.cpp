#include "dropin/generation/constraints.h"

#include <algorithm>

#include "dropin/core/error.h"
#include "kernels/hd.h"

namespace dropin {

Constraints& Constraints::clause(std::vector<Literal> literals) {
  int64_t number = 0;
  for (const Literal& l : literals_)
    if (l.example == example_) number = std::max(number, l.clause + 1);
  for (Literal& l : literals) {
    DROPIN_CHECK(!l.tokens.empty(), OptionError,
                 "Constraints: a literal is empty, expected at least one token");
    l.clause = number;
    l.example = example_;
    literals_.push_back(std::move(l));
  }
  return *this;
}
Constraints& Constraints::any(const std::vector<std::vector<int64_t>>& runs) {
  std::vector<Literal> literals;
  for (const auto& run : runs) literals.push_back({.tokens = run});
  return clause(std::move(literals));
}
Constraints& Constraints::never(const std::vector<int64_t>& run) {
  return clause({{.tokens = run, .positive = false}});
}

Constraints& Constraints::word(
    const std::string& word,
    const std::function<std::vector<int64_t>(const std::string&)>& encode) {
  std::vector<std::vector<int64_t>> runs;
  for (const std::string& form : inflected_forms(word))
    for (const std::string& text : {form, " " + form}) {
      std::vector<int64_t> run = encode(text);
      if (std::find(runs.begin(), runs.end(), run) == runs.end()) runs.push_back(std::move(run));
    }
  return any(runs);
}

std::vector<std::string> inflected_forms(const std::string& word) {
  if (word.empty()) return {};
  auto vowel = [](char c) { return std::string_view("aeiou").find(c) != std::string_view::npos; };
  const char last = word.back(), before = word.size() > 1 ? word[word.size() - 2] : ' ';
  const std::string stem = word.substr(0, word.size() - 1);
  const bool hisses = last == 's' || last == 'x' || last == 'z' ||
                      (last == 'h' && (before == 'c' || before == 's'));
  if (last == 'y' && !vowel(before)) return {word, stem + "ies", stem + "ied", word + "ing"};
  if (last == 'e' && before != 'e') return {word, word + "s", word + "d", stem + "ing"};
  return {word, word + (hisses ? "es" : "s"), word + "ed", word + "ing"};
}

namespace {

// [M] of a dtype.
Tensor literal_column(const NamedTensors& in, const char* name, DType type, int64_t rows,
                      std::string_view who) {
  const Tensor t = in.get(name, who);
  DROPIN_CHECK(t.dtype() == type && t.sizes() == Shape{rows}, ShapeError, who, ": ", name, " is ",
               t.dtype(), " ", t.sizes(), ", expected ", type, " [", rows, "]");
  return t;
}

std::vector<int64_t> literal_run(const int64_t* row, int64_t width, std::string_view who) {
  const auto length = std::find(row, row + width, -1) - row;
  DROPIN_CHECK(length > 0, OptionError, who,
               ": a row of literal_tokens is empty, expected at least one token");
  for (int64_t k = length; k < width; ++k)
    DROPIN_CHECK(row[k] == -1, OptionError, who,
                 ": a row of literal_tokens has -1 inside, expected it behind the tokens only");
  return {row, row + length};
}

}  // namespace

Constraints Constraints::of(const NamedTensors& in, std::string_view who) {
  const Tensor tokens = in.find("literal_tokens");
  if (!tokens.defined()) return {};
  DROPIN_CHECK(tokens.dtype() == kInt64, DTypeError, who, ": literal_tokens is ", tokens.dtype(),
               ", expected int64");
  DROPIN_CHECK(tokens.dim() == 2, ShapeError, who, ": literal_tokens is ", tokens.sizes(),
               ", expected [M, K]");
  const int64_t rows = tokens.size(0), width = tokens.size(1);
  const auto ids = tokens.to_vector<int64_t>();
  const auto example =
      literal_column(in, "literal_example", kInt64, rows, who).to_vector<int64_t>();
  const auto clause = literal_column(in, "literal_clause", kInt64, rows, who).to_vector<int64_t>();
  const auto positive = literal_column(in, "literal_positive", kBool, rows, who).to_vector();
  const bool keyed = in.contains("literal_key");
  std::vector<double> key(at(rows), 1);
  if (keyed) key = literal_column(in, "literal_key", kBool, rows, who).to_vector();
  std::vector<Literal> literals;
  for (int64_t i = 0; i < rows; ++i)
    literals.push_back({literal_run(ids.data() + i * width, width, who), positive[at(i)] != 0,
                        key[at(i)] != 0, clause[at(i)], example[at(i)]});
  return Constraints(std::move(literals));
}

}  // namespace dropin
