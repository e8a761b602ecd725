#include "metric/information.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace dropin::metric {

std::uint64_t mixed(std::uint64_t s) {
  s = (s ^ s >> 30) * 0xBF58476D1CE4E5B9ull;
  s = (s ^ s >> 27) * 0x94D049BB133111EBull;
  return s ^ s >> 31;
}

Column prepared(const Column& x, Role role, const Noise& noise) {
  const auto n = static_cast<double>(x.size());
  double mean = 0, square = 0, size = 0;
  for (const double v : x) mean += v / n;
  for (const double v : x) square += (v - mean) * (v - mean) / n;
  const bool constant = std::all_of(x.begin(), x.end(), [&](double v) { return v == x[0]; });
  const double divisor = constant ? 1 : std::sqrt(square);
  Column r;
  for (const double v : x) {
    r.push_back(v / divisor);
    size += std::abs(r.back()) / n;
  }
  const double scale = noise.scale * std::max(1.0, size);
  for (std::size_t i = 0; i < r.size(); ++i) {
    const std::uint64_t w =
        mixed(noise.seed + (2 * i + (role == Role::Target ? 1 : 0) + 1) * kGolden);
    r[i] += scale * (2 * static_cast<double>(w >> 11) * 0x1p-53 - 1);
  }
  return r;
}

namespace {

// Digamma of 1, 2, ..., n.
Column digammas(std::size_t n) {
  Column r(n + 1);
  double h = -0.57721566490153286061;
  for (std::size_t i = 1; i <= n; ++i) {
    r[i] = h;
    h += 1 / static_cast<double>(i);
  }
  return r;
}
bool inside(double distance, double r) { return distance < r || (r == 0 && distance == 0); }

// The k smallest numbers seen.
class Smallest {
 public:
  explicit Smallest(std::size_t k) : k_(k) {}
  void see(double v) {
    if (values_.size() == k_ && !(v < values_.back())) return;
    values_.insert(std::upper_bound(values_.begin(), values_.end(), v), v);
    if (values_.size() > k_) values_.pop_back();
  }
  double last() const { return values_.back(); }

 private:
  std::size_t k_;
  Column values_;
};

}  // namespace

double information(const Column& x, const Column& y, int64_t k) {
  const std::size_t n = x.size();
  const Column psi = digammas(n + 1);
  double total = 0;
  for (std::size_t i = 0; i < n; ++i) {
    Smallest nearest(static_cast<std::size_t>(k));
    for (std::size_t l = 0; l < n; ++l)
      if (l != i) nearest.see(std::max(std::abs(x[i] - x[l]), std::abs(y[i] - y[l])));
    const double r = nearest.last();
    std::size_t nx = 0, ny = 0;
    for (std::size_t l = 0; l < n; ++l) {
      nx += l != i && inside(std::abs(x[i] - x[l]), r);
      ny += l != i && inside(std::abs(y[i] - y[l]), r);
    }
    total += psi[nx + 1] + psi[ny + 1];
  }
  return std::max(0.0, psi[n] + psi[static_cast<std::size_t>(k)] - total / static_cast<double>(n));
}

double information(const Column& x, const Labels& c, int64_t k) {
  std::map<int64_t, std::size_t> counts;
  for (const int64_t v : c) ++counts[v];
  std::vector<std::size_t> staying;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (counts[c[i]] > 1) staying.push_back(i);
  if (staying.empty()) return -1;
  const std::size_t n = staying.size();
  const Column psi = digammas(n);
  double total = 0;
  for (const std::size_t i : staying) {
    const std::size_t same = counts[c[i]], near = std::min(static_cast<std::size_t>(k), same - 1);
    Smallest nearest(near);
    for (const std::size_t l : staying)
      if (l != i && c[l] == c[i]) nearest.see(std::abs(x[i] - x[l]));
    std::size_t m = 0;
    for (const std::size_t l : staying) m += inside(std::abs(x[i] - x[l]), nearest.last());
    total += psi[near] - psi[same] - psi[m];
  }
  return std::max(0.0, psi[n] + total / static_cast<double>(n));
}

double information(const Labels& a, const Labels& b) {
  std::map<std::pair<int64_t, int64_t>, double> both;
  std::map<int64_t, double> first, second;
  const double share = 1 / static_cast<double>(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    both[{a[i], b[i]}] += 1;
    first[a[i]] += 1;
    second[b[i]] += 1;
  }
  double total = 0;
  for (const auto& [key, count] : both)
    total += count * share * std::log(count / (share * first[key.first] * second[key.second]));
  return std::max(0.0, total);
}

Labels labels_of(const Column& x) {
  Column values = x;
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  Labels r;
  for (const double v : x)
    r.push_back(std::lower_bound(values.begin(), values.end(), v) - values.begin());
  return r;
}

Labels binned(const Column& x, int64_t bins) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const double start = *low, step = (*high - start) / static_cast<double>(bins);
  Labels r;
  for (const double v : x) {
    int64_t label = 0;
    while (label < bins && start + static_cast<double>(label) * step <= v) ++label;
    r.push_back(label);
  }
  return r;
}

}  // namespace dropin::metric
