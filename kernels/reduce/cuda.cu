// Reductions: a block (or, for short ones, a warp) per result where what is reduced lies side by
// side or there are few results; threads along the results where those lie side by side. Few
// results of many values are split over blocks, whose partial results a second pass merges in
// order: the same result every time. Sums of floats go through double: at the rate at which memory
// delivers, an A100 or H100 has double precision to spare.
#include "kernels/cuda/device.h"
#include "kernels/reduce/kernel.h"

namespace dropin::kernels::cuda {
namespace {

enum class Fold : int { Sum, Prod, Max, Min, LogSumExp, SumSquares };

template <class C>
struct State {
  C a, b;
};  // LogSumExp: the maximum and the sum in its units; the others: a

template <class C>
struct Folding {
  Fold fold;
  __device__ State<C> start() const {
    if constexpr (std::is_same_v<C, double>) {
      const double inf = bits_double(0x7ff0000000000000ll);
      switch (fold) {
        case Fold::Prod:
          return {1, 0};
        case Fold::Max:
        case Fold::LogSumExp:
          return {-inf, 0};
        case Fold::Min:
          return {inf, 0};
        default:
          return {0, 0};
      }
    } else {
      switch (fold) {
        case Fold::Prod:
          return {1, 0};
        case Fold::Max:
          return {INT64_MIN, 0};
        case Fold::Min:
          return {INT64_MAX, 0};
        default:
          return {0, 0};
      }
    }
  }
  __device__ State<C> merge(State<C> p, State<C> q) const {
    if constexpr (std::is_same_v<C, double>) {
      switch (fold) {
        case Fold::Prod:
          return {p.a * q.a, 0};
        case Fold::Max:
          return {p.a != p.a ? p.a : q.a != q.a ? q.a : p.a > q.a ? p.a : q.a, 0};
        case Fold::Min:
          return {p.a != p.a ? p.a : q.a != q.a ? q.a : p.a < q.a ? p.a : q.a, 0};
        case Fold::LogSumExp: {
          if (p.a != p.a || q.a != q.a) return {p.a + q.a, 1};
          const double m = p.a > q.a ? p.a : q.a;
          return {m, (p.b == 0   ? 0
                      : p.a == m ? p.b
                                 : p.b * exp(p.a - m)) +
                         (q.b == 0   ? 0
                          : q.a == m ? q.b
                                     : q.b * exp(q.a - m))};
        }
        default:
          return {p.a + q.a, 0};
      }
    } else {
      const auto u = static_cast<std::uint64_t>(p.a), v = static_cast<std::uint64_t>(q.a);
      switch (fold) {
        case Fold::Prod:
          return {static_cast<C>(u * v), 0};
        case Fold::Max:
          return {p.a > q.a ? p.a : q.a, 0};
        case Fold::Min:
          return {p.a < q.a ? p.a : q.a, 0};
        default:
          return {static_cast<C>(u + v), 0};
      }
    }
  }
  __device__ State<C> of(C x) const {
    if (fold == Fold::SumSquares) return {x * x, 0};
    return {x, fold == Fold::LogSumExp ? C(1) : C(0)};
  }
  __device__ C result(State<C> s, double count, bool mean) const {
    if constexpr (std::is_same_v<C, double>) {
      if (fold == Fold::LogSumExp)
        return s.b == 0                                           ? s.a
               : s.a == s.a && fabs(s.a) > 1.7976931348623157e308 ? s.a
                                                                  : s.a + log(s.b);
      return mean ? s.a / count : s.a;
    } else {
      return s.a;
    }
  }
};

template <class T>
using Wide = std::conditional_t<std::is_floating_point_v<ComputeOf<T>>, double, int64_t>;

struct Plan {
  Strided<2> kept;     // operand 0: y, 1: x
  Strided<1> reduced;  // x
  int64_t splits, chunk;
};

template <class C, class T>
__device__ void put(T* y, int64_t at, C v) {
  y[at] = narrow<T>(static_cast<ComputeOf<T>>(v));
}

// One group of blockDim.x threads per result and split; blockDim.y groups a block (more than one
// only when a group is a warp).
template <class T, class R>
__global__ void rows_kernel(Plan p, Folding<Wide<T>> f, const T* x, R* y, State<Wide<T>>* partial,
                            bool mean) {
  using C = Wide<T>;
  __shared__ State<C> room[32];
  const int64_t groups = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
       u < p.kept.total * p.splits; u += groups) {
    const int64_t k = u / p.splits, s = u % p.splits;
    int64_t at[2];
    p.kept.offsets(k, at);
    const int64_t end = (s + 1) * p.chunk < p.reduced.total ? (s + 1) * p.chunk : p.reduced.total;
    State<C> acc = f.start();
    for (int64_t r = s * p.chunk + threadIdx.x; r < end; r += blockDim.x) {
      int64_t where[1];
      p.reduced.offsets(r, where);
      acc = f.merge(acc, f.of(static_cast<C>(wide<T>(x[at[1] + where[0]]))));
    }
    DROPIN_UNROLL
    for (int d = 16; d > 0; d >>= 1)
      acc = f.merge(acc,
                    State<C>{__shfl_xor_sync(kFull, acc.a, d), __shfl_xor_sync(kFull, acc.b, d)});
    if (blockDim.x > 32) {
      __syncthreads();
      if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = acc;
      __syncthreads();
      acc = room[0];
      for (int w = 1; w < static_cast<int>(blockDim.x) / 32; ++w) acc = f.merge(acc, room[w]);
    }
    if (threadIdx.x == 0) {
      if (p.splits > 1)
        partial[u] = acc;
      else
        put(y, at[0], f.result(acc, static_cast<double>(p.reduced.total), mean));
    }
  }
}

// Threads of a row along results that lie side by side in x, 8 rows of threads over what is
// reduced.
template <class T, class R>
__global__ void columns_kernel(Plan p, Folding<Wide<T>> f, const T* x, R* y,
                               State<Wide<T>>* partial, bool mean) {
  using C = Wide<T>;
  __shared__ State<C> room[8][33];
  const int64_t across = ceil_div(p.kept.total, 32);
  for (int64_t u = blockIdx.x; u < across * p.splits; u += gridDim.x) {
    const int64_t k = u / p.splits * 32 + threadIdx.x, s = u % p.splits;
    const bool inside = k < p.kept.total;
    int64_t at[2];
    p.kept.offsets(inside ? k : 0, at);
    const int64_t end = (s + 1) * p.chunk < p.reduced.total ? (s + 1) * p.chunk : p.reduced.total;
    State<C> acc = f.start();
    for (int64_t r = s * p.chunk + threadIdx.y; r < end && inside; r += 8) {
      int64_t where[1];
      p.reduced.offsets(r, where);
      acc = f.merge(acc, f.of(static_cast<C>(wide<T>(x[at[1] + where[0]]))));
    }
    __syncthreads();
    room[threadIdx.y][threadIdx.x] = acc;
    __syncthreads();
    if (threadIdx.y == 0 && inside) {
      for (int w = 1; w < 8; ++w) acc = f.merge(acc, room[w][threadIdx.x]);
      if (p.splits > 1)
        partial[k * p.splits + s] = acc;
      else
        put(y, at[0], f.result(acc, static_cast<double>(p.reduced.total), mean));
    }
  }
}

template <class T, class R>
__global__ void merge_kernel(Plan p, Folding<Wide<T>> f, R* y, const State<Wide<T>>* partial,
                             bool mean) {
  using C = Wide<T>;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < p.kept.total;
       k += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    State<C> acc = f.start();
    for (int64_t s = 0; s < p.splits; ++s) acc = f.merge(acc, partial[k * p.splits + s]);
    int64_t at[2];
    p.kept.offsets(k, at);
    put(y, at[0], f.result(acc, static_cast<double>(p.reduced.total), mean));
  }
}

Plan plan_of(const KernelContext& c, const TensorIn& x, std::uint32_t mask, const TensorIn& y,
             bool& columns) {
  TensorIn kept_x = x, kept_y = y, reduced = x;
  for (int i = 0; i < x.ndim; ++i) {
    if (mask >> i & 1)
      kept_x.sizes[i] = kept_y.sizes[i] = 1;
    else
      reduced.sizes[i] = 1;
  }
  Plan p{Strided<2>::make({&kept_y, &kept_x}), Strided<1>::make({&reduced}), 1, 0};
  const int64_t k = p.kept.total, r = p.reduced.total;
  columns = p.reduced.stride[0][p.reduced.ndim - 1] != 1 &&
            p.kept.stride[1][p.kept.ndim - 1] == 1 && k >= 32 && r > 1;
  const int64_t units = columns ? ceil_div(k, 32) : k,
                room = static_cast<int64_t>(multiprocessors(c)) * 4, least = columns ? 256 : 4096;
  if (units < room && r > 2 * least) {
    p.splits = room / (units > 0 ? units : 1);
    if (p.splits > r / least) p.splits = r / least;
  }
  p.chunk = ceil_div(r, p.splits);
  return p;
}

template <class T, class R>
Status reduce_to(const KernelContext& c, Fold fold, bool mean, const TensorIn& x,
                 std::uint32_t mask, const TensorOut& y) {
  using C = Wide<T>;
  bool columns = false;
  const Plan p = plan_of(c, x, mask, y, columns);
  if (p.kept.total == 0) return abi::ok();
  const Folding<C> f{fold};
  DROPIN_SCRATCH(State<C>, partial, c, p.splits > 1 ? p.kept.total * p.splits : 0);
  if (columns) {
    DROPIN_TRY(launch(c, &columns_kernel<T, R>,
                      dim3(blocks_for(c, ceil_div(p.kept.total, 32) * p.splits, 1)), dim3(32, 8), 0,
                      p, f, x.as<T>(), y.as<R>(), partial.get(), mean));
  } else {
    const bool warp = p.chunk <= 1024;
    const dim3 block = warp ? dim3(32, 8) : dim3(p.chunk <= 4096 ? 128 : 512);
    DROPIN_TRY(launch(c, &rows_kernel<T, R>,
                      dim3(blocks_for(c, p.kept.total * p.splits, warp ? 8 : 1, 32)), block, 0, p,
                      f, x.as<T>(), y.as<R>(), partial.get(), mean));
  }
  if (p.splits > 1)
    return launch(c, &merge_kernel<T, R>, dim3(blocks_for(c, p.kept.total, 128)), dim3(128), 0, p,
                  f, y.as<R>(), partial.get(), mean);
  return abi::ok();
}

bool fits(const TensorIn& x, std::uint32_t mask, const TensorIn& y) {
  if (x.ndim != y.ndim) return false;
  for (int i = 0; i < x.ndim; ++i)
    if (y.sizes[i] != (mask >> i & 1 ? 1 : x.sizes[i])) return false;
  return true;
}

Status reduce_cuda(const KernelContext& c, Reduce op, const TensorIn& x, std::uint32_t mask,
                   const TensorOut& y) {
  DROPIN_REQUIRE(fits(x, mask, y), "sizes differ");
  Fold fold = Fold::Sum;
  switch (op) {
    case Reduce::Prod:
      fold = Fold::Prod;
      break;
    case Reduce::Max:
    case Reduce::Any:
      fold = Fold::Max;
      break;
    case Reduce::Min:
    case Reduce::All:
      fold = Fold::Min;
      break;
    case Reduce::LogSumExp:
      fold = Fold::LogSumExp;
      break;
    case Reduce::SumSquares:
      fold = Fold::SumSquares;
      break;
    default:
      break;
  }
  const bool truth = op == Reduce::Any || op == Reduce::All;
  return visit_any(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, bool>) {
      if (!truth) return abi::unsupported("any and all need bool, the others numbers");
      DROPIN_REQUIRE(y.dtype == DType::Boolean, "y has the wrong dtype");
      // nothing: any is false, all is true
      if (x.numel() == 0 && y.numel() > 0)
        return checked(cudaMemsetAsync(y.as<void>(), op == Reduce::All,
                                       static_cast<std::size_t>(y.numel()), stream_of(c)),
                       c);
      return reduce_to<bool, bool>(c, fold, false, x, mask, y);
    } else {
      if (truth) return abi::unsupported("any and all need bool, the others numbers");
      if constexpr (std::is_floating_point_v<ComputeOf<T>>) {
        DROPIN_REQUIRE(y.dtype == x.dtype, "y has the wrong dtype");
        return reduce_to<T, T>(c, fold, op == Reduce::Mean, x, mask, y);
      } else {
        if (op == Reduce::Mean || op == Reduce::LogSumExp || op == Reduce::SumSquares)
          return abi::unsupported("not defined for integers");
        const bool grows = op == Reduce::Sum || op == Reduce::Prod;
        DROPIN_REQUIRE(y.dtype == (grows ? DType::Int64 : x.dtype), "y has the wrong dtype");
        return grows ? reduce_to<T, int64_t>(c, fold, false, x, mask, y)
                     : reduce_to<T, T>(c, fold, false, x, mask, y);
      }
    }
  });
}

// --- variance: two passes of one block per result

template <class T>
__global__ void var_kernel(Strided<3> kept, Strided<1> reduced, const T* x, double correction,
                           T* var, T* mean) {
  __shared__ double room[32];
  for (int64_t k = blockIdx.x; k < kept.total; k += gridDim.x) {
    int64_t at[3], where[1];
    kept.offsets(k, at);
    double sum = 0, squares = 0;
    for (int64_t r = threadIdx.x; r < reduced.total; r += blockDim.x) {
      reduced.offsets(r, where);
      sum += static_cast<double>(wide<T>(x[at[0] + where[0]]));
    }
    const double n = static_cast<double>(reduced.total), m = block_sum(sum, room) / n;
    for (int64_t r = threadIdx.x; r < reduced.total; r += blockDim.x) {
      reduced.offsets(r, where);
      const double d = static_cast<double>(wide<T>(x[at[0] + where[0]])) - m;
      squares += d * d;
    }
    squares = block_sum(squares, room);
    if (threadIdx.x == 0) {
      if (mean) put(mean, at[2], m);
      if (var) put(var, at[1], squares / (n - correction > 0 ? n - correction : 0));
    }
  }
}

Status var_mean_cuda(const KernelContext& c, const TensorIn& x, std::uint32_t mask,
                     double correction, const TensorOut& var, const TensorOut& mean) {
  for (const TensorOut* y : {&var, &mean})
    DROPIN_REQUIRE(!y->data || (fits(x, mask, *y) && y->dtype == x.dtype),
                   "sizes or dtypes differ");
  if (!var.data && !mean.data) return abi::ok();
  TensorIn kept = x, reduced = x, v = var.data ? var : mean, m = mean.data ? mean : var;
  for (int i = 0; i < x.ndim; ++i) {
    if (mask >> i & 1)
      kept.sizes[i] = v.sizes[i] = m.sizes[i] = 1;
    else
      reduced.sizes[i] = 1;
  }
  const auto k = Strided<3>::make({&kept, &v, &m});
  const auto r = Strided<1>::make({&reduced});
  return visit_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &var_kernel<T>, dim3(blocks_for(c, k.total, 1, 32)),
                  dim3(r.total <= 256 ? 64 : 256), 0, k, r, x.as<T>(), correction, var.as<T>(),
                  mean.as<T>());
  });
}

// --- arg

template <class T>
__global__ void arg_kernel(Strided<2> kept, const T* x, int64_t n, int64_t step, bool maximum,
                           int64_t* y) {
  using C = std::conditional_t<std::is_floating_point_v<ComputeOf<T>>, ComputeOf<T>, int64_t>;
  __shared__ C values[32];
  __shared__ int64_t places[32];
  auto better = [maximum](C a, int64_t i, C b, int64_t j) {  // is (a, i) to be taken before (b, j)
    const bool na = a != a, nb = b != b;
    if (i < 0 || j < 0) return j < 0 && i >= 0;
    if (na || nb) return na && (!nb || i < j);
    if (a == b) return i < j;
    return maximum ? a > b : a < b;
  };
  for (int64_t k = blockIdx.x; k < kept.total; k += gridDim.x) {
    int64_t at[2];
    kept.offsets(k, at);
    C best = 0;
    int64_t place = -1;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const C v = static_cast<C>(wide<T>(x[at[1] + i * step]));
      if (better(v, i, best, place)) best = v, place = i;
    }
    for (int d = 16; d > 0; d >>= 1) {
      const C v = __shfl_xor_sync(kFull, best, d);
      const int64_t i = __shfl_xor_sync(kFull, static_cast<long long>(place), d);
      if (better(v, i, best, place)) best = v, place = i;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best, places[threadIdx.x / 32] = place;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < static_cast<int>(blockDim.x) / 32; ++w)
        if (better(values[w], places[w], best, place)) best = values[w], place = places[w];
      y[at[0]] = place;
    }
  }
}

Status arg_cuda(const KernelContext& c, bool maximum, const TensorIn& x, int dim,
                const TensorOut& y) {
  DROPIN_REQUIRE(dim >= 0 && dim < x.ndim && y.ndim == x.ndim && y.dtype == DType::Int64,
                 "dim or y does not fit");
  DROPIN_REQUIRE(fits(x, 1u << dim, y), "sizes differ");
  if (y.numel() == 0) return abi::ok();
  DROPIN_REQUIRE(x.sizes[dim] > 0, "empty dimension");
  TensorIn kept = x;
  kept.sizes[dim] = 1;
  const auto k = Strided<2>::make({&y, &kept});
  return visit_any(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &arg_kernel<T>, dim3(blocks_for(c, k.total, 1, 32)),
                  dim3(x.sizes[dim] <= 64 ? 32 : 128), 0, k, x.as<T>(), x.sizes[dim],
                  x.strides[dim], maximum, y.as<int64_t>());
  });
}

// --- scans: a block per line, chunk after chunk

template <class C>
__device__ C scan_step(Scan op, C a, C b) {
  if constexpr (std::is_same_v<C, double>) {
    switch (op) {
      case Scan::CumProd:
        return a * b;
      case Scan::CumMax:
        return a != a ? a : b != b ? b : a > b ? a : b;
      case Scan::LogCumSumExp: {
        if (a != a || b != b) return a + b;
        const double hi = a > b ? a : b, lo = a > b ? b : a;
        return fabs(hi) > 1.7976931348623157e308 ? hi : hi + log1p(exp(lo - hi));
      }
      default:
        return a + b;
    }
  } else {
    const auto u = static_cast<std::uint64_t>(a), v = static_cast<std::uint64_t>(b);
    switch (op) {
      case Scan::CumProd:
        return static_cast<C>(u * v);
      case Scan::CumMax:
        return a > b ? a : b;
      default:
        return static_cast<C>(u + v);
    }
  }
}

template <class T>
__global__ void scan_kernel(Strided<2> lines, Scan op, const T* x, T* y, int64_t n, int64_t x_step,
                            int64_t y_step, bool reverse) {
  using C = Wide<T>;
  __shared__ C room[33];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int64_t k = blockIdx.x; k < lines.total; k += gridDim.x) {
    int64_t at[2];
    lines.offsets(k, at);
    C carried = 0;
    for (int64_t base = 0; base < n; base += blockDim.x) {
      const int64_t i = base + threadIdx.x, place = reverse ? n - 1 - i : i;
      const bool inside = i < n;
      C v = inside ? static_cast<C>(wide<T>(x[at[1] + place * x_step])) : C(0);
      DROPIN_UNROLL
      for (int d = 1; d < 32; d <<= 1) {
        const C before = __shfl_up_sync(kFull, v, d);
        if (lane >= d) v = scan_step(op, before, v);
      }
      __syncthreads();
      if (lane == 31) room[warp] = v;
      __syncthreads();
      for (int w = warp - 1; w >= 0; --w) v = scan_step(op, room[w], v);
      if (base > 0) v = scan_step(op, carried, v);
      if (inside) put(y, at[0] + place * y_step, v);
      __syncthreads();
      if (threadIdx.x == blockDim.x - 1)
        room[32] = v;  // of no use after the last chunk, which may be short
      __syncthreads();
      carried = room[32];
    }
  }
  (void)warps;
}

Status scan_cuda(const KernelContext& c, Scan op, const TensorIn& x, int dim, bool reverse,
                 const TensorOut& y) {
  DROPIN_REQUIRE(dim >= 0 && dim < x.ndim && same_sizes(x, y), "dim or sizes do not fit");
  DROPIN_REQUIRE(x.dtype == y.dtype, "dtypes differ");
  if (y.numel() == 0) return abi::ok();
  TensorIn lx = x, ly = y;
  lx.sizes[dim] = ly.sizes[dim] = 1;
  const auto lines = Strided<2>::make({&ly, &lx});
  return visit_any(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, bool>)
      return abi::unsupported("not defined for bool");
    else {
      if (op == Scan::LogCumSumExp && !floating(x.dtype))
        return abi::unsupported("needs a float dtype");
      return launch(c, &scan_kernel<T>, dim3(blocks_for(c, lines.total, 1, 32)),
                    dim3(x.sizes[dim] <= 128 ? 32 : 256), 0, lines, op, x.as<T>(), y.as<T>(),
                    x.sizes[dim], x.strides[dim], y.strides[dim], reverse);
    }
  });
}

}  // namespace

void provide_reduce(KernelTable& t) {
  provide<reduce, &reduce_cuda>(t);
  provide<var_mean, &var_mean_cuda>(t);
  provide<arg_reduce, &arg_cuda>(t);
  provide<scan, &scan_cuda>(t);
}

}  // namespace dropin::kernels::cuda
