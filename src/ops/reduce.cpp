// Sums, products, extremes and moments over dimensions.
#include "dropin/ops/reduce.h"

#include <cmath>
#include <limits>

#include "dropin/ops/shape.h"
#include "kernels/reduce/kernel.h"
#include "ops/common.h"

namespace dropin {

using kernels::Reduce;
using ops_detail::dim_mask;
using ops_detail::need_floating;

std::uint32_t ops_detail::dim_mask(const Shape& dims, int64_t ndim, const char* who) {
  if (dims.empty()) return (1u << ndim) - 1;
  std::uint32_t m = 0;
  for (int64_t d : dims) {
    const int w = wrap_dim(d, ndim, who);
    if (m >> w & 1) fail<IndexError>({who, ": dimension ", d, " is named twice in ", dims});
    m |= 1u << w;
  }
  return ndim ? m : 0;
}

namespace {

Shape kept_sizes(const Shape& s, std::uint32_t mask) {
  Shape r = s;
  for (int i = 0; i < s.size(); ++i)
    if (mask >> i & 1) r[i] = 1;
  return r;
}
Shape dropped_sizes(const Shape& s, std::uint32_t mask) {
  Shape r;
  for (int i = 0; i < s.size(); ++i)
    if (!(mask >> i & 1)) r.push_back(s[i]);
  return r;
}
int64_t reduced_count(const Shape& s, std::uint32_t mask) {
  int64_t n = 1;
  for (int i = 0; i < s.size(); ++i)
    if (mask >> i & 1) n *= s[i];
  return n;
}
// y with the reduced dims kept -> as the caller asked
Tensor finish(const Tensor& y, const Shape& sizes, std::uint32_t mask, bool keepdim) {
  return keepdim ? y : y.reshape(dropped_sizes(sizes, mask));
}

Tensor raw(Reduce op, const Tensor& x, std::uint32_t mask, DType out) {
  Tensor y = empty(kept_sizes(x.sizes(), mask), {out, x.device()});
  run<kernels::reduce>(x.device(), op, x.in(), mask, y.out());
  return y;
}

}  // namespace

Tensor sum(const Tensor& x, const Dims& dims, bool keepdim) {
  if (!is_floating(x.dtype())) {
    const std::uint32_t m = dim_mask(dims, x.dim(), "sum");
    return finish(raw(Reduce::Sum, x.to(kInt64), m, kInt64), x.sizes(), m, keepdim);
  }
  const std::uint32_t mask = dim_mask(dims, x.dim(), "sum");
  return finish(record("sum", raw(Reduce::Sum, x, mask, x.dtype()), {x}, {},
                       [sizes = x.sizes()](const Saved&, const Tensor& g) -> Tensors {
                         return {g.expand(sizes)};
                       }),
                x.sizes(), mask, keepdim);
}

Tensor mean(const Tensor& x, const Dims& dims, bool keepdim) {
  need_floating("mean", x);
  const std::uint32_t mask = dim_mask(dims, x.dim(), "mean");
  const double n = static_cast<double>(reduced_count(x.sizes(), mask));
  return finish(record("mean", raw(Reduce::Mean, x, mask, x.dtype()), {x}, {},
                       [sizes = x.sizes(), n](const Saved&, const Tensor& g) -> Tensors {
                         return {(g / n).expand(sizes)};
                       }),
                x.sizes(), mask, keepdim);
}

Tensor prod(const Tensor& x, const Dims& dims, bool keepdim) {
  const std::uint32_t mask = dim_mask(dims, x.dim(), "prod");
  if (!is_floating(x.dtype()))
    return finish(raw(Reduce::Prod, x.to(kInt64), mask, kInt64), x.sizes(), mask, keepdim);
  Tensor y = record(
      "prod", raw(Reduce::Prod, x, mask, x.dtype()), {x}, {x},
      [mask](const Saved& s, const Tensor& g) -> Tensors {
        // the product of all others: products of what comes before and after, so that zeros are
        // right
        const Tensor v = s[0];
        Shape order, back;
        for (int i = 0; i < v.dim(); ++i)
          if (!(mask >> i & 1)) order.push_back(i);
        const int kept = order.size();
        for (int i = 0; i < v.dim(); ++i)
          if (mask >> i & 1) order.push_back(i);
        back = order;
        for (int i = 0; i < order.size(); ++i) back[static_cast<int>(order[i])] = i;
        const Tensor p = v.permute(order),
                     flat = kept < v.dim() ? p.flatten(kept, -1) : p.unsqueeze(-1);
        const int64_t n = flat.size(-1);
        Shape edge = flat.sizes();
        edge[edge.size() - 1] = 1;
        const Tensor one = ones(edge, flat.options());
        const Tensor before = cumprod(
            concat({one, flat.narrow(-1, 0, std::max<int64_t>(n - 1, 0))}, -1).narrow(-1, 0, n),
            -1);
        const Tensor reversed = flip(flat, {-1});
        const Tensor after =
            flip(cumprod(concat({one, reversed.narrow(-1, 0, std::max<int64_t>(n - 1, 0))}, -1)
                             .narrow(-1, 0, n),
                         -1),
                 {-1});
        return {g.expand(v.sizes()) * (before * after).reshape(p.sizes()).permute(back)};
      });
  return finish(y, x.sizes(), mask, keepdim);
}

namespace {

Tensor extreme(Reduce op, const char* who, const Tensor& x, const Shape& dims, bool keepdim) {
  const std::uint32_t mask = dim_mask(dims, x.dim(), who);
  if (reduced_count(x.sizes(), mask) == 0)
    fail<ShapeError>({who, ": nothing to reduce in ", x.sizes()});
  const Tensor v = x.dtype() == kBool ? x.to(kUInt8) : x;
  Tensor y = raw(op, v, mask, v.dtype());
  y = record(who, y, {v}, {v, y}, [mask](const Saved& s, const Tensor& g) -> Tensors {
    const Tensor hit = (s[0] == s[1]).to(g.dtype());
    Shape d;
    for (int i = 0; i < hit.dim(); ++i)
      if (mask >> i & 1) d.push_back(i);
    return {hit * (g / (d.empty() ? hit : sum(hit, d, true)))};
  });
  if (x.dtype() == kBool) y = y.to(kBool);
  return finish(y, x.sizes(), mask, keepdim);
}

Tensor logic(Reduce op, const char* who, const Tensor& x, const Shape& dims, bool keepdim) {
  const std::uint32_t mask = dim_mask(dims, x.dim(), who);
  return finish(raw(op, x.detach().to(kBool), mask, kBool), x.sizes(), mask, keepdim);
}

}  // namespace

Tensor amax(const Tensor& x, const Dims& dims, bool keepdim) {
  return extreme(Reduce::Max, "amax", x, dims, keepdim);
}
Tensor amin(const Tensor& x, const Dims& dims, bool keepdim) {
  return extreme(Reduce::Min, "amin", x, dims, keepdim);
}
Tensor any(const Tensor& x, const Dims& dims, bool keepdim) {
  return logic(Reduce::Any, "any", x, dims, keepdim);
}
Tensor all(const Tensor& x, const Dims& dims, bool keepdim) {
  return logic(Reduce::All, "all", x, dims, keepdim);
}

Tensor logsumexp(const Tensor& x_, const Dims& dims, bool keepdim) {
  const Tensor x = is_floating(x_.dtype()) ? x_ : x_.to(kFloat32);
  const std::uint32_t mask = dim_mask(dims, x.dim(), "logsumexp");
  Tensor y = raw(Reduce::LogSumExp, x, mask, x.dtype());
  y = record("logsumexp", y, {x}, {x, y}, [mask](const Saved& s, const Tensor& g) -> Tensors {
    const Tensor v = s[0], lse = s[1];
    const double inf = std::numeric_limits<double>::infinity();
    const Tensor w = exp(v - masked_fill(lse, lse == -inf, 0));  // a row of -inf has weights 0
    Shape d;
    for (int i = 0; i < v.dim(); ++i)
      if (mask >> i & 1) d.push_back(i);
    const Tensor total = d.empty() ? w : sum(w, d, true);
    // their own sum, not 1: rounding takes log n from a large lse; beside +inf the others weigh 0
    return {g * (w / masked_fill(total, logical_or(total == 0, lse == inf), 1))};
  });
  return finish(y, x.sizes(), mask, keepdim);
}

namespace {
// The slope of the variance: 2 (x - mean) / (n - correction).
Tensor deviations(const Tensor& x, std::uint32_t mask, double correction) {
  Shape d;
  for (int i = 0; i < x.dim(); ++i)
    if (mask >> i & 1) d.push_back(i);
  const double n = static_cast<double>(reduced_count(x.sizes(), mask));
  return (x - (d.empty() ? x : mean(x, d, true))) * (2 / (n - correction));
}
}  // namespace

Tensor var(const Tensor& x, const Dims& dims, double correction, bool keepdim) {
  need_floating("var", x);
  const std::uint32_t mask = dim_mask(dims, x.dim(), "var");
  Tensor v = empty(kept_sizes(x.sizes(), mask), x.options()), m = empty_like(v);
  run<kernels::var_mean>(x.device(), x.in(), mask, correction, v.out(), m.out());
  v = record("var", v, {x}, {x}, [mask, correction](const Saved& s, const Tensor& g) -> Tensors {
    return {g * deviations(s[0], mask, correction)};
  });
  return finish(v, x.sizes(), mask, keepdim);
}
Tensor std_dev(const Tensor& x, const Dims& dims, double correction, bool keepdim) {
  need_floating("std", x);
  const std::uint32_t mask = dim_mask(dims, x.dim(), "std");
  Tensor y = sqrt(var(x.detach(), dims, correction, true));
  y = record("std", y, {x}, {x, y}, [mask, correction](const Saved& s, const Tensor& g) -> Tensors {
    // of equal values: 0
    return {deviations(s[0], mask, correction) * where(s[1] == 0, 0.0, g / (s[1] * 2))};
  });
  return finish(y, x.sizes(), mask, keepdim);
}

Tensor norm(const Tensor& x, const Shape& dims, bool keepdim) {
  need_floating("norm", x);
  const std::uint32_t mask = dim_mask(dims, x.dim(), "norm");
  Tensor y = sqrt(raw(Reduce::SumSquares, x.detach(), mask, x.dtype()));
  y = record("norm", y, {x}, {x, y}, [](const Saved& s, const Tensor& g) -> Tensors {
    const Tensor n = s[1];
    return {s[0] * where(n == 0.0, 0.0, g / n)};  // the subgradient at 0 is 0
  });
  return finish(y, x.sizes(), mask, keepdim);
}

Tensor vector_norm(const Tensor& x, double p, const Dims& dims, bool keepdim) {
  need_floating("vector_norm", x);
  DROPIN_CHECK(!std::isnan(p), OptionError, "vector_norm: p is NaN, expected a number");
  if (p == 2) return norm(x, dims, keepdim);
  if (std::isinf(p)) return p > 0 ? amax(abs(x), dims, keepdim) : amin(abs(x), dims, keepdim);
  if (p == 0) return sum((x != 0).to(x.dtype()), dims, keepdim);
  if (p == 1) return sum(abs(x), dims, keepdim);
  // relative to the greatest, so that no power overflows; a norm of 0 has no slope
  const Tensor size = abs(x), top = amax(size.detach(), dims, true),
               unit = where((top > 0) & isfinite(top), top, 1);
  const Tensor total = sum(pow(size / unit, p), dims, true);
  const Tensor y = unit * where(top == 0, 0, pow(where(top == 0, 1, total), 1 / p));
  return finish(y, x.sizes(), dim_mask(dims, x.dim(), "vector_norm"), keepdim);
}

}  // namespace dropin
