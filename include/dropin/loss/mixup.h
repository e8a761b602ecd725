// Mixed rows beside the real ones, and the loss of both.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct MixupRows {
  Tensor x;                   ///< [n + m, ...]: the real rows, then the mixed ones
  Tensor target_a, target_b;  ///< [m] int64, or [m, C] of soft labels
};
/// Mixed row j is lam_j x[pick_j] + (1 - lam_j) x[pick[partner_j]] (Wu & Williamson 2024, section
/// 4). x [n, ...], target [n] int64 or soft labels [n, C], pick and partner [m] int64 (partner
/// indexes into pick), lam [m] within [0, 1].
MixupRows mixup_batch(const Tensor& x, const Tensor& target, const Tensor& pick,
                      const Tensor& partner, const Tensor& lam);

struct MixupMPLossOptions {
  double pseudo_weight = 1;
  bool binary = false;
  static void fields(auto&& f) {
    f("pseudo_weight", &MixupMPLossOptions::pseudo_weight, "r, weight of the mixed rows");
    f("binary", &MixupMPLossOptions::binary, "one logit per row, targets 0 and 1");
  }
};
/// Targets of the mixed rows, all undefined where there are none, and weights of the real ones.
struct MixupTargets {
  Tensor target_a, target_b, lam;  ///< [m]
  Tensor weight;                   ///< [n] or undefined: 1
};
/// (sum_i w_i CE(z_i, y_i) + r sum_j (lam_j CE(z_{n + j}, ya_j) + (1 - lam_j) CE(z_{n + j}, yb_j)))
/// / (n + m), a scalar. logits [n + m, C], target [n] int64 or soft labels [n, C]; binary: logits
/// [n + m] or [n + m, 1], targets as many numbers. lam and the weights get no gradient.
Tensor mixup_mp_loss(const Tensor& logits, const Tensor& target, const MixupTargets& mixed,
                     const MixupMPLossOptions& o = {});

}  // namespace dropin
