#include "dropin/module/named_tensors.h"

#include <algorithm>
#include <functional>

namespace dropin {

namespace {
constexpr std::size_t kShort = 16;  // up to here a walk is as quick as a hash
}

std::size_t NamedTensors::position(std::string_view name) const {
  return position(name, table_.empty() ? 0 : std::hash<std::string_view>()(name));
}

std::size_t NamedTensors::position(std::string_view name, std::size_t hash) const {
  if (table_.empty()) {
    for (std::size_t i = 0; i < items_.size(); ++i)
      if (items_[i].first == name && !is_taken(i)) return i;
    return kNone;
  }
  const std::size_t mask = table_.size() - 1;
  for (std::size_t h = hash & mask; table_[h]; h = (h + 1) & mask) {
    const std::size_t at = table_[h] - 1;
    if (items_[at].first == name && !is_taken(at)) return at;
  }
  return kNone;
}

void NamedTensors::enter(std::size_t at, std::size_t hash) {
  const std::size_t mask = table_.size() - 1;
  std::size_t h = hash & mask;
  while (table_[h]) h = (h + 1) & mask;
  table_[h] = static_cast<std::uint32_t>(at + 1);
}

// A table for the items, or for as many as there is to be room for.
void NamedTensors::reindex(std::size_t room) {
  table_.clear();
  room = std::max(room, items_.size());
  if (room <= kShort) return;
  std::size_t size = 4 * kShort;
  while (size < 2 * room) size *= 2;
  table_.resize(size);
  for (std::size_t i = 0; i < items_.size(); ++i)
    enter(i, std::hash<std::string_view>()(items_[i].first));
}

void NamedTensors::reserve(std::size_t entries) {
  items_.reserve(entries);
  if (2 * entries > table_.size()) reindex(entries);
}

void NamedTensors::compact() {
  std::vector<Item> left;
  left.reserve(size());
  for (std::size_t i = 0; i < items_.size(); ++i)
    if (!is_taken(i)) left.push_back(std::move(items_[i]));
  items_ = std::move(left);
  taken_.clear();
  taken_count_ = 0;
  reindex();
}

void NamedTensors::note(std::string_view name) const {
  if (std::find(asked_.begin(), asked_.end(), name) == asked_.end()) asked_.emplace_back(name);
}

std::vector<std::string> NamedTensors::unread() const {
  std::vector<std::string> r;
  if (everything_read_) return r;
  for (std::size_t i = 0; i < items_.size(); ++i)
    if (!is_taken(i) && std::find(asked_.begin(), asked_.end(), items_[i].first) == asked_.end())
      r.push_back(items_[i].first);
  return r;
}

Tensor NamedTensors::find(std::string_view name) const {
  if (watched_) note(name);
  const std::size_t at = position(name);
  return at == kNone ? Tensor() : items_[at].second;
}

Tensor NamedTensors::get(std::string_view name, std::string_view who) const {
  if (Tensor t = find(name); t.defined()) return t;
  std::string have;
  std::size_t named = 0;
  for (const auto& [n, t] : *this)
    if (++named <= 20) have += (have.empty() ? "" : ", ") + n;
  if (named > 20) have += join({" and ", named - 20, " more"});
  fail<StateError>({who, ": no tensor \"", name, "\"; given: ", have.empty() ? "none" : have});
}

void NamedTensors::set(std::string name, Tensor t) {
  const std::size_t hash = table_.empty() ? 0 : std::hash<std::string_view>()(name),
                    at = position(name, hash);
  if (at != kNone) {
    items_[at].second = std::move(t);
    return;
  }
  items_.emplace_back(std::move(name), std::move(t));
  if (!taken_.empty()) taken_.push_back(false);
  if (2 * items_.size() > table_.size())
    reindex(2 * items_.size());
  else
    enter(items_.size() - 1, hash);
}

Tensor NamedTensors::take(std::string_view name) {
  const std::size_t at = position(name);
  if (at == kNone) return {};
  Tensor t = std::move(items_[at].second);
  items_[at].second = {};
  taken_.resize(items_.size());
  taken_[at] = true;
  ++taken_count_;
  if (2 * taken_count_ > items_.size()) compact();
  return t;
}

}  // namespace dropin
