// Functions of PyTorch that are others of this room put together.
#include <cmath>
#include <limits>

#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin {

Tensor add(const Tensor& a, const Scalar& b) { return a + b; }
Tensor sub(const Tensor& a, const Scalar& b) { return a - b; }
Tensor mul(const Tensor& a, const Scalar& b) { return a * b; }
Tensor div(const Tensor& a, const Scalar& b) { return a / b; }

Tensor fmod(const Tensor& a_in, const Tensor& b_in) {
  const DType t = result_type(a_in, b_in);
  const Tensor a = a_in.to(t), b = b_in.to(t);
  ops_detail::need_floating("fmod", a);
  const Tensor below = a < 0, rest = remainder(where(below, -a, a), where(b < 0, -b, b));
  return where(below, -rest, rest);
}
Tensor logaddexp(const Tensor& a, const Tensor& b) {
  const Tensor top = maximum(a, b).detach();
  // equal infinities have no difference
  const Tensor base = where(isfinite(top), top, zeros_like(top));
  return base + log(exp(a - base) + exp(b - base));
}
Tensor lerp(const Tensor& a, const Tensor& b, const Scalar& weight) { return a + (b - a) * weight; }
Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& weight) { return a + (b - a) * weight; }
Tensor addcmul(const Tensor& x, const Tensor& a, const Tensor& b, const Scalar& value) {
  return x + a * b * value;
}
Tensor addcdiv(const Tensor& x, const Tensor& a, const Tensor& b, const Scalar& value) {
  return x + a / b * value;
}

// At the bound the slope is 0, as clamp()'s.
Tensor clamp_min(const Tensor& x, const Scalar& lo) {
  if (std::isnan(lo.to_double())) return clamp(x, lo, lo);
  return where(x <= lo, lo, x);
}
Tensor clamp_max(const Tensor& x, const Scalar& hi) {
  if (std::isnan(hi.to_double())) return clamp(x, hi, hi);
  return where(x >= hi, hi, x);
}
Tensor nan_to_num(const Tensor& x, double nan, std::optional<double> posinf,
                  std::optional<double> neginf) {
  if (!is_floating(x.dtype())) return x;
  const double most = x.dtype() == kFloat64    ? std::numeric_limits<double>::max()
                      : x.dtype() == kFloat16  ? 65504
                      : x.dtype() == kBFloat16 ? 0x1.FEp127
                                               : std::numeric_limits<float>::max();
  const Tensor y = where(isnan(x), nan, x), big = isinf(x);
  return where(big & (y > 0), posinf.value_or(most),
               where(big & (y < 0), neginf.value_or(-most), y));
}

Tensor prelu(const Tensor& x, const Tensor& weight) {
  const int64_t n = weight.numel();
  DROPIN_CHECK(weight.dim() < 2 && (n == 1 || (x.dim() > 1 && x.size(1) == n)), ShapeError,
               "prelu: weight is ", weight.sizes(), " for x ", x.sizes(),
               ", expected [1] or one per channel of x [B, C, *]");
  Shape along;
  for (int64_t d = 0; n > 1 && d < x.dim(); ++d) along.push_back(d == 1 ? n : 1);
  return where(x > 0, x, x * weight.reshape(along));
}

namespace {
void need_dimensions(const char* who, const Tensor& a, int64_t da, const Tensor& b, int64_t db) {
  DROPIN_CHECK(a.dim() == da && b.dim() == db, ShapeError, who, ": tensors of ", a.sizes(), " and ",
               b.sizes(), ", expected ", da, " and ", db, " dimensions");
}
}  // namespace

Tensor mm(const Tensor& a, const Tensor& b) {
  need_dimensions("mm", a, 2, b, 2);
  return matmul(a, b);
}
Tensor mv(const Tensor& a, const Tensor& b) {
  need_dimensions("mv", a, 2, b, 1);
  return matmul(a, b);
}
Tensor dot(const Tensor& a, const Tensor& b) {
  need_dimensions("dot", a, 1, b, 1);
  return matmul(a, b);
}
Tensor outer(const Tensor& a, const Tensor& b) {
  need_dimensions("outer", a, 1, b, 1);
  return a.unsqueeze(1) * b.unsqueeze(0);
}
Tensor addmm(const Tensor& x, const Tensor& a, const Tensor& b, const Scalar& beta,
             const Scalar& alpha) {
  const Tensor y = mm(a, b) * alpha;
  return beta.to_double() == 0 ? y : x * beta + y;
}
Tensor baddbmm(const Tensor& x, const Tensor& a, const Tensor& b, const Scalar& beta,
               const Scalar& alpha) {
  const Tensor y = bmm(a, b) * alpha;
  return beta.to_double() == 0 ? y : x * beta + y;
}

Tensors unbind(const Tensor& x, int64_t dim) {
  Tensors r;
  for (int64_t i = 0; i < x.size(dim); ++i) r.push_back(x.select(dim, i));
  return r;
}
Tensor movedim(const Tensor& x, int64_t from, int64_t to) {
  const int a = wrap_dim(from, x.dim(), "movedim"), b = wrap_dim(to, x.dim(), "movedim");
  Shape order;
  for (int i = 0; i < x.dim(); ++i)
    if (i != a) order.push_back(i);
  if (x.dim() > 0) order.insert(b, a);
  return x.permute(order);
}
Tensor diag(const Tensor& x, int64_t diagonal) {
  if (x.dim() == 2) return x.diagonal(diagonal).clone();
  DROPIN_CHECK(x.dim() == 1, ShapeError, "diag: x is ", x.sizes(), ", expected [n] or [n, m]");
  const int64_t n = x.numel() + (diagonal < 0 ? -diagonal : diagonal);
  const Tensor row = arange(n).to(x.device()).unsqueeze(1), column = row.t();
  const Tensor padded = pad(x, {diagonal > 0 ? diagonal : 0, diagonal < 0 ? -diagonal : 0});
  return where(column - row == diagonal, padded.unsqueeze(0), 0);
}

Tensor max(const Tensor& x) { return amax(x); }
Tensor min(const Tensor& x) { return amin(x); }
Tensor argmax(const Tensor& x) { return argmax(x.reshape({-1}), 0); }
Tensor argmin(const Tensor& x) { return argmin(x.reshape({-1}), 0); }

}  // namespace dropin
