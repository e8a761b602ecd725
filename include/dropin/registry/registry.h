// The registry: every component by name, its options, and how to make or call it.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/module/family.h"
#include "dropin/optimizer/optimizer.h"
#include "dropin/registry/function.h"

namespace dropin {

enum class ComponentKind { Module, Function, Optimizer };

/// One registered component.
struct ComponentInfo {
  std::string name, family, replaces, summary, paper;
  std::string call_text;  ///< what goes in and comes out; empty: as the family says
  ComponentKind kind = ComponentKind::Module;
  std::string made_as;  ///< type() of what make() gives: the name itself, or what a preset is of
  std::vector<FieldInfo> options;
  /// Options (JSON) that the property tests also run, over the sample ones.
  std::vector<std::string> examples;
  /// Small options (JSON) to make one by, for tests and descriptions, over those that fit every
  /// member.
  std::string sample;
  /// Facts by options; null: the family's.
  std::function<void(const Json& options, Traits&)> traits;
  /// Inputs for one made with these options; null: the family's.
  std::function<Sample(const Json& options, const SampleSpec&)> inputs;
  /// swap(): options that let it take the place of a component with other option names; `around`
  /// are the options of the modules around that one, the nearest winning. null or an empty answer:
  /// only names that both know carry over.
  std::function<Json(std::string_view component, const Json& options, const Json& around)>
      options_from;
  std::function<Box<Module>(const Json&)> make_module;
  std::function<Box<Optimizer>(const Tensors&, const Json&)> make_optimizer;
  std::function<NamedTensors(const Json&, const NamedTensors&)> call;
  /// Multiplications and additions of one forward call that are not products with parameters (an
  /// attention's scores and sums), by options and sizes of x. null: none.
  std::function<double(const Json&, const Shape&)> core_flops;
  std::function<Work(const Workload&)> work;  ///< null: the family's
  /// Of a function: changes of the inputs, and what they do to the outputs.
  std::vector<Invariance> invariances;
  /// Options that are legal but take a fuzzer too long; null: none.
  std::function<bool(const Json&)> slow;
};

/// Components in order of registration. Names are unique.
class Registry {
 public:
  /// Adds module or optimizer class T. Its name, options, family and documentation come from the
  /// class: kSummary, and where it has them kReplaces, kPaper, kCall, kSample, examples(),
  /// sample(options, spec), traits(options, t), options_from(component, options, around),
  /// core_flops(options, sizes of x), work(workload).
  template <class T>
  void add() {
    using O = typename T::Options;
    add_family<typename T::Family>();
    ComponentInfo c;
    c.name = c.made_as = type_name<T>();
    c.family = T::kFamily;
    c.options = option_fields<O>();
    if constexpr (requires { T::kSummary; }) c.summary = T::kSummary;
    if constexpr (requires { T::kReplaces; }) c.replaces = T::kReplaces;
    if constexpr (requires { T::kPaper; }) c.paper = T::kPaper;
    if constexpr (requires { T::kCall; }) c.call_text = T::kCall;
    if constexpr (requires { T::kSample; }) c.sample = T::kSample;
    if constexpr (requires { T::examples(); }) c.examples = T::examples();
    if constexpr (requires(const O& o, Traits& t) { T::traits(o, t); })
      c.traits = [](const Json& j, Traits& t) { T::traits(read<T>(j), t); };
    if constexpr (requires(const O& o, const SampleSpec& s) { T::sample(o, s); })
      c.inputs = [](const Json& j, const SampleSpec& s) { return T::sample(read<T>(j), s); };
    if constexpr (requires(const Json& j) { T::options_from(std::string_view(), j, j); })
      c.options_from = &T::options_from;
    if constexpr (requires(const O& o, const Shape& x) { T::core_flops(o, x); })
      c.core_flops = [](const Json& j, const Shape& x) -> double {
        return T::core_flops(read<T>(j), x);
      };
    if constexpr (requires(const Workload& w) { T::work(w); }) c.work = &T::work;
    if constexpr (std::is_base_of_v<Optimizer, T>) {
      c.kind = ComponentKind::Optimizer;
      c.make_optimizer = [](const Tensors& p, const Json& j) {
        return Box<Optimizer>(new T(p, read<T>(j)));
      };
    } else {
      c.make_module = [](const Json& j) { return Box<Module>(new T(read<T>(j))); };
    }
    insert(std::move(c));
  }

  /// Adds a function with options O, by fields:
  ///   r.add(FunctionInfo<NmsOptions>{.name = "nms", .family = "Suppression", .summary = "...",
  ///                              .call = [](const NmsOptions& o, const Arguments& in) { ... }});
  template <class O>
  void add(FunctionInfo<O> f) {
    ComponentInfo c;
    c.name = c.made_as = f.name;
    c.family = std::move(f.family);
    c.replaces = std::move(f.replaces);
    c.summary = std::move(f.summary);
    c.paper = std::move(f.paper);
    c.kind = ComponentKind::Function;
    c.options = option_fields<O>();
    c.sample = std::move(f.sample);
    c.examples = std::move(f.examples);
    c.invariances = std::move(f.invariances);
    c.slow = std::move(f.slow);
    if (f.traits) c.traits = [t = f.traits](const Json&, Traits& all) { t(all); };
    if (f.inputs)
      c.inputs = [name = f.name, inputs = f.inputs](const Json& j, const SampleSpec& s) {
        return inputs(options_from_json<O>(j, name), s);
      };
    c.call = [name = f.name, call = f.call](const Json& j, const NamedTensors& in) -> NamedTensors {
      return call(options_from_json<O>(j, name), Arguments(name, in));
    };
    insert(std::move(c));
  }

  /// A name that stands for component `of` with some options preset; users may set the others, and
  /// these too. It counts as a member of its own.
  void add_preset(std::string name, std::string_view of, const Json& options, std::string summary);
  /// Another name that find() and contains() know the component by.
  void add_alias(std::string alias, std::string name) {
    aliases_.emplace_back(std::move(alias), std::move(name));
  }
  /// A family: known from its first member, or from here where its members are functions.
  void add_family(FamilyInfo f);
  template <class F>
  void add_family() {
    if (!find_family(F::kFamily)) add_family(F::family());
  }

  /// OptionError naming the nearest name when there is no such component.
  const ComponentInfo& find(std::string_view name) const;
  bool contains(std::string_view name) const;
  const std::vector<ComponentInfo>& all() const { return components_; }
  /// OptionError naming the nearest name when there is no such family.
  const FamilyInfo& family(std::string_view name) const;
  const FamilyInfo& family(const ComponentInfo& c) const { return family(c.family); }
  const std::vector<FamilyInfo>& families() const { return families_; }

 private:
  template <class T>
  static typename T::Options read(const Json& j) {
    return options_from_json<typename T::Options>(j, type_name<T>());
  }
  void insert(ComponentInfo c);
  std::string_view real_name(std::string_view name) const;
  const FamilyInfo* find_family(std::string_view name) const;
  std::vector<std::pair<std::string, std::string>> aliases_;
  std::vector<ComponentInfo> components_;
  std::vector<FamilyInfo> families_;
};

/// Options of a size to make one by: what the family's members understand by name, for the names
/// that c leaves open, then (size 0: for tests) c's own sample.
Json sample_options(const ComponentInfo& c, int size = 0);
/// Sets in o what c leaves open (no default but 0, null or an empty list) and `values` names.
void fill_options(Json& o, const ComponentInfo& c, const Json& values);
/// All of c's options: its defaults, overridden by `options`.
Json all_options(const ComponentInfo& c, const Json& options);
/// Inputs for one made with `options`. OptionError when neither it nor its family has an example.
Sample sample_inputs(const ComponentInfo& c, const Json& options, const SampleSpec& spec = {});
/// Facts about one made with `options`.
Traits traits_of(const ComponentInfo& c, const Json& options);

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
    std::vector<std::string> carried;  ///< parameters and buffers taken over (same name and shape)
    std::vector<std::string> fresh;    ///< new ones, at their initial values
    std::vector<std::string> dropped;  ///< of the old component, gone
    /// Those of `fresh` that are trainable although every parameter of the old component was
    /// frozen, as a new module's are in torch; requires_grad_(false) freezes them.
    std::vector<std::string> thawed;
    /// Options of the old one, not at their defaults, that the new one does not have or has
    /// otherwise, though the swap's options do not say so: "rope = \"half\", now none".
    std::vector<std::string> changed;
  };
  std::vector<Instance> instances;
  /// A line per instance, and one for each option that changed its meaning.
  std::string str() const;
};

/// Replaces every instance of component `from` below `model` by `to`. The new one is made with the
/// old one's values of the options both know (or as its options_from says), overridden by
/// `options`; parameters and buffers whose name, shape and kind of dtype agree are carried over.
/// These stay the same tensors, so that an optimizer made before goes on training them, and frozen
/// or tied ones stay so; mode, dtype and device are kept. An optimizer made before that holds a
/// dropped parameter, or lacks a new one, says so at its next step (Optimizer::step). OptionError
/// when there is no instance, the families differ, the options are refused, or the new one would
/// mean something else (a causal mixer for one that is not) without the options naming it
/// ({"causal": true}); the model is unchanged then.
SwapReport swap(Module& model, std::string_view from, std::string_view to,
                const Json& options = Json::object());

}  // namespace dropin
