#include <algorithm>
#include <cmath>

#include "dropin/retrieval/data_filter.h"
#include "dropin/retrieval/decision_rule.h"
#include "dropin/retrieval/vector_index.h"
#include "registry/lists.h"

namespace dropin {

namespace {

constexpr const char* kLoki = "Roberts et al. 2023, arXiv 2307.12226";

// A tree of n nodes, each below the one of half its number, and its first three observed.
Sample tree(const SampleSpec& s) {
  static constexpr int64_t kNodes[] = {11, 32, 128, 256};
  const int64_t n = s.length >= 0 ? s.length : s.of(kNodes);
  std::vector<int64_t> parents, observed;
  for (int64_t v = 0; v < n; ++v) parents.push_back(v ? (v - 1) / 2 : -1);
  for (int64_t v = n - 1; v >= 0 && observed.size() < 3; --v) observed.push_back(v);
  return {{{"dist", tree_distances(parents).to(s.dtype)}, {"observed", tensor(observed)}}, {}, n};
}
Sample predictions(const SampleSpec& s) {
  const Tensor dist = tree(s).inputs.find("dist");
  const int64_t n = dist.size(0);
  return {{{"prediction", s.integers(std::max<int64_t>(n, 1), {n})},
           {"target", arange(0, n).to(kInt64)},
           {"dist", dist}},
          {},
          n};
}

void register_labels(Registry& r) {
  r.add_family({.name = "LabelSpace", .call = "dist [N, N], observed [K] int64 -> classes"});
  r.add(FunctionInfo<LokiLocusOptions>{
      .name = "LokiLocus",
      .family = "LabelSpace",
      .summary = "the classes that a prediction by Frechet mean can reach",
      .paper = kLoki,
      .call = [](const LokiLocusOptions& o, const Arguments& in) -> NamedTensors {
        return {{"locus", LokiLocus(in["dist"], in["observed"], o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return tree(s); },
      .examples = {R"({"method": "exact"})"}});
  r.add(FunctionInfo<LokiNextClassOptions>{
      .name = "LokiNextClass",
      .family = "LabelSpace",
      .summary = "which class to label next so that more are reachable",
      .paper = kLoki,
      .call = [](const LokiNextClassOptions& o, const Arguments& in) -> NamedTensors {
        const NextClasses n = LokiNextClass(in["dist"], in["observed"], o);
        return {{"order", n.order}, {"locus_size", n.locus_size}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return tree(s); },
      .examples = {R"({"method": "largest_gain", "count": 3})",
                   R"({"method": "random", "count": 20, "seed": 3})"}});
  r.add(FunctionInfo<NoOptions>{
      .name = "frechet_mean_predict",
      .family = "LabelSpace",
      .summary = "the class of least expected squared distance, of a given metric",
      .paper = kLoki,
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return {{"prediction", frechet_mean_predict(in["probs"], in["dist"], in["observed"])}};
      },
      .inputs =
          [](const NoOptions&, const SampleSpec& s) {
            Sample t = tree(s);
            const int64_t k = t.inputs.find("observed").size(0);
            return Sample{{{"probs", softmax(s.normal({t.count, k}), 1)},
                           {"dist", t.inputs.find("dist")},
                           {"observed", t.inputs.find("observed")}},
                          {},
                          t.count};
          }});
  r.add(FunctionInfo<NoOptions>{
      .name = "mean_squared_distance",
      .family = "LabelSpace",
      .summary = "mean squared distance between predicted and true classes",
      .paper = kLoki,
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return {{"y", mean_squared_distance(in["prediction"], in["target"], in["dist"])}};
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) { return predictions(s); }});
}

NamedTensors named(const Filtered& f) {
  return {{"mask", f.mask}, {"thresholds", f.thresholds}, {"kept", f.kept}};
}
// Two columns of whole numbers, as a scoring model answers, one of them unknown.
Sample quality_scores(const SampleSpec& s) {
  static constexpr int64_t kRows[] = {40, 1024, 1 << 17, 1 << 22};
  const int64_t n = s.length >= 0 ? s.length : s.of(kRows);
  const Tensor scores = s.integers(101, {n, 2}).to(s.dtype);
  if (n > 3) scores.narrow(0, 3, 1).fill_(std::nan(""));
  return {{{"scores", scores}}, {}, n};
}

void register_filters(Registry& r) {
  r.add_family(
      {.name = "DataFilter", .call = "scores [N, K] -> mask [N] bool, thresholds [K], kept []"});
  r.add(FunctionInfo<TopFractionOptions>{
      .name = "top_fraction",
      .family = "DataFilter",
      .summary = "the rows of the best scores",
      .call = [](const TopFractionOptions& o,
                 const Arguments& in) { return named(top_fraction(in["scores"], o)); },
      .inputs = [](const auto&, const SampleSpec& s) { return quality_scores(s); },
      .examples = {R"({"fraction": 0.5, "ties": "exact"})", R"({"off_by_one": true})"}});
  r.add(FunctionInfo<ImageTextFilterOptions>{
      .name = "ImageTextFilter",
      .family = "DataFilter",
      .summary = "image-text pairs that pass thresholds or top fractions of several scores",
      .replaces = "top_fraction",
      .paper = "Wang et al. 2024, arXiv 2403.02677",
      .call = [](const ImageTextFilterOptions& o,
                 const Arguments& in) { return named(ImageTextFilter(in["scores"], o)); },
      .inputs = [](const auto&, const SampleSpec& s) { return quality_scores(s); },
      .sample = R"({"metrics": ["image_text_matching", "object_detail_fulfillment"],
                    "value": [66, 20]})",
      .examples = {R"({"rule": ["fraction", "threshold"], "value": [0.3, 50], "combine": "or"})",
                   R"({"rule": ["fraction", "fraction"], "value": [0.3, 1], "ties": "exact"})"}});
}

// Five weighted parts per query.
Sample query_parts(const SampleSpec& s) {
  static constexpr int64_t kQueries[] = {3, 64, 1024, 16384};
  const int64_t n = s.length >= 0 ? s.length : s.of(kQueries), width = s.size ? 512 : 6;
  SampleSpec other = s;
  other.seed += 1;
  return {
      {{"vectors", s.normal({n, 5, width})}, {"weights", abs(other.normal({n, 5})) + 0.5}}, {}, n};
}

void register_search(Registry& r) {
  r.add<FlatIndex>();
  r.add<VectorSearchIndex>();
  r.add_family(
      {.name = "QueryArithmetic", .call = "vectors [B, P, E], weights [B, P] -> y [B, E]"});
  r.add(FunctionInfo<MergeEmbeddingsOptions>{
      .name = "merge_embeddings",
      .family = "QueryArithmetic",
      .summary = "one query of several weighted embeddings",
      .paper = "Elliott et al. 2024, arXiv 2409.11629",
      .call = [](const MergeEmbeddingsOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", merge_embeddings(in["vectors"], in["weights"], o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return query_parts(s); },
      .examples = {R"({"method": "slerp"})", R"({"method": "slerp_sequential"})",
                   R"({"method": "lerp", "normalize_parts": true})", R"({"method": "nlerp"})"}});
}

}  // namespace

void register_retrieval(Registry& r) {
  r.add<ArgmaxPredictor>();
  r.add<LokiPredictor>();
  register_labels(r);
  register_filters(r);
  register_search(r);
}

}  // namespace dropin
