// Members to run properties on: every registered component, by its sample options and examples.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin::testing {

/// A member with options to run it by: the family's sample options that it knows, over which come
/// its own examples.
struct Member {
  const ComponentInfo* info;
  Json options;
  std::string label;
  Traits traits() const { return traits_of(*info, options); }
};
inline void PrintTo(const Member& m, std::ostream* os) {
  *os << m.label << " " << m.options.dump();
}
inline std::string label(const ::testing::TestParamInfo<Member>& i) { return i.param.label; }

inline std::vector<Member> members(const std::function<bool(const ComponentInfo&)>& wanted) {
  std::vector<Member> r;
  for (const ComponentInfo& c : registry().all()) {
    if (!wanted(c)) continue;
    r.push_back({&c, sample_options(c), c.name});
    int k = 0;
    for (const std::string& e : c.examples) {
      Json o = sample_options(c);
      const Json changes = Json::parse(e);
      for (const auto& [key, v] : changes.items()) o.set(key, v);
      r.push_back({&c, o, c.name + "_example" + std::to_string(++k)});
    }
  }
  return r;
}
inline bool is_sampler(const ComponentInfo& c) {
  return c.kind == ComponentKind::Module && traits_of(c, sample_options(c)).sampler;
}
inline std::vector<Member> modules() {
  return members(
      [](const ComponentInfo& c) { return c.kind == ComponentKind::Module && !is_sampler(c); });
}
/// Modules whose class is (derived from) T.
template <class T>
std::vector<Member> modules_of() {
  return members([](const ComponentInfo& c) {
    return c.kind == ComponentKind::Module &&
           dynamic_cast<T*>(c.make_module(sample_options(c)).get()) != nullptr;
  });
}
inline std::vector<Member> functions() {
  return members([](const ComponentInfo& c) { return c.kind == ComponentKind::Function; });
}

inline Box<Module> made(const Member& m, DType dtype = kFloat64, std::uint64_t seed = 1) {
  manual_seed(seed);
  Box<Module> r = make(m.info->name, m.options);
  r->to(dtype);
  r->to(device());
  return r;
}

/// Inputs of a member, by name, and which of them the tests turn about.
struct Inputs {
  NamedTensors all;
  std::string main;
  std::vector<std::string> unbatched;
  const Tensor x() const { return all.find(main); }
  bool floating() const { return is_floating(x().dtype()); }
  /// The same with another main input.
  NamedTensors with(const Tensor& x) const {
    NamedTensors r = all;
    r.set(main, x);
    return r;
  }
  /// f of every input that has the batch as its first size.
  NamedTensors each(const std::function<Tensor(const Tensor&)>& f) const {
    NamedTensors r;
    for (const auto& [name, t] : all) {
      bool shared = false;
      for (const std::string& u : unbatched) shared = shared || u == name;
      r.set(name, shared ? t : f(t));
    }
    return r;
  }
};
inline Inputs inputs_for(const Member& m, int64_t batch = -1, DType dtype = kFloat64,
                         std::uint64_t seed = 5, int64_t length = -1) {
  const Sample s = sample_inputs(*m.info, m.options,
                                 {.batch = batch, .length = length, .dtype = dtype, .seed = seed});
  Inputs r{{}, s.inputs.size() ? s.main() : std::string(), s.unbatched};
  for (const auto& [name, t] : s.inputs) r.all.set(name, t.to(device()));
  return r;
}

/// "y", or the first floating result.
inline Tensor first_result(const NamedTensors& out) {
  if (out.contains("y")) return out.find("y");
  for (const auto& [name, t] : out)
    if (is_floating(t.dtype())) return t;
  return out.size() ? out.begin()->second : Tensor();
}
inline Tensor run(Module& m, const NamedTensors& in) { return first_result(m.call(in)); }

/// A property of every module of the registry.
class EveryMember : public ::testing::TestWithParam<Member> {};

}  // namespace dropin::testing
