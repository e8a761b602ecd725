// Masks of large numbers, and scores whose sums are exact.
#pragma once
#include <limits>

#include "support.h"

namespace dropin {

inline constexpr double kInf = std::numeric_limits<double>::infinity(),
                        kLeast = -3.4028234663852886e38;

/// Multiples of 1/2, small: scores are exact in float32, also beside 1e4.
inline Tensor halves(const Shape& s, std::uint64_t seed) {
  Generator g(seed);
  return round(rand(s, kFloat64, &g) * 4 - 2) / 2;
}

struct Mask {
  std::string name;
  double value;
  bool whole_rows;  // else every third key of a row, by its number
};

inline void PrintTo(const Mask& m, std::ostream* os) { *os << m.name; }

inline std::vector<Mask> masks() {
  return {{"1e4", -1e4, true},        {"1e9", -1e9, true},          {"least", kLeast, true},
          {"minus_inf", -kInf, true}, {"plus_inf", kInf, true},     {"some_1e4", -1e4, false},
          {"some_1e9", -1e9, false},  {"some_least", kLeast, false}};
}

/// Rows of 5 are masked as a whole and their neighbours not, or every third key of all rows.
inline Tensor mask_of(const Mask& m, int64_t queries, int64_t keys) {
  Tensor t = zeros({queries, keys}, kFloat64);
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t j = 0; j < keys; ++j)
      if (m.whole_rows ? i % 5 == 2 : (i + j) % 3 == 0) t.data<double>()[i * keys + j] = m.value;
  return t;
}

}  // namespace dropin
