// segment_text: tiling, thresholds, newlines, paragraphs, limits of length against brute force.
#include "dropin/text/segment.h"

#include <cmath>

#include "dropin/text/utf8.h"
#include "kernels/hd.h"
#include "support.h"

namespace dropin::testing {
namespace {

Tensor points(std::string_view text) { return decode_utf8(text).text; }

// The segments as texts.
std::vector<std::string> cut(std::string_view text, const Tensor& probs,
                             const SegmentTextOptions& o = {}) {
  const Tensor p = points(text);
  const std::vector<int64_t> ends = segment_text(probs, p, o).segments.to_vector<int64_t>();
  std::vector<std::string> r;
  for (std::size_t i = 0; i < ends.size(); i += 2)
    r.push_back(encode_utf8(p.narrow(0, ends[i], ends[i + 1] - ends[i])));
  return r;
}
// Probability 1 at the characters given.
Tensor at_characters(std::string_view text, const std::vector<int64_t>& where) {
  std::vector<double> p(static_cast<std::size_t>(points(text).size(0)), 0);
  for (const int64_t i : where) p[at(i)] = 1;
  return tensor(p);
}
using Strings = std::vector<std::string>;

TEST(SegmentText, TakesWhiteSpaceAlongAndTiles) {
  const std::string text = "ab \t cd\u3000\u2028e";
  EXPECT_EQ(cut(text, at_characters(text, {1, 6})), (Strings{"ab \t ", "cd\u3000\u2028", "e"}));
  EXPECT_EQ(cut(text, at_characters(text, {1, 2, 6}), {.strip_whitespace = true}),
            (Strings{"ab", "cd", "e"}));
  EXPECT_EQ(cut("a\x1c", at_characters("a\x1c", {0})), (Strings{"a\x1c"}));
}

TEST(SegmentText, ThresholdIsStrict) {
  EXPECT_EQ(cut("ab", tensor({0.25, 0.0})).size(), 1u);
  EXPECT_EQ(cut("ab", tensor({0.2500001, 0.0})).size(), 2u);
}

TEST(SegmentText, NewlinesEndSegmentsAndEmptyLinesStay) {
  const std::string text = "a\n\nb c\n";
  EXPECT_EQ(cut(text, at_characters(text, {})), (Strings{"a", "", "b c", ""}));
  EXPECT_EQ(cut(text, at_characters(text, {0, 3})), (Strings{"a", "", "b ", "c", ""}));
  EXPECT_EQ(cut(text, at_characters(text, {}), {.split_on_input_newlines = false}),
            (Strings{text}));
}

TEST(SegmentText, NothingAndWhiteSpaceAlone) {
  EXPECT_EQ(cut("", tensor(std::vector<double>{})).size(), 0u);
  EXPECT_EQ(cut("  ", tensor({0.0, 0.0})), (Strings{"  "}));
  EXPECT_EQ(cut("\n \n", zeros({3})), (Strings{"\n \n"}));
  EXPECT_EQ(cut("  ", tensor({0.0, 0.0}), {.strip_whitespace = true}).size(), 0u);
  EXPECT_EQ(cut("   ", zeros({3}), {.max_length = 2}), (Strings{"  ", " "}));
}

TEST(SegmentText, ParagraphsAreNumbered) {
  const std::string text = "a b. c d. e";
  const Tensor probs = tensor({0.3, 0.0, 0.0, 0.9, 0.0, 0.3, 0.0, 0.0, 0.3, 0.0, 0.0});
  const TextSegments s = segment_text(probs, points(text), {.paragraphs = true});
  expect_values(s.paragraph.to(kFloat64), {0, 0, 1, 1, 1});
}

// --- limits of length

double log_prior(const SegmentTextOptions& o, double m) {
  const double z = (m - o.target_length) / o.spread, g = o.spread / o.target_length;
  if (o.prior == "uniform") return 0;
  if (o.prior == "gaussian") return -z * z / 2;
  if (o.prior == "clipped_polynomial")
    return z * z < 1 ? std::log(1 - z * z) : -kernels::kInf<double>;
  const double y = (std::log(m) - std::log(o.target_length) - g * g) / g;
  return -y * y / 2 - std::log(m);
}
// The best score of all segmentations of letters, by trying them.
double best_score(const std::vector<double>& p, const SegmentTextOptions& o, int64_t from = 0) {
  const auto n = static_cast<int64_t>(p.size());
  double best = -kernels::kInf<double>;
  for (int64_t e = from + o.min_length; e <= std::min(n, from + *o.max_length); ++e) {
    const double here = log_prior(o, static_cast<double>(e - from));
    best = std::max(best, e == n ? here : here + std::log(p[at(e - 1)]) + best_score(p, o, e));
  }
  return best;
}
double score(const std::vector<double>& p, const SegmentTextOptions& o,
             const std::vector<int64_t>& ends) {
  double total = 0;
  for (std::size_t i = 0; i < ends.size(); i += 2) {
    const int64_t m = ends[i + 1] - ends[i];
    if (m < o.min_length || m > *o.max_length) return -kernels::kInf<double>;
    total += log_prior(o, static_cast<double>(m));
    if (ends[i + 1] < static_cast<int64_t>(p.size())) total += std::log(p[at(ends[i + 1] - 1)]);
  }
  return total;
}

TEST(SegmentText, FindsTheBestCutsOfAll) {
  Generator g(3);
  for (const char* prior : {"uniform", "gaussian", "lognormal", "clipped_polynomial"})
    for (const char* mode : {"official", "exact"})
      for (int64_t n = 3; n <= 17; ++n) {
        Tensor probs = rand({n}, kFloat64, &g);
        if (std::string(mode) == "official")
          probs = where(rand({n}, kFloat64, &g) < 0.3, 0.0, probs);  // no states there
        const std::vector<double> p = probs.to_vector();
        const SegmentTextOptions o{.min_length = 2,
                                   .max_length = 6,
                                   .prior = prior,
                                   .target_length = 4,
                                   .spread = 3,
                                   .length_mode = mode};
        const double want = best_score(p, o);
        if (std::isinf(want)) continue;
        const Tensor s = segment_text(probs, full({n}, 'a', kInt64), o).segments;
        EXPECT_NEAR(score(p, o, s.to_vector<int64_t>()), want, 1e-9) << prior << mode << n;
      }
}

TEST(SegmentText, ExactLimitsHoldWithWhiteSpace) {
  Generator g(5);
  for (int64_t i = 0; i < 40; ++i)
    for (const bool strip : {false, true}) {
      const int64_t n = 30 + i;
      const Tensor blank = rand({n}, kFloat64, &g) < 0.3,
                   text = where(blank, full({n}, ' ', kInt64), full({n}, 'x', kInt64));
      const Tensor s = segment_text(rand({n}, kFloat64, &g), text,
                                    {.strip_whitespace = strip,
                                     .min_length = 3,
                                     .max_length = 12,
                                     .length_mode = "exact"})
                           .segments;
      EXPECT_LE(amax(s.select(1, 1) - s.select(1, 0)).item(), 12);
      EXPECT_GE(amin(s.select(1, 1) - s.select(1, 0)).item(), strip ? 1 : 3);
    }
}

TEST(SegmentText, LongTextsTakeNoTimeUnderAUniformPrior) {
  const int64_t n = 200'000;
  Generator g(7);
  const Tensor probs = rand({n}, kFloat32, &g);
  const Tensor s =
      segment_text(probs, full({n}, 'x', kInt64), {.min_length = 2, .max_length = n}).segments;
  EXPECT_EQ(s.size(0), 1);  // every cut costs
}

TEST(SegmentText, WithoutAPathCutsEquallyAndMendsTheEnd) {
  const SegmentTextOptions o{.min_length = 4, .max_length = 5};
  EXPECT_EQ(cut("abcdefghijk", zeros({11}), o), (Strings{"abcde", "fg", "hijk"}));
  EXPECT_EQ(cut("abcdef", zeros({6}), {.min_length = 3, .max_length = 5}), (Strings{"abc", "def"}));
  EXPECT_EQ(cut("abcdef", zeros({6}), o), (Strings{"abcde", "f"}));
}

TEST(SegmentText, LimitsBeyondTheTextAreNone) {
  constexpr int64_t kMost = INT64_MAX;
  const Tensor probs = tensor({0.0, 0.0, 0.9, 0.0, 0.0, 0.0});
  for (const char* mode : {"official", "exact"})
    for (const char* algorithm : {"viterbi", "greedy"}) {
      const SegmentTextOptions o{
          .paragraphs = true, .max_length = kMost, .algorithm = algorithm, .length_mode = mode};
      EXPECT_EQ(cut("  a b ", probs, o).size(), 2u) << mode << algorithm;
      SegmentTextOptions at_least = o;
      at_least.min_length = kMost;
      EXPECT_EQ(cut("  a b ", probs, at_least), (Strings{"  a ", "b "})) << mode << algorithm;
      EXPECT_EQ(cut("    ", tensor({0.9, 0.0, 0.0, 0.0}), o).size(), 1u);
    }
}

TEST(SegmentText, RefusesInWords) {
  const Tensor p = zeros({3}), t = full({3}, 'a', kInt64);
  auto refused = [&](const SegmentTextOptions& o, const char* says) {
    EXPECT_ERROR(segment_text(p, t, o), OptionError, says);
  };
  refused({.threshold = 1.5}, "threshold is 1.5");
  refused({.threshold = std::nan("")}, "threshold");
  refused({.paragraph_threshold = -0.1}, "paragraph_threshold");
  refused({.min_length = 0}, "min_length is 0");
  refused({.min_length = 5, .max_length = 4}, "max_length 4");
  refused({.prior = "poisson"}, "poisson");
  refused({.target_length = 0}, "target_length");
  refused({.spread = -1}, "spread");
  refused({.algorithm = "beam"}, "beam");
  refused({.length_mode = "loose"}, "loose");
  EXPECT_ERROR(segment_text(tensor({0.1, 1.1, 0.0}), t), OptionError, "1.1");
  EXPECT_ERROR(segment_text(full({3}, std::nan("")), t), OptionError, "probs");
  EXPECT_ERROR(segment_text(zeros({2}), t), ShapeError, "[3]");
  EXPECT_ERROR(segment_text(t, t), DTypeError, "probs");
  EXPECT_ERROR(segment_text(p, p), DTypeError, "text");
  EXPECT_ERROR(segment_text(p, full({3}, 0xD800, kInt64)), OptionError, "surrogates");
  EXPECT_ERROR(segment_text(p, full({3}, 0x110000, kInt64)), OptionError, "code points");
}

}  // namespace
}  // namespace dropin::testing
