// Tensors on the tape, what nodes save, grad mode, and functions of the user's own.
#include "dropin/autograd/autograd.h"

#include <atomic>
#include "dropin/autograd/full_state.h"
#include "dropin/autograd/swap_note.h"

#include "autograd/tape_meta.h"

namespace dropin {

using detail::make_meta;
using detail::meta;
using detail::TapeMeta;

namespace {

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
bool detail::detects_anomaly() { return anomaly; }

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
  if (output < 0 && !is_floating(t.dtype())) return;  // never on the tape
  const TapeMeta* made = output < 0 ? meta(t) : nullptr;
  if (made && made->requires_grad && !made->node) return;  // a leaf keeps its history
  // An in-place write may give the tensor (or the base that a view holds) a history that ends in
  // the owner. What is saved keeps the history of this moment, so there is no such circle.
  tensor_ = t.detach();
  if (!made || !made->node) return;
  TapeMeta& m = make_meta(tensor_);
  m.node = made->node;
  m.output = made->output;
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

const std::any* FunctionContext::find_value(const std::string& name) const {
  for (const auto& [n, v] : values)
    if (n == name) return &v;
  return nullptr;
}
void FunctionContext::no_value(const std::string& name, bool there, const char* type) {
  if (there)
    fail<AutogradError>(
        {"FunctionContext: the value \"", name, "\" is of another type, expected ", type});
  fail<AutogradError>({"FunctionContext: no value \"", name, "\" was saved in forward"});
}

}  // namespace dropin
