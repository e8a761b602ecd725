// Spans of a text of code points.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dropin/tensor/tensor.h"

namespace dropin::text {

using Span = std::pair<int64_t, int64_t>;  // from, and before
using Spans = std::vector<Span>;
using Points = std::vector<int64_t>;

/// The code points of text [C]; errors in words.
Points read_text(std::string_view who, const Tensor& text);
/// Not above U+10FFFF, and no surrogate.
bool is_code_point(int64_t point);
/// Unicode's white space, and U+001C to U+001F.
bool is_space(int64_t point);
/// An ASCII letter, digit or dot: what stands before the dot of an abbreviation.
bool is_word_part(int64_t point);
/// An ASCII letter or digit.
bool is_alphanumeric(int64_t point);
/// A-Z, Latin-1, Greek and Cyrillic capitals in lower case; others as they are.
int64_t lowered(int64_t point);
/// `within` cut behind each of the rising characters `cuts` and the white space that follows.
Spans pieces(const Points& text, Span within, const std::vector<int64_t>& cuts);
Span stripped(const Points& text, Span s);
/// Stripped where asked, without empty ones.
Spans kept(const Points& text, const Spans& all, bool strip);
/// Split at newlines, which vanish; one at the end of all but the last splits nothing. A text of
/// white space alone stays as it is.
Spans at_newlines(const Points& text, const Spans& all);
/// The UTF-8 of a part.
std::string to_utf8(const Points& points, Span span);
/// int64 [S, 2].
Tensor to_tensor(const Spans& all);

}  // namespace dropin::text
