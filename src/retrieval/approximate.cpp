#include "retrieval/approximate.h"
#include "kernels/hd.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <random>

namespace dropin::retrieval {

namespace {
constexpr std::size_t kLinks = 16, kBuildWidth = 200, kLeastWidth = 64;
}  // namespace

NeighbourGraph::NeighbourGraph(Points p) : Approximate(std::move(p)) {
  std::mt19937_64 bits(1);
  for (int64_t row = 0; row < points_.size(); ++row) {
    const double u = (static_cast<double>(bits() >> 11) + 1) * 0x1p-53;
    insert(row, static_cast<std::size_t>(-std::log(u) / std::log(static_cast<double>(kLinks))));
  }
}

// The `width` rows nearest to q that links lead to, best first.
std::vector<NeighbourGraph::Seen> NeighbourGraph::walk(const double* q, std::vector<Seen> from,
                                                       std::size_t width,
                                                       const Links& links) const {
  std::vector<bool> visited(at(points_.size()));
  std::priority_queue<Seen> open(std::less<Seen>(), from);
  auto worse = [](const Seen& a, const Seen& b) { return b < a; };
  std::priority_queue<Seen, std::vector<Seen>, decltype(worse)> best(worse, from);
  for (const Seen& s : from) visited[at(s.row)] = true;
  while (!open.empty()) {
    const Seen here = open.top();
    open.pop();
    if (best.size() >= width && here < best.top()) break;
    for (const int64_t row : links[at(here.row)]) {
      if (visited[at(row)]) continue;
      visited[at(row)] = true;
      const Seen s{points_.nearness(q, points_.at(row)), row};
      if (best.size() >= width && s < best.top()) continue;
      open.push(s);
      best.push(s);
      if (best.size() > width) best.pop();
    }
  }
  std::vector<Seen> r;
  for (; !best.empty(); best.pop()) r.push_back(best.top());
  std::reverse(r.begin(), r.end());
  return r;
}

// The best found, but for those that lie nearer to a better one than to the place itself.
std::vector<int64_t> NeighbourGraph::varied(const std::vector<Seen>& found,
                                            std::size_t most) const {
  std::vector<int64_t> r, rest;
  for (const Seen& s : found) {
    const bool own = std::all_of(r.begin(), r.end(), [&](int64_t row) {
      return points_.nearness(points_.at(row), points_.at(s.row)) < s.nearness;
    });
    (own ? r : rest).push_back(s.row);
    if (r.size() == most) return r;
  }
  for (const int64_t row : rest)
    if (r.size() < most) r.push_back(row);
  return r;
}

void NeighbourGraph::insert(int64_t row, std::size_t level) {
  const double* q = points_.at(row);
  const std::size_t top = levels_.size();
  std::vector<Seen> from;
  if (entry_ >= 0) from.push_back({points_.nearness(q, points_.at(entry_)), entry_});
  for (std::size_t l = top; l-- > 0 && !from.empty();) {
    from = walk(q, from, l > level ? 1 : kBuildWidth, levels_[l]);
    if (l > level) continue;
    const std::size_t most = l == 0 ? 2 * kLinks : kLinks;
    levels_[l][at(row)] = varied(from, kLinks);
    for (const int64_t other : levels_[l][at(row)]) {
      std::vector<int64_t>& links = levels_[l][at(other)];
      links.push_back(row);
      if (links.size() <= most) continue;
      std::vector<Seen> all;
      for (const int64_t n : links)
        all.push_back({points_.nearness(points_.at(other), points_.at(n)), n});
      std::sort(all.begin(), all.end(), [](const Seen& a, const Seen& b) { return b < a; });
      links = varied(all, most);
    }
  }
  if (level >= top) {
    levels_.resize(level + 1, Links(at(points_.size())));
    entry_ = row;
  }
}

std::vector<int64_t> NeighbourGraph::near(const double* q, int64_t count) const {
  if (entry_ < 0) return {};
  std::vector<Seen> from{{points_.nearness(q, points_.at(entry_)), entry_}};
  for (std::size_t l = levels_.size(); l-- > 1;) from = walk(q, from, 1, levels_[l]);
  std::vector<int64_t> r;
  for (const Seen& s : walk(q, from, std::max(at(count), kLeastWidth), levels_[0]))
    r.push_back(s.row);
  return r;
}

// About sqrt(N) cells, by a few steps of k-means from rows at even distances.
Cells::Cells(Points p) : Approximate(std::move(p)) {
  const int64_t n = points_.size(), width = points_.width,
                cells = static_cast<int64_t>(std::sqrt(static_cast<double>(n)));
  centres_.width = width;
  centres_.l2 = true;
  for (int64_t c = 0; c < cells; ++c) {
    const double* row = points_.at(c * n / cells);
    centres_.rows.insert(centres_.rows.end(), row, row + width);
  }
  for (int step = 0; step < 10; ++step) {
    members_.assign(at(cells), {});
    for (int64_t i = 0; i < n; ++i) members_[at(nearest(points_.at(i)))].push_back(i);
    for (int64_t c = 0; c < cells && step < 9; ++c) {
      if (members_[at(c)].empty()) continue;
      double* centre = centres_.rows.data() + c * width;
      std::fill(centre, centre + width, 0.0);
      const double share = 1 / static_cast<double>(members_[at(c)].size());
      for (const int64_t i : members_[at(c)])
        for (int64_t e = 0; e < width; ++e) centre[e] += share * points_.at(i)[e];
    }
  }
}

int64_t Cells::nearest(const double* q) const {
  int64_t best = 0;
  double most = -HUGE_VAL;
  for (int64_t c = 0; c < centres_.size(); ++c) {
    const double s = centres_.nearness(q, centres_.at(c));
    if (s > most) {
      most = s;
      best = c;
    }
  }
  return best;
}

// The members of the nearest cells: a quarter of all cells, and more until there are enough.
std::vector<int64_t> Cells::near(const double* q, int64_t count) const {
  std::vector<std::pair<double, int64_t>> order;
  for (int64_t c = 0; c < centres_.size(); ++c) {
    const double s =
        points_.l2 ? centres_.nearness(q, centres_.at(c)) : points_.nearness(q, centres_.at(c));
    order.emplace_back(-s, c);
  }
  std::sort(order.begin(), order.end());
  std::vector<int64_t> r;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (4 * i >= order.size() && static_cast<int64_t>(r.size()) >= count) break;
    const auto& cell = members_[at(order[i].second)];
    r.insert(r.end(), cell.begin(), cell.end());
  }
  return r;
}

}  // namespace dropin::retrieval
