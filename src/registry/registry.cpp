#include "dropin/registry/registry.h"

#include "registry/lists.h"

namespace dropin {

namespace {

template <class T>
[[noreturn]] void no_such(const char* what, const char* many, std::string_view name,
                          const std::vector<T>& all) {
  std::vector<std::string> names;
  for (const T& one : all) names.push_back(one.name);
  std::string list;
  const auto near = nearest_names(name, names.data(), names.size());
  for (const std::string& n : near) list += (list.empty() ? "" : ", ") + n;
  fail<OptionError>({"registry: no ", what, " \"", name, "\"; the nearest name is \"",
                     near.empty() ? "" : near[0], "\"; ", many, ": ", list, "; all ",
                     static_cast<int64_t>(names.size()), ": dropin list"});
}

}  // namespace

void Registry::insert(ComponentInfo c) {
  if (contains(c.name)) fail<OptionError>({"registry: \"", c.name, "\" is registered already"});
  components_.push_back(std::move(c));
}

void Registry::add_family(FamilyInfo f) {
  if (find_family(f.name))
    fail<OptionError>({"registry: the family \"", f.name, "\" is registered already"});
  families_.push_back(std::move(f));
}

void Registry::add_preset(std::string name, std::string_view of, const Json& options,
                          std::string summary) {
  ComponentInfo c = find(of);
  c.name = std::move(name);
  c.summary = std::move(summary);
  if (c.replaces == c.name) c.replaces.clear();  // the standard member of its family
  for (const auto& [key, value] : options.items()) {
    bool known = false;
    for (FieldInfo& f : c.options)
      if (f.name == key) {
        f.value = value;
        known = true;
      }
    if (!known)
      fail<OptionError>(
          {"registry: preset \"", c.name, "\": ", of, " has no option \"", key, "\""});
  }
  if (c.make_module)
    c.make_module = [make = c.make_module, options](const Json& j) {
      return make(options.with(j));
    };
  if (c.make_optimizer)
    c.make_optimizer = [make = c.make_optimizer, options](const Tensors& p, const Json& j) {
      return make(p, options.with(j));
    };
  if (c.call)
    c.call = [call = c.call, options](const Json& j, const NamedTensors& in) {
      return call(options.with(j), in);
    };
  c.examples.clear();
  insert(std::move(c));
}

std::string_view Registry::real_name(std::string_view name) const {
  for (const auto& [alias, real] : aliases_)
    if (alias == name) return real;
  return name;
}

bool Registry::contains(std::string_view given) const {
  const std::string_view name = real_name(given);
  for (const ComponentInfo& c : components_)
    if (c.name == name) return true;
  return false;
}

const ComponentInfo& Registry::find(std::string_view given) const {
  const std::string_view name = real_name(given);
  for (const ComponentInfo& c : components_)
    if (c.name == name) return c;
  no_such("component", "components", name, components_);
}

const FamilyInfo* Registry::find_family(std::string_view name) const {
  for (const FamilyInfo& f : families_)
    if (f.name == name) return &f;
  return nullptr;
}

const FamilyInfo& Registry::family(std::string_view name) const {
  if (const FamilyInfo* f = find_family(name)) return *f;
  no_such("family", "families", name, families_);
}

void fill_options(Json& o, const ComponentInfo& c, const Json& values) {
  auto open = [](const Json& d) {
    return d.is_null() || (d.is_number() && d.as_double() == 0) || (d.is_array() && d.size() == 0);
  };
  auto fits = [](const FieldInfo& f,
                 const Json& v) {  // a name may mean a number here, a word there
    return !(f.type == "string" && !v.is_string()) &&
           !(f.type.rfind("list", 0) == 0 && !v.is_array());
  };
  for (const FieldInfo& f : c.options) {
    const Json* v = values.find(f.name);
    if (v && open(f.value) && !o.find(f.name) && fits(f, *v)) o.set(f.name, *v);
  }
}

Json sample_options(const ComponentInfo& c, int size) {
  const FamilyInfo& family = registry().family(c);
  Json o = Json::object();
  if (family.options) fill_options(o, c, family.options(size));
  return size == 0 && !c.sample.empty() ? o.with(Json::parse(c.sample)) : o;
}

Json all_options(const ComponentInfo& c, const Json& options) {
  Json all = Json::object();
  for (const FieldInfo& f : c.options) all.set(f.name, f.value);
  return all.with(options);
}

Sample sample_inputs(const ComponentInfo& c, const Json& options, const SampleSpec& spec) {
  if (c.inputs) return c.inputs(options, spec);
  const FamilyInfo& family = registry().family(c);
  if (!family.inputs)
    fail<OptionError>({c.name, " is registered without an example of its inputs"});
  return family.inputs(all_options(c, options), spec);
}

Traits traits_of(const ComponentInfo& c, const Json& options) {
  Traits t = registry().family(c).traits;
  if (c.traits) c.traits(options, t);
  return t;
}

Registry& registry() {
  static Registry* r = [] {
    auto* fresh = new Registry;
#define X(room) register_##room(*fresh);
    DROPIN_ROOM_LISTS(X)
#undef X
    return fresh;
  }();
  return *r;
}

Box<Module> make(std::string_view name, const Json& options) {
  const ComponentInfo& c = registry().find(name);
  if (!c.make_module)
    fail<OptionError>({"make: ", name, " is ",
                       c.kind == ComponentKind::Function ? "a function" : "an optimizer",
                       ", not a module"});
  return c.make_module(options);
}

Box<Optimizer> make_optimizer(std::string_view name, const Tensors& params, const Json& options) {
  const ComponentInfo& c = registry().find(name);
  if (!c.make_optimizer) fail<OptionError>({"make_optimizer: ", name, " is not an optimizer"});
  return c.make_optimizer(params, options);
}

}  // namespace dropin
