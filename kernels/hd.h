// Functions that both a CPU's and a CUDA compiler turn into code.
#pragma once
#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define DROPIN_HD __host__ __device__
#else
#define DROPIN_HD
#endif

namespace dropin {

/// The least whole number that is not below a / b; b > 0.
DROPIN_HD constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return a / b + (a % b > 0 ? 1 : 0);
}

namespace kernels {
template <class T>
inline constexpr T kInf = std::numeric_limits<T>::infinity();
}

}  // namespace dropin
