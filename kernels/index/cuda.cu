// Indexing. Indices are checked on the device first, and the answer awaited, so that a wrong one is
// an error of this call with nothing written. scatter and index_add keep the order of the index: a
// thread walks a line, or, where lines are few and long, pairs (place, position) are sorted and
// each place's run is summed by one thread.
#include "kernels/cuda/device.h"
#include "kernels/index/kernel.h"
#include "kernels/sort/device_sort.h"

namespace dropin::kernels::cuda {
namespace {

__global__ void range_kernel(Strided<1> it, const int64_t* index, int64_t n, int* bad) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < it.total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    int64_t at[1];
    it.offsets(i, at);
    if (index[at[0]] < 0 || index[at[0]] >= n) *bad = 1;
  }
}
Status check_range(const KernelContext& c, const TensorIn& index, int64_t n) {
  DROPIN_REQUIRE(index.dtype == DType::Int64, "the index must be int64");
  const auto it = Strided<1>::make({&index});
  if (it.total == 0) return abi::ok();
  DROPIN_SCRATCH(int, bad, c, 1);
  DROPIN_TRY(checked(cudaMemsetAsync(bad.get(), 0, sizeof(int), stream_of(c)), c));
  DROPIN_TRY(launch(c, &range_kernel, dim3(blocks_for(c, it.total, 256)), dim3(256), 0, it,
                    index.as<int64_t>(), n, bad.get()));
  int any = 0;
  DROPIN_TRY(fetch(c, &any, bad.get(), sizeof any));
  return any ? abi::out_of_range("index out of range") : abi::ok();
}

template <class F>
Status by_width(DType t, F&& f) {
  switch (item_bytes(t)) {
    case 1:
      return f(std::uint8_t{});
    case 2:
      return f(std::uint16_t{});
    case 4:
      return f(std::uint32_t{});
    default:
      return f(std::uint64_t{});
  }
}

// y[i] = x[.., index[i], ..]: operands y, index, and x seen with stride 0 along dim
template <class T>
__global__ void gather_kernel(Strided<3> it, const T* x, const int64_t* index, int64_t step, T* y) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < it.total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    int64_t at[3];
    it.offsets(i, at);
    y[at[0]] = x[at[2] + index[at[1]] * step];
  }
}
Status gather_into(const KernelContext& c, const TensorIn& x, int dim, const TensorIn& index,
                   const TensorOut& y) {
  TensorIn from = x;
  for (int i = 0; i < x.ndim; ++i) from.sizes[i] = y.sizes[i];
  from.strides[dim] = 0;
  const auto it = Strided<3>::make({&y, &index, &from});
  return by_width(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &gather_kernel<T>, dim3(blocks_for(c, it.total, 256)), dim3(256), 0, it,
                  x.as<T>(), index.as<int64_t>(), x.strides[dim], y.as<T>());
  });
}
Status gather_cuda(const KernelContext& c, const TensorIn& x, int dim, const TensorIn& index,
                   const TensorOut& y) {
  DROPIN_REQUIRE(
      dim >= 0 && dim < x.ndim && same_sizes(index, y) && x.ndim == y.ndim && x.dtype == y.dtype,
      "sizes or dtypes do not fit");
  DROPIN_TRY(check_range(c, index, x.sizes[dim]));
  return gather_into(c, x, dim, index, y);
}

// The index [n] as an array of y's sizes that repeats over the other dimensions.
TensorIn along(const TensorIn& index, int dim, const TensorIn& like) {
  TensorIn r = index;
  r.ndim = like.ndim;
  for (int i = 0; i < like.ndim; ++i) r.sizes[i] = like.sizes[i], r.strides[i] = 0;
  r.strides[dim] = index.strides[0];
  return r;
}

Status index_select_cuda(const KernelContext& c, const TensorIn& x, int dim, const TensorIn& index,
                         const TensorOut& y) {
  DROPIN_REQUIRE(dim >= 0 && dim < x.ndim && index.ndim == 1 && x.ndim == y.ndim &&
                     x.dtype == y.dtype && y.sizes[dim] == index.sizes[0],
                 "sizes or dtypes do not fit");
  DROPIN_TRY(check_range(c, index, x.sizes[dim]));
  return gather_into(c, x, dim, along(index, dim, y), y);
}

// A thread per line (operands src, index, y, each with size 1 along dim) walks along dim.
template <class T>
__global__ void scatter_lines_kernel(Strided<3> it, const T* src, const int64_t* index, T* y,
                                     int64_t n, int64_t src_step, int64_t index_step,
                                     int64_t y_step, bool add) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < it.total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    int64_t at[3];
    it.offsets(i, at);
    for (int64_t k = 0; k < n; ++k) {
      T& to = y[at[2] + index[at[1] + k * index_step] * y_step];
      const T v = src[at[0] + k * src_step];
      if (!add)
        to = v;
      else if constexpr (std::is_same_v<T, bool>)
        to = to || v;
      else
        to = narrow<T>(static_cast<ComputeOf<T>>(wide<T>(to) + wide<T>(v)));
    }
  }
}

// For the sorted way: the place in y of every element of src, in the order of src's positions along
// dim within a place.
__global__ void places_kernel(Strided<3> it, const int64_t* index, int64_t n, int64_t index_step,
                              int64_t y_step, std::uint64_t* place, std::uint32_t* position) {
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; u < it.total * n;
       u += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t line = u % it.total, k = u / it.total;
    int64_t at[3];
    it.offsets(line, at);
    place[u] = static_cast<std::uint64_t>(at[2] + index[at[1] + k * index_step] * y_step);
    position[u] = static_cast<std::uint32_t>(u);
  }
}
// The first of a run of equal places takes the run.
template <class T>
__global__ void scatter_runs_kernel(Strided<3> it, const std::uint64_t* place,
                                    const std::uint32_t* position, int64_t total, const T* src,
                                    T* y, int64_t src_step, bool add) {
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; u < total;
       u += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    if (u > 0 && place[u - 1] == place[u]) continue;
    T& to = y[place[u]];
    T sum = to;
    for (int64_t v = u; v < total && place[v] == place[u]; ++v) {
      int64_t at[3];
      it.offsets(position[v] % it.total, at);
      const T x = src[at[0] + static_cast<int64_t>(position[v]) / it.total * src_step];
      if (!add)
        sum = x;
      else if constexpr (std::is_same_v<T, bool>)
        sum = sum || x;
      else
        sum = narrow<T>(static_cast<ComputeOf<T>>(wide<T>(sum) + wide<T>(x)));
    }
    to = sum;
  }
}

Status scatter_into(const KernelContext& c, const TensorIn& index, const TensorIn& src, int dim,
                    bool add, const TensorOut& y) {
  TensorIn i = index, s = src, to = y;
  for (int k = 0; k < src.ndim; ++k)
    i.sizes[k] = s.sizes[k] = to.sizes[k] = k == dim ? 1 : src.sizes[k];
  const auto it = Strided<3>::make({&s, &i, &to});
  const int64_t n = src.sizes[dim], total = it.total * n;
  if (total == 0) return abi::ok();
  const bool sorted =
      n > 32 && it.total < static_cast<int64_t>(multiprocessors(c)) * 512 && total < 0x7fffffff;
  if (!sorted)
    return visit_any(y.dtype, [&](auto zero) {
      using T = decltype(zero);
      return launch(c, &scatter_lines_kernel<T>, dim3(blocks_for(c, it.total, 128)), dim3(128), 0,
                    it, src.as<T>(), index.as<int64_t>(), y.as<T>(), n, src.strides[dim],
                    index.strides[dim], y.strides[dim], add);
    });
  DROPIN_SCRATCH(std::uint64_t, place, c, total);
  DROPIN_SCRATCH(std::uint32_t, position, c, total);
  DROPIN_TRY(launch(c, &places_kernel, dim3(blocks_for(c, total, 256)), dim3(256), 0, it,
                    index.as<int64_t>(), n, index.strides[dim], y.strides[dim], place.get(),
                    position.get()));
  int64_t last = 0;
  for (int k = 0; k < y.ndim; ++k) last += (y.sizes[k] - 1) * y.strides[k];
  DROPIN_TRY(sort_pairs(c, place.get(), position.get(), total,
                        significant_bits(static_cast<std::uint64_t>(last))));
  return visit_any(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &scatter_runs_kernel<T>, dim3(blocks_for(c, total, 128, 64)), dim3(128), 0, it,
                  place.get(), position.get(), total, src.as<T>(), y.as<T>(), src.strides[dim],
                  add);
  });
}

Status scatter_cuda(const KernelContext& c, const TensorIn& index, const TensorIn& src, int dim,
                    bool add, const TensorOut& y) {
  DROPIN_REQUIRE(dim >= 0 && dim < y.ndim && same_sizes(index, src) && src.ndim == y.ndim &&
                     src.dtype == y.dtype,
                 "sizes or dtypes do not fit");
  DROPIN_TRY(check_range(c, index, y.sizes[dim]));
  return scatter_into(c, index, src, dim, add, y);
}
Status index_add_cuda(const KernelContext& c, const TensorIn& index, const TensorIn& src, int dim,
                      const TensorOut& y) {
  DROPIN_REQUIRE(dim >= 0 && dim < y.ndim && index.ndim == 1 && src.ndim == y.ndim &&
                     src.dtype == y.dtype && src.sizes[dim] == index.sizes[0],
                 "sizes or dtypes do not fit");
  DROPIN_TRY(check_range(c, index, y.sizes[dim]));
  return scatter_into(c, along(index, dim, src), src, dim, true, y);
}

// --- nonzero: counts per block, their running sum, then every block writes its own

constexpr int kChunk = 1024;

__device__ inline bool true_at(DType t, const void* x, int64_t i) {
  switch (t) {
    case DType::Float32:
      return static_cast<const float*>(x)[i] != 0;
    case DType::Float64:
      return static_cast<const double*>(x)[i] != 0;
    case DType::BFloat16:
      return to_float(static_cast<const bf16*>(x)[i]) != 0;
    case DType::Float16:
      return to_float(static_cast<const f16*>(x)[i]) != 0;
    case DType::Int64:
      return static_cast<const int64_t*>(x)[i] != 0;
    case DType::Int32:
      return static_cast<const std::int32_t*>(x)[i] != 0;
    default:
      return static_cast<const std::uint8_t*>(x)[i] != 0;
  }
}
__global__ void count_kernel(DType t, const void* x, int64_t n, int64_t* counts) {
  __shared__ int room[32];
  int mine = 0;
  for (int k = threadIdx.x; k < kChunk; k += blockDim.x) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kChunk + k;
    mine += i < n && true_at(t, x, i);
  }
  mine = block_sum(mine, room);
  if (threadIdx.x == 0) counts[blockIdx.x] = mine;
}
__global__ void running_kernel(int64_t* counts, int64_t n) {  // exclusive, the total last
  __shared__ long long room[32];
  long long carried = 0;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t base = 0; base < n; base += blockDim.x) {
    const int64_t i = base + threadIdx.x;
    const long long own = i < n ? counts[i] : 0;
    long long v = own;
    for (int d = 1; d < 32; d <<= 1) {
      const long long before = __shfl_up_sync(kFull, v, d);
      if (lane >= d) v += before;
    }
    __syncthreads();
    if (lane == 31) room[warp] = v;
    __syncthreads();
    long long all = 0;
    for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) {
      if (w < warp) v += room[w];
      all += room[w];
    }
    if (i < n) counts[i] = carried + v - own;
    carried += all;
  }
  if (threadIdx.x == 0) counts[n] = carried;
}
__global__ void list_kernel(DType t, const void* x, int64_t n, const int64_t* starts,
                            int64_t* out) {
  int64_t to = starts[blockIdx.x];
  for (int k = threadIdx.x; k < kChunk; k += 32) {  // one warp
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kChunk + k;
    const bool yes = i < n && true_at(t, x, i);
    const unsigned all = __ballot_sync(kFull, yes);
    if (yes) out[to + __popc(all & ((1u << threadIdx.x) - 1))] = i;
    to += __popc(all);
  }
}
Status nonzero_cuda(const KernelContext& c, const TensorIn& x, const TensorOut& out,
                    int64_t* count) {
  DROPIN_REQUIRE(x.contiguous() && out.dtype == DType::Int64, "x must be contiguous, out int64");
  const int64_t n = x.numel(), blocks = ceil_div(n, kChunk);
  *count = 0;
  if (n == 0) return abi::ok();
  DROPIN_SCRATCH(int64_t, counts, c, blocks + 1);
  DROPIN_TRY(launch(c, &count_kernel, dim3(static_cast<unsigned>(blocks)), dim3(128), 0, x.dtype,
                    x.data, n, counts.get()));
  DROPIN_TRY(launch(c, &running_kernel, dim3(1), dim3(1024), 0, counts.get(), blocks));
  DROPIN_TRY(launch(c, &list_kernel, dim3(static_cast<unsigned>(blocks)), dim3(32), 0, x.dtype,
                    x.data, n, counts.get(), out.as<int64_t>()));
  return fetch(c, count, counts.get() + blocks, sizeof *count);
}

}  // namespace

void provide_index(KernelTable& t) {
  provide<gather, &gather_cuda>(t);
  provide<scatter, &scatter_cuda>(t);
  provide<index_select, &index_select_cuda>(t);
  provide<index_add, &index_add_cuda>(t);
  provide<nonzero, &nonzero_cuda>(t);
}

}  // namespace dropin::kernels::cuda
