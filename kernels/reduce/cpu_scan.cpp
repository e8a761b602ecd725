// Arg-reductions and scans along one dimension. x is seen as [outer, n, inner]: rows when inner is
// 1, else tiles of neighbouring columns.
#include <algorithm>
#include <cmath>
#include <limits>

#include "dropin/core/parallel.h"
#include "kernels/reduce/blocks.h"
#include "kernels/reduce/kernel.h"
#include "kernels/strided.h"

namespace dropin::kernels {
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

constexpr int64_t kTile = 256;  // columns carried at once

struct Planes {
  int64_t outer = 1, n = 1, inner = 1;
};
Planes planes(const TensorIn& x, int dim) {
  Planes p;
  p.n = x.sizes[dim];
  for (int i = 0; i < dim; ++i) p.outer *= x.sizes[i];
  for (int i = dim + 1; i < x.ndim; ++i) p.inner *= x.sizes[i];
  return p;
}

/// Calls f(offset of the first element, columns, flat index of the first result) over tiles of
/// columns.
template <class F>
void for_tiles(const Planes& p, F&& f) {
  const int64_t tiles = ceil_div(p.inner, kTile);
  const int64_t cost = p.n * std::min(kTile, p.inner);
  parallel_for(p.outer * tiles, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t) {
                   const int64_t o = t / tiles, column = t % tiles * kTile;
                   f(o * p.n * p.inner + column, std::min(kTile, p.inner - column),
                     o * p.inner + column);
                 }
               });
}

/// Index: as wide as T where it can be, so that value and place go through vectors of one shape.
template <class T, class Index>
void arg_columns(bool maximum, const T* x, const Planes& p, int64_t* y) {
  for_tiles(p, [&](int64_t at, int64_t columns, int64_t to) {
    T best[kTile];
    Index where[kTile];
    std::copy_n(x + at, columns, best);
    std::fill_n(where, columns, Index(0));
    for (int64_t r = 1; r < p.n; ++r) {
      const T* row = x + at + r * p.inner;
      for (int64_t j = 0; j < columns; ++j) {
        const T v = row[j], b = best[j];
        const bool wins = (b == b) & !(maximum ? v <= b : v >= b);  // negated: true for NaN
        best[j] = wins ? v : b;
        where[j] = wins ? static_cast<Index>(r) : where[j];
      }
    }
    std::copy_n(where, columns, y + to);
  });
}

Status arg_reduce_cpu(const KernelContext& context, bool maximum, const TensorIn& x, int dim,
                      const TensorOut& y) {
  if (dim < 0 || dim >= x.ndim || y.ndim != x.ndim || y.dtype != DType::Int64)
    return abi::failed("dim or y does not fit");
  for (int i = 0; i < x.ndim; ++i)
    if (y.sizes[i] != (i == dim ? 1 : x.sizes[i])) return abi::failed("sizes differ");
  if (y.numel() == 0) return abi::ok();
  if (x.sizes[dim] == 0) return abi::failed("empty dimension");
  if (is_half(x.dtype))
    return arg_reduce_cpu(context, maximum, Packed(x, DType::Float32).tensor, dim, y);
  if (x.dtype == DType::Boolean)
    return arg_reduce_cpu(context, maximum, Packed(x, DType::UInt8).tensor, dim, y);
  if (!x.contiguous()) return arg_reduce_cpu(context, maximum, Packed(x, x.dtype).tensor, dim, y);
  if (!y.contiguous()) {
    Packed dense(y, DType::Int64);
    arg_reduce_cpu(context, maximum, x, dim, dense.tensor);
    return copy_values(dense.tensor, y), abi::ok();
  }
  const Planes p = planes(x, dim);
  int64_t* out = y.as<int64_t>();
  if (p.inner == 1 && is_floating(x.dtype)) {
    const int64_t bytes = p.n * item_size(x.dtype);
    parallel_for(p.outer, std::max<int64_t>(1, kGrain / p.n), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o)
        out[o] = arg_row(x.dtype, maximum, x.as<char>() + o * bytes, p.n);
    });
    return abi::ok();
  }
  visit_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 8)
      arg_columns<T, int64_t>(maximum, x.as<T>(), p, out);
    else if constexpr (sizeof(T) != 2 && !std::is_same_v<T, bool>) {
      if (p.n <= std::numeric_limits<std::int32_t>::max())
        arg_columns<T, std::int32_t>(maximum, x.as<T>(), p, out);
      else
        arg_columns<T, int64_t>(maximum, x.as<T>(), p, out);
    }
  });
  return abi::ok();
}

/// log(e^a + e^b)
inline double log_add(double a, double b) {
  if (a != a || b != b) return a + b;
  const double hi = std::max(a, b), lo = std::min(a, b);
  return std::isinf(hi) ? hi : hi + std::log1p(std::exp(lo - hi));
}

template <class T, class Acc, class F>
void scan_lines(const T* x, T* y, const Planes& p, bool reverse, F&& step) {
  const int64_t move = reverse ? -p.inner : p.inner, start = reverse ? (p.n - 1) * p.inner : 0;
  for_tiles(p, [&](int64_t at, int64_t columns, int64_t) {
    Acc acc[kTile];
    const T* from = x + at + start;
    T* to = y + at + start;
    if (columns == 1) {  // the carried value stays in a register
      Acc a = static_cast<Acc>(*from);
      *to = static_cast<T>(a);
      for (int64_t r = 1; r < p.n; ++r) {
        a = step(a, static_cast<Acc>(from[r * move]));
        to[r * move] = static_cast<T>(a);
      }
      return;
    }
    for (int64_t j = 0; j < columns; ++j) acc[j] = static_cast<Acc>(from[j]), to[j] = from[j];
    for (int64_t r = 1; r < p.n; ++r)
      for (int64_t j = 0; j < columns; ++j) {
        acc[j] = step(acc[j], static_cast<Acc>(from[r * move + j]));
        to[r * move + j] = static_cast<T>(acc[j]);
      }
  });
}

Status scan_cpu(const KernelContext& context, Scan op, const TensorIn& x, int dim, bool reverse,
                const TensorOut& y) {
  if (dim < 0 || dim >= x.ndim || y.ndim != x.ndim ||
      !std::equal(x.sizes, x.sizes + x.ndim, y.sizes))
    return abi::failed("dim or sizes do not fit");
  if (y.numel() == 0) return abi::ok();
  if (x.dtype != y.dtype) return scan_cpu(context, op, Packed(x, y.dtype).tensor, dim, reverse, y);
  if (is_half(x.dtype) || !y.contiguous()) {  // through a dense y in a dtype that can carry
    const DType work = is_half(x.dtype) ? DType::Float32 : x.dtype;
    const Packed from(x, work), to(y, work);
    const Status s = scan_cpu(context, op, from.tensor, dim, reverse, to.tensor);
    if (!s.code) copy_values(to.tensor, y);
    return s;
  }
  if (!x.contiguous()) return scan_cpu(context, op, Packed(x, x.dtype).tensor, dim, reverse, y);
  const Planes p = planes(x, dim);
  return visit_dtype(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2 || std::is_same_v<T, bool>) {
      return abi::unsupported("not defined for bool");
    } else {
      using Acc = std::conditional_t<std::is_floating_point_v<T>, double, std::uint64_t>;
      auto lines = [&](auto&& step) { scan_lines<T, Acc>(x.as<T>(), y.as<T>(), p, reverse, step); };
      switch (op) {
        case Scan::CumSum:
          lines([](Acc a, Acc v) { return a + v; });
          break;
        case Scan::CumProd:
          lines([](Acc a, Acc v) { return a * v; });
          break;
        case Scan::CumMax:
          scan_lines<T, T>(x.as<T>(), y.as<T>(), p, reverse, [](T a, T v) {
            return a != a ? a : v != v ? v : a < v ? v : a;
          });
          break;
        case Scan::LogCumSumExp:
          if constexpr (std::is_floating_point_v<T>)
            lines(log_add);
          else
            return abi::unsupported("needs a float dtype");
          break;
      }
      return abi::ok();
    }
  });
}

}  // namespace

void provide_scan_cpu(abi::KernelTable& t) {
  t.provide<arg_reduce>(&arg_reduce_cpu);
  t.provide<scan>(&scan_cpu);
}

}  // namespace dropin::kernels
