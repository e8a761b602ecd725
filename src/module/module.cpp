// A module and its tree: building, walking, modes, printing.
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

std::vector<std::pair<std::string, Module*>> Module::named_modules() {
  std::vector<std::pair<std::string, Module*>> r;
  apply([&](const std::string& path, Module& m) { r.emplace_back(path, &m); });
  return r;
}
std::vector<Module*> Module::modules() {
  std::vector<Module*> r;
  apply([&](const std::string&, Module& m) { r.push_back(&m); });
  return r;
}

// The module of a dotted path; null when there is none.
const Module* Module::below(std::string_view path) const {
  const Module* m = this;
  while (m && !path.empty()) {
    const std::string_view name = path.substr(0, path.find('.'));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    const Module* next = nullptr;
    for (const auto& c : m->children_)
      if (c->name == name) next = c->module.get();
    m = next;
  }
  return m;
}
Module& Module::get_submodule(std::string_view path) {
  const Module* m = below(path);
  DROPIN_CHECK(m, StateError, type(), ": no module at \"", path, "\"");
  return const_cast<Module&>(*m);
}
Tensor& Module::slot_of(Slots Module::*list, const char* what, std::string_view path) const {
  const std::size_t dot = path.rfind('.');
  const Module* m = dot == std::string_view::npos ? this : below(path.substr(0, dot));
  const std::string_view name = dot == std::string_view::npos ? path : path.substr(dot + 1);
  if (m)
    for (const auto& slot : m->*list)
      if (slot->name == name) return slot->value;
  fail<StateError>({type(), ": no ", what, " at \"", path, "\""});
}
Tensor& Module::get_parameter(std::string_view path) const {
  return slot_of(&Module::parameters_, "parameter", path);
}
Tensor& Module::get_buffer(std::string_view path) const {
  return slot_of(&Module::buffers_, "buffer", path);
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
