// Elements and rows picked, scattered and added by their index.
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/index/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::indexed;
using ops_detail::need_int64;
using ops_detail::same_device;

void ops_detail::out_of_range(const char* who, const char* what, const Tensor& index, int64_t n,
                              int64_t ignored) {
  const Tensor flat = index.detach().to(kCPU).contiguous();
  const int64_t* values = flat.data<int64_t>();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    if ((values[i] >= 0 && values[i] < n) || values[i] == ignored) continue;
    Shape place = flat.sizes();
    for (int64_t d = flat.dim() - 1, rest = i; d >= 0; --d) {
      const int64_t size = place[d];
      place[d] = rest % size;
      rest /= size;
    }
    fail<IndexError>(
        {who, ": ", what, " out of range: ", values[i], " at ", place, ", expected 0 to ", n - 1});
  }
  fail<IndexError>({who, ": ", what, " out of range"});
}

namespace {

void check_gather(const char* who, const Tensor& x, int d, const Tensor& index) {
  need_int64(who, "the index", index);
  same_device(who, x, index);
  bool fits = index.dim() == x.dim();
  for (int i = 0; fits && i < x.dim(); ++i) fits = i == d || index.sizes()[i] <= x.sizes()[i];
  if (!fits)
    fail<ShapeError>({who, ": the index is ", index.sizes(), " for a tensor ", x.sizes(),
                      " along dimension ", d});
}

// Conversion within a kind is fine; a float would lose its fraction in an integer.
void check_source(const char* who, const Tensor& x, const Tensor& src) {
  if (!can_cast(src.dtype(), x.dtype()))
    fail<DTypeError>({who, ": src is ", src.dtype(), ", the tensor ", x.dtype()});
}

Tensor scattered(const char* who, const Tensor& x, int64_t dim, const Tensor& index,
                 const Tensor& src_, bool add) {
  const int d = wrap_dim(dim, x.dim(), who);
  check_gather(who, x, d, index);
  check_source(who, x, src_);
  const Tensor src = src_.to(x.dtype());
  if (!(src.sizes() == index.sizes()))
    fail<ShapeError>({who, ": src is ", src.sizes(), ", the index ", index.sizes()});
  Tensor y = x.detach().clone();
  indexed(who, "index", index, x.dim() ? x.size(d) : 1,
          [&] { run<kernels::scatter>(x.device(), index.in(), src.in(), d, add, y.out()); });
  return record(who, y, {x, src}, {index}, [d, add](const Saved& s, const Tensor& g) -> Tensors {
    const Tensor i = s[0];
    return {add || !s.needs(0) ? g : scatter(g, d, i, zeros(i.sizes(), g.options())),
            s.needs(1) ? gather(g, d, i) : Tensor()};
  });
}

}  // namespace

Tensor gather(const Tensor& x, int64_t dim, const Tensor& index) {
  const int d = wrap_dim(dim, x.dim(), "gather");
  check_gather("gather", x, d, index);
  Tensor y = empty(index.sizes(), x.options());
  indexed("gather", "index", index, x.dim() ? x.size(d) : 1,
          [&] { run<kernels::gather>(x.device(), x.in(), d, index.in(), y.out()); });
  return record("gather", y, {x}, {index},
                [d, sizes = x.sizes()](const Saved& s, const Tensor& g) -> Tensors {
                  return {scatter_add(zeros(sizes, g.options()), d, s[0], g)};
                });
}

Tensor scatter(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src) {
  return scattered("scatter", x, dim, index, src, false);
}
Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src) {
  if (is_floating(x.dtype()) && item_size(x.dtype()) == 2)  // sums of 16 bits would stop growing
    return scattered("scatter_add", x.to(kFloat32), dim, index, src.to(kFloat32), true)
        .to(x.dtype());
  return scattered("scatter_add", x, dim, index, src, true);
}

Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index) {
  const int d = wrap_dim(dim, x.dim(), "index_select");
  need_int64("index_select", "the index", index);
  same_device("index_select", x, index);
  if (index.dim() != 1 || x.dim() == 0)
    fail<ShapeError>(
        {"index_select: the index is ", index.sizes(), ", expected [n], for a tensor ", x.sizes()});
  Shape s = x.sizes();
  s[d] = index.numel();
  Tensor y = empty(s, x.options());
  indexed("index_select", "index", index, x.size(d),
          [&] { run<kernels::index_select>(x.device(), x.in(), d, index.in(), y.out()); });
  return record("index_select", y, {x}, {index},
                [d, sizes = x.sizes()](const Saved& s, const Tensor& g) -> Tensors {
                  return {index_add(zeros(sizes, g.options()), d, s[0], g)};
                });
}

Tensor index_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src_) {
  const int d = wrap_dim(dim, x.dim(), "index_add");
  need_int64("index_add", "the index", index);
  same_device("index_add", x, index);
  check_source("index_add", x, src_);
  const Tensor src = src_.to(x.dtype());
  Shape want = x.sizes();
  if (want.size()) want[d] = index.numel();
  if (index.dim() != 1 || !(src.sizes() == want))
    fail<ShapeError>(
        {"index_add: src is ", src.sizes(), ", expected ", want, " for index ", index.sizes()});
  Tensor y = x.detach().clone();
  indexed("index_add", "index", index, x.dim() ? x.size(d) : 1,
          [&] { run<kernels::index_add>(x.device(), index.in(), src.in(), d, y.out()); });
  return record("index_add", y, {x, src}, {index}, [d](const Saved& s, const Tensor& g) -> Tensors {
    return {g, s.needs(1) ? index_select(g, d, s[0]) : Tensor()};
  });
}

Tensor nonzero(const Tensor& x) {
  const Tensor flat = x.detach().contiguous();
  Tensor all = empty({flat.numel()}, {kInt64, x.device()});
  int64_t count = 0;
  run<kernels::nonzero>(x.device(), flat.in(), all.out(), &count);
  Tensor positions = all.narrow(0, 0, count).to(kCPU), out = empty({count, x.dim()}, kInt64);
  for (int64_t i = 0; i < count; ++i) {
    int64_t p = positions.data<int64_t>()[i];
    for (int d = static_cast<int>(x.dim()) - 1; d >= 0; --d) {
      out.data<int64_t>()[i * x.dim() + d] = p % x.sizes()[d];
      p /= x.sizes()[d];
    }
  }
  return out.to(x.device());
}

Tensor masked_select(const Tensor& x, const Tensor& mask) {
  if (mask.dtype() != kBool)
    fail<DTypeError>({"masked_select: the mask is ", mask.dtype(), ", expected bool"});
  const Shape sizes = broadcast_shapes(x.sizes(), mask.sizes(), "masked_select");
  const Tensor m = mask.detach().expand(sizes).contiguous();
  Tensor all = empty({m.numel()}, {kInt64, x.device()});
  int64_t count = 0;
  run<kernels::nonzero>(x.device(), m.in(), all.out(), &count);
  return index_select(x.expand(sizes).reshape({-1}), 0, all.narrow(0, 0, count));
}

Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding_idx) {
  need_int64("embedding", "ids", ids);
  same_device("embedding", weight, ids);
  if (weight.dim() != 2)
    fail<ShapeError>(
        {"embedding: weight is ", weight.sizes(), ", expected [num_embeddings, embedding_dim]"});
  const Tensor flat = ids.detach().contiguous().reshape({-1});
  const int64_t rows = weight.size(0), width = weight.size(1);
  Shape sizes = ids.sizes();
  sizes.push_back(width);
  Tensor y = empty(sizes, weight.options());
  try {
    run<kernels::index_select>(weight.device(), weight.in(), 0, flat.in(),
                               y.view({flat.numel(), width}).out());
  } catch (const IndexError&) {
    fail<IndexError>({"embedding: index out of range: ids from ", amin(flat).item<int64_t>(),
                      " to ", amax(flat).item<int64_t>(), ", expected 0 to ", rows - 1,
                      " (num_embeddings = ", rows, ")"});
  }
  return record(
      "embedding", y, {weight}, {flat},
      [rows, width, padding_idx](const Saved& s, const Tensor& g) -> Tensors {
        Tensor gw = index_add(zeros({rows, width}, g.options()), 0, s[0], g.reshape({-1, width}));
        if (padding_idx >= 0) {
          const Tensor keep = ones({rows, 1}, g.options());
          keep.select(0, padding_idx).zero_();
          gw = gw * keep;
        }
        return {gw};
      });
}

}  // namespace dropin
