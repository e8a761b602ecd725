#include "dropin/core/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <set>
#include <vector>

#include "dropin/core/device.h"
#include "dropin/core/dtype.h"
#include "dropin/core/shape.h"

namespace dropin {

Part::Part(DType t) : kind_(kText), text_(name(t)) {}

void Part::append_to(std::string& out) const {
  switch (kind_) {
    case kText:
      out += text_;
      break;
    case kInt:
      out += fmt::format("{}", int_);
      break;
    case kReal:
      out += fmt::format("{:g}", real_);
      break;
    case kShape:
      out += shape_->str();
      break;
    case kDevice:
      out += device_->str();
      break;
  }
}

std::string join(std::initializer_list<Part> parts) {
  std::string s;
  for (const Part& p : parts) p.append_to(s);
  return s;
}

namespace {
// Edit distance: a letter too many, too few or wrong costs 2, wrong case 1.
std::size_t distance_of(std::string_view name, const std::string& s) {
  auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  std::vector<std::size_t> row(s.size() + 1);
  for (std::size_t j = 0; j <= s.size(); ++j) row[j] = 2 * j;
  for (std::size_t i = 0; i < name.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = 2 * (i + 1);
    for (std::size_t j = 0; j < s.size(); ++j) {
      const std::size_t change = name[i] == s[j] ? 0 : lower(name[i]) == lower(s[j]) ? 1 : 2;
      const std::size_t d = std::min({row[j + 1] + 2, row[j] + 2, diagonal + change});
      diagonal = row[j + 1];
      row[j + 1] = d;
    }
  }
  // what was cut short is nearer than two wrong letters
  if (name.size() >= 3 && name.size() < s.size() &&
      std::equal(name.begin(), name.end(), s.begin(),
                 [&](char a, char b) { return lower(a) == lower(b); }))
    return std::min<std::size_t>(row.back(), 3);
  return row.back();
}
}  // namespace

std::vector<std::string> nearest_names(std::string_view name, const std::string* known,
                                       std::size_t count, std::size_t most) {
  std::vector<std::pair<std::size_t, std::size_t>> order(count);
  for (std::size_t k = 0; k < count; ++k) order[k] = {distance_of(name, known[k]), k};
  std::sort(order.begin(), order.end());
  std::vector<std::string> nearest;
  for (std::size_t k = 0; k < std::min(most, count); ++k) nearest.push_back(known[order[k].second]);
  return nearest;
}
std::string nearest_name(std::string_view name, const std::string* known, std::size_t count) {
  return count ? nearest_names(name, known, count, 1)[0] : std::string();
}

void warn_once(const std::string& message) {
  static std::mutex lock;
  static auto& said = *new std::set<std::string>;  // never destroyed: exit handlers may warn too
  std::lock_guard guard(lock);
  if (said.insert(message).second) std::fprintf(stderr, "dropin: warning: %s\n", message.c_str());
}

}  // namespace dropin
