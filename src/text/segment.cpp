#include "dropin/text/segment.h"

#include <algorithm>

#include "kernels/hd.h"
#include "text/lengths.h"

namespace dropin {

namespace {

constexpr const char* kSegment = "segment_text";

}  // namespace

void detail::check_segment_options(std::string_view who, const SegmentTextOptions& o) {
  for (const auto& [name, v] :
       {std::pair{"threshold", o.threshold}, {"paragraph_threshold", o.paragraph_threshold}})
    DROPIN_CHECK(v >= 0 && v <= 1, OptionError, who, ": ", name, " is ", v, ", expected 0 to 1");
  DROPIN_CHECK(o.min_length >= 1 && o.max_length.value_or(o.min_length) >= o.min_length,
               OptionError, who, ": min_length is ", o.min_length, " and max_length ",
               o.max_length.value_or(o.min_length), ", expected 1 <= min_length <= max_length");
  DROPIN_CHECK(o.target_length > 0 && o.spread > 0, OptionError, who, ": target_length is ",
               o.target_length, " and spread ", o.spread, ", expected positive numbers");
  DROPIN_CHECK(o.prior == "uniform" || o.prior == "gaussian" || o.prior == "lognormal" ||
                   o.prior == "clipped_polynomial",
               OptionError, who, ": prior is \"", o.prior,
               "\", expected uniform, gaussian, lognormal or clipped_polynomial");
  DROPIN_CHECK(o.algorithm == "viterbi" || o.algorithm == "greedy", OptionError, who,
               ": algorithm is \"", o.algorithm, "\", expected viterbi or greedy");
  DROPIN_CHECK(o.length_mode == "official" || o.length_mode == "exact", OptionError, who,
               ": length_mode is \"", o.length_mode, "\", expected official or exact");
}

TextSegments segment_text(const Tensor& probs, const Tensor& text, const SegmentTextOptions& o) {
  detail::check_segment_options(kSegment, o);
  const text::Points points = text::read_text(kSegment, text);
  DROPIN_CHECK(is_floating(probs.dtype()), DTypeError, kSegment, ": probs is ", probs.dtype(),
               ", expected floats");
  DROPIN_CHECK(probs.sizes() == text.sizes(), ShapeError, kSegment, ": probs is ", probs.sizes(),
               ", expected ", text.sizes(), " as text");
  const std::vector<double> p = probs.to_vector();
  for (const double v : p)
    DROPIN_CHECK(v >= 0 && v <= 1, OptionError, kSegment, ": a value of probs is ", v,
                 ", expected 0 to 1");
  const bool limited = o.max_length || o.min_length > 1;
  if (limited && o.threshold != SegmentTextOptions().threshold)
    warn_once("segment_text: threshold is not used where lengths are limited");
  auto above = [&](text::Span within, double threshold) {
    std::vector<int64_t> cuts;
    for (int64_t i = within.first; i < within.second; ++i)
      if (p[at(i)] > threshold) cuts.push_back(i);
    return text::pieces(points, within, cuts);
  };
  auto sentences = [&](text::Span within) {
    return limited ? text::of_lengths(points, p, within, o)
                   : text::kept(points, above(within, o.threshold), o.strip_whitespace);
  };
  const text::Span whole{0, static_cast<int64_t>(points.size())};
  if (!o.paragraphs) {
    text::Spans all = sentences(whole);
    if (!limited && o.split_on_input_newlines) all = text::at_newlines(points, all);
    return {text::to_tensor(all), {}, {}};
  }
  text::Spans all;
  std::vector<int64_t> number;
  int64_t paragraph = 0;
  for (const text::Span& within : above(whole, o.paragraph_threshold)) {
    for (const text::Span& s : sentences(within)) {
      all.push_back(s);
      number.push_back(paragraph);
    }
    ++paragraph;
  }
  return {text::to_tensor(all), tensor(number), {}};
}

}  // namespace dropin
