// Options: plain structs whose one field list, `static void fields(auto&& f)`, serves JSON,
// printing, comparing and the documentation.
//
//   struct LinearOptions {
//     int64_t in_features = 0;  ///< required
//     bool bias = true;
//     static void fields(auto&& f) {
//       using O = LinearOptions;
//       f("in_features", &O::in_features, "size of each input row");
//       f("bias", &O::bias, "adds a learnable bias");
//     }
//   };
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dropin/core/error.h"
#include "dropin/core/json.h"

namespace dropin {

/// A height and a width; one number stands for both. JSON: 3 or [3, 5].
struct Size2 {
  int64_t h = 1, w = 1;
  constexpr Size2() = default;
  constexpr Size2(int64_t both) : h(both), w(both) {}
  constexpr Size2(int both) : h(both), w(both) {}
  constexpr Size2(int64_t height, int64_t width) : h(height), w(width) {}
  bool operator==(const Size2&) const = default;
  std::array<int64_t, 2> pair() const { return {h, w}; }
};

/// Padding of a convolution: a Size2, "same" (PyTorch: stride 1) or "tf_same" (TensorFlow's SAME,
/// any stride).
struct Padding {
  Size2 size = 0;
  std::string mode;  ///< "", "same" or "tf_same"
  Padding() = default;
  Padding(int both) : size(both) {}
  Padding(int64_t both) : size(both) {}
  Padding(Size2 s) : size(s) {}
  Padding(const char* m) : mode(m) {}
  Padding(std::string m) : mode(std::move(m)) {}
  bool operator==(const Padding&) const = default;
};

/// A list of whole numbers, or one that stands for all. JSON: 3 or [3, 5].
struct OneOrMany {
  std::vector<int64_t> values{1};
  bool one = true;
  OneOrMany() = default;
  OneOrMany(int v) : values{v} {}
  OneOrMany(int64_t v) : values{v} {}
  OneOrMany(std::vector<int64_t> v) : values(std::move(v)), one(false) {}
  OneOrMany(std::initializer_list<int64_t> v) : values(v), one(false) {}
  bool operator==(const OneOrMany&) const = default;
};

/// A number, or the name of a rule that gives it. JSON: -7.62 or "-log_n".
struct NumberOrName {
  double number = 0;
  std::string name;
  NumberOrName() = default;
  NumberOrName(double v) : number(v) {}
  NumberOrName(int v) : number(v) {}
  NumberOrName(const char* n) : name(n) {}
  NumberOrName(std::string n) : name(std::move(n)) {}
  bool operator==(const NumberOrName&) const = default;
};

/// Of a component that takes none.
struct NoOptions {
  static void fields(auto&&) {}
};

/// One line of an option table.
struct FieldInfo {
  std::string name, type;
  Json value;  ///< the default
  std::string doc;
};

namespace detail {

// Each kind of field: its JSON, its reading (false: wrong type) and its name in messages.
inline Json field_to_json(bool v) { return Json(v); }
inline Json field_to_json(int64_t v) { return Json(v); }
inline Json field_to_json(double v) { return Json(v); }
inline Json field_to_json(const std::string& v) { return Json(v); }
inline Json field_to_json(const Json& v) { return v; }
Json field_to_json(const Size2& v);
Json field_to_json(const Padding& v);
Json field_to_json(const OneOrMany& v);
Json field_to_json(const NumberOrName& v);
template <class T>
Json field_to_json(const std::vector<T>& v) {
  Json a = Json::array();
  for (const T& x : v) a.push_back(field_to_json(x));
  return a;
}
template <class T>
Json field_to_json(const std::optional<T>& v) {
  return v ? field_to_json(*v) : Json();
}

bool field_from_json(const Json& j, bool& v);
bool field_from_json(const Json& j, int64_t& v);
bool field_from_json(const Json& j, double& v);
bool field_from_json(const Json& j, std::string& v);
inline bool field_from_json(const Json& j, Json& v) {
  v = j;
  return true;
}
bool field_from_json(const Json& j, Size2& v);
bool field_from_json(const Json& j, Padding& v);
bool field_from_json(const Json& j, OneOrMany& v);
bool field_from_json(const Json& j, NumberOrName& v);
template <class T>
bool field_from_json(const Json& j, std::vector<T>& v) {
  if (!j.is_array()) return false;
  std::vector<T> r(j.size());
  for (std::size_t i = 0; i < j.size(); ++i)
    if (!field_from_json(j[i], r[i])) return false;
  v = std::move(r);
  return true;
}
template <class T>
bool field_from_json(const Json& j, std::optional<T>& v) {
  if (j.is_null()) {
    v.reset();
    return true;
  }
  T t{};
  if (!field_from_json(j, t)) return false;
  v = std::move(t);
  return true;
}

template <class T>
std::string field_type(const T*);
template <>
inline std::string field_type(const bool*) {
  return "bool";
}
template <>
inline std::string field_type(const int64_t*) {
  return "int";
}
template <>
inline std::string field_type(const double*) {
  return "float";
}
template <>
inline std::string field_type(const std::string*) {
  return "string";
}
template <>
inline std::string field_type(const Json*) {
  return "any";
}
template <>
inline std::string field_type(const Size2*) {
  return "int or [int, int]";
}
template <>
inline std::string field_type(const Padding*) {
  return "int, [int, int], \"same\" or \"tf_same\"";
}
template <>
inline std::string field_type(const OneOrMany*) {
  return "int or list of int";
}
template <>
inline std::string field_type(const NumberOrName*) {
  return "float or string";
}
template <class T>
std::string field_type(const std::vector<T>*) {
  return "list of " + field_type(static_cast<const T*>(nullptr));
}
template <class T>
std::string field_type(const std::optional<T>*) {
  return field_type(static_cast<const T*>(nullptr)) + " or null";
}

[[noreturn]] void unknown_option(std::string_view who, const std::string& name,
                                 const std::vector<FieldInfo>& fields);
[[noreturn]] void wrong_option(std::string_view who, const char* name, const std::string& type,
                               const Json& got);

/// Adapts a visitor f(name, member, doc) so that fields() may leave the doc out.
template <class F>
struct Visitor {
  F f;
  template <class M>
  void operator()(const char* name, M member, const char* doc = "") {
    f(name, member, doc);
  }
};
template <class O, class F>
void visit_fields(F&& f) {
  O::fields(Visitor<F&>{f});
}

}  // namespace detail

/// The option table, with the defaults of O{}.
template <class O>
std::vector<FieldInfo> option_fields() {
  std::vector<FieldInfo> r;
  const O o{};
  detail::visit_fields<O>([&](const char* name, auto member, const char* doc) {
    r.push_back({name, detail::field_type(&(o.*member)), detail::field_to_json(o.*member), doc});
  });
  return r;
}

/// All fields as a JSON object.
template <class O>
Json options_to_json(const O& o) {
  Json j = Json::object();
  detail::visit_fields<O>([&](const char* name, auto member, const char*) {
    j.set(name, detail::field_to_json(o.*member));
  });
  return j;
}

/// O from a JSON object; fields left out keep their defaults. OptionError naming `who` on an
/// unknown name or a wrong type.
template <class O>
O options_from_json(const Json& j, std::string_view who) {
  if (!j.is_object()) fail<OptionError>({who, ": options must be a JSON object, got ", j.dump()});
  O o{};
  for (const auto& item : j.items()) {
    const std::string& key = item.first;
    const Json& value = item.second;
    bool known = false;
    detail::visit_fields<O>([&](const char* name, auto member, const char*) {
      if (key != name) return;
      known = true;
      if (!detail::field_from_json(value, o.*member))
        detail::wrong_option(who, name, detail::field_type(&(o.*member)), value);
    });
    if (!known) detail::unknown_option(who, key, option_fields<O>());
  }
  return o;
}

/// "embed_dim=512, num_heads=8": the fields that differ from their defaults.
template <class O>
std::string options_str(const O& o) {
  std::string s;
  const O defaults{};
  detail::visit_fields<O>([&](const char* name, auto member, const char*) {
    const Json v = detail::field_to_json(o.*member);
    if (v == detail::field_to_json(defaults.*member)) return;
    s += (s.empty() ? "" : ", ") + std::string(name) + "=" + v.dump();
  });
  return s;
}

template <class O>
bool options_equal(const O& a, const O& b) {
  return options_to_json(a) == options_to_json(b);
}

/// The unqualified name of a type, from the compiler: the one place where a class gets its registry
/// name.
template <class T>
constexpr std::string_view type_name() {
  std::string_view s = __PRETTY_FUNCTION__;
  const std::size_t begin = s.find("T = ") + 4;
  s = s.substr(begin, s.find_first_of(";]", begin) - begin);
  const std::size_t colon = s.rfind(':');
  return colon == std::string_view::npos ? s : s.substr(colon + 1);
}

}  // namespace dropin
