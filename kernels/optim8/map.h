// The dynamic map of 8-bit states (Dettmers et al. 2022): 256 values, dense near 0, in seven
// decades of equal cells.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/hd.h"

namespace dropin::kernels {

/// The code nearest to x, where c is at most one off; ties: the even code. mid: the map's
/// midpoints.
DROPIN_HD inline int settled(const float* mid, int c, float x) {
  if (c < 255 && (x > mid[c] || (x == mid[c] && (c & 1)))) return c + 1;
  if (c > 0 && (x < mid[c - 1] || (x == mid[c - 1] && (c & 1)))) return c - 1;
  return c;
}

/// A map and what encoding needs of it. Code = index; `mid[c]` lies half way between values c and c
/// + 1.
struct DynamicMap {
  float value[256];
  float mid[255];
  int zero;  ///< code of 0: 127 signed, 0 unsigned
  // Encoding without a search, for 0 <= x <= 1 but next to midpoints. In decade i the midpoints lie
  // on a line in x that reaches 2^(i + base) where the decade begins. The least of these lines, y =
  // start[0] + sum less[j] min(x, bend[j]) + slope x + more max(x, end), is (the code counted from
  // `zero`) + base, but that the step into a decade comes 0.2 late; the last term makes the last
  // step 0.2 late too. With p the power of two below y, floor(min(y, 2 y - p - 0.4)) is right there
  // too. All y are kBias too large, more than their rounding: a code may be wrong only where the
  // floor leaves less than 4 kBias. start[i] is for x in decade i and above, whose terms below are
  // constant.
  static constexpr int kDecades = 7;
  static constexpr float kBias = 1e-4f;
  int base;  ///< 0 signed, 1 unsigned
  float start[kDecades], bend[kDecades], less[kDecades], slope, more, end;
  // The same, each as often as the widest vector has lanes: operands in memory, which need no
  // register and no broadcast.
  static constexpr int kWide = 16;
  alignas(64) float wide_start[kDecades][kWide], wide_bend[kDecades][kWide],
      wide_less[kDecades][kWide], wide_slope[kWide], wide_more[kWide], wide_end[kWide];
  // Decoding without a table: |value| = decade_slope[e & 7] r + decade_offset[e & 7] to 2 ulp,
  // where r = u - 2^(e - 127), e the biased exponent of u, and u = |code - zero| + 0.5 (signed) or
  // code * (1 + 1/256) + 1 (unsigned).
  float decade_slope[8], decade_offset[8];

  explicit DynamicMap(bool is_signed) : zero(is_signed ? 127 : 0), base(is_signed ? 0 : 1) {
    // Every product and sum is rounded to float by itself; doubles hold them exactly before.
    auto product = [](double a, double b) { return static_cast<float>(a * b); };
    auto sum = [](double a, double b) { return static_cast<float>(a + b); };
    int k = zero;
    value[k] = 0;
    for (int i = 0; i < 7; ++i) {
      const int n = is_signed ? 1 << i : 2 << i;
      const float d = sum(1.0f, -0.1f) / static_cast<float>(n),
                  power = static_cast<float>(std::pow(10.0, i - 6));
      auto border = [&](int j) {
        return j < (n + 1) / 2 ? sum(0.1f, product(d, j)) : sum(1.0, -product(d, n - j));
      };
      for (int j = 0; j < n; ++j)
        value[++k] = product(power, product(sum(border(j), border(j + 1)), 0.5));
    }
    value[255] = 1;
    if (is_signed)
      for (int c = 1; c <= 127; ++c) value[127 - c] = -value[127 + c];
    for (int c = 0; c < 255; ++c) mid[c] = product(sum(value[c], value[c + 1]), 0.5);
    make_lines(is_signed);
    for (int i = 0; i < 7; ++i) {
      const int e = i + base;
      const double power = std::pow(10.0, i - 6), cells = 1 << e,
                   stretch = is_signed ? 1 : 257.0 / 256, cell = 0.9 * power / cells;
      decade_slope[(127 + e) & 7] = static_cast<float>(cell / stretch);
      decade_offset[(127 + e) & 7] = static_cast<float>(
          is_signed ? 0.1 * power : 0.1 * power + cell / 2 - cell / stretch * (cells - 1) / 256);
    }
    const int ends = is_signed ? 6 : 7;  // the eighth pair serves both 0 and 1
    decade_slope[ends] = is_signed ? 2 : 256.0f / 255;
    decade_offset[ends] = 0;
  }

  /// The nearest code; on a tie the even one. x in [-1, 1].
  int nearest(float x) const {
    int c = 0;  // midpoints below x
    for (int step = 128; step > 0; step /= 2)
      if (c + step <= 255 && x > mid[c + step - 1]) c += step;
    return c < 255 && x == mid[c] ? c + (c & 1) : c;
  }

 private:
  void make_lines(bool is_signed) {
    double steep[kDecades], at0[kDecades];
    auto line = [&](int i, double x, double y, double s) {
      steep[i] = s, at0[i] = y - s * x;
    };  // through (x, y)
    for (int i = 0; i < kDecades; ++i) {
      const double cells = is_signed ? 1 << i : 2 << i, bottom = std::pow(10.0, i - 7);
      line(i, bottom, 1 << (i + base), cells / (9 * bottom));
    }
    // the step away from 0 must come 0.2 late as well; the next is at the decade's only inner
    // midpoint, or its end
    const double first = mid[zero], next = is_signed ? 1e-6 : 5.5e-7;
    line(0, first, (1 << base) + 0.2, 0.8 / (next - first));
    slope = static_cast<float>(steep[kDecades - 1]);
    end = mid[253];
    more = static_cast<float>(
        (255 - zero + base + 0.2 - at0[kDecades - 1] - slope * static_cast<double>(mid[254])) /
        (static_cast<double>(mid[254]) - end));
    double sum = at0[0] + kBias - static_cast<double>(more) * end;
    bend[0] = less[0] = 0;
    for (int i = 0; i < kDecades; ++i) {
      if (i > 0) {
        bend[i] = static_cast<float>((at0[i] - at0[i - 1]) / (steep[i - 1] - steep[i]));
        less[i] = static_cast<float>(steep[i - 1] - steep[i]);
        sum += static_cast<double>(less[i]) * bend[i];
      }
      start[i] = static_cast<float>(sum);
    }
    for (int k = 0; k < kWide; ++k) {
      for (int i = 0; i < kDecades; ++i)
        wide_start[i][k] = start[i], wide_bend[i][k] = bend[i], wide_less[i][k] = less[i];
      wide_slope[k] = slope, wide_more[k] = more, wide_end[k] = end;
    }
  }
};

inline const DynamicMap& dynamic_map(bool is_signed) {
  static const DynamicMap maps[2] = {DynamicMap(false), DynamicMap(true)};
  return maps[is_signed];
}

}  // namespace dropin::kernels
