#include "dropin/core/json.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <unordered_set>

#include "dropin/core/error.h"

namespace dropin {

namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxQuote = 200;  ///< of a text that an error quotes

// Bytes of the UTF-8 character at p, or 0 when it is malformed: RFC 3629, table 3-7 of the Unicode
// standard.
std::size_t utf8_character(const char* p, const char* end) {
  const auto byte = [&](std::ptrdiff_t i) {
    return static_cast<unsigned char>(i < end - p ? p[i] : 0);
  };
  const auto tail = [&](std::ptrdiff_t i, unsigned low = 0x80, unsigned high = 0xbf) {
    return byte(i) >= low && byte(i) <= high;
  };
  const unsigned c = byte(0);
  if (c < 0x80) return 1;
  if (c >= 0xc2 && c <= 0xdf) return tail(1) ? 2 : 0;
  if (c >= 0xe0 && c <= 0xef)
    return tail(1, c == 0xe0 ? 0xa0 : 0x80, c == 0xed ? 0x9f : 0xbf) && tail(2) ? 3 : 0;
  if (c >= 0xf0 && c <= 0xf4)
    return tail(1, c == 0xf0 ? 0x90 : 0x80, c == 0xf4 ? 0x8f : 0xbf) && tail(2) && tail(3) ? 4 : 0;
  return 0;
}

void write_string(std::string& out, const std::string& s) {
  out += '"';
  const char* const end = s.data() + s.size();
  for (const char* p = s.data(); p < end;) {
    const std::size_t n = utf8_character(p, end);
    if (n == 0)
      out += "\xef\xbf\xbd";
    else if (n > 1)
      out.append(p, n);
    else if (*p == '"' || *p == '\\')
      (out += '\\') += *p;
    else if (*p == '\n')
      out += "\\n";
    else if (*p == '\t')
      out += "\\t";
    else if (*p == '\r')
      out += "\\r";
    else if (static_cast<unsigned char>(*p) < 0x20) {
      constexpr char digits[] = "0123456789abcdef";
      out += "\\u00";
      out += digits[*p >> 4];
      out += digits[*p & 15];
    } else
      out += *p;
    p += n ? n : 1;
  }
  out += '"';
}

template <class T>
void write_number(std::string& out, T v) {
  char text[32];
  const std::string_view digits(
      text, static_cast<std::size_t>(std::to_chars(text, text + sizeof text, v).ptr - text));
  out += digits;
  if (std::is_floating_point_v<T> && digits.find_first_of(".en") == digits.npos)
    out += ".0";  // a real stays a real
}

// The text as the parser reads it; counts, so that every refusal can say where.
struct Cursor {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  const char* at;
  const char** furthest;
  reference operator*() const { return *at; }
  Cursor& operator++() {
    *furthest = ++at;
    return *this;
  }
  Cursor operator++(int) {
    Cursor old = *this;
    ++*this;
    return old;
  }
  bool operator==(const Cursor& o) const { return at == o.at; }
  bool operator!=(const Cursor& o) const { return at != o.at; }
};

}  // namespace

// Builds a Json from nlohmann's events; stops at a repeated key or too deep a nesting.
class Json::Parser : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Parser(std::string_view text)
      : begin_(text.empty() ? "" : text.data()), at_(begin_), end_(begin_ + text.size()) {}

  Json run() {
    if (const void* nul = std::memchr(
            begin_, 0,
            static_cast<std::size_t>(end_ - begin_)))  // the parser would take it for the end
      fail<OptionError>(
          {"json: at byte ", static_cast<const char*>(nul) - begin_ + 1, ": a zero byte"});
    if (!nlohmann::json::sax_parse(Cursor{begin_, &at_}, Cursor{end_, &at_}, this))
      fail<OptionError>({"json: at byte ", at_ - begin_, ": ", error_});
    return std::move(result_);
  }

  bool null() override { return put(Json()); }
  bool boolean(bool v) override { return put(Json(v)); }
  bool number_integer(number_integer_t v) override { return put(Json(static_cast<long long>(v))); }
  bool number_unsigned(number_unsigned_t v) override {
    return v <= INT64_MAX ? put(Json(static_cast<long long>(v)))
                          : put(Json(static_cast<double>(v)));
  }
  bool number_float(number_float_t v, const string_t&) override { return put(Json(v)); }
  bool string(string_t& v) override { return put(Json(std::move(v))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool key(string_t& k) override {
    Level& top = stack_.back();
    if (!top.keys.insert(k).second)
      return stop("the key \"" + k.substr(0, kMaxQuote) + "\" is given twice");
    top.value.items_.emplace_back(std::move(k), Json());
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    std::string_view why =
        e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    if (const std::size_t bracket = why.find("] "); bracket != why.npos)
      why.remove_prefix(bracket + 2);
    return stop(std::string(why.substr(0, kMaxQuote)));
  }

 private:
  struct Level {
    Json value;
    std::unordered_set<std::string> keys;
  };
  bool stop(std::string why) {
    error_ = std::move(why);
    return false;
  }
  bool open(Json v) {
    if (stack_.size() >= kMaxDepth) return stop("nested more than 64 levels deep");
    stack_.push_back({std::move(v), {}});
    return true;
  }
  bool close() {
    Json v = std::move(stack_.back().value);
    stack_.pop_back();
    return put(std::move(v));
  }
  bool put(Json v) {
    if (stack_.empty())
      result_ = std::move(v);
    else if (Json& top = stack_.back().value; top.is_object())
      top.items_.back().second = std::move(v);
    else
      top.items_.emplace_back(std::string(), std::move(v));
    return true;
  }
  const char *begin_, *at_, *end_;
  Json result_;
  std::string error_;
  std::vector<Level> stack_;
};

Json Json::parse(std::string_view text) { return Parser(text).run(); }

bool is_utf8(std::string_view text) {
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const std::size_t n = utf8_character(p, end);
    if (n == 0) return false;
    p += n;
  }
  return true;
}

void Json::write(std::string& out, int indent, int level) const {
  const auto line = [&](int depth) {
    if (indent >= 0) (out += '\n').append(static_cast<std::size_t>(indent * depth), ' ');
  };
  switch (kind_) {
    case kNull:
      out += "null";
      return;
    case kBool:
      out += int_ ? "true" : "false";
      return;
    case kInt:
      write_number(out, int_);
      return;
    case kReal:
      if (text_.empty())
        write_number(out, real_);
      else
        out += text_;
      return;
    case kString:
      write_string(out, text_);
      return;
    default:
      break;
  }
  out += kind_ == kArray ? '[' : '{';
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (i) out += ',';
    line(level + 1);
    if (kind_ == kObject) {
      write_string(out, items_[i].first);
      out += indent >= 0 ? ": " : ":";
    }
    const Json& v = items_[i].second;
    if (v.kind_ == kReal && !std::isfinite(v.real_))
      fail<OptionError>({"json: NaN and Infinity cannot be written"});
    v.write(out, indent, level + 1);
  }
  if (!items_.empty()) line(level);
  out += kind_ == kArray ? ']' : '}';
}

std::string Json::dump(int indent) const {
  if (kind_ == kReal && !std::isfinite(real_))
    fail<OptionError>({"json: NaN and Infinity cannot be written"});
  std::string out;
  write(out, indent, 0);
  return out;
}

Json Json::object(std::vector<Item> entries) {
  std::unordered_set<std::string_view> keys;
  keys.reserve(entries.size());
  for (const Item& i : entries)
    if (!keys.insert(i.first).second)
      fail<OptionError>({"json: the key \"", i.first, "\" is given twice"});
  Json j = object();
  j.items_ = std::move(entries);
  return j;
}

Json Json::big_integer(std::string digits) {
  const std::size_t sign = !digits.empty() && digits[0] == '-';
  if (digits.size() == sign || digits.find_first_not_of("0123456789", sign) != digits.npos)
    fail<OptionError>({"json: \"", digits, "\" is no integer"});
  Json j;
  j.kind_ = kReal;
  j.real_ = std::strtod(digits.c_str(), nullptr);
  j.text_ = std::move(digits);
  return j;
}

double Json::as_double() const {
  if (kind_ == kInt) return static_cast<double>(int_);
  need(kReal);
  return real_;
}
const Json& Json::operator[](std::size_t i) const {
  need(kArray);
  if (i >= items_.size()) fail<IndexError>({"json: index ", i, " of an array of ", items_.size()});
  return items_[i].second;
}
const Json* Json::find(std::string_view key) const {
  if (kind_ == kObject)
    for (const Item& i : items_)
      if (i.first == key) return &i.second;
  return nullptr;
}
void Json::set(std::string key, Json v) {
  need(kObject);
  for (Item& i : items_)
    if (i.first == key) {
      i.second = std::move(v);
      return;
    }
  items_.emplace_back(std::move(key), std::move(v));
}

Json Json::with(const Json& changes) const {
  Json all = *this;
  for (const auto& [k, v] : changes.items()) all.set(k, v);
  return all;
}

bool Json::operator==(const Json& o) const {
  if (is_number() && o.is_number())
    return is_int() && o.is_int() ? int_ == o.int_ : as_double() == o.as_double();
  if (kind_ != o.kind_) return false;
  switch (kind_) {
    case kBool:
      return int_ == o.int_;
    case kString:
      return text_ == o.text_;
    case kArray:
      if (items_.size() != o.items_.size()) return false;
      for (std::size_t i = 0; i < items_.size(); ++i)
        if (!(items_[i].second == o.items_[i].second)) return false;
      return true;
    case kObject:
      if (items_.size() != o.items_.size()) return false;
      for (const Item& i : items_) {
        const Json* other = o.find(i.first);
        if (!other || !(i.second == *other)) return false;
      }
      return true;
    default:
      return true;
  }
}

void Json::wrong_kind(Kind wanted) const {
  static constexpr const char* names[] = {"null",     "a bool",   "an integer", "a number",
                                          "a string", "an array", "an object"};
  std::string got;
  if (kind_ == kArray || kind_ == kObject)
    got = names[kind_];
  else
    write(got, -1, 0);
  fail<OptionError>({"json: expected ", names[wanted], ", got ", got.substr(0, kMaxQuote)});
}

}  // namespace dropin
