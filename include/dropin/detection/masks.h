// Instance masks from prototypes (YOLACT, Bolya et al. 2019, section 3), and their re-scoring
// (YOLACT++, section 5).
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct YolactMasksOptions {
  bool crop = true;
  int64_t crop_padding = 1, out_height = 0, out_width = 0;
  bool binarize = false;
  static void fields(auto&& f) {
    using O = YolactMasksOptions;
    f("crop", &O::crop, "zero outside the box");
    f("crop_padding", &O::crop_padding, "pixels of the prototypes around the box that are kept");
    f("out_height", &O::out_height, "rows after a bilinear resize; 0: the prototypes'");
    f("out_width", &O::out_width, "columns after a bilinear resize; 0: the prototypes'");
    f("binarize", &O::binarize, "uint8 masks, 1 where the value is greater than 0.5");
  }
};
/// M_n = sigmoid(sum_k coefficients[n, k] prototypes[k]), cropped to boxes[n] (relative 0..1,
/// corners in any order), then resized, then binarized. prototypes [K, h, w], coefficients [N, K],
/// boxes [N, 4] -> [N, h, w] or [N, out_height, out_width]. Gradients for prototypes and
/// coefficients; boxes get none. A box with NaN gives an empty mask. A box outside the picture
/// gives what the padded window leaves.
Tensor yolact_masks(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes,
                    const YolactMasksOptions& o = {});

/// 1 inside the padded boxes, 0 outside, [N, h, w] bool: x >= min(bx1, bx2) w - padding and x <
/// max(bx1, bx2) w + padding, the same for rows, in real numbers.
Tensor crop_window(const Tensor& boxes, int64_t h, int64_t w, int64_t padding = 1);

/// Bilinear resize of the last two dimensions, corners not aligned
/// (torch.nn.functional.interpolate). Differentiable.
Tensor resize_bilinear(const Tensor& x, int64_t height, int64_t width);

/// y[n] = scores[n] mask_iou[n, classes[n]]: ranks masks by class score and predicted quality.
/// scores [N], mask_iou [N, C], classes int64 [N]. IndexError for a class outside [0, C).
Tensor rescore_masks(const Tensor& scores, const Tensor& mask_iou, const Tensor& classes);

}  // namespace dropin
