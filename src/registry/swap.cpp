#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "dropin/autograd/swap_note.h"
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

struct Planned {
  Module* parent;
  std::string child, path;
  Box<Module> module;
  SwapReport::Instance report;
};

bool all_frozen(const std::vector<std::pair<std::string, Tensor>>& parameters) {
  for (const auto& [n, t] : parameters)
    if (t.requires_grad()) return false;
  return !parameters.empty();
}

// The new parameters of a component that want a gradient.
std::vector<std::string> trainable(const SwapReport::Instance& r, const Module& m) {
  std::vector<std::string> names;
  for (const auto& [n, t] : m.named_parameters())
    if (t.requires_grad() && std::find(r.fresh.begin(), r.fresh.end(), n) != r.fresh.end())
      names.push_back(n);
  return names;
}

// Carries the old component's state into the new one and reports where each tensor went.
SwapReport::Instance carry_over(const std::string& path, Module& from, Module& to) {
  SwapReport::Instance r;
  r.path = path;
  const auto parameters = from.named_parameters();
  if (!parameters.empty()) {
    to.to(parameters[0].second.device());
    to.to(parameters[0].second.dtype());
  }
  to.train(from.is_training());
  r.carried = to.adopt_state(from);
  const std::unordered_set<std::string> carried(r.carried.begin(), r.carried.end());
  for (const auto& [n, t] : to.state_dict())
    if (!carried.count(n)) r.fresh.push_back(n);
  for (const auto& [n, t] : from.state_dict())
    if (!carried.count(n)) r.dropped.push_back(n);
  if (all_frozen(parameters)) r.thawed = trainable(r, to);
  return r;
}

const FieldInfo* field(const ComponentInfo& c, const std::string& name) {
  for (const FieldInfo& f : c.options)
    if (f.name == name) return &f;
  return nullptr;
}

// What a user set on the old one and does not find on the new one. Sizes (whole numbers without a
// default) are left out: other names may carry them, and a wrong one is refused. So are the words
// of the family, for a new one that has no option for them: its conflict rule judged those.
std::vector<std::string> changed_options(const ComponentInfo& from, const Module& old,
                                         const Module& fresh, const Json& named,
                                         const std::vector<std::string>& words) {
  std::vector<std::string> r;
  const Json was = old.options_json(), is = fresh.options_json();
  for (const FieldInfo& f : from.options) {
    const Json *before = was.find(f.name), *now = is.find(f.name);
    const bool size = f.value.is_array() || (f.value.is_int() && !f.value.as_int());
    const bool word = std::find(words.begin(), words.end(), f.name) != words.end();
    if (size || (word && !now) || !before || *before == f.value || named.find(f.name) ||
        (now && *now == *before))
      continue;
    r.push_back(f.name + " = " + before->dump() + ", now " + (now ? now->dump() : "none"));
  }
  return r;
}

// The options for the new one: `given`, but for the words of the family that it has no option for.
Json own_options(const FamilyInfo& family, const ComponentInfo& to, const Json& given) {
  Json r = Json::object();
  for (const auto& [k, v] : given.items()) {
    const bool word =
        std::find(family.swap_words.begin(), family.swap_words.end(), k) != family.swap_words.end();
    if (!word || field(to, k)) r.set(k, v);
  }
  return r;
}

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
    const FamilyInfo& family = registry().family(to);
    const Json given = replacing_options(from, child->options_json(), around, to);
    Planned p{&m, name, here, to.make_module(given.with(own_options(family, to, options))), {}};
    if (family.conflict)
      if (const std::string why = family.conflict(*child, *p.module, options); !why.empty())
        fail<OptionError>({"swap: ", to.name, " for ", from.name, " at ", here, ": ", why});
    p.report = carry_over(here, *child, *p.module);
    p.report.changed = changed_options(from, *child, *p.module, options, family.swap_words);
    out.push_back(std::move(p));
  }
}

// Tells the optimizers that hold parameters of the model: those that went must not be waited for,
// and those that came are not trained unless they are added.
void tell_optimizers(const Module& model, const std::vector<std::pair<std::string, Tensor>>& before,
                     std::string_view from, std::string_view to) {
  std::unordered_set<const TensorImpl*> old_ones, new_ones;
  for (const auto& [n, t] : before) old_ones.insert(t.impl());
  std::string added;
  const auto after = model.named_parameters();
  for (const auto& [n, t] : after) {
    new_ones.insert(t.impl());
    if (t.requires_grad() && !old_ones.count(t.impl())) added += (added.empty() ? "" : ", ") + n;
  }
  const std::uint64_t number = count_swap();
  const std::string what = fmt::format("swap() of {} for {}", to, from);
  auto note = [&](const Tensor& t, std::string text) {
    note_swap(t, std::make_shared<const SwapNote>(SwapNote{number, std::move(text)}));
  };
  for (const auto& [n, t] : before)
    if (t.requires_grad() && !new_ones.count(t.impl()))
      note(t, fmt::format("({}) was dropped from its model by {}", n, what));
  if (added.empty()) return;
  for (const auto& [n, t] : after)
    if (old_ones.count(t.impl()))
      note(t, fmt::format("({}) is of a model to which {} added parameters that are not held: {}",
                          n, what, added));
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
  const auto before = model.named_parameters();
  SwapReport report;
  for (Planned& p : planned) {
    if (all_frozen(before)) p.report.thawed = trainable(p.report, *p.module);
    Module& placed = *p.module;
    const bool mode = placed.is_training();
    p.parent->replace_child(p.child, std::move(p.module));
    placed.train(mode);  // the old one's, whatever the modules around it do
    report.instances.push_back(std::move(p.report));
  }
  tell_optimizers(model, before, from.name, to.name);
  return report;
}

std::string SwapReport::str() const {
  std::string s;
  for (const Instance& i : instances) {
    s += fmt::format("{}: carried {}", i.path, i.carried.size());
    if (!i.fresh.empty()) s += fmt::format(", new: {}", fmt::join(i.fresh, " "));
    if (!i.dropped.empty()) s += fmt::format(", dropped: {}", fmt::join(i.dropped, " "));
    if (!i.thawed.empty())
      s += fmt::format(", trainable though the old one was frozen: {}", fmt::join(i.thawed, " "));
    s += '\n';
    for (const std::string& c : i.changed) s += fmt::format("  NOTE {}: {}\n", i.path, c);
  }
  return s;
}

}  // namespace dropin
