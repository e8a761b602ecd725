// A tokenizer of words and marks, for segmenters that are trained here.
#pragma once
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dropin/text/contract.h"

namespace dropin {

/// Words (runs of letters, digits and underscores; all beyond ASCII but marks and white space
/// count as letters) and marks, each one a token. Ids: 0, 1 and 2 begin, pad and end as in XLM-R,
/// then unknown words by kind (3 a lower case word, 4 a capitalized one, 5 a number, 6 a mark),
/// then the vocabulary.
class WordTokenizer {
 public:
  static constexpr int64_t kFirstWord = 7;
  /// A vocabulary of UTF-8 words, each once; OptionError otherwise.
  explicit WordTokenizer(std::vector<std::string> words);
  /// The words and marks that occur most often in a UTF-8 text, ties in order of appearance.
  static WordTokenizer from_text(std::string_view text, int64_t words);
  /// Tokens of text [C] int64 code points; white space is part of none.
  TextTokens operator()(const Tensor& text) const;
  int64_t vocab_size() const { return kFirstWord + static_cast<int64_t>(words_.size()); }
  const std::vector<std::string>& words() const { return words_; }

 private:
  std::vector<std::string> words_;
  std::unordered_map<std::string, int64_t> ids_;
};

}  // namespace dropin
