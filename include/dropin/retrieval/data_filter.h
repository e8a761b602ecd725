// Which rows of a pool to keep, by scores: thresholds and top fractions.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct TopFractionOptions {
  double fraction = 0.3;
  std::string ties = "include";
  bool off_by_one = false;
  static void fields(auto&& f) {
    using O = TopFractionOptions;
    f("fraction", &O::fraction, "share of all rows that is kept, 0 to 1");
    f("ties", &O::ties, "\"include\" all that equal the threshold, or \"exact\": the first ones");
    f("off_by_one", &O::off_by_one, "one row more, as DataComp's baseline");
  }
};

struct ImageTextFilterOptions {
  std::vector<std::string> metrics = {}, rule = {};
  std::vector<double> value = {};
  std::string combine = "and", ties = "include";
  bool off_by_one = false;
  static void fields(auto&& f) {
    using O = ImageTextFilterOptions;
    f("metrics", &O::metrics, "names of the columns; required");
    f("rule", &O::rule, "of each column, \"threshold\" (also when empty) or \"fraction\"");
    f("value", &O::value, "threshold, or fraction from 0 to 1; required");
    f("combine", &O::combine, "\"and\": all columns pass; \"or\": one does");
    f("ties", &O::ties,
      "of fractions: \"include\" all that equal the threshold, or \"exact\": the first ones");
    f("off_by_one", &O::off_by_one, "fractions keep one row more, as DataComp's baseline");
  }
};

struct Filtered {
  Tensor mask;        ///< bool [N], true: kept
  Tensor thresholds;  ///< [K], what the columns were compared with; +inf: nothing passes
  Tensor kept;        ///< int64 [], how many
  /// Rows that both (one of both) keep; the thresholds of both.
  Filtered and_with(const Filtered& o) const;
  Filtered or_with(const Filtered& o) const;
};

/// Filters a pool by one rule per column (Wang et al. 2024, arXiv 2403.02677). scores [N, K] float.
/// A fraction f keeps the best floor(f N + 1e-9) of all N rows, by falling score, then index. NaN
/// never passes.
Filtered ImageTextFilter(const Tensor& scores, const ImageTextFilterOptions& o);
/// The best fraction by each column of scores [N, K]; rows that all columns keep.
Filtered top_fraction(const Tensor& scores, const TopFractionOptions& o = {});

/// The same over shards: observe() each once, in any order, on any number of these that are then
/// merged; finalize(); select() each. Exactly the mask of the whole pool, with its rows in the
/// order (shard, row).
class ImageTextFilterStream {
 public:
  explicit ImageTextFilterStream(const ImageTextFilterOptions& o);
  /// StateError when the shard was observed before, or after finalize().
  void observe(int64_t shard, const Tensor& scores);
  void merge(const ImageTextFilterStream& other);
  /// The thresholds, float64 [K].
  Tensor finalize();
  /// bool [n]. StateError before finalize() and for a shard that was not observed.
  Tensor select(int64_t shard, const Tensor& scores) const;

 private:
  ImageTextFilterOptions options_;
  using Columns = std::vector<std::vector<double>>;
  std::map<int64_t, Columns> shards_;
  std::vector<double> thresholds_;
  std::vector<int64_t> ties_;  ///< of each column: rows at the threshold that pass; -1: all
  bool final_ = false;
};

/// The number from 0 to 100 that a scoring model's answer begins with, else NaN. lenient: the first
/// number anywhere. Never throws.
double parse_quality_score(std::string_view answer, bool lenient = false);

/// What quality_prompt() asks by default.
const Json& default_quality_prompts();
/// The question to a scoring model: `prompts` holds "template" with {caption}, {criteria} and
/// {aspect}, and "criteria" by metric. The default ones are this library's own words; models
/// trained with others need theirs. OptionError for a metric without criteria.
std::string quality_prompt(std::string_view metric, std::string_view caption,
                           const Json& prompts = default_quality_prompts());

}  // namespace dropin
