// A component as a torch::nn::Module. Included by dropin/interop/torch.h.
#pragma once
#include <functional>
#include <map>
#include <utility>

#include "dropin/autograd/autograd.h"
#include "dropin/interop/torch_tensor.h"
#include "dropin/registry/registry.h"

namespace dropin::interop {

namespace detail {

template <class F>
struct argument_of;
template <class R, class C, class A>
struct argument_of<R (C::*)(A) const> {
  using type = A;
};
/// `const optional<Device>&`, of the optional that this release of torch uses.
using OptionalDevice = argument_of<decltype(&torch::nn::Module::clone)>::type;

/// One call on dropin's tape, kept by torch's node until its backward has run.
struct Recorded : torch::CustomClassHolder {
  Tensors inputs, outputs;
  std::vector<torch::Tensor> given;  ///< to see whether one was changed in place since
  std::vector<std::uint32_t> versions;
};

/// What one node on torch's tape does: run(inputs) -> outputs, which may also depend on `leaves`
/// that dropin holds.
struct Work {
  std::function<Tensors(const Tensors& inputs)> run;
  Tensors leaves;
  bool record = false;
};

class Bridge : public torch::autograd::Function<Bridge> {
 public:
  /// given: the inputs, then torch's tensors for the leaves.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                const Work* work, at::TensorList given) {
    auto call = c10::make_intrusive<Recorded>();
    const bool record = work->record;
    const std::size_t inputs = given.size() - work->leaves.size();
    for (std::size_t i = 0; i < inputs; ++i) {
      Tensor x = from_torch(given[i]);
      if (record && given[i].requires_grad()) x.requires_grad_();
      call->inputs.push_back(x);
    }
    const Tensors own = call->inputs;
    call->inputs.insert(call->inputs.end(), work->leaves.begin(), work->leaves.end());
    GradMode mode(record);
    call->outputs = work->run(own);
    torch::autograd::variable_list ys;
    for (const Tensor& y : call->outputs) {
      ys.push_back(to_torch(y));
      if (record && !is_floating(y.dtype())) context->mark_non_differentiable({ys.back()});
    }
    if (record) {
      call->given = given.vec();
      for (const torch::Tensor& t : given) call->versions.push_back(version_of(t));
      context->saved_data["call"] = c10::IValue::make_capsule(call);
    }
    return ys;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gys) {
    if (torch::GradMode::is_enabled())
      fail<AutogradError>(
          {"dropin::interop: a second derivative (create_graph) does not pass from torch's tape to "
           "dropin's"});
    const auto saved = context->saved_data.find("call");
    if (saved == context->saved_data.end())
      fail<AutogradError>(
          {"dropin::interop: backward ran a second time over a graph that was freed; pass "
           "retain_graph to the first"});
    const auto call = c10::static_intrusive_pointer_cast<Recorded>(saved->second.toCapsule());
    for (std::size_t i = 0; i < call->given.size(); ++i)
      if (version_of(call->given[i]) != call->versions[i])
        fail<AutogradError>({"dropin::interop: a tensor of shape ", call->inputs[i].sizes(),
                             " needed for backward was changed in place since"});
    Tensors ys, gs, wanted;
    for (std::size_t i = 0; i < call->outputs.size(); ++i) {
      if (!gys[i].defined() || !call->outputs[i].requires_grad()) continue;
      ys.push_back(call->outputs[i]);
      gs.push_back(from_torch(gys[i]));
    }
    for (const Tensor& x : call->inputs)
      if (x.requires_grad()) wanted.push_back(x);
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 1)
    const bool keep = torch::autograd::get_current_graph_task_keep_graph();
#else
    const bool keep = true;  // the graph is freed with torch's node
#endif
    const Tensors gxs = ys.empty() ? Tensors(wanted.size())
                                   : grad(ys, wanted, gs, keep, false, /*allow_unused=*/true);
    if (!keep) context->saved_data.erase("call");
    torch::autograd::variable_list result(1);  // of `work`: none
    std::size_t next = 0;
    for (const Tensor& x : call->inputs)
      result.push_back(x.requires_grad() ? to_torch(gxs[next++]) : torch::Tensor());
    return result;
  }
};

/// Holds a component as a child, so that dropin's swap() reaches it too.
class Root : public Module {
 public:
  explicit Root(Box<Module> m) { add_child("module", std::move(m)); }
  Module& module() const { return *children()[0].second; }
};

}  // namespace detail

/// A registered component as a torch::nn::Module. Its parameters and buffers are torch tensors
/// under the component's own (PyTorch's) names and share their memory: torch's optimizers, to(),
/// state and archives work on it. x and results are torch tensors, without copies. Errors are
/// dropin::Error, thrown before any work.
class LayerImpl : public torch::nn::Module {
 public:
  /// The component of that name; OptionError as make().
  explicit LayerImpl(const std::string& name, const std::string& options = "{}")
      : LayerImpl(make(name, Json::parse(options))) {}
  /// A module made by dropin, which it owns from now on. sequence_first: its sequences are [L, B,
  /// E] outside, as LibTorch's MultiheadAttention, LSTM and GRU have them, and [B, L, E] inside;
  /// masks stay [B, L].
  explicit LayerImpl(Box<dropin::Module> module, bool sequence_first = false)
      : torch::nn::Module(std::string(module->type())),
        root_(std::make_unique<detail::Root>(std::move(module))),
        sequence_first_(sequence_first) {
    expose();
  }

  /// x -> y, for components of one input and one result.
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = call({{"x", x}});
    const auto found = y.find("y");
    if (found == y.end()) fail<StateError>({type(), ": has no result \"y\"; use call()"});
    return found->second;
  }
  /// By the names of `dropin describe`: {{"x", x}, {"key_padding_mask", mask}} -> {{"y", y}}.
  /// Undefined tensors are left out.
  std::map<std::string, torch::Tensor> call(
      const std::vector<std::pair<std::string, torch::Tensor>>& inputs) {
    sync();
    torch::autograd::variable_list given;
    std::vector<std::string> given_names;
    for (const auto& [name, t] : inputs) {
      if (!t.defined()) continue;
      given.push_back(turned(t));
      given_names.push_back(name);
    }
    detail::Work work;
    for (const Entry& e : entries_) {
      if (e.buffer) continue;
      given.push_back(e.outside);
      work.leaves.push_back(e.inside);
    }
    for (const torch::Tensor& t : given) work.record = work.record || t.requires_grad();
    work.record = work.record && torch::GradMode::is_enabled();
    std::vector<std::string> names;
    work.run = [&](const Tensors& in) {
      NamedTensors named;
      for (std::size_t i = 0; i < in.size(); ++i) named.set(given_names[i], in[i]);
      Tensors ys;
      for (const auto& [n, y] : module().call(named)) {
        names.push_back(n);
        ys.push_back(y);
      }
      return ys;
    };
    torch::autograd::variable_list ys;
    if (work.record) {
      ys = detail::Bridge::apply(&work, at::TensorList(given));
    } else {  // no node, no way through torch's dispatcher
      no_grad guard;
      Tensors in;
      for (std::size_t i = 0; i < given_names.size(); ++i) in.push_back(from_torch(given[i]));
      for (const Tensor& y : work.run(in)) ys.push_back(to_torch(y));
    }
    std::map<std::string, torch::Tensor> result;
    for (std::size_t i = 0; i < ys.size(); ++i) result.emplace(names[i], turned(ys[i]));
    return result;
  }
  /// True when sequences are [L, B, E].
  bool sequence_first() const { return sequence_first_; }

  /// The component, for what torch has no call for: init_state() and step(), pack(), names. After
  /// adding or removing parameters, make a new Layer of it.
  dropin::Module& module() const { return *module_; }
  std::string type() const { return std::string(module().type()); }

  /// swap() of dropin, from this component downwards, itself included. Optimizers made before hold
  /// the old parameters: make them after.
  SwapReport swap_inside(std::string_view from, std::string_view to,
                         const Json& options = Json::object()) {
    for (const Entry& e : entries_)
      if (e.buffer && e.path.find('.') == std::string::npos)
        fail<StateError>({"swap: ", type(), " keeps buffers of its own (", e.path,
                          "), which torch cannot unregister; make a new Layer instead"});
    const SwapReport r = dropin::swap(*root_, from, to, options);
    hide();
    expose();
    return r;
  }
  bool has(std::string_view component) const {
    bool found = false;
    root_->apply(
        [&](const std::string&, dropin::Module& m) { found = found || m.type() == component; });
    return found;
  }

  void train(bool on = true) override {
    torch::nn::Module::train(on);
    module().train(on);
  }
  std::shared_ptr<torch::nn::Module> clone(detail::OptionalDevice device = {}) const override {
    auto copy = std::make_shared<LayerImpl>(module().clone(), sequence_first_);
    if (device) copy->to(*device);
    return copy;
  }
  void pretty_print(std::ostream& stream) const override { stream << "dropin::" << module().str(); }

 private:
  struct Entry {
    std::string path;
    Tensor inside;          ///< the component's own handle
    torch::Tensor outside;  ///< the torch tensor that owns the memory
    bool buffer;
    const void* data;
    std::uint32_t version;
  };

  /// Registers every parameter and buffer with torch, which owns their memory from then on.
  void expose() {
    module_ = &root_->module();
    std::map<std::string, std::shared_ptr<torch::nn::Module>> nodes;
    std::function<torch::nn::Module&(const std::string&)> node =
        [&](const std::string& path) -> torch::nn::Module& {
      if (path.empty()) return *this;
      auto& n = nodes[path];
      if (!n) {
        const std::size_t dot = path.rfind('.');
        n = std::make_shared<torch::nn::Module>();
        node(dot == std::string::npos ? "" : path.substr(0, dot))
            .register_module(dot == std::string::npos ? path : path.substr(dot + 1), n);
      }
      return *n;
    };
    auto add = [&](const std::string& path, const Tensor& inside, bool buffer) {
      const std::size_t dot = path.rfind('.');
      const std::string name = dot == std::string::npos ? path : path.substr(dot + 1);
      torch::nn::Module& at = node(dot == std::string::npos ? "" : path.substr(0, dot));
      const torch::Tensor value = to_torch(inside).clone();
      const torch::Tensor outside =
          buffer ? at.register_buffer(name, value)
                 : at.register_parameter(name, value, inside.requires_grad());
      entries_.push_back({path, inside, outside, buffer, nullptr, 0});
    };
    for (const auto& [path, t] : module().named_parameters()) add(path, t, false);
    for (const auto& [path, t] : module().named_buffers()) add(path, t, true);
    sync();
  }
  void hide() {
    entries_.clear();
    parameters_.clear();
    for (const auto& child : named_children()) unregister_module(child.key());
  }
  /// Sees what torch did since: memory replaced (to(), load), values changed (an optimizer's step),
  /// gradients switched on or off.
  void sync() {
    for (Entry& e : entries_) {
      if (const void* now = e.outside.data_ptr();
          now != e.data || e.inside.dtype() != dtype_from_torch(e.outside.scalar_type())) {
        e.inside.set_data(from_torch(e.outside));
        e.data = now;
      } else if (e.outside.is_inference() || version_of(e.outside) != e.version) {
        // what was derived from the values (packed or quantized weights) is made again
        e.inside.bump_version();
      }
      e.version = version_of(e.outside);
      if (!e.buffer && e.inside.requires_grad() != e.outside.requires_grad())
        e.inside.requires_grad_(e.outside.requires_grad());
    }
  }

  /// [L, B, E] as [B, L, E] and back, where sequences are so; others as they are.
  torch::Tensor turned(const torch::Tensor& t) const {
    return sequence_first_ && t.dim() == 3 && t.is_floating_point() ? t.transpose(0, 1) : t;
  }

  std::unique_ptr<detail::Root> root_;
  dropin::Module* module_ = nullptr;  ///< root_'s child
  bool sequence_first_ = false;
  std::vector<Entry> entries_;
};
TORCH_MODULE(Layer);

}  // namespace dropin::interop
