#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/sort/kernel.h"
#include "tests/kernels/arrays.h"

namespace dropin {
namespace {

using testing::Array;
using testing::WithThreads;

template <class T>
bool less(T a, T b) {
  const double x = static_cast<double>(a), y = static_cast<double>(b);
  return std::isnan(y) ? !std::isnan(x) : x < y;
}

template <class T>
Array<T> some(int64_t rows, int64_t n) {
  Array<T> x({rows, n});
  std::mt19937 r(7);
  for (int64_t i = 0; i < x.numel(); ++i) {
    if constexpr (std::is_integral_v<T>)
      x.data()[i] = static_cast<T>(r() % 200 - (std::is_signed_v<T> ? 100 : 0));
    else
      x.data()[i] = static_cast<T>(static_cast<float>(static_cast<int>(r() % 400) - 200) * 0.25f);
    if constexpr (!std::is_integral_v<T>) {
      if (r() % 17 == 0) x.data()[i] = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
      if (r() % 17 == 0) x.data()[i] = static_cast<T>(r() % 2 ? -0.0f : 0.0f);
      if (r() % 37 == 0)
        x.data()[i] = static_cast<T>(r() % 2 ? -std::numeric_limits<float>::infinity()
                                             : std::numeric_limits<float>::infinity());
    }
  }
  return x;
}

template <class T>
std::vector<int64_t> order_of(const T* row, int64_t n, bool descending) {
  std::vector<int64_t> at(n);
  std::iota(at.begin(), at.end(), 0);
  std::stable_sort(at.begin(), at.end(), [&](auto a, auto b) {
    return descending ? less(row[b], row[a]) : less(row[a], row[b]);
  });
  return at;
}

template <class T>
class Sort : public ::testing::Test {};
using Types = ::testing::Types<float, double, bfloat16, float16, std::int8_t, std::uint8_t,
                               std::int32_t, int64_t, bool>;
TYPED_TEST_SUITE(Sort, Types);

TYPED_TEST(Sort, IsStableWithNaNLargest) {
  using T = TypeParam;
  for (int threads : {1, 3})
    for (auto [rows, n] : std::vector<std::array<int64_t, 2>>{{3, 1},
                                                              {40, 13},
                                                              {20, 50},
                                                              {40, 100},
                                                              {9, 200},
                                                              {5, 1000},
                                                              {1, 70000},
                                                              {2, 0},
                                                              {0, 5}})
      for (bool descending : {false, true}) {
        WithThreads t(threads);
        Array<T> x = some<T>(rows, n), values({rows, n});
        Array<int64_t> at({rows, n});
        run<kernels::sort>(kCPU, x.in(), descending, values.out(), at.out());
        EXPECT_TRUE(values.guarded() && at.guarded());
        for (int64_t r = 0; r < rows; ++r) {
          const auto want = order_of(x.data() + r * n, n, descending);
          for (int64_t i = 0; i < n; ++i) {
            ASSERT_EQ(at(r, i), want[i]);
            ASSERT_EQ(std::memcmp(&values(r, i), &x(r, want[i]), sizeof(T)), 0);
          }
        }
      }
}

TYPED_TEST(Sort, TopkIsTheBeginningOfTheSortedRow) {
  using T = TypeParam;
  for (auto [rows, n, k] : std::vector<std::array<int64_t, 3>>{{3, 1, 1},
                                                               {40, 100, 1},
                                                               {9, 8, 8},
                                                               {5, 1000, 7},
                                                               {3, 300, 16},
                                                               {3, 300, 17},
                                                               {2, 5000, 900},
                                                               {3, 60, 60},
                                                               {2, 10, 0}})
    for (bool largest : {false, true}) {
      Array<T> x = some<T>(rows, n), values({rows, k});
      Array<int64_t> at({rows, k});
      run<kernels::topk>(kCPU, x.in(), k, largest, values.out(), at.out());
      EXPECT_TRUE(values.guarded() && at.guarded());
      for (int64_t r = 0; r < rows; ++r) {
        const auto want = order_of(x.data() + r * n, n, largest);
        for (int64_t i = 0; i < k; ++i) {
          ASSERT_EQ(at(r, i), want[i]);
          ASSERT_EQ(std::memcmp(&values(r, i), &x(r, want[i]), sizeof(T)), 0);
        }
      }
    }
}

TEST(SortErrors, KBeyondTheRowIsRefused) {
  Array<float> x({2, 3}), v({2, 4});
  Array<int64_t> at({2, 4});
  EXPECT_THROW(run<kernels::topk>(kCPU, x.in(), int64_t{4}, true, v.out(), at.out()), Error);
}

}  // namespace
}  // namespace dropin
