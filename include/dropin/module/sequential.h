// Sequential: layers applied one after another.
#pragma once
#include <concepts>
#include <string>
#include <type_traits>
#include <utility>

#include "dropin/module/unary.h"

namespace dropin {

class Sequential;

namespace detail {
/// Calls any single-input layer, whatever its family.
Tensor call_layer(Module& m, const Tensor& x);
/// Whether a Sequential is made of these; one Sequential alone is moved instead.
template <class First, class... Rest>
inline constexpr bool kLayers =
    (std::derived_from<First, Module> && ... &&
     std::derived_from<Rest, Module>)&&(sizeof...(Rest) > 0 || !std::is_same_v<First, Sequential>);
}  // namespace detail

/// Applies its layers in order; children are named "0", "1", ... as torch.nn.Sequential names them.
class Sequential : public Module {
 public:
  Sequential() = default;
  /// Layers, moved in: Sequential(Linear({...}), ReLU(), Linear({...})).
  template <class First, class... Rest>
  requires detail::kLayers<First, Rest...>
  explicit Sequential(First first, Rest... rest) {
    append(std::move(first));
    (append(std::move(rest)), ...);
  }
  /// Appends T(options or arguments).
  template <class T, class... A>
  Sequential& add(A&&... args) {
    child<T>(std::to_string(children().size()), std::forward<A>(args)...);
    return *this;
  }
  template <class T>
  Sequential& add(const typename T::Options& options) {
    child<T>(std::to_string(children().size()), options);
    return *this;
  }
  Sequential& add(Box<Module> m) {
    add_child(std::to_string(children().size()), std::move(m));
    return *this;
  }
  Tensor forward(const Tensor& x) {
    Tensor y = x;
    for (auto& [name, m] : children()) y = detail::call_layer(*m, y);
    return y;
  }
  Tensor operator()(const Tensor& x) {
    return with_hooks(x, [this](const Tensor& in) { return forward(in); });
  }
  bool runs_hooks() const override { return true; }
  std::string_view type() const override { return "Sequential"; }
  NamedTensors call(const NamedTensors& in) override {
    return {{"y", (*this)(in.get("x", type()))}};
  }
  Box<Module> make_like() const override {
    auto s = Box<Sequential>(new Sequential);
    for (auto& [name, m] : children()) s->add(m->clone());
    return s;
  }

 private:
  template <class M>
  void append(M layer) {
    add(Box<Module>(new M(std::move(layer))));
  }
};

}  // namespace dropin
