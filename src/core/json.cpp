#include "dropin/core/json.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "dropin/core/error.h"

namespace dropin {

namespace {

constexpr std::size_t kMaxDepth = 64;

// Builds a Json from the parser's events; stops at a repeated key or too deep a nesting.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Json result;
  std::string error;

  bool null() override { return put(Json()); }
  bool boolean(bool v) override { return put(Json(v)); }
  bool number_integer(number_integer_t v) override { return put(Json(static_cast<long long>(v))); }
  bool number_unsigned(number_unsigned_t v) override { return v <= INT64_MAX ? put(Json(static_cast<long long>(v))) : put(Json(static_cast<double>(v))); }
  bool number_float(number_float_t v, const string_t&) override { return put(Json(v)); }
  bool string(string_t& v) override { return put(Json(v)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool key(string_t& k) override {
    if (stack_.back().value.find(k)) {
      error = "the key \"" + k + "\" is given twice";
      return false;
    }
    stack_.back().key = k;
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    error = "malformed at byte " + std::to_string(position) + ": " + e.what();
    return false;
  }

 private:
  struct Level {
    Json value;
    std::string key;
  };
  bool open(Json v) {
    if (stack_.size() >= kMaxDepth) {
      error = "nested more than 64 levels deep";
      return false;
    }
    stack_.push_back({std::move(v), {}});
    return true;
  }
  bool close() {
    Json v = std::move(stack_.back().value);
    stack_.pop_back();
    return put(std::move(v));
  }
  bool put(Json v) {
    if (stack_.empty()) result = std::move(v);
    else if (stack_.back().value.is_array()) stack_.back().value.push_back(std::move(v));
    else stack_.back().value.set(stack_.back().key, std::move(v));
    return true;
  }
  std::vector<Level> stack_;
};

nlohmann::ordered_json convert(const Json& j) {
  if (j.is_bool()) return j.as_bool();
  if (j.is_int()) return j.as_int();
  if (j.is_double()) {
    if (!std::isfinite(j.as_double())) fail<OptionError>({"json: NaN and Infinity cannot be written"});
    return j.as_double();
  }
  if (j.is_string()) return j.as_string();
  if (j.is_array()) {
    auto a = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < j.size(); ++i) a.push_back(convert(j[i]));
    return a;
  }
  if (j.is_object()) {
    auto o = nlohmann::ordered_json::object();
    for (const auto& [k, v] : j.items()) o[k] = convert(v);
    return o;
  }
  return nullptr;
}

}  // namespace

Json Json::parse(std::string_view text) {
  Builder b;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &b)) fail<OptionError>({"json: ", b.error.empty() ? std::string("malformed") : b.error});
  return std::move(b.result);
}

std::string Json::dump(int indent) const { return convert(*this).dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace); }

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

bool Json::operator==(const Json& o) const {
  if (is_number() && o.is_number()) return is_int() && o.is_int() ? int_ == o.int_ : as_double() == o.as_double();
  if (kind_ != o.kind_) return false;
  switch (kind_) {
    case kBool: return int_ == o.int_;
    case kString: return text_ == o.text_;
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
    default: return true;
  }
}

void Json::wrong_kind(Kind wanted) const {
  static constexpr const char* names[] = {"null", "a bool", "an integer", "a number", "a string", "an array", "an object"};
  fail<OptionError>({"json: expected ", names[wanted], ", got ", kind_ == kArray || kind_ == kObject ? std::string(names[kind_]) : dump()});
}

}  // namespace dropin
