#include "dropin/sequence/lookhere_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

namespace dropin {

namespace {

constexpr double kBlocked = -3.3895313892515355e38;  // minus the largest finite bfloat16

// What a view sees of a key at (dx, dy) from the query, y down.
using View = bool (*)(int64_t dx, int64_t dy);
bool everything(int64_t, int64_t) { return true; }
bool up(int64_t, int64_t dy) { return dy <= 0; }
bool down(int64_t, int64_t dy) { return dy >= 0; }
bool left(int64_t dx, int64_t) { return dx <= 0; }
bool right(int64_t dx, int64_t) { return dx >= 0; }
bool wedge_up(int64_t dx, int64_t dy) { return std::abs(dx) <= -dy; }
bool wedge_down(int64_t dx, int64_t dy) { return std::abs(dx) <= dy; }
bool wedge_left(int64_t dx, int64_t dy) { return std::abs(dy) <= -dx; }
bool wedge_right(int64_t dx, int64_t dy) { return std::abs(dy) <= dx; }
template <View A, View B>
bool both(int64_t dx, int64_t dy) {
  return A(dx, dy) && B(dx, dy);
}
template <View A, View B>
bool either(int64_t dx, int64_t dy) {
  return A(dx, dy) || B(dx, dy);
}

struct Group {
  const char* name;
  View views[4];
  int costly = 4;         // views from this one on cost nothing
  bool directed = false;  // slopes 1/2, 1/4, ... by fours; flat otherwise
  bool by_key = false;    // the cost is the key's distance from the centre
};

constexpr View kHalves[] = {up, down, left, right};
constexpr View kCorners[] = {both<up, left>, both<up, right>, both<down, left>, both<down, right>};
constexpr View kTriangles[] = {wedge_up, wedge_down, wedge_left, wedge_right};

Group group_of(const char* name, const View (&v)[4], int costly, bool directed) {
  return {name, {v[0], v[1], v[2], v[3]}, costly, directed};
}

const std::vector<Group>& groups() {
  constexpr View all[] = {everything, everything, everything, everything};
  static const std::vector<Group> g = [&] {
    std::vector<Group> r = {
        group_of("none", all, 4, false),
        group_of("halves", kHalves, 4, true),
        group_of("corners", kCorners, 4, true),
        group_of("triangles", kTriangles, 4, true),
        {"diagonals",
         {either<wedge_up, wedge_right>, either<wedge_up, wedge_left>,
          either<wedge_down, wedge_right>, either<wedge_down, wedge_left>},
         4,
         true},
        {"eighths1",
         {both<wedge_up, left>, both<wedge_down, left>, both<wedge_left, up>,
          both<wedge_right, up>},
         4,
         true},
        {"eighths2",
         {both<wedge_up, right>, both<wedge_down, right>, both<wedge_left, down>,
          both<wedge_right, down>},
         4,
         true},
        group_of("center", all, 4, false),
        group_of("zero", all, 0, false),
        group_of("none1zero3", all, 1, false),
        group_of("none2zero2", all, 2, false),
        group_of("none3zero1", all, 3, false),
        group_of("zerohalves", kHalves, 0, false),
        group_of("zerocorners", kCorners, 0, false),
        group_of("zerotriangles", kTriangles, 0, false),
    };
    for (Group& group : r) group.by_key = std::string_view(group.name) == "center";
    return r;
  }();
  return g;
}

struct HeadGroup {
  const Group* group;
  int64_t heads;
};

// The groups of head_directions, neighbours of one name merged.
std::vector<HeadGroup> head_groups(std::string_view who, const LookHereBiasOptions& o) {
  static const std::map<std::string, std::string> presets{
      {"LH-180", "halves-none"}, {"LH-90", "corners-none"}, {"LH-45", "eighths1-eighths2-none"}};
  const auto preset = presets.find(o.head_directions);
  const std::string text = preset == presets.end() ? o.head_directions : preset->second;
  std::vector<const Group*> named;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('-', at), text.size());
    const std::string name = text.substr(at, end - at);
    for (const Group& g : groups())
      if (name == g.name) named.push_back(&g);
    DROPIN_CHECK(!named.empty() && name == named.back()->name, OptionError, who,
                 ": head_directions is \"", o.head_directions, "\", and \"", name,
                 "\" is no group; expected none, halves, corners, triangles, diagonals, eighths1, "
                 "eighths2, center, zero, none1zero3, none2zero2, none3zero1, zerohalves, "
                 "zerocorners or zerotriangles, joined by \"-\"");
    at = end + 1;
  }
  static const std::map<std::pair<int64_t, std::size_t>, std::vector<int64_t>> shares{
      {{6, 2}, {4, 2}},  {{12, 2}, {8, 4}},    {{12, 3}, {4, 4, 4}},
      {{16, 2}, {8, 8}}, {{16, 3}, {8, 4, 4}}, {{16, 4}, {4, 4, 4, 4}}};
  std::vector<int64_t> share{o.num_heads};
  if (named.size() > 1) {
    const auto found = shares.find({o.num_heads, named.size()});
    share = found == shares.end() ? std::vector<int64_t>{} : found->second;
  }
  DROPIN_CHECK(!share.empty() && (named.size() > 1 || o.num_heads % 4 == 0), OptionError, who,
               ": num_heads ", o.num_heads, " and ", static_cast<int64_t>(named.size()),
               " groups, expected a multiple of 4 for one group, 6 or 12 or 16 for two, 12 or 16 "
               "for three, 16 for four");
  std::vector<HeadGroup> merged;
  for (std::size_t i = 0; i < named.size(); ++i)
    if (!merged.empty() && merged.back().group == named[i])
      merged.back().heads += share[i];
    else
      merged.push_back({named[i], share[i]});
  for (const HeadGroup& g : merged)
    DROPIN_CHECK(g.group->directed ? g.heads > 2 : g.heads == 2 || g.heads % 4 == 0, OptionError,
                 who, ": head_directions gives ", g.heads, " heads to \"", g.group->name,
                 "\", expected ",
                 g.group->directed ? "more than 2 for directed views" : "2 or a multiple of 4");
  return merged;
}

double head_slope(const HeadGroup& g, int64_t head) {
  if (g.group->directed) return std::pow(2.0, -static_cast<double>(1 + head / 4));
  return std::pow(4.0, -static_cast<double>(1 + (g.heads > 4 ? head / (g.heads / 4) : head)));
}

void check_table(std::string_view who, const LookHereBiasOptions& o) {
  DROPIN_CHECK(o.num_heads > 0, OptionError, who, ": num_heads is ", o.num_heads,
               ", expected a positive number");
  DROPIN_CHECK(o.grid.size() == 2 && o.grid[0] >= 1 && o.grid[1] >= 1, OptionError, who,
               ": grid must be [rows, columns], each at least 1");
  DROPIN_CHECK(o.distance == "linear" || o.distance == "sqrt" || o.distance == "square",
               OptionError, who, ": distance is \"", o.distance,
               "\", expected linear, sqrt or square");
  DROPIN_CHECK(o.fill_with == "inf" || o.fill_with == "zero" || o.fill_with == "max", OptionError,
               who, ": fill_with is \"", o.fill_with, "\", expected inf, zero or max");
  DROPIN_CHECK(o.prefix_tokens >= 0, OptionError, who, ": prefix_tokens is ", o.prefix_tokens,
               ", expected 0 or a number of tokens");
  DROPIN_CHECK(std::isfinite(o.slope), OptionError, who, ": slope is ", o.slope,
               ", expected a finite number");
}

}  // namespace

detail::LookHereTable::LookHereTable(std::string_view who, const LookHereBiasOptions& o) {
  check_table(who, o);
  const std::vector<HeadGroup> merged = head_groups(who, o);
  height_ = o.grid[0];
  width_ = o.grid[1];
  prefix_ = o.prefix_tokens;
  const int64_t h = height_, w = width_, across = 2 * w - 1;
  moved_ = zeros({o.num_heads, 2 * h - 1, across}, kFloat64);
  keyed_ = zeros({o.num_heads, h, w}, kFloat64);
  auto cost = [&](int64_t dx, int64_t dy) {
    const double square = static_cast<double>(dx * dx + dy * dy), far = std::sqrt(square);
    return o.distance == "sqrt" ? std::sqrt(far) : o.distance == "square" ? square : far;
  };
  double *moved = moved_.data<double>(), *keyed = keyed_.data<double>();
  for (const HeadGroup& g : merged)
    for (int64_t i = 0; i < g.heads; ++i, moved += (2 * h - 1) * across, keyed += h * w) {
      const double steep =
          i % 4 < g.group->costly ? o.slope * head_slope(g, i) : 0;  // of a costless view
      const double blocked = o.fill_with == "inf"    ? kBlocked
                             : o.fill_with == "zero" ? 0
                                                     : -steep * cost(w - 1, h - 1);
      by_key_.push_back(g.group->by_key);
      for (int64_t dy = 1 - h; dy < h; ++dy)
        for (int64_t dx = 1 - w; dx < w; ++dx)
          moved[(dy + h - 1) * across + dx + w - 1] =
              g.group->views[i % 4](dx, dy) ? -steep * cost(dx, dy) : blocked;
      for (int64_t y = 0; y < h; ++y)
        for (int64_t x = 0; x < w; ++x)
          keyed[y * w + x] = -steep * std::hypot(static_cast<double>(x) - 0.5 * (w - 1),
                                                 static_cast<double>(y) - 0.5 * (h - 1));
    }
  if (o.round_bfloat16)
    for (Tensor* t : {&moved_, &keyed_}) *t = t->to(kFloat32).to(kBFloat16).to(kFloat64);
  set_order();
}

// Patches in squares of 8 by 8, then the class tokens.
void detail::LookHereTable::set_order() {
  constexpr int64_t kSide = 8;
  const int64_t h = height_, w = width_, n = tokens();
  Ordered& o = ordered_;
  o.order = empty({n}, kInt64);
  o.places = empty({h * w, 2}, kInt64);
  int64_t *order = o.order.data<int64_t>(), *place = o.places.data<int64_t>();
  for (int64_t top = 0; top < h; top += kSide)
    for (int64_t left = 0; left < w; left += kSide)
      for (int64_t y = top; y < std::min(h, top + kSide); ++y)
        for (int64_t x = left; x < std::min(w, left + kSide); ++x) {
          *order++ = prefix_ + y * w + x;
          *place++ = y, *place++ = x;
        }
  for (int64_t t = 0; t < prefix_; ++t) *order++ = t;
  o.back = argsort(o.order, -1);
  const double inf = std::numeric_limits<double>::infinity();
  o.bias = where(moved_ <= -1e38, -inf, moved_).to(kFloat32);
  o.keyed = {};
  if (std::none_of(by_key_.begin(), by_key_.end(), [](bool yes) { return yes; })) return;
  const auto heads = static_cast<int64_t>(by_key_.size());
  const Tensor costs = keyed_.clone();
  for (int64_t head = 0; head < heads; ++head)
    (by_key_[static_cast<std::size_t>(head)] ? o.bias : costs).select(0, head).zero_();
  o.keyed = index_select(pad(costs.reshape({heads, h * w}), {prefix_, 0}), 1, o.order)
                .to(kFloat32)
                .reshape({1, heads, 1, n});
}

Tensor detail::LookHereTable::rows(int64_t first, int64_t count) const {
  const int64_t h = height_, w = width_, n = tokens(), heads = static_cast<int64_t>(by_key_.size());
  Tensor table = zeros({heads, count, n}, kFloat64);
  double* row = table.data<double>();
  for (int64_t head = 0; head < heads; ++head) {
    const double *moved = moved_.data<double>() + head * (2 * h - 1) * (2 * w - 1),
                 *keyed = keyed_.data<double>() + head * h * w;
    for (int64_t q = first; q < first + count; ++q, row += n) {
      if (q < prefix_) continue;
      const int64_t y0 = (q - prefix_) / w, x0 = (q - prefix_) % w;
      for (int64_t y = 0; y < h; ++y)
        std::copy_n(by_key_[static_cast<std::size_t>(head)]
                        ? keyed + y * w
                        : moved + (y - y0 + h - 1) * (2 * w - 1) + w - 1 - x0,
                    w, row + prefix_ + y * w);
    }
  }
  return table;
}

Tensor lookhere_bias(const LookHereBiasOptions& o) {
  const detail::LookHereTable table("lookhere_bias", o);
  return table.rows(0, table.tokens()).to(kFloat32);
}

}  // namespace dropin
