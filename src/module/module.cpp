#include "dropin/module/module.h"

#include <fmt/format.h>

#include "dropin/autograd/full_state.h"

namespace dropin {

// --- building

namespace {
void check_name(const char* what, const std::string& name) {
  if (name.empty() || name.find('.') != std::string::npos)
    fail<OptionError>({"Module: the ", what, " name \"", name, "\" is empty or has a dot"});
}
}  // namespace

Tensor& Module::parameter(std::string name, Tensor value) {
  check_name("parameter", name);
  if (value.defined()) value.requires_grad_();
  parameters_.emplace_back(new detail::ParameterSlot{std::move(name), std::move(value)});
  return parameters_.back()->value;
}
Tensor& Module::buffer(std::string name, Tensor value) {
  check_name("buffer", name);
  buffers_.emplace_back(new detail::ParameterSlot{std::move(name), std::move(value)});
  return buffers_.back()->value;
}
detail::ChildSlot* Module::add_child(std::string name, Box<Module> module) {
  check_name("child", name);
  children_.emplace_back(new detail::ChildSlot{std::move(name), std::move(module)});
  return children_.back().get();
}

Box<Module> Module::replace_child(std::string_view name, Box<Module> with) {
  for (auto& slot : children_)
    if (slot->name == name) {
      with->train(training_);
      std::swap(slot->module, with);
      return with;
    }
  fail<StateError>({type(), ": no child named \"", name, "\""});
}

// --- walking

std::vector<std::pair<std::string, Module*>> Module::children() const {
  std::vector<std::pair<std::string, Module*>> r;
  for (const auto& c : children_) r.emplace_back(c->name, c->module.get());
  return r;
}

void Module::apply(const std::function<void(const std::string&, Module&)>& f) {
  auto walk = [&](auto& self, const std::string& path, Module& m) -> void {
    f(path, m);
    for (auto& c : m.children_)
      self(self, path.empty() ? c->name : path + "." + c->name, *c->module);
  };
  walk(walk, "", *this);
}

// Tensors in `seen` are left out; null lists all.
void Module::collect(Slots Module::*slots, const std::string& prefix,
                     std::unordered_set<const TensorImpl*>* seen,
                     std::vector<std::pair<std::string, Tensor>>& out) const {
  for (const auto& p : this->*slots)
    if (p->value.defined() && (!seen || seen->insert(p->value.impl()).second))
      out.emplace_back(prefix + p->name, p->value);
  for (const auto& c : children_) c->module->collect(slots, prefix + c->name + ".", seen, out);
}
std::vector<std::pair<std::string, Tensor>> Module::named_parameters(bool remove_duplicate) const {
  std::vector<std::pair<std::string, Tensor>> r;
  std::unordered_set<const TensorImpl*> seen;
  collect(&Module::parameters_, "", remove_duplicate ? &seen : nullptr, r);
  return r;
}
std::vector<std::pair<std::string, Tensor>> Module::named_buffers(bool remove_duplicate) const {
  std::vector<std::pair<std::string, Tensor>> r;
  std::unordered_set<const TensorImpl*> seen;
  collect(&Module::buffers_, "", remove_duplicate ? &seen : nullptr, r);
  return r;
}
Tensors Module::parameters() const {
  Tensors r;
  for (auto& [n, t] : named_parameters()) r.push_back(t);
  return r;
}
int64_t Module::num_parameters() const {
  int64_t n = 0;
  for (auto& [name, t] : named_parameters()) n += t.numel();
  return n;
}
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

void Module::zero_grad() {
  for (Tensor& p : parameters()) p.set_grad({});
}
Module& Module::requires_grad_(bool on) {
  for (Tensor& p : parameters()) p.requires_grad_(on);
  return *this;
}

Module& Module::train(bool on) {
  training_ = on;
  for (auto& c : children_) c->module->train(on);
  state_changed();
  return *this;
}

namespace {
template <class F>
void convert(const std::vector<std::pair<std::string, Tensor>>& tensors, F f) {
  std::vector<std::pair<Tensor, Tensor>>
      done;  // all conversions first: a failed one leaves the module as it was
  for (auto& [n, t] : tensors) done.emplace_back(t, f(t.detach()));
  for (auto& [t, v] : done) t.set_data(v);
}
}  // namespace

Module& Module::to(DType dtype) {
  if (!is_floating(dtype))
    fail<DTypeError>(
        {type(), ": to(", dtype, "): a module is converted to floating-point types only"});
  auto f = [&](const Tensor& t) { return is_floating(t.dtype()) ? t.to(dtype) : t; };
  auto all = named_parameters();
  for (auto& b : named_buffers()) all.push_back(b);
  convert(all, f);
  apply([](const std::string&, Module& m) { m.state_changed(); });
  return *this;
}
Module& Module::to(const Device& device) {
  auto all = named_parameters();
  for (auto& b : named_buffers()) all.push_back(b);
  convert(all, [&](const Tensor& t) { return t.to(device); });
  apply([](const std::string&, Module& m) { m.state_changed(); });
  return *this;
}

// --- copies

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

NamedTensors Module::call(const NamedTensors&) {
  fail<Error>({type(), ": this module cannot be called by name"});
}

// --- printing

namespace {
std::string options_text(const Json& options) {
  std::string s;
  for (const auto& [k, v] : options.items()) s += (s.empty() ? "" : ", ") + k + "=" + v.dump();
  return s;
}
}  // namespace

std::string Module::tree(int indent) const {
  std::string s = fmt::format("{}({})", type(), options_text(options_json()));
  if (children_.empty()) return s;
  s += fmt::format("  # {} parameters", num_parameters());
  for (const auto& c : children_) {
    s += fmt::format("\n{:{}}({}): {}", "", indent + 2, c->name, c->module->tree(indent + 2));
    if (c->module->children_.empty() && c->module->num_parameters())
      s += fmt::format("  # {}", c->module->num_parameters());
  }
  return s;
}
std::string Module::str() const {
  std::string s = tree(0);
  return children_.empty() && num_parameters()
             ? s + fmt::format("  # {} parameters", num_parameters())
             : s;
}

}  // namespace dropin
