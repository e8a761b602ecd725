// Views, recorded.
#include <algorithm>

#include "autograd/tape.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin {

namespace {

using detail::alias;

// A view of x, recorded.
template <class F>
Tensor viewed(const char* name, Tensor view, const Tensor& x, F&& backward) {
  Tensor y = record(name, std::move(view), {x}, {}, std::forward<F>(backward));
  detail::link_view(y, x);
  return y;
}

// dst += g on a strided part of a zero tensor: the backward of a view that drops elements.
template <class View>
Tensor pasted(const Tensor& g, const Shape& sizes, View&& view) {
  if (grad_enabled()) {  // second derivatives: pasting is linear, and its own gradient is the view
    Tensor raw;
    {
      no_grad guard;
      raw = pasted(g.detach(), sizes, view);
    }
    return record("paste", raw, {g}, {},
                  [view](const Saved&, const Tensor& gg) -> Tensors { return {view(gg)}; });
  }
  Tensor r = zeros(sizes, g.options());
  Tensor part = view(r);
  run<kernels::copy>(g.device(), g.in(), part.out());
  return r;
}

}  // namespace

Tensor Tensor::slice(int64_t dim_, int64_t start, int64_t end, int64_t step) const {
  const int d = wrap_dim(dim_, dim(), "slice");
  if (dim() == 0) fail<IndexError>({"slice: a scalar has no dimension to slice"});
  if (step <= 0) fail<IndexError>({"slice: step is ", step, ", expected at least 1"});
  const int64_t n = sizes()[d];
  if (start < 0) start += n;
  if (end < 0) end += n;
  start = std::clamp<int64_t>(start, 0, n);
  end = std::clamp<int64_t>(end, start, n);
  Shape s = sizes(), st = strides();
  s[d] = (end - start + step - 1) / step;
  const int64_t offset = storage_offset() + start * st[d];
  st[d] *= step;
  return viewed(
      "slice", alias(*this, s, st, offset), *this,
      [d, start, end, step, sizes = sizes()](const Saved&, const Tensor& g) -> Tensors {
        return {pasted(g, sizes, [=](const Tensor& t) { return t.slice(d, start, end, step); })};
      });
}

Tensor Tensor::narrow(int64_t dim_, int64_t start, int64_t length) const {
  const int64_t n = size(dim_);
  if (start < 0) start += n;
  if (start < 0 || length < 0 || start > n - length)
    fail<IndexError>(
        {"narrow: ", length, " elements from ", start, " of dimension ", dim_, ", which has ", n});
  return slice(dim_, start, start + length);
}

Tensor Tensor::select(int64_t dim_, int64_t index) const {
  const int d = wrap_dim(dim_, dim(), "select");
  const int64_t n = size(d);
  if (index < -n || index >= n)
    fail<IndexError>(
        {"select: index ", index, " is out of range for dimension ", dim_, " of size ", n});
  if (index < 0) index += n;
  Shape s = sizes(), st = strides();
  const int64_t offset = storage_offset() + index * st[d];
  s.erase(d);
  st.erase(d);
  return viewed("select", alias(*this, s, st, offset), *this,
                [d, index, sizes = sizes()](const Saved&, const Tensor& g) -> Tensors {
                  return {pasted(g, sizes, [=](const Tensor& t) { return t.select(d, index); })};
                });
}

Tensor Tensor::transpose(int64_t d0, int64_t d1) const {
  const int a = wrap_dim(d0, dim(), "transpose"), b = wrap_dim(d1, dim(), "transpose");
  Shape s = sizes(), st = strides();
  if (dim()) {
    std::swap(s[a], s[b]);
    std::swap(st[a], st[b]);
  }
  return viewed("transpose", alias(*this, s, st, storage_offset()), *this,
                [a, b](const Saved&, const Tensor& g) -> Tensors { return {g.transpose(a, b)}; });
}

Tensor Tensor::permute(const Shape& dims) const {
  if (dims.size() != dim())
    fail<ShapeError>({"permute: dims ", dims, " for a tensor of ", dim(), " dimensions"});
  Shape s = sizes(), st = strides(), inverse = dims;
  std::uint32_t seen = 0;
  for (int i = 0; i < dims.size(); ++i) {
    const int d = wrap_dim(dims[i], dim(), "permute");
    if (seen >> d & 1) fail<ShapeError>({"permute: dims ", dims, " repeat dimension ", d});
    seen |= 1u << d;
    s[i] = sizes()[d];
    st[i] = strides()[d];
    inverse[d] = i;
  }
  return viewed(
      "permute", alias(*this, s, st, storage_offset()), *this,
      [inverse](const Saved&, const Tensor& g) -> Tensors { return {g.permute(inverse)}; });
}

Tensor Tensor::expand(const Shape& want) const {
  const int lead = want.size() - static_cast<int>(dim());
  if (lead < 0) fail<ShapeError>({"expand: ", sizes(), " cannot become ", want});
  Shape s = want;
  for (int i = 0; i < want.size(); ++i) {
    const int64_t have = i < lead ? 1 : sizes()[i - lead];
    if (s[i] == -1 && i >= lead) s[i] = have;
    if (s[i] < 0 || (have != s[i] && have != 1))
      fail<ShapeError>({"expand: ", sizes(), " cannot become ", want});
  }
  if (s == sizes()) return *this;
  return viewed(
      "expand", detail::broadcast_to(detach(), s), *this,
      [sizes = sizes()](const Saved&, const Tensor& g) -> Tensors { return {sum_to(g, sizes)}; });
}

Tensor Tensor::unsqueeze(int64_t dim_) const {
  const int d = wrap_dim(dim_, dim() + 1, "unsqueeze");
  Shape s = sizes(), st = strides();
  st.insert(d, d < dim() ? s[d] * st[d] : 1);
  s.insert(d, 1);
  return viewed("unsqueeze", alias(*this, s, st, storage_offset()), *this,
                [d](const Saved&, const Tensor& g) -> Tensors { return {g.squeeze(d)}; });
}

Tensor Tensor::squeeze(int64_t dim_) const {
  const int d = wrap_dim(dim_, dim(), "squeeze");
  if (dim() == 0 || sizes()[d] != 1) return *this;
  Shape s = sizes(), st = strides();
  s.erase(d);
  st.erase(d);
  return viewed("squeeze", alias(*this, s, st, storage_offset()), *this,
                [d](const Saved&, const Tensor& g) -> Tensors { return {g.unsqueeze(d)}; });
}

namespace {

Shape resolve_sizes(const Shape& have, Shape want, const char* who) {
  int64_t known = 1, n = have.numel();
  int free = -1;
  for (int i = 0; i < want.size(); ++i) {
    if (want[i] == -1) {
      if (free >= 0) fail<ShapeError>({who, ": more than one -1 in ", want});
      free = i;
    } else if (want[i] < 0 || __builtin_mul_overflow(known, want[i], &known)) {
      fail<ShapeError>({who, ": ", want, " is not a shape"});
    }
  }
  if (free >= 0) {
    if (known == 0 || n % known) fail<ShapeError>({who, ": ", have, " cannot become ", want});
    want[free] = n / known;
  } else if (known != n) {
    fail<ShapeError>(
        {who, ": ", have, " (", n, " elements) cannot become ", want, " (", known, ")"});
  }
  return want;
}

// Strides that show `t` with other sizes without copying; false when there are none.
bool view_strides(const Tensor& t, const Shape& want, Shape& strides) {
  if (t.is_contiguous()) {
    strides = contiguous_strides(want);
    return true;
  }
  // Runs of old dims that are evenly strided must each be filled exactly by new dims, innermost
  // first.
  strides = want;
  int next = want.size() - 1;
  int64_t run_size = 1, filled = 1, step = t.strides().back();
  for (int d = static_cast<int>(t.dim()) - 1; d >= 0; --d) {
    run_size *= t.sizes()[d];
    if (d > 0 && (t.sizes()[d - 1] == 1 || t.strides()[d - 1] == run_size * step)) continue;
    while (next >= 0 && (filled < run_size || want[next] == 1)) {
      strides[next] = filled * step;
      filled *= want[next--];
    }
    if (filled != run_size) return false;
    if (d > 0) step = t.strides()[d - 1];
    run_size = filled = 1;
  }
  return next < 0;
}

}  // namespace

Tensor Tensor::view(const Shape& want) const {
  const Shape s = resolve_sizes(sizes(), want, "view");
  if (s == sizes()) return *this;
  Shape st;
  if (!view_strides(*this, s, st))
    fail<ShapeError>({"view: ", sizes(), " with strides ", strides(), " cannot be seen as ", s,
                      " without a copy; use reshape"});
  return viewed(
      "view", alias(*this, s, st, storage_offset()), *this,
      [sizes = sizes()](const Saved&, const Tensor& g) -> Tensors { return {g.reshape(sizes)}; });
}

Tensor Tensor::reshape(const Shape& want) const {
  const Shape s = resolve_sizes(sizes(), want, "reshape");
  Shape st;
  return view_strides(*this, s, st) ? view(s) : clone().view(s);
}

Tensor Tensor::flatten(int64_t start, int64_t end) const {
  if (dim() == 0) return reshape({1});
  const int a = wrap_dim(start, dim(), "flatten"), b = wrap_dim(end, dim(), "flatten");
  if (a > b) fail<IndexError>({"flatten: start ", start, " comes after end ", end});
  Shape s;
  for (int i = 0; i < a; ++i) s.push_back(sizes()[i]);
  int64_t n = 1;
  for (int i = a; i <= b; ++i) n *= sizes()[i];
  s.push_back(n);
  for (int i = b + 1; i < dim(); ++i) s.push_back(sizes()[i]);
  return reshape(s);
}

Tensor Tensor::unfold(int64_t dim_, int64_t size, int64_t step) const {
  const int d = wrap_dim(dim_, dim(), "unfold");
  const int64_t n = dim() ? sizes()[d] : 1;
  if (size < 0 || size > n || step <= 0)
    fail<ShapeError>({"unfold: windows of ", size, " every ", step, " over dimension ", dim_,
                      ", which has ", n});
  Shape s = sizes(), st = strides();
  s[d] = (n - size) / step + 1;
  s.push_back(size);
  st.push_back(st[d]);
  st[d] *= step;
  return viewed(
      "unfold", alias(*this, s, st, storage_offset()), *this,
      [d, size, step, n](const Saved&, const Tensor& g) -> Tensors {
        // element i of window w came from position w * step + i
        const int64_t windows = g.size(d);
        Tensor index = empty({windows * size}, kInt64);
        for (int64_t w = 0, k = 0; w < windows; ++w)
          for (int64_t i = 0; i < size; ++i) index.data<int64_t>()[k++] = w * step + i;
        Shape order;
        for (int i = 0; i <= d; ++i) order.push_back(i);
        order.push_back(g.dim() - 1);
        for (int i = d + 1; i < g.dim() - 1; ++i) order.push_back(i);
        Tensor flat = g.permute(order).flatten(d, d + 1);
        Shape full = flat.sizes();
        full[d] = n;
        return {dropin::index_add(zeros(full, g.options()), d, index.to(g.device()), flat)};
      });
}

Tensor Tensor::diagonal(int64_t offset, int64_t d0, int64_t d1) const {
  const int a = wrap_dim(d0, dim(), "diagonal"), b = wrap_dim(d1, dim(), "diagonal");
  if (a == b) fail<IndexError>({"diagonal: the two dimensions are the same"});
  Shape s = sizes(), st = strides();
  const int64_t n = std::max<int64_t>(
      0, offset >= 0 ? std::min(s[a], s[b] - offset) : std::min(s[a] + offset, s[b]));
  const int64_t at = storage_offset() + (n == 0        ? 0
                                         : offset >= 0 ? offset * st[b]
                                                       : -offset * st[a]);
  const int64_t step = st[a] + st[b];
  s.erase(std::max(a, b));
  st.erase(std::max(a, b));
  s.erase(std::min(a, b));
  st.erase(std::min(a, b));
  s.push_back(n);
  st.push_back(step);
  return viewed(
      "diagonal", alias(*this, s, st, at), *this,
      [=, sizes = sizes()](const Saved&, const Tensor& g) -> Tensors {
        return {pasted(g, sizes, [=](const Tensor& t) { return t.diagonal(offset, a, b); })};
      });
}

Tensor Tensor::flip(const Shape& dims) const { return dropin::flip(*this, dims); }

}  // namespace dropin
