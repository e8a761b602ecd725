// Container: a module made of named parts, for state whose names no class of its own declares.
#pragma once
#include "dropin/module/module.h"

namespace dropin {

/// Holds named parameters, buffers and children, and computes nothing: `experts.w1`, `surm.A`,
/// `denoisers.0`. What torch has ParameterDict, ParameterList and ModuleDict for. Names are dotted
/// paths in the state, so a part's own name has no dot.
class Container : public Module {
 public:
  std::string_view type() const override { return "Container"; }
  /// A learnable tensor; the reference stays good. StateError when the name is taken or has a dot.
  Tensor& add_parameter(const std::string& name, Tensor value);
  /// State that is saved but not learned.
  Tensor& add_buffer(const std::string& name, Tensor value);
  /// A module made elsewhere, a user's own for example.
  Module& add_module(const std::string& name, Box<Module> module);
  /// The part of that name; StateError naming the nearest when there is none.
  Tensor parameter_of(std::string_view name) const;
  Module& module_of(std::string_view name) const;
  /// Parts of the same names and sizes: parameters and buffers as zeros, children by their own
  /// make_like().
  Box<Module> make_like() const override;

 private:
  void check_name(const std::string& name) const;
  std::vector<std::pair<std::string, Tensor*>> tensors_;
  std::vector<bool> learned_;
};

}  // namespace dropin
