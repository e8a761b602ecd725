#include "dropin/data/tasks.h"
#include "dropin/detection/boxes.h"
#include "dropin/detection/masks.h"
#include "dropin/detection/suppression.h"
#include "registry/lists.h"

namespace dropin {

namespace {
NamedTensors found(const Detections& d) {
  NamedTensors r{{"indices", d.indices}};
  if (d.classes.defined()) r.set("classes", d.classes);
  r.set("scores", d.scores);
  return r;
}
// One crowded picture in the forms the members take: 12 objects and n boxes, with 8 classes where
// there are classes.
constexpr std::int64_t kObjects = 12, kClasses = 8;
NamedTensors one_class(std::int64_t n) {
  const BoxScene s = box_scene(n, kObjects);
  return {{"boxes", s.boxes}, {"scores", s.scores}};
}
NamedTensors by_class(std::int64_t n) {
  const BoxScene s = box_scene(n, kObjects, kClasses);
  return {{"boxes", s.boxes}, {"scores", s.scores}};
}
NamedTensors every_pair(std::int64_t n, const char* classes) {  // each box once for each class
  const BoxScene s = box_scene(n, kObjects, kClasses);
  return {{"boxes",
           s.boxes.unsqueeze(0).expand({kClasses, n, 4}).contiguous().reshape({kClasses * n, 4})},
          {"scores", s.scores.reshape({kClasses * n})},
          {classes, arange(0, kClasses)
                        .to(kInt64)
                        .unsqueeze(1)
                        .expand({kClasses, n})
                        .contiguous()
                        .reshape({kClasses * n})}};
}
// Centres and sizes of n priors, offsets from them, and the corner boxes that these stand for; all
// relative.
NamedTensors offsets(std::int64_t n) {
  return {{"loc", randn({n, 4})}, {"priors", rand({n, 4}) + 0.1}};
}
NamedTensors corners(std::int64_t n) {
  const NamedTensors o = offsets(n);
  return {{"boxes", decode_boxes(o.find("loc"), o.find("priors"))}, {"priors", o.find("priors")}};
}
NamedTensors masks(std::int64_t n) {  // 32 prototypes of 138 x 138, as in the paper; n counts their
                                      // pixels, per mask
  const std::int64_t count = std::max<std::int64_t>(1, n / (138 * 138));
  const Tensor low = rand({count, 2}) * 0.7;
  return {{"prototypes", relu(randn({32, 138, 138}))},
          {"coefficients", tanh(randn({count, 32}))},
          {"boxes", concat({low, low + rand({count, 2}) * 0.3}, 1)}};
}
NamedTensors scored(std::int64_t n) {
  return {
      {"scores", rand({n})}, {"mask_iou", rand({n, 80})}, {"classes", randint(0, 80, {n}, kInt64)}};
}
}  // namespace

void register_detection(Registry& r) {
  const std::string family = "Suppression";
  r.add_function<NmsOptions>(
      "nms", family, "greedy suppression of overlapping boxes",
      [](const NmsOptions& o, const NamedTensors& in) -> NamedTensors {
        return {{"indices", nms(in.get("boxes", "nms"), in.get("scores", "nms"), o)}};
      },
      "", "", one_class);
  r.add_function<NmsOptions>(
      "batched_nms", family, "greedy suppression within each class",
      [](const NmsOptions& o, const NamedTensors& in) -> NamedTensors {
        return {
            {"indices", batched_nms(in.get("boxes", "batched_nms"), in.get("scores", "batched_nms"),
                                    in.get("idxs", "batched_nms"), o)}};
      },
      "", "", [](std::int64_t n) { return every_pair(n, "idxs"); });
  r.add_function<SoftNmsOptions>(
      "soft_nms", family, "overlapping boxes lose score instead of vanishing",
      [](const SoftNmsOptions& o, const NamedTensors& in) {
        return found(soft_nms(in.get("boxes", "soft_nms"), in.get("scores", "soft_nms"),
                              in.find("idxs"), o));
      },
      "nms", "Bodla et al. 2017, arXiv 1704.04503", one_class);
  r.add_function<MatrixNmsOptions>(
      "matrix_nms", family, "scores decay by all IoUs at once",
      [](const MatrixNmsOptions& o, const NamedTensors& in) {
        return found(matrix_nms(in.get("boxes", "matrix_nms"), in.get("scores", "matrix_nms"),
                                in.get("classes", "matrix_nms"), o));
      },
      "batched_nms", "Wang et al. 2020, arXiv 2003.10152",
      [](std::int64_t n) { return every_pair(n, "classes"); });
  r.add_function<FastNmsOptions>(
      "fast_nms", family, "all boxes of a class decided at once",
      [](const FastNmsOptions& o, const NamedTensors& in) {
        return found(fast_nms(in.get("boxes", "fast_nms"), in.get("scores", "fast_nms"), o));
      },
      "batched_nms", "Bolya et al. 2019, arXiv 1904.02689", by_class);
  const std::string vision = "Vision", yolact = "Bolya et al. 2019, arXiv 1904.02689";
  r.add_function<NoOptions>(
      "decode_boxes", vision, "offsets from priors to corner boxes",
      [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
        return {{"boxes",
                 decode_boxes(in.get("loc", "decode_boxes"), in.get("priors", "decode_boxes"))}};
      },
      "", yolact, offsets);
  r.add_function<NoOptions>(
      "encode_boxes", vision, "corner boxes to offsets from priors",
      [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
        return {{"loc",
                 encode_boxes(in.get("boxes", "encode_boxes"), in.get("priors", "encode_boxes"))}};
      },
      "", yolact, corners);
  r.add_function<YolactPriorsOptions>(
      "yolact_priors", vision, "prior boxes of one feature map",
      [](const YolactPriorsOptions& o, const NamedTensors&) -> NamedTensors {
        return {{"priors", yolact_priors(o)}};
      },
      "", yolact);
  r.add_function<YolactMasksOptions>(
      "yolact_masks", vision, "instance masks from shared prototypes",
      [](const YolactMasksOptions& o, const NamedTensors& in) -> NamedTensors {
        return {{"masks",
                 yolact_masks(in.get("prototypes", "yolact_masks"),
                              in.get("coefficients", "yolact_masks"),
                              o.crop ? in.get("boxes", "yolact_masks") : in.find("boxes"), o)}};
      },
      "", yolact, masks);
  r.add_function<NoOptions>(
      "rescore_masks", vision, "class score times predicted mask quality",
      [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
        return {{"mask_scores", rescore_masks(in.get("scores", "rescore_masks"),
                                              in.get("mask_iou", "rescore_masks"),
                                              in.get("classes", "rescore_masks"))}};
      },
      "", "Bolya et al. 2022, arXiv 1912.06218", scored);
}

}  // namespace dropin
