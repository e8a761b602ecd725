// Tensors joined, parted, padded and repeated.
#include "dropin/ops/shape.h"

#include "autograd/tape.h"
#include "dropin/ops/reduce.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::need_int64;
using ops_detail::same_device;

Tensor concat(const Tensors& xs, int64_t dim) {
  if (xs.empty()) fail<ShapeError>({"concat: no tensors"});
  const int d = wrap_dim(dim, xs[0].dim(), "concat");
  if (xs[0].dim() == 0) fail<ShapeError>({"concat: scalars cannot be joined; use stack"});
  DType t = xs[0].dtype();
  Shape sizes = xs[0].sizes();
  sizes[d] = 0;
  for (std::size_t i = 0; i < xs.size(); ++i) {
    same_device("concat", xs[0], xs[i]);
    t = promote(t, xs[i].dtype());
    Shape s = xs[i].sizes();
    if (s.size() == sizes.size()) {
      sizes[d] += s[d];
      s[d] = xs[0].sizes()[d];
    }
    if (!(s == xs[0].sizes()))
      fail<ShapeError>({"concat: tensor ", i, " is ", xs[i].sizes(), ", which does not fit ",
                        xs[0].sizes(), " outside dimension ", d});
  }
  Tensor y = empty(sizes, {t, xs[0].device()});
  std::vector<int64_t> lengths;
  Tensors inputs;
  int64_t at = 0;
  for (const Tensor& x : xs) {
    inputs.push_back(x.to(t));
    const int64_t n = x.sizes()[d];
    lengths.push_back(n);
    Tensor part =
        detail::alias(y, x.sizes(), y.strides(), y.storage_offset() + at * y.strides()[d]);
    run<kernels::copy>(y.device(), x.in(), part.out());
    at += n;
  }
  return record("concat", y, inputs.data(), inputs.size(), nullptr, 0,
                [d, lengths](const Saved& s, const Tensor& g) {
                  Tensors gx(lengths.size());
                  int64_t start = 0;
                  for (std::size_t i = 0; i < lengths.size(); ++i) {
                    if (s.needs(static_cast<int>(i))) gx[i] = g.narrow(d, start, lengths[i]);
                    start += lengths[i];
                  }
                  return gx;
                });
}

Tensor stack(const Tensors& xs, int64_t dim) {
  if (xs.empty()) fail<ShapeError>({"stack: no tensors"});
  Tensors r;
  for (std::size_t i = 0; i < xs.size(); ++i) {
    if (!(xs[i].sizes() == xs[0].sizes()))
      fail<ShapeError>({"stack: tensor ", i, " is ", xs[i].sizes(), ", the first ", xs[0].sizes()});
    r.push_back(xs[i].unsqueeze(dim));
  }
  return concat(r, dim);
}

Tensors split(const Tensor& x, const Shape& sizes, int64_t dim) {
  if (sizes.numel() >= 0 && [&] {
        int64_t total = 0;
        for (int64_t n : sizes) total += n;
        return total;
      }() != x.size(dim))
    fail<ShapeError>({"split: parts ", sizes, " of dimension ", dim, ", which has ", x.size(dim)});
  Tensors r;
  int64_t at = 0;
  for (int64_t n : sizes) {
    r.push_back(x.narrow(dim, at, n));
    at += n;
  }
  detail::several_views(r);
  return r;
}

Tensors split(const Tensor& x, int64_t size, int64_t dim) {
  if (size <= 0) fail<ShapeError>({"split: size is ", size, ", expected at least 1"});
  const int64_t n = x.size(dim);
  Tensors r;
  for (int64_t at = 0; at < n || at == 0; at += size)
    r.push_back(x.narrow(dim, at, std::min(size, n - at)));
  detail::several_views(r);
  return r;
}

Tensors chunk(const Tensor& x, int64_t chunks, int64_t dim) {
  if (chunks <= 0) fail<ShapeError>({"chunk: chunks is ", chunks, ", expected at least 1"});
  return split(x, std::max<int64_t>(1, (x.size(dim) + chunks - 1) / chunks), dim);
}

Tensor pad(const Tensor& x, const Shape& pads, double value) {
  if (pads.size() % 2 || pads.size() > 2 * x.dim())
    fail<ShapeError>({"pad: ", pads, " for a tensor of ", x.dim(),
                      " dimensions; expected {left, right} pairs from the last one"});
  Shape sizes = x.sizes();
  int64_t offset = 0;
  Tensor inner = x;
  for (int i = 0; i < pads.size() / 2; ++i) {
    const int d = static_cast<int>(x.dim()) - 1 - i;
    const int64_t left = pads[2 * i], right = pads[2 * i + 1];
    if (sizes[d] + left + right < 0)
      fail<ShapeError>({"pad: ", pads, " leaves a negative size of ", x.sizes()});
    sizes[d] += left + right;
    if (left < 0 || right < 0)
      inner =
          inner.narrow(d, std::max<int64_t>(-left, 0),
                       inner.size(d) + std::min<int64_t>(left, 0) + std::min<int64_t>(right, 0));
  }
  Tensor y = full(sizes, value, x.options());
  for (int i = 0; i < pads.size() / 2; ++i)
    offset += std::max<int64_t>(pads[2 * i], 0) * y.strides()[static_cast<int>(x.dim()) - 1 - i];
  Tensor part = detail::alias(y, inner.sizes(), y.strides(), offset);
  run<kernels::copy>(y.device(), inner.in(), part.out());
  Shape back = pads;
  for (int64_t& p : back) p = -p;
  return record("pad", y, {x}, {},
                [back](const Saved&, const Tensor& g) -> Tensors { return {pad(g, back, 0)}; });
}

Tensor flip(const Tensor& x, const Shape& dims) {
  Tensor y = x;
  for (int64_t d : dims) {
    const int64_t n = y.size(d);
    Tensor index = empty({n}, kInt64);
    for (int64_t i = 0; i < n; ++i) index.data<int64_t>()[i] = n - 1 - i;
    y = index_select(y, d, index.to(x.device()));
  }
  return y;
}

Tensor roll(const Tensor& x, int64_t shift, int64_t dim) {
  const int64_t n = x.size(dim);
  if (n == 0) return x;
  shift = ((shift % n) + n) % n;
  if (!shift) return x;
  return concat({x.narrow(dim, n - shift, shift), x.narrow(dim, 0, n - shift)}, dim);
}

Tensor repeat(const Tensor& x, const Shape& repeats) {
  const int lead = repeats.size() - static_cast<int>(x.dim());
  if (lead < 0)
    fail<ShapeError>({"repeat: ", repeats, " for a tensor of ", x.dim(), " dimensions"});
  Tensor y = x;
  for (int i = 0; i < lead; ++i) y = y.unsqueeze(0);
  for (int i = 0; i < repeats.size(); ++i) {
    if (repeats[i] < 0) fail<ShapeError>({"repeat: negative count in ", repeats});
    if (repeats[i] == 1) continue;
    Shape s = y.sizes();
    s.insert(i, repeats[i]);
    y = y.unsqueeze(i).expand(s).flatten(i, i + 1);
  }
  return y;
}

Tensor repeat_interleave(const Tensor& x, int64_t repeats, int64_t dim) {
  if (x.dim() == 0)
    fail<ShapeError>({"repeat_interleave: x is [], expected at least one dimension"});
  const int d = wrap_dim(dim, x.dim(), "repeat_interleave");
  if (repeats < 0) fail<ShapeError>({"repeat_interleave: repeats is ", repeats});
  Shape s = x.sizes();
  s.insert(d + 1, repeats);
  return x.unsqueeze(d + 1).expand(s).flatten(d, d + 1);
}

namespace {

// True where column - row <= diagonal.
Tensor lower_mask(int64_t rows, int64_t columns, int64_t diagonal, const Device& device) {
  const Tensor r = arange(rows).to(device).unsqueeze(1),
               c = arange(columns).to(device).unsqueeze(0);
  return c - r <= diagonal;
}
void need_matrix(const char* who, const Tensor& x) {
  if (x.dim() < 2) fail<ShapeError>({who, ": expected at least 2 dimensions, got ", x.sizes()});
}

}  // namespace

Tensor tril(const Tensor& x, int64_t diagonal) {
  need_matrix("tril", x);
  return where(lower_mask(x.size(-2), x.size(-1), diagonal, x.device()), x, 0);
}
Tensor triu(const Tensor& x, int64_t diagonal) {
  need_matrix("triu", x);
  return where(lower_mask(x.size(-2), x.size(-1), diagonal - 1, x.device()), 0, x);
}

Tensor one_hot(const Tensor& index, int64_t classes) {
  need_int64("one_hot", "the index", index);
  Shape s = index.sizes();
  s.push_back(classes);
  return scatter(zeros(s, index.options()), -1, index.unsqueeze(-1),
                 ones(index.unsqueeze(-1).sizes(), index.options()));
}

}  // namespace dropin
