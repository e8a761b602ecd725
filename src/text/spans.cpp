#include "text/spans.h"

#include <algorithm>

#include "kernels/hd.h"

namespace dropin::text {

bool is_code_point(int64_t c) { return c >= 0 && c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF); }

Points read_text(std::string_view who, const Tensor& text) {
  DROPIN_CHECK(text.dtype() == kInt64, DTypeError, who, ": text is ", text.dtype(),
               ", expected int64 code points");
  DROPIN_CHECK(text.dim() == 1, ShapeError, who, ": text is ", text.sizes(), ", expected [C]");
  Points p = text.to_vector<int64_t>();
  for (const int64_t c : p)
    DROPIN_CHECK(is_code_point(c), OptionError, who, ": text holds ", c,
                 ", expected code points that are no surrogates");
  return p;
}

bool is_space(int64_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_alphanumeric(int64_t c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
bool is_word_part(int64_t c) { return c == '.' || is_alphanumeric(c); }

int64_t lowered(int64_t c) {
  if (c >= 0x400 && c <= 0x40F) return c + 80;
  const bool capital = (c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0xDE && c != 0xD7) ||
                       (c >= 0x391 && c <= 0x3A9) || (c >= 0x410 && c <= 0x42F);
  return capital ? c + 32 : c;
}

Spans pieces(const Points& text, Span within, const std::vector<int64_t>& cuts) {
  Spans r;
  int64_t from = within.first;
  for (const int64_t cut : cuts) {
    int64_t end = cut + 1;
    while (end < within.second && is_space(text[at(end)])) ++end;
    if (end <= from) continue;
    r.emplace_back(from, end);
    from = end;
  }
  if (from < within.second) r.emplace_back(from, within.second);
  return r;
}

Span stripped(const Points& text, Span s) {
  while (s.first < s.second && is_space(text[at(s.first)])) ++s.first;
  while (s.first < s.second && is_space(text[at(s.second - 1)])) --s.second;
  return s;
}

Spans kept(const Points& text, const Spans& all, bool strip) {
  Spans r;
  for (Span s : all) {
    if (strip) s = stripped(text, s);
    if (s.first < s.second) r.push_back(s);
  }
  return r;
}

Spans at_newlines(const Points& text, const Spans& all) {
  if (std::all_of(text.begin(), text.end(), is_space)) return all;
  Spans r;
  for (std::size_t i = 0; i < all.size(); ++i) {
    auto [from, end] = all[i];
    if (i + 1 < all.size() && end > from && text[at(end - 1)] == '\n') --end;
    for (int64_t k = from; k < end; ++k)
      if (text[at(k)] == '\n') {
        r.emplace_back(from, k);
        from = k + 1;
      }
    r.emplace_back(from, end);
  }
  return r;
}

Tensor to_tensor(const Spans& all) {
  std::vector<int64_t> flat;
  for (const auto& [from, end] : all) {
    flat.push_back(from);
    flat.push_back(end);
  }
  return tensor(flat, {static_cast<int64_t>(all.size()), 2});
}

}  // namespace dropin::text
