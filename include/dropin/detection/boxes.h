// Boxes of single-stage detectors (YOLACT, Bolya et al. 2019; variances 0.1 and 0.2 as in SSD).
// Corner form is x1, y1, x2, y2.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

/// Offsets loc [P, 4] to corner boxes [P, 4]: centre = prior centre + 0.1 loc_xy prior_wh, size =
/// prior_wh exp(0.2 loc_wh). priors [P, 4] as cx, cy, w, h. Differentiable in both. An exponent
/// that overflows gives infinite boxes.
Tensor decode_boxes(const Tensor& loc, const Tensor& priors);
/// The inverse: corner boxes [P, 4] to offsets [P, 4], loc_xy = (centre - prior centre) / (0.1
/// prior_wh), loc_wh = log(size / prior_wh) / 0.2.
Tensor encode_boxes(const Tensor& boxes, const Tensor& priors);

struct YolactPriorsOptions {
  int64_t conv_h = 0, conv_w = 0;             ///< required
  std::vector<double> scales, aspect_ratios;  ///< required
  double max_size = 0;                        ///< required
  bool square = false;
  static void fields(auto&& f) {
    using O = YolactPriorsOptions;
    f("conv_h", &O::conv_h, "rows of the feature map; required");
    f("conv_w", &O::conv_w, "columns of the feature map; required");
    f("scales", &O::scales, "sides of the priors in pixels of the picture; required");
    f("aspect_ratios", &O::aspect_ratios, "width over height; required");
    f("max_size", &O::max_size, "side of the picture in pixels; required");
    f("square", &O::square, "height = width, as the original YOLACT's checkpoints expect");
  }
};
/// Priors of one level, [conv_h conv_w A, 4] f32 as cx, cy, w, h relative to the picture: rows,
/// columns, scales, ratios in that nesting. Levels are concatenated from fine to coarse; nine a
/// cell (YOLACT++) are three scales s 2^(j/3) and three ratios.
Tensor yolact_priors(const YolactPriorsOptions& o);

/// Relative boxes [N, 4] in pixels of a height x width picture: corners sorted, clamped to the
/// picture, truncated. int64; NaN becomes 0.
Tensor boxes_to_pixels(const Tensor& boxes, int64_t height, int64_t width);

}  // namespace dropin
