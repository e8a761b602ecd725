// The values that each element of a reduction is made of.
#pragma once
#include "kernels/any_array.h"

namespace dropin::test {

inline Sizes kept(const Sizes& s, std::uint32_t mask) {
  Sizes k = s;
  for (std::size_t i = 0; i < s.size(); ++i)
    if (mask >> i & 1) k[i] = 1;
  return k;
}

/// The values that reduce into each output, in row-major order.
inline std::vector<std::vector<double>> groups(const Array& x, std::uint32_t mask) {
  const Sizes k = kept(x.sizes(), mask);
  std::vector<std::vector<double>> g(static_cast<std::size_t>(count(k)));
  for (int64_t i = 0; i < x.size(); ++i) {
    int64_t rest = i, to = 0, step = 1;
    for (int d = static_cast<int>(k.size()) - 1; d >= 0; --d) {
      const int64_t at = rest % x.sizes()[d];
      rest /= x.sizes()[d];
      if (!(mask >> d & 1)) to += at * step;
      step *= k[d];
    }
    g[static_cast<std::size_t>(to)].push_back(x[i]);
  }
  return g;
}

inline const Sizes kShapes[] = {{},        {1},        {7},         {5000},       {5, 7},
                                {300, 70}, {70, 300},  {3, 5, 7},   {20, 33, 19}, {2, 3, 4, 5},
                                {1, 9, 1}, {40000, 3}, {3, 41, 31}, {2, 9000}};

}  // namespace dropin::test
