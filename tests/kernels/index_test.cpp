#include <gtest/gtest.h>

#include "kernels/index/kernel.h"
#include "tests/kernels/arrays.h"

namespace dropin {
namespace {

using testing::Array;
using testing::WithThreads;
using I64 = Array<int64_t>;

I64 indices(std::vector<int64_t> sizes, int64_t limit, std::vector<int> order = {}) {
  return I64(sizes, order).random(11, 0, static_cast<double>(limit) - 1e-9);
}

template <class T>
class Index : public ::testing::Test {};
using Types = ::testing::Types<float, double, std::int32_t, int64_t, std::uint8_t>;
TYPED_TEST_SUITE(Index, Types);

TYPED_TEST(Index, GatherAndScatterAlongEveryDim) {
  using T = TypeParam;
  for (int threads : {1, 3})
    for (const auto& order : std::vector<std::vector<int>>{{0, 1, 2}, {2, 0, 1}})
      for (int dim = 0; dim < 3; ++dim) {
        WithThreads w(threads);
        const int64_t n[3] = {5, 6, 700};
        Array<T> x = Array<T>({n[0], n[1], n[2]}, order).random(1, 0, 100);
        std::vector<int64_t> s = {n[0], n[1] - 1, n[2]};
        s[dim] = 9;
        I64 at = indices(s, n[dim], order);
        Array<T> y(s), src = Array<T>(s, order).random(2, 0, 20);
        run<kernels::gather>(kCPU, x.in(), dim, at.in(), y.out());
        EXPECT_TRUE(y.guarded());
        Array<T> set = x, added = x, want_set = x, want_added = x;
        for (int64_t i = 0; i < s[0]; ++i)
          for (int64_t j = 0; j < s[1]; ++j)
            for (int64_t k = 0; k < s[2]; ++k) {
              int64_t p[3] = {i, j, k};
              p[dim] = at(i, j, k);
              ASSERT_EQ(y(i, j, k), x(p[0], p[1], p[2]));
              want_set(p[0], p[1], p[2]) = src(i, j, k);
              want_added(p[0], p[1], p[2]) += src(i, j, k);
            }
        run<kernels::scatter>(kCPU, at.in(), src.in(), dim, false, set.out());
        run<kernels::scatter>(kCPU, at.in(), src.in(), dim, true, added.out());
        for (int64_t i = 0; i < x.numel(); ++i) {
          ASSERT_EQ(set.data()[i], want_set.data()[i]);
          ASSERT_EQ(added.data()[i], want_added.data()[i]);
        }
      }
}

TYPED_TEST(Index, SelectAndAddAlongEveryDim) {
  using T = TypeParam;
  for (int threads : {1, 3})
    for (const auto& order : std::vector<std::vector<int>>{{0, 1, 2}, {1, 2, 0}})
      for (int dim = 0; dim < 3; ++dim) {
        WithThreads w(threads);
        const int64_t n[3] = {7, 40, 130};
        Array<T> x = Array<T>({n[0], n[1], n[2]}, order).random(1, 0, 100);
        std::vector<int64_t> s = {n[0], n[1], n[2]};
        s[dim] = 23;
        I64 at = indices({23}, n[dim]);
        Array<T> y(s), src = Array<T>(s, order).random(2, 0, 10), added = x, want = x;
        run<kernels::index_select>(kCPU, x.in(), dim, at.in(), y.out());
        run<kernels::index_add>(kCPU, at.in(), src.in(), dim, added.out());
        EXPECT_TRUE(y.guarded() && added.guarded());
        for (int64_t i = 0; i < s[0]; ++i)
          for (int64_t j = 0; j < s[1]; ++j)
            for (int64_t k = 0; k < s[2]; ++k) {
              int64_t p[3] = {i, j, k};
              p[dim] = at(p[dim]);
              ASSERT_EQ(y(i, j, k), x(p[0], p[1], p[2]));
            }
        for (int64_t u = 0; u < 23; ++u)
          for (int64_t i = 0; i < (dim == 0 ? 1 : s[0]); ++i)
            for (int64_t j = 0; j < (dim == 1 ? 1 : s[1]); ++j)
              for (int64_t k = 0; k < (dim == 2 ? 1 : s[2]); ++k) {
                int64_t from[3] = {i, j, k}, to[3] = {i, j, k};
                from[dim] = u, to[dim] = at(u);
                want(to[0], to[1], to[2]) += src(from[0], from[1], from[2]);
              }
        for (int64_t i = 0; i < x.numel(); ++i) ASSERT_EQ(added.data()[i], want.data()[i]);
      }
}

TYPED_TEST(Index, NarrowRowsAndSinglePicks) {
  using T = TypeParam;
  WithThreads w(3);
  for (int64_t width : {1, 2, 8, 9}) {
    Array<T> x = Array<T>({6, 5, width}).random(1, 0, 100), y({6, 40, width});
    I64 at = indices({40}, 5);
    run<kernels::index_select>(kCPU, x.in(), 1, at.in(), y.out());
    EXPECT_TRUE(y.guarded());
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t j = 0; j < 40; ++j)
        for (int64_t k = 0; k < width; ++k) ASSERT_EQ(y(i, j, k), x(i, at(j), k));
  }
  const int64_t n = 30000;
  Array<T> x = Array<T>({n, 7}).random(2, 0, 100), one({n, 1}), added = x,
           flat = Array<T>({n}).random(3, 0, 100), picked({n});
  I64 at = indices({n, 1}, 7), flat_at = indices({n}, n);
  run<kernels::gather>(kCPU, x.in(), 1, at.in(), one.out());
  run<kernels::scatter>(kCPU, at.in(), one.in(), 1, true, added.out());
  run<kernels::gather>(kCPU, flat.in(), 0, flat_at.in(), picked.out());
  EXPECT_TRUE(one.guarded() && added.guarded() && picked.guarded());
  for (int64_t i = 0; i < n; ++i) {
    ASSERT_EQ(one(i, 0), x(i, at(i, 0)));
    ASSERT_EQ(added(i, at(i, 0)), static_cast<T>(x(i, at(i, 0)) + one(i, 0)));
    ASSERT_EQ(picked(i), flat(flat_at(i)));
  }
}

TYPED_TEST(Index, NonzeroListsPositions) {
  using T = TypeParam;
  Array<T> x = Array<T>({1000}).random(3, 0, 3);
  for (int i = 0; i < 1000; i += 3) x(i) = 0;
  I64 out({1000});
  int64_t count = -1;
  run<kernels::nonzero>(kCPU, x.in(), out.out(), &count);
  int64_t n = 0;
  for (int64_t i = 0; i < 1000; ++i)
    if (x(i) != 0) {
      ASSERT_EQ(out(n++), i);
    }
  EXPECT_EQ(count, n);
  EXPECT_TRUE(out.guarded());
}

TEST(Index, AnIndexOutOfRangeWritesNothing) {
  Array<float> x = Array<float>({4, 3}).random(1), y = Array<float>({2, 3}).fill(5),
               src = Array<float>({2, 3}).fill(1);
  I64 at({2}), wide({2, 3});
  for (int64_t bad : {-1, 4}) {
    at(0) = 0, at(1) = bad;
    wide.fill(0)(1, 2) = bad;
    EXPECT_THROW(run<kernels::index_select>(kCPU, x.in(), 0, at.in(), y.out()), Error);
    EXPECT_THROW(run<kernels::gather>(kCPU, x.in(), 0, wide.in(), y.out()), Error);
    Array<float> z = x;
    EXPECT_THROW(run<kernels::index_add>(kCPU, at.in(), src.in(), 0, z.out()), Error);
    EXPECT_THROW(run<kernels::scatter>(kCPU, wide.in(), src.in(), 0, true, z.out()), Error);
    for (int i = 0; i < 12; ++i) EXPECT_EQ(z.data()[i], x.data()[i]);
    for (int i = 0; i < 6; ++i) EXPECT_EQ(y.data()[i], 5);
  }
}

TEST(Index, EmptyAndHalfAndBool) {
  Array<float> x({4, 0}), y({2, 0});
  I64 at({2}), none({0});
  at.fill(1);
  run<kernels::index_select>(kCPU, x.in(), 0, at.in(), y.out());
  Array<float> rows = Array<float>({4, 3}).random(1), nothing({0, 3}), same = rows;
  run<kernels::index_select>(kCPU, rows.in(), 0, none.in(), nothing.out());
  run<kernels::index_add>(kCPU, none.in(), nothing.in(), 0, rows.out());
  for (int i = 0; i < 12; ++i) EXPECT_EQ(rows.data()[i], same.data()[i]);
  Array<bfloat16> h({3}), add({2});
  h.fill(1.0f), add.fill(2.0f);
  run<kernels::index_add>(kCPU, at.in(), add.in(), 0, h.out());
  EXPECT_EQ(static_cast<float>(h(1)), 5.0f);
  Array<bool> flags({3}), more({2});
  flags.fill(false), more.fill(true);
  run<kernels::index_add>(kCPU, at.in(), more.in(), 0, flags.out());
  EXPECT_TRUE(!flags(0) && flags(1) && !flags(2));
}

}  // namespace
}  // namespace dropin
