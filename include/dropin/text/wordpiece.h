// BERT's tokenizer: words, then pieces of a vocabulary.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dropin/tensor/tensor.h"

namespace dropin {

struct WordPieceOptions {
  bool lowercase = true;                   ///< of a model "uncased"
  std::optional<bool> strip_accents;       ///< null: as lowercase
  bool tokenize_chinese_chars = true;      ///< each is a word of its own
  int64_t max_input_chars_per_word = 100;  ///< longer words are unknown
  std::string unk_token = "[UNK]", cls_token = "[CLS]", sep_token = "[SEP]", pad_token = "[PAD]";
};

/// Sequences of one length, as TransformerEncoder takes them.
struct WordPieceBatch {
  Tensor ids;               ///< [B, L] int64, padded on the right
  Tensor key_padding_mask;  ///< [B, L] bool, true = padding
};

/// Texts to ids as BertTokenizer (Devlin et al. 2019; Wu et al. 2016, section 4.1): control
/// characters are dropped, white space and punctuation separate words, and of each word the longest
/// piece of the vocabulary is taken again and again from the left ("##" before all but the first).
/// Characters beyond ASCII need utf8proc, with which the library is built where it is found
/// (has_unicode()).
class WordPieceTokenizer {
 public:
  /// The vocabulary, id = place. OptionError for an empty or repeated entry, and when one of the
  /// four tokens of the options is not among them.
  explicit WordPieceTokenizer(std::vector<std::string> vocabulary,
                              const WordPieceOptions& options = {});
  /// Of a vocab.txt: one entry a line. FileError.
  static WordPieceTokenizer from_file(const std::string& path,
                                      const WordPieceOptions& options = {});
  static bool has_unicode();

  /// The pieces of a UTF-8 text, without [CLS] and [SEP]. Bytes that are no UTF-8 are dropped.
  /// OptionError for characters beyond ASCII where has_unicode() is false.
  std::vector<std::string> tokenize(std::string_view text) const;
  std::vector<int64_t> encode(std::string_view text) const;
  /// [CLS] text [SEP] of each, cut to max_length and padded to the longest.
  WordPieceBatch operator()(const std::vector<std::string>& texts, int64_t max_length = 512) const;
  int64_t vocab_size() const { return static_cast<int64_t>(vocabulary_.size()); }

 private:
  int64_t id_of(const std::string& token, const char* option) const;
  void add_pieces(const std::string& word, std::vector<int64_t>& ids) const;
  std::vector<std::string> vocabulary_;
  std::unordered_map<std::string_view, int64_t> ids_;
  WordPieceOptions options_;
  int64_t unk_ = 0, cls_ = 0, sep_ = 0, pad_ = 0;
};

}  // namespace dropin
