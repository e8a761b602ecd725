// UTF-8 texts as code points and back, with the place of every character.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "dropin/text/contract.h"

namespace dropin {

/// A text as code points. A byte that belongs to no UTF-8 character stands as U+FFFD of one byte,
/// so that nothing is lost: bytes[i] to bytes[i + 1] are always character i's own.
struct DecodedText {
  Tensor text;                  ///< int64 [C]
  std::vector<int64_t> bytes;   ///< [C + 1]: where each character starts, then the size
  std::vector<int64_t> broken;  ///< places of bytes that are no UTF-8
};
DecodedText decode_utf8(std::string_view text);
/// text [C] int64 -> UTF-8. DTypeError, ShapeError, OptionError for what are no code points.
std::string encode_utf8(const Tensor& text);
/// How many bytes at the end of a text begin a character that the next ones may complete: 0 to 3.
std::size_t incomplete_utf8(std::string_view text);

/// What spans of UTF-8 texts count.
enum class SpanUnit { Bytes, CodePoints };
struct TextSpan {
  int64_t begin = 0, end = 0;
  int64_t paragraph = -1;  ///< its number, where paragraphs were asked for
  bool operator==(const TextSpan&) const = default;
};
/// The segments of a UTF-8 text; `tokenizer` for members that need tokens. Bytes that are no UTF-8
/// count as one character each, and are part of their segment.
std::vector<TextSpan> segment_utf8(TextSegmenter& segmenter, std::string_view text,
                                   const Tokenizer& tokenizer = nullptr,
                                   SpanUnit unit = SpanUnit::Bytes);

}  // namespace dropin
