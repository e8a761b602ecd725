#include "dropin/nn/activation.h"
#include "dropin/vision/boxes.h"
#include "dropin/vision/masks.h"
#include "registry/lists.h"

namespace dropin {

namespace {
// Centres and sizes of n priors, offsets from them, and the corner boxes that these stand for; all relative.
NamedTensors offsets(std::int64_t n) { return {{"loc", randn({n, 4})}, {"priors", rand({n, 4}) + 0.1}}; }
NamedTensors corners(std::int64_t n) {
  const NamedTensors o = offsets(n);
  return {{"boxes", decode_boxes(o.find("loc"), o.find("priors"))}, {"priors", o.find("priors")}};
}
NamedTensors masks(std::int64_t n) {  // 32 prototypes of 138 x 138, as in the paper; n counts their pixels, per mask
  const std::int64_t count = std::max<std::int64_t>(1, n / (138 * 138));
  const Tensor low = rand({count, 2}) * 0.7;
  return {{"prototypes", relu(randn({32, 138, 138}))}, {"coefficients", tanh(randn({count, 32}))}, {"boxes", concat({low, low + rand({count, 2}) * 0.3}, 1)}};
}
NamedTensors scored(std::int64_t n) { return {{"scores", rand({n})}, {"mask_iou", rand({n, 80})}, {"classes", randint(0, 80, {n}, kInt64)}}; }
}  // namespace

void register_vision(Registry& r) {
  const std::string family = "Vision", yolact = "Bolya et al. 2019, arXiv 1904.02689";
  r.add_function<NoOptions>("decode_boxes", family, "offsets from priors to corner boxes", [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
    return {{"boxes", decode_boxes(in.get("loc", "decode_boxes"), in.get("priors", "decode_boxes"))}};
  }, "", yolact, offsets);
  r.add_function<NoOptions>("encode_boxes", family, "corner boxes to offsets from priors", [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
    return {{"loc", encode_boxes(in.get("boxes", "encode_boxes"), in.get("priors", "encode_boxes"))}};
  }, "", yolact, corners);
  r.add_function<YolactPriorsOptions>("yolact_priors", family, "prior boxes of one feature map", [](const YolactPriorsOptions& o, const NamedTensors&) -> NamedTensors {
    return {{"priors", yolact_priors(o)}};
  }, "", yolact);
  r.add_function<YolactMasksOptions>("yolact_masks", family, "instance masks from shared prototypes", [](const YolactMasksOptions& o, const NamedTensors& in) -> NamedTensors {
    return {{"masks", yolact_masks(in.get("prototypes", "yolact_masks"), in.get("coefficients", "yolact_masks"), o.crop ? in.get("boxes", "yolact_masks") : in.find("boxes"), o)}};
  }, "", yolact, masks);
  r.add_function<NoOptions>("rescore_masks", family, "class score times predicted mask quality", [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
    return {{"mask_scores", rescore_masks(in.get("scores", "rescore_masks"), in.get("mask_iou", "rescore_masks"), in.get("classes", "rescore_masks"))}};
  }, "", "Bolya et al. 2022, arXiv 1912.06218", scored);
}

}  // namespace dropin
