// Module: named parameters, buffers and children. Creating one of them and naming it is one act.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "dropin/core/options.h"
#include "dropin/module/named_tensors.h"
#include "dropin/ops/ops.h"

namespace dropin {

class Module;

namespace detail {
struct ParameterSlot {
  std::string name;
  Tensor value;
};
struct ChildSlot {
  std::string name;
  Box<Module> module;
};
}  // namespace detail

/// The family a module class belongs to (its `Family` type), or the class itself.
template <class T>
struct family_of {
  using type = T;
};
template <class T>
requires requires { typename T::Family; }
struct family_of<T> {
  using type = typename T::Family;
};

/// A handle to a child: calls go to whatever member of T's family stands there now, so that swap()
/// can replace it.
template <class T>
class Child {
 public:
  using Family = typename family_of<T>::type;
  Child() = default;
  explicit Child(detail::ChildSlot* slot) : slot_(slot) {}
  template <class U>
  requires std::is_base_of_v<Family, typename family_of<U>::type> Child(const Child<U>& o)
      : slot_(o.slot()) {}
  template <class... A>
  decltype(auto) operator()(A&&... args) const {
    return (**this)(std::forward<A>(args)...);
  }
  Family& operator*() const { return static_cast<Family&>(*slot_->module); }
  Family* operator->() const { return &**this; }
  /// The child as a T, or null when something else was swapped in.
  template <class U = T>
  U* as() const {
    return dynamic_cast<U*>(slot_->module.get());
  }
  explicit operator bool() const { return slot_ != nullptr; }
  detail::ChildSlot* slot() const { return slot_; }

 private:
  detail::ChildSlot* slot_ = nullptr;
};

/// What load_state_dict found.
struct LoadReport {
  std::vector<std::string> missing, unexpected, misshaped, renamed;
  std::vector<std::string> mistyped;  ///< integers for a floating-point tensor, or the reverse
  std::vector<std::string> tied;      ///< names of one tensor for which the state has two values
};

/// Base of every layer. Children and parameters live on the heap: a module may be moved, and kept
/// in vectors.
class Module {
 public:
  Module() = default;
  Module(Module&&) = default;
  virtual ~Module() = default;

  /// The class name, which is also the registry name.
  virtual std::string_view type() const { return "Module"; }
  /// The options it was made with.
  virtual Json options_json() const { return Json::object(); }
  /// A new module of the same options and fresh parameters.
  virtual Box<Module> make_like() const;
  /// A deep copy: same options, same children (swapped ones too), copied parameters and buffers. A
  /// tensor under two names is one tensor in the copy too, as deepcopy keeps it.
  Box<Module> clone() const;
  /// Calls the module with named inputs, for programs that know it by name only. Single results are
  /// called "y".
  virtual NamedTensors call(const NamedTensors& inputs);

  // --- state
  /// Every parameter (buffer) with its dotted path, in order of creation, children after their
  /// parent's own. A tensor under two names (head.weight = embedding.weight) is listed once, by the
  /// first, as torch lists it, unless remove_duplicate is false.
  std::vector<std::pair<std::string, Tensor>> named_parameters(bool remove_duplicate = true) const;
  std::vector<std::pair<std::string, Tensor>> named_buffers(bool remove_duplicate = true) const;
  /// named_parameters() without the names: each tensor once.
  Tensors parameters() const;
  int64_t num_parameters() const;
  /// Parameters and buffers by dotted path; they share memory with the module. A tensor under two
  /// names is there under both.
  StateDict state_dict() const;
  /// Copies `state` in. strict: StateError listing all missing, unexpected, mis-shaped and
  /// mis-typed entries, and nothing is loaded; otherwise what fits is loaded. Floating-point types
  /// are converted to each other, and integer types; integers (codes of packed weights) never
  /// become weights. Where one tensor has two names and two values, the last is kept, as in torch,
  /// and LoadReport::tied says so. Names of other frameworks that a layer knows (in_proj_weight)
  /// are translated first and reported as renamed.
  LoadReport load_state_dict(const StateDict& state, bool strict = true);
  /// Puts the very tensors of `from` where this module has a parameter (or a buffer) of the same
  /// path, shape and kind of dtype, so that optimizers made before, requires_grad and ties go on.
  /// What is a parameter here and a buffer there is copied. Returns the paths. swap() carries
  /// state over in this way.
  std::vector<std::string> adopt_state(const Module& from);
  /// `state` by this module's own names, as load_state_dict reads it: entries that a layer knows
  /// from other frameworks are renamed, cut or turned.
  StateDict own_names(StateDict state) const;
  void zero_grad();
  Module& requires_grad_(bool on = true);

  // --- mode and place
  bool is_training() const { return training_; }
  Module& train(bool on = true);
  Module& eval() { return train(false); }
  /// Converts floating-point parameters and buffers in place; optimizers that hold them keep
  /// working, and their states follow.
  Module& to(DType dtype);
  Module& to(const Device& device);

  // --- structure
  /// Direct children, in order.
  std::vector<std::pair<std::string, Module*>> children() const;
  /// Calls f(path, module) for this module ("") and everything below.
  void apply(const std::function<void(const std::string&, Module&)>& f);
  /// The tree with types, options and parameter counts.
  std::string str() const;
  /// Puts another module where the child of that name stands; returns the old one. Optimizers made
  /// before hold the old one's parameters, and say so at their next step once the old one is gone;
  /// adopt_state() keeps those that fit, as swap() does. StateError when there is no such child.
  Box<Module> replace_child(std::string_view name, Box<Module> with);

 protected:
  /// A learnable tensor. An undefined value names a parameter that these options leave out: it is
  /// not part of the state.
  Tensor& parameter(std::string name, Tensor value);
  /// State that is saved but not learned.
  Tensor& buffer(std::string name, Tensor value);
  /// Constructs a T from its options (or other arguments) as a child.
  template <class T, class... A>
  Child<T> child(std::string name, A&&... args) {
    return Child<T>(add_child(std::move(name), Box<Module>(new T(std::forward<A>(args)...))));
  }
  /// The same for braces: child<Linear>("q_proj", {.in_features = 8, ...}).
  template <class T>
  Child<T> child(std::string name, const typename T::Options& options) {
    return Child<T>(add_child(std::move(name), Box<Module>(new T(options))));
  }
  detail::ChildSlot* add_child(std::string name, Box<Module> module);
  /// Renames entries under `prefix` that another framework wrote; `renamed` collects lines "old ->
  /// new".
  virtual void translate_state(StateDict&, const std::string& /*prefix*/,
                               std::vector<std::string>& /*renamed*/) const {}
  /// Called after train(), to() and load_state_dict() so that derived data can be dropped.
  virtual void state_changed() {}

 private:
  /// Which tensor of a copy stands for each of the original, and which are spoken for.
  struct CopiedTensors {
    std::unordered_map<const TensorImpl*, Tensor> copy_of;
    std::unordered_set<const TensorImpl*> used;
  };
  void copy_state_from(const Module& other, CopiedTensors& copied);
  using Slots = std::vector<Box<detail::ParameterSlot>>;
  void collect(Slots Module::*list, const std::string& prefix,
               std::unordered_set<const TensorImpl*>* seen,
               std::vector<std::pair<std::string, Tensor>>& out) const;
  void translate_all(StateDict& state, const std::string& prefix,
                     std::vector<std::string>& renamed) const;
  std::string tree(int indent) const;
  Slots parameters_, buffers_;
  std::vector<Box<detail::ChildSlot>> children_;
  bool training_ = true;
};

/// Gives Self its name, options and clone. class Linear : public Component<Linear, LinearOptions,
/// Projection>.
template <class Self, class O, class Base>
class Component : public Base {
 public:
  using Options = O;
  explicit Component(const O& o) : options_(o) {}
  const O& options() const { return options_; }
  std::string_view type() const override { return type_name<Self>(); }
  Json options_json() const override { return options_to_json(options_); }
  Box<Module> make_like() const override { return Box<Module>(new Self(options_)); }

 protected:
  O options_;
  /// The class name, for messages.
  static constexpr std::string_view who() { return type_name<Self>(); }
};

}  // namespace dropin
