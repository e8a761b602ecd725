// Extremes and orders with their indices.
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/reduce/kernel.h"
#include "kernels/sort/kernel.h"
#include "ops/common.h"

namespace dropin {
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

}  // namespace dropin
