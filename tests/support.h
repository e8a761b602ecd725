// What the tests share.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>

#include "dropin/core/error.h"
#include "dropin/ops/ops.h"

/// The statement throws dropin::TYPE whose message contains TEXT.
#define EXPECT_ERROR(STATEMENT, TYPE, TEXT)                                                    \
  try {                                                                                        \
    STATEMENT;                                                                                 \
    ADD_FAILURE() << "expected " #TYPE " \"" << TEXT << "\", nothing was thrown";              \
  } catch (const dropin::TYPE& e) {                                                            \
    EXPECT_NE(std::string(e.what()).find(TEXT), std::string::npos) << "message: " << e.what(); \
  } catch (const std::exception& e) {                                                          \
    ADD_FAILURE() << "expected " #TYPE ", got another exception: " << e.what();                \
  }

namespace dropin::testing {

/// Greatest absolute difference; infinite when the shapes differ or one is NaN where the other is
/// not.
inline double max_difference(const Tensor& a, const Tensor& b) {
  if (!(a.sizes() == b.sizes())) return INFINITY;
  const auto x = a.to_vector(), y = b.to_vector();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) && std::isnan(y[i])) continue;
    if (x[i] == y[i]) continue;
    const double d = std::abs(x[i] - y[i]);
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
  }
  return worst;
}

inline void expect_values(const Tensor& t, const std::vector<double>& want,
                          double tolerance = 1e-6) {
  const auto got = t.to_vector();
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(want[i]))
      EXPECT_TRUE(std::isnan(got[i])) << "at " << i;
    else if (std::isinf(want[i]))
      EXPECT_EQ(got[i], want[i]) << "at " << i;
    else
      EXPECT_NEAR(got[i], want[i], tolerance) << "at " << i;
  }
}

/// Where tests that run on any device run: what DROPIN_TEST_DEVICE names, else the CPU.
inline const Device& device() {
  static const Device d = [] {
    const char* text = std::getenv("DROPIN_TEST_DEVICE");
    return text && *text ? Device(text) : kCPU;
  }();
  return d;
}

inline Tensor random(const Shape& sizes, DType dtype = kFloat64, std::uint64_t seed = 7) {
  Generator g(seed);
  return randn(sizes, {dtype, device()}, &g);
}

}  // namespace dropin::testing
