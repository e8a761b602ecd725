#include "dropin/text/wordpiece.h"

#ifdef DROPIN_WITH_UTF8PROC
#include <utf8proc.h>
#endif

#include <algorithm>
#include <fstream>

#include "dropin/ops/ops.h"
#include "dropin/text/utf8.h"

namespace dropin {

namespace {

bool is_chinese(int64_t c) {
  constexpr std::pair<int64_t, int64_t> kRanges[] = {
      {0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
      {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  return std::any_of(std::begin(kRanges), std::end(kRanges),
                     [c](const auto& r) { return c >= r.first && c <= r.second; });
}

bool is_white(int64_t c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_ascii_mark(int64_t c) {
  return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
         (c >= 123 && c <= 126);
}

#ifdef DROPIN_WITH_UTF8PROC
bool is_dropped(int64_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  const auto k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return c == 0 || c == 0xFFFD || k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF ||
         k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CS;
}
bool is_mark(int64_t c) {
  const auto k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return is_ascii_mark(c) || (k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO);
}
/// A character's parts without its accents, or itself.
void put_normalized(int64_t c, bool lower, bool strip, std::vector<int64_t>& out) {
  utf8proc_int32_t parts[32] = {static_cast<utf8proc_int32_t>(c)};
  int n = 1, last = 0;
  if (strip)
    n = static_cast<int>(utf8proc_decompose_char(parts[0], parts, 32, UTF8PROC_DECOMPOSE, &last));
  for (int i = 0; i < n && n <= 32; ++i) {
    if (strip && utf8proc_category(parts[i]) == UTF8PROC_CATEGORY_MN) continue;
    out.push_back(lower ? utf8proc_tolower(parts[i]) : parts[i]);
  }
}
#else
bool is_dropped(int64_t c) { return (c < 32 && c != '\t' && c != '\n' && c != '\r') || c == 127; }
bool is_mark(int64_t c) { return is_ascii_mark(c); }
void put_normalized(int64_t c, bool lower, bool, std::vector<int64_t>& out) {
  if (c > 127)
    fail<OptionError>(
        {"WordPieceTokenizer: the text has characters beyond ASCII, which need "
         "utf8proc (Debian: libutf8proc-dev) when dropin is built"});
  out.push_back(lower && c >= 'A' && c <= 'Z' ? c + 32 : c);
}
#endif

std::string utf8_of(const std::vector<int64_t>& word) {
  std::string s;
  for (const int64_t c : word) {
    if (c < 0x80) {
      s += static_cast<char>(c);
    } else if (c < 0x800) {
      s += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      s += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
            static_cast<char>(0x80 | (c & 63))};
    } else {
      s += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
            static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
    }
  }
  return s;
}

/// Words and marks of a text, normalized.
std::vector<std::vector<int64_t>> words_of(std::string_view text, const WordPieceOptions& o) {
  const Tensor decoded = decode_utf8(text).text;
  const auto* in = decoded.data<int64_t>();
  const bool strip = o.strip_accents.value_or(o.lowercase);
  std::vector<int64_t> all, piece;
  for (int64_t i = 0; i < decoded.numel(); ++i) {
    const int64_t c = in[i];
    if (c == 0xFFFD || is_dropped(c)) continue;
    piece.clear();
    if (is_white(c))
      piece = {' '};
    else if (o.tokenize_chinese_chars && is_chinese(c))
      piece = {' ', c, ' '};
    else
      put_normalized(c, o.lowercase, strip, piece);
    all.insert(all.end(), piece.begin(), piece.end());
  }
  std::vector<std::vector<int64_t>> words(1);
  for (const int64_t c : all) {
    const bool mark = is_mark(c);
    if ((is_white(c) || mark) && !words.back().empty()) words.emplace_back();
    if (is_white(c)) continue;
    words.back().push_back(c);
    if (mark) words.emplace_back();
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

}  // namespace

bool WordPieceTokenizer::has_unicode() {
#ifdef DROPIN_WITH_UTF8PROC
  return true;
#else
  return false;
#endif
}

int64_t WordPieceTokenizer::id_of(const std::string& token, const char* option) const {
  const auto at = ids_.find(token);
  if (at == ids_.end())
    fail<OptionError>({"WordPieceTokenizer: ", option, " \"", token,
                       "\" is not in the vocabulary of ", vocab_size()});
  return at->second;
}

WordPieceTokenizer::WordPieceTokenizer(std::vector<std::string> vocabulary,
                                       const WordPieceOptions& options)
    : vocabulary_(std::move(vocabulary)), options_(options) {
  DROPIN_CHECK(options_.max_input_chars_per_word >= 1, OptionError,
               "WordPieceTokenizer: max_input_chars_per_word is ",
               options_.max_input_chars_per_word, ", expected at least 1");
  for (std::size_t i = 0; i < vocabulary_.size(); ++i) {
    DROPIN_CHECK(!vocabulary_[i].empty(), OptionError, "WordPieceTokenizer: entry ",
                 static_cast<int64_t>(i), " of the vocabulary is empty");
    DROPIN_CHECK(ids_.emplace(vocabulary_[i], static_cast<int64_t>(i)).second, OptionError,
                 "WordPieceTokenizer: \"", vocabulary_[i], "\" is in the vocabulary twice");
  }
  unk_ = id_of(options_.unk_token, "unk_token");
  cls_ = id_of(options_.cls_token, "cls_token");
  sep_ = id_of(options_.sep_token, "sep_token");
  pad_ = id_of(options_.pad_token, "pad_token");
}

WordPieceTokenizer WordPieceTokenizer::from_file(const std::string& path,
                                                 const WordPieceOptions& options) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word);) {
    if (!word.empty() && word.back() == '\r') word.pop_back();
    words.push_back(word);
  }
  if (!file.eof()) fail<FileError>({path, ": cannot be read"});
  try {
    return WordPieceTokenizer(std::move(words), options);
  } catch (const OptionError& e) {
    fail<FileError>({path, ": ", e.what()});
  }
}

void WordPieceTokenizer::add_pieces(const std::string& word, std::vector<int64_t>& ids) const {
  const std::size_t before = ids.size();
  for (std::size_t at = 0; at < word.size();) {
    std::string piece = (at ? "##" : "") + word.substr(at);
    const std::size_t lead = at ? 2 : 0;
    auto found = ids_.find(piece);
    while (found == ids_.end() && piece.size() > lead) {
      do piece.pop_back();  // a whole character
      while (piece.size() > lead && (word[at + piece.size() - lead] & 0xC0) == 0x80);
      found = piece.size() > lead ? ids_.find(piece) : ids_.end();
    }
    if (found == ids_.end()) {
      ids.resize(before);
      ids.push_back(unk_);
      return;
    }
    ids.push_back(found->second);
    at += piece.size() - lead;
  }
}

std::vector<int64_t> WordPieceTokenizer::encode(std::string_view text) const {
  std::vector<int64_t> ids;
  for (const std::vector<int64_t>& word : words_of(text, options_)) {
    if (static_cast<int64_t>(word.size()) > options_.max_input_chars_per_word)
      ids.push_back(unk_);
    else
      add_pieces(utf8_of(word), ids);
  }
  return ids;
}

std::vector<std::string> WordPieceTokenizer::tokenize(std::string_view text) const {
  std::vector<std::string> r;
  for (const int64_t id : encode(text)) r.push_back(vocabulary_[static_cast<std::size_t>(id)]);
  return r;
}

WordPieceBatch WordPieceTokenizer::operator()(const std::vector<std::string>& texts,
                                              int64_t max_length) const {
  DROPIN_CHECK(max_length >= 2, OptionError, "WordPieceTokenizer: max_length is ", max_length,
               ", expected at least 2, for [CLS] and [SEP]");
  std::vector<std::vector<int64_t>> rows;
  std::size_t longest = 2;
  for (const std::string& t : texts) {
    std::vector<int64_t> ids = encode(t);
    if (static_cast<int64_t>(ids.size()) > max_length - 2)
      ids.resize(static_cast<std::size_t>(max_length - 2));
    ids.insert(ids.begin(), cls_);
    ids.push_back(sep_);
    longest = std::max(longest, ids.size());
    rows.push_back(std::move(ids));
  }
  const auto length = static_cast<int64_t>(longest);
  WordPieceBatch r{empty({static_cast<int64_t>(rows.size()), length}, kInt64),
                   empty({static_cast<int64_t>(rows.size()), length}, kBool)};
  for (std::size_t b = 0; b < rows.size(); ++b)
    for (std::size_t i = 0; i < longest; ++i) {
      const bool real = i < rows[b].size();
      r.ids.data<int64_t>()[b * longest + i] = real ? rows[b][i] : pad_;
      r.key_padding_mask.data<bool>()[b * longest + i] = !real;
    }
  return r;
}

}  // namespace dropin
