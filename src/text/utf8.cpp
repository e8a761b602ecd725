#include "dropin/text/utf8.h"

#include "dropin/core/json.h"
#include "kernels/hd.h"
#include "text/spans.h"

namespace dropin {

namespace {

constexpr int64_t kReplacement = 0xFFFD;

// Bytes of a character that begins with `lead`, by it alone; 0 when none does.
std::size_t utf8_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

}  // namespace

DecodedText decode_utf8(std::string_view text) {
  DecodedText r;
  std::vector<int64_t> points;
  points.reserve(text.size());
  r.bytes.reserve(text.size() + 1);
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    std::size_t n = utf8_length(lead);
    int64_t c = lead;
    if (n != 1) {
      const bool whole = n > 0 && i + n <= text.size() && is_utf8(text.substr(i, n));
      if (whole) {
        c = lead & (0x7F >> n);
        for (std::size_t k = 1; k < n; ++k) c = c << 6 | (text[i + k] & 0x3F);
      } else {
        r.broken.push_back(static_cast<int64_t>(i));
        c = kReplacement;
        n = 1;
      }
    }
    points.push_back(c);
    r.bytes.push_back(static_cast<int64_t>(i));
    i += n;
  }
  r.bytes.push_back(static_cast<int64_t>(text.size()));
  r.text = tensor(points);
  return r;
}

std::string text::to_utf8(const Points& points, Span span) {
  constexpr int64_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
  std::string r;
  auto byte = [&](int64_t b) { r.push_back(static_cast<char>(static_cast<unsigned char>(b))); };
  for (int64_t i = span.first; i < span.second; ++i) {
    const int64_t c = points[at(i)];
    const int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    byte(kLead[more] | c >> (6 * more));
    for (int k = more - 1; k >= 0; --k) byte(0x80 | (c >> (6 * k) & 0x3F));
  }
  return r;
}

std::string encode_utf8(const Tensor& text) {
  const text::Points points = text::read_text("encode_utf8", text);
  return text::to_utf8(points, {0, static_cast<int64_t>(points.size())});
}

std::size_t incomplete_utf8(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const std::size_t n = utf8_length(static_cast<unsigned char>(text[text.size() - back]));
    if (n > back) return back;
    if (n > 0) return 0;
  }
  return 0;
}

std::vector<TextSpan> segment_utf8(TextSegmenter& segmenter, std::string_view text,
                                   const Tokenizer& tokenizer, SpanUnit unit) {
  const DecodedText d = decode_utf8(text);
  const TextSegments s = segmenter(d.text, tokenizer ? tokenizer(d.text) : TextTokens());
  const std::vector<int64_t> ends = s.segments.to_vector<int64_t>();
  std::vector<int64_t> paragraphs;
  if (s.paragraph.defined()) paragraphs = s.paragraph.to_vector<int64_t>();
  std::vector<TextSpan> r;
  for (std::size_t i = 0; 2 * i < ends.size(); ++i) {
    TextSpan span{ends[2 * i], ends[2 * i + 1], paragraphs.empty() ? -1 : paragraphs[i]};
    if (unit == SpanUnit::Bytes) {
      span.begin = d.bytes[at(span.begin)];
      span.end = d.bytes[at(span.end)];
    }
    r.push_back(span);
  }
  return r;
}

}  // namespace dropin
