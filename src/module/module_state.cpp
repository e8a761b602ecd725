// What a module holds: as a state_dict, taken over from another, copied.
#include <fmt/format.h>

#include <unordered_map>

#include "dropin/autograd/full_state.h"
#include "dropin/module/module.h"

namespace dropin {

StateDict Module::state_dict() const {
  const auto parameters = named_parameters(false), buffers = named_buffers(false);
  StateDict s;
  s.reserve(parameters.size() + buffers.size());
  for (const auto& [n, t] : parameters) s.set(n, t.detach());
  for (const auto& [n, t] : buffers) s.set(n, t.detach());
  return s;
}

void Module::translate_all(StateDict& state, const std::string& prefix,
                           std::vector<std::string>& renamed) const {
  translate_state(state, prefix, renamed);
  for (const auto& c : children_) c->module->translate_all(state, prefix + c->name + ".", renamed);
}

StateDict Module::own_names(StateDict state) const {
  std::vector<std::string> renamed;
  translate_all(state, "", renamed);
  return state;
}

namespace {

/// What load_state_dict writes: `from` into `to`, which the module knows by `name`.
struct Copy {
  std::string name;
  Tensor to, from;
};

// Takes a value for each tensor of a module out of `state`, and reports what does not fit.
std::vector<Copy> match_state(const std::vector<std::pair<std::string, Tensor>>& mine,
                              StateDict& state, LoadReport& report) {
  std::vector<Copy> copies;
  for (const auto& [n, t] : mine) {
    const Tensor value = state.take(n);
    if (!value.defined())
      report.missing.push_back(n);
    else if (!(value.sizes() == t.sizes()))
      report.misshaped.push_back(
          fmt::format("{} is {}, expected {}", n, value.sizes().str(), t.sizes().str()));
    else if (is_floating(value.dtype()) != is_floating(t.dtype()))
      report.mistyped.push_back(
          fmt::format("{} is {}, expected {}", n, name(value.dtype()), name(t.dtype())));
    else
      copies.push_back({n, t, value});
  }
  for (const auto& [n, t] : state) report.unexpected.push_back(n);
  return copies;
}

bool equal_values(const Tensor& a, const Tensor& b) {
  if (a.is_same(b)) return true;
  return a.numel() == 0 || a.to(kCPU).to_vector() == b.to(kCPU).to_vector();
}

// Names of one tensor whose values differ; the copies are made in order, so the last stays.
void report_ties(const std::vector<Copy>& copies, LoadReport& report) {
  std::unordered_map<const TensorImpl*, const Copy*> last;
  for (const Copy& c : copies) {
    const Copy*& before = last[c.to.impl()];
    if (before && !equal_values(before->from, c.from))
      report.tied.push_back(
          fmt::format("{} and {} are one tensor, and their values differ; that of {} is kept",
                      before->name, c.name, c.name));
    before = &c;
  }
}

void refuse_unless_all_fits(std::string_view type, const LoadReport& r) {
  if (r.missing.empty() && r.unexpected.empty() && r.misshaped.empty() && r.mistyped.empty())
    return;
  std::string s = fmt::format("{}: the state_dict does not fit; nothing was loaded", type);
  if (!r.missing.empty()) s += fmt::format("\n  missing: {}", fmt::join(r.missing, ", "));
  if (!r.unexpected.empty()) s += fmt::format("\n  unexpected: {}", fmt::join(r.unexpected, ", "));
  if (!r.misshaped.empty()) s += fmt::format("\n  mis-shaped: {}", fmt::join(r.misshaped, "; "));
  if (!r.mistyped.empty())
    s += fmt::format("\n  mis-typed: {} (convert them first, and scale them if they are codes)",
                     fmt::join(r.mistyped, "; "));
  fail<StateError>({s});
}

}  // namespace

LoadReport Module::load_state_dict(const StateDict& given, bool strict) {
  // Modules may change their form while they translate (packed weights, say); nothing stays changed
  // unless all fits.
  struct Restore {
    std::vector<std::pair<Tensor*, Tensor>> before;
    bool done = false;
    ~Restore() {
      if (!done)
        for (auto& [slot, value] : before) *slot = value;
    }
  } restore;
  apply([&](const std::string&, Module& m) {
    for (auto* slots : {&m.parameters_, &m.buffers_})
      for (auto& p : *slots) restore.before.emplace_back(&p->value, p->value);
  });
  LoadReport report;
  StateDict state = given;
  translate_all(state, "", report.renamed);
  std::vector<std::pair<std::string, Tensor>> mine = named_parameters(false);
  for (auto& b : named_buffers(false)) mine.push_back(b);
  const std::vector<Copy> copies = match_state(mine, state, report);
  if (strict) refuse_unless_all_fits(type(), report);
  report_ties(copies, report);
  {
    no_grad guard;
    for (const Copy& c : copies) Tensor(c.to).copy_(c.from);
  }
  restore.done = true;
  apply([](const std::string&, Module& m) { m.state_changed(); });
  return report;
}

std::vector<std::string> Module::adopt_state(const Module& from) {
  StateDict parameters, buffers;
  for (auto& [n, t] : from.named_parameters(false)) parameters.set(n, t);
  for (auto& [n, t] : from.named_buffers(false)) buffers.set(n, t);
  std::vector<std::string> adopted;
  no_grad guard;
  auto adopt = [&](const std::string& path, detail::ParameterSlot& slot, const StateDict& same_role,
                   const StateDict& other_role) {
    if (!slot.value.defined()) return;
    const Tensor same = same_role.find(path),
                 source = same.defined() ? same : other_role.find(path);
    if (!source.defined() || !(source.sizes() == slot.value.sizes()) ||
        is_floating(source.dtype()) != is_floating(slot.value.dtype()))
      return;
    if (same.defined()) {
      if (keeps_full_state(slot.value)) keep_full_state(same);
      slot.value = same;
    } else {
      slot.value.copy_(source);
    }
    adopted.push_back(path);
  };
  apply([&](const std::string& path, Module& m) {
    const std::string prefix = path.empty() ? "" : path + ".";
    for (auto& p : m.parameters_) adopt(prefix + p->name, *p, parameters, buffers);
    for (auto& b : m.buffers_) adopt(prefix + b->name, *b, buffers, parameters);
  });
  apply([](const std::string&, Module& m) { m.state_changed(); });
  return adopted;
}

Box<Module> Module::make_like() const {
  fail<Error>({type(), ": this module cannot be cloned; override make_like()"});
}

void Module::copy_state_from(const Module& other, CopiedTensors& copied) {
  for (std::size_t i = 0; i < children_.size() && i < other.children_.size(); ++i) {
    const Module& source = *other.children_[i]->module;
    if (children_[i]->module->type() != source.type() ||
        !(children_[i]->module->options_json() == source.options_json()))
      children_[i]->module = source.make_like();  // swapped after construction
    children_[i]->module->copy_state_from(source, copied);
  }
  auto copy = [&](Slots& to, const Slots& from) {
    for (std::size_t i = 0; i < to.size() && i < from.size(); ++i) {
      const Tensor& source = from[i]->value;
      Tensor& value = to[i]->value;
      if (!source.defined()) {
        value = {};
        continue;
      }
      Tensor& known = copied.copy_of[source.impl()];
      if (known.defined()) {
        value = known;
        continue;
      }
      const Tensor fresh = source.detach().clone();
      // A tensor that already holds another one's copy cannot take this one too.
      if (value.defined() && copied.used.insert(value.impl()).second)
        value.set_data(fresh);
      else
        value = fresh;
      copied.used.insert(value.impl());
      value.requires_grad_(source.requires_grad());
      if (keeps_full_state(source)) keep_full_state(value);
      known = value;
    }
  };
  copy(parameters_, other.parameters_);
  copy(buffers_, other.buffers_);
  training_ = other.training_;
  state_changed();
}

Box<Module> Module::clone() const {
  const Generator before =
      default_generator();  // the clone's own initialisation must not move the stream
  Box<Module> m = make_like();
  default_generator() = before;
  CopiedTensors copied;
  m->copy_state_from(*this, copied);
  default_generator() = before;  // nor that of swapped children
  return m;
}

}  // namespace dropin
