#include "dropin/core/options.h"

#include <cmath>

namespace dropin::detail {

Json field_to_json(const Size2& v) {
  if (v.h == v.w) return Json(v.h);
  Json a = Json::array();
  a.push_back(Json(v.h));
  a.push_back(Json(v.w));
  return a;
}
Json field_to_json(const Padding& v) {
  return v.mode.empty() ? field_to_json(v.size) : Json(v.mode);
}
Json field_to_json(const OneOrMany& v) {
  return v.one && v.values.size() == 1 ? Json(v.values[0]) : field_to_json(v.values);
}
Json field_to_json(const NumberOrName& v) { return v.name.empty() ? Json(v.number) : Json(v.name); }

bool field_from_json(const Json& j, bool& v) {
  if (!j.is_bool()) return false;
  v = j.as_bool();
  return true;
}
bool field_from_json(const Json& j, int64_t& v) {
  if (j.is_int()) {
    v = j.as_int();
    return true;
  }
  if (!j.is_double()) return false;
  const double d = j.as_double();  // 8.0 is an integer to most writers of JSON
  if (d != std::floor(d) || std::abs(d) > 9e15) return false;
  v = static_cast<int64_t>(d);
  return true;
}
bool field_from_json(const Json& j, double& v) {
  if (!j.is_number()) return false;
  v = j.is_int() ? static_cast<double>(j.as_int()) : j.as_double();
  return true;
}
bool field_from_json(const Json& j, std::string& v) {
  if (!j.is_string()) return false;
  v = j.as_string();
  return true;
}
bool field_from_json(const Json& j, Size2& v) {
  int64_t both = 0;
  if (field_from_json(j, both)) {
    v = Size2(both);
    return true;
  }
  return j.is_array() && j.size() == 2 && field_from_json(j[0], v.h) && field_from_json(j[1], v.w);
}
bool field_from_json(const Json& j, Padding& v) {
  if (j.is_string()) {
    if (j.as_string() != "same" && j.as_string() != "tf_same") return false;
    v = Padding(j.as_string());
    return true;
  }
  v.mode.clear();
  return field_from_json(j, v.size);
}
bool field_from_json(const Json& j, OneOrMany& v) {
  int64_t one = 0;
  v.one = field_from_json(j, one);
  if (!v.one) return field_from_json(j, v.values);
  v.values = {one};
  return true;
}
bool field_from_json(const Json& j, NumberOrName& v) {
  v = {};
  return j.is_string() ? field_from_json(j, v.name) : field_from_json(j, v.number);
}

void unknown_option(std::string_view who, const std::string& name,
                    const std::vector<FieldInfo>& fields) {
  std::vector<std::string> names;
  std::string list;
  for (const FieldInfo& f : fields) {
    names.push_back(f.name);
    list += (list.empty() ? "" : ", ") + f.name;
  }
  const std::string near = nearest_name(name, names.data(), names.size());
  fail<OptionError>({who, ": unknown option \"", name, "\"",
                     near.empty() ? std::string() : "; the nearest is \"" + near + "\"",
                     "; options: ", list.empty() ? "none" : list});
}

void wrong_option(std::string_view who, const char* name, const std::string& type,
                  const Json& got) {
  fail<OptionError>({who, ": option ", name, " is ", got.dump(), ", expected ", type});
}

}  // namespace dropin::detail
