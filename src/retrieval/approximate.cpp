#include "retrieval/approximate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>
#include <random>

#include "dropin/dispatch/dispatch.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/hd.h"

namespace dropin::retrieval {

namespace {
constexpr std::size_t kLinks = 16, kBuildWidth = 200, kLeastWidth = 64;
}  // namespace

// --- points

Points::Points(const Tensor& rows, bool l2) : rows_(rows.contiguous()) {
  in_.rows = rows_.in();
  in_.l2 = l2;
}

const void* Points::row(int64_t i) const {
  return static_cast<const char*>(rows_.data_ptr()) + i * width() * item_size(rows_.dtype());
}

const std::vector<double>& Points::nearness(const void* q, const std::vector<int64_t>& chosen,
                                            std::vector<double>& room) const {
  const auto n = static_cast<int64_t>(chosen.size());
  room.resize(chosen.size());
  if (n == 0) return room;
  kernels::SearchInputs in = in_;
  in.queries = in.rows;
  in.queries.data = q;
  in.queries.sizes[0] = 1;
  in.chosen.data = chosen.data();
  in.chosen.dtype = kInt64;
  in.chosen.ndim = 1;
  in.chosen.sizes[0] = n;
  in.chosen.strides[0] = 1;
  abi::TensorOut out;
  out.dtype = in.rows.dtype;
  out.ndim = 1;
  out.sizes[0] = n;
  out.strides[0] = 1;
  out.data = room.data();  // of floats its first half
  run<kernels::search_scores>(kCPU, in, out);
  if (out.dtype == kFloat32)
    for (int64_t i = n; i-- > 0;) room[at(i)] = out.as<float>()[i];
  return room;
}

double Points::nearness(const void* q, int64_t row) const {
  std::vector<double> room;
  return nearness(q, {row}, room)[0];
}

std::vector<int64_t> Points::nearest(const Tensor& queries) const {
  const int64_t n = queries.size(0);
  Tensor found = empty({n, 1}, kInt64), scores = empty({n, 1}, queries.dtype());
  kernels::SearchInputs in = in_;
  in.queries = queries.in();
  run<kernels::search_best>(kCPU, in, found.out(), scores.out());
  return found.to_vector<int64_t>();
}

// --- a graph of neighbours

NeighbourGraph::NeighbourGraph(Points p) : Approximate(std::move(p)) {
  std::mt19937_64 bits(1);
  for (int64_t row = 0; row < points_.size(); ++row) {
    const double u = (static_cast<double>(bits() >> 11) + 1) * 0x1p-53;
    insert(row, static_cast<std::size_t>(-std::log(u) / std::log(static_cast<double>(kLinks))));
  }
}

// The `width` rows nearest to q that links lead to, best first.
std::vector<NeighbourGraph::Seen> NeighbourGraph::walk(const void* q, std::vector<Seen> from,
                                                       std::size_t width,
                                                       const Links& links) const {
  std::vector<bool> visited(at(points_.size()));
  std::priority_queue<Seen> open(std::less<Seen>(), from);
  auto worse = [](const Seen& a, const Seen& b) { return b < a; };
  std::priority_queue<Seen, std::vector<Seen>, decltype(worse)> best(worse, from);
  for (const Seen& s : from) visited[at(s.row)] = true;
  std::vector<int64_t> fresh;
  std::vector<double> room;
  while (!open.empty()) {
    const Seen here = open.top();
    open.pop();
    if (best.size() >= width && here < best.top()) break;
    fresh.clear();
    for (const int64_t row : links[at(here.row)]) {
      if (visited[at(row)]) continue;
      visited[at(row)] = true;
      fresh.push_back(row);
    }
    points_.nearness(q, fresh, room);
    for (std::size_t i = 0; i < fresh.size(); ++i) {
      const Seen s{room[i], fresh[i]};
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
  std::vector<double> room;
  for (const Seen& s : found) {
    points_.nearness(points_.row(s.row), r, room);
    const bool own =
        std::all_of(room.begin(), room.end(), [&](double near) { return near < s.nearness; });
    (own ? r : rest).push_back(s.row);
    if (r.size() == most) return r;
  }
  for (const int64_t row : rest)
    if (r.size() < most) r.push_back(row);
  return r;
}

void NeighbourGraph::insert(int64_t row, std::size_t level) {
  const void* q = points_.row(row);
  const std::size_t top = levels_.size();
  std::vector<Seen> from;
  if (entry_ >= 0) from.push_back({points_.nearness(q, entry_), entry_});
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
      std::vector<double> room;
      points_.nearness(points_.row(other), links, room);
      for (std::size_t i = 0; i < links.size(); ++i) all.push_back({room[i], links[i]});
      std::sort(all.begin(), all.end(), [](const Seen& a, const Seen& b) { return b < a; });
      links = varied(all, most);
    }
  }
  if (level >= top) {
    levels_.resize(level + 1, Links(at(points_.size())));
    entry_ = row;
  }
}

std::vector<int64_t> NeighbourGraph::near(const void* q, int64_t count) const {
  if (entry_ < 0) return {};
  std::vector<Seen> from{{points_.nearness(q, entry_), entry_}};
  for (std::size_t l = levels_.size(); l-- > 1;) from = walk(q, from, 1, levels_[l]);
  std::vector<int64_t> r;
  for (const Seen& s : walk(q, from, std::max(at(count), kLeastWidth), levels_[0]))
    r.push_back(s.row);
  return r;
}

// --- cells

// About sqrt(N) cells, by a few steps of k-means from rows at even distances.
Cells::Cells(Points p) : Approximate(std::move(p)) {
  const Tensor& rows = points_.rows();
  const int64_t n = points_.size(), cells = static_cast<int64_t>(std::sqrt(static_cast<double>(n)));
  std::vector<int64_t> first;
  for (int64_t c = 0; c < cells; ++c) first.push_back(c * n / cells);
  Tensor centres = index_select(rows, 0, tensor(first));
  for (int step = 0; step < 10; ++step) {
    centres_ = Points(centres, true);
    const std::vector<int64_t> of = centres_.nearest(rows);
    members_.assign(at(cells), {});
    for (int64_t i = 0; i < n; ++i) members_[at(of[at(i)])].push_back(i);
    if (step == 9) break;
    Tensor next = centres.clone();  // an empty cell keeps its centre
    for (int64_t c = 0; c < cells; ++c)
      if (const auto& own = members_[at(c)]; !own.empty())
        next.select(0, c).copy_(mean(index_select(rows, 0, tensor(own)), {0}));
    centres = next;
  }
  centres_ = Points(centres, points_.l2());  // cells are met as rows are
}

// The members of the nearest cells: a quarter of all cells, and more until there are enough.
std::vector<int64_t> Cells::near(const void* q, int64_t count) const {
  std::vector<int64_t> all(at(centres_.size()));
  std::iota(all.begin(), all.end(), int64_t{0});
  std::vector<double> room;
  centres_.nearness(q, all, room);
  std::vector<std::pair<double, int64_t>> order;
  for (const int64_t c : all) order.emplace_back(-room[at(c)], c);
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
