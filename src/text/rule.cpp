#include <algorithm>

#include "dropin/text/contract.h"
#include "kernels/hd.h"
#include "text/spans.h"

namespace dropin {

namespace {

bool one_of(int64_t c, std::initializer_list<int64_t> list) {
  return std::find(list.begin(), list.end(), c) != list.end();
}
bool is_wide_end(int64_t c) { return one_of(c, {0x3002, 0xFF01, 0xFF1F}); }
bool is_end(int64_t c) { return one_of(c, {'.', '!', '?', 0x2026, 0x0964}) || is_wide_end(c); }
bool is_closer(int64_t c) {
  return one_of(c, {'"', '\'', ')', ']', '}', 0xBB, 0x201D, 0x2019, 0x300D, 0x300F, 0xFF09});
}
bool is_capital(int64_t c) { return c >= 'A' && c <= 'Z'; }

// What stands before the dot at `end`: ASCII letters, digits and dots.
std::string word_before(const text::Points& p, int64_t end) {
  std::string word;
  for (int64_t i = end; i-- > 0;) {
    const int64_t c = p[at(i)];
    if (!text::is_word_part(c)) break;
    word.push_back(static_cast<char>(c));
  }
  std::reverse(word.begin(), word.end());
  return word;
}

bool is_abbreviation(std::string word, const std::vector<std::string>& known) {
  if (word.size() == 1 && is_capital(word[0])) return true;
  for (char& c : word)
    if (is_capital(c)) c = static_cast<char>(c - 'A' + 'a');
  return std::find(known.begin(), known.end(), word) != known.end();
}

}  // namespace

TextSegments RuleSegmenter::forward(const Tensor& text, const TextTokens&) {
  const text::Points p = text::read_text(who(), text);
  const auto n = static_cast<int64_t>(p.size());
  std::vector<int64_t> cuts;
  for (int64_t i = 0; i < n; ++i) {
    if (!is_end(p[at(i)])) continue;
    int64_t j = i, ends = 0;
    bool wide = false;
    for (; j < n && (is_end(p[at(j)]) || is_closer(p[at(j)])); ++j) {
      ends += is_end(p[at(j)]);
      wide = wide || is_wide_end(p[at(j)]);
    }
    --j;
    const bool may = j < n - 1 && (wide || text::is_space(p[at(j + 1)]));
    const bool one_dot = ends == 1 && p[at(i)] == '.';
    if (may && !(one_dot && is_abbreviation(word_before(p, i), options_.abbreviations)))
      cuts.push_back(j);
    i = j;
  }
  text::Spans all = text::kept(p, text::pieces(p, {0, n}, cuts), options_.strip_whitespace);
  if (options_.split_on_input_newlines) all = text::at_newlines(p, all);
  return {text::to_tensor(all), {}, {}};
}

}  // namespace dropin
