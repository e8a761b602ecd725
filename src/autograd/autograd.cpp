#include "dropin/autograd/autograd.h"
#include "dropin/autograd/full_state.h"
#include "dropin/autograd/swap_note.h"

#include <algorithm>
#include <queue>
#include <unordered_map>

#include "autograd/tape.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/ops/elementwise.h"
#include "dropin/ops/reduce.h"
#include "kernels/elementwise/kernel.h"

namespace dropin {
namespace {

struct TapeMeta final : TapeEntry {
  bool requires_grad = false, full_state = false;
  std::shared_ptr<const SwapNote> swap;
  Tensor grad;
  Ref<Node> node;
  int output = 0;
};
TapeMeta* meta(const Tensor& t) {
  TensorImpl& i = *t.impl();
  if (i.base && i.seen != i.base->history) [[unlikely]]
    detail::renew_history(i);
  return static_cast<TapeMeta*>(i.tape);
}
TapeMeta& make_meta(const Tensor& t) {
  if (TapeMeta* m = meta(t)) return *m;
  TapeMeta* m = new TapeMeta;
  t.impl()->tape = m;
  return *m;
}

thread_local bool recording = true;
thread_local bool anomaly = false;
std::atomic<std::uint64_t> next_sequence{0};
std::atomic<std::uint64_t> swap_count{0};

// Long chains would otherwise destroy themselves recursively: nodes dropped during a destruction
// wait in a list, linked through themselves because a destructor must not ask for memory.
thread_local Ref<Node>* graveyard = nullptr;
void bury(std::vector<Node::Edge>& edges) {
  Ref<Node> local;
  const bool outermost = graveyard == nullptr;
  if (outermost) graveyard = &local;
  for (auto& e : edges)
    if (e.node && e.node->use_count() == 1) {
      e.node->next_dropped = std::move(*graveyard);
      *graveyard = std::move(e.node);
    }
  edges.clear();
  if (!outermost) return;
  while (local) {
    Ref<Node> last = std::move(local);
    local = std::move(last->next_dropped);
    last = {};
  }
  graveyard = nullptr;
}

}  // namespace

bool grad_enabled() { return recording; }
GradMode::GradMode(bool on) : before_(recording) { recording = on; }
GradMode::~GradMode() { recording = before_; }
detect_anomaly::detect_anomaly(bool on) : before_(anomaly) { anomaly = on; }
detect_anomaly::~detect_anomaly() { anomaly = before_; }

// --- tensors on the tape

bool Tensor::requires_grad() const {
  const TapeMeta* m = meta(*this);
  return m && (m->requires_grad || m->node);
}
Tensor& Tensor::requires_grad_(bool on) {
  TapeMeta* m = static_cast<TapeMeta*>(get().tape);
  if (m && m->node)
    fail<AutogradError>(
        {"requires_grad_: only a leaf can be told to require a gradient; use detach()"});
  if (on && !is_floating(dtype()))
    fail<AutogradError>(
        {"requires_grad_: only floating-point tensors have gradients, this one is ", dtype()});
  if (on) {  // from here on a leaf of its own, whatever it is a view of
    get().base = {};
    get().origin = ViewOrigin::Own;
  }
  if (on || m) make_meta(*this).requires_grad = on;
  return *this;
}
bool Tensor::is_leaf() const {
  get();
  const TapeMeta* m = meta(*this);
  return !m || !m->node;
}
Tensor Tensor::grad() const {
  get();
  const TapeMeta* m = meta(*this);
  return m ? m->grad : Tensor();
}
void Tensor::set_grad(Tensor g) const {
  if (g.defined() && !(g.sizes() == sizes()))
    fail<ShapeError>({"set_grad: the gradient is ", g.sizes(), ", the tensor ", sizes()});
  if (g.defined() && g.dtype() != dtype())
    fail<DTypeError>({"set_grad: the gradient is ", g.dtype(), ", the tensor ", dtype()});
  make_meta(*this).grad = std::move(g);
}
void keep_full_state(const Tensor& parameter) { make_meta(parameter).full_state = true; }
bool keeps_full_state(const Tensor& parameter) {
  const TapeMeta* m = meta(parameter);
  return m && m->full_state;
}
std::uint64_t count_swap() { return ++swap_count; }
std::uint64_t swaps_so_far() { return swap_count; }
void note_swap(const Tensor& parameter, std::shared_ptr<const SwapNote> note) {
  make_meta(parameter).swap = std::move(note);
}
std::shared_ptr<const SwapNote> swap_note(const Tensor& parameter) {
  const TapeMeta* m = meta(parameter);
  return m ? m->swap : nullptr;
}
Tensor Tensor::detach() const { return detail::alias(*this, sizes(), strides(), storage_offset()); }
void Tensor::set_data(const Tensor& t) const {
  TensorImpl& me = get();
  const TensorImpl& other = t.get();
  if (!is_leaf()) fail<AutogradError>({"set_data: only a leaf's data can be replaced"});
  me.storage = other.storage;
  me.offset = other.offset;
  me.sizes = other.sizes;
  me.strides = other.strides;
  me.dtype = other.dtype;
  me.numel = other.numel;
  if (me.tape) meta(*this)->grad = {};
}
void Tensor::backward(const Tensor& gradient, bool retain_graph, bool create_graph) const {
  dropin::backward({*this}, gradient.defined() ? Tensors{gradient} : Tensors{}, retain_graph,
                   create_graph);
}

// --- saved tensors and nodes

SavedTensor::SavedTensor(const Tensor& t, int output) : tensor_(t), output_(output) {
  if (!t.defined()) return;
  version_ = t.version();
  if (output >= 0) tensor_ = t.detach();
}

Tensor SavedTensor::unpack(const Node* owner) const {
  if (owner->released)
    fail<AutogradError>({owner->name,
                         ": backward ran a second time over a graph that was freed; pass "
                         "retain_graph to the first"});
  if (!tensor_.defined()) return {};
  if (tensor_.version() != version_)
    fail<AutogradError>({owner->name, ": a tensor of shape ", tensor_.sizes(),
                         " needed for backward was changed in place (version ", version_, " then, ",
                         tensor_.version(), " now)"});
  if (output_ < 0) return tensor_;
  Tensor t = tensor_.detach();
  if (recording) {
    TapeMeta& m = make_meta(t);
    m.node = Ref<Node>(const_cast<Node*>(owner));
    m.output = output_;
  }
  return t;
}

Node::Node(const char* n, int outs)
    : name(n), sequence(next_sequence.fetch_add(1, std::memory_order_relaxed)), outputs(outs) {}
Node::~Node() { bury(edges); }
void Node::release_saved() {
  if (saved.empty()) return;
  released = true;
  for (auto& s : saved) s.reset();
}

namespace detail {

void move_history(const Tensor& to, const Tensor& from) {
  const TapeMeta* made = meta(from);
  TapeMeta* m = static_cast<TapeMeta*>(to.impl()->tape);  // as it stands, not renewed
  if (!m && !(made && made->node)) return;
  if (!m) return std::swap(to.impl()->tape, from.impl()->tape);
  m->node = made ? made->node : Ref<Node>();
  m->output = made ? made->output : 0;
}

bool any_requires_grad(const Tensor* inputs, std::size_t n) {
  if (!recording) return false;
  for (std::size_t i = 0; i < n; ++i)
    if (inputs[i].defined() && inputs[i].requires_grad()) return true;
  return false;
}

void attach(const Ref<Node>& node, Tensor* ys, std::size_t ny, const Tensor* inputs, std::size_t n,
            const Tensor* saved, std::size_t ns) {
  node->edges.resize(n);
  for (std::size_t i = 0; i < n; ++i) {
    if (!inputs[i].defined() || !inputs[i].requires_grad()) continue;
    TapeMeta* m = meta(inputs[i]);
    auto& e = node->edges[i];
    if (m->node) {
      e.node = m->node;
      e.output = m->output;
    } else {
      e.leaf = Ref<TensorImpl>(inputs[i].impl());
    }
  }
  node->saved.reserve(ns);
  for (std::size_t i = 0; i < ns; ++i) {
    int own = -1;
    for (std::size_t j = 0; j < ny; ++j)
      if (saved[i].defined() && saved[i].is_same(ys[j])) own = static_cast<int>(j);
    node->saved.emplace_back(saved[i], own);
  }
  for (std::size_t j = 0; j < ny; ++j) {
    node->output_sizes.push_back(ys[j].defined() ? ys[j].sizes() : Shape{});
    node->output_options.push_back(ys[j].defined() ? ys[j].options() : TensorOptions{});
    if (!ys[j].defined() || !is_floating(ys[j].dtype())) continue;
    if (ys[j].impl()->tape) ys[j] = ys[j].detach();  // an op that returned one of its inputs
    TapeMeta& m = make_meta(ys[j]);
    m.node = node;
    m.output = static_cast<int>(j);
  }
}

}  // namespace detail

// --- user-defined functions

std::string detail::type_of_signature(std::string_view signature) {
  std::string_view rest = signature.substr(signature.find("T = ") + 4);
  rest = rest.substr(0, rest.find_first_of(";]"));
  if (rest.find('<') == std::string_view::npos)
    if (const auto colons = rest.rfind("::"); colons != std::string_view::npos)
      rest = rest.substr(colons + 2);
  return std::string(rest);
}

Tensors detail::checked_gradients(const char* function, Tensors gradients,
                                  const std::vector<Shape>& sizes,
                                  const std::vector<TensorOptions>& options) {
  if (gradients.size() != sizes.size())
    fail<AutogradError>({function, ": its backward returned ", gradients.size(),
                         " gradients, expected one for each of its ", sizes.size(),
                         " tensor arguments"});
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const Tensor& g = gradients[i];
    if (!g.defined()) continue;
    const auto refuse = [&](const Part& got, const Part& expected) {
      fail<AutogradError>({function, ": its backward returned a gradient that is ", got,
                           " for input ", i, ", expected ", expected});
    };
    if (!(g.sizes() == sizes[i])) refuse(g.sizes(), sizes[i]);
    if (g.dtype() != options[i].dtype) refuse(g.dtype(), options[i].dtype);
    if (!(g.device() == options[i].device)) refuse(g.device(), options[i].device);
  }
  return gradients;
}

// --- the engine

namespace {

// A sum under construction. `owned`: no one else sees the memory, so it may be added to in place.
struct Accumulator {
  Tensor sum;
  bool owned = false;
  void add(const Tensor& g, bool create_graph) {
    if (!sum.defined()) {
      sum = g;
    } else if (create_graph) {
      sum = dropin::add(sum, g);
    } else {
      if (!owned) sum = sum.clone();
      owned = true;
      run<kernels::axpy>(sum.device(), 1.0, g.in(), sum.out());
    }
  }
};

struct ByAge {
  bool operator()(const Node* a, const Node* b) const { return a->sequence < b->sequence; }
};

void check_gradient(const Node* node, const Tensor& g) {
  if (anomaly && g.defined() && is_floating(g.dtype()) && any(isnan(g.detach())).item<bool>())
    fail<AutogradError>(
        {node->name, ": its backward returned NaN in a gradient of shape ", g.sizes()});
}

/// Contiguous but for the order of its dimensions.
bool dense(const Tensor& t) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int i = 0; i < t.dim(); ++i)
    if (t.size(i) != 1) dims.emplace_back(t.strides()[static_cast<std::size_t>(i)], t.size(i));
  std::sort(dims.begin(), dims.end());
  int64_t step = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != step) return false;
    step *= size;
  }
  return true;
}

void accumulate_leaf(TensorImpl* leaf, const Tensor& g, bool create_graph) {
  Tensor t{Ref<TensorImpl>(leaf)};
  TapeMeta& m = make_meta(t);
  if (!m.grad.defined()) {
    // Keep it if nobody else can see it; broadcast or shared memory is copied. Channels-last
    // pictures keep their order.
    const bool ours = (g.is_contiguous() || (g.strides() == t.strides() && dense(g))) &&
                      g.impl()->use_count() == 1 && g.impl()->storage->use_count() == 1;
    m.grad = create_graph ? g : ours ? g.detach() : g.detach().clone();
  } else if (create_graph) {
    m.grad = add(m.grad, g);
  } else {
    run<kernels::axpy>(t.device(), 1.0, g.in(), m.grad.out());
    m.grad.bump_version();
  }
}

// Nodes are numbered as they are recorded, so taking the youngest first visits every consumer
// before its producers.
Tensors run_backward(const Tensors& outputs, const Tensors& grad_outputs, const Tensors* inputs,
                     bool retain_graph, bool create_graph) {
  std::priority_queue<Node*, std::vector<Node*>, ByAge> queue;
  std::unordered_map<Node*, std::vector<Accumulator>> pending;
  std::unordered_map<Node*, Ref<Node>> alive;
  std::unordered_map<const TensorImpl*, Accumulator>
      leaf_sums;  // grad(): what reaches wanted leaves
  struct Wanted {
    const Node* node;
    int output;
  };
  Tensors result(inputs ? inputs->size() : 0);

  auto deliver = [&](const Node::Edge& e, const Tensor& g) {
    if (e.node) {
      auto [it, fresh] = pending.try_emplace(e.node.get());
      if (fresh) {
        it->second.resize(static_cast<std::size_t>(e.node->outputs));
        alive.emplace(e.node.get(), e.node);
        queue.push(e.node.get());
      }
      it->second[static_cast<std::size_t>(e.output)].add(g, create_graph);
    } else if (e.leaf) {
      if (!inputs)
        accumulate_leaf(e.leaf.get(), g, create_graph);
      else if (std::any_of(inputs->begin(), inputs->end(),
                           [&](const Tensor& t) { return t.impl() == e.leaf.get(); }))
        leaf_sums[e.leaf.get()].add(g, create_graph);
    }
  };

  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& y = outputs[i];
    if (!y.requires_grad())
      fail<AutogradError>({"backward: output ", i,
                           " does not require a gradient: nothing it was computed from does, or it "
                           "was computed inside no_grad"});
    Tensor g = i < grad_outputs.size() ? grad_outputs[i] : Tensor();
    if (!g.defined()) {
      if (y.numel() != 1)
        fail<AutogradError>({"backward: output ", i, " is ", y.sizes(),
                             "; a gradient must be given for what is not a scalar"});
      g = ones_like(y);
    }
    if (!(g.sizes() == y.sizes()))
      fail<ShapeError>(
          {"backward: the gradient of output ", i, " is ", g.sizes(), ", expected ", y.sizes()});
    if (g.dtype() != y.dtype()) g = g.to(y.dtype());
    TapeMeta* m = meta(y);
    Node::Edge e;
    if (m->node) {
      e.node = m->node;
      e.output = m->output;
    } else {
      e.leaf = Ref<TensorImpl>(y.impl());
    }
    deliver(e, g);
  }

  GradMode mode(create_graph);
  while (!queue.empty()) {
    Node* node = queue.top();
    queue.pop();
    std::vector<Accumulator> sums = std::move(pending[node]);
    Ref<Node> keep = std::move(alive[node]);
    pending.erase(node);
    alive.erase(node);
    Tensors gys;
    gys.reserve(sums.size());
    for (auto& s : sums) gys.push_back(std::move(s.sum));
    if (inputs)
      for (std::size_t i = 0; i < inputs->size(); ++i) {
        const TapeMeta* m = meta((*inputs)[i]);
        if (m && m->node.get() == node && gys[static_cast<std::size_t>(m->output)].defined())
          result[i] = gys[static_cast<std::size_t>(m->output)];
      }
    if (node->outputs == 1 && !gys[0].defined()) continue;
    if (node->released)
      fail<AutogradError>({node->name,
                           ": backward ran a second time over a graph that was freed; pass "
                           "retain_graph to the first"});
    Tensors gxs = node->apply(gys);
    gys.clear();
    if (gxs.size() != node->edges.size())
      fail<AutogradError>({node->name, ": its backward returned ", gxs.size(), " gradients for ",
                           node->edges.size(), " inputs"});
    for (std::size_t i = 0; i < gxs.size(); ++i) {
      const auto& e = node->edges[i];
      if (!gxs[i].defined() || !(e.node || e.leaf)) continue;
      check_gradient(node, gxs[i]);
      Tensor g = std::move(gxs[i]);
      deliver(e, g);
    }
    if (!retain_graph) node->release_saved();
  }
  if (inputs)
    for (std::size_t i = 0; i < inputs->size(); ++i)
      if (auto it = leaf_sums.find((*inputs)[i].impl()); it != leaf_sums.end())
        result[i] = it->second.sum;
  return result;
}

}  // namespace

void backward(const Tensors& outputs, const Tensors& grad_outputs, bool retain_graph,
              bool create_graph) {
  run_backward(outputs, grad_outputs, nullptr, retain_graph || create_graph, create_graph);
}

Tensors grad(const Tensors& outputs, const Tensors& inputs, const Tensors& grad_outputs,
             bool retain_graph, bool create_graph, bool allow_unused) {
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (!inputs[i].requires_grad())
      fail<AutogradError>({"grad: input ", i, " does not require a gradient"});
  Tensors r =
      run_backward(outputs, grad_outputs, &inputs, retain_graph || create_graph, create_graph);
  for (std::size_t i = 0; i < r.size(); ++i)
    if (!r[i].defined() && !allow_unused)
      fail<AutogradError>(
          {"grad: input ", i,
           " took no part in the outputs; pass allow_unused to get an undefined tensor instead"});
  return r;
}

// --- checkpointing

namespace detail {
namespace {

struct SharedCallable : RefCounted {
  Callable f;
  explicit SharedCallable(Callable c) : f(c) {}
  ~SharedCallable() override {
    if (f.destroy) f.destroy(f.self);
  }
};

// The parameters f uses are not among its inputs; a token that requires grad makes sure that the
// block is recorded all the same.
Tensor token() {
  Tensor t = zeros({});
  t.requires_grad_();
  return t;
}

}  // namespace

Tensors checkpoint(Callable f, const Tensors& inputs) {
  auto shared = make_ref<SharedCallable>(f);
  if (!grad_enabled()) return f.call(f.self, inputs);
  const Generator before = default_generator();
  Tensors ys;
  {
    no_grad guard;
    ys = f.call(f.self, inputs);
  }
  Tensors recorded = inputs;
  recorded.push_back(token());
  const std::size_t n = inputs.size();
  return record_many(
      "checkpoint", ys, recorded, inputs, [shared, before, n](const Saved& s, const Tensors& gys) {
        if (grad_enabled())
          fail<AutogradError>(
              {"checkpoint: second derivatives through a checkpointed block are not supported"});
        Tensors xs;
        for (std::size_t i = 0; i < n; ++i) {
          Tensor x = s[static_cast<int>(i)];
          if (x.defined()) x = x.detach();
          if (s.needs(static_cast<int>(i))) x.requires_grad_();
          xs.push_back(x);
        }
        Tensors ys2;
        {
          enable_grad on;
          const Generator now = default_generator();
          default_generator() = before;
          ys2 = shared->f.call(shared->f.self, xs);
          default_generator() = now;
        }
        Tensors outs, gs;
        for (std::size_t i = 0; i < ys2.size(); ++i)
          if (gys[i].defined() && ys2[i].requires_grad()) {
            outs.push_back(ys2[i]);
            gs.push_back(gys[i]);
          }
        if (!outs.empty()) dropin::backward(outs, gs);
        Tensors gx(n + 1);
        for (std::size_t i = 0; i < n; ++i)
          if (xs[i].defined() && xs[i].requires_grad()) gx[i] = xs[i].grad();
        return gx;
      });
}

}  // namespace detail
}  // namespace dropin
