// Cost: beams rows of the model per step; of the host a pass over beams x V sums for the best ones
// and the rank that prunes, then prune_factor candidates or so with their clauses.
#include "generation/neuro_search.h"

#include <cmath>
#include <map>

namespace dropin::generation {

namespace {

// The least sum of a dense rank below `prune`: sums from here on have fewer than prune - 1 distinct
// larger ones. +inf: none has.
double least_kept(const std::vector<double>& sums, int64_t prune) {
  if (prune <= 1) return kernels::kInf<double>;
  std::vector<double> all;
  for (const double s : sums)
    if (s != kBanned) all.push_back(s);
  const auto n = static_cast<int64_t>(all.size());
  for (int64_t k = std::min(n, prune - 1); k > 0; k = std::min(n, 4 * k)) {
    std::nth_element(all.begin(), all.begin() + k - 1, all.end(), std::greater<>());
    std::vector<double> top(all.begin(), all.begin() + k);
    std::sort(top.begin(), top.end(), std::greater<>());
    top.erase(std::unique(top.begin(), top.end()), top.end());
    if (static_cast<int64_t>(top.size()) >= prune - 1) return top[at(prune - 2)];
    if (k == n) break;
  }
  return kBanned;
}

using Candidate = NeuroSearch::Candidate;

bool by_sum(const Candidate& a, const Candidate& b) {
  if (a.text.sum != b.text.sum) return a.text.sum > b.text.sum;
  return a.parent != b.parent ? a.parent < b.parent : a.token < b.token;
}
bool by_rank(const Candidate& a, const Candidate& b) {
  if (a.rank != b.rank) return a.rank > b.rank;
  return a.parent != b.parent ? a.parent < b.parent : a.token < b.token;
}

}  // namespace

NeuroSearch::NeuroSearch(const Limits& l, const NeuroRules& rules, const Hypothesis& start)
    : beam{start}, limits_(l), rules_(rules), pool_(2 * rules.beams.beams) {}

void NeuroSearch::add(std::vector<Candidate>& to, int64_t parent, int64_t token, double sum) {
  Candidate c{grown(beam, {parent, token, sum}), parent, token};
  c.met = c.text.met();
  to.push_back(std::move(c));
}

// Step 1: the best of all.
void NeuroSearch::best_overall(const std::vector<double>& sums, std::vector<bool>& taken) {
  const int64_t v = limits_.vocab;
  for (const int64_t i :
       best_of(sums.data(), static_cast<int64_t>(sums.size()), rules_.beams.beams)) {
    const int64_t h = i / v, w = i % v;
    taken[at(i)] = true;
    if (beam[at(h)].complete())
      add(complete_, h, w, sums[at(i)]);
    else if (!limits_.is_end(w) || w == best_[at(h)][0])
      add(open_, h, w, sums[at(i)]);
  }
}

// Steps 2 and 3: of each hypothesis the tokens that go on with an open literal, its own best, and
// ends of complete ones.
void NeuroSearch::best_of_rows(const std::vector<double>& sums, std::vector<bool>& taken) {
  const int64_t v = limits_.vocab;
  const double least = least_kept(sums, rules_.prune);
  for (std::size_t h = 0; h < beam.size(); ++h) {
    const Hypothesis& text = beam[h];
    const bool complete = text.complete();
    const auto row = static_cast<int64_t>(h);
    std::vector<int64_t> tokens;
    if (text.clauses)
      for (const Literal* l : text.clauses->open(text.occurred))
        for (std::size_t j = 0; j < l->tokens.size(); ++j)
          if (ends_with(text.output(), l->tokens, j)) tokens.push_back(l->tokens[j]);
    for (std::size_t k = 0; k < best_[h].size() && k < at(rules_.beams.beams); ++k)
      if (complete || !limits_.is_end(best_[h][k])) tokens.push_back(best_[h][k]);
    for (const int64_t w : tokens) {
      const std::size_t i = at(row * v + w);
      if (taken[i] || sums[i] == kBanned || sums[i] < least) continue;
      taken[i] = true;
      add(complete && limits_.is_end(w) ? complete_ : open_, row, w, sums[i]);
    }
    const auto ends = static_cast<std::size_t>(
        std::floor(rules_.eos_top * static_cast<double>(rules_.beams.beams)));
    for (std::size_t k = 0; complete && k < std::min(ends, best_[h].size()); ++k) {
      const int64_t w = best_[h][k];
      const std::size_t i = at(row * v + w);
      if (!limits_.is_end(w) || taken[i]) continue;
      taken[i] = true;
      add(complete_, row, w, sums[i]);
    }
  }
}

void NeuroSearch::propose(const Rows& rows) {
  lp_.clear();
  best_.clear();
  open_.clear();
  complete_.clear();
  std::vector<double> sums;
  const double most = std::max(1.0, rules_.eos_top) * static_cast<double>(rules_.beams.beams);
  for (const Hypothesis& h : beam) {
    lp_.push_back(limits_.masked(h, rows[h.row]));
    best_.push_back(best_of(lp_.back().data(), limits_.vocab, static_cast<int64_t>(most)));
    for (const double x : lp_.back()) sums.push_back(h.sum + x);
  }
  std::vector<bool> taken(sums.size());
  best_overall(sums, taken);
  best_of_rows(sums, taken);
  prune_by_met();
}

// Step 4.
void NeuroSearch::prune_by_met() {
  int64_t most = 0;
  for (const Candidate& c : open_) most = std::max(most, c.met);
  std::erase_if(open_, [&](const Candidate& c) { return c.met < most - rules_.tolerance; });
}

// Step 5.
void NeuroSearch::rank(int64_t t) {
  for (Candidate& c : open_) {
    c.rank = c.text.sum / static_cast<double>(t);
    double least = 2;  // share of a begun literal that remains
    if (c.text.clauses && rules_.partial != 0)
      for (const Literal* l : c.text.clauses->open(c.text.occurred)) {
        const auto length = static_cast<double>(l->tokens.size());
        const int64_t n = begun(c.text.output(), l->tokens);
        if (n > 0) least = std::min(least, (length - static_cast<double>(n)) / length);
      }
    if (least < 2) c.rank -= rules_.partial * std::log(least);
    if (c.ahead) c.rank += *c.ahead;
  }
}

// Step 6: the best finished ones; then group by group of clauses reached the first, the second, ...
std::vector<NeuroSearch::Candidate> NeuroSearch::picks() {
  const auto width = at(rules_.beams.beams);
  std::sort(complete_.begin(), complete_.end(), by_sum);
  if (complete_.size() > width)
    complete_.erase(complete_.begin() + rules_.beams.beams, complete_.end());
  std::sort(open_.begin(), open_.end(), by_rank);
  std::map<std::vector<bool>, std::size_t> members;
  std::vector<std::vector<std::size_t>> rounds;
  for (std::size_t i = 0; i < open_.size(); ++i) {
    const Hypothesis& h = open_[i].text;
    const std::size_t d =
        members[h.clauses ? h.clauses->reached(h.occurred) : std::vector<bool>()]++;
    if (rounds.size() <= d) rounds.emplace_back();
    rounds[d].push_back(i);
  }
  std::vector<Candidate> r = std::move(complete_);
  for (const auto& round : rounds)
    for (const std::size_t i : round)
      if (r.size() < 2 * width) r.push_back(std::move(open_[i]));
  return r;
}

void NeuroSearch::end(const std::vector<Hypothesis>& live) {
  for (const Hypothesis& h : live) pool_.add(finished(h, rules_.beams.score(h)));
}

// Steps 7 and 8, of picks in their order.
void NeuroSearch::walk(const std::vector<Candidate>& order, int64_t t) {
  std::vector<Hypothesis> next;
  for (const Candidate& c : order) {
    if (static_cast<int64_t>(next.size()) == rules_.beams.beams) break;
    if (limits_.is_end(c.token))
      end({c.text});
    else
      next.push_back(c.text);
  }
  beam = std::move(next);
  done = beam.empty();
  if (done) return;
  double live = kBanned;
  for (const Hypothesis& h : beam) live = std::max(live, rules_.beams.score(h));
  const Clauses* clauses = beam[0].clauses;
  const int64_t all = clauses ? clauses->counted() : 0;
  done = pool_.full() && pool_.kept().back().met == all && pool_.kept().back().score >= live;
  if (done || t < limits_.max_new) return;
  end(beam);
  done = true;
}

void NeuroSearch::choose(int64_t t) {
  if (open_.empty() && complete_.empty()) {  // nothing may follow: they end as they are
    end(beam);
    done = true;
    return;
  }
  rank(t);
  const std::size_t finished_picks = std::min(complete_.size(), at(rules_.beams.beams));
  std::vector<Candidate> order = picks();
  const auto begin = order.begin() + static_cast<std::ptrdiff_t>(finished_picks);
  const auto middle = std::min(order.end(), begin + rules_.beams.beams);
  std::sort(begin, middle, by_sum);
  std::sort(middle, order.end(), by_sum);
  walk(order, t);
}

}  // namespace dropin::generation
