// The registry: every component by name, its options, and how to make or call it.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/module/module.h"
#include "dropin/optimizer/optimizer.h"

namespace dropin {

enum class ComponentKind { Module, Function, Optimizer };

/// One registered component.
struct ComponentInfo {
  std::string name, family, replaces, summary, paper;
  std::string call_text;  ///< what goes in and comes out
  ComponentKind kind = ComponentKind::Module;
  std::vector<FieldInfo> options;
  std::vector<std::string> examples;  ///< options (JSON) that the property tests also run, over the
                                      ///< family's sample options
  std::function<bool(const Json&)>
      surrogate_gradient;  ///< true for options whose backward is not the derivative, by the
                           ///< paper's intent; null: never
  std::string sample;  ///< small options (JSON) to make one by, for tests and descriptions, over
                       ///< those that fit every member
  std::vector<std::int64_t>
      sample_input;  ///< sizes of an input x for these, after the batch; empty: the family's
  /// swap(): options that let it take the place of a component with other option names; `around`
  /// are the options of the modules around that one, the nearest winning. null or an empty answer:
  /// only names that both know carry over.
  std::function<Json(std::string_view component, const Json& options, const Json& around)>
      options_from;
  std::function<Box<Module>(const Json&)> make_module;
  std::function<Box<Optimizer>(const Tensors&, const Json&)> make_optimizer;
  std::function<NamedTensors(const Json&, const NamedTensors&)> call;
  std::function<NamedTensors(std::int64_t n)>
      inputs;  ///< of a function: an example of its inputs, about n values; null: the family's "x"
  /// Multiplications and additions of one forward call that are not products with parameters (an
  /// attention's scores and sums), by options and sizes of x. null: none.
  std::function<double(const Json&, const Shape&)> core_flops;
};

/// Components in order of registration. Names are unique.
class Registry {
 public:
  /// Adds module or optimizer class T: its name, options, family and documentation come from the
  /// class (kSummary, kReplaces, kPaper, examples(), kSample, sample_input(),
  /// surrogate_gradient(options), options_from(component, options, around), core_flops(options,
  /// sizes of x)).
  template <class T>
  void add() {
    ComponentInfo c;
    c.name = type_name<T>();
    c.family = T::kFamily;
    c.options = option_fields<typename T::Options>();
    if constexpr (requires { T::kSummary; }) c.summary = T::kSummary;
    if constexpr (requires { T::kReplaces; }) c.replaces = T::kReplaces;
    if constexpr (requires { T::kPaper; }) c.paper = T::kPaper;
    if constexpr (requires { T::kCall; }) c.call_text = T::kCall;
    if constexpr (requires { T::examples(); }) c.examples = T::examples();
    if constexpr (requires(const typename T::Options& o) { T::surrogate_gradient(o); })
      c.surrogate_gradient = [](const Json& j) {
        return T::surrogate_gradient(options_from_json<typename T::Options>(j, type_name<T>()));
      };
    if constexpr (requires(const Json& j) { T::options_from(std::string_view(), j, j); })
      c.options_from = &T::options_from;
    if constexpr (requires(const typename T::Options& o, const Shape& x) { T::core_flops(o, x); })
      c.core_flops = [](const Json& j, const Shape& x) -> double {
        return T::core_flops(options_from_json<typename T::Options>(j, type_name<T>()), x);
      };
    if constexpr (requires { T::kSample; }) c.sample = T::kSample;
    if constexpr (requires { T::sample_input(); }) c.sample_input = T::sample_input();
    if constexpr (std::is_base_of_v<Optimizer, T>) {
      c.kind = ComponentKind::Optimizer;
      c.make_optimizer = [](const Tensors& p, const Json& j) {
        return Box<Optimizer>(new T(p, options_from_json<typename T::Options>(j, type_name<T>())));
      };
    } else {
      c.make_module = [](const Json& j) {
        return Box<Module>(new T(options_from_json<typename T::Options>(j, type_name<T>())));
      };
    }
    insert(std::move(c));
  }
  /// Adds a function with options O: f(const O&, const NamedTensors& inputs) -> NamedTensors
  /// outputs. `inputs` makes an example of these for benchmarks.
  template <class O, class F>
  void add_function(std::string name, std::string family, std::string summary, F f,
                    std::string replaces = "", std::string paper = "",
                    std::function<NamedTensors(std::int64_t)> inputs = nullptr) {
    ComponentInfo c;
    c.name = name;
    c.family = std::move(family);
    c.summary = std::move(summary);
    c.replaces = std::move(replaces);
    c.paper = std::move(paper);
    c.kind = ComponentKind::Function;
    c.options = option_fields<O>();
    c.inputs = std::move(inputs);
    c.call = [name, f](const Json& j, const NamedTensors& in) -> NamedTensors {
      return f(options_from_json<O>(j, name), in);
    };
    insert(std::move(c));
  }
  /// OptionError naming the nearest name when there is no such component.
  const ComponentInfo& find(std::string_view name) const;
  /// Another name that find() and contains() know the component by.
  void add_alias(std::string alias, std::string name) {
    aliases_.emplace_back(std::move(alias), std::move(name));
  }
  bool contains(std::string_view name) const;
  const std::vector<ComponentInfo>& all() const { return components_; }

 private:
  void insert(ComponentInfo c);
  std::string_view real_name(std::string_view name) const;
  std::vector<std::pair<std::string, std::string>> aliases_;
  std::vector<ComponentInfo> components_;
};

/// Small options to make one by: those every member understands by name, then the component's own
/// sample.
Json sample_options(const ComponentInfo& c);

/// The options `to` gets when it takes the place of `from` made with `options`: what its
/// options_from says, or the values of the names both know.
Json replacing_options(const ComponentInfo& from, const Json& options, const Json& around,
                       const ComponentInfo& to);

/// The program's registry, with every built-in member. Add your own: registry().add<MyLayer>().
Registry& registry();

/// A module by registry name from JSON options.
Box<Module> make(std::string_view name, const Json& options = Json::object());
/// An optimizer by registry name.
Box<Optimizer> make_optimizer(std::string_view name, const Tensors& params,
                              const Json& options = Json::object());

/// What swap() did.
struct SwapReport {
  struct Instance {
    std::string path;
    std::vector<std::string>
        carried;                     ///< parameters and buffers taken over (same name, same shape)
    std::vector<std::string> fresh;  ///< new ones, at their initial values
    std::vector<std::string> dropped;  ///< of the old component, gone
    /// Those of `fresh` that are trainable although every parameter of the old component was
    /// frozen, as a new module's are in torch; requires_grad_(false) freezes them.
    std::vector<std::string> thawed;
  };
  std::vector<Instance> instances;
  /// A line per instance.
  std::string str() const;
};

/// Replaces every instance of component `from` below `model` by `to`. The new one is made with the
/// old one's values of the options both know (or as its options_from says), overridden by
/// `options`; parameters and buffers whose name, shape and kind of dtype agree are carried over.
/// These stay the same tensors, so that an optimizer made before goes on training them, and frozen
/// or tied ones stay so; mode, dtype and device are kept. An optimizer made before that holds a
/// dropped parameter, or lacks a new one, says so at its next step (Optimizer::step). OptionError
/// when there is no instance, the families differ, or the options are refused; the
/// model is unchanged then.
SwapReport swap(Module& model, std::string_view from, std::string_view to,
                const Json& options = Json::object());

}  // namespace dropin
