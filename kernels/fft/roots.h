// Roots of unity in double precision.
#pragma once
#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>

namespace dropin::kernels {

/// exp(-2 pi i k / n), accurate to the last bits: the angle is reduced to an eighth of a turn with
/// whole numbers. 0 <= k.
inline void root(int64_t k, int64_t n, double& re, double& im) {
  k %= n;
  const bool lower = 2 * k > n;  // the conjugate half
  if (lower) k = n - k;
  const bool second = 4 * k > n;
  int64_t num = second ? n - 2 * k : 2 * k;  // angle = pi num / n, at most pi / 2
  const bool swap = 4 * num > n;
  if (swap) num = n - 2 * num;  // what is left to pi / 2: pi num / (2 n)
  const double a =
      std::numbers::pi * static_cast<double>(num) / static_cast<double>(swap ? 2 * n : n);
  double c = std::cos(a), s = std::sin(a);
  if (swap) std::swap(c, s);
  re = second ? -c : c;
  im = lower ? s : -s;
}

}  // namespace dropin::kernels
