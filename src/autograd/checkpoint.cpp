// A checkpointed block keeps its inputs only and runs again in the backward pass.
#include "dropin/autograd/autograd.h"

namespace dropin::detail {
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

}  // namespace dropin::detail
