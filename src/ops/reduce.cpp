#include "dropin/ops/reduce.h"

#include <cmath>

#include "dropin/ops/shape.h"
#include "kernels/reduce/kernel.h"
#include "kernels/softmax/kernel.h"
#include "kernels/sort/kernel.h"
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

Tensor sum(const Tensor& x, const Shape& dims, bool keepdim) {
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

Tensor mean(const Tensor& x, const Shape& dims, bool keepdim) {
  need_floating("mean", x);
  const std::uint32_t mask = dim_mask(dims, x.dim(), "mean");
  const double n = static_cast<double>(reduced_count(x.sizes(), mask));
  return finish(record("mean", raw(Reduce::Mean, x, mask, x.dtype()), {x}, {},
                       [sizes = x.sizes(), n](const Saved&, const Tensor& g) -> Tensors {
                         return {(g / n).expand(sizes)};
                       }),
                x.sizes(), mask, keepdim);
}

Tensor prod(const Tensor& x, const Shape& dims, bool keepdim) {
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

Tensor amax(const Tensor& x, const Shape& dims, bool keepdim) {
  return extreme(Reduce::Max, "amax", x, dims, keepdim);
}
Tensor amin(const Tensor& x, const Shape& dims, bool keepdim) {
  return extreme(Reduce::Min, "amin", x, dims, keepdim);
}
Tensor any(const Tensor& x, const Shape& dims, bool keepdim) {
  return logic(Reduce::Any, "any", x, dims, keepdim);
}
Tensor all(const Tensor& x, const Shape& dims, bool keepdim) {
  return logic(Reduce::All, "all", x, dims, keepdim);
}

Tensor logsumexp(const Tensor& x_, const Shape& dims, bool keepdim) {
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

Tensor var(const Tensor& x, const Shape& dims, double correction, bool keepdim) {
  need_floating("var", x);
  const std::uint32_t mask = dim_mask(dims, x.dim(), "var");
  Tensor v = empty(kept_sizes(x.sizes(), mask), x.options()), m = empty_like(v);
  run<kernels::var_mean>(x.device(), x.in(), mask, correction, v.out(), m.out());
  v = record("var", v, {x}, {x}, [mask, correction](const Saved& s, const Tensor& g) -> Tensors {
    return {g * deviations(s[0], mask, correction)};
  });
  return finish(v, x.sizes(), mask, keepdim);
}
Tensor std_dev(const Tensor& x, const Shape& dims, double correction, bool keepdim) {
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

// --- with indices

namespace {

Tensor arg(bool maximum, const char* who, const Tensor& x, int64_t dim, bool keepdim) {
  const int d = wrap_dim(dim, x.dim(), who);
  if (x.dim() == 0) return zeros({}, {kInt64, x.device()});
  if (x.sizes()[d] == 0)
    fail<ShapeError>({who, ": dimension ", dim, " of ", x.sizes(), " is empty"});
  Shape s = x.sizes();
  s[d] = 1;
  Tensor y = empty(s, {kInt64, x.device()});
  run<kernels::arg_reduce>(x.device(), maximum, (x.dtype() == kBool ? x.to(kUInt8) : x).in(), d,
                           y.out());
  return keepdim ? y : y.squeeze(d);
}

ValuesIndices pick(bool maximum, const char* who, const Tensor& x, int64_t dim, bool keepdim) {
  if (x.dim() == 0) return {affine(x, 1, 0), zeros({}, {kInt64, x.device()})};
  const int d = wrap_dim(dim, x.dim(), who);
  Tensor index = arg(maximum, who, x, d, true), values = gather(x, d, index);
  return keepdim ? ValuesIndices{values, index}
                 : ValuesIndices{values.squeeze(d), index.squeeze(d)};
}

// Runs f on x with dim moved last and contiguous, and moves it back.
template <class F>
ValuesIndices along_last(const Tensor& x, int64_t dim, const char* who, F f) {
  if (x.dim() == 0) {
    auto [v, i] = along_last(x.reshape({1}), 0, who, f);
    return {v.reshape({}), i.reshape({})};
  }
  const int d = wrap_dim(dim, x.dim(), who);
  const Tensor t = x.transpose(d, -1);
  Tensor index = f(t.detach().contiguous());
  return {gather(t, -1, index).transpose(d, -1), index.transpose(d, -1)};
}

}  // namespace

ValuesIndices max(const Tensor& x, int64_t dim, bool keepdim) {
  return pick(true, "max", x, dim, keepdim);
}
ValuesIndices min(const Tensor& x, int64_t dim, bool keepdim) {
  return pick(false, "min", x, dim, keepdim);
}
Tensor argmax(const Tensor& x, int64_t dim, bool keepdim) {
  return arg(true, "argmax", x, dim, keepdim);
}
Tensor argmin(const Tensor& x, int64_t dim, bool keepdim) {
  return arg(false, "argmin", x, dim, keepdim);
}

ValuesIndices sort(const Tensor& x, int64_t dim, bool descending) {
  return along_last(x, dim, "sort", [descending](const Tensor& t) {
    Tensor v = empty_like(t), i = empty(t.sizes(), {kInt64, t.device()});
    run<kernels::sort>(t.device(), t.in(), descending, v.out(), i.out());
    return i;
  });
}
Tensor argsort(const Tensor& x, int64_t dim, bool descending) {
  return sort(x.detach(), dim, descending).indices;
}

ValuesIndices topk(const Tensor& x, int64_t k, int64_t dim, bool largest) {
  const int64_t n = x.dim() ? x.size(dim) : 1;
  if (k < 0 || k > n) fail<IndexError>({"topk: k is ", k, ", dimension ", dim, " has ", n});
  return along_last(x, dim, "topk", [k, largest](const Tensor& t) {
    Shape s = t.sizes();
    s[s.size() - 1] = k;
    Tensor v = empty(s, t.options()), i = empty(s, {kInt64, t.device()});
    run<kernels::topk>(t.device(), t.in(), k, largest, v.out(), i.out());
    return i;
  });
}

// --- scans

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

// --- softmax

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

Tensor Tensor::sum() const { return dropin::sum(*this); }
Tensor Tensor::sum(const Shape& dims, bool keepdim) const {
  return dropin::sum(*this, dims, keepdim);
}
Tensor Tensor::mean() const { return dropin::mean(*this); }
Tensor Tensor::mean(const Shape& dims, bool keepdim) const {
  return dropin::mean(*this, dims, keepdim);
}
Tensor Tensor::prod(const Shape& dims, bool keepdim) const {
  return dropin::prod(*this, dims, keepdim);
}
Tensor Tensor::amax(const Shape& dims, bool keepdim) const {
  return dropin::amax(*this, dims, keepdim);
}
Tensor Tensor::amin(const Shape& dims, bool keepdim) const {
  return dropin::amin(*this, dims, keepdim);
}
Tensor Tensor::var(const Shape& dims, double correction, bool keepdim) const {
  return dropin::var(*this, dims, correction, keepdim);
}
Tensor Tensor::std(const Shape& dims, double correction, bool keepdim) const {
  return std_dev(*this, dims, correction, keepdim);
}
Tensor Tensor::norm(const Shape& dims, bool keepdim) const {
  return dropin::norm(*this, dims, keepdim);
}
Tensor Tensor::argmax(int64_t dim, bool keepdim) const {
  return dropin::argmax(*this, dim, keepdim);
}
Tensor Tensor::argmin(int64_t dim, bool keepdim) const {
  return dropin::argmin(*this, dim, keepdim);
}
Tensor Tensor::softmax(int64_t dim) const { return dropin::softmax(*this, dim); }

}  // namespace dropin
