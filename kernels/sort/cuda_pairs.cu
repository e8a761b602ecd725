// The toolkit's radix sort, instantiated once: every sort of the plugin is one of 64-bit keys with
// 32-bit positions.
#include "kernels/sort/device_sort.h"

#ifdef __CUDACC__
#include <cub/device/device_radix_sort.cuh>

namespace dropin::kernels::cuda {

Status sort_pairs(const KernelContext& c, std::uint64_t* keys, std::uint32_t* values, int64_t n,
                  int bits) {
  if (n <= 1 || bits == 0) return abi::ok();
  DROPIN_SCRATCH(std::uint64_t, other_keys, c, n);
  DROPIN_SCRATCH(std::uint32_t, other_values, c, n);
  cub::DoubleBuffer<std::uint64_t> k(keys, other_keys.get());
  cub::DoubleBuffer<std::uint32_t> v(values, other_values.get());
  std::size_t bytes = 0;
  DROPIN_TRY(
      checked(cub::DeviceRadixSort::SortPairs(nullptr, bytes, k, v, n, 0, bits, stream_of(c)), c));
  DROPIN_SCRATCH(char, room, c, static_cast<int64_t>(bytes) + 1);
  DROPIN_TRY(checked(
      cub::DeviceRadixSort::SortPairs(room.get(), bytes, k, v, n, 0, bits, stream_of(c)), c));
  if (k.Current() != keys)
    DROPIN_TRY(
        checked(cudaMemcpyAsync(keys, k.Current(), static_cast<std::size_t>(n) * sizeof *keys,
                                cudaMemcpyDeviceToDevice, stream_of(c)),
                c));
  if (v.Current() != values)
    DROPIN_TRY(
        checked(cudaMemcpyAsync(values, v.Current(), static_cast<std::size_t>(n) * sizeof *values,
                                cudaMemcpyDeviceToDevice, stream_of(c)),
                c));
  return abi::ok();
}

}  // namespace dropin::kernels::cuda

#else  // the host executor's stand-in

#include <algorithm>
#include <numeric>
#include <vector>

namespace dropin::kernels::cuda {

__global__ void stand_in(std::uint64_t* keys, std::uint32_t* values, int64_t n) {
  std::vector<std::pair<std::uint64_t, std::uint32_t> > all(static_cast<std::size_t>(n));
  for (int64_t i = 0; i < n; ++i) all[static_cast<std::size_t>(i)] = {keys[i], values[i]};
  std::stable_sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.first < b.first; });
  for (int64_t i = 0; i < n; ++i)
    keys[i] = all[static_cast<std::size_t>(i)].first,
    values[i] = all[static_cast<std::size_t>(i)].second;
}
Status sort_pairs(const KernelContext& c, std::uint64_t* keys, std::uint32_t* values, int64_t n,
                  int) {
  return n > 1 ? launch(c, &stand_in, dim3(1), dim3(1), 0, keys, values, n) : abi::ok();
}

}  // namespace dropin::kernels::cuda

#endif
