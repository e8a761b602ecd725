// Dtypes that the tests of element-wise kernels go through.
#pragma once
#include "kernels/any_array.h"

namespace dropin::test {

inline constexpr DType kInts[] = {kInt8, kUInt8, kInt32, kInt64};

inline constexpr DType kAll[] = {kFloat32, kFloat64, kBFloat16, kFloat16, kInt8,
                                 kUInt8,   kInt32,   kInt64,    kBool};

inline double converted(double v, DType from, DType to) {
  if (to == kBool) return v != 0;
  if (is_floating(to) || !is_floating(from)) return v;
  if (std::isnan(v)) return 0;
  const double lo = to == kInt8 ? -128 : to == kUInt8 ? 0 : to == kInt32 ? -2147483648.0 : -0x1p63;
  const double hi = to == kInt8 ? 127 : to == kUInt8 ? 255 : to == kInt32 ? 2147483647.0 : 0x1p63;
  return std::trunc(std::min(std::max(v, lo), hi));
}

}  // namespace dropin::test
