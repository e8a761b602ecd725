// Running sums, products and maxima along a dimension.
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/reduce/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::need_floating;

namespace {

Tensor scan(kernels::Scan op, const Tensor& x, int dim, bool reverse = false) {
  Tensor y = empty(x.sizes(), x.options());
  run<kernels::scan>(x.device(), op, x.in(), dim, reverse, y.out());
  return y;
}
Tensor cumsum_from(const Tensor& x, int d, bool reverse) {
  return record("cumsum", scan(kernels::Scan::CumSum, x, d, reverse), {x}, {},
                [d, reverse](const Saved&, const Tensor& g) -> Tensors {
                  return {cumsum_from(g, d, !reverse)};
                });
}

}  // namespace

Tensor cumsum(const Tensor& x, int64_t dim) {
  const int d = wrap_dim(dim, x.dim(), "cumsum");
  if (x.dim() == 0) return affine(x, 1, 0);
  return cumsum_from(is_floating(x.dtype()) ? x : x.to(kInt64), d, false);
}

Tensor cumprod(const Tensor& x_, int64_t dim) {
  const int d = wrap_dim(dim, x_.dim(), "cumprod");
  if (x_.dim() == 0) return affine(x_, 1, 0);
  if (!is_floating(x_.dtype())) return scan(kernels::Scan::CumProd, x_.to(kInt64), d);
  const Tensor& x = x_;
  Tensor y = scan(kernels::Scan::CumProd, x, d);
  return record("cumprod", y, {x}, {x, y}, [d](const Saved& s, const Tensor& g) -> Tensors {
    const Tensor v = s[0], p = s[1];
    if (!any(v.detach() == 0.0).item<bool>()) return {cumsum_from(g * p, d, true) / v};
    // with zeros: gx_i = sum_{j >= i} g_j prod_{k <= j, k != i} x_k, one i at a time
    Tensors parts;
    const int64_t n = v.size(d);
    const Tensor past_zero =
        scan(kernels::Scan::CumMax, (v.detach() == 0).to(kFloat32), d).to(kBool);
    for (int64_t i = 0; i < n; ++i) {
      Tensor tail = v.narrow(d, i, n - i);
      tail = concat({ones_like(tail.narrow(d, 0, 1)), tail.narrow(d, 1, n - i - 1)}, d);
      Tensor lead = i ? p.narrow(d, i - 1, 1) : ones_like(tail.narrow(d, 0, 1));
      const Tensor part = sum(g.narrow(d, i, n - i) * cumprod(tail, d) * lead, {d}, true);
      // behind a zero there is nothing, whatever the lead, which infinities may have made NaN
      parts.push_back(i ? where(past_zero.narrow(d, i - 1, 1), 0.0, part) : part);
    }
    return {concat(parts, d)};
  });
}

Tensor logcumsumexp(const Tensor& x, int64_t dim) {
  need_floating("logcumsumexp", x);
  const int d = wrap_dim(dim, x.dim(), "logcumsumexp");
  if (x.dim() == 0) return affine(x, 1, 0);
  Tensor y = scan(kernels::Scan::LogCumSumExp, x, d);
  return record("logcumsumexp", y, {x}, {x, y}, [d](const Saved& s, const Tensor& g) -> Tensors {
    // gx_i = exp(x_i) sum_{j >= i} g_j exp(-y_j), in logs, positive and negative parts apart
    const Tensor v = s[0], lse = s[1];
    auto part = [&](const Tensor& positive) {
      return exp(flip(logcumsumexp(flip(log(positive) - lse, {d}), d), {d}) + v);
    };
    return {part(relu(g)) - part(relu(-g))};
  });
}

Tensor cummax(const Tensor& x, int64_t dim) {
  const int d = wrap_dim(dim, x.dim(), "cummax");
  if (x.dim() == 0) return affine(x, 1, 0);
  Tensor y = scan(kernels::Scan::CumMax, x, d);
  return record("cummax", y, {x}, {x, y}, [d](const Saved& s, const Tensor& g) -> Tensors {
    // each output's gradient goes to the last position that reached its maximum: torch's rule for
    // equal values
    const Tensor hit = logical_or(s[0] == s[1], isnan(s[0]));
    Shape one(s[0].sizes());
    for (int64_t& n : one) n = 1;
    one[d] = s[0].size(d);
    const Tensor position = arange(s[0].size(d)).to(g.device()).reshape(one);
    const Tensor source =
        scan(kernels::Scan::CumMax,
             where(hit, position.expand(hit.sizes()), zeros(hit.sizes(), position.options())), d);
    return {scatter_add(zeros_like(g), d, source, g)};
  });
}

}  // namespace dropin
