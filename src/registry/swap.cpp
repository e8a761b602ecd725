#include <fmt/format.h>

#include "dropin/registry/registry.h"

namespace dropin {

// Null stands for a default, and each has its own.
Json replacing_options(const ComponentInfo& from, const Json& old_options, const Json& around,
                       const ComponentInfo& to) {
  Json all = to.options_from ? to.options_from(from.name, old_options, around) : Json::object();
  if (all.size() == 0)
    for (const FieldInfo& f : to.options) {
      const Json* v = old_options.find(f.name);
      if (!v && f.name == "embed_dim")
        v = old_options.find("d_model");  // a family's width, by the other name that papers give it
      if (v && !v->is_null()) all.set(f.name, *v);
    }
  return all;
}

namespace {

Json with(Json options, const Json& changes) {
  for (const auto& [k, v] : changes.items()) options.set(k, v);
  return options;
}

struct Planned {
  Module* parent;
  std::string child, path;
  Box<Module> module;
  SwapReport::Instance report;
};

void plan(Module& m, const std::string& path, const ComponentInfo& from, const ComponentInfo& to,
          const Json& options, Json around, std::vector<Planned>& out) {
  const Json own = m.options_json();
  for (const auto& [k, v] : own.items()) around.set(k, v);
  for (auto& [name, child] : m.children()) {
    const std::string here = path.empty() ? name : path + "." + name;
    if (child->type() != from.name) {
      plan(*child, here, from, to, options, around, out);
      continue;
    }
    Planned p{
        &m,
        name,
        here,
        to.make_module(with(replacing_options(from, child->options_json(), around, to), options)),
        {}};
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
}

}  // namespace

SwapReport swap(Module& model, std::string_view from_name, std::string_view to_name,
                const Json& options) {
  const ComponentInfo &from = registry().find(from_name), &to = registry().find(to_name);
  if (!from.make_module || !to.make_module)
    fail<OptionError>({"swap: ", from.make_module ? to_name : from_name, " is not a module"});
  if (from.family != to.family)
    fail<OptionError>({"swap: ", from_name, " is a ", from.family, " and ", to_name, " a ",
                       to.family, "; only members of one family replace each other"});
  std::vector<Planned> planned;
  plan(model, "", from, to, options, Json::object(), planned);
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
