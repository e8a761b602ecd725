#include "dropin/text/tokenizer.h"

#include <algorithm>

#include "dropin/text/utf8.h"
#include "kernels/hd.h"
#include "text/spans.h"

namespace dropin {

namespace {

bool is_word_character(int64_t c) {
  constexpr int64_t kPunctuation[] = {0xA1,   0xAB,   0xBB,   0xBF,   0x964,  0x2026, 0x3001,
                                      0x3002, 0x300C, 0x300D, 0x300E, 0x300F, 0xFF01, 0xFF08,
                                      0xFF09, 0xFF0C, 0xFF1A, 0xFF1B, 0xFF1F};
  if (c < 0x80) return c == '_' || text::is_alphanumeric(c);
  if (text::is_space(c) || (c >= 0x2010 && c <= 0x205E)) return false;
  return std::find(std::begin(kPunctuation), std::end(kPunctuation), c) == std::end(kPunctuation);
}

// Words and marks, from and before.
text::Spans words_of(const text::Points& p) {
  text::Spans r;
  const auto n = static_cast<int64_t>(p.size());
  for (int64_t i = 0; i < n;) {
    int64_t end = i + 1;
    if (is_word_character(p[at(i)]))
      while (end < n && is_word_character(p[at(end)])) ++end;
    if (!text::is_space(p[at(i)])) r.emplace_back(i, end);
    i = end;
  }
  return r;
}

int64_t kind_of_unknown(int64_t first) {
  if (first >= '0' && first <= '9') return 5;
  if (!is_word_character(first)) return 6;
  return text::lowered(first) == first ? 3 : 4;
}

}  // namespace

WordTokenizer::WordTokenizer(std::vector<std::string> words) : words_(std::move(words)) {
  for (const std::string& w : words_)
    DROPIN_CHECK(ids_.emplace(w, kFirstWord + static_cast<int64_t>(ids_.size())).second,
                 OptionError, "WordTokenizer: the word \"", w, "\" is there twice, expected once");
}

WordTokenizer WordTokenizer::from_text(std::string_view text, int64_t words) {
  DROPIN_CHECK(words >= 0, OptionError, "WordTokenizer: ", words, " words, expected 0 or more");
  const DecodedText d = decode_utf8(text);
  struct Entry {
    std::string word;
    int64_t count;
  };
  std::vector<Entry> entries;
  std::unordered_map<std::string, std::size_t> place;
  for (const auto& [from, end] : words_of(d.text.to_vector<int64_t>())) {
    const int64_t first = d.bytes[at(from)], last = d.bytes[at(end)];
    std::string w(text.substr(at(first), at(last - first)));
    const auto [it, fresh] = place.emplace(w, entries.size());
    if (fresh) entries.push_back({std::move(w), 0});
    ++entries[it->second].count;
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.count > b.count; });
  entries.resize(std::min(entries.size(), at(words)));
  std::vector<std::string> kept;
  for (Entry& e : entries) kept.push_back(std::move(e.word));
  return WordTokenizer(std::move(kept));
}

TextTokens WordTokenizer::operator()(const Tensor& text) const {
  const text::Points p = text::read_text("WordTokenizer", text);
  const text::Spans all = words_of(p);
  std::vector<int64_t> ids;
  for (const auto& [from, end] : all) {
    const auto it = ids_.find(text::to_utf8(p, {from, end}));
    ids.push_back(it == ids_.end() ? kind_of_unknown(p[at(from)]) : it->second);
  }
  return {tensor(ids), text::to_tensor(all)};
}

}  // namespace dropin
