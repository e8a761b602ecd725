// Functions that both a CPU's and a CUDA compiler turn into code.
#pragma once
#include <cstddef>
#include <limits>

#include "dropin/abi/abi.h"

#ifdef __CUDACC__
#define DROPIN_HD __host__ __device__
#else
#define DROPIN_HD
#endif

namespace dropin {

/// The least whole number that is not below a / b; b > 0.
DROPIN_HD constexpr int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0 ? 1 : 0); }

/// A number of the library as an index of the standard library's containers; i >= 0.
DROPIN_HD constexpr std::size_t at(int64_t i) { return static_cast<std::size_t>(i); }

namespace kernels {
template <class T>
inline constexpr T kInf = std::numeric_limits<T>::infinity();
}

}  // namespace dropin
