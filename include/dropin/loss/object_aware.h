// Losses of an object-aware video model: boxes as a set, nouns of a caption, videos and captions.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct BoxSetLossOptions {
  double cost_l1 = 5, cost_giou = 2, l1_weight = 5, giou_weight = 2, iou_eps = 1e-4;
  static void fields(auto&& f) {
    using O = BoxSetLossOptions;
    f("cost_l1", &O::cost_l1, "of the distance, in matching");
    f("cost_giou", &O::cost_giou, "of the overlap, in matching");
    f("l1_weight", &O::l1_weight, "of the distance, in the loss");
    f("giou_weight", &O::giou_weight, "of the overlap, in the loss");
    f("iou_eps", &O::iou_eps, "added to the union; 0: the standard");
  }
};
struct BoxSetLosses {
  Tensor y;        ///< []
  Tensor matched;  ///< [M, G] int64: the prediction of each target, -1 where there is none
};
/// Targets matched to predictions one by one at the least cost, then l1_weight |p - g|_1 +
/// giou_weight (1 - GIoU) summed and divided by the number of targets (Carion et al. 2020, section
/// 3). pred [M, Q, 4] and boxes [M, G, 4] as centre x, y, width, height; box_mask [M, G] bool, true
/// for a target. Unmatched predictions are free; matching has no gradient.
BoxSetLosses box_set_loss(const Tensor& pred, const Tensor& boxes, const Tensor& box_mask,
                          const BoxSetLossOptions& o = {});

struct WordContrastiveLossOptions {
  double temperature = 0.07, noun_threshold = 0.6;
  static void fields(auto&& f) {
    using O = WordContrastiveLossOptions;
    f("temperature", &O::temperature, "of the cosines");
    f("noun_threshold", &O::noun_threshold, "nouns nearer to the target than that hardly count");
  }
};
/// Each clip's nouns matched to its objects by the greatest sum of cosines, then cross-entropy of
/// each matched object over the vocabulary (Zhang et al. 2023, section 3). noun_embeds [V, E] whose
/// row 0 is no noun, object_embeds [B, Q, E], noun_ids int64 [B, W], 0 for none -> a scalar, the
/// mean over matched pairs; 0 without any.
Tensor word_contrastive_loss(const Tensor& noun_embeds, const Tensor& object_embeds,
                             const Tensor& noun_ids, const WordContrastiveLossOptions& o = {});

struct EgoNCELossOptions {
  double temperature = 0.07, vn_threshold = 0;
  static void fields(auto&& f) {
    using O = EgoNCELossOptions;
    f("temperature", &O::temperature, "of the cosines");
    f("vn_threshold", &O::vn_threshold, "videos whose verbs and nouns are that alike are positive");
  }
};
/// Captions and videos, each against all of the other kind, with every positive counted alike (Lin
/// et al. 2022; Zhang et al. 2023). text_embeds [V R, E], R captions per video one after another,
/// video_embeds [V, E], verb_sim and noun_sim [V, V], caption_mask [V R] bool, true for a caption
/// (undefined: all) -> a scalar, the sum of both directions. Videos without a positive are left
/// out.
Tensor ego_nce_loss(const Tensor& text_embeds, const Tensor& video_embeds, const Tensor& verb_sim,
                    const Tensor& noun_sim, const Tensor& caption_mask = {},
                    const EgoNCELossOptions& o = {});

}  // namespace dropin
