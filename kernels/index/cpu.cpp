// Indexing. Elements are moved as words of their size, so one instance serves every dtype of that
// size; only the adding kernels know types.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dropin/core/dtype.h"
#include "dropin/core/parallel.h"
#include "kernels/index/kernel.h"

namespace dropin::kernels {
namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

constexpr int64_t kGrain = 1 << 14;
constexpr const char* kRange = "index out of range";

/// Calls f with the unsigned type of the dtype's size.
template <class F>
void visit_size(DType t, F&& f) {
  switch (item_size(t)) {
    case 8:
      f(std::uint64_t{});
      break;
    case 4:
      f(std::uint32_t{});
      break;
    case 2:
      f(std::uint16_t{});
      break;
    default:
      f(std::uint8_t{});
  }
}

/// a + b as PyTorch adds: floats in their type, integers wrapping around, bool as or.
template <class T>
T sum(T a, T b) {
  if constexpr (std::is_same_v<T, bool>)
    return a || b;
  else if constexpr (std::is_integral_v<T>)
    return static_cast<T>(static_cast<std::make_unsigned_t<T>>(
        static_cast<std::make_unsigned_t<T>>(a) + static_cast<std::make_unsigned_t<T>>(b)));
  else
    return static_cast<T>(a + b);
}

/// An array as [outer, n, inner] around dimension dim, where outer and inner are odometers over
/// strided dims. Lines: the 1-d slices along dim, numbered in row-major order of the other dims.
class Lines {
 public:
  Lines(const TensorIn& shape, int dim) : ndim_(shape.ndim) {
    for (int i = 0; i < ndim_; ++i) sizes_[i] = i == dim ? 1 : shape.sizes[i];
    for (int i = 0; i < ndim_; ++i) count_ *= sizes_[i];
  }
  int64_t count() const { return count_; }
  /// Offset of line u in an array of these strides.
  int64_t offset(int64_t u, const TensorIn& t) const {
    int64_t at = 0;
    for (int i = ndim_ - 1; i >= 0; --i) {
      if (sizes_[i] == 1) continue;
      at += u % sizes_[i] * t.strides[i];
      u /= sizes_[i];
    }
    return at;
  }

 private:
  int ndim_;
  int64_t sizes_[abi::kMaxDims], count_ = 1;
};

bool dim_fits(const TensorIn& t, int dim) { return dim >= 0 && dim < std::max(t.ndim, 1); }
int64_t length(const TensorIn& t, int dim) { return t.ndim ? t.sizes[dim] : 1; }
int64_t stride(const TensorIn& t, int dim) { return t.ndim ? t.strides[dim] : 1; }

/// index fits within t but along dim, so that every line of index is (the beginning of) a line of
/// t.
bool lines_fit(const TensorIn& index, const TensorIn& t, int dim) {
  if (index.ndim != t.ndim) return false;
  for (int i = 0; i < t.ndim; ++i)
    if (i != dim && index.sizes[i] > t.sizes[i]) return false;
  return true;
}

bool same_sizes(const TensorIn& a, const TensorIn& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i)
    if (a.sizes[i] != b.sizes[i]) return false;
  return true;
}

/// Walks an index array in blocks of [n along dim] x [some places of another dimension, `across`].
/// Blocks touch different lines, so they run at once. Every line is walked in index order; of the
/// two loops the inner one is that of the smaller stride, so that memory is read in order whatever
/// dim is.
class Blocks {
 public:
  Blocks(const TensorIn& index, int dim)
      : index_(index), dim_(dim), n_(length(index, dim)), outer_(index, dim) {
    for (int i = 0; i < index.ndim; ++i)
      if (i != dim && index.sizes[i] > 1) across_ = i;
    if (across_ < 0) return;
    TensorIn rest = index;
    rest.sizes[across_] = 1;
    outer_ = Lines(rest, dim);
    m_ = index.sizes[across_];
    along_first_ = index.strides[dim] <= index.strides[across_];
  }
  /// visit(index, offset of the line in `picked`, offset of the element in `each`) for every
  /// element of the index.
  template <class Visit>
  void walk(const TensorIn& picked, const TensorIn& each, Visit visit) const {
    const int64_t si = stride(index_, dim_), se = stride(each, dim_);
    const int64_t ti = step(index_), tp = step(picked), te = step(each);
    const int64_t grain =
        std::max<int64_t>(along_first_ ? 1 : 16, kGrain / std::max<int64_t>(1, n_));
    parallel_for(outer_.count() * m_, grain, [&](int64_t u, int64_t end) {
      while (u < end) {
        const int64_t o = u / m_, j0 = u % m_, m = std::min(m_ - j0, end - u);
        const int64_t* p = index_.as<int64_t>() + outer_.offset(o, index_) + j0 * ti;
        const int64_t line = outer_.offset(o, picked) + j0 * tp,
                      element = outer_.offset(o, each) + j0 * te;
        if (along_first_)
          for (int64_t j = 0; j < m; ++j)
            for (int64_t i = 0; i < n_; ++i)
              visit(p[i * si + j * ti], line + j * tp, element + i * se + j * te);
        else
          for (int64_t i = 0; i < n_; ++i)
            for (int64_t j = 0; j < m; ++j)
              visit(p[i * si + j * ti], line + j * tp, element + i * se + j * te);
        u += m;
      }
    });
  }

 private:
  int64_t step(const TensorIn& t) const { return across_ < 0 ? 0 : t.strides[across_]; }

  const TensorIn& index_;
  int dim_, across_ = -1;
  int64_t n_, m_ = 1;
  bool along_first_ = true;
  Lines outer_;
};

bool indices_in_range(const TensorIn& index, int dim, int64_t limit) {
  const auto top = static_cast<std::uint64_t>(limit);
  std::atomic<bool> good{true};
  if (index.contiguous()) {
    const int64_t* p = index.as<int64_t>();
    parallel_for(index.numel(), kGrain, [&](int64_t i, int64_t end) {
      std::uint64_t most = 0;  // a negative index is a very large one
      for (; i < end; ++i) most = std::max(most, static_cast<std::uint64_t>(p[i]));
      if (most >= top) good.store(false, std::memory_order_relaxed);
    });
    return good.load() || index.numel() == 0;
  }
  Blocks(index, dim).walk(index, index, [&](int64_t i, int64_t, int64_t) {
    if (static_cast<std::uint64_t>(i) >= top) good.store(false, std::memory_order_relaxed);
  });
  return good.load();
}

Status gather_cpu(const abi::KernelContext&, const TensorIn& x, int dim, const TensorIn& index,
                  const TensorOut& y) {
  if (!dim_fits(x, dim) || !same_sizes(index, y) || !lines_fit(index, x, dim))
    return abi::failed("gather: sizes do not fit");
  if (index.dtype != DType::Int64 || x.dtype != y.dtype)
    return abi::unsupported("gather: types do not fit");
  if (!indices_in_range(index, dim, length(x, dim))) return abi::out_of_range(kRange);
  const Blocks blocks(index, dim);
  const int64_t sx = stride(x, dim);
  visit_size(x.dtype, [&](auto word) {
    using T = decltype(word);
    const T* from = x.as<T>();
    T* to = y.as<T>();
    blocks.walk(
        x, y, [=](int64_t i, int64_t line, int64_t element) { to[element] = from[line + i * sx]; });
  });
  return abi::ok();
}

/// op(y element, src element) for every element of index; within a line the order is kept.
template <class T, class Op>
void scatter_lines(const TensorIn& index, const TensorIn& src, int dim, const TensorOut& y, Op op) {
  const int64_t sy = stride(y, dim);
  const T* from = src.as<T>();
  T* to = y.as<T>();
  Blocks(index, dim).walk(y, src, [=](int64_t i, int64_t line, int64_t element) {
    op(to[line + i * sy], from[element]);
  });
}

Status scatter_cpu(const abi::KernelContext&, const TensorIn& index, const TensorIn& src, int dim,
                   bool add, const TensorOut& y) {
  if (!dim_fits(y, dim) || !lines_fit(index, y, dim) || !lines_fit(index, src, dim) ||
      length(index, dim) > length(src, dim))
    return abi::failed("scatter: sizes do not fit");
  if (index.dtype != DType::Int64 || src.dtype != y.dtype)
    return abi::unsupported("scatter: types do not fit");
  if (!indices_in_range(index, dim, length(y, dim))) return abi::out_of_range(kRange);
  if (add)
    visit_dtype(y.dtype, [&](auto v) {
      using T = decltype(v);
      scatter_lines<T>(index, src, dim, y, [](T& to, const T& from) { to = sum<T>(to, from); });
    });
  else
    visit_size(y.dtype, [&](auto v) {
      using T = decltype(v);
      scatter_lines<T>(index, src, dim, y, [](T& to, const T& from) { to = from; });
    });
  return abi::ok();
}

/// Dims after `dim` are one run of memory in t.
bool tail_contiguous(const TensorIn& t, int dim) {
  int64_t expect = 1;
  for (int i = t.ndim - 1; i > dim; --i) {
    if (t.sizes[i] != 1 && t.strides[i] != expect) return false;
    expect *= t.sizes[i];
  }
  return true;
}

/// The shared part of index_select and index_add: sizes of `big` and `small` agree but along dim,
/// where small has as many as index.
bool selects(const TensorIn& big, const TensorIn& small, int dim, const TensorIn& index) {
  if (!dim_fits(big, dim) || big.ndim != small.ndim || index.ndim > 1 ||
      length(small, dim) != index.numel())
    return false;
  for (int i = 0; i < big.ndim; ++i)
    if (i != dim && big.sizes[i] != small.sizes[i]) return false;
  return true;
}

/// [outer] x [along dim] x [inner]: views of an array on each side of dim.
TensorIn outer_of(const TensorIn& t, int dim) {
  TensorIn o = t;
  o.ndim = t.ndim ? dim : 0;
  return o;
}
TensorIn inner_of(const TensorIn& t, int dim) {
  TensorIn in = t;
  in.ndim = t.ndim ? t.ndim - dim - 1 : 0;
  for (int i = 0; i < in.ndim; ++i)
    in.sizes[i] = t.sizes[dim + 1 + i], in.strides[i] = t.strides[dim + 1 + i];
  return in;
}

/// A call of memcpy costs more than a few elements.
template <class T>
void copy_row(const T* from, int64_t n, T* to) {
  if (n > 8)
    return static_cast<void>(std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T)));
  for (int64_t k = 0; k < n; ++k) to[k] = from[k];
}

Status index_select_cpu(const abi::KernelContext&, const TensorIn& x, int dim,
                        const TensorIn& index, const TensorOut& y) {
  if (!selects(x, y, dim, index)) return abi::failed("index_select: sizes do not fit");
  if (index.dtype != DType::Int64 || x.dtype != y.dtype)
    return abi::unsupported("index_select: types do not fit");
  if (!indices_in_range(index, 0, length(x, dim))) return abi::out_of_range(kRange);
  const TensorIn outer = outer_of(x, dim), outer_y = outer_of(y, dim), inner = inner_of(x, dim),
                 inner_y = inner_of(y, dim);
  const Lines outs(outer, -1), ins(inner, -1);
  const int64_t n = index.numel(), width = ins.count(), si = stride(index, 0), sx = stride(x, dim),
                sy = stride(y, dim);
  const bool dense = tail_contiguous(x, dim) && tail_contiguous(y, dim);
  const int64_t* p = index.as<int64_t>();
  visit_size(x.dtype, [&](auto word) {
    using T = decltype(word);
    parallel_for(outs.count() * n, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)),
                 [&](int64_t u, int64_t end) {
                   while (u < end) {
                     const int64_t o = u / n, first = u % n, last = std::min(n, first + end - u);
                     const T* from = x.as<T>() + outs.offset(o, outer);
                     T* to = y.as<T>() + outs.offset(o, outer_y);
                     if (width == 1)
                       for (int64_t i = first; i < last; ++i) to[i * sy] = from[p[i * si] * sx];
                     else if (dense)
                       for (int64_t i = first; i < last; ++i)
                         copy_row(from + p[i * si] * sx, width, to + i * sy);
                     else
                       for (int64_t i = first; i < last; ++i)
                         for (int64_t k = 0; k < width; ++k)
                           to[i * sy + ins.offset(k, inner_y)] =
                               from[p[i * si] * sx + ins.offset(k, inner)];
                     u += last - first;
                   }
                 });
  });
  return abi::ok();
}

/// Threads own ranges of the columns (or outer slices), never of the index, so each sum is taken in
/// index order.
template <class T>
void add_rows(const TensorIn& index, const TensorIn& src, int dim, const TensorOut& y) {
  const TensorIn outer = outer_of(y, dim), outer_s = outer_of(src, dim), inner = inner_of(y, dim),
                 inner_s = inner_of(src, dim);
  const Lines outs(outer, -1), ins(inner, -1);
  const int64_t n = index.numel(), width = ins.count(), si = stride(index, 0), sy = stride(y, dim),
                ss = stride(src, dim);
  const bool dense = tail_contiguous(y, dim) && tail_contiguous(src, dim);
  const int64_t* p = index.as<int64_t>();
  parallel_for(outs.count() * width, std::max<int64_t>(16, kGrain / std::max<int64_t>(1, n)),
               [&](int64_t from, int64_t to) {
                 for (int64_t u = from; u < to;) {
                   const int64_t o = u / width, k0 = u % width, k1 = std::min(width, k0 + to - u);
                   T* base = y.as<T>() + outs.offset(o, outer);
                   const T* rows = src.as<T>() + outs.offset(o, outer_s);
                   for (int64_t i = 0; i < n; ++i) {
                     T* a = base + p[i * si] * sy;
                     const T* b = rows + i * ss;
                     if (dense)
                       for (int64_t k = k0; k < k1; ++k) a[k] = sum<T>(a[k], b[k]);
                     else
                       for (int64_t k = k0; k < k1; ++k) {
                         T& v = a[ins.offset(k, inner)];
                         v = sum<T>(v, b[ins.offset(k, inner_s)]);
                       }
                   }
                   u += k1 - k0;
                 }
               });
}

Status index_add_cpu(const abi::KernelContext&, const TensorIn& index, const TensorIn& src, int dim,
                     const TensorOut& y) {
  if (!selects(y, src, dim, index)) return abi::failed("index_add: sizes do not fit");
  if (index.dtype != DType::Int64 || src.dtype != y.dtype)
    return abi::unsupported("index_add: types do not fit");
  if (!indices_in_range(index, 0, length(y, dim))) return abi::out_of_range(kRange);
  visit_dtype(y.dtype, [&](auto v) { add_rows<decltype(v)>(index, src, dim, y); });
  return abi::ok();
}

/// -0.0 is zero, NaN is not.
template <class T>
bool non_zero(const T& v) {
  if constexpr (std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>)
    return (v.bits & 0x7fff) != 0;
  else
    return v != T(0);
}

template <class T>
int64_t positions(const T* x, int64_t n, int64_t* out) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    out[count] = i;  // without a branch; out is n long
    count += non_zero(x[i]);
  }
  return count;
}

Status nonzero_cpu(const abi::KernelContext&, const TensorIn& x, const TensorOut& out,
                   int64_t* count) {
  if (!x.contiguous() || !out.contiguous() || out.dtype != DType::Int64 || out.numel() < x.numel())
    return abi::failed("nonzero: out does not fit");
  if (x.dtype == DType::Boolean)
    *count = positions(x.as<std::uint8_t>(), x.numel(), out.as<int64_t>());
  else
    visit_dtype(x.dtype, [&](auto v) {
      using T = decltype(v);
      *count = positions(x.as<T>(), x.numel(), out.as<int64_t>());
    });
  return abi::ok();
}

}  // namespace

void provide_index_cpu(abi::KernelTable& t) {
  t.provide<gather>(&gather_cpu);
  t.provide<scatter>(&scatter_cpu);
  t.provide<index_select>(&index_select_cpu);
  t.provide<index_add>(&index_add_cpu);
  t.provide<nonzero>(&nonzero_cpu);
}

}  // namespace dropin::kernels
