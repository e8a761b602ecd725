// Module: named parameters, buffers and children. Creating one of them and naming it is one act.
#pragma once
#include <functional>
#include <memory>
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
struct ModuleHooks;

/// What register_*_hook gives: takes the hook away again. Copies are handles of the same hook.
class RemovableHandle {
 public:
  RemovableHandle() = default;
  RemovableHandle(std::weak_ptr<ModuleHooks> hooks, int64_t id)
      : hooks_(std::move(hooks)), id_(id) {}
  /// Nothing happens when it is gone already, or its module is.
  void remove();

 private:
  std::weak_ptr<ModuleHooks> hooks_;
  int64_t id_ = 0;
};

/// Called before forward() with its tensors; what it returns, unless empty, takes their place.
using ForwardPreHook = std::function<Tensors(Module&, const Tensors& inputs)>;
/// Called after forward(); what it returns, unless undefined, takes the result's place.
using ForwardHook = std::function<Tensor(Module&, const Tensors& inputs, const Tensor& output)>;
/// Called in backward, when the gradients of the module's inputs are known; what it returns, unless
/// empty, takes their place. Undefined: no gradient.
using BackwardHook =
    std::function<Tensors(Module&, const Tensors& grad_inputs, const Tensors& grad_outputs)>;

namespace detail {
/// The hooks of a module: shared with its handles and with the tape. A module that is moved away or
/// destroyed says so.
struct HookHolder {
  std::shared_ptr<ModuleHooks> hooks;
  HookHolder() = default;
  HookHolder(HookHolder&& o) noexcept;
  HookHolder& operator=(HookHolder&&) = delete;
  ~HookHolder();
};
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
  /// The family's named arguments in braces: child(x, {.attn_mask = m}).
  template <class F = Family>
  decltype(auto) operator()(const Tensor& x, const typename F::Args& args) const {
    return (**this)(x, args);
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
  /// The parameter (buffer) of that dotted path; StateError when there is none. weight() and bias()
  /// are those of that name, so that child->weight() works whatever stands there; a bias that the
  /// options leave out is undefined.
  Tensor& get_parameter(std::string_view path) const;
  Tensor& get_buffer(std::string_view path) const;
  Tensor& weight() const { return get_parameter("weight"); }
  Tensor& bias() const { return get_parameter("bias"); }

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
  /// This module (its path is "") and everything below, parents before their children.
  std::vector<std::pair<std::string, Module*>> named_modules();
  std::vector<Module*> modules();
  /// The module of that dotted path; StateError when there is none.
  Module& get_submodule(std::string_view path);
  /// Calls f(path, module) for this module ("") and everything below.
  void apply(const std::function<void(const std::string&, Module&)>& f);
  /// The tree with types, options and parameter counts.
  std::string str() const;
  /// Puts another module where the child of that name stands; returns the old one. Optimizers made
  /// before hold the old one's parameters, and say so at their next step once the old one is gone;
  /// adopt_state() keeps those that fit, as swap() does. StateError when there is no such child.
  Box<Module> replace_child(std::string_view name, Box<Module> with);

  // --- hooks
  // They run when the module is called, with ( ) or by name, not where forward() itself is; in the
  // order of registration. A hook that returns void changes nothing. clone() does not copy them.
  // StateError for a module whose calls run no hooks (runs_hooks()).
  template <class F>
  RemovableHandle register_forward_pre_hook(F f) {
    if constexpr (std::is_void_v<std::invoke_result_t<F&, Module&, const Tensors&>>)
      return add_hook(ForwardPreHook([f](Module& m, const Tensors& in) mutable -> Tensors {
        f(m, in);
        return {};
      }));
    else
      return add_hook(ForwardPreHook(std::move(f)));
  }
  template <class F>
  RemovableHandle register_forward_hook(F f) {
    if constexpr (std::is_void_v<std::invoke_result_t<F&, Module&, const Tensors&, const Tensor&>>)
      return add_hook(
          ForwardHook([f](Module& m, const Tensors& in, const Tensor& y) mutable -> Tensor {
            f(m, in, y);
            return {};
          }));
    else
      return add_hook(ForwardHook(std::move(f)));
  }
  template <class F>
  RemovableHandle register_full_backward_hook(F f) {
    if constexpr (std::is_void_v<std::invoke_result_t<F&, Module&, const Tensors&, const Tensors&>>)
      return add_hook(
          BackwardHook([f](Module& m, const Tensors& gx, const Tensors& gy) mutable -> Tensors {
            f(m, gx, gy);
            return {};
          }));
    else
      return add_hook(BackwardHook(std::move(f)));
  }
  /// Whether calls of this module run hooks: those of families whose members give one tensor do. A
  /// class that calls with_hooks() itself says so here.
  virtual bool runs_hooks() const { return false; }

 protected:
  /// forward(x) -> Tensor between this module's hooks: what a class's operator() and call() go
  /// through (forward(a, b) for two tensors).
  template <class F>
  Tensor with_hooks(const Tensor& x, F&& forward) {
    if (!hooks_.hooks) [[likely]]
      return forward(x);
    return hooked({x}, [&](const Tensors& in) -> Tensor { return forward(in[0]); });
  }
  template <class F>
  Tensor with_hooks(const Tensor& a, const Tensor& b, F&& forward) {
    if (!hooks_.hooks) [[likely]]
      return forward(a, b);
    return hooked({a, b}, [&](const Tensors& in) -> Tensor { return forward(in[0], in[1]); });
  }
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
  RemovableHandle add_hook(ForwardPreHook f);
  RemovableHandle add_hook(ForwardHook f);
  RemovableHandle add_hook(BackwardHook f);
  ModuleHooks& own_hooks();
  Tensor hooked(Tensors inputs, const std::function<Tensor(const Tensors&)>& forward);
  Tensor& slot_of(Slots Module::*list, const char* what, std::string_view path) const;
  const Module* below(std::string_view path) const;
  Slots parameters_, buffers_;
  std::vector<Box<detail::ChildSlot>> children_;
  detail::HookHolder hooks_;
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
