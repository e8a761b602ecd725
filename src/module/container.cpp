#include "dropin/module/container.h"

namespace dropin {

void Container::check_name(const std::string& name) const {
  DROPIN_CHECK(!name.empty() && name.find('.') == std::string::npos, StateError,
               "Container: the name \"", name, "\" is empty or has a dot");
  bool taken = false;
  for (const auto& [n, t] : tensors_) taken = taken || n == name;
  for (const auto& [n, m] : children()) taken = taken || n == name;
  DROPIN_CHECK(!taken, StateError, "Container: there is a part \"", name, "\" already");
}

Tensor& Container::add_parameter(const std::string& name, Tensor value) {
  check_name(name);
  Tensor& t = parameter(name, std::move(value));
  tensors_.emplace_back(name, &t);
  learned_.push_back(true);
  return t;
}

Tensor& Container::add_buffer(const std::string& name, Tensor value) {
  check_name(name);
  Tensor& t = buffer(name, std::move(value));
  tensors_.emplace_back(name, &t);
  learned_.push_back(false);
  return t;
}

Module& Container::add_module(const std::string& name, Box<Module> module) {
  check_name(name);
  return *add_child(name, std::move(module))->module;
}

Tensor Container::parameter_of(std::string_view name) const {
  std::vector<std::string> names;
  for (const auto& [n, t] : tensors_) {
    if (n == name) return *t;
    names.push_back(n);
  }
  fail<StateError>({"Container: there is no tensor \"", name, "\"; the nearest is \"",
                    nearest_name(name, names.data(), names.size()), "\""});
}

Module& Container::module_of(std::string_view name) const {
  std::vector<std::string> names;
  for (const auto& [n, m] : children()) {
    if (n == name) return *m;
    names.push_back(n);
  }
  fail<StateError>({"Container: there is no module \"", name, "\"; the nearest is \"",
                    nearest_name(name, names.data(), names.size()), "\""});
}

Box<Module> Container::make_like() const {
  auto copy = Box<Container>(new Container);
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto& [name, t] = tensors_[i];
    const Tensor like = t->defined() ? zeros_like(*t) : Tensor();
    if (learned_[i])
      copy->add_parameter(name, like);
    else
      copy->add_buffer(name, like);
  }
  for (const auto& [name, m] : children()) copy->add_module(name, m->make_like());
  return copy;
}

}  // namespace dropin
