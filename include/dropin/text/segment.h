// From probabilities at characters to segments of a text.
#pragma once
#include <optional>
#include <string>

#include "dropin/text/contract.h"

namespace dropin {

namespace detail {
/// The options of cutting, which segment_text and SentenceSegmenter share.
template <class O>
void segment_fields(auto&& f) {
  f("threshold", &O::threshold, "a segment ends at characters above it; unused with lengths");
  f("paragraphs", &O::paragraphs, "paragraphs first, then sentences within each");
  f("paragraph_threshold", &O::paragraph_threshold, "a paragraph ends at characters above it");
  f("strip_whitespace", &O::strip_whitespace, "segments without white space at their ends");
  f("split_on_input_newlines", &O::split_on_input_newlines,
    "newlines end segments, and vanish; not with paragraphs or lengths");
  f("min_length", &O::min_length, "of segments, in characters");
  f("max_length", &O::max_length, "of segments, in characters; null: no limit");
  f("prior", &O::prior, "of lengths: uniform, gaussian, lognormal or clipped_polynomial");
  f("target_length", &O::target_length, "where the prior is largest");
  f("spread", &O::spread, "of the prior");
  f("algorithm", &O::algorithm, "viterbi (the best cuts of all), or greedy (one after the other)");
  f("length_mode", &O::length_mode,
    "official: white space behind a cut may break the limits, and is repaired; exact: counted");
}
}  // namespace detail

struct SegmentTextOptions {
  double threshold = 0.25;
  bool paragraphs = false;
  double paragraph_threshold = 0.5;
  bool strip_whitespace = false, split_on_input_newlines = true;
  int64_t min_length = 1;
  std::optional<int64_t> max_length = std::nullopt;
  std::string prior = "uniform";
  double target_length = 70, spread = 25;
  std::string algorithm = "viterbi", length_mode = "official";
  static void fields(auto&& f) { detail::segment_fields<SegmentTextOptions>(f); }
};

/// Segments of text [C] (int64 code points) by the probability [C] that one ends at each character:
/// by threshold, or where lengths are limited the best cuts under the prior (Frohmann et al. 2024,
/// section 3; length limits as in the authors' program). With paragraphs also the number of each
/// segment's paragraph. OptionError for options, probabilities outside [0, 1] and code points that
/// are none, ShapeError, DTypeError.
TextSegments segment_text(const Tensor& probs, const Tensor& text,
                          const SegmentTextOptions& o = {});

namespace detail {
/// OptionError naming `who` for options that no text can be cut by.
void check_segment_options(std::string_view who, const SegmentTextOptions& o);
}  // namespace detail

}  // namespace dropin
