// The search kernel against sorting every score in float64, over widths, counts and storages; ties,
// bits that do not depend on what else is searched, and what it refuses.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "dropin/tensor/tensor.h"
#include "kernels/arrays.h"
#include "kernels/search/kernel.h"
#include "support.h"

namespace dropin::testing {
namespace {

using kernels::SearchInputs;
using Rows = std::vector<std::vector<double>>;

struct Result {
  std::vector<int64_t> rows;
  std::vector<double> scores;
  Tensor raw;
};

Result best(SearchInputs in, const Tensor& queries, int64_t k) {
  in.queries = queries.in();
  const Tensor found = full({queries.size(0), k}, 77, kInt64),
               scores = full({queries.size(0), k}, 77, queries.dtype());
  run<kernels::search_best>(kCPU, in, found.out(), scores.out());
  return {found.to_vector<int64_t>(), scores.to_vector(), scores};
}

Rows rows_of(const Tensor& t) {
  Rows r;
  for (int64_t i = 0; i < t.size(0); ++i) r.push_back(t.select(0, i).to(kFloat64).to_vector());
  return r;
}

// The definition: every score, sorted.
Result by_sorting(const Tensor& queries, const Rows& rows, bool l2, int64_t k,
                  const std::vector<double>& factors, const std::vector<double>& terms) {
  Result r;
  for (const auto& q : rows_of(queries)) {
    std::vector<std::pair<double, int64_t>> all;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      double s = 0;
      for (std::size_t e = 0; e < q.size(); ++e)
        s += l2 ? -(q[e] - rows[i][e]) * (q[e] - rows[i][e]) : q[e] * rows[i][e];
      if (!factors.empty()) s = s * factors[i] + terms[i];
      all.emplace_back(-s, static_cast<int64_t>(i));
    }
    std::sort(all.begin(), all.end());
    for (std::size_t j = 0; j < static_cast<std::size_t>(k); ++j) {
      r.rows.push_back(j < all.size() ? all[j].second : -1);
      r.scores.push_back(j < all.size() ? -all[j].first : -INFINITY);
    }
  }
  return r;
}

void expect_same(const Result& got, const Result& want, double tolerance) {
  ASSERT_EQ(got.rows, want.rows);
  for (std::size_t i = 0; i < want.scores.size(); ++i) {
    if (std::isinf(want.scores[i])) {
      ASSERT_EQ(got.scores[i], want.scores[i]);
    } else {
      ASSERT_NEAR(got.scores[i], want.scores[i], tolerance) << i;
    }
  }
}

TEST(Search, FindsWhatSortingEveryScoreFinds) {
  int cases = 0;
  for (const int64_t width : {1, 3, 8, 15, 16, 17, 40})
    for (const int64_t count : {1, 2, 7, 8, 9, 131, 700})
      for (const int64_t queries : {1, 2, 3, 5, 50})
        for (const DType t : {kFloat32, kFloat64})
          for (const bool l2 : {false, true}) {
            SCOPED_TRACE(::testing::Message() << width << " " << count << " " << queries << l2);
            const Tensor rows = random({count, width}, t, 1), q = random({queries, width}, t, 2),
                         factors = random({count}, t, 3), terms = random({count}, t, 4);
            SearchInputs in;
            in.rows = rows.in();
            in.l2 = l2;
            if (count % 2) {
              in.factors = factors.in();
              in.terms = terms.in();
            }
            const bool ranked = count % 2;
            const int64_t k = queries % 3 + 4 * (width % 2) + 1;
            expect_same(
                best(in, q, k),
                by_sorting(q, rows_of(rows), l2, k,
                           ranked ? factors.to_vector() : std::vector<double>(), terms.to_vector()),
                t == kFloat32 ? 1e-4 : 1e-12);
            ++cases;
          }
  EXPECT_EQ(cases, 7 * 7 * 5 * 2 * 2);
}

TEST(Search, DecodesWhatIsStoredInFewerBits) {
  for (const int64_t width : {5, 16, 33})
    for (const int64_t queries : {1, 7})
      for (const DType query : {kFloat32, kFloat64}) {
        const Tensor q = random({queries, width}, query, 6),
                     values = random({90, width}, kFloat32, 5);
        for (const DType t : {kFloat16, kBFloat16, kFloat32}) {
          const Tensor rows = values.to(t);
          SearchInputs in;
          in.rows = rows.in();
          expect_same(best(in, q, 6), by_sorting(q, rows_of(rows), false, 6, {}, {}), 1e-4);
        }
        const Tensor codes = (values * 40.0).to(kInt8), steps = abs(random({90}, kFloat32, 8));
        SearchInputs in;
        in.rows = codes.in();
        in.steps = steps.in();
        Rows decoded = rows_of(codes);
        for (std::size_t i = 0; i < decoded.size(); ++i)
          for (double& v : decoded[i]) v *= steps.to_vector()[i];
        expect_same(best(in, q, 6), by_sorting(q, decoded, false, 6, {}, {}), 1e-3);
      }
}

TEST(Search, ChosenRowsInAnyOrderAndIdsBetweenEqualScores) {
  const Tensor rows = ones({6, 3}), q = ones({1, 3});
  const Tensor ids = tensor(std::vector<int64_t>{50, 40, 30, 20, 10, 0});
  const Tensor chosen = tensor(std::vector<int64_t>{1, 4, 2});
  SearchInputs in;
  in.rows = rows.in();
  EXPECT_EQ(best(in, q, 3).rows, (std::vector<int64_t>{0, 1, 2}));
  in.ids = ids.in();
  EXPECT_EQ(best(in, q, 3).rows, (std::vector<int64_t>{5, 4, 3}));
  in.chosen = chosen.in();
  EXPECT_EQ(best(in, q, 4).rows, (std::vector<int64_t>{4, 2, 1, -1}));
  const Tensor scores = empty({1, 3}), units = arange(0, 6).to(kFloat32);
  in.units = units.in();
  in.queries = q.in();
  run<kernels::search_scores>(kCPU, in, scores.out());
  expect_values(scores, {3, 12, 6});
}

TEST(Search, ScoresHaveTheSameBitsWhateverElseIsSearched) {
  const Tensor rows = random({1000, 37}, kFloat32, 1), q = random({51, 37}, kFloat32, 2);
  rows.select(0, 999).copy_(rows.select(0, 3));
  for (const bool l2 : {false, true}) {
    SearchInputs in;
    in.rows = rows.in();
    in.l2 = l2;
    const Result all = best(in, q, 1000);
    for (const int threads : {1, 2, 3}) {
      const WithThreads with(threads);
      const Result again = best(in, q, 1000);
      EXPECT_EQ(std::memcmp(all.raw.data_ptr(), again.raw.data_ptr(), 51 * 1000 * 4), 0);
      for (const int64_t one : {0, 17, 50}) {
        const Tensor alone = q.narrow(0, one, 1).contiguous();
        const Result r = best(in, alone, 1000);
        EXPECT_EQ(std::memcmp(r.raw.data<float>(), all.raw.data<float>() + one * 1000, 4000), 0);
        EXPECT_TRUE(std::equal(r.rows.begin(), r.rows.end(), all.rows.begin() + one * 1000));
        const auto first = std::find(r.rows.begin(), r.rows.end(), 3);
        EXPECT_EQ(*(first + 1), 999) << "an equal row comes next";
      }
    }
  }
}

TEST(Search, NothingToFindAndScoresThatAreNoNumbers) {
  const Tensor none = empty({0, 4}), q = ones({2, 4});
  SearchInputs in;
  in.rows = none.in();
  EXPECT_EQ(best(in, q, 2).rows, (std::vector<int64_t>{-1, -1, -1, -1}));
  const Tensor rows = ones({3, 4}), factors = tensor(std::vector<double>{NAN, -1, 2}).to(kFloat32);
  in.rows = rows.in();
  in.factors = factors.in();
  const Result r = best(in, q.narrow(0, 0, 1), 3);
  EXPECT_EQ(r.rows, (std::vector<int64_t>{2, 1, 0}));
  EXPECT_EQ(r.scores[2], -INFINITY);
}

TEST(Search, RefusesWhatDoesNotFit) {
  const Tensor rows = ones({3, 4}), q = ones({1, 4}), narrow = ones({1, 3}), two = ones({2});
  const Tensor beyond = tensor(std::vector<int64_t>{3});
  SearchInputs in;
  in.rows = rows.in();
  EXPECT_ERROR(best(in, narrow, 1), Error, "[Q, E] and rows [N, E]");
  EXPECT_ERROR(best(in, q.to(kInt64), 1), Error, "queries must be float32");
  SearchInputs other = in;
  other.factors = two.in();
  EXPECT_ERROR(best(other, q, 1), Error, "one value is expected for each row");
  other = in;
  other.chosen = beyond.in();
  EXPECT_ERROR(best(other, q, 1), Error, "a chosen row that is not there");
  other = in;
  const Tensor wide = rows.to(kFloat64), codes = rows.to(kInt8);
  other.rows = wide.in();
  EXPECT_ERROR(best(other, q, 1), Error, "no wider than the queries");
  other.rows = codes.in();
  EXPECT_ERROR(best(other, q, 1), Error, "steps belong to rows of int8");
}

}  // namespace
}  // namespace dropin::testing
