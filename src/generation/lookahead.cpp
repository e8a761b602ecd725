// Cost: for C candidates of all examples, C rows of the model for each of the lookahead_steps
// places (times the width of beam and sample), and a row for each further token of a literal that
// may still be the best. A place's log-probability of a literal's first token over its length
// bounds the literal's value, for log-probabilities are at most 0.
#include "generation/lookahead.h"

#include <cmath>
#include <numeric>

namespace dropin::generation {

namespace {

using Run = std::vector<int64_t>;

// A candidate, and the runs it is judged by.
struct Task {
  NeuroSearch::Candidate* candidate;
  std::vector<Run> keys, remainders;  // open key literals; what is missing of begun ones
  double value = kBanned;
  std::vector<double> ended = {};  // of beam: sums of the best that ended
};
// A way on from a candidate; the row it ends with is its index.
struct Way {
  std::size_t task;
  Hypothesis text;
  int64_t number = 0;  // of sample's
  int64_t parent = 0;  // of the candidate
  bool has_room(const Limits& l, std::size_t more) const {
    return static_cast<int64_t>(text.text.size() + more) <= l.max_len;
  }
};

class LookAhead {
 public:
  LookAhead(const NeuroLogicAStarOptions& o, const Limits& l, const Uniforms& u, int64_t t)
      : o_(o), l_(l), uniforms_(u), t_(t) {}

  // Candidates' rows and what they are to be judged by -> values.
  void values(std::vector<Task>& tasks, const Rows& parents) {
    Rows rows = start(tasks, parents);
    for (int64_t tau = 0; tau < o_.lookahead_steps && !ways_.empty(); ++tau) {
      judge(tasks, rows, tau == 0);
      if (tau + 1 < o_.lookahead_steps) go_on(tasks, rows, tau);
    }
  }

 private:
  Rows start(std::vector<Task>& tasks, const Rows& parents);
  void judge(std::vector<Task>& tasks, const Rows& rows, bool first);
  void judge_long(std::vector<Task>& tasks, const Rows& rows,
                  std::vector<std::pair<std::size_t, Run>> runs);
  void go_on(std::vector<Task>& tasks, Rows& rows, int64_t tau);
  void beam_on(std::vector<Task>& tasks, Rows& rows);
  int64_t next_token(const Way& way, std::vector<double>& lp, int64_t tau) const;

  const NeuroLogicAStarOptions& o_;
  const Limits& l_;
  const Uniforms& uniforms_;
  int64_t t_;
  std::vector<Way> ways_;
};

Rows LookAhead::start(std::vector<Task>& tasks, const Rows& parents) {
  std::vector<int64_t> from, tokens;
  const int64_t each = o_.lookahead == "sample" ? o_.lookahead_width : 1;
  for (std::size_t i = 0; i < tasks.size(); ++i)
    for (int64_t k = 0; k < each; ++k) {
      const Hypothesis& h = tasks[i].candidate->text;
      from.push_back(h.row);
      tokens.push_back(h.text.back());
      ways_.push_back({i, h, k, tasks[i].candidate->parent});
      ways_.back().text.sum = 0;
    }
  return parents.next(from, tokens);
}

// Tries the runs behind every way: those of one token at once, longer ones if they may be best.
void LookAhead::judge(std::vector<Task>& tasks, const Rows& rows, bool first) {
  std::vector<std::pair<std::size_t, Run>> longer;
  for (std::size_t r = 0; r < ways_.size(); ++r) {
    Task& task = tasks[ways_[r].task];
    auto try_run = [&](const Run& run) {
      const double lp = rows[static_cast<int64_t>(r)][run[0]];
      if (run.size() == 1)
        task.value = std::max(task.value, lp);
      else if (ways_[r].has_room(l_, run.size() - 1))
        longer.emplace_back(r, run);
    };
    for (const Run& run : task.keys) try_run(run);
    if (first && ways_[r].number == 0)
      for (const Run& run : task.remainders) try_run(run);
  }
  judge_long(tasks, rows, std::move(longer));
}

// Runs (a way's row, tokens) of several tokens, one more token of each at a time.
void LookAhead::judge_long(std::vector<Task>& tasks, const Rows& rows,
                           std::vector<std::pair<std::size_t, Run>> runs) {
  std::vector<double> sums;
  std::vector<int64_t> from, tokens;
  std::erase_if(runs, [&](const auto& run) {
    const double lp = rows[static_cast<int64_t>(run.first)][run.second[0]];
    if (lp / static_cast<double>(run.second.size()) <= tasks[ways_[run.first].task].value)
      return true;
    sums.push_back(lp);
    from.push_back(static_cast<int64_t>(run.first));
    tokens.push_back(run.second[0]);
    return false;
  });
  if (runs.empty()) return;
  Rows now = rows.next(from, tokens);
  for (std::size_t m = 1; !runs.empty(); ++m) {
    std::vector<std::pair<std::size_t, Run>> left;
    std::vector<double> left_sums;
    from.clear();
    tokens.clear();
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const Run& run = runs[i].second;
      const double sum = sums[i] + now[static_cast<int64_t>(i)][run[m]];
      double& value = tasks[ways_[runs[i].first].task].value;
      if (m + 1 == run.size()) {
        value = std::max(value, sum / static_cast<double>(run.size()));
        continue;
      }
      from.push_back(static_cast<int64_t>(i));
      tokens.push_back(run[m]);
      left.push_back(runs[i]);
      left_sums.push_back(sum);
    }
    if (!left.empty()) now.advance(from, tokens);
    runs = std::move(left);
    sums = std::move(left_sums);
  }
}

// -1: none. Of soft, lp becomes what is fed.
int64_t LookAhead::next_token(const Way& way, std::vector<double>& lp, int64_t tau) const {
  if (o_.lookahead == "sample") {
    const auto best = best_of(lp.data(), l_.vocab, o_.lookahead_top_k);
    std::vector<double> z(lp.size(), kBanned);
    for (const int64_t w : best) z[at(w)] = lp[at(w)];
    const Hypothesis& h = way.text;
    const int64_t token = h.text[at(h.prompt + t_ - 1)];  // the candidate's
    const double u = uniforms_.of({h.example, t_, way.parent, token, way.number, tau});
    return draw(z.data(), l_.vocab, u);
  }
  const int64_t token = best_index(lp.data(), l_.vocab);
  if (o_.lookahead == "soft" && token >= 0) {
    for (double& x : lp) x /= o_.soft_temperature;
    normalize_row(lp.data(), l_.vocab);
    for (double& x : lp) x = std::exp(x);
  }
  return token;
}

void LookAhead::go_on(std::vector<Task>& tasks, Rows& rows, int64_t tau) {
  if (o_.lookahead == "beam") return beam_on(tasks, rows);
  std::vector<Way> next;
  std::vector<int64_t> from, tokens;
  std::vector<double> probs;
  for (std::size_t r = 0; r < ways_.size(); ++r) {
    Way& way = ways_[r];
    if (tasks[way.task].keys.empty() || !way.has_room(l_, 1)) continue;
    std::vector<double> lp = l_.masked(way.text, rows[static_cast<int64_t>(r)]);
    const int64_t token = next_token(way, lp, tau);
    if (token < 0 || l_.is_end(token)) continue;
    way.text.append(token);
    from.push_back(static_cast<int64_t>(r));
    tokens.push_back(token);
    if (o_.lookahead == "soft") probs.insert(probs.end(), lp.begin(), lp.end());
    next.push_back(std::move(way));
  }
  ways_ = std::move(next);
  if (ways_.empty()) return;
  rows = rows.select(from);
  if (o_.lookahead == "soft")
    rows.step_soft(tensor(probs, {static_cast<int64_t>(from.size()), l_.vocab}, kFloat64));
  else
    rows.step(tokens);
}

// Each task's ways are neighbours: a beam search of its own, by sums alone.
void LookAhead::beam_on(std::vector<Task>& tasks, Rows& rows) {
  const int64_t width = o_.lookahead_width;
  std::vector<Way> next;
  std::vector<int64_t> from, tokens;
  for (std::size_t begin = 0, end; begin < ways_.size(); begin = end) {
    Task& task = tasks[ways_[begin].task];
    std::vector<Hypothesis> beam;
    std::vector<std::vector<double>> lp;
    for (end = begin; end < ways_.size() && ways_[end].task == ways_[begin].task; ++end) {
      beam.push_back(ways_[end].text);
      lp.push_back(l_.masked(beam.back(), rows[static_cast<int64_t>(end)]));
    }
    if (task.keys.empty() || !ways_[begin].has_room(l_, 1)) continue;
    const auto best = best_grown(beam, lp, 2 * width);
    std::vector<Grown> live;
    for (std::size_t i = 0; i < best.size() && static_cast<int64_t>(live.size()) < width; ++i) {
      if (!l_.is_end(best[i].token)) {
        live.push_back(best[i]);
        continue;
      }
      if (static_cast<int64_t>(i) >= width) continue;
      task.ended.push_back(best[i].sum);
      std::sort(task.ended.begin(), task.ended.end(), std::greater<>());
      if (static_cast<int64_t>(task.ended.size()) > width) task.ended.pop_back();
    }
    if (static_cast<int64_t>(task.ended.size()) == width && task.ended.back() >= best[0].sum)
      continue;
    for (const Grown& g : live) {
      next.push_back({ways_[begin].task, grown(beam, g)});
      from.push_back(static_cast<int64_t>(begin) + g.parent);
      tokens.push_back(g.token);
    }
  }
  ways_ = std::move(next);
  if (!ways_.empty()) rows.advance(from, tokens);
}

// The candidate's task; without runs the value is the fallback's or there is none.
Task task_of(NeuroSearch::Candidate& c) {
  Task t{&c, {}, {}};
  const Hypothesis& h = c.text;
  if (!h.clauses) return t;
  for (const Literal* l : h.clauses->open(h.occurred)) {
    if (l->key) t.keys.push_back(l->tokens);
    const int64_t n = begun(h.output(), l->tokens);
    if (n > 0) t.remainders.emplace_back(l->tokens.begin() + n, l->tokens.end());
  }
  return t;
}

void fall_back(const NeuroLogicAStarOptions& o, const Limits& l, const Rows& rows,
               std::vector<Task>& tasks) {
  std::vector<int64_t> from, tokens;
  std::vector<Hypothesis> texts;
  for (const Task& t : tasks) {
    const Hypothesis& h = t.candidate->text;
    from.push_back(h.row);
    tokens.push_back(h.text.back());
    texts.push_back(h);
  }
  const auto means = greedy_means(l, rows.next(from, tokens), texts, o.lookahead_steps);
  for (std::size_t i = 0; i < tasks.size(); ++i)
    if (std::isfinite(means[i])) tasks[i].value = means[i];
}

}  // namespace

void look_ahead(const NeuroLogicAStarOptions& o, const Limits& l, const Rows& rows,
                std::vector<NeuroSearch>& all, const Uniforms& uniforms, int64_t t) {
  std::vector<Task> judged, others;
  for (NeuroSearch& s : all) {
    if (s.done || o.lookahead_steps == 0) continue;
    for (NeuroSearch::Candidate& c : s.open()) {
      if (l.is_end(c.token)) continue;
      Task task = task_of(c);
      const bool runs = !task.keys.empty() || !task.remainders.empty();
      if (runs)
        judged.push_back(std::move(task));
      else if (o.fallback == "likelihood")
        others.push_back(std::move(task));
    }
  }
  auto in_chunks = [&](std::vector<Task>& tasks, int64_t width, auto&& f) {
    const auto chunk = at(std::max<int64_t>(1, o.lookahead_chunk / width));
    for (std::size_t i = 0; i < tasks.size(); i += chunk) {
      const auto begin = tasks.begin() + static_cast<std::ptrdiff_t>(i);
      const auto count = static_cast<std::ptrdiff_t>(std::min(chunk, tasks.size() - i));
      std::vector<Task> some(begin, begin + count);
      f(some);
      for (const Task& task : some)
        if (task.value != kBanned) task.candidate->ahead = o.alpha * task.value;
    }
  };
  const bool wide = o.lookahead == "sample" || o.lookahead == "beam";
  in_chunks(judged, wide ? o.lookahead_width : 1,
            [&](std::vector<Task>& some) { LookAhead(o, l, uniforms, t).values(some, rows); });
  in_chunks(others, 1, [&](std::vector<Task>& some) { fall_back(o, l, rows, some); });
}

}  // namespace dropin::generation
