// Contrastive losses of images, regions and texts (CLIP, CLOC), and the loss of grounded boxes.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

/// y = (CE(S) + CE(S')) / 2 with S = s n(image_features) n(text_features)', the diagonal being
/// right (Radford et al. 2021). Features [N, E], logit_scale [] positive -> []. N = 0 gives 0.
/// Never more than blocks of S in memory. 16-bit features are summed in float32.
Tensor ClipLoss(const Tensor& image_features, const Tensor& text_features,
                const Tensor& logit_scale);

struct RegionTextContrastiveLossOptions {
  double conflict_threshold = 0;
  bool gather = false;
  static void fields(auto&& f) {
    using O = RegionTextContrastiveLossOptions;
    f("conflict_threshold", &O::conflict_threshold,
      "captions more alike than this are no negatives of each other; 0: all are");
    f("gather", &O::gather, "regions of all processes; this build refuses it");
  }
};
/// ClipLoss over the valid regions of a whole batch (Chen et al. 2025, arXiv 2410.02746), without
/// the pairs whose captions conflict. region_features, text_features [B, M, E], region_mask bool
/// [B, M], true: valid (undefined: all). No valid region gives 0, with a warning.
Tensor RegionTextContrastiveLoss(const Tensor& region_features, const Tensor& text_features,
                                 const Tensor& logit_scale, const Tensor& region_mask = {},
                                 const RegionTextContrastiveLossOptions& o = {});

struct GroundingLossOptions {
  double giou_weight = 0;
  static void fields(auto&& f) {
    f("giou_weight", &GroundingLossOptions::giou_weight, "of 1 - GIoU beside the distance");
  }
};
/// Mean distance of sigmoid(pred) = (cx, cy, w, h) from boxes (x1, y1, x2, y2) over valid slots and
/// coordinates, and giou_weight times the mean of 1 - GIoU. pred, boxes [B, M, 4]; boxes get no
/// gradient. No valid slot gives 0, with a warning.
Tensor GroundingLoss(const Tensor& pred, const Tensor& boxes, const Tensor& region_mask = {},
                     const GroundingLossOptions& o = {});

}  // namespace dropin
