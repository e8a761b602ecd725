// newline_loss, newline_corruption, corrupt_sentences.
#include "dropin/text/corruption.h"

#include <cmath>

#include "dropin/text/utf8.h"
#include "support.h"

namespace dropin::testing {
namespace {

TEST(NewlineLoss, NoTokensCostNothing) {
  EXPECT_EQ(newline_loss(zeros({0, 3, 1}), zeros({0, 3}, kInt64)).item(), 0);
  const Tensor x = random({1, 2, 3}).requires_grad_();
  const Tensor l =
      newline_loss(x, zeros({1, 2}, kInt64), ones({1, 2}, kBool), {.auxiliary_weight = 1});
  EXPECT_EQ(l.item(), 0);
  l.backward();
  EXPECT_EQ(amax(abs(x.grad())).item(), 0);
}

TEST(NewlineLoss, ByItsDefinition) {
  const Tensor x = random({2, 3, 4}), y = tensor(std::vector<int64_t>{0, 1, 2, 3, 1, -7}, {2, 3});
  Tensor mask = zeros({2, 3}, kBool);
  mask[1][2].fill_(true);
  double want = 0;
  for (int64_t i = 0; i < 5; ++i) {
    const Tensor row = x[i / 3][i % 3];
    const int64_t label = y[i / 3][i % 3].item<int64_t>();
    const double z = row[0].item(), t = label == 1 ? 0.8 : 0.2;
    want += std::log1p(std::exp(z)) - t * z;
    want -= 0.25 * log_softmax(row.narrow(0, 1, 3), 0)[label > 1 ? label - 1 : 0].item();
  }
  const NewlineLossOptions o{.loss_margin = 0.3, .auxiliary_weight = 0.25};
  EXPECT_NEAR(newline_loss(x, y, mask, o).item(), want / 5, 1e-10);
  EXPECT_ERROR(newline_loss(x, y, {}, o), IndexError, "-7");
  EXPECT_ERROR(newline_loss(x, y + 8, {}, o), IndexError, "expected 0 to 3");
  EXPECT_ERROR(newline_loss(x.narrow(2, 0, 1), y, mask, o), ShapeError, "classes");
  EXPECT_ERROR(newline_loss(x, y, mask, {.loss_margin = 0.6}), OptionError, "loss_margin");
}

TEST(NewlineCorruption, KeepsMarksBeforeNewlinesAndTheSecondOfTwo) {
  const Tensor ids = tensor(std::vector<int64_t>{9, 6, 5, 5, 8, 6, 8});
  const NewlineCorruptionOptions o{
      .newline_id = 5, .punctuation_ids = {6}, .punctuation_remove_prob = 1};
  const CorruptedIds c = newline_corruption(ids, zeros({9}), o);
  EXPECT_EQ(c.ids.to_vector<int64_t>(), (std::vector<int64_t>{9, 6, 5, 8, 8}));
  EXPECT_EQ(c.labels.to_vector<int64_t>(), (std::vector<int64_t>{2, 1, 0, 2, 0}));
  EXPECT_ERROR(newline_corruption(ids, zeros({2}), o), ShapeError, "expected more");
  EXPECT_ERROR(newline_corruption(ids, zeros({9}), {}), OptionError, "newline_id");
  EXPECT_EQ(newline_corruption(zeros({0}, kInt64), zeros({0}), o).ids.numel(), 0);
}

TEST(CorruptSentences, SpokenTextHasNoMarksAndNoCase) {
  auto asr = [](const char* text, const CorruptSentencesOptions& o = {}) {
    return corrupt_sentences(decode_utf8(text).text, {}, o);
  };
  const CorruptedText c = asr("- \u00c9T\u00c9, oui!\n...\n  \u0416\u0401 \u200f \u03a9\nA\u00d7B");
  EXPECT_EQ(encode_utf8(c.text), "\u00e9t\u00e9 oui \u0436\u0451 \u03c9 a\u00d7b");
  const std::vector<int64_t> ends = nonzero(c.labels).reshape({-1}).to_vector<int64_t>();
  EXPECT_EQ(ends, (std::vector<int64_t>{6, 11, 15}));
  EXPECT_EQ(encode_utf8(asr("a\nb", {.separator = {}}).text), "ab");
  EXPECT_EQ(asr("").text.numel(), 0);
  EXPECT_ERROR(asr("a", {.scheme = "fax"}), OptionError, "fax");
  EXPECT_ERROR(asr("a", {.separator = {0xD800}}), OptionError, "separator");
  EXPECT_ERROR(asr("a.", {.scheme = "social_media"}), ShapeError, "uniforms");
}

}  // namespace
}  // namespace dropin::testing
