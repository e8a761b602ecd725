// Parameters: tensors under a common prefix, such as surm.A or experts.w1.
#pragma once
#include "dropin/module/module.h"

namespace dropin {

/// A named bundle of parameters, buffers and children without a call of its own, so that a layer
/// can have names with dots in them.
class Parameters : public Module {
 public:
  std::string_view type() const override { return "Parameters"; }
  Box<Module> make_like() const override {
    auto r = Box<Parameters>(new Parameters());
    auto own = [](const std::string& name) { return name.find('.') == std::string::npos; };
    for (const auto& [name, t] : named_parameters(false))
      if (own(name)) r->add(name, t.detach().clone());
    for (const auto& [name, t] : named_buffers(false))
      if (own(name)) r->add_buffer(name, t.clone());
    for (const auto& [name, m] : children()) r->add_child(name, m->make_like());
    return r;
  }
  /// A parameter of that name; the reference stays good as long as this module.
  Tensor& add(std::string name, Tensor value) {
    return parameter(std::move(name), std::move(value));
  }
  Tensor& add_buffer(std::string name, Tensor value) {
    return buffer(std::move(name), std::move(value));
  }
  using Module::child;  ///< a layer under the prefix
  /// A bundle within this one.
  Parameters& bundle(std::string name) { return *child<Parameters>(std::move(name)).as(); }
};

}  // namespace dropin
