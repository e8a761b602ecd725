#include "dropin/data/tasks.h"
#include "dropin/vision/suppression.h"
#include "registry/lists.h"

namespace dropin {

namespace {
NamedTensors found(const Detections& d) {
  NamedTensors r{{"indices", d.indices}};
  if (d.classes.defined()) r.set("classes", d.classes);
  r.set("scores", d.scores);
  return r;
}
// One crowded picture in the forms the members take: 12 objects and n boxes, with 8 classes where there are classes.
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
  return {{"boxes", s.boxes.unsqueeze(0).expand({kClasses, n, 4}).contiguous().reshape({kClasses * n, 4})}, {"scores", s.scores.reshape({kClasses * n})},
          {classes, arange(0, kClasses).to(kInt64).unsqueeze(1).expand({kClasses, n}).contiguous().reshape({kClasses * n})}};
}
}  // namespace

void register_suppressions(Registry& r) {
  const std::string family = "Suppression";
  r.add_function<NmsOptions>("nms", family, "greedy suppression of overlapping boxes", [](const NmsOptions& o, const NamedTensors& in) -> NamedTensors {
    return {{"indices", nms(in.get("boxes", "nms"), in.get("scores", "nms"), o)}};
  }, "", "", one_class);
  r.add_function<NmsOptions>("batched_nms", family, "greedy suppression within each class", [](const NmsOptions& o, const NamedTensors& in) -> NamedTensors {
    return {{"indices", batched_nms(in.get("boxes", "batched_nms"), in.get("scores", "batched_nms"), in.get("idxs", "batched_nms"), o)}};
  }, "", "", [](std::int64_t n) { return every_pair(n, "idxs"); });
  r.add_function<SoftNmsOptions>("soft_nms", family, "overlapping boxes lose score instead of vanishing", [](const SoftNmsOptions& o, const NamedTensors& in) {
    return found(soft_nms(in.get("boxes", "soft_nms"), in.get("scores", "soft_nms"), in.find("idxs"), o));
  }, "nms", "Bodla et al. 2017, arXiv 1704.04503", one_class);
  r.add_function<MatrixNmsOptions>("matrix_nms", family, "scores decay by all IoUs at once", [](const MatrixNmsOptions& o, const NamedTensors& in) {
    return found(matrix_nms(in.get("boxes", "matrix_nms"), in.get("scores", "matrix_nms"), in.get("classes", "matrix_nms"), o));
  }, "batched_nms", "Wang et al. 2020, arXiv 2003.10152", [](std::int64_t n) { return every_pair(n, "classes"); });
  r.add_function<FastNmsOptions>("fast_nms", family, "all boxes of a class decided at once", [](const FastNmsOptions& o, const NamedTensors& in) {
    return found(fast_nms(in.get("boxes", "fast_nms"), in.get("scores", "fast_nms"), o));
  }, "batched_nms", "Bolya et al. 2019, arXiv 1904.02689", by_class);
}

}  // namespace dropin
