#include "dropin/metric/bd_rate.h"
#include "dropin/metric/clip_score.h"
#include "dropin/metric/disentanglement.h"
#include "dropin/metric/ensemble.h"
#include "dropin/metric/generative.h"
#include "dropin/metric/sobol.h"
#include "registry/lists.h"

namespace dropin {

namespace {

Sample image_text(const SampleSpec& s) {
  static constexpr int64_t kRows[] = {5, 64, 1024, 16384};
  const int64_t n = s.length >= 0 ? s.length : s.of(kRows), width = s.size ? 512 : 6;
  SampleSpec other = s;
  other.seed += 1;
  return {{{"image_features", s.normal({n, width})}, {"text_features", other.normal({n, width})}},
          {},
          n};
}

// Latents of which the first ones follow the attributes.
Sample latents(const SampleSpec& s) {
  static constexpr int64_t kRows[] = {30, 100, 400, 1000};
  const int64_t n = s.length >= 0 ? s.length : s.of(kRows);
  SampleSpec other = s;
  other.seed += 1;
  const Tensor a = other.normal({n, 3});
  return {{{"z", concat({a, s.normal({n, 2})}, 1) + s.normal({n, 5}) * 0.3}, {"a", a}}, {}, n};
}

void add_score(Registry& r, const char* name, const char* summary, const char* paper,
               const std::vector<std::string>& examples) {
  const std::string score = name;
  r.add(FunctionInfo<DisentanglementOptions>{
      .name = name,
      .family = "DisentanglementMetric",
      .summary = summary,
      .replaces = score == "mig" ? "" : "mig",
      .paper = paper,
      .call =
          [score](const DisentanglementOptions& o, const Arguments& in) {
            const Tensor z = in["z"], a = in["a"];
            return detail::disentanglement(score, z, a, o);
          },
      .inputs = [](const auto&, const SampleSpec& s) { return latents(s); },
      .examples = examples,
      .traits = [score](Traits& t) { t.surrogate_gradient = score != "sap"; }});
}

void register_disentanglement(Registry& r) {
  constexpr const char* kDependent = "Watcharasupat, Lerch 2021, arXiv 2110.05587";
  r.add_family(
      {.name = "DisentanglementMetric", .call = "z [N, D], a [N, A] -> y [A], mi [D, A], ..."});
  add_score(r, "mig", "the best latent's lead in information on each attribute",
            "Chen et al. 2018, arXiv 1802.04942",
            {R"({"reg_dim": [2, 0, 1]})", R"({"estimator": "histogram", "bins": 6})"});
  add_score(r, "dmig", "mig over what can at most remain between dependent attributes", kDependent,
            {R"({"degenerate": "nan", "n_neighbors": 2, "seed": 4})"});
  add_score(r, "xmig", "mig over latents that are meant for no attribute", kDependent, {});
  add_score(r, "dlig", "the lead of a latent's own attribute over the others", kDependent, {});
  add_score(r, "modularity", "whether each latent informs of one attribute only",
            "Ridgeway, Mozer 2018, arXiv 1802.05312", {});
  add_score(r, "sap", "the best latent's lead in squared correlation or accuracy",
            "Kumar et al. 2018, arXiv 1711.00848", {R"({"fill_reg_dim": true})"});
  add_score(r, "dependency_aware_bundle", "mig, dmig, xmig and dlig from one pass", kDependent, {});
}

// A rate-distortion curve of n points.
Sample curves(const SampleSpec& s) {
  const int64_t n = s.length >= 0 ? s.length : 5;
  const Tensor q = arange(0, n, 1, s.dtype) * 2.0 + 30;
  auto rate = [&](double shift) { return exp((q - 30) * 0.2 + shift); };
  return {{{"rate_a", rate(0)}, {"quality_a", q}, {"rate_b", rate(-0.1)}, {"quality_b", q + 0.3}},
          {},
          n};
}

void register_ensemble(Registry& r) {
  r.add(FunctionInfo<NoOptions>{
      .name = "bd_rate",
      .family = "Metric",
      .summary = "percent of rate between two rate-distortion curves",
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return {{"y", bd_rate(in["rate_a"], in["quality_a"], in["rate_b"], in["quality_b"])}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return curves(s); }});
  r.add(FunctionInfo<EnsembleMetricsOptions>{
      .name = "EnsembleMetrics",
      .family = "Metric",
      .summary = "likelihood, accuracy and calibration of averaged probabilities",
      .paper = "Wu, Williamson 2024, arXiv 2403.12729",
      .call = [](const EnsembleMetricsOptions& o, const Arguments& in) -> NamedTensors {
        const EnsembleMetrics m = ensemble_metrics(in["logits"], in["target"], o);
        return {{"probs", m.probs}, {"nll", m.nll}, {"brier", m.brier}, {"accuracy", m.accuracy},
                {"ece", m.ece},     {"oe", m.oe},   {"ue", m.ue}};
      },
      .inputs = [](const auto&, const SampleSpec& s) -> Sample {
        static constexpr int64_t kRows[] = {20, 64, 1024, 16384};
        const int64_t n = s.length >= 0 ? s.length : s.of(kRows), classes = s.size ? 100 : 4;
        return {
            {{"logits", s.normal({3, n, classes})}, {"target", s.integers(classes, {n})}}, {}, n};
      },
      .examples = {R"({"num_bins": 1})"}});
}

constexpr const char* kInfinity = "Chong, Forsyth 2020, arXiv 1911.07023";

int64_t samples_of(const SampleSpec& s) {
  static constexpr int64_t kRows[] = {20, 64, 512, 2048};
  return s.length >= 0 ? s.length : s.of(kRows);
}
Sample two_sets(const SampleSpec& s) {
  const int64_t n = samples_of(s), width = s.size ? 64 : 4;
  SampleSpec other = s;
  other.seed += 1;
  return {{{"features", s.normal({n, width})}, {"reference", other.normal({n + 3, width}) + 0.2}},
          {},
          n};
}
Sample class_logits(const SampleSpec& s) {
  const int64_t n = samples_of(s);
  return {{{"logits", s.normal({n, s.size ? 1000 : 5})}}, {}, n};
}
FeatureSide reference_of(const Arguments& in) {
  return {in.find("reference"), in.find("reference_mean"), in.find("reference_cov")};
}
NamedTensors named(const Extrapolation& e) {
  return {{"y", e.y}, {"slope", e.slope}, {"values", e.values}, {"sizes", e.sizes}};
}

void register_generative(Registry& r) {
  r.add_family(
      {.name = "GenerativeMetric", .call = "features [N, D] or class logits [N, C] -> y []"});
  r.add(FunctionInfo<NoOptions>{
      .name = "frechet_distance",
      .family = "GenerativeMetric",
      .summary = "distance of two sets of features as normal distributions (FID)",
      .paper = "Heusel et al. 2017, arXiv 1706.08500",
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return {{"y", frechet_distance({in.find("features"), in.find("mean"), in.find("cov")},
                                       reference_of(in))}};
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) { return two_sets(s); }});
  r.add(FunctionInfo<InceptionScoreOptions>{
      .name = "inception_score",
      .family = "GenerativeMetric",
      .summary = "how sure and how varied class probabilities are (IS)",
      .paper = "Salimans et al. 2016, arXiv 1606.03498",
      .call = [](const InceptionScoreOptions& o, const Arguments& in) -> NamedTensors {
        const InceptionScore s = inception_score(in.find("logits"), in.find("probs"), o);
        return {{"y", s.y}, {"std", s.std}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return class_logits(s); },
      .examples = {R"({"splits": 3})"}});
  r.add(FunctionInfo<ExtrapolationOptions>{
      .name = "fid_infinity",
      .family = "GenerativeMetric",
      .summary = "frechet_distance extrapolated to unlimited samples",
      .replaces = "frechet_distance",
      .paper = kInfinity,
      .call =
          [](const ExtrapolationOptions& o, const Arguments& in) {
            const Tensor features = in["features"];
            return named(fid_infinity(features, reference_of(in), in.find("indices"), o));
          },
      .inputs = [](const auto&, const SampleSpec& s) { return two_sets(s); },
      .sample = R"({"min_points": 8, "num_points": 4})",
      .examples = {R"({"sampling": "nested"})", R"({"sampling": "bootstrap", "seed": 3})"}});
  r.add(FunctionInfo<ExtrapolationOptions>{
      .name = "is_infinity",
      .family = "GenerativeMetric",
      .summary = "inception_score extrapolated to unlimited samples",
      .replaces = "inception_score",
      .paper = kInfinity,
      .call =
          [](const ExtrapolationOptions& o, const Arguments& in) {
            return named(is_infinity(in.find("logits"), in.find("probs"), in.find("indices"), o));
          },
      .inputs = [](const auto&, const SampleSpec& s) { return class_logits(s); },
      .sample = R"({"min_points": 8, "num_points": 4})",
      .examples = {R"({"sampling": "prefix"})"}});
}

void register_samplers(Registry& r) {
  r.add<NormalSampler>();
  r.add<SobolNormal>();
  r.add<SobolSequence>();
  r.add_family({.name = "PointSet", .call = "no inputs -> y [count, dim]"});
  r.add(FunctionInfo<SobolSequenceOptions>{
      .name = "sobol_sequence",
      .family = "PointSet",
      .summary = "any stretch of a Sobol sequence",
      .paper = "Sobol 1967; Joe, Kuo 2008",
      .call = [](const SobolSequenceOptions& o, const Arguments&) -> NamedTensors {
        return {{"y", sobol_sequence(o)}};
      },
      .inputs = [](const auto&, const SampleSpec&) { return Sample{}; },
      .sample = R"({"dim": 4, "count": 9})",
      .examples = {R"({"scramble": "owen", "start": 3, "bits": 12})"}});
}

}  // namespace

void register_metric(Registry& r) {
  register_generative(r);
  register_samplers(r);
  register_disentanglement(r);
  r.add_family({.name = "Metric", .call = "named tensors -> named numbers"});
  register_ensemble(r);
  r.add(FunctionInfo<ClipScoreOptions>{
      .name = "clip_score",
      .family = "Metric",
      .summary = "how well captions fit images, by the cosine of embeddings",
      .paper = "Hessel et al. 2021, arXiv 2104.08718",
      .call = [](const ClipScoreOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", clip_score(in["image_features"], in["text_features"], o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return image_text(s); },
      .examples = {R"({"clamp": false, "weight": 1})"}});
}

}  // namespace dropin
