// Json: a light value for options, headers and reports. The parser behind it is nlohmann's; no
// header of that library is seen here.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dropin {

/// null, bool, integer, real, string, array, or object (which keeps its order).
class Json {
 public:
  using Item = std::pair<std::string, Json>;
  Json() = default;
  Json(std::nullptr_t) {}
  Json(bool v) : kind_(kBool), int_(v) {}
  Json(int v) : kind_(kInt), int_(v) {}
  Json(long v) : kind_(kInt), int_(v) {}
  Json(long long v) : kind_(kInt), int_(v) {}
  Json(double v) : kind_(kReal), real_(v) {}
  Json(const char* v) : kind_(kString), text_(v) {}
  Json(std::string v) : kind_(kString), text_(std::move(v)) {}
  Json(std::string_view v) : kind_(kString), text_(v) {}
  /// An object of these entries, in order. OptionError naming a key that is given twice.
  static Json object(std::vector<Item> entries);
  /// An integer beyond int64: as_double() is its nearest double, dump() writes the digits.
  /// OptionError for anything but an optional minus and digits.
  static Json big_integer(std::string digits);
  static Json array() {
    Json j;
    j.kind_ = kArray;
    return j;
  }
  static Json object() {
    Json j;
    j.kind_ = kObject;
    return j;
  }

  /// OptionError, with the position, on malformed text or UTF-8, a key given twice, more than 64
  /// levels, a real beyond double's range, or anything but blanks after the value. Numbers without
  /// point or exponent that fit int64 become integers. Time and memory grow with the length of the
  /// text.
  static Json parse(std::string_view text);
  /// Compact, or with that many spaces per level; reals in the fewest digits that read back the
  /// same. Bytes that are not UTF-8 become U+FFFD. OptionError on NaN and Infinity, which JSON does
  /// not have.
  std::string dump(int indent = -1) const;

  bool is_null() const { return kind_ == kNull; }
  bool is_bool() const { return kind_ == kBool; }
  bool is_int() const { return kind_ == kInt; }
  bool is_double() const { return kind_ == kReal; }
  bool is_number() const { return is_int() || is_double(); }
  bool is_string() const { return kind_ == kString; }
  bool is_array() const { return kind_ == kArray; }
  bool is_object() const { return kind_ == kObject; }

  // OptionError when the value is of another kind.
  bool as_bool() const {
    need(kBool);
    return int_ != 0;
  }
  int64_t as_int() const {
    need(kInt);
    return int_;
  }
  double as_double() const;  ///< integers too
  const std::string& as_string() const {
    need(kString);
    return text_;
  }

  /// Entries of an array or object; 0 for anything else.
  std::size_t size() const { return kind_ == kArray || kind_ == kObject ? items_.size() : 0; }
  const Json& operator[](std::size_t i) const;
  void push_back(Json v) {
    need(kArray);
    items_.emplace_back(std::string(), std::move(v));
  }
  /// The value of a key, or null when it is not there.
  const Json* find(std::string_view key) const;
  void set(std::string key, Json v);
  /// A copy of this object in which the entries of another one are set.
  Json with(const Json& changes) const;
  /// An object's entries, in order.
  const std::vector<Item>& items() const {
    need(kObject);
    return items_;
  }
  /// Integers and reals of equal value are equal; objects regardless of order.
  bool operator==(const Json& o) const;

 private:
  enum Kind : std::uint8_t { kNull, kBool, kInt, kReal, kString, kArray, kObject };
  class Parser;
  void need(Kind k) const {
    if (kind_ != k) wrong_kind(k);
  }
  void write(std::string& out, int indent, int level) const;
  [[noreturn]] void wrong_kind(Kind wanted) const;
  Kind kind_ = kNull;
  int64_t int_ = 0;
  double real_ = 0;
  std::string text_;  ///< of a string; the digits of a big integer
  std::vector<Item> items_;
};

/// True when the text is well-formed UTF-8 (no overlong forms, no surrogates).
bool is_utf8(std::string_view text);

}  // namespace dropin
