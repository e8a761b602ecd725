// The dynamic map of 8-bit states (Dettmers et al. 2022): 256 values, dense near 0, in seven decades of equal cells.
#pragma once
#include <cmath>
#include <cstdint>

namespace dropin::kernels {

/// A map and what encoding needs of it. Code = index; `mid[c]` lies half way between values c and c + 1.
struct DynamicMap {
  float value[256];
  float mid[255];
  int zero;  ///< code of 0: 127 signed, 0 unsigned
  // Encoding without a search, for 0 <= x <= 1 but next to midpoints. In decade i the midpoints lie on a line in x that reaches 2^(i + base) where the
  // decade begins, so y = min over the decades' lines is (the code counted from `zero`) + base, but that the step into a decade comes 0.2 late. With p the power
  // of two below y, floor(max(min(y, 2 y - p - 0.4), last_slope x + last_offset)) is right there too, and at the last step.
  static constexpr int kDecades = 7;
  int base;  ///< 0 signed, 1 unsigned
  float slope[kDecades], offset[kDecades], last_slope, last_offset;
  // Decoding without a table: |value| = decade_slope[e & 7] r + decade_offset[e & 7] to 2 ulp, where r = u - 2^(e - 127), e the biased exponent of u, and
  // u = |code - zero| + 0.5 (signed) or code * (1 + 1/256) + 1 (unsigned).
  float decade_slope[8], decade_offset[8];

  explicit DynamicMap(bool is_signed) : zero(is_signed ? 127 : 0), base(is_signed ? 0 : 1) {
    // Every product and sum is rounded to float by itself; doubles hold them exactly before.
    auto product = [](double a, double b) { return static_cast<float>(a * b); };
    auto sum = [](double a, double b) { return static_cast<float>(a + b); };
    int k = zero;
    value[k] = 0;
    for (int i = 0; i < 7; ++i) {
      const int n = is_signed ? 1 << i : 2 << i;
      const float d = sum(1.0f, -0.1f) / static_cast<float>(n), power = static_cast<float>(std::pow(10.0, i - 6));
      auto border = [&](int j) { return j < (n + 1) / 2 ? sum(0.1f, product(d, j)) : sum(1.0, -product(d, n - j)); };
      for (int j = 0; j < n; ++j) value[++k] = product(power, product(sum(border(j), border(j + 1)), 0.5));
    }
    value[255] = 1;
    if (is_signed)
      for (int c = 1; c <= 127; ++c) value[127 - c] = -value[127 + c];
    for (int c = 0; c < 255; ++c) mid[c] = product(sum(value[c], value[c + 1]), 0.5);
    make_lines(is_signed);
    for (int i = 0; i < 7; ++i) {
      const int e = i + base;
      const double power = std::pow(10.0, i - 6), cells = 1 << e, stretch = is_signed ? 1 : 257.0 / 256, cell = 0.9 * power / cells;
      decade_slope[(127 + e) & 7] = static_cast<float>(cell / stretch);
      decade_offset[(127 + e) & 7] = static_cast<float>(is_signed ? 0.1 * power : 0.1 * power + cell / 2 - cell / stretch * (cells - 1) / 256);
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
    auto line = [&](int i, double x, double y, double steep) {  // through (x, y)
      slope[i] = static_cast<float>(steep);
      offset[i] = static_cast<float>(y - steep * x);
    };
    for (int i = 0; i < kDecades; ++i) {
      const double cells = is_signed ? 1 << i : 2 << i, bottom = std::pow(10.0, i - 7);
      line(i, bottom, 1 << (i + base), cells / (9 * bottom));
    }
    // the step away from 0 must come 0.2 late as well; the next is at the decade's only inner midpoint, or its end
    const double first = mid[zero], next = is_signed ? 1e-6 : 5.5e-7;
    line(0, first, (1 << base) + 0.2, 0.8 / (next - first));
    const double steep = 1.5 / (static_cast<double>(mid[254]) - mid[253]);
    last_slope = static_cast<float>(steep);
    last_offset = static_cast<float>(255 - zero + base - steep * mid[254]);
  }
};

inline const DynamicMap& dynamic_map(bool is_signed) {
  static const DynamicMap maps[2] = {DynamicMap(false), DynamicMap(true)};
  return maps[is_signed];
}

}  // namespace dropin::kernels
