#include <algorithm>
#include <cmath>
#include <random>

#include "dropin/retrieval/label_metric.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

constexpr double kTolerance = 1e-9;
// Squared distances [N, N] and which classes are reached so far.
struct Locus {
  int64_t n = 0;
  std::vector<double> squared;
  std::vector<bool> reached;
  double of(int64_t v, int64_t u) const { return squared[at(v * n + u)]; }
  int64_t size() const { return std::count(reached.begin(), reached.end(), true); }
};

Locus empty_locus(const Tensor& dist) {
  Locus l{dist.size(0), dist.detach().to_vector(), {}};
  for (double& d : l.squared) d *= d;
  l.reached.assign(at(l.n), false);
  return l;
}

// Whether the line of v, p of(v, i) + (1 - p) of(v, j), is a lowest one for some p in [0, 1].
bool on_envelope(const Locus& l, int64_t v, int64_t i, int64_t j) {
  double low = 0, high = 1;
  const double vi = l.of(v, i), vj = l.of(v, j);
  for (int64_t u = 0; u < l.n; ++u) {
    const double ui = l.of(u, i), uj = l.of(u, j);
    if (!std::isfinite(ui) || !std::isfinite(uj)) continue;  // never lower than a finite line
    const double slope = (vi - ui) - (vj - uj), room = uj - vj;
    if (std::abs(slope) <= 1e-15) {
      if (room < -kTolerance) return false;
    } else if (slope > 0) {
      high = std::min(high, room / slope);
    } else {
      low = std::max(low, room / slope);
    }
    if (low > high + kTolerance) return false;
  }
  return true;
}

// Adds what two observed classes reach together.
void add_pair(Locus& l, int64_t i, int64_t j) {
  if (!std::isfinite(l.of(i, j))) return;
  for (int64_t v = 0; v < l.n; ++v)
    if (!l.reached[at(v)] && std::isfinite(l.of(v, i)) && on_envelope(l, v, i, j))
      l.reached[at(v)] = true;
}
void add_class(Locus& l, const std::vector<int64_t>& before, int64_t v) {
  l.reached[at(v)] = true;
  for (const int64_t w : before) add_pair(l, w, v);
}
Locus pairwise(const Tensor& dist, const std::vector<int64_t>& observed) {
  Locus l = empty_locus(dist);
  std::vector<int64_t> before;
  for (const int64_t v : observed) {
    add_class(l, before, v);
    before.push_back(v);
  }
  return l;
}

// The simplex method for max sum y with A y <= 1, y >= 0, where A > 0, in the condensed tableau
// (pivots exchange a row's variable with a column's), by Bland's rule. Returns the maximum.
double largest_sum(std::vector<double> a, int64_t rows, int64_t columns) {
  std::vector<double> bound(at(rows), 1), gain(at(columns), 1);
  std::vector<int64_t> basic(at(rows)), free(at(columns));
  for (int64_t c = 0; c < columns; ++c) free[at(c)] = c;
  for (int64_t r = 0; r < rows; ++r) basic[at(r)] = columns + r;
  double total = 0;
  for (;;) {
    int64_t in = -1, out = -1;
    for (int64_t c = 0; c < columns; ++c)
      if (gain[at(c)] > 1e-12 && (in < 0 || free[at(c)] < free[at(in)])) in = c;
    if (in < 0) return total;
    double least = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const double x = a[at(r * columns + in)];
      if (!(x > 1e-12)) continue;
      const double ratio = bound[at(r)] / x;
      if (out < 0 || ratio < least || (ratio == least && basic[at(r)] < basic[at(out)])) {
        out = r;
        least = ratio;
      }
    }
    if (out < 0) return HUGE_VAL;
    const double pivot = a[at(out * columns + in)];
    for (int64_t c = 0; c < columns; ++c)
      if (c != in) a[at(out * columns + c)] /= pivot;
    bound[at(out)] /= pivot;
    a[at(out * columns + in)] = 1 / pivot;
    for (int64_t r = 0; r < rows; ++r) {
      const double x = a[at(r * columns + in)];
      if (r == out || x == 0) continue;
      for (int64_t c = 0; c < columns; ++c)
        if (c != in) a[at(r * columns + c)] -= x * a[at(out * columns + c)];
      bound[at(r)] = std::max(0.0, bound[at(r)] - x * bound[at(out)]);
      a[at(r * columns + in)] = -x / pivot;
    }
    const double g = gain[at(in)];
    for (int64_t c = 0; c < columns; ++c)
      if (c != in) gain[at(c)] -= g * a[at(out * columns + c)];
    gain[at(in)] = -g / pivot;
    total += g * bound[at(out)];
    std::swap(basic[at(out)], free[at(in)]);
  }
}

// Whether some p >= 0 of sum 1 has sum_i p_i (of(v, i) - of(u, i)) <= 0 for all u: the value of the
// matrix game with these entries is 0 (u = v gives 0). The entries are scaled and shifted to be
// positive, where the value is 1 over a linear program's maximum.
bool reachable(const Locus& l, int64_t v, const std::vector<int64_t>& observed) {
  std::vector<int64_t> columns;  // the others have weight 0, else v is infinitely far
  for (const int64_t i : observed)
    if (std::isfinite(l.of(v, i))) columns.push_back(i);
  if (columns.empty()) return false;
  std::vector<double> a;
  double most = 0;
  for (int64_t u = 0; u < l.n; ++u) {
    if (!std::isfinite(l.of(u, v))) continue;
    for (const int64_t i : columns) {
      a.push_back(l.of(v, i) - l.of(u, i));
      most = std::max(most, std::abs(a.back()));
    }
  }
  if (most == 0) return true;
  for (double& x : a) x = x / most + 2;
  const auto width = static_cast<int64_t>(columns.size());
  const double sum = largest_sum(a, static_cast<int64_t>(a.size()) / width, width);
  return 1 / sum - 2 <= kTolerance;
}

}  // namespace

Tensor LokiLocus(const Tensor& dist, const Tensor& observed, const LokiLocusOptions& o) {
  const char* who = "LokiLocus";
  DROPIN_CHECK(o.method == "pairwise" || o.method == "exact", OptionError, who, ": method is \"",
               o.method, "\", expected pairwise or exact");
  check_label_metric(who, dist, observed);
  const auto seen = observed.to_vector<int64_t>();
  Locus l = pairwise(dist, seen);
  if (o.method == "exact" && seen.size() > 2)
    for (int64_t v = 0; v < l.n; ++v)
      if (!l.reached[at(v)]) l.reached[at(v)] = reachable(l, v, seen);
  Tensor r = empty({l.n}, kBool);
  std::copy(l.reached.begin(), l.reached.end(), r.data<bool>());
  return r.to(dist.device());
}

namespace {

int64_t furthest(const Locus& l) {
  int64_t best = -1;
  double most = -1;
  for (int64_t v = 0; v < l.n; ++v) {
    if (l.reached[at(v)]) continue;
    double near = HUGE_VAL;
    for (int64_t w = 0; w < l.n; ++w)
      if (l.reached[at(w)]) near = std::min(near, l.of(v, w));
    if (near > most) {
      most = near;
      best = v;
    }
  }
  return best;
}

int64_t largest_gain(const Locus& l, const std::vector<int64_t>& observed) {
  int64_t best = -1, most = -1;
  for (int64_t v = 0; v < l.n; ++v) {
    if (std::find(observed.begin(), observed.end(), v) != observed.end()) continue;
    Locus with = l;
    add_class(with, observed, v);
    if (with.size() > most) {
      most = with.size();
      best = v;
    }
  }
  return best;
}

int64_t random_class(const Locus& l, std::mt19937_64& bits) {
  std::vector<int64_t> outside;
  for (int64_t v = 0; v < l.n; ++v)
    if (!l.reached[at(v)]) outside.push_back(v);
  return outside[bits() % outside.size()];
}

}  // namespace

NextClasses LokiNextClass(const Tensor& dist, const Tensor& observed,
                          const LokiNextClassOptions& o) {
  const char* who = "LokiNextClass";
  DROPIN_CHECK(o.method == "furthest" || o.method == "largest_gain" || o.method == "random",
               OptionError, who, ": method is \"", o.method,
               "\", expected furthest, largest_gain or random");
  DROPIN_CHECK(o.count >= 0, OptionError, who, ": count is ", o.count, ", expected 0 or more");
  check_label_metric(who, dist, observed);
  std::vector<int64_t> seen = observed.to_vector<int64_t>(), order;
  Locus l = pairwise(dist, seen);
  std::vector<int64_t> sizes{l.size()};
  std::mt19937_64 bits(static_cast<std::uint64_t>(o.seed));
  while (static_cast<int64_t>(order.size()) < o.count && l.size() < l.n) {
    const int64_t v = o.method == "furthest"       ? furthest(l)
                      : o.method == "largest_gain" ? largest_gain(l, seen)
                                                   : random_class(l, bits);
    add_class(l, seen, v);
    seen.push_back(v);
    order.push_back(v);
    sizes.push_back(l.size());
  }
  return {tensor(order).to(dist.device()), tensor(sizes).to(dist.device())};
}

}  // namespace dropin
