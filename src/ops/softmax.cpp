// Softmax and its logarithm.
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/softmax/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::need_floating;

namespace {

Tensor softmax_along(const Tensor& x_, int64_t dim, bool log_form) {
  const char* who = log_form ? "log_softmax" : "softmax";
  need_floating(who, x_);
  const int d = wrap_dim(dim, x_.dim(), who);
  if (x_.dim() == 0) return log_form ? x_ * 0.0 : x_ * 0.0 + 1.0;
  if (d != x_.dim() - 1) return softmax_along(x_.transpose(d, -1), -1, log_form).transpose(d, -1);
  const Tensor x = ops_detail::prepared(x_);
  Tensor y = empty_like(x);
  run<kernels::softmax_forward>(x.device(), x.in(), log_form, y.out());
  y = record(who, y, {x}, {y}, [log_form](const Saved& s, const Tensor& g) -> Tensors {
    const Tensor out = s[0];
    if (grad_enabled())
      return {log_form ? g - exp(out) * sum(g, {-1}, true) : out * (g - sum(g * out, {-1}, true))};
    Tensor gx = empty_like(out);
    run<kernels::softmax_backward>(g.device(), g.contiguous().in(), out.in(), log_form, gx.out());
    return {gx};
  });
  return y.to(x_.dtype());
}

}  // namespace

Tensor softmax(const Tensor& x, int64_t dim) { return softmax_along(x, dim, false); }
Tensor log_softmax(const Tensor& x, int64_t dim) { return softmax_along(x, dim, true); }

}  // namespace dropin
