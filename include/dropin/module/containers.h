// Layers that do nothing or flatten, and modules that only hold others.
#pragma once
#include "dropin/module/sequential.h"

namespace dropin {

/// y = x: stands where a layer is left out. torch.nn.Identity.
class Identity : public Component<Identity, NoOptions, Layer> {
 public:
  explicit Identity(const NoOptions& o = {}) : Component(o) {}
  Tensor forward(const Tensor& x) override { return x; }
};

struct FlattenOptions {
  int64_t start_dim = 1, end_dim = -1;
  static void fields(auto&& f) {
    f("start_dim", &FlattenOptions::start_dim, "the first dimension that is flattened");
    f("end_dim", &FlattenOptions::end_dim, "the last one");
  }
};
/// The dimensions from start_dim to end_dim become one. torch.nn.Flatten. IndexError on dimensions
/// that x does not have, ShapeError when start_dim comes after end_dim.
class Flatten : public Component<Flatten, FlattenOptions, Layer> {
 public:
  explicit Flatten(const FlattenOptions& o = {}) : Component(o) {}
  Tensor forward(const Tensor& x) override {
    const int from = wrap_dim(options_.start_dim, x.dim(), "Flatten"),
              to = wrap_dim(options_.end_dim, x.dim(), "Flatten");
    DROPIN_CHECK(from <= to, ShapeError, who(), ": start_dim ", from, " comes after end_dim ", to);
    if (x.dim() == 0) return x.reshape({1});
    Shape sizes;
    int64_t flat = 1;
    for (int i = 0; i < x.dim(); ++i) {
      if (i < from || i > to) {
        sizes.push_back(x.size(i));
        continue;
      }
      flat *= x.size(i);
      if (i == to) sizes.push_back(flat);
    }
    return x.reshape(sizes);
  }
};

/// Modules by number: "0", "1", ..., whose parameters are this module's. It cannot be called.
/// torch.nn.ModuleList.
class ModuleList : public Module {
 public:
  ModuleList() = default;
  /// Adds T(options or arguments), and returns it as the child it is.
  template <class T, class... A>
  Child<T> append(A&&... args) {
    return child<T>(std::to_string(size()), std::forward<A>(args)...);
  }
  template <class T>
  Child<T> append(const typename T::Options& options) {
    return child<T>(std::to_string(size()), options);
  }
  void append(Box<Module> m) { add_child(std::to_string(size()), std::move(m)); }
  int64_t size() const { return static_cast<int64_t>(children().size()); }
  /// The i-th, from the end when negative; IndexError when there is none.
  Module& operator[](int64_t i) const {
    const auto all = children();
    const auto n = static_cast<int64_t>(all.size());
    DROPIN_CHECK(i >= -n && i < n, IndexError, "ModuleList: no module ", i, " among ", n);
    return *all[static_cast<std::size_t>(i < 0 ? i + n : i)].second;
  }
  std::string_view type() const override { return "ModuleList"; }
  Box<Module> make_like() const override {
    auto m = Box<ModuleList>(new ModuleList);
    for (auto& [name, c] : children()) m->append(c->clone());
    return m;
  }
};

/// Modules by name, whose parameters are this module's. It cannot be called. torch.nn.ModuleDict.
class ModuleDict : public Module {
 public:
  ModuleDict() = default;
  /// Adds T(options or arguments) under a name; StateError when the name is taken.
  template <class T, class... A>
  Child<T> add(const std::string& name, A&&... args) {
    return child<T>(unused(name), std::forward<A>(args)...);
  }
  template <class T>
  Child<T> add(const std::string& name, const typename T::Options& options) {
    return child<T>(unused(name), options);
  }
  void add(const std::string& name, Box<Module> m) { add_child(unused(name), std::move(m)); }
  int64_t size() const { return static_cast<int64_t>(children().size()); }
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// The module of that name; StateError when there is none.
  Module& operator[](std::string_view name) const {
    Module* m = find(name);
    DROPIN_CHECK(m, StateError, "ModuleDict: no module named \"", name, "\"");
    return *m;
  }
  std::string_view type() const override { return "ModuleDict"; }
  Box<Module> make_like() const override {
    auto m = Box<ModuleDict>(new ModuleDict);
    for (auto& [name, c] : children()) m->add(name, c->clone());
    return m;
  }

 private:
  Module* find(std::string_view name) const {
    for (const auto& [n, m] : children())
      if (n == name) return m;
    return nullptr;
  }
  const std::string& unused(const std::string& name) const {
    DROPIN_CHECK(!find(name), StateError, "ModuleDict: there is a module named \"", name,
                 "\" already");
    return name;
  }
};

}  // namespace dropin
