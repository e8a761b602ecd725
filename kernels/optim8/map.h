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
  // Codes counted from `zero` are floor(max(min_j(slope[j] x + offset[j]), last_slope x + last_offset)) for 0 <= x <= 1 but next to midpoints: all
  // midpoints but the last lie on a concave chain of lines, two per decade (the step into it; its equal cells).
  static constexpr int kLines = 14;
  float slope[kLines], offset[kLines], last_slope, last_offset;

  explicit DynamicMap(bool is_signed) : zero(is_signed ? 127 : 0) {
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
    int lines = 0;
    auto add = [&](double x, double y, double s) {  // through (x, y)
      slope[lines] = static_cast<float>(s);
      offset[lines++] = static_cast<float>(y - s * x);
    };
    add(mid[zero], 1, 0.5 / mid[zero]);  // 0 lies in the middle of its cell
    int base = 1;                        // codes below decade i
    double width = 0;
    for (int i = 0; i < 7; ++i) {
      const int n = is_signed ? 1 << i : 2 << i;
      const double bottom = std::pow(10.0, i - 7);
      if (i > 0) add(mid[zero + base - 1], base, 1 / (3 * width));
      width = 9 * bottom / n;
      if (n > 1) add(bottom, base, 1 / width);
      base += n;
    }
    const int last = 254 - zero;
    const double steep = 1.5 / (static_cast<double>(mid[zero + last]) - mid[zero + last - 1]);
    last_slope = static_cast<float>(steep);
    last_offset = static_cast<float>(last + 1 - steep * mid[zero + last]);
    while (lines < kLines) slope[lines] = slope[0], offset[lines] = offset[0], ++lines;
  }
};

inline const DynamicMap& dynamic_map(bool is_signed) {
  static const DynamicMap maps[2] = {DynamicMap(false), DynamicMap(true)};
  return maps[is_signed];
}

}  // namespace dropin::kernels
