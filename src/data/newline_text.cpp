#include "dropin/data/newline_text.h"

#include <algorithm>
#include <cctype>

#include "dropin/ops/ops.h"
#include "dropin/text/corruption.h"
#include "dropin/text/utf8.h"
#include "kernels/hd.h"

namespace dropin {

namespace {
bool is_ascii_mark(const std::string& word) {
  const auto c = static_cast<unsigned char>(word[0]);
  return c < 0x80 && !std::isalnum(c) && c != '_';
}
}  // namespace

NewlineText::NewlineText(std::string_view text, const WordTokenizer& tokenizer, int64_t length)
    : newline_(tokenizer.vocab_size()), length_(length) {
  DROPIN_CHECK(length >= 1, OptionError, "NewlineText: length is ", length,
               ", expected at least 1");
  for (std::size_t i = 0; i < tokenizer.words().size(); ++i)
    if (is_ascii_mark(tokenizer.words()[i]))
      marks_.push_back(WordTokenizer::kFirstWord + static_cast<int64_t>(i));
  written_ = with_newlines(text, false, tokenizer);
  spoken_ = with_newlines(text, true, tokenizer);
  const auto least = static_cast<int64_t>(std::min(written_.size(), spoken_.size()));
  const auto lines = std::count(written_.begin(), written_.end(), newline_);
  DROPIN_CHECK(least >= 4 * length && lines >= 2, FileError, "NewlineText: a text of ", least,
               " words in ", lines, " lines, expected at least ", 4 * length,
               " words and several lines");
}

NewlineText::Ids NewlineText::with_newlines(std::string_view text, bool spoken,
                                            const WordTokenizer& tokenizer) const {
  CorruptSentencesOptions o;
  o.separator = {'\n'};
  Tensor points = decode_utf8(text).text;
  if (spoken) points = corrupt_sentences(points, {}, o).text;
  const Ids all = points.to_vector<int64_t>();
  const TextTokens tokens = tokenizer(points);
  const Ids ids = tokens.ids.to_vector<int64_t>(), offsets = tokens.offsets.to_vector<int64_t>();
  Ids r;
  int64_t before = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto from = all.begin() + before, to = all.begin() + offsets[2 * i];
    if (!r.empty() && std::find(from, to, '\n') != to) r.push_back(newline_);
    r.push_back(ids[i]);
    before = offsets[2 * i + 1];
  }
  r.push_back(newline_);
  return r;
}

void NewlineText::add_block(const Ids& from, double punctuation_remove_prob, Generator& g, Ids& x,
                            Ids& y) const {
  const auto n = static_cast<int64_t>(from.size()), taken = std::min(n, 4 * length_);
  const int64_t start = randint(0, n - taken + 1, {1}, kInt64, &g).item<int64_t>();
  const Ids some(from.begin() + start, from.begin() + start + taken);
  const CorruptedIds c = newline_corruption(tensor(some), rand({taken}, {}, &g),
                                            {.newline_id = newline_,
                                             .punctuation_ids = marks_,
                                             .punctuation_remove_prob = punctuation_remove_prob});
  const Ids ids = c.ids.to_vector<int64_t>(), labels = c.labels.to_vector<int64_t>();
  std::size_t k = ids[0] == newline_ ? 1 : 0;  // that one followed no token of the block
  x.push_back(0);
  y.push_back(-1);
  for (int64_t i = 0; i < length_; ++i, ++k) {
    x.push_back(ids[k]);
    y.push_back(labels[k] == 1);
  }
  x.push_back(2);
  y.push_back(-1);
}

Batch NewlineText::sample(int64_t batch, bool corrupted, Generator& g) const {
  constexpr double kMarksGone = 0.2;
  Ids x, y;
  for (int64_t row = 0; row < batch; ++row)
    if (corrupted && row % 2)
      add_block(spoken_, 0, g, x, y);
    else
      add_block(written_, corrupted ? kMarksGone : 0, g, x, y);
  return {tensor(x, {batch, length_ + 2}), tensor(y, {batch, length_ + 2})};
}

NewlineText::Ends NewlineText::ends(bool spoken) const {
  Ids ids, ends;
  for (const int64_t id : spoken ? spoken_ : written_)
    if (id != newline_) {
      ids.push_back(id);
      ends.push_back(0);
    } else {
      ends.back() = 1;
    }
  return {tensor(ids), tensor(ends).to(kBool)};
}

double ends_f1(const Tensor& probs, const Tensor& ends, double threshold) {
  const Tensor guessed = probs > threshold;
  const double found = sum(logical_and(guessed, ends)).item(),
               all = sum(guessed).item() + sum(ends).item();
  return all > 0 ? 2 * found / all : 0;
}

double best_threshold(const Tensor& probs, const Tensor& ends) {
  double best = 0, at_best = 0.5;
  for (int i = 1; i < 20; ++i)
    if (const double f = ends_f1(probs, ends, 0.05 * i); f > best) {
      best = f;
      at_best = 0.05 * i;
    }
  return at_best;
}

}  // namespace dropin
