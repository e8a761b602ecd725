#include "dropin/registry/registry.h"

#include <fmt/format.h>

#include <algorithm>

#include "registry/lists.h"

namespace dropin {

void Registry::insert(ComponentInfo c) {
  if (contains(c.name)) fail<OptionError>({"registry: \"", c.name, "\" is registered already"});
  components_.push_back(std::move(c));
}

bool Registry::contains(std::string_view name) const {
  for (const ComponentInfo& c : components_)
    if (c.name == name) return true;
  return false;
}

const ComponentInfo& Registry::find(std::string_view name) const {
  std::vector<std::string> names;
  for (const ComponentInfo& c : components_) {
    if (c.name == name) return c;
    names.push_back(c.name);
  }
  fail<OptionError>({"registry: no component \"", name, "\"; the nearest name is \"", nearest_name(name, names.data(), names.size()), "\""});
}

Registry& registry() {
  static Registry* r = [] {
    auto* fresh = new Registry;
#define X(list) register_##list(*fresh);
    DROPIN_FAMILY_LISTS(X)
#undef X
    return fresh;
  }();
  return *r;
}

Box<Module> make(std::string_view name, const Json& options) {
  const ComponentInfo& c = registry().find(name);
  if (!c.make_module) fail<OptionError>({"make: ", name, " is ", c.kind == ComponentKind::Function ? "a function" : "an optimizer", ", not a module"});
  return c.make_module(options);
}
Box<Optimizer> make_optimizer(std::string_view name, const Tensors& params, const Json& options) {
  const ComponentInfo& c = registry().find(name);
  if (!c.make_optimizer) fail<OptionError>({"make_optimizer: ", name, " is not an optimizer"});
  return c.make_optimizer(params, options);
}

// --- swap

namespace {

// Names that different members of a family have for one option.
constexpr const char* kWidth[] = {"embed_dim", "d_model"};
constexpr const char* kLength[] = {"max_len", "l_max"};

// The value of `name`, or of an option that is the same thing by another name; null if there is none.
const Json* find_option(const Json& options, const std::string& name) {
  if (const Json* v = options.find(name)) return v;
  for (const auto& names : {kWidth, kLength})
    if (name == names[0] || name == names[1]) return options.find(name == names[0] ? names[1] : names[0]);
  return nullptr;
}
bool is_length(const std::string& name) { return name == kLength[0] || name == kLength[1]; }

// The old component's values of the options that the new one has too; a length limit may come from the modules around it, the nearest first.
Json shared_options(const std::vector<Json>& around, const Json& old_options, const ComponentInfo& to, const Json& changes) {
  Json all = Json::object();
  for (const FieldInfo& f : to.options) {
    if (std::find(to.own_options.begin(), to.own_options.end(), f.name) != to.own_options.end()) continue;
    const Json* v = find_option(old_options, f.name);
    if (is_length(f.name))
      for (auto it = around.rbegin(); !v && it != around.rend(); ++it) v = find_option(*it, f.name);
    if (v) all.set(f.name, *v);
  }
  for (const auto& [k, v] : changes.items()) all.set(k, v);
  return all;
}

struct Planned {
  Module* parent;
  std::string child, path;
  Box<Module> module;
  SwapReport::Instance report;
};

void plan(Module& m, const std::string& path, const ComponentInfo& from, const ComponentInfo& to, const Json& options, std::vector<Json>& around, std::vector<Planned>& out) {
  around.push_back(m.options_json());
  for (auto& [name, child] : m.children()) {
    const std::string here = path.empty() ? name : path + "." + name;
    if (child->type() != from.name) {
      plan(*child, here, from, to, options, around, out);
      continue;
    }
    Planned p{&m, name, here, to.make_module(shared_options(around, child->options_json(), to, options)), {}};
    p.report.path = here;
    const StateDict old = child->state_dict();
    auto parameters = child->named_parameters();
    if (!parameters.empty()) {
      p.module->to(parameters[0].second.device());
      p.module->to(parameters[0].second.dtype());
    }
    no_grad guard;
    for (auto& [n, t] : p.module->state_dict()) {
      const Tensor source = old.find(n);
      if (source.defined() && source.sizes() == t.sizes()) {
        Tensor(t).copy_(source);
        p.report.carried.push_back(n);
      } else {
        p.report.fresh.push_back(n);
      }
    }
    for (auto& [n, t] : old) {
      bool kept = false;
      for (const std::string& c : p.report.carried) kept = kept || c == n;
      if (!kept) p.report.dropped.push_back(n);
    }
    p.module->train(child->is_training());
    out.push_back(std::move(p));
  }
  around.pop_back();
}

}  // namespace

SwapReport swap(Module& model, std::string_view from_name, std::string_view to_name, const Json& options) {
  const ComponentInfo &from = registry().find(from_name), &to = registry().find(to_name);
  if (!from.make_module || !to.make_module) fail<OptionError>({"swap: ", from.make_module ? to_name : from_name, " is not a module"});
  if (from.family != to.family) fail<OptionError>({"swap: ", from_name, " is a ", from.family, " and ", to_name, " a ", to.family, "; only members of one family replace each other"});
  std::vector<Planned> planned;
  std::vector<Json> around;
  plan(model, "", from, to, options, around, planned);
  if (planned.empty()) fail<OptionError>({"swap: the model has no ", from_name});
  SwapReport report;
  for (Planned& p : planned) {
    p.parent->replace_child(p.child, std::move(p.module));
    report.instances.push_back(std::move(p.report));
  }
  return report;
}

std::string SwapReport::str() const {
  std::string s;
  for (const Instance& i : instances) {
    s += fmt::format("{}: carried {}", i.path, i.carried.size());
    if (!i.fresh.empty()) s += fmt::format(", new: {}", fmt::join(i.fresh, " "));
    if (!i.dropped.empty()) s += fmt::format(", dropped: {}", fmt::join(i.dropped, " "));
    s += '\n';
  }
  return s;
}

}  // namespace dropin
