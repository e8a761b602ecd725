#include "dropin/module/module.h"

#include <fmt/format.h>

#include <algorithm>

namespace dropin {

// --- NamedTensors

Tensor NamedTensors::find(std::string_view name) const {
  for (const auto& [n, t] : items_)
    if (n == name) return t;
  return {};
}
bool NamedTensors::contains(std::string_view name) const {
  return std::any_of(items_.begin(), items_.end(), [&](const Item& i) { return i.first == name; });
}
Tensor NamedTensors::get(std::string_view name, std::string_view who) const {
  for (const auto& [n, t] : items_)
    if (n == name && t.defined()) return t;
  std::string have;
  for (const auto& [n, t] : items_) have += (have.empty() ? "" : ", ") + n;
  fail<StateError>({who, ": no tensor \"", name, "\"; given: ", have.empty() ? "none" : have});
}
void NamedTensors::set(std::string name, Tensor t) {
  for (auto& [n, old] : items_)
    if (n == name) {
      old = std::move(t);
      return;
    }
  items_.emplace_back(std::move(name), std::move(t));
}
Tensor NamedTensors::take(std::string_view name) {
  for (auto it = items_.begin(); it != items_.end(); ++it)
    if (it->first == name) {
      Tensor t = it->second;
      items_.erase(it);
      return t;
    }
  return {};
}

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

std::vector<std::pair<std::string, Tensor>> Module::named_parameters() const {
  std::vector<std::pair<std::string, Tensor>> r;
  for (const auto& p : parameters_)
    if (p->value.defined()) r.emplace_back(p->name, p->value);
  for (const auto& c : children_)
    for (auto& [n, t] : c->module->named_parameters()) r.emplace_back(c->name + "." + n, t);
  return r;
}
std::vector<std::pair<std::string, Tensor>> Module::named_buffers() const {
  std::vector<std::pair<std::string, Tensor>> r;
  for (const auto& b : buffers_)
    if (b->value.defined()) r.emplace_back(b->name, b->value);
  for (const auto& c : children_)
    for (auto& [n, t] : c->module->named_buffers()) r.emplace_back(c->name + "." + n, t);
  return r;
}
Tensors Module::parameters() const {
  Tensors r;
  for (auto& [n, t] : named_parameters()) r.push_back(t);
  return r;
}
std::int64_t Module::num_parameters() const {
  std::int64_t n = 0;
  for (auto& [name, t] : named_parameters()) n += t.numel();
  return n;
}
StateDict Module::state_dict() const {
  StateDict s;
  for (auto& [n, t] : named_parameters()) s.set(n, t.detach());
  for (auto& [n, t] : named_buffers()) s.set(n, t.detach());
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
  std::vector<std::pair<std::string, Tensor>> mine = named_parameters();
  for (auto& b : named_buffers()) mine.push_back(b);
  std::vector<std::pair<Tensor, Tensor>> copies;
  for (auto& [n, t] : mine) {
    const Tensor value = state.take(n);
    if (!value.defined())
      report.missing.push_back(n);
    else if (!(value.sizes() == t.sizes()))
      report.misshaped.push_back(
          fmt::format("{} is {}, expected {}", n, value.sizes().str(), t.sizes().str()));
    else
      copies.emplace_back(t, value);
  }
  for (auto& [n, t] : state) report.unexpected.push_back(n);
  if (strict &&
      !(report.missing.empty() && report.unexpected.empty() && report.misshaped.empty())) {
    std::string s = fmt::format("{}: the state_dict does not fit; nothing was loaded", type());
    if (!report.missing.empty())
      s += fmt::format("\n  missing: {}", fmt::join(report.missing, ", "));
    if (!report.unexpected.empty())
      s += fmt::format("\n  unexpected: {}", fmt::join(report.unexpected, ", "));
    if (!report.misshaped.empty())
      s += fmt::format("\n  mis-shaped: {}", fmt::join(report.misshaped, "; "));
    fail<StateError>({s});
  }
  {
    no_grad guard;
    for (auto& [to, from] : copies) to.copy_(from);
  }
  restore.done = true;
  apply([](const std::string&, Module& m) { m.state_changed(); });
  return report;
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

void Module::copy_state_from(const Module& other) {
  for (std::size_t i = 0; i < children_.size() && i < other.children_.size(); ++i) {
    if (children_[i]->module->type() != other.children_[i]->module->type() ||
        !(children_[i]->module->options_json() == other.children_[i]->module->options_json()))
      children_[i]->module = other.children_[i]->module->clone();  // swapped after construction
    else
      children_[i]->module->copy_state_from(*other.children_[i]->module);
  }
  auto copy = [](std::vector<Box<detail::ParameterSlot>>& to,
                 const std::vector<Box<detail::ParameterSlot>>& from) {
    for (std::size_t i = 0; i < to.size() && i < from.size(); ++i) {
      const Tensor& source = from[i]->value;
      if (!source.defined()) {
        to[i]->value = {};
        continue;
      }
      Tensor fresh = source.detach().clone();
      if (to[i]->value.defined())
        to[i]->value.set_data(fresh);
      else
        to[i]->value = fresh;
      to[i]->value.requires_grad_(source.requires_grad());
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
  m->copy_state_from(*this);
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
