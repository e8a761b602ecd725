// Which boxes of sorted lists survive non-maximum suppression (Bolya et al. 2019, section 5, Fast
// NMS). Boxes [N, 4] as x1, y1, x2, y2, f32 or f64; IoU is 0 where the union is not positive or a
// coordinate is not finite. Decisions are those of float64 arithmetic, whatever the type.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// order i64 [M]: indices of boxes, `starts` i64 [S + 1]: list s is order[starts[s], starts[s +
/// 1]), best first. kept u8 [M]. A box goes when an earlier box of its list that stays itself has
/// IoU > threshold with it.
DROPIN_KERNEL(greedy_suppression, const abi::TensorIn& boxes, const abi::TensorIn& order,
              const abi::TensorIn& starts, double iou_threshold, const abi::TensorOut& kept);
/// The same, but a box that went still suppresses others.
DROPIN_KERNEL(fast_suppression, const abi::TensorIn& boxes, const abi::TensorIn& order,
              const abi::TensorIn& starts, double iou_threshold, const abi::TensorOut& kept);

}  // namespace dropin::kernels
