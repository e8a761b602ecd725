// The tape: reverse-mode differentiation over eager operations.
#pragma once
#include <any>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "dropin/tensor/tensor.h"

namespace dropin {

/// True while operations of this thread are recorded.
bool grad_enabled();
/// Switches recording for a scope.
class GradMode {
 public:
  explicit GradMode(bool on);
  ~GradMode();
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool before_;
};
/// `no_grad guard;`: nothing in this scope is recorded.
struct no_grad : GradMode {
  no_grad() : GradMode(false) {}
};
/// `enable_grad guard;`: recorded even inside no_grad.
struct enable_grad : GradMode {
  enable_grad() : GradMode(true) {}
};
/// While alive, backward throws AutogradError naming the operation whose gradient is the first to
/// hold a NaN.
class detect_anomaly {
 public:
  explicit detect_anomaly(bool on = true);
  ~detect_anomaly();

 private:
  bool before_;
};

/// Gradients of sum_i outputs[i] * grad_outputs[i] with respect to `inputs`; leaves' grad() stay as
/// they are. An input that took no part: AutogradError, or an undefined tensor when allow_unused.
/// grad_outputs may be empty when every output is a scalar.
Tensors grad(const Tensors& outputs, const Tensors& inputs, const Tensors& grad_outputs = {},
             bool retain_graph = false, bool create_graph = false, bool allow_unused = false);
/// Accumulates into the leaves' grad(). The graph is freed unless retain_graph.
void backward(const Tensors& outputs, const Tensors& grad_outputs = {}, bool retain_graph = false,
              bool create_graph = false);

class Node;

/// A tensor kept for backward. Unpacking it fails if it was written in place since.
class SavedTensor {
 public:
  SavedTensor() = default;
  SavedTensor(const Tensor& t, int output);
  Tensor unpack(const Node* owner) const;
  void reset() { tensor_ = {}; }

 private:
  Tensor tensor_;
  int output_ = -1;  ///< set when it is the owner's own output: kept off the tape to avoid a cycle
  std::uint32_t version_ = 0;
};

/// A recorded operation.
class Node : public RefCounted {
 public:
  struct Edge {
    Ref<Node> node;        ///< the operation that made the input, or null
    Ref<TensorImpl> leaf;  ///< the leaf the gradient accumulates into, or null
    int output = 0;
  };
  Node(const char* name, int outputs);
  ~Node() override;
  /// Gradients of the inputs (undefined ones are zero) from those of the outputs (undefined ones
  /// are zero).
  virtual Tensors apply(const Tensors& gys) = 0;
  void release_saved();

  const char* name;
  std::uint64_t sequence;
  int outputs;
  std::vector<Edge> edges;
  std::vector<SavedTensor> saved;
  std::vector<Shape> output_sizes;
  std::vector<TensorOptions> output_options;
  Ref<Node> next_dropped;  ///< while its destruction waits for that of others
  bool released = false;
};

/// What a backward function sees: the saved tensors, and which inputs want a gradient.
class Saved {
 public:
  explicit Saved(const Node& n) : node_(n) {}
  Tensor operator[](int i) const { return node_.saved[static_cast<std::size_t>(i)].unpack(&node_); }
  bool needs(int input) const {
    const auto& e = node_.edges[static_cast<std::size_t>(input)];
    return e.node || e.leaf;
  }
  int inputs() const { return static_cast<int>(node_.edges.size()); }

 private:
  const Node& node_;
};

namespace detail {

bool any_requires_grad(const Tensor* inputs, std::size_t n);
/// Ties outputs to the node, in place.
void attach(const Ref<Node>& node, Tensor* ys, std::size_t ny, const Tensor* inputs, std::size_t n,
            const Tensor* saved, std::size_t ns);

template <class F>
class LambdaNode final : public Node {
 public:
  LambdaNode(const char* label, int count, F f) : Node(label, count), f_(std::move(f)) {}
  Tensors apply(const Tensors& gys) override {
    Saved s(*this);
    if constexpr (std::is_invocable_v<F&, const Saved&, const Tensor&>)
      return f_(s, gys[0]);
    else
      return f_(s, gys);
  }

 private:
  F f_;
};

}  // namespace detail

/// Records y = name(inputs). `backward(const Saved&, const Tensor& gy) -> Tensors` returns one
/// gradient per input (undefined: none); it must be written in recorded operations, or answer
/// second derivatives itself when grad_enabled(). Nothing is recorded when no input requires a
/// gradient.
template <class F>
Tensor record(const char* name, Tensor y, const Tensor* inputs, std::size_t n, const Tensor* saved,
              std::size_t ns, F&& backward) {
  if (!detail::any_requires_grad(inputs, n)) return y;
  Ref<Node> node(new detail::LambdaNode<std::decay_t<F>>(name, 1, std::forward<F>(backward)));
  detail::attach(node, &y, 1, inputs, n, saved, ns);
  return y;
}
template <class F>
Tensor record(const char* name, Tensor y, std::initializer_list<Tensor> inputs,
              std::initializer_list<Tensor> saved, F&& backward) {
  return record(name, std::move(y), inputs.begin(), inputs.size(), saved.begin(), saved.size(),
                std::forward<F>(backward));
}
/// The same for several outputs: `backward(const Saved&, const Tensors& gys)`; gradients of unused
/// outputs arrive undefined.
template <class F>
Tensors record_many(const char* name, Tensors ys, const Tensors& inputs, const Tensors& saved,
                    F&& backward) {
  if (!detail::any_requires_grad(inputs.data(), inputs.size())) return ys;
  Ref<Node> node(new detail::LambdaNode<std::decay_t<F>>(name, static_cast<int>(ys.size()),
                                                         std::forward<F>(backward)));
  detail::attach(node, ys.data(), ys.size(), inputs.data(), inputs.size(), saved.data(),
                 saved.size());
  return ys;
}

namespace detail {
/// x itself as the result of a recorded operation, so that a gradient can be asked of this use of
/// it alone.
inline Tensor identity(const Tensor& x) {
  if (!x.defined() || !x.requires_grad()) return x;
  return record("identity", x.detach(), {x}, {},
                [](const Saved&, const Tensor& g) -> Tensors { return {g}; });
}
}  // namespace detail

/// Second derivatives of a fused op: the recorded gradients of its plain definition, `plain(inputs)
/// -> Tensor`. Call from a backward function when grad_enabled(), with the op's inputs in order; gy
/// is the gradient of its result.
template <class Plain>
Tensors plain_gradients(const Saved& s, const Tensors& inputs, const Tensor& gy, Plain&& plain) {
  Tensors used, wanted;
  for (int i = 0; i < s.inputs(); ++i) {
    used.push_back(
        detail::identity(inputs[static_cast<std::size_t>(i)]));  // one tensor may be several inputs
    if (s.needs(i)) wanted.push_back(used.back());
  }
  const Tensors g = grad({plain(used)}, wanted, {gy}, /*retain_graph=*/true, /*create_graph=*/true,
                         /*allow_unused=*/true);
  Tensors all(static_cast<std::size_t>(s.inputs()));
  for (int i = 0, k = 0; i < s.inputs(); ++i)
    if (s.needs(i)) all[static_cast<std::size_t>(i)] = g[static_cast<std::size_t>(k++)];
  return all;
}

namespace detail {
/// The gradients that a user's backward returned, checked against the Tensor arguments of its
/// forward: AutogradError naming function and input for a wrong count, shape, dtype or device.
Tensors checked_gradients(const char* function, Tensors gradients, const std::vector<Shape>& sizes,
                          const std::vector<TensorOptions>& options);
/// "Name" of "... [with T = a::Name]" (GCC) or "... [T = a::Name]" (Clang).
std::string type_of_signature(std::string_view signature);
/// The name of a type as its source spells it, for messages.
template <class T>
const char* type_name() {
  static const std::string name = type_of_signature(__PRETTY_FUNCTION__);
  return name.c_str();
}
}  // namespace detail

/// What a user-defined Function keeps between forward and backward.
struct FunctionContext {
  void save_for_backward(Tensors t) { to_save = std::move(t); }
  /// In backward: the tensors saved in forward.
  const Tensors& saved() const { return unpacked; }
  /// Keeps a number, a string, a struct, ... under a name, for backward: ctx.save_value("dim",
  /// dim). Tensors belong into save_for_backward, which notices later writes to them.
  template <class T>
  void save_value(const std::string& name, T value) {
    static_assert(!std::is_base_of_v<Tensor, T>, "tensors are kept by save_for_backward");
    for (auto& [n, v] : values)
      if (n == name) {
        v = std::move(value);
        return;
      }
    values.emplace_back(name, std::move(value));
  }
  /// The value of that name; AutogradError when there is none or it is of another type.
  template <class T>
  const T& value(const std::string& name) const {
    const std::any* v = find_value(name);
    const T* typed = std::any_cast<T>(v);
    if (!typed) no_value(name, v != nullptr, detail::type_name<T>());
    return *typed;
  }
  Tensors to_save, unpacked;
  std::vector<std::pair<std::string, std::any>> values;

 private:
  const std::any* find_value(const std::string& name) const;
  [[noreturn]] static void no_value(const std::string& name, bool there, const char* type);
};

/// A user-defined operation: derive as `struct Exp : Function<Exp>` with
///   static Tensor forward(FunctionContext&, const Tensor& x, double k);      (or Tensors)
///   static Tensors backward(FunctionContext&, const Tensors& gys);           (one gradient per
///   Tensor argument, in order; undefined: none)
/// and call Exp::apply(x, 2.0). forward runs unrecorded. A gradient of another shape, dtype or
/// device than its argument, or a wrong number of them, is an AutogradError.
template <class Self>
struct Function {
  template <class... A>
  static auto apply(const A&... args) {
    FunctionContext ctx;
    auto result = [&] {
      no_grad guard;
      return Self::forward(ctx, args...);
    }();
    Tensors inputs;
    (
        [&](const auto& a) {
          if constexpr (std::is_base_of_v<Tensor, std::decay_t<decltype(a)>>) inputs.push_back(a);
        }(args),
        ...);
    std::vector<Shape> sizes;
    std::vector<TensorOptions> options;
    for (const Tensor& x : inputs) {
      sizes.push_back(x.defined() ? x.sizes() : Shape{});
      options.push_back(x.defined() ? x.options() : TensorOptions{});
    }
    const char* name = detail::type_name<Self>();
    auto values = std::make_shared<const decltype(ctx.values)>(std::move(ctx.values));
    auto backward = [count = ctx.to_save.size(), name, sizes, options, values](const Saved& s,
                                                                               const Tensors& gys) {
      FunctionContext c;
      c.values = *values;
      for (std::size_t i = 0; i < count; ++i) c.unpacked.push_back(s[static_cast<int>(i)]);
      return detail::checked_gradients(name, Self::backward(c, gys), sizes, options);
    };
    if constexpr (std::is_same_v<decltype(result), Tensor>)
      return record_many(name, {result}, inputs, ctx.to_save, backward)[0];
    else
      return record_many(name, std::move(result), inputs, ctx.to_save, backward);
  }
};

namespace detail {
/// f: Tensors -> Tensors behind a plain pointer; `destroy` frees self.
struct Callable {
  void* self;
  Tensors (*call)(void* self, const Tensors&);
  void (*destroy)(void* self);
};
Tensors checkpoint(Callable f, const Tensors& inputs);
}  // namespace detail

/// Activation checkpointing: runs f(inputs) -> Tensors without keeping anything but the inputs;
/// backward runs it again (with the random stream as it was) and goes on from there. Parameters
/// used inside receive their gradients.
template <class F>
Tensors checkpoint(F f, const Tensors& inputs) {
  return detail::checkpoint(
      {new F(std::move(f)),
       [](void* s, const Tensors& x) -> Tensors { return (*static_cast<F*>(s))(x); },
       [](void* s) { delete static_cast<F*>(s); }},
      inputs);
}

}  // namespace dropin
