// Reductions: dimensions merged into an alternation of kept and reduced ones, then either rows
// (innermost dimension reduced) or columns (innermost kept). Blocks and the order of merging depend
// on the sizes alone, so the number of threads never shows in a result.
#include "kernels/reduce/kernel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "dropin/core/parallel.h"
#include "kernels/reduce/blocks.h"
#include "kernels/strided.h"

namespace dropin::kernels {
void provide_scan_cpu(abi::KernelTable& t);  // cpu_scan.cpp
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

constexpr int64_t kRowBlock = 1024;  // elements of a row folded at a time
constexpr int64_t kRows = 128;       // rows of a column block
constexpr int64_t kChunks =
    64;  // parts into which a single tall tile of columns is cut for the threads
constexpr int64_t kManyTasks = 16;  // with as many independent results there is no need to cut them

struct Dims {
  int n = 0;
  int64_t size[abi::kMaxDims], stride[abi::kMaxDims];
  int64_t total() const {
    int64_t t = 1;
    for (int i = 0; i < n; ++i) t *= size[i];
    return t;
  }
  int64_t offset(int64_t flat) const {
    int64_t at = 0;
    for (int i = n - 1; i >= 0; --i) {
      at += flat % size[i] * stride[i];
      flat /= size[i];
    }
    return at;
  }
};

/// The kept dims in row-major order and the reduced ones by decreasing stride.
struct Plan {
  Dims kept, reduced;
  bool usable = false;  // one of the innermost dims has unit stride
  bool rows = false;    // it is a reduced one
};
Plan plan(const TensorIn& x, std::uint32_t mask) {
  Plan p;
  for (int i = 0; i < x.ndim; ++i) {
    if (x.sizes[i] == 1) continue;
    Dims& d = mask >> i & 1 ? p.reduced : p.kept;
    int at = d.n++;
    if (&d == &p.reduced)
      for (; at > 0 && d.stride[at - 1] < x.strides[i]; --at)
        d.size[at] = d.size[at - 1], d.stride[at] = d.stride[at - 1];
    d.size[at] = x.sizes[i];
    d.stride[at] = x.strides[i];
  }
  for (Dims* d : {&p.kept, &p.reduced}) {
    int m = 0;
    for (int i = 0; i < d->n; ++i) {
      if (m && d->stride[m - 1] == d->stride[i] * d->size[i]) {
        d->size[m - 1] *= d->size[i];
      } else {
        d->size[m++] = d->size[i];
      }
      d->stride[m - 1] = d->stride[i];
    }
    d->n = m;
  }
  if (p.reduced.n && p.reduced.stride[p.reduced.n - 1] == 1)
    p.usable = p.rows = true;
  else if (p.kept.n && p.kept.stride[p.kept.n - 1] == 1)
    p.usable = true;
  else if (!p.reduced.n && !p.kept.n)
    p.usable = p.rows = true;
  if (p.rows && !p.reduced.n) p.reduced.n = 1, p.reduced.size[0] = 1, p.reduced.stride[0] = 1;
  return p;
}

/// Merges a sequence in a binary tree, so that rounding errors grow with the logarithm of its
/// length.
class Tree {
 public:
  explicit Tree(const FoldFns& f) : f_(f) {}
  void push(Partial p) {
    int level = 0;
    for (std::uint64_t c = count_++; c & 1; c >>= 1) p = f_.merge(level_[level++], p);
    level_[level] = p;
  }
  Partial result() const {
    Partial r = f_.init;
    int level = 0;
    for (std::uint64_t c = count_; c; c >>= 1, ++level)
      if (c & 1) r = f_.merge(level_[level], r);
    return r;
  }

 private:
  const FoldFns& f_;
  std::uint64_t count_ = 0;
  Partial level_[64];
};

/// Takes results as they come, on the thread that made them: f(first, n, p) gets p[i] for the kept
/// index first + i. Refers to f.
class Sink {
 public:
  template <class F>
  Sink(const F& f)
      : self_(&f), fn_([](const void* self, int64_t first, int64_t n, const Partial* p) {
          (*static_cast<const F*>(self))(first, n, p);
        }) {}
  void operator()(int64_t first, int64_t n, const Partial* p) const { fn_(self_, first, n, p); }

 private:
  const void* self_;
  void (*fn_)(const void*, int64_t, int64_t, const Partial*);
};

/// Calls result(o) for every output of [begin, end) and hands the results over a few at a time.
template <class F>
void drain(int64_t begin, int64_t end, const Sink& sink, F&& result) {
  Partial some[256];
  for (int64_t n; begin < end; begin += n) {
    n = std::min<int64_t>(256, end - begin);
    for (int64_t i = 0; i < n; ++i) some[i] = result(begin + i);
    sink(begin, n, some);
  }
}

void fold_rows(const Plan& p, const FoldFns& f, const char* x, int64_t item, const double* shift,
               const Sink& sink) {
  Dims outer = p.reduced;
  const int64_t n = outer.size[--outer.n];
  const int64_t outputs = p.kept.total(), lines = outer.total();
  const int64_t per_line = std::max<int64_t>(1, ceil_div(n, kRowBlock)), blocks = lines * per_line;
  auto block = [&](int64_t at, int64_t b, double s) {
    const int64_t from = b % per_line * kRowBlock;
    return f.row(x + (at + outer.offset(b / per_line) + from) * item, std::min(kRowBlock, n - from),
                 s);
  };
  if (blocks == 1) {
    parallel_for(outputs, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n)),
                 [&](int64_t begin, int64_t end) {
                   drain(begin, end, sink, [&](int64_t o) {
                     return f.row(x + p.kept.offset(o) * item, n, shift ? shift[o] : 0);
                   });
                 });
  } else if (outputs >= kManyTasks || outputs * lines * n <= kGrain) {
    parallel_for(outputs, std::max<int64_t>(1, kGrain / (n * lines)),
                 [&](int64_t begin, int64_t end) {
                   drain(begin, end, sink, [&](int64_t o) {
                     Tree tree(f);
                     const int64_t at = p.kept.offset(o);
                     for (int64_t b = 0; b < blocks; ++b)
                       tree.push(block(at, b, shift ? shift[o] : 0));
                     return tree.result();
                   });
                 });
  } else {
    const std::unique_ptr<Partial[]> parts(new Partial[static_cast<std::size_t>(outputs * blocks)]);
    parallel_for(outputs * blocks, std::max<int64_t>(1, kGrain / std::min(n, kRowBlock)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t o = i / blocks;
                     parts[i] = block(p.kept.offset(o), i % blocks, shift ? shift[o] : 0);
                   }
                 });
    drain(0, outputs, sink, [&](int64_t o) {
      Tree tree(f);
      for (int64_t b = 0; b < blocks; ++b) tree.push(parts[o * blocks + b]);
      return tree.result();
    });
  }
}

void fold_columns(const Plan& p, const FoldFns& f, const char* x, int64_t item, const double* shift,
                  const Sink& sink) {
  Dims kept = p.kept, outer = p.reduced;
  const int64_t width = kept.size[--kept.n];
  int64_t rows = 1, stride = 0;
  if (outer.n) --outer.n, rows = outer.size[outer.n], stride = outer.stride[outer.n];
  const int64_t tiles = ceil_div(width, kColumns), tasks = kept.total() * tiles;
  const int64_t per_plane = ceil_div(rows, kRows), blocks = outer.total() * per_plane;
  auto fold = [&](int64_t task, int64_t from, int64_t to, Partial* acc) {
    const int64_t k = task / tiles, column = task % tiles * kColumns,
                  columns = std::min(kColumns, width - column);
    const int64_t at = kept.offset(k) + column;
    std::fill_n(acc, columns, f.init);
    for (int64_t b = from; b < to; ++b) {
      const int64_t row = b % per_plane * kRows;
      f.columns(x + (at + outer.offset(b / per_plane) + row * stride) * item, stride,
                std::min(kRows, rows - row), columns, shift ? shift + k * width + column : nullptr,
                acc);
    }
  };
  auto place = [&](int64_t task) { return task / tiles * width + task % tiles * kColumns; };
  auto columns_of = [&](int64_t task) {
    return std::min(kColumns, width - task % tiles * kColumns);
  };
  if (tasks >= kManyTasks || blocks == 1) {
    parallel_for(tasks,
                 std::max<int64_t>(1, kGrain / (std::min(width, kColumns) * rows * outer.total())),
                 [&](int64_t begin, int64_t end) {
                   Partial acc[kColumns];
                   for (int64_t t = begin; t < end; ++t) {
                     fold(t, 0, blocks, acc);
                     sink(place(t), columns_of(t), acc);
                   }
                 });
    return;
  }
  const int64_t chunks = std::min(kChunks, blocks), room = std::min(width, kColumns);
  const std::unique_ptr<Partial[]> parts(
      new Partial[static_cast<std::size_t>(tasks * chunks * room)]);
  parallel_for(
      tasks * chunks, std::max<int64_t>(1, kGrain * chunks / (room * rows * outer.total())),
      [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t c = i % chunks;
          fold(i / chunks, blocks * c / chunks, blocks * (c + 1) / chunks, parts.get() + i * room);
        }
      });
  for (int64_t t = 0; t < tasks; ++t) {
    const int64_t first = place(t);
    drain(first, first + columns_of(t), sink, [&](int64_t o) {
      Partial r = f.init;
      for (int64_t c = 0; c < chunks; ++c)
        r = f.merge(r, parts[(t * chunks + c) * room + o - first]);
      return r;
    });
  }
}

template <class T>
T narrowed(double v) {
  if constexpr (sizeof(T) == 2)
    return T(static_cast<float>(v));
  else
    return static_cast<T>(v);
}

/// Where y keeps the result of each kept index.
class Places {
 public:
  Places(const TensorIn& x, std::uint32_t mask, const TensorOut& y) {
    for (int i = 0; i < x.ndim; ++i)
      if (!(mask >> i & 1) && x.sizes[i] != 1)
        d_.size[d_.n] = x.sizes[i], d_.stride[d_.n++] = y.strides[i];
    int64_t expect = 1;
    for (int i = d_.n - 1; i >= 0; --i)
      dense_ = dense_ && d_.stride[i] == expect, expect *= d_.size[i];
  }
  int64_t operator()(int64_t o) const { return dense_ ? o : d_.offset(o); }

 private:
  Dims d_;
  bool dense_ = true;
};

/// Folds x over the dims of `mask`; sink gets one result per kept index in row-major order, and
/// `shift` has that layout or is null. bfloat16 and float16 are not taken. The blocks and the order
/// in which they are merged depend on the sizes alone.
void fold_into(Fold fold, const TensorIn& x, std::uint32_t mask, const double* shift,
               const Sink& sink) {
  const FoldFns f = is_floating(x.dtype) ? float_fold(fold, x.dtype) : int_fold(fold, x.dtype);
  if (reduced_count(x, mask) == 0)
    return drain(0, kept_count(x, mask), sink, [&](int64_t) { return f.init; });
  if (kept_count(x, mask) == 0) return;
  const Plan p = plan(x, mask);
  if (!p.usable) return fold_into(fold, Packed(x, x.dtype).tensor, mask, shift, sink);
  const char* data = x.as<char>();
  if (p.rows)
    fold_rows(p, f, data, item_size(x.dtype), shift, sink);
  else
    fold_columns(p, f, data, item_size(x.dtype), shift, sink);
}

/// Room for the results; a few live on the stack.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t n) {
    if (n > 64) heap_.reset(new T[static_cast<std::size_t>(n)]);
  }
  T* get() { return heap_ ? heap_.get() : local_; }
  T& operator[](int64_t i) { return get()[i]; }

 private:
  T local_[64];
  std::unique_ptr<T[]> heap_;
};

bool fits(const TensorIn& x, std::uint32_t mask, const TensorIn& y) {
  if (x.ndim != y.ndim) return false;
  for (int i = 0; i < x.ndim; ++i)
    if (y.sizes[i] != (mask >> i & 1 ? 1 : x.sizes[i])) return false;
  return true;
}

Status reduce_floats(Reduce op, const TensorIn& x, std::uint32_t mask, const TensorOut& y) {
  if (is_half(x.dtype)) return reduce_floats(op, Packed(x, DType::Float32).tensor, mask, y);
  Fold fold = Fold::Sum;
  switch (op) {
    case Reduce::Prod:
      fold = Fold::Prod;
      break;
    case Reduce::Max:
      fold = Fold::Max;
      break;
    case Reduce::Min:
      fold = Fold::Min;
      break;
    case Reduce::SumSquares:
      fold = Fold::SumSquares;
      break;
    case Reduce::LogSumExp:
      fold = Fold::SumExp;
      break;
    case Reduce::Sum:
    case Reduce::Mean:
      break;
    default:
      return abi::unsupported("any and all need bool");
  }
  const Places place(x, mask, y);
  visit_dtype(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* out = y.as<T>();
    auto store = [&](const double* shift, auto&& value) {
      fold_into(fold, x, mask, shift, [&](int64_t first, int64_t n, const Partial* p) {
        for (int64_t i = 0; i < n; ++i)
          out[place(first + i)] = narrowed<T>(value(p[i].f, first + i));
      });
    };
    if (op == Reduce::Mean) {
      const double count = static_cast<double>(reduced_count(x, mask));
      store(nullptr, [&](double v, int64_t) { return v / count; });
    } else if (op == Reduce::LogSumExp) {
      Scratch<double> shift(kept_count(x, mask));
      fold_into(Fold::Max, x, mask, nullptr, [&](int64_t first, int64_t n, const Partial* p) {
        for (int64_t i = 0; i < n; ++i) shift[first + i] = p[i].f;
      });
      store(shift.get(), [&](double v, int64_t o) {
        return std::isinf(shift[o]) ? shift[o] : std::log(v) + shift[o];
      });
    } else {
      store(nullptr, [](double v, int64_t) { return v; });
    }
  });
  return abi::ok();
}

Status reduce_cpu(const KernelContext&, Reduce op, const TensorIn& x, std::uint32_t mask,
                  const TensorOut& y) {
  if (!fits(x, mask, y)) return abi::failed("sizes differ");
  if (is_floating(x.dtype))
    return y.dtype == x.dtype ? reduce_floats(op, x, mask, y)
                              : abi::failed("y has the wrong dtype");
  Fold fold = Fold::Sum;
  DType to = x.dtype;
  switch (op) {
    case Reduce::Sum:
      to = DType::Int64;
      break;
    case Reduce::Prod:
      fold = Fold::Prod, to = DType::Int64;
      break;
    case Reduce::Max:
    case Reduce::Any:
      fold = Fold::Max;
      break;
    case Reduce::Min:
    case Reduce::All:
      fold = Fold::Min;
      break;
    default:
      return abi::unsupported("not defined for integers");
  }
  if ((x.dtype == DType::Boolean) != (op == Reduce::Any || op == Reduce::All))
    return abi::unsupported("any and all need bool, the others numbers");
  if (y.dtype != to) return abi::failed("y has the wrong dtype");
  const Places place(x, mask, y);
  visit_dtype(to, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_integral_v<T>) {
      fold_into(fold, x, mask, nullptr, [&](int64_t first, int64_t n, const Partial* p) {
        for (int64_t i = 0; i < n; ++i) y.as<T>()[place(first + i)] = static_cast<T>(p[i].i);
      });
    }
  });
  return abi::ok();
}

void store_moments(const TensorIn& x, std::uint32_t mask, double correction, const TensorOut& var,
                   const TensorOut& mean) {
  const int64_t outputs = kept_count(x, mask);
  const double n = static_cast<double>(reduced_count(x, mask));
  Scratch<double> m(outputs), v(outputs);
  moments(x, mask, m.get(), v.get());
  auto write = [&](const TensorOut& y, auto&& value) {
    if (!y.data) return;
    visit_dtype(y.dtype, [&](auto zero) {
      using T = decltype(zero);
      const Places place(x, mask, y);
      for (int64_t o = 0; o < outputs; ++o) y.as<T>()[place(o)] = narrowed<T>(value(o));
    });
  };
  write(mean, [&](int64_t o) { return m[o]; });
  write(var, [&](int64_t o) { return v[o] / std::max(0.0, n - correction); });
}

Status var_mean_cpu(const KernelContext&, const TensorIn& x, std::uint32_t mask, double correction,
                    const TensorOut& var, const TensorOut& mean) {
  if (!is_floating(x.dtype)) return abi::unsupported("needs a float dtype");
  for (const TensorOut* y : {&var, &mean})
    if (y->data && (!fits(x, mask, *y) || y->dtype != x.dtype))
      return abi::failed("sizes or dtypes differ");
  if (is_half(x.dtype))
    store_moments(Packed(x, DType::Float32).tensor, mask, correction, var, mean);
  else
    store_moments(x, mask, correction, var, mean);
  return abi::ok();
}

}  // namespace

int64_t kept_count(const TensorIn& x, std::uint32_t mask) {
  int64_t n = 1;
  for (int i = 0; i < x.ndim; ++i)
    if (!(mask >> i & 1)) n *= x.sizes[i];
  return n;
}
int64_t reduced_count(const TensorIn& x, std::uint32_t mask) { return kept_count(x, ~mask); }

void moments(const TensorIn& x, std::uint32_t mask, double* mean, double* squares) {
  const double count = static_cast<double>(reduced_count(x, mask));
  fold_into(Fold::Sum, x, mask, nullptr, [&](int64_t first, int64_t n, const Partial* p) {
    for (int64_t i = 0; i < n; ++i) mean[first + i] = p[i].f / count;
  });
  fold_into(
      Fold::SumSquaredDeviations, x, mask, mean, [&](int64_t first, int64_t n, const Partial* p) {
        for (int64_t i = 0; i < n; ++i) {
          // The deviations were taken from the mean rounded to x's dtype; what that added is
          // known.
          const double m = mean[first + i], sum = p[i].f,
                       error = x.dtype == DType::Float32
                                   ? m - static_cast<double>(static_cast<float>(m))
                                   : 0;
          squares[first + i] =
              std::isfinite(error) && sum == sum ? std::max(0.0, sum - count * error * error) : sum;
        }
      });
}

void provide_reduce_cpu(abi::KernelTable& t) {
  t.provide<reduce>(&reduce_cpu);
  t.provide<var_mean>(&var_mean_cpu);
  provide_scan_cpu(t);
}

}  // namespace dropin::kernels
