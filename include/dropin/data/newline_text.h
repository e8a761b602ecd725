// A text of lines to train segmenters on: newlines are taken out, and where they were is learned.
#pragma once
#include <string_view>
#include <vector>

#include "dropin/data/tasks.h"
#include "dropin/text/tokenizer.h"

namespace dropin {

/// Tokens of a text and the newlines among them, as it is and as it is spoken: in lower case
/// without marks.
class NewlineText {
 public:
  /// `length`: tokens of a block. FileError where the text has fewer than 4 blocks or no newlines.
  NewlineText(std::string_view text, const WordTokenizer& tokenizer, int64_t length);
  /// Blocks from random places, without newlines: x [batch, length + 2] int64 ids between bos and
  /// eos; y the same, 1 where a newline followed, 0 where none did, -1 at bos and eos. corrupted:
  /// every other block is spoken, and a fifth of the others' marks are gone (Frohmann et al. 2024).
  Batch sample(int64_t batch, bool corrupted, Generator& g) const;
  /// All tokens but the newlines, and whether one followed each.
  struct Ends {
    Tensor ids;   ///< int64 [N]
    Tensor ends;  ///< bool [N]
  };
  Ends ends(bool spoken) const;

 private:
  using Ids = std::vector<int64_t>;
  Ids with_newlines(std::string_view text, bool spoken, const WordTokenizer& t) const;
  void add_block(const Ids& from, double punctuation_remove_prob, Generator& g, Ids& x,
                 Ids& y) const;
  int64_t newline_, length_;  // an id that no word has
  Ids marks_, written_, spoken_;
};

/// 2 found / (guessed + there) of the ends guessed where probs > threshold [N].
double ends_f1(const Tensor& probs, const Tensor& ends, double threshold);
/// The threshold of the best F1 among 0.05, 0.1, ... 0.95.
double best_threshold(const Tensor& probs, const Tensor& ends);

}  // namespace dropin
