// Beam search, and what searches with several hypotheses share.
#include <cmath>
#include <map>

#include "generation/beams.h"

namespace dropin {

namespace generation {

double BeamRules::score(const Hypothesis& h) const {
  const auto n = static_cast<double>(h.length() + (with_prompt ? h.prompt : 0));
  return n > 0 ? h.sum / std::pow(n, penalty) : h.sum;
}

std::vector<Grown> best_grown(const std::vector<Hypothesis>& beam,
                              const std::vector<std::vector<double>>& lp, int64_t k) {
  std::vector<double> sums;
  for (std::size_t h = 0; h < beam.size(); ++h)
    for (const double x : lp[h]) sums.push_back(beam[h].sum + x);
  std::vector<Grown> r;
  const auto v = beam.empty() ? 1 : static_cast<int64_t>(lp[0].size());
  for (const int64_t i : best_of(sums.data(), static_cast<int64_t>(sums.size()), k))
    r.push_back({i / v, i % v, sums[at(i)]});
  return r;
}

Hypothesis grown(const std::vector<Hypothesis>& beam, const Grown& g) {
  Hypothesis h = beam[at(g.parent)];
  h.append(g.token);
  h.sum = g.sum;
  return h;
}

}  // namespace generation

using generation::BeamRules;
using generation::Finished;
using generation::Hypothesis;
using generation::Limits;
using generation::Rows;

namespace {

Limits beam_limits(const BeamSearchOptions& o, const LanguageModel& base) {
  const Limits l = generation::limits_of("BeamSearchDecoder", o, base);
  generation::beam_rules(l, o, o.num_beams);
  DROPIN_CHECK(o.num_groups >= 1 && o.num_beams % o.num_groups == 0, OptionError, l.who,
               ": num_groups is ", o.num_groups,
               ", expected a divisor of num_beams = ", o.num_beams);
  DROPIN_CHECK(o.diversity_penalty >= 0, OptionError, l.who, ": diversity_penalty is ",
               o.diversity_penalty, ", expected 0 or more");
  return l;
}

// The groups of one example's beams.
class BeamSearch {
 public:
  BeamSearch(const Limits& l, const BeamSearchOptions& o, const Hypothesis& start)
      : limits_(l), options_(o), width_(o.num_beams / o.num_groups) {
    rules_ = generation::beam_rules(l, o, o.num_beams);
    for (int64_t g = 0; g < o.num_groups; ++g)
      groups_.push_back({{start}, generation::Pool(width_)});
  }

  bool done = false;
  std::vector<Hypothesis> beam;  // of all groups, as choose() leaves them

  void propose(const Rows& rows) {
    std::size_t k = 0;  // the beam's hypotheses are the groups', now with their rows
    for (auto& g : groups_)
      for (Hypothesis& h : g.beam)
        if (!beam.empty()) h.row = beam[k++].row;
    for (auto& g : groups_) {
      lp_.emplace_back();
      for (const Hypothesis& h : g.beam) lp_.back().push_back(limits_.masked(h, rows[h.row]));
    }
  }

  void choose(int64_t t) {
    std::map<int64_t, double> taken;  // by earlier groups, how often
    beam.clear();
    done = true;
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      generation::BeamState& g = groups_[i];
      if (g.done) continue;
      step(g, lp_[i], taken, t);
      for (const Hypothesis& h : g.beam) taken[h.text.back()] += 1;
      if (!g.done) beam.insert(beam.end(), g.beam.begin(), g.beam.end());
      done = done && g.done;
    }
    lp_.clear();
  }

  std::vector<Finished> results() const {
    generation::Pool all(options_.num_beams);
    for (const auto& g : groups_)
      for (const Finished& f : g.pool.kept()) all.add(f);
    return all.kept();
  }

 private:
  // The best 2 W; the penalty orders them, their sums are without it.
  std::vector<generation::Grown> best(const generation::BeamState& g,
                                      std::vector<std::vector<double>>& lp,
                                      const std::map<int64_t, double>& taken) const {
    if (options_.diversity_penalty == 0) return best_grown(g.beam, lp, 2 * width_);
    for (auto& row : lp)
      for (const auto& [token, times] : taken) row[at(token)] -= options_.diversity_penalty * times;
    auto r = best_grown(g.beam, lp, 2 * width_);
    for (auto& c : r) {
      const auto found = taken.find(c.token);
      if (found != taken.end()) c.sum += options_.diversity_penalty * found->second;
    }
    return r;
  }

  void step(generation::BeamState& g, std::vector<std::vector<double>>& lp,
            const std::map<int64_t, double>& taken, int64_t t) {
    const auto all = best(g, lp, taken);
    std::vector<Hypothesis> next;
    for (std::size_t i = 0; i < all.size() && static_cast<int64_t>(next.size()) < width_; ++i) {
      const bool ends = limits_.is_end(all[i].token);
      if (ends && static_cast<int64_t>(i) >= width_) continue;
      Hypothesis h = generation::grown(g.beam, all[i]);
      if (ends)
        g.pool.add(generation::finished(h, rules_.score(h)));
      else
        next.push_back(std::move(h));
    }
    if (!all.empty()) g.beam = std::move(next);
    bool stop = g.beam.empty();
    if (!stop && !all.empty() && g.pool.full()) {
      double live = generation::kBanned;
      for (const Hypothesis& h : g.beam) live = std::max(live, rules_.score(h));
      stop = options_.early_stopping || g.pool.kept().back().score >= live;
    }
    g.done = stop || all.empty() || t == limits_.max_new;
    if (g.done && !stop)
      for (const Hypothesis& h : g.beam) g.pool.add(generation::finished(h, rules_.score(h)));
    if (g.done) g.beam.clear();
  }

  const Limits& limits_;
  const BeamSearchOptions& options_;
  int64_t width_;
  BeamRules rules_;
  std::vector<generation::BeamState> groups_;
  std::vector<std::vector<std::vector<double>>> lp_;  // of each group's hypotheses
};

}  // namespace

std::vector<std::string> BeamSearchDecoder::examples() {
  return {R"({"eos_id": 1, "num_return": 3, "length_penalty": 0.7, "early_stopping": true})",
          R"({"num_beams": 6, "num_groups": 3, "diversity_penalty": 0.5})"};
}

BeamSearchDecoder::BeamSearchDecoder(const BeamSearchOptions& o) : DecoderOf(o) {
  beam_limits(o, base());
}
BeamSearchDecoder::BeamSearchDecoder(Box<LanguageModel> model, const BeamSearchOptions& o)
    : DecoderOf(std::move(model), o) {
  beam_limits(o, base());
}

Decoded BeamSearchDecoder::generate(const DecodeArgs& args) {
  no_grad guard;
  const Limits l = beam_limits(options_, base());
  generation::refuse_constraints(l, args);
  const auto prompts = generation::read_prompts(l, args);
  std::vector<BeamSearch> all;
  for (std::size_t b = 0; b < prompts.size(); ++b)
    all.emplace_back(l, options_, generation::start_of(prompts[b], static_cast<int64_t>(b)));
  generation::run_searches(l, Rows(l.who, base(), prompts), all, [](const Rows&) {});
  std::vector<std::vector<Finished>> results;
  for (const BeamSearch& s : all) results.push_back(s.results());
  return generation::decoded(l, results, false, args.prompt.device());
}

}  // namespace dropin
