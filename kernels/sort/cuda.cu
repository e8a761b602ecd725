// sort and topk: values become keys in the wanted order (NaN largest), all rows are sorted at once
// by (row, key). 8-byte types take two stable sorts.
#include "kernels/cuda/device.h"
#include "kernels/sort/device_sort.h"
#include "kernels/sort/kernel.h"

namespace dropin::kernels::cuda {
namespace {

template <class T>
__device__ std::uint64_t key_of(T v, bool descending) {
  std::uint64_t k;
  constexpr int bits = static_cast<int>(sizeof(T) == 8 ? 64 : 32);
  constexpr std::uint64_t top = std::uint64_t{1} << (bits - 1),
                          all = bits == 64 ? ~std::uint64_t{0} : 0xffffffffull;
  if constexpr (std::is_floating_point_v<ComputeOf<T>>) {
    const auto x = wide<T>(v);
    if (x != x)
      k = all;
    else {
      const auto zero = x == 0 ? ComputeOf<T>(0) : x;  // -0 equals 0
      if constexpr (bits == 64)
        k = static_cast<std::uint64_t>(double_bits(zero));
      else
        k = static_cast<std::uint32_t>(float_bits(zero));
      k = k & top ? ~k & all : k | top;
    }
  } else {
    k = (static_cast<std::uint64_t>(static_cast<int64_t>(v)) ^ top) & all;
  }
  return descending ? ~k & all : k;
}

template <class T>
__global__ void keys_kernel(const T* x, int64_t n, int64_t total, bool descending,
                            std::uint64_t* keys, std::uint32_t* positions) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const std::uint64_t k = key_of(x[i], descending);
    keys[i] = sizeof(T) == 8 ? k : static_cast<std::uint64_t>(i / n) << 32 | k;
    positions[i] = static_cast<std::uint32_t>(i);
  }
}
__global__ void rows_kernel(const std::uint32_t* positions, int64_t n, int64_t total,
                            std::uint64_t* keys) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    keys[i] = positions[i] / n;
}
template <class T>
__global__ void take_kernel(const T* x, const std::uint32_t* positions, int64_t n, int64_t k,
                            int64_t rows, T* values, int64_t* indices) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * k;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t r = i / k, from = positions[r * n + i % k];
    values[i] = x[from];
    indices[i] = from - r * n;
  }
}

Status best(const KernelContext& c, const TensorIn& x, int64_t k, bool descending,
            const TensorOut& values, const TensorOut& indices) {
  DROPIN_REQUIRE(values.dtype == x.dtype && indices.dtype == DType::Int64 && x.contiguous() &&
                     values.contiguous() && indices.contiguous(),
                 "arrays must be contiguous, values of x's type, indices int64");
  const int64_t n = x.ndim ? x.sizes[x.ndim - 1] : 1, total = x.numel(), rows = n ? total / n : 0;
  DROPIN_REQUIRE(k >= 0 && k <= n && values.numel() == rows * k && indices.numel() == rows * k,
                 "sizes do not fit");
  DROPIN_REQUIRE(total < 0xffffffffll, "more than 2^32 values at once");
  if (rows == 0 || k == 0) return abi::ok();
  DROPIN_SCRATCH(std::uint64_t, keys, c, total);
  DROPIN_SCRATCH(std::uint32_t, positions, c, total);
  return visit_any(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    const dim3 grid(blocks_for(c, total, 256)), block(256);
    const int row_bits = significant_bits(static_cast<std::uint64_t>(rows - 1));
    DROPIN_TRY(launch(c, &keys_kernel<T>, grid, block, 0, x.as<T>(), n, total, descending,
                      keys.get(), positions.get()));
    DROPIN_TRY(
        sort_pairs(c, keys.get(), positions.get(), total, sizeof(T) == 8 ? 64 : 32 + row_bits));
    if (sizeof(T) == 8 && rows > 1) {
      DROPIN_TRY(launch(c, &rows_kernel, grid, block, 0, positions.get(), n, total, keys.get()));
      DROPIN_TRY(sort_pairs(c, keys.get(), positions.get(), total, row_bits));
    }
    return launch(c, &take_kernel<T>, dim3(blocks_for(c, rows * k, 256)), block, 0, x.as<T>(),
                  positions.get(), n, k, rows, values.as<T>(), indices.as<int64_t>());
  });
}

Status sort_cuda(const KernelContext& c, const TensorIn& x, bool descending,
                 const TensorOut& values, const TensorOut& indices) {
  return best(c, x, x.ndim ? x.sizes[x.ndim - 1] : 1, descending, values, indices);
}
Status topk_cuda(const KernelContext& c, const TensorIn& x, int64_t k, bool largest,
                 const TensorOut& values, const TensorOut& indices) {
  return best(c, x, k, largest, values, indices);
}

}  // namespace

void provide_sort(KernelTable& t) {
  provide<sort, &sort_cuda>(t);
  provide<topk, &topk_cuda>(t);
}

}  // namespace dropin::kernels::cuda
