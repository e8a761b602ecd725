// NamedTensors: an ordered list of tensors that is searched by name.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dropin/tensor/tensor.h"

namespace dropin {

/// An ordered list of named tensors: inputs, outputs, a state_dict. Looking a name up, setting and
/// taking it cost the same however many there are.
class NamedTensors {
 public:
  using Item = std::pair<std::string, Tensor>;

  /// Walks the entries in order; taken ones are passed over.
  class Iterator {
   public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = Item;
    using difference_type = std::ptrdiff_t;
    using pointer = const Item*;
    using reference = const Item&;
    Iterator() = default;
    Iterator(const NamedTensors* of, std::size_t at) : of_(of), at_(at) { skip(); }
    reference operator*() const { return of_->items_[at_]; }
    pointer operator->() const { return &of_->items_[at_]; }
    Iterator& operator++() {
      ++at_;
      skip();
      return *this;
    }
    Iterator operator++(int) {
      Iterator before = *this;
      ++*this;
      return before;
    }
    bool operator==(const Iterator& o) const { return at_ == o.at_; }

   private:
    void skip() {
      while (at_ < of_->items_.size() && of_->is_taken(at_)) ++at_;
    }
    const NamedTensors* of_ = nullptr;
    std::size_t at_ = 0;
  };

  NamedTensors() = default;
  NamedTensors(std::initializer_list<Item> items) : items_(items) { reindex(); }
  template <class It>
  requires std::forward_iterator<It> NamedTensors(It first, It last) : items_(first, last) {
    reindex();
  }
  /// The tensor of that name, undefined if there is none.
  Tensor find(std::string_view name) const;
  bool contains(std::string_view name) const {
    if (watched_) note(name);
    return position(name) != kNone;
  }
  /// The tensor of that name; StateError naming `who` and what there is, if there is none.
  Tensor get(std::string_view name, std::string_view who) const;
  /// The tensor of that name; StateError naming what there is, if there is none.
  Tensor at(std::string_view name) const { return get(name, "at"); }
  Tensor operator[](std::string_view name) const { return at(name); }
  void set(std::string name, Tensor t);
  /// Makes room for that many entries.
  void reserve(std::size_t entries);
  /// Takes the entry out; an undefined tensor if there is none.
  Tensor take(std::string_view name);
  std::size_t size() const { return items_.size() - taken_count_; }
  Iterator begin() const& {
    if (watched_) everything_read_ = true;
    return {this, 0};
  }
  Iterator end() const& { return {this, items_.size()}; }
  /// Iterators into a temporary would outlive it: name the list first. A range-for may walk over
  /// one, as it keeps it.
  Iterator begin() const&& = delete;
  Iterator end() const&& = delete;

  /// From here on remembers the names that are asked for, for unread(). Not while several threads
  /// read.
  void watch() { watched_ = true; }
  /// After watch(): entries that nobody asked for by name, in order; none once somebody walked over
  /// all.
  std::vector<std::string> unread() const;
  /// After watch(): the names that were asked for, each once.
  const std::vector<std::string>& asked() const { return asked_; }

 private:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  bool is_taken(std::size_t at) const { return taken_count_ && taken_[at]; }
  std::size_t position(std::string_view name) const;
  std::size_t position(std::string_view name, std::size_t hash) const;
  void reindex(std::size_t room = 0);
  void compact();
  void enter(std::size_t at, std::size_t hash);
  void note(std::string_view name) const;

  std::vector<Item> items_;
  std::vector<bool> taken_;  ///< empty until something is taken
  std::size_t taken_count_ = 0;
  /// A hash table of positions + 1, 0 where free; empty while the list is short.
  std::vector<std::uint32_t> table_;
  bool watched_ = false;
  mutable bool everything_read_ = false;
  mutable std::vector<std::string> asked_;
};
using StateDict = NamedTensors;

}  // namespace dropin
