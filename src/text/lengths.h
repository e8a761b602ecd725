// Segments of limited length.
#pragma once
#include "dropin/text/segment.h"
#include "text/spans.h"

namespace dropin::text {

/// The segments of `within` under o's lengths.
Spans of_lengths(const Points& text, const std::vector<double>& probs, Span within,
                 const SegmentTextOptions& o);

}  // namespace dropin::text
