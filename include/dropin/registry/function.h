// A function as a component: what its registration says, by fields.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/module/family.h"

namespace dropin {

/// Named arguments of a function; a missing one is named in the function's words.
class Arguments {
 public:
  Arguments(std::string_view who, const NamedTensors& in) : who_(who), in_(in) {}
  /// StateError naming the function, the argument and what there is, when it is not given.
  Tensor operator[](std::string_view name) const { return in_.get(name, who_); }
  /// Undefined when it is not given.
  Tensor find(std::string_view name) const { return in_.find(name); }
  /// Every argument, by name.
  const NamedTensors& all() const { return in_; }

 private:
  std::string_view who_;
  const NamedTensors& in_;
};

/// A property of a function: a change of its inputs, and the outputs expected then.
struct Invariance {
  std::string name;
  std::function<NamedTensors(const NamedTensors& inputs)> change;
  /// Of the outputs for the unchanged inputs; null: the same ones.
  std::function<NamedTensors(const NamedTensors& outputs)> expect = nullptr;
  double tolerance = 0;
};

/// A function with options O: Registry::add(FunctionInfo<O>{...}).
template <class O>
struct FunctionInfo {
  std::string name, family, summary;
  std::string replaces = {}, paper = {};
  std::function<NamedTensors(const O&, const Arguments&)> call;
  /// An example of its inputs at a size; null: the family's.
  std::function<Sample(const O&, const SampleSpec&)> inputs = nullptr;
  std::string sample = {};                 ///< small options (JSON) to call it by, for tests
  std::vector<std::string> examples = {};  ///< options (JSON) that the property tests also run
  std::vector<Invariance> invariances = {};
  std::function<void(Traits&)> traits = nullptr;
  std::function<bool(const Json&)> slow = nullptr;  ///< legal options too slow for a fuzzer
};

}  // namespace dropin
