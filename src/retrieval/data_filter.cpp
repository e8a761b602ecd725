#include "dropin/retrieval/data_filter.h"
#include "kernels/hd.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dropin {

namespace {

constexpr double kNothing = std::numeric_limits<double>::infinity();
void check_options(std::string_view who, const ImageTextFilterOptions& o) {
  const auto columns = static_cast<int64_t>(o.metrics.size());
  DROPIN_CHECK(columns > 0, OptionError, who, ": metrics is empty, expected a column at least");
  DROPIN_CHECK(o.value.size() == o.metrics.size(), OptionError, who, ": ",
               static_cast<int64_t>(o.value.size()), " values, expected one for each of ", columns,
               " metrics");
  DROPIN_CHECK(o.rule.empty() || o.rule.size() == o.metrics.size(), OptionError, who, ": ",
               static_cast<int64_t>(o.rule.size()), " rules, expected one for each of ", columns,
               " metrics");
  for (std::size_t k = 0; k < o.value.size(); ++k) {
    const std::string rule = o.rule.empty() ? "threshold" : o.rule[k];
    DROPIN_CHECK(rule == "threshold" || rule == "fraction", OptionError, who, ": rule is \"", rule,
                 "\", expected threshold or fraction");
    DROPIN_CHECK(!std::isnan(o.value[k]), OptionError, who, ": the value of ", o.metrics[k],
                 " is nan, expected a number");
    DROPIN_CHECK(rule == "threshold" || (o.value[k] >= 0 && o.value[k] <= 1), OptionError, who,
                 ": the fraction of ", o.metrics[k], " is ", o.value[k], ", expected 0 to 1");
  }
  DROPIN_CHECK(o.combine == "and" || o.combine == "or", OptionError, who, ": combine is \"",
               o.combine, "\", expected and or or");
  DROPIN_CHECK(o.ties == "include" || o.ties == "exact", OptionError, who, ": ties is \"", o.ties,
               "\", expected include or exact");
}

// Columns of scores.
std::vector<std::vector<double>> columns_of(std::string_view who, const Tensor& scores,
                                            const ImageTextFilterOptions& o) {
  const auto columns = static_cast<int64_t>(o.metrics.size());
  DROPIN_CHECK(scores.dim() == 2 && scores.size(1) == columns, ShapeError, who, ": scores is ",
               scores.sizes(), ", expected [N, ", columns, "], a column for each metric");
  DROPIN_CHECK(is_floating(scores.dtype()), DTypeError, who, ": scores is ", scores.dtype(),
               ", expected a floating-point tensor");
  const std::vector<double> all = scores.detach().to_vector();
  std::vector<std::vector<double>> r(at(columns));
  for (std::size_t i = 0; i < all.size(); ++i) r[i % r.size()].push_back(all[i]);
  return r;
}

// What a column is compared with, and how many of the rows that equal it pass (-1: all).
struct Limit {
  double threshold = kNothing;
  int64_t ties = 0;
};
Limit limit_of(const ImageTextFilterOptions& o, std::size_t k, std::vector<double> values) {
  if (o.rule.empty() || o.rule[k] == "threshold") return {o.value[k], -1};
  const auto rows = static_cast<double>(values.size());
  auto count = static_cast<int64_t>(std::floor(o.value[k] * rows + 1e-9));
  if (o.off_by_one) ++count;
  values.erase(std::remove_if(values.begin(), values.end(), [](double v) { return std::isnan(v); }),
               values.end());
  count = std::min(count, static_cast<int64_t>(values.size()));
  if (count == 0) return {};
  const auto border = values.begin() + (count - 1);
  std::nth_element(values.begin(), border, values.end(), std::greater<>());
  const double threshold = *border;
  if (o.ties == "include") return {threshold, -1};
  return {threshold, count - std::count_if(values.begin(), values.end(),
                                           [threshold](double v) { return v > threshold; })};
}

// Which values pass; `ties` of those that equal the threshold are used up.
std::vector<bool> passing(const std::vector<double>& values, double threshold, int64_t ties) {
  std::vector<bool> r;
  r.reserve(values.size());
  for (const double v : values) {
    const bool tie = v == threshold;
    r.push_back(v > threshold || (tie && ties != 0));
    if (tie && ties > 0) --ties;
  }
  return r;
}

Tensor combined(const std::vector<std::vector<bool>>& columns, bool all) {
  const std::size_t rows = columns[0].size();
  Tensor mask = empty({static_cast<int64_t>(rows)}, kBool);
  for (std::size_t i = 0; i < rows; ++i) {
    bool keep = all;
    for (const auto& c : columns) keep = all ? keep && c[i] : keep || c[i];
    mask.data<bool>()[i] = keep;
  }
  return mask;
}

Filtered filtered(std::string_view who, const Tensor& scores, const ImageTextFilterOptions& given) {
  check_options(who, given);
  ImageTextFilterOptions o = given;
  const auto columns = columns_of(who, scores, o);
  // thresholds as the scores' own type has them: a score of 0.7 reaches 0.7
  for (std::size_t k = 0; k < o.value.size(); ++k)
    if (o.rule.empty() || o.rule[k] == "threshold")
      o.value[k] = scalar(o.value[k], kFloat64).to(scores.dtype()).item();
  std::vector<std::vector<bool>> passes;
  std::vector<double> thresholds;
  for (std::size_t k = 0; k < columns.size(); ++k) {
    const Limit limit = limit_of(o, k, columns[k]);
    passes.push_back(passing(columns[k], limit.threshold, limit.ties));
    thresholds.push_back(limit.threshold);
  }
  const Tensor mask = combined(passes, o.combine == "and").to(scores.device());
  return {mask, tensor(thresholds, {static_cast<int64_t>(thresholds.size())}, scores.options()),
          sum(mask)};
}

}  // namespace

Filtered ImageTextFilter(const Tensor& scores, const ImageTextFilterOptions& o) {
  return filtered("ImageTextFilter", scores, o);
}

Filtered top_fraction(const Tensor& scores, const TopFractionOptions& o) {
  DROPIN_CHECK(scores.dim() == 2 && scores.size(1) > 0, ShapeError, "top_fraction: scores is ",
               scores.sizes(), ", expected [N, K >= 1]");
  const std::size_t columns = at(scores.size(1));
  ImageTextFilterOptions all;
  all.metrics.assign(columns, "score");
  all.rule.assign(columns, "fraction");
  all.value.assign(columns, o.fraction);
  all.ties = o.ties;
  all.off_by_one = o.off_by_one;
  return filtered("top_fraction", scores, all);
}

namespace {
Filtered chained(const Filtered& a, const Filtered& b, const Tensor& mask) {
  return {mask, concat({a.thresholds, b.thresholds}), sum(mask)};
}
}  // namespace
Filtered Filtered::and_with(const Filtered& o) const {
  return chained(*this, o, logical_and(mask, o.mask));
}
Filtered Filtered::or_with(const Filtered& o) const {
  return chained(*this, o, logical_or(mask, o.mask));
}

// ---- shards

namespace {
constexpr const char* kStream = "ImageTextFilterStream";
}

ImageTextFilterStream::ImageTextFilterStream(const ImageTextFilterOptions& o) : options_(o) {
  check_options(kStream, o);
}

void ImageTextFilterStream::observe(int64_t shard, const Tensor& scores) {
  DROPIN_CHECK(!final_, StateError, kStream, ": observe() after finalize()");
  DROPIN_CHECK(!shards_.count(shard), StateError, kStream, ": shard ", shard,
               " was observed before, expected each once");
  shards_.emplace(shard, columns_of(kStream, scores, options_));
}

void ImageTextFilterStream::merge(const ImageTextFilterStream& other) {
  DROPIN_CHECK(!final_, StateError, kStream, ": merge() after finalize()");
  DROPIN_CHECK(options_to_json(options_) == options_to_json(other.options_), OptionError, kStream,
               ": merge() of filters with other options, expected the same");
  for (const auto& [shard, columns] : other.shards_)
    DROPIN_CHECK(!shards_.count(shard), StateError, kStream, ": shard ", shard,
                 " was observed by both, expected each once");
  shards_.insert(other.shards_.begin(), other.shards_.end());
}

Tensor ImageTextFilterStream::finalize() {
  thresholds_.clear();
  ties_.clear();
  for (std::size_t k = 0; k < options_.metrics.size(); ++k) {
    std::vector<double> all;
    for (const auto& [shard, columns] : shards_)
      all.insert(all.end(), columns[k].begin(), columns[k].end());
    const Limit limit = limit_of(options_, k, std::move(all));
    thresholds_.push_back(limit.threshold);
    ties_.push_back(limit.ties);
  }
  final_ = true;
  return tensor(thresholds_, {static_cast<int64_t>(thresholds_.size())}, kFloat64);
}

Tensor ImageTextFilterStream::select(int64_t shard, const Tensor& scores) const {
  DROPIN_CHECK(final_, StateError, kStream, ": select() before finalize()");
  DROPIN_CHECK(shards_.count(shard), StateError, kStream, ": shard ", shard,
               " was not observed, expected one that was");
  const Columns columns = columns_of(kStream, scores, options_);
  std::vector<std::vector<bool>> passes;
  for (std::size_t k = 0; k < columns.size(); ++k) {
    double threshold = thresholds_[k];
    if (options_.rule.empty() || options_.rule[k] == "threshold")
      threshold = scalar(threshold, kFloat64).to(scores.dtype()).item();
    int64_t ties = ties_[k];
    for (const auto& [id, before] : shards_) {
      if (id >= shard || ties <= 0) break;
      ties -= std::min(
          ties, static_cast<int64_t>(std::count(before[k].begin(), before[k].end(), threshold)));
    }
    passes.push_back(passing(columns[k], threshold, ties));
  }
  return combined(passes, options_.combine == "and");
}

}  // namespace dropin
