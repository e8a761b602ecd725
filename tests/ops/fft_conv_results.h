// Results and gradients of a long convolution.
#pragma once
#include "support.h"

namespace dropin {

struct Result {
  Tensor y;
  Tensors grads;
};

/// f of u, k, D, k_rev, pre, post and the gradients of <f, w>
template <class Fn>
Result run_with_gradients(const Tensors& inputs, const Tensor& w, Fn f) {
  Tensors in;
  for (const Tensor& t : inputs) {
    if (!t.defined())
      in.push_back(t);
    else if (t.dim() == 3 && t.stride(1) == 1 && t.size(1) > 1)
      in.push_back(t.transpose(1, 2).contiguous().transpose(1, 2).detach().requires_grad_());
    else
      in.push_back(t.detach().clone().requires_grad_());
  }
  Result r;
  r.y = f(in);
  Tensors wanted;
  for (const Tensor& t : in)
    if (t.defined()) wanted.push_back(t);
  r.grads = grad({r.y}, wanted, {w.to(r.y.dtype())});
  return r;
}

inline double length_of(const Tensor& x) { return std::sqrt(sum(square(x.to(kFloat64))).item()); }

}  // namespace dropin
