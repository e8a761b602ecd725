// NewlineText: blocks without newlines, labelled where they were.
#include "dropin/data/newline_text.h"

#include "dropin/ops/ops.h"
#include "support.h"

namespace dropin::testing {
namespace {

// Lines of four words; the last one of each is "end", before a mark.
std::string lines(int n) {
  std::string r;
  for (int i = 0; i < n; ++i) r += i % 2 ? "One, two END.\n" : "three four five end!\n\n";
  return r;
}

TEST(NewlineText, LabelsStandWhereNewlinesWere) {
  const std::string text = lines(60);
  const WordTokenizer t = WordTokenizer::from_text(text, 50);
  const NewlineText data(text, t, 10);
  Generator g(1);
  const Batch b = data.sample(6, false, g);
  ASSERT_EQ(b.x.sizes(), Shape({6, 12}));
  ASSERT_EQ(b.y.sizes(), Shape({6, 12}));
  EXPECT_EQ(amax(b.y.select(1, 0)).item(), -1);
  EXPECT_EQ(amax(b.y.select(1, 11)).item(), -1);
  const auto& words = t.words();
  int ends = 0;
  for (int64_t r = 0; r < 6; ++r)
    for (int64_t k = 1; k < 11; ++k) {
      const std::string& w =
          words[static_cast<std::size_t>(b.x[r][k].item<int64_t>() - WordTokenizer::kFirstWord)];
      const bool end = w == "." || w == "!";
      EXPECT_EQ(b.y[r][k].item(), end) << w;
      ends += end;
    }
  EXPECT_GT(ends, 8);
}

TEST(NewlineText, EveryOtherCorruptedBlockIsSpoken) {
  const std::string text = lines(100);
  const WordTokenizer t = WordTokenizer::from_text(text, 50);
  const NewlineText data(text, t, 20);
  Generator g(2);
  const Batch b = data.sample(8, true, g);
  int commas = 0;
  for (int64_t r = 0; r < 8; ++r)
    for (int64_t k = 1; k < 21; ++k) {
      const int64_t id = b.x[r][k].item<int64_t>() - WordTokenizer::kFirstWord;
      const std::string w = id < 0 ? "?" : t.words()[static_cast<std::size_t>(id)];
      const bool spoken = r % 2;
      EXPECT_FALSE(spoken && (w == "." || w == "," || w == "One" || w == "END")) << w;
      EXPECT_FALSE(spoken && b.y[r][k].item() == 1 && w != "end") << w;
      commas += w == ",";
    }
  EXPECT_GT(commas, 0);
}

TEST(NewlineText, EndsAndTheirF1) {
  const std::string text = lines(10);
  const NewlineText data(text, WordTokenizer::from_text(text, 50), 5);
  const NewlineText::Ends e = data.ends(false), spoken = data.ends(true);
  EXPECT_EQ(e.ids.size(0), 50);
  EXPECT_EQ(sum(e.ends).item(), 10);
  EXPECT_EQ(spoken.ids.size(0), 35);
  EXPECT_EQ(sum(spoken.ends).item(), 10);
  const Tensor ends = tensor(std::vector<bool>{true, false, true, false});
  const Tensor probs = tensor({0.62, 0.31, 0.33, 0.12});
  EXPECT_DOUBLE_EQ(ends_f1(probs, ends, 0.5), 2.0 / 3);
  EXPECT_DOUBLE_EQ(ends_f1(probs, ends, 0.9), 0);
  EXPECT_DOUBLE_EQ(best_threshold(probs, ends), 0.05 * 3);
  EXPECT_ERROR(NewlineText("a b c d e f g h", WordTokenizer({}), 2), FileError, "lines");
  EXPECT_ERROR(NewlineText("a\nb", WordTokenizer({}), 2), FileError, "at least 8");
}

}  // namespace
}  // namespace dropin::testing
