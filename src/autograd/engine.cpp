// The backward pass: nodes in reverse, sums of gradients, leaves.
#include <algorithm>
#include <queue>
#include <unordered_map>

#include "autograd/tape_meta.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/ops/elementwise.h"
#include "dropin/ops/reduce.h"
#include "kernels/elementwise/kernel.h"

namespace dropin {
namespace {

using detail::make_meta;
using detail::meta;
using detail::TapeMeta;

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
      dropin::run<kernels::axpy>(sum.device(), 1.0, g.in(), sum.out());
    }
  }
};

struct ByAge {
  bool operator()(const Node* a, const Node* b) const { return a->sequence < b->sequence; }
};

void check_gradient(const Node* node, const Tensor& g) {
  if (detail::detects_anomaly() && g.defined() && is_floating(g.dtype()) &&
      any(isnan(g.detach())).item<bool>())
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
    dropin::run<kernels::axpy>(t.device(), 1.0, g.in(), m.grad.out());
    m.grad.bump_version();
  }
}

/// One pass over the tape. Nodes are numbered as they are recorded, so taking the youngest first
/// visits every consumer before its producers.
class Engine {
 public:
  /// inputs: what grad() asks for; null for backward(), which adds to the leaves.
  Engine(const Tensors* inputs, bool retain_graph, bool create_graph)
      : inputs_(inputs),
        retain_graph_(retain_graph),
        create_graph_(create_graph),
        result_(inputs ? inputs->size() : 0) {}

  Tensors run(const Tensors& outputs, const Tensors& grad_outputs) {
    for (std::size_t i = 0; i < outputs.size(); ++i)
      start(outputs[i], i, i < grad_outputs.size() ? grad_outputs[i] : Tensor());
    GradMode mode(create_graph_);
    while (!queue_.empty()) {
      Node* node = queue_.top();
      queue_.pop();
      visit(node);
    }
    if (inputs_)
      for (std::size_t i = 0; i < inputs_->size(); ++i)
        if (auto it = leaf_sums_.find((*inputs_)[i].impl()); it != leaf_sums_.end())
          result_[i] = it->second.sum;
    return std::move(result_);
  }

 private:
  /// The gradient `g` of output i sets off; 1 for a scalar without one.
  void start(const Tensor& y, std::size_t i, Tensor g) {
    if (!y.requires_grad())
      fail<AutogradError>({"backward: output ", i,
                           " does not require a gradient: nothing it was computed from does, or it "
                           "was computed inside no_grad"});
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

  /// Adds `g` to what the node or leaf at the other end of the edge has got.
  void deliver(const Node::Edge& e, const Tensor& g) {
    if (e.node) {
      auto [it, fresh] = pending_.try_emplace(e.node.get());
      if (fresh) {
        it->second.resize(static_cast<std::size_t>(e.node->outputs));
        alive_.emplace(e.node.get(), e.node);
        queue_.push(e.node.get());
      }
      it->second[static_cast<std::size_t>(e.output)].add(g, create_graph_);
    } else if (e.leaf) {
      if (!inputs_)
        accumulate_leaf(e.leaf.get(), g, create_graph_);
      else if (std::any_of(inputs_->begin(), inputs_->end(),
                           [&](const Tensor& t) { return t.impl() == e.leaf.get(); }))
        leaf_sums_[e.leaf.get()].add(g, create_graph_);
    }
  }

  /// The gradients of a node's outputs are complete: those of its inputs are computed and
  /// delivered.
  void visit(Node* node) {
    std::vector<Accumulator> sums = std::move(pending_[node]);
    Ref<Node> keep = std::move(alive_[node]);
    pending_.erase(node);
    alive_.erase(node);
    Tensors gys;
    gys.reserve(sums.size());
    for (auto& s : sums) gys.push_back(std::move(s.sum));
    keep_wanted(node, gys);
    if (node->outputs == 1 && !gys[0].defined()) return;
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
    if (!retain_graph_) node->release_saved();
  }

  /// grad() may ask for what a node made.
  void keep_wanted(const Node* node, const Tensors& gys) {
    if (!inputs_) return;
    for (std::size_t i = 0; i < inputs_->size(); ++i) {
      const TapeMeta* m = meta((*inputs_)[i]);
      if (m && m->node.get() == node && gys[static_cast<std::size_t>(m->output)].defined())
        result_[i] = gys[static_cast<std::size_t>(m->output)];
    }
  }

  const Tensors* inputs_;
  bool retain_graph_, create_graph_;
  std::priority_queue<Node*, std::vector<Node*>, ByAge> queue_;
  std::unordered_map<Node*, std::vector<Accumulator>> pending_;
  std::unordered_map<Node*, Ref<Node>> alive_;
  std::unordered_map<const TensorImpl*, Accumulator> leaf_sums_;  // what reaches wanted leaves
  Tensors result_;
};

}  // namespace

void backward(const Tensors& outputs, const Tensors& grad_outputs, bool retain_graph,
              bool create_graph) {
  Engine(nullptr, retain_graph || create_graph, create_graph).run(outputs, grad_outputs);
}

Tensors grad(const Tensors& outputs, const Tensors& inputs, const Tensors& grad_outputs,
             bool retain_graph, bool create_graph, bool allow_unused) {
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (!inputs[i].requires_grad())
      fail<AutogradError>({"grad: input ", i, " does not require a gradient"});
  Tensors r =
      Engine(&inputs, retain_graph || create_graph, create_graph).run(outputs, grad_outputs);
  for (std::size_t i = 0; i < r.size(); ++i)
    if (!r[i].defined() && !allow_unused)
      fail<AutogradError>(
          {"grad: input ", i,
           " took no part in the outputs; pass allow_unused to get an undefined tensor instead"});
  return r;
}

}  // namespace dropin
