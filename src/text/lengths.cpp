#include "text/lengths.h"

#include <algorithm>
#include <cmath>

#include "kernels/hd.h"

namespace dropin::text {

namespace {

constexpr double kNever = -kernels::kInf<double>;

// A text as a row of elements that segments are made of.
struct Elements {
  std::vector<int64_t> start, stop;  // a segment of elements s .. c is stop[c] - start[s] long
  std::vector<double> ending;        // what is added when one ends behind an element
};

struct Limits {
  const Points& text;
  const std::vector<double>& probs;
  Span within;
  const SegmentTextOptions& o;
  int64_t whole = within.second - within.first, lo = std::min(o.min_length, whole + 1),
          hi = std::min(o.max_length.value_or(whole), whole);

  int64_t size(Span s) const {
    if (o.strip_whitespace) s = stripped(text, s);
    return s.second - s.first;
  }
  double prior(int64_t length) const {
    const auto m = static_cast<double>(length);
    const double t = o.target_length, z = (m - t) / o.spread;
    if (o.prior == "gaussian") return -z * z / 2;
    if (o.prior == "clipped_polynomial") return z * z < 1 ? std::log(1 - z * z) : kNever;
    if (o.prior == "uniform") return 0;
    const double g = o.spread / t, mu = std::log(t) + g * g, y = (std::log(m) - mu) / g;
    return -y * y / 2 - std::log(m);
  }
  double ending(int64_t end) const {
    return end < within.second ? std::log(probs[at(end - 1)]) : 0;
  }
  std::vector<std::size_t> best_ends(const Elements& e, int64_t least) const;
  std::vector<int64_t> best_cuts() const;
  std::vector<int64_t> equal_cuts() const;
  std::vector<int64_t> greedy_cuts() const;
  Spans official(const Spans& all) const;
  bool exact(int64_t least, Spans& r) const;
};

// How many elements come before each end of the segments that maximize the priors of their lengths
// (least to hi) and the endings, the last one included; ties to the earlier start. Empty when there
// are no such segments. Only ends of probability above 0 are states; under the uniform prior the
// best start is the first of a queue whose scores fall.
std::vector<std::size_t> Limits::best_ends(const Elements& e, int64_t least) const {
  const std::size_t n = e.stop.size();
  const bool uniform = o.prior == "uniform";
  std::vector<double> best(n + 1, kNever), priors;
  std::vector<std::size_t> from(n + 1, 0), open;
  best[0] = 0;
  std::size_t next = 0, head = 0;
  for (std::size_t c = 1; c <= n; ++c) {
    const int64_t stop = e.stop[c - 1];
    for (; next < c && stop - e.start[next] >= least; ++next) {
      if (best[next] == kNever) continue;
      while (uniform && open.size() > head && best[open.back()] < best[next]) open.pop_back();
      open.push_back(next);
    }
    while (head < open.size() && stop - e.start[open[head]] > hi) ++head;
    if (head == open.size() || e.ending[c - 1] == kNever) continue;
    const std::size_t last = uniform ? head + 1 : open.size();
    for (std::size_t k = head; k < last; ++k) {
      const std::size_t length = at(stop - e.start[open[k]]);
      while (priors.size() <= length) priors.push_back(prior(static_cast<int64_t>(priors.size())));
      const double score = best[open[k]] + priors[length] + e.ending[c - 1];
      if (score <= best[c]) continue;
      best[c] = score;
      from[c] = open[k];
    }
  }
  std::vector<std::size_t> ends;
  if (best[n] == kNever) return ends;
  for (std::size_t c = n; c > 0; c = from[c]) ends.push_back(c);
  std::reverse(ends.begin(), ends.end());
  return ends;
}

// Of single characters; equal cuts where no segments keep the limits.
std::vector<int64_t> Limits::best_cuts() const {
  Elements e;
  for (int64_t i = within.first; i < within.second; ++i) {
    e.start.push_back(i);
    e.stop.push_back(i + 1);
    e.ending.push_back(ending(i + 1));
  }
  std::vector<std::size_t> ends = best_ends(e, lo);
  if (ends.empty()) return equal_cuts();
  ends.pop_back();
  std::vector<int64_t> cuts;
  for (const std::size_t c : ends) cuts.push_back(within.first + static_cast<int64_t>(c));
  return cuts;
}

std::vector<int64_t> Limits::equal_cuts() const {
  std::vector<int64_t> cuts;
  for (int64_t c = within.first + hi; c < within.second; c += hi) cuts.push_back(c);
  if (cuts.empty() || within.second - cuts.back() >= lo) return cuts;
  const int64_t moved = within.second - lo;
  if (cuts.size() == 1) {
    if (moved - within.first >= lo) cuts[0] = moved;
    return cuts;
  }
  const int64_t before = cuts[cuts.size() - 2], other = std::max(moved, before + 1);
  if (within.second - before <= hi)
    cuts.pop_back();
  else if (other - before <= hi)
    cuts.back() = other;
  return cuts;
}

std::vector<int64_t> Limits::greedy_cuts() const {
  std::vector<int64_t> cuts;
  int64_t c = within.first;
  while (c < within.second) {
    const int64_t first = c + lo, last = std::min(c + hi, within.second);
    if (first > last) {
      const int64_t before = cuts.size() > 1 ? cuts[cuts.size() - 2] : within.first;
      if (!cuts.empty() && within.second - before <= hi) cuts.pop_back();
      break;
    }
    int64_t end = first;
    double best = prior(first - c) + ending(first);
    for (int64_t e = first + 1; e <= last; ++e)
      if (const double score = prior(e - c) + ending(e); score > best) {
        best = score;
        end = e;
      }
    if (end < within.second) cuts.push_back(end);
    c = end;
  }
  return cuts;
}

// Pieces are longer than their cuts by white space: too long ones are cut again, short ones joined.
Spans Limits::official(const Spans& all) const {
  Spans r;
  auto emit = [&](int64_t a, int64_t b) {
    const Span s = o.strip_whitespace ? stripped(text, {a, b}) : Span{a, b};
    if (s.first < s.second) r.push_back(s);
  };
  int64_t a = within.first;
  for (std::size_t i = 0; i < all.size(); ++i) {
    int64_t b = all[i].second;
    if (size({a, b}) > hi) {
      while (size({a, b}) > hi) {
        int64_t cut = a + hi;
        for (int64_t k = hi - 1; k > std::max<int64_t>(0, hi - 20); --k)
          if (is_space(text[at(a + k)])) {
            cut = a + k + 1;
            break;
          }
        emit(a, cut);
        a = cut;
      }
      if (i + 1 == all.size()) emit(a, b);
      continue;
    }
    while (i + 1 < all.size() && size({a, b}) < lo && size({a, all[i + 1].second}) <= hi)
      b = all[++i].second;
    emit(a, b);
    a = b;
  }
  if (r.size() > 1 && size(r.back()) < lo && r.back().second - r[r.size() - 2].first <= hi) {
    r[r.size() - 2].second = r.back().second;
    r.pop_back();
  }
  return r;
}

// The best cuts at ends of pieces by the lengths that come out, at least `least`.
bool Limits::exact(int64_t least, Spans& r) const {
  std::vector<int64_t> cuts;
  for (int64_t i = within.first; i < within.second; ++i)
    if (!is_space(text[at(i)])) cuts.push_back(i);
  const Spans all = pieces(text, within, cuts);
  Elements e;
  for (const Span& piece : all) {
    const Span s = o.strip_whitespace ? stripped(text, piece) : piece;
    double p = 1e-9;
    for (int64_t k = piece.first; k < piece.second; ++k) p = std::max(p, probs[at(k)]);
    e.start.push_back(s.first);
    e.stop.push_back(s.second);
    e.ending.push_back(piece.second < within.second ? std::log(p) : 0);
  }
  std::size_t from = 0;
  for (const std::size_t c : best_ends(e, least)) {
    const Span s{all[from].first, all[c - 1].second};
    r.push_back(o.strip_whitespace ? stripped(text, s) : s);
    from = c;
  }
  return !r.empty();
}

}  // namespace

Spans of_lengths(const Points& text, const std::vector<double>& probs, Span within,
                 const SegmentTextOptions& o) {
  Spans r;
  if (within.first == within.second) return r;
  const Limits l{text, probs, within, o};
  if (const Span s = stripped(text, within); s.first == s.second) {
    if (!o.strip_whitespace)
      for (int64_t a = within.first; a < within.second; a += l.hi)
        r.emplace_back(a, std::min(a + l.hi, within.second));
    return r;
  }
  if (o.length_mode == "exact" && (l.exact(l.lo, r) || l.exact(1, r))) return r;
  std::vector<int64_t> cuts = o.algorithm == "greedy" ? l.greedy_cuts() : l.best_cuts();
  for (int64_t& c : cuts) --c;
  return l.official(pieces(text, within, cuts));
}

}  // namespace dropin::text
