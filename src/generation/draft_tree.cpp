#include "dropin/generation/draft_tree.h"

#include <algorithm>
#include <map>

#include "kernels/hd.h"

namespace dropin {

namespace {

constexpr const char* kTree = "draft_tree";
constexpr int64_t kManyNodes = 64;

using Choices = std::vector<std::vector<int64_t>>;

bool shorter_first(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  return a.size() != b.size() ? a.size() < b.size() : a < b;
}

// The nodes' children, ranks 0, 1, ..., as Medusa found them for Vicuna-7B.
Choices mc_sim_7b_63() {
  struct Children {
    std::vector<int64_t> parent;
    int64_t count;
  };
  const Children all[] = {{{}, 10},    {{0}, 10},     {{1}, 7},    {{2}, 3},    {{3}, 2},
                          {{4}, 1},    {{5}, 1},      {{6}, 1},    {{7}, 1},    {{8}, 1},
                          {{9}, 1},    {{0, 0}, 10},  {{0, 1}, 3}, {{0, 2}, 2}, {{0, 3}, 1},
                          {{0, 4}, 1}, {{0, 5}, 1},   {{0, 6}, 1}, {{0, 7}, 1}, {{1, 0}, 2},
                          {{2, 0}, 1}, {{0, 0, 0}, 2}};
  Choices r;
  for (const Children& c : all)
    for (int64_t rank = 0; rank < c.count; ++rank) {
      r.push_back(c.parent);
      r.back().push_back(rank);
    }
  return r;
}

std::string text_of(const std::vector<int64_t>& choice) {
  Json j = Json::array();
  for (const int64_t r : choice) j.push_back(r);
  return j.dump();
}

// Rows root..leaf: from the last node to the first, each that no row holds yet.
void add_paths(DraftTree& t) {
  std::vector<bool> listed(t.parent.size());
  for (int64_t i = t.size() - 1; i > 0; --i) {
    if (listed[at(i)]) continue;
    std::vector<int64_t> path;
    for (int64_t k = i; k >= 0; k = t.parent[at(k)]) {
      listed[at(k)] = true;
      path.insert(path.begin(), k);
    }
    t.paths.push_back(std::move(path));
  }
}

}  // namespace

bool DraftTree::sees(int64_t a, int64_t b) const {
  while (a > b) a = parent[at(a)];
  return a == b;
}

Tensor DraftTree::mask() const {
  Tensor m = zeros({size(), size()}, kBool);
  for (int64_t a = 0; a < size(); ++a)
    for (int64_t b = 0; b < size(); ++b) m.data<bool>()[a * size() + b] = sees(a, b);
  return m;
}

DraftTree DraftTree::up_to(int64_t most) const {
  if (most >= max_depth()) return *this;
  DraftTree t;
  for (std::size_t i = 0; i < parent.size() && depth[i] <= most; ++i) {
    t.parent.push_back(parent[i]);
    t.rank.push_back(rank[i]);
    t.depth.push_back(depth[i]);
  }
  add_paths(t);
  return t;
}

DraftTree draft_tree(Choices choices) {
  std::sort(choices.begin(), choices.end(), shorter_first);
  DraftTree t;
  t.parent = {-1};
  t.rank = t.depth = {0};
  std::map<std::vector<int64_t>, int64_t> node{{{}, 0}};
  for (const auto& c : choices) {
    DROPIN_CHECK(!c.empty(), OptionError, kTree, ": a choice is empty, expected ranks");
    for (const int64_t r : c)
      DROPIN_CHECK(r >= 0, OptionError, kTree, ": choice ", text_of(c),
                   " has a negative rank, expected 0 or more");
    const auto above = node.find({c.begin(), c.end() - 1});
    DROPIN_CHECK(above != node.end(), OptionError, kTree, ": choice ", text_of(c),
                 " is listed without ", text_of({c.begin(), c.end() - 1}),
                 ", expected every prefix of a choice");
    DROPIN_CHECK(node.emplace(c, t.size()).second, OptionError, kTree, ": choice ", text_of(c),
                 " is listed twice, expected each once");
    t.parent.push_back(above->second);
    t.rank.push_back(c.back());
    t.depth.push_back(static_cast<int64_t>(c.size()));
  }
  if (t.size() > kManyNodes)
    warn_once(join({kTree, ": ", t.size(), " nodes; more than 64 cost more than they bring"}));
  add_paths(t);
  return t;
}

DraftTree draft_tree(const Json& choices) {
  if (choices.is_string()) {
    DROPIN_CHECK(choices.as_string() == "mc_sim_7b_63", OptionError, kTree, ": choices is \"",
                 choices.as_string(), "\", expected mc_sim_7b_63 or a list of choices");
    return draft_tree(mc_sim_7b_63());
  }
  Choices list;
  DROPIN_CHECK(detail::field_from_json(choices, list), OptionError, kTree, ": choices is ",
               choices.dump(), ", expected mc_sim_7b_63 or a list of lists of ranks");
  return draft_tree(std::move(list));
}

DraftTree draft_run(int64_t depth) {
  DROPIN_CHECK(depth >= 0, OptionError, "draft_run: depth is ", depth, ", expected 0 or more");
  DraftTree t;
  for (int64_t i = 0; i <= depth; ++i) {
    t.parent.push_back(i - 1);
    t.rank.push_back(0);
    t.depth.push_back(i);
  }
  add_paths(t);
  return t;
}

Choices tree_from_accuracy(const Tensor& acc, int64_t n) {
  DROPIN_CHECK(acc.dim() == 2 && acc.numel() > 0 && is_floating(acc.dtype()), ShapeError,
               "tree_from_accuracy: acc is ", acc.dtype(), " ", acc.sizes(),
               ", expected floats [H, K]");
  DROPIN_CHECK(n >= 1, OptionError, "tree_from_accuracy: n is ", n, ", expected at least 1");
  const int64_t heads = acc.size(0), ranks = acc.size(1);
  const std::vector<double> p = acc.to_vector();
  auto product = [&](const std::vector<int64_t>& c) {
    double r = 1;
    for (std::size_t d = 0; d < c.size(); ++d) r *= p[d * at(ranks) + at(c[d])];
    return r;
  };
  Choices taken, open = {{0}};
  while (static_cast<int64_t>(taken.size()) < n && !open.empty()) {
    const auto best = std::min_element(open.begin(), open.end(), [&](const auto& a, const auto& b) {
      const double x = product(a), y = product(b);
      return x != y ? x > y : shorter_first(a, b);
    });
    std::vector<int64_t> c = *best;
    open.erase(best);
    taken.push_back(c);
    std::vector<int64_t> child = c;
    child.push_back(0);
    if (static_cast<int64_t>(child.size()) <= heads) open.push_back(child);
    if (++c.back() < ranks) open.push_back(c);
  }
  return taken;
}

}  // namespace dropin
