// ImageTextFilter: ties, NaN, fractions of odd pools, shards against the whole; answers and
// prompts; clip_score.
#include "dropin/retrieval/data_filter.h"
#include "dropin/metric/clip_score.h"
#include "support.h"

namespace dropin::testing {
namespace {

constexpr double kNan = NAN;
Tensor column(const std::vector<double>& v) {
  return tensor(v, {static_cast<int64_t>(v.size()), 1});
}
ImageTextFilterOptions fraction(double f, const std::string& ties = "include") {
  return {.metrics = {"score"}, .rule = {"fraction"}, .value = {f}, .ties = ties};
}

TEST(ImageTextFilter, FractionsOfColumns) {
  struct Case {
    std::vector<double> scores;
    double f;
    const char* ties;
    bool off_by_one;
    std::vector<double> mask;
    double threshold;
  };
  const Case cases[] = {
      {{5, 9, 9, 1}, 0.25, "include", false, {0, 1, 1, 0}, 9},
      {{5, 9, 9, 1}, 0.25, "exact", false, {0, 1, 0, 0}, 9},
      {{9, 9, 9, 9}, 0.5, "exact", false, {1, 1, 0, 0}, 9},
      {{5, 9, 9, 1}, 0.25, "include", true, {0, 1, 1, 0}, 9},
      {{5, 9, 9, 1}, 0.5, "exact", true, {1, 1, 1, 0}, 5},
      {{5, 9, 9, 1}, 1, "exact", true, {1, 1, 1, 1}, 1},
      {{5, 9, 9, 1}, 0.2, "include", false, {0, 0, 0, 0}, INFINITY},
      {{INFINITY, 1}, 0, "include", false, {0, 0}, INFINITY},
      {{INFINITY, -INFINITY}, 1, "include", false, {1, 1}, -INFINITY},
      {{kNan, 3, kNan, 2}, 0.75, "include", false, {0, 1, 0, 1}, 2},  // NaN rows count in N
      {{kNan, 3, kNan, 2}, 0.25, "exact", false, {0, 1, 0, 0}, 3},
      {{kNan, kNan}, 1, "include", false, {0, 0}, INFINITY},
      {{0.0, -0.0, -1}, 2.0 / 3, "exact", false, {1, 1, 0}, 0},
      {{-0.0, 0.0, -1}, 1.0 / 3, "include", false, {1, 1, 0}, 0},
      {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0.3, "include", false, {0, 0, 0, 0, 0, 0, 0, 1, 1, 1}, 8},
      {{}, 0.5, "include", false, {}, INFINITY}};
  for (const Case& c : cases) {
    ImageTextFilterOptions o = fraction(c.f, c.ties);
    o.off_by_one = c.off_by_one;
    const Filtered f = ImageTextFilter(column(c.scores), o);
    SCOPED_TRACE(std::to_string(c.f) + " " + c.ties);
    expect_values(f.mask, c.mask);
    expect_values(f.thresholds, {c.threshold});
    EXPECT_EQ(f.kept.item(), sum(f.mask).item());
    const TopFractionOptions same{c.f, c.ties, c.off_by_one};
    expect_values(top_fraction(column(c.scores), same).mask, c.mask);
  }
}

TEST(ImageTextFilter, ThresholdsCombineAndNanNeverPasses) {
  const Tensor scores = tensor(std::vector<double>{70, 30, 70, 10, kNan, 90, 66, 20}, {4, 2});
  ImageTextFilterOptions o{.metrics = {"a", "b"}, .value = {66, 20}};
  expect_values(ImageTextFilter(scores, o).mask, {1, 0, 0, 1});
  o.combine = "or";
  expect_values(ImageTextFilter(scores, o).mask, {1, 1, 1, 1});
  o.value = {-INFINITY, 1000};
  expect_values(ImageTextFilter(scores, o).mask, {1, 1, 0, 1});
  expect_values(ImageTextFilter(column({0.7, 0.1}), {.metrics = {"a"}, .value = {0.7}}).mask,
                {1, 0});
}

TEST(ImageTextFilter, MasksChain) {
  const Filtered a = ImageTextFilter(column({1, 2, 3}), {.metrics = {"a"}, .value = {2}}),
                 b = ImageTextFilter(column({5, 0, 5}), {.metrics = {"b"}, .value = {5}});
  expect_values(a.and_with(b).mask, {0, 0, 1});
  expect_values(a.or_with(b).mask, {1, 1, 1});
  EXPECT_EQ(a.and_with(b).kept.item(), 1);
  expect_values(a.or_with(b).thresholds, {2, 5});
}

TEST(ImageTextFilterStream, OverUnevenShardsIsTheWholePool) {
  const int64_t n = 200;
  const Tensor coarse = round(random({n, 2}, kFloat32, 3) * 2.0);
  coarse.narrow(0, 7, 3).fill_(kNan);
  for (const char* ties : {"include", "exact"})
    for (const char* combine : {"and", "or"}) {
      ImageTextFilterOptions o{.metrics = {"a", "b"},
                               .rule = {"fraction", "fraction"},
                               .value = {0.31, 0.5},
                               .combine = combine,
                               .ties = ties};
      const Filtered whole = ImageTextFilter(coarse, o);
      ImageTextFilterStream first(o), second(o);
      std::vector<int64_t> begins;
      for (int64_t b = 0; b < n; b += 1 + b % 17) begins.push_back(b);
      begins.push_back(n);
      auto shard = [&](std::size_t i) { return coarse.slice(0, begins[i], begins[i + 1]); };
      for (std::size_t i = begins.size() - 1; i-- > 0;)  // in any order, by two workers
        (i % 2 ? first : second).observe(static_cast<int64_t>(i), shard(i));
      first.merge(second);
      EXPECT_EQ(max_difference(first.finalize(), whole.thresholds.to(kFloat64)), 0);
      Tensors masks;
      for (std::size_t i = 0; i + 1 < begins.size(); ++i)
        masks.push_back(first.select(static_cast<int64_t>(i), shard(i)));
      EXPECT_EQ(max_difference(concat(masks), whole.mask), 0) << ties << " " << combine;
      EXPECT_ERROR(first.observe(999, shard(0)), StateError, "after finalize");
      EXPECT_ERROR(first.select(999, shard(0)), StateError, "not observed");
    }
  ImageTextFilterStream s(fraction(0.5));
  EXPECT_ERROR(s.select(0, column({1})), StateError, "before finalize");
  s.observe(0, column({1}));
  EXPECT_ERROR(s.observe(0, column({1})), StateError, "observed before");
}

TEST(ImageTextFilter, RefusesWhatItCannotMean) {
  const Tensor one = column({1, 2});
  EXPECT_ERROR(ImageTextFilter(one, {}), OptionError, "metrics is empty");
  EXPECT_ERROR(ImageTextFilter(one, {.metrics = {"a"}}), OptionError, "0 values");
  EXPECT_ERROR(ImageTextFilter(one, {.metrics = {"a"}, .rule = {"x", "y"}, .value = {1}}),
               OptionError, "2 rules");
  EXPECT_ERROR(ImageTextFilter(one, {.metrics = {"a"}, .rule = {"best"}, .value = {1}}),
               OptionError, "rule is \"best\"");
  EXPECT_ERROR(ImageTextFilter(one, fraction(1.5)), OptionError, "the fraction of score is 1.5");
  EXPECT_ERROR(ImageTextFilter(one, fraction(kNan)), OptionError, "nan");
  EXPECT_ERROR(ImageTextFilter(one, fraction(0.5, "all")), OptionError, "ties is \"all\"");
  EXPECT_ERROR(ImageTextFilter(one, {.metrics = {"a"}, .value = {1}, .combine = "xor"}),
               OptionError, "combine is \"xor\"");
  EXPECT_ERROR(ImageTextFilter(zeros({3}), fraction(0.5)), ShapeError, "expected [N, 1]");
}

TEST(ParseQualityScore, ReadsWholeNumbersToAHundred) {
  const std::pair<const char*, double> cases[] = {
      {" 85", 85},         {"85\nThe caption", 85},
      {"85</s>", 85},      {"</s> 7", 7},
      {"100", 100},        {"0", 0},
      {"007", 7},          {"1000", kNan},
      {"101", kNan},       {"", kNan},
      {"-5", kNan},        {"</s>", kNan},
      {"Score: 85", kNan}, {"99999999999999999999999999", kNan},
      {"85.5", 85}};
  for (const auto& [text, want] : cases) {
    const double got = parse_quality_score(text);
    EXPECT_TRUE(got == want || (std::isnan(got) && std::isnan(want))) << text << ": " << got;
  }
  EXPECT_EQ(parse_quality_score("Score: 85", true), 85);
  EXPECT_EQ(parse_quality_score("-5", true), 5);
  EXPECT_TRUE(std::isnan(parse_quality_score("none", true)));
}

TEST(QualityPrompt, FillsItsSlots) {
  const Json own = Json::parse(R"({"template": "{caption}|{criteria}|{aspect}",
                                   "criteria": {"some_metric": "C {caption}"}})");
  EXPECT_EQ(quality_prompt("some_metric", "a {aspect}", own),
            "a {aspect}|C a {aspect}|some metric");
  EXPECT_NE(quality_prompt("image_text_matching", "a dog").find("a dog"), std::string::npos);
  EXPECT_ERROR(quality_prompt("beauty", "a dog"), OptionError, "no criteria for \"beauty\"");
}

TEST(ClipScore, OfOppositeAndEmptyVectors) {
  Tensor a = tensor(std::vector<double>{1, 0, -2, 0, 0, 0, 0, 3}, {4, 2}, kFloat64),
         b = tensor(std::vector<double>{5, 0, 1, 0, 1, 1, 1, 0}, {4, 2}, kFloat64);
  a.requires_grad_();
  const Tensor y = clip_score(a, b);
  expect_values(y.detach(), {2.5, 0, 0, 0});
  sum(y).backward();
  expect_values(a.grad(), {0, 0, 0, 0, 0, 0, 0, 0});
  expect_values(clip_score(a.detach(), b, {.weight = 1, .clamp = false}), {1, -1, 0, 0});
  EXPECT_ERROR(clip_score(zeros({2, 3}), zeros({2, 4})), ShapeError, "the same [N, E]");
}

}  // namespace
}  // namespace dropin::testing
