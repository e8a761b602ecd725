#include "dropin/data/tasks.h"
#include "dropin/detection/boxes.h"
#include "dropin/detection/delf.h"
#include "dropin/detection/masks.h"
#include "dropin/detection/suppression.h"
#include "registry/lists.h"

namespace dropin {

namespace {

constexpr const char* kYolact = "Bolya et al. 2019, arXiv 1904.02689";

NamedTensors found(const Detections& d) {
  NamedTensors r{{"indices", d.indices}};
  if (d.classes.defined()) r.set("classes", d.classes);
  r.set("scores", d.scores);
  return r;
}

// One crowded picture in the forms the members take: 12 objects and n boxes, with 8 classes where
// there are classes.
constexpr int64_t kObjects = 12, kClasses = 8;
int64_t boxes_of(const SampleSpec& s) {
  static constexpr int64_t kBoxes[] = {20, 16, 1000, 5000};
  return s.length >= 0 ? s.length : s.of(kBoxes);
}
Sample one_class(const SampleSpec& s) {
  const BoxScene scene = box_scene(boxes_of(s), kObjects);
  return {{{"boxes", scene.boxes}, {"scores", scene.scores}}, {}, boxes_of(s)};
}
Sample by_class(const SampleSpec& s) {
  const BoxScene scene = box_scene(boxes_of(s), kObjects, kClasses);
  return {{{"boxes", scene.boxes}, {"scores", scene.scores}}, {}, boxes_of(s)};
}
Sample every_pair(const SampleSpec& s, const char* classes) {  // each box once for each class
  const int64_t n = boxes_of(s);
  const BoxScene scene = box_scene(n, kObjects, kClasses);
  const Tensor of = arange(0, kClasses).to(kInt64).unsqueeze(1);
  return {
      {{"boxes",
        scene.boxes.unsqueeze(0).expand({kClasses, n, 4}).contiguous().reshape({kClasses * n, 4})},
       {"scores", scene.scores.reshape({kClasses * n})},
       {classes, of.expand({kClasses, n}).contiguous().reshape({kClasses * n})}},
      {},
      n};
}

// Centres and sizes of n priors, offsets from them, and the corner boxes that these stand for; all
// relative.
int64_t values_of(const SampleSpec& s) {
  static constexpr int64_t kValues[] = {7, 1024, 1 << 18, 1 << 23};
  return s.length >= 0 ? s.length : s.of(kValues);
}
Tensor uniform(const SampleSpec& s, const Shape& sizes, std::uint64_t more) {
  Generator g(s.seed + more);
  return rand(sizes, {s.dtype, kCPU}, &g);
}
Sample offsets(const SampleSpec& s) {
  const int64_t n = values_of(s);
  return {{{"loc", s.normal({n, 4})}, {"priors", uniform(s, {n, 4}, 1) + 0.1}}, {}, n};
}
Sample corners(const SampleSpec& s) {
  const NamedTensors o = offsets(s).inputs;
  return {{{"boxes", decode_boxes(o.find("loc"), o.find("priors"))}, {"priors", o.find("priors")}},
          {},
          values_of(s)};
}
// Prototypes of 138 x 138, as in the paper; the number of values counts their pixels, per mask.
Sample masks(const SampleSpec& s) {
  const int64_t side = s.size ? 138 : 9, prototypes = s.size ? 32 : 3;
  const int64_t count =
      s.size || s.length >= 0 ? std::max<int64_t>(0, values_of(s) / (side * side)) : 4;
  const Tensor low = uniform(s, {count, 2}, 1) * 0.7, size = uniform(s, {count, 2}, 2) * 0.3;
  return {{{"prototypes", relu(s.normal({prototypes, side, side}))},
           {"coefficients", tanh(s.normal({count, prototypes}))},
           {"boxes", concat({low, low + size}, 1)}},
          {},
          values_of(s)};
}
Sample scored(const SampleSpec& s) {
  const int64_t n = values_of(s);
  return {{{"scores", uniform(s, {n}, 0)},
           {"mask_iou", uniform(s, {n, 80}, 1)},
           {"classes", s.integers(80, {n})}},
          {},
          n};
}

// Boxes moved by one vector are suppressed alike.
NamedTensors moved(const NamedTensors& in) {
  NamedTensors r = in;
  r.set("boxes", in.find("boxes") + 2.0);
  return r;
}
const std::vector<Invariance> kMoved = {{"MovedBoxes", moved, nullptr, 1e-5}};

void register_suppression(Registry& r) {
  r.add_family({.name = "Suppression",
                .call = "boxes [N, 4], scores -> indices of the boxes kept, by falling score"});
  r.add(FunctionInfo<NmsOptions>{
      .name = "nms",
      .family = "Suppression",
      .summary = "greedy suppression of overlapping boxes",
      .call = [](const NmsOptions& o, const Arguments& in) -> NamedTensors {
        return {{"indices", nms(in["boxes"], in["scores"], o)}};
      },
      .inputs = [](const NmsOptions&, const SampleSpec& s) { return one_class(s); },
      .invariances = kMoved});
  r.add(FunctionInfo<NmsOptions>{
      .name = "batched_nms",
      .family = "Suppression",
      .summary = "greedy suppression within each class",
      .call = [](const NmsOptions& o, const Arguments& in) -> NamedTensors {
        return {{"indices", batched_nms(in["boxes"], in["scores"], in["idxs"], o)}};
      },
      .inputs = [](const NmsOptions&, const SampleSpec& s) { return every_pair(s, "idxs"); },
      .invariances = kMoved});
  r.add(FunctionInfo<SoftNmsOptions>{
      .name = "soft_nms",
      .family = "Suppression",
      .summary = "overlapping boxes lose score instead of vanishing",
      .replaces = "nms",
      .paper = "Bodla et al. 2017, arXiv 1704.04503",
      .call =
          [](const SoftNmsOptions& o, const Arguments& in) {
            return found(soft_nms(in["boxes"], in["scores"], in.find("idxs"), o));
          },
      .inputs = [](const SoftNmsOptions&, const SampleSpec& s) { return one_class(s); },
      .invariances = kMoved});
  r.add(FunctionInfo<MatrixNmsOptions>{
      .name = "matrix_nms",
      .family = "Suppression",
      .summary = "scores decay by all IoUs at once",
      .replaces = "batched_nms",
      .paper = "Wang et al. 2020, arXiv 2003.10152",
      .call =
          [](const MatrixNmsOptions& o, const Arguments& in) {
            return found(matrix_nms(in["boxes"], in["scores"], in["classes"], o));
          },
      .inputs = [](const MatrixNmsOptions&,
                   const SampleSpec& s) { return every_pair(s, "classes"); },
      .invariances = kMoved});
  r.add(FunctionInfo<FastNmsOptions>{
      .name = "fast_nms",
      .family = "Suppression",
      .summary = "all boxes of a class decided at once",
      .replaces = "batched_nms",
      .paper = kYolact,
      .call = [](const FastNmsOptions& o,
                 const Arguments& in) { return found(fast_nms(in["boxes"], in["scores"], o)); },
      .inputs = [](const FastNmsOptions&, const SampleSpec& s) { return by_class(s); },
      .invariances = kMoved});
}

void register_vision(Registry& r) {
  r.add_family({.name = "Vision", .call = "boxes, masks and scores of detections"});
  r.add(FunctionInfo<NoOptions>{
      .name = "decode_boxes",
      .family = "Vision",
      .summary = "offsets from priors to corner boxes",
      .paper = kYolact,
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return {{"boxes", decode_boxes(in["loc"], in["priors"])}};
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) { return offsets(s); }});
  r.add(FunctionInfo<NoOptions>{
      .name = "encode_boxes",
      .family = "Vision",
      .summary = "corner boxes to offsets from priors",
      .paper = kYolact,
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return {{"loc", encode_boxes(in["boxes"], in["priors"])}};
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) { return corners(s); }});
  r.add(FunctionInfo<YolactPriorsOptions>{
      .name = "yolact_priors",
      .family = "Vision",
      .summary = "prior boxes of one feature map",
      .paper = kYolact,
      .call = [](const YolactPriorsOptions& o, const Arguments&) -> NamedTensors {
        return {{"priors", yolact_priors(o)}};
      },
      .inputs = [](const YolactPriorsOptions&, const SampleSpec&) { return Sample{}; },
      .sample = R"({"conv_h": 3, "conv_w": 4, "scales": [24], "aspect_ratios": [1, 0.5],
                    "max_size": 138})"});
  r.add(FunctionInfo<YolactMasksOptions>{
      .name = "yolact_masks",
      .family = "Vision",
      .summary = "instance masks from shared prototypes",
      .paper = kYolact,
      .call = [](const YolactMasksOptions& o, const Arguments& in) -> NamedTensors {
        const Tensor boxes = o.crop ? in["boxes"] : in.find("boxes");
        return {{"masks", yolact_masks(in["prototypes"], in["coefficients"], boxes, o)}};
      },
      .inputs = [](const YolactMasksOptions&, const SampleSpec& s) { return masks(s); }});
  r.add(FunctionInfo<NoOptions>{
      .name = "rescore_masks",
      .family = "Vision",
      .summary = "class score times predicted mask quality",
      .paper = "Bolya et al. 2022, arXiv 1912.06218",
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        return {{"mask_scores", rescore_masks(in["scores"], in["mask_iou"], in["classes"])}};
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) { return scored(s); }});
}

// A level of a pyramid, with the directions of its features.
Sample pyramid(const SampleSpec& s) {
  const int64_t c = s.size ? 256 : 6, side = s.length >= 0 ? s.length : s.size ? 64 : 5;
  SampleSpec other = s;
  other.seed += 1;
  const Tensor f = s.normal({c, side, side}), a = softplus(other.normal({side, side}));
  return {{{"features0", f},
           {"scores0", a},
           {"pca_mean", s.normal({c}) * 0.1},
           {"pca_matrix", other.normal({c, c})}},
          {"features0", "scores0", "pca_mean", "pca_matrix"},
          side * side};
}
Sample two_sides(const SampleSpec& s, int64_t width, const std::string& name) {
  const int64_t n = s.length >= 0 ? s.length : s.size ? 1000 : 12;
  SampleSpec other = s;
  other.seed += 1;
  const Tensor a = s.normal({n, width});
  return {{{name + "_1", a}, {name + "_2", a + other.normal({n, width}) * 0.05}}, {}, n};
}
NamedTensors selected(const SelectLocalFeaturesOptions& o, const Arguments& in) {
  Tensors features, scores;
  for (std::size_t i = 0; i < std::max<std::size_t>(1, o.scales.size()); ++i) {
    features.push_back(in["features" + std::to_string(i)]);
    scores.push_back(in["scores" + std::to_string(i)]);
  }
  const LocalFeatures f = select_local_features(features, scores, in["pca_mean"], in["pca_matrix"],
                                                in.find("pca_variance"), o);
  return {{"locations", f.locations},
          {"descriptors", f.descriptors},
          {"scores", f.scores},
          {"feature_scales", f.feature_scales}};
}

void register_local_features(Registry& r) {
  r.add<GlobalAvgPool2d>();
  r.add<AttentiveLocalFeatures>();
  r.add(FunctionInfo<SelectLocalFeaturesOptions>{
      .name = "select_local_features",
      .family = "Function",
      .summary = "the best places of a pyramid as keypoints",
      .paper = AttentiveLocalFeatures::kPaper,
      .call = selected,
      .inputs = [](const auto&, const SampleSpec& s) { return pyramid(s); },
      .sample = R"({"scales": [0.5], "pca_dim": 3, "score_threshold": 0.5})",
      .examples = {R"({"nms_iou": 0.8, "max_features": 4})"}});
  r.add(FunctionInfo<MatchLocalFeaturesOptions>{
      .name = "match_local_features",
      .family = "Function",
      .summary = "nearest descriptors that are near enough",
      .call = [](const MatchLocalFeaturesOptions& o, const Arguments& in) -> NamedTensors {
        return {{"matches", match_local_features(in["descriptors_1"], in["descriptors_2"], o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return two_sides(s, 8, "descriptors"); },
      .examples = {R"({"mutual": true, "ratio": 0.9})"}});
  r.add(FunctionInfo<RansacAffineOptions>{
      .name = "ransac_affine",
      .family = "Function",
      .summary = "the affine map that most pairs of points follow",
      .call = [](const RansacAffineOptions& o, const Arguments& in) -> NamedTensors {
        const AffineMap m = ransac_affine(in["locations_1"], in["locations_2"], o);
        return {{"inliers", m.inliers}, {"affine", m.affine}, {"num_inliers", m.num_inliers}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return two_sides(s, 2, "locations"); },
      .sample = R"({"max_trials": 20, "residual_threshold": 0.2})",
      .examples = {R"({"adaptive": true, "min_samples": 4})"}});
}

}  // namespace

void register_detection(Registry& r) {
  register_local_features(r);
  register_suppression(r);
  register_vision(r);
}

}  // namespace dropin
