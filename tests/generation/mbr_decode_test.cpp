// Minimum Bayes risk decoding: utilities by hand, ties, weights, approximations, bad input.
#include "dropin/generation/mbr_decode.h"

#include <cmath>

#include "kernels/hd.h"
#include "support.h"

namespace dropin::testing {
namespace {

// Rows of ids, padded with 99.
Candidates rows(const std::vector<std::vector<int64_t>>& all) {
  std::size_t width = 1;
  for (const auto& r : all) width = std::max(width, r.size());
  std::vector<int64_t> flat, lengths;
  for (auto r : all) {
    lengths.push_back(static_cast<int64_t>(r.size()));
    r.resize(width, 99);
    flat.insert(flat.end(), r.begin(), r.end());
  }
  Candidates c;
  const auto n = static_cast<int64_t>(all.size());
  c.candidates = tensor(flat, {n, static_cast<int64_t>(width)});
  c.lengths = tensor(lengths);
  return c;
}
Candidates random_rows(int64_t n, int64_t width, std::uint64_t seed) {
  Generator g(seed);
  Candidates c;
  c.candidates = randint(0, 5, {n, width}, kInt64, &g);
  c.lengths = randint(0, width + 1, {n}, kInt64, &g);
  return c;
}
double utility(const MbrDecodeOptions& o, const std::vector<int64_t>& h,
               const std::vector<int64_t>& r) {
  Candidates c = rows({h});
  const Candidates other = rows({r});
  c.references = other.candidates;
  c.reference_lengths = other.lengths;
  return mbr_decode(c, o).scores[0].item();
}

TEST(MbrDecode, UtilitiesByHand) {
  const std::vector<int64_t> h{1, 2, 3, 4}, r{1, 3, 4, 5, 6};
  EXPECT_NEAR(utility({.utility = "rouge1"}, h, r), 6.0 / 9, 1e-6);
  EXPECT_NEAR(utility({.utility = "rouge2"}, h, r), 2.0 / 7, 1e-6);
  EXPECT_NEAR(utility({.utility = "rouge2", .score = "recall"}, h, r), 0.25, 1e-6);
  EXPECT_NEAR(utility({.utility = "rouge9"}, h, r), 0, 0);
  EXPECT_NEAR(utility({.utility = "rougeL", .score = "precision"}, h, r), 0.75, 1e-6);
  EXPECT_NEAR(utility({.utility = "lcs"}, h, r), 0.6, 1e-6);
  EXPECT_NEAR(utility({.utility = "edit"}, h, r), 0.4, 1e-6);
  EXPECT_NEAR(utility({.utility = "exact_match"}, h, h), 1, 0);
  EXPECT_NEAR(utility({.utility = "bleu"}, h, h), 1, 1e-6);
  const double brief = std::exp(1 - 5.0 / 4), p = 0.75 * (1.0 / 3) * (1.0 / 4) * (1.0 / 4);
  EXPECT_NEAR(utility({.utility = "bleu"}, h, r), brief * std::pow(p, 0.25), 1e-6);
  for (const char* name : {"lcs", "edit", "exact_match"})
    EXPECT_EQ(utility({.utility = name}, {}, {}), 1) << name;
  for (const char* name : {"bleu", "chrf", "rouge1", "rougeL"})
    EXPECT_EQ(utility({.utility = name}, {}, r), 0) << name;
}

TEST(MbrDecode, LongSequencesCrossWords) {
  std::vector<int64_t> a, b;
  for (int64_t i = 0; i < 200; ++i) {
    a.push_back(i);
    if (i % 3) b.push_back(i);
    if (i % 5 == 0) b.push_back(1000 + i);
  }
  EXPECT_NEAR(utility({.utility = "rougeL", .score = "precision"}, a, b), 133.0 / 200, 1e-6);
  const std::vector<int64_t> back(a.rbegin(), a.rend());
  EXPECT_NEAR(utility({.utility = "rougeL", .score = "precision"}, a, back), 1.0 / 200, 1e-6);
}

TEST(MbrDecode, ExactMatchIsMajorityVoting) {
  const Candidates c = rows({{1, 2}, {3}, {1, 2}, {3}, {3}, {4}});
  const Choice a = mbr_decode(c, {.utility = "exact_match"});
  const Choice b = majority_vote(c.candidates, c.lengths);
  EXPECT_EQ(a.index.item<int64_t>(), 1);
  EXPECT_EQ(b.index.item<int64_t>(), 1);
  EXPECT_LT(max_difference(a.scores, b.scores), 1e-7);
}

TEST(MbrDecode, LazyAndAggregateAgreeWithTheWhole) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed)
    for (const char* name : {"rougeL", "lcs", "edit"}) {
      const Candidates c = random_rows(12, 9, seed);
      const Choice want = mbr_decode(c, {.utility = name});
      const Choice got = mbr_decode(c, {.utility = name, .lazy = true});
      EXPECT_EQ(got.index.item<int64_t>(), want.index.item<int64_t>()) << name << " " << seed;
      const Tensor above = got.scores - want.scores;
      EXPECT_GT(amin(above).item(), -1e-6);
      EXPECT_LT(amax(masked_fill(above, logical_not(got.evaluated), 0)).item(), 1e-6);
    }
  Candidates c = random_rows(6, 8, 3);  // one reference: expected counts are its counts
  c.references = c.candidates.narrow(0, 2, 1);
  c.reference_lengths = c.lengths.narrow(0, 2, 1);
  for (const char* name : {"rouge1", "rouge3", "bleu", "chrf"})
    EXPECT_LT(max_difference(mbr_decode(c, {.utility = name}).scores,
                             mbr_decode(c, {.utility = name, .approximate = "aggregate"}).scores),
              1e-6)
        << name;
}

TEST(MbrDecode, CoarseAndConfidenceEvaluateSomeRows) {
  const Candidates c = random_rows(12, 9, 4);
  const Choice want = mbr_decode(c);
  const Choice got = mbr_decode(c, {.approximate = "coarse", .keep = 4});
  EXPECT_EQ(sum(isfinite(got.scores)).item(), 4);
  EXPECT_EQ(mbr_decode(c, {.approximate = "coarse", .keep = 12}).index.item<int64_t>(),
            want.index.item<int64_t>());
  const MbrDecodeOptions o{.approximate = "confidence", .schedule = {4, 8}, .alpha = 0.6};
  const Choice sure = mbr_decode(c, o);
  EXPECT_LT(sum(isfinite(sure.scores)).item(), 12);
  const int64_t i = sure.index.item<int64_t>();
  EXPECT_NEAR(sure.scores[i].item(), want.scores[i].item(), 1e-6);
  EXPECT_EQ(max_difference(where(isfinite(sure.scores), sure.scores, 0),
                           where(isfinite(sure.scores), mbr_decode(c, o).scores, 0)),
            0);
}

TEST(MbrDecode, WithoutSelfAndWithWeights) {
  Candidates c;
  c.utilities = tensor({1.0, 0.5, 0.25, 0.75}, {2, 2}, kFloat64);
  EXPECT_LT(max_difference(mbr_decode(c, {.utility = "matrix", .exclude_self = true}).scores,
                           tensor({0.5, 0.25}, kFloat64)),
            1e-12);
  c.weights = tensor({1.0, 0.0}, kFloat64);
  EXPECT_LT(
      max_difference(mbr_decode(c, {.utility = "matrix"}).scores, tensor({1.0, 0.25}, kFloat64)),
      1e-12);
  c.utilities = tensor({std::nan(""), 0.5, 0.25, 0.75}, {2, 2}, kFloat64);
  EXPECT_EQ(mbr_decode(c, {.utility = "matrix"}).index.item<int64_t>(), 1);
}

TEST(MbrDecode, BertscoreReadsNoPaddingAndNeverChoosesNaN) {
  Candidates c;
  c.embeddings = random({3, 4, 5}, kFloat64, 3);
  c.lengths = tensor(std::vector<int64_t>{4, 2, 0});
  c.reference_embeddings = random({2, 3, 5}, kFloat64, 4);
  c.reference_lengths = tensor(std::vector<int64_t>{3, 1});
  const MbrDecodeOptions o{.utility = "bertscore", .return_utilities = true};
  const Choice want = mbr_decode(c, o);
  EXPECT_EQ(want.scores[2].item(), 0);
  c.embeddings[1].narrow(0, 2, 2).fill_(std::nan(""));
  EXPECT_EQ(max_difference(mbr_decode(c, o).utilities, want.utilities), 0);
  c.embeddings[want.index.item<int64_t>()][0].fill_(std::nan(""));
  const Choice other = mbr_decode(c, o);
  EXPECT_TRUE(std::isnan(other.scores[want.index.item<int64_t>()].item()));
  EXPECT_NE(other.index.item<int64_t>(), want.index.item<int64_t>());
}

TEST(MbrDecode, TakesTextsAndFunctions) {
  EXPECT_EQ(mbr_decode(std::vector<std::string>{"no", "A cat, asleep", "a cat asleep!"})
                .index.item<int64_t>(),
            1);
  const Choice c = mbr_decode(std::vector<std::string>{"a\xc2\xa0"
                                                       "b",
                                                       "a b", "ab"},
                              {}, {.utility = "exact_match"});
  EXPECT_EQ(c.index.item<int64_t>(), 0);
  EXPECT_NEAR(c.scores[1].item(), 2.0 / 3, 1e-6);
  EXPECT_EQ(
      mbr_decode(3, 2, [](int64_t i, int64_t) { return i == 1 ? 1.0 : 0.0; }).index.item<int64_t>(),
      1);
}

TEST(MbrDecode, RefusesInWords) {
  Candidates c = random_rows(4, 5, 1);
  auto refused = [&](const MbrDecodeOptions& o, const char* says) {
    EXPECT_ERROR(mbr_decode(c, o), OptionError, says);
  };
  refused({.utility = "rouge"}, "utility is");
  refused({.utility = "bleu", .max_order = 0}, "max_order");
  refused({.utility = "bleu", .smoothing = "floor", .smooth_value = 0}, "smooth_value");
  refused({.utility = "chrf", .beta = 0}, "beta");
  refused({.approximate = "aggregate"}, "aggregate");
  refused({.utility = "bleu", .lazy = true}, "lazy");
  EXPECT_ERROR(mbr_decode(c, {.utility = "cosine"}), StateError, "embeddings");
  c.weights = zeros({4});
  refused({}, "all weights are 0");
  c.weights = tensor({1.0, -1.0, 0.0, 0.0});
  refused({}, "weights");
  c.weights = {};
  c.log_weights = full({4}, -kernels::kInf<double>);
  refused({}, "all weights are 0");
  c.weights = ones({4});
  refused({}, "one of them");
  Candidates wrong = random_rows(4, 5, 1);
  wrong.references = wrong.candidates;
  wrong.reference_lengths = wrong.lengths;
  EXPECT_ERROR(mbr_decode(wrong, {.exclude_self = true}), OptionError, "exclude_self");
  wrong.lengths = full({4}, 6, kInt64);
  EXPECT_ERROR(mbr_decode(wrong), IndexError, "length");
}

TEST(MostLikely, PerTokenOnlyWhereAsked) {
  const Tensor p = tensor({-4.0, -3.0, -8.0}), l = tensor(std::vector<int64_t>{2, 1, 0});
  EXPECT_EQ(most_likely(p, l).index.item<int64_t>(), 1);
  EXPECT_EQ(most_likely(p, l, {.normalize = "length"}).index.item<int64_t>(), 0);
  EXPECT_ERROR(most_likely(p, {}, {.normalize = "length"}), StateError, "lengths");
}

}  // namespace
}  // namespace dropin::testing
