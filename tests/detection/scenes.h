// Boxes, scenes of boxes, and the plain definitions of the rules.
#pragma once
#include "support.h"

namespace dropin {

inline const float kNan = std::nanf(""), kInf = INFINITY;

inline Tensor boxes_of(const std::vector<double>& v, DType t = kFloat32) {
  return tensor(v, {static_cast<int64_t>(v.size() / 4), 4}, t);
}

/// Crowded boxes on a grid of whole numbers, so that IoUs often equal a threshold exactly; scores
/// in few steps, so that they tie.
struct Scene {
  Tensor boxes, scores;
};

inline Scene scene(int64_t n, int64_t classes, std::uint64_t seed, double extent = 60) {
  Generator g(seed);
  const Tensor at = randint(0, static_cast<int64_t>(extent), {n, 2}, kInt64, &g).to(kFloat32),
               size = randint(0, 30, {n, 2}, kInt64, &g).to(kFloat32);
  const Tensor scores =
      randint(0, 64, classes ? Shape{classes, n} : Shape{n}, kInt64, &g).to(kFloat32) * (1.0 / 64);
  return {concat({at, at + size}, 1), scores};
}

inline double iou(const std::vector<double>& b, int64_t i, int64_t j) {
  const double *p = b.data() + 4 * i, *q = b.data() + 4 * j;
  const double w = std::max(0.0, std::min(p[2], q[2]) - std::max(p[0], q[0])),
               h = std::max(0.0, std::min(p[3], q[3]) - std::max(p[1], q[1]));
  const double all = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - w * h;
  return all > 0 ? w * h / all : 0;
}

inline std::vector<int64_t> sorted(const std::vector<double>& scores) {
  std::vector<int64_t> order(scores.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  return order;
}

}  // namespace dropin
