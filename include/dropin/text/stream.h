// Segmenting a text that does not fit into memory.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "dropin/text/utf8.h"

namespace dropin {

struct SegmentStreamOptions {
  int64_t window = 1 << 20;  ///< bytes that are segmented at a time, at least
  int64_t limit = 1 << 22;   ///< bytes held at most: a longer segment is cut at white space
};

/// Segments of a UTF-8 text that comes in pieces of any size. A segment is given out once the next
/// one has begun and as much text as the segmenter's reach() has come; what follows is segmented
/// from there on. RuleSegmenter gives the segments of the whole text; members that look around see
/// no text before the seam, and length limits are kept on each side of it.
class SegmentStream {
 public:
  /// A segment: places in bytes of the whole stream, its paragraph, and its own bytes, which are
  /// valid during the call.
  using Sink = std::function<void(const TextSpan& span, std::string_view text)>;
  SegmentStream(TextSegmenter& segmenter, Sink sink, Tokenizer tokenizer = nullptr,
                const SegmentStreamOptions& o = {});
  /// The next bytes, which may end within a character.
  void push(std::string_view bytes);
  /// The text is over: gives out the rest.
  void finish();
  /// Bytes so far that are no UTF-8, and the place of the first (-1: none).
  int64_t broken() const { return broken_; }
  int64_t first_broken() const { return first_broken_; }

 private:
  bool give(std::size_t bytes, bool whole);
  TextSegmenter& segmenter_;
  Sink sink_;
  Tokenizer tokenizer_;
  SegmentStreamOptions options_;
  std::string rest_;                     // bytes that no segment was given out for
  int64_t offset_ = 0, paragraphs_ = 0;  // where rest_ starts
  std::size_t next_ = 0;                 // how long rest_ grows before the next try
  int64_t broken_ = 0, first_broken_ = -1;
};

}  // namespace dropin
