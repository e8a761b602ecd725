#include "generation/clauses.h"

#include <algorithm>
#include <map>

#include "kernels/hd.h"

namespace dropin::generation {

bool ends_with(TokenSpan output, TokenSpan run, std::size_t count) {
  return output.size() >= count &&
         std::equal(run.begin(), run.begin() + static_cast<std::ptrdiff_t>(count),
                    output.end() - static_cast<std::ptrdiff_t>(count));
}

int64_t begun(TokenSpan output, TokenSpan run) {
  for (std::size_t j = run.size() - 1; j > 0; --j)
    if (ends_with(output, run, j)) return static_cast<int64_t>(j);
  return 0;
}

Clauses::Clauses(const Constraints& all, int64_t example) {
  std::map<int64_t, Clause> by_number;
  for (const Literal& l : all.literals()) {
    if (l.example != example) continue;
    Clause& c = by_number[l.clause];
    c.literals.push_back(literals_.size());
    c.positive = c.positive || l.positive;
    literals_.push_back(l);
  }
  for (auto& [number, c] : by_number) {
    counted_ += c.positive;
    clauses_.push_back(std::move(c));
  }
}

void Clauses::append(TokenSpan output, std::vector<char>& occurred) const {
  for (std::size_t i = 0; i < literals_.size(); ++i)
    if (!occurred[i] && ends_with(output, literals_[i].tokens, literals_[i].tokens.size()))
      occurred[i] = 1;
}

bool Clauses::holds(const Clause& c, const std::vector<char>& occurred) const {
  return std::any_of(c.literals.begin(), c.literals.end(), [&](std::size_t i) {
    return literals_[i].positive == static_cast<bool>(occurred[i]);
  });
}

int64_t Clauses::met(const std::vector<char>& occurred) const {
  int64_t n = 0;
  for (const Clause& c : clauses_) n += c.positive && holds(c, occurred);
  return n;
}

std::vector<bool> Clauses::reached(const std::vector<char>& occurred) const {
  std::vector<bool> r;
  for (const Clause& c : clauses_)
    r.push_back(std::any_of(c.literals.begin(), c.literals.end(),
                            [&](std::size_t i) { return literals_[i].positive && occurred[i]; }));
  return r;
}

std::vector<const Literal*> Clauses::open(const std::vector<char>& occurred) const {
  std::vector<const Literal*> r;
  for (const Clause& c : clauses_) {
    if (!c.positive || holds(c, occurred)) continue;
    for (const std::size_t i : c.literals)
      if (literals_[i].positive) r.push_back(&literals_[i]);
  }
  return r;
}

void Clauses::ban(TokenSpan output, const std::vector<char>& occurred, double* lp) const {
  for (const Clause& c : clauses_) {
    if (c.positive) continue;
    int64_t last = -1;  // the token that completes all that are missing
    bool one = true;
    for (const std::size_t i : c.literals) {
      if (occurred[i]) continue;
      const std::vector<int64_t>& run = literals_[i].tokens;
      one = one && (last < 0 || last == run.back()) && ends_with(output, run, run.size() - 1);
      last = run.back();
    }
    if (one && last >= 0) lp[last] = -kernels::kInf<double>;
  }
}

}  // namespace dropin::generation
