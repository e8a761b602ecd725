#include "dropin/text/stream.h"

#include <algorithm>

#include "kernels/hd.h"
#include "text/spans.h"

namespace dropin {

namespace {

// The last segment that the text may be cut before without changing any: it begins at a character
// that is no white space, behind one that no abbreviation holds, in a paragraph of its own where
// there are paragraphs, and `reach` characters before the end. 0: none.
std::size_t seam(const std::vector<int64_t>& ends, const std::vector<int64_t>& paragraphs,
                 const text::Points& points, int64_t reach) {
  const auto n = static_cast<int64_t>(points.size());
  for (std::size_t k = ends.size() / 2; k-- > 1;) {
    const int64_t begin = ends[2 * k];
    if (begin == 0) return 0;
    if (begin + reach > n || begin >= n || text::is_space(points[at(begin)])) continue;
    if (text::is_word_part(points[at(begin - 1)])) continue;
    if (paragraphs.empty() || paragraphs[k] != paragraphs[k - 1]) return k;
  }
  return 0;
}

}  // namespace

SegmentStream::SegmentStream(TextSegmenter& segmenter, Sink sink, Tokenizer tokenizer,
                             const SegmentStreamOptions& o)
    : segmenter_(segmenter),
      sink_(std::move(sink)),
      tokenizer_(std::move(tokenizer)),
      options_(o),
      next_(at(std::max<int64_t>(o.window, 0))) {
  DROPIN_CHECK(o.window >= 1 && o.limit >= o.window, OptionError, "SegmentStream: window is ",
               o.window, " and limit ", o.limit, ", expected 1 <= window <= limit");
}

// Gives out the segments of the first `bytes` of the rest: all of them (whole), or those before the
// seam. False when there is none.
bool SegmentStream::give(std::size_t bytes, bool whole) {
  const std::string_view now = std::string_view(rest_).substr(0, bytes);
  const DecodedText d = decode_utf8(now);
  const TextSegments s = segmenter_(d.text, tokenizer_ ? tokenizer_(d.text) : TextTokens());
  const std::vector<int64_t> ends = s.segments.to_vector<int64_t>();
  std::vector<int64_t> paragraphs;
  if (s.paragraph.defined()) paragraphs = s.paragraph.to_vector<int64_t>();
  std::size_t count = ends.size() / 2;
  if (!whole) {
    count = seam(ends, paragraphs, d.text.to_vector<int64_t>(), segmenter_.reach());
    if (count == 0) return false;
  }
  for (std::size_t k = 0; k < count; ++k) {
    const int64_t begin = d.bytes[at(ends[2 * k])], end = d.bytes[at(ends[2 * k + 1])];
    const int64_t paragraph = paragraphs.empty() ? -1 : paragraphs_ + paragraphs[k];
    sink_({offset_ + begin, offset_ + end, paragraph}, now.substr(at(begin), at(end - begin)));
  }
  if (!paragraphs.empty()) paragraphs_ += whole ? paragraphs.back() + 1 : paragraphs[count];
  const int64_t given = whole ? static_cast<int64_t>(bytes) : d.bytes[at(ends[2 * count])];
  for (const int64_t b : d.broken) {
    if (b >= given) break;
    if (broken_++ == 0) first_broken_ = offset_ + b;
  }
  rest_.erase(0, at(given));
  offset_ += given;
  return true;
}

void SegmentStream::push(std::string_view bytes) {
  const std::size_t window = at(options_.window), limit = at(options_.limit);
  while (!bytes.empty()) {
    const std::size_t taken = std::min(bytes.size(), next_ - std::min(next_, rest_.size()));
    rest_.append(bytes.substr(0, taken));
    bytes.remove_prefix(taken);
    if (rest_.size() < next_) return;
    std::size_t ready = rest_.size() - incomplete_utf8(rest_);
    if (give(ready, false)) {
      next_ = rest_.size() + window;
      continue;
    }
    if (rest_.size() >= limit) {
      const std::size_t blank = rest_.find_last_of(" \n\t\r", ready);
      if (blank != std::string::npos && blank > 0) ready = blank + 1;
      give(ready, true);
      next_ = rest_.size() + window;
      continue;
    }
    next_ = std::min(2 * std::max(next_, rest_.size()), limit);
  }
}

void SegmentStream::finish() {
  if (!rest_.empty()) give(rest_.size(), true);
}

}  // namespace dropin
