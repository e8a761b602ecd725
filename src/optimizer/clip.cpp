// Clipping of gradients, and a schedule of the rate.
#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "dropin/optimizer/optimizer.h"
#include "optimizer/common.h"

namespace dropin {

double clip_grad_norm_(const Tensors& params, double max_norm) {
  no_grad guard;
  std::unordered_set<const TensorImpl*> seen;
  Tensors grads;
  for (const Tensor& p : params)
    if (Tensor g = p.grad(); g.defined() && seen.insert(p.impl()).second) grads.push_back(g);
  double total = 0;
  for (const Tensor& g : grads)
    total += std::pow(norm(g.to(detail::step_dtype(g.dtype()))).item(), 2);
  const double n = std::sqrt(total), scale = max_norm / (n + 1e-6);
  if (!(scale >= 1))
    for (const Tensor& g : grads)
      detail::update_as(detail::step_dtype(g.dtype()), g, [&](Tensor t) { t.mul_(scale); });
  return n;
}

double warmup_cosine(int64_t step, int64_t warmup, int64_t total, double lr, double min_lr) {
  if (step < warmup) return lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double t =
      total > warmup
          ? std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(total - warmup))
          : 1;
  return detail::half_cosine(lr, min_lr, t);
}

}  // namespace dropin
