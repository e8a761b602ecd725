// dropin inside LibTorch programs: components as torch::nn::Module, optimizers on torch parameters,
// tensors without copies. Needs LibTorch 1.13 or later; no other header of dropin includes it.
//
//   dropin::interop::Layer attention("LongformerAttention", R"({"embed_dim": 64, "num_heads": 4,
//   "window": 32})"); model->register_module("attention", attention);          // parameters are
//   torch parameters: any torch optimizer trains them torch::Tensor y = attention->forward(x); //
//   gradients flow through
#pragma once
#include <torch/torch.h>

#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "dropin/autograd/autograd.h"
#include "dropin/registry/registry.h"

namespace dropin::interop {

/// Words for a sentence from a torch value.
template <class T>
std::string torch_words(const T& v) {
  std::ostringstream s;
  s << v;
  return s.str();
}

/// DTypeError on a dtype that dropin does not have.
inline DType dtype_from_torch(torch::ScalarType t) {
  switch (t) {
    case torch::kFloat32:
      return kFloat32;
    case torch::kFloat64:
      return kFloat64;
    case torch::kBFloat16:
      return kBFloat16;
    case torch::kFloat16:
      return kFloat16;
    case torch::kInt8:
      return kInt8;
    case torch::kUInt8:
      return kUInt8;
    case torch::kInt32:
      return kInt32;
    case torch::kInt64:
      return kInt64;
    case torch::kBool:
      return kBool;
    default:
      fail<DTypeError>(
          {"torch tensor: dtype is ", torch_words(t),
           ", expected float32, float64, bfloat16, float16, int8, uint8, int32, int64 or bool"});
  }
}
inline torch::ScalarType dtype_to_torch(DType t) {
  switch (t) {
    case DType::Float32:
      return torch::kFloat32;
    case DType::Float64:
      return torch::kFloat64;
    case DType::BFloat16:
      return torch::kBFloat16;
    case DType::Float16:
      return torch::kFloat16;
    case DType::Int8:
      return torch::kInt8;
    case DType::UInt8:
      return torch::kUInt8;
    case DType::Int32:
      return torch::kInt32;
    case DType::Int64:
      return torch::kInt64;
    case DType::Bool:
      return torch::kBool;
  }
  fail<DTypeError>({"torch has no ", t});
}

/// The torch tensor's own memory as a dropin tensor, off both tapes; it lives as long as either. An
/// undefined tensor stays undefined. DTypeError as above, DeviceError when it is neither on the CPU
/// nor on CUDA, Error when it is not strided (sparse, quantized) or has more than 8 dimensions.
inline Tensor from_torch(const torch::Tensor& t) {
  if (!t.defined()) return {};
  if (t.layout() != torch::kStrided || t.is_quantized())
    fail<Error>({"torch tensor: layout is ", torch_words(t.layout()),
                 t.is_quantized() ? " and quantized" : "", ", expected a strided one"});
  if (!t.is_cpu() && !t.is_cuda())
    fail<DeviceError>({"torch tensor: is on ", torch_words(t.device()), ", expected cpu or cuda"});
  if (t.dim() > abi::kMaxDims)
    fail<ShapeError>(
        {"torch tensor: has ", t.dim(), " dimensions, at most ", abi::kMaxDims, " are supported"});
  const torch::Tensor real = t.is_conj() || t.is_neg() ? t.resolve_conj().resolve_neg() : t;
  const DType dtype = dtype_from_torch(real.scalar_type());
  const Device device = real.is_cuda() ? Device(DeviceType::CUDA, real.get_device()) : kCPU;
  auto keep = std::make_unique<torch::Tensor>(real.detach());
  Tensor r = from_blob(
      real.data_ptr(), Shape(real.sizes().data(), static_cast<int>(real.dim())), {dtype, device},
      Shape(real.strides().data(), static_cast<int>(real.dim())),
      [](void* context, void*) { delete static_cast<torch::Tensor*>(context); }, keep.get());
  keep.release();
  return r;
}

/// The dropin tensor's own memory as a torch tensor, off both tapes; it lives as long as either.
inline torch::Tensor to_torch(const Tensor& t) {
  if (!t.defined()) return {};
  const torch::Device device =
      t.device().is_cuda()
          ? torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(t.device().index))
          : torch::Device(torch::kCPU);
  const auto options = torch::TensorOptions().dtype(dtype_to_torch(t.dtype())).device(device);
  const auto sizes = std::vector<std::int64_t>(t.sizes().begin(), t.sizes().end()),
             strides = std::vector<std::int64_t>(t.strides().begin(), t.strides().end());
  if (t.numel() == 0) return torch::empty(sizes, options);
  const Tensor keep = t.detach();
  return torch::from_blob(
      keep.data_ptr(), sizes, strides, [keep](void*) {}, options);
}

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
      for (const torch::Tensor& t : given)
        call->versions.push_back(static_cast<std::uint32_t>(t._version()));
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
      if (static_cast<std::uint32_t>(call->given[i]._version()) != call->versions[i])
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
  /// A module made by dropin, which it owns from now on.
  explicit LayerImpl(Box<dropin::Module> module)
      : torch::nn::Module(std::string(module->type())),
        root_(std::make_unique<detail::Root>(std::move(module))) {
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
      given.push_back(t);
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
    for (std::size_t i = 0; i < ys.size(); ++i) result.emplace(names[i], ys[i]);
    return result;
  }

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
    auto copy = std::make_shared<LayerImpl>(module().clone());
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
      } else if (const auto v = static_cast<std::uint32_t>(e.outside._version()); v != e.version) {
        e.inside.bump_version();  // what was derived from the values (packed or quantized weights)
                                  // is made again
      }
      e.version = static_cast<std::uint32_t>(e.outside._version());
      if (!e.buffer && e.inside.requires_grad() != e.outside.requires_grad())
        e.inside.requires_grad_(e.outside.requires_grad());
    }
  }

  std::unique_ptr<detail::Root> root_;
  dropin::Module* module_ = nullptr;  ///< root_'s child
  std::vector<Entry> entries_;
};
TORCH_MODULE(Layer);

/// A torch layer as the standard component of the same name, weights copied: Linear, Conv1d, Conv2d
/// (asked as "DepthwiseConv2d" where groups are channels), LayerNorm, Embedding, BatchNorm2d,
/// MultiheadAttention, GELU, SiLU, ReLU, Sigmoid, Tanh. An empty Box for any other layer, or
/// options that have no counterpart.
Box<Module> component_of(const torch::nn::Module& layer, std::string_view as = {});

/// What swap() did in a torch model.
struct TorchSwapReport {
  std::vector<std::string> replaced;  ///< paths of the layers that are `to` now
  std::vector<std::string>
      typed;  ///< paths of torch layers of the kind `from` that are typed members of their parent:
              ///< C++ fixes the call there at compile time
};

/// Replaces components `from` below `root` by `to`: inside every Layer, and torch's own layers of
/// that kind that stand in a torch::nn::Sequential (where calls are by name). Layers that are typed
/// members (torch::nn::Linear fc) cannot be replaced from outside; make them a Layer: `Layer
/// fc{from_layer(torch_fc)}`. OptionError when nothing could be replaced; it names the typed
/// members found. Optimizers made before hold the old parameters: make them after.
inline TorchSwapReport swap(torch::nn::Module& root, std::string_view from, std::string_view to,
                            const Json& options = Json::object()) {
  TorchSwapReport r;
  std::function<void(torch::nn::Module&, const std::string&)> walk = [&](torch::nn::Module& m,
                                                                         const std::string& path) {
    auto below = [&](const std::string& name) { return path.empty() ? name : path + "." + name; };
    if (auto* layer = dynamic_cast<LayerImpl*>(&m)) {
      if (layer->has(from))
        for (const auto& i : layer->swap_inside(from, to, options).instances) {
          const std::string inner = i.path.size() > 7 ? i.path.substr(7) : "";  // behind "module."
          r.replaced.push_back(inner.empty() ? path : below(inner));
        }
      return;
    }
    auto* sequence = dynamic_cast<torch::nn::SequentialImpl*>(&m);
    std::size_t k = 0;
    for (const auto& child : m.named_children()) {
      Box<Module> same = component_of(*child.value(), from);
      if (!same) {
        walk(*child.value(), below(child.key()));
      } else if (!sequence) {
        r.typed.push_back(below(child.key()));
      } else {
        auto layer = std::make_shared<LayerImpl>(std::move(same));
        layer->swap_inside(from, to, options);
        layer->train(child.value()->is_training());
        *(sequence->begin() + static_cast<std::ptrdiff_t>(k)) = torch::nn::AnyModule(layer);
        m.replace_module(child.key(), std::static_pointer_cast<torch::nn::Module>(layer));
        r.replaced.push_back(below(child.key()));
      }
      ++k;
    }
  };
  registry().find(from);
  registry().find(to);
  walk(root, "");
  if (r.replaced.empty()) {
    std::string words;
    for (const std::string& t : r.typed) words += (words.empty() ? "" : ", ") + t;
    fail<OptionError>(
        {"swap: there is no ", from, " that could be replaced",
         r.typed.empty()
             ? ""
             : "; these are typed members, whose class must be changed to dropin::interop::Layer: ",
         words});
  }
  return r;
}

inline Box<Module> component_of(const torch::nn::Module& layer, std::string_view as) {
  Json o = Json::object();
  std::string name;
  auto size = [](const auto& e) {
    Json j = Json::array();
    for (std::size_t i = 0; i < e.size(); ++i)
      j.push_back(Json(static_cast<std::int64_t>((*e)[i])));
    return j;
  };
  if (const auto* m = layer.as<torch::nn::LinearImpl>()) {
    name = "Linear";
    o.set("in_features", m->options.in_features());
    o.set("out_features", m->options.out_features());
    o.set("bias", m->options.bias());
  } else if (const auto* m = layer.as<torch::nn::Conv2dImpl>()) {
    // unqualified: the variant is std's or, in old releases, c10's
    const bool zeros = holds_alternative<torch::enumtype::kZeros>(m->options.padding_mode());
    if (!zeros) return {};
    const bool depthwise = as == "DepthwiseConv2d";
    if (depthwise && !(m->options.groups() == m->options.in_channels() &&
                       m->options.out_channels() == m->options.in_channels()))
      return {};
    name = depthwise ? "DepthwiseConv2d" : "Conv2d";
    if (depthwise) {
      o.set("channels", m->options.in_channels());
    } else {
      o.set("in_channels", m->options.in_channels());
      o.set("out_channels", m->options.out_channels());
      o.set("groups", m->options.groups());
    }
    o.set("kernel_size", size(m->options.kernel_size()));
    o.set("stride", size(m->options.stride()));
    o.set("dilation", size(m->options.dilation()));
    if (holds_alternative<torch::enumtype::kSame>(m->options.padding()))
      o.set("padding", "same");
    else if (const auto* p = get_if<torch::ExpandingArray<2>>(&m->options.padding()))
      o.set("padding", size(*p));
    o.set("bias", m->options.bias());
  } else if (const auto* m = layer.as<torch::nn::LayerNormImpl>()) {
    name = "LayerNorm";
    Json sizes = Json::array();
    for (const std::int64_t n : m->options.normalized_shape()) sizes.push_back(Json(n));
    o.set("normalized_shape", sizes);
    o.set("elementwise_affine", m->options.elementwise_affine());
    o.set("eps", m->options.eps());
  } else if (const auto* m = layer.as<torch::nn::EmbeddingImpl>()) {
    if (m->options.max_norm() || m->options.scale_grad_by_freq() || m->options.sparse()) return {};
    name = "Embedding";
    o.set("num_embeddings", m->options.num_embeddings());
    o.set("embedding_dim", m->options.embedding_dim());
    if (m->options.padding_idx()) o.set("padding_idx", *m->options.padding_idx());
  } else if (const auto* m = layer.as<torch::nn::MultiheadAttentionImpl>()) {
    if (m->options.add_bias_kv() || m->options.add_zero_attn() ||
        m->options.kdim() != m->options.embed_dim() || m->options.vdim() != m->options.embed_dim())
      return {};
    name = "MultiheadAttention";
    o.set("embed_dim", m->options.embed_dim());
    o.set("num_heads", m->options.num_heads());
    o.set("bias", m->options.bias());
    o.set("dropout", m->options.dropout());
  } else if (layer.as<torch::nn::GELUImpl>()) {
    name = "GELU";
  } else if (layer.as<torch::nn::SiLUImpl>()) {
    name = "SiLU";
  } else if (layer.as<torch::nn::ReLUImpl>()) {
    name = "ReLU";
  } else if (layer.as<torch::nn::SigmoidImpl>()) {
    name = "Sigmoid";
  } else if (layer.as<torch::nn::TanhImpl>()) {
    name = "Tanh";
  }
  if (name.empty() || (!as.empty() && as != name)) return {};
  Box<Module> r = make(name, o);
  StateDict state;
  for (const auto& p : layer.named_parameters()) state.set(p.key(), from_torch(p.value()));
  if (state.size()) {
    r->to(state.begin()->second.dtype());
    r->load_state_dict(state);
  }
  r->train(layer.is_training());
  return r;
}

/// A torch layer as a Layer of the standard component (see component_of); OptionError where there
/// is none.
inline Layer from_layer(const torch::nn::Module& layer) {
  Box<Module> m = component_of(layer);
  if (!m)
    fail<OptionError>({"from_layer: ", layer.name(), " with these options has no counterpart"});
  return Layer(std::make_shared<LayerImpl>(std::move(m)));
}

/// A dropin optimizer over torch parameters: values are updated in place, in torch's memory, from
/// torch's grad().
class TorchOptimizer {
 public:
  /// By registry name, e.g. "AdamW8bit", and JSON options. OptionError as make_optimizer().
  TorchOptimizer(const std::string& name, std::vector<torch::Tensor> params,
                 const std::string& options = "{}")
      : outside_(std::move(params)) {
    for (const torch::Tensor& p : outside_) inside_.push_back(from_torch(p).requires_grad_());
    optimizer_ = make_optimizer(name, inside_, Json::parse(options));
  }
  /// One update; parameters without a gradient stay as they are.
  void step() {
    for (std::size_t i = 0; i < inside_.size(); ++i) {
      if (outside_[i].data_ptr() != inside_[i].data_ptr())
        fail<StateError>({"TorchOptimizer: parameter ", i,
                          " was moved or converted since; make the optimizer after that"});
      const torch::Tensor g = outside_[i].grad();
      inside_[i].set_grad(g.defined() ? from_torch(g) : Tensor());
    }
    optimizer_->step();
    for (std::size_t i = 0; i < inside_.size(); ++i) {
      if (inside_[i].grad().defined()) outside_[i].unsafeGetTensorImpl()->bump_version();
      inside_[i].set_grad({});
    }
  }
  void zero_grad() {
    for (torch::Tensor& p : outside_) p.mutable_grad().reset();
  }
  /// The optimizer itself: lr, groups, state_dict.
  Optimizer& optimizer() const { return *optimizer_; }

 private:
  std::vector<torch::Tensor> outside_;
  Tensors inside_;
  Box<Optimizer> optimizer_;
};

}  // namespace dropin::interop
