// Greedy non-maximum suppression, of all boxes or within each class.
#include "dropin/detection/suppression.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "detection/common.h"
#include "dropin/ops/reduce.h"
#include "ops/common.h"

namespace dropin {

using namespace detection_detail;

namespace {

/// The entries of `order` whose flag is set.
Tensor kept_of(const Indices& order, const std::vector<std::uint8_t>& kept) {
  Indices r;
  for (std::size_t k = 0; k < order.size(); ++k)
    if (kept[k]) r.push_back(order[k]);
  return to_tensor(r);
}

/// Each class is a list of its own; what stays is told in the order of all scores.
Tensor kept_by_class(const Tensor& boxes, const Indices& order, const Index* classes,
                     double threshold) {
  Indices starts{0}, place(order.size());  // place[k]: the rank of entry k
  std::iota(place.begin(), place.end(), Index{0});
  std::stable_sort(place.begin(), place.end(), [&](Index x, Index y) {
    return classes[order[static_cast<std::size_t>(x)]] <
           classes[order[static_cast<std::size_t>(y)]];
  });
  Indices grouped(order.size());
  for (std::size_t k = 0; k < grouped.size(); ++k) {
    grouped[k] = order[static_cast<std::size_t>(place[k])];
    if (k > 0 && classes[grouped[k]] != classes[grouped[k - 1]])
      starts.push_back(static_cast<Index>(k));
  }
  starts.push_back(static_cast<Index>(order.size()));
  const auto kept = survivors<kernels::greedy_suppression>(boxes, grouped, starts, threshold);
  std::vector<std::uint8_t> by_rank(kept.size());
  for (std::size_t k = 0; k < kept.size(); ++k)
    by_rank[static_cast<std::size_t>(place[k])] = kept[k];
  return kept_of(order, by_rank);
}

/// On a device the same steps in operations, so that only counts come to the host.
Tensor batched_nms_there(const Tensor& boxes, const Tensor& scores, const Tensor& classes,
                         const NmsOptions& o) {
  const Index n = boxes.size(0);
  const Tensor order = argsort(scores, 0, true);
  if (!classes.defined())
    return masked_select(
        order, survivors_there<kernels::greedy_suppression>(boxes, order, {0, n}, o.iou_threshold));
  const Tensor ranked = index_select(classes, 0, order), place = argsort(ranked, 0, false),
               of = index_select(ranked, 0, place).to(kCPU);
  Indices starts{0};
  for (Index k = 1; k < n; ++k)
    if (of.data<Index>()[k] != of.data<Index>()[k - 1]) starts.push_back(k);
  starts.push_back(n);
  const Tensor kept = survivors_there<kernels::greedy_suppression>(
      boxes, index_select(order, 0, place), starts, o.iou_threshold);
  return masked_select(order, scatter(zeros_like(kept), 0, place, kept));
}

}  // namespace

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                   const NmsOptions& o) {
  const char* who = idxs.defined() ? "batched_nms" : "nms";
  check_scores(who, boxes, scores);
  if (idxs.defined()) check_classes(who, "idxs", idxs, boxes);
  check_share(who, "iou_threshold", o.iou_threshold);
  if (!boxes.device().is_cpu() && boxes.size(0) > 0 && !any(isnan(scores)).item<bool>())
    return batched_nms_there(contiguous(boxes), contiguous(scores),
                             idxs.defined() ? contiguous(idxs) : idxs, o);
  const Tensor b = contiguous(on_cpu(boxes)), s = contiguous(on_cpu(scores)),
               c = idxs.defined() ? contiguous(on_cpu(idxs)) : Tensor();
  const Index n = b.size(0);
  if (n == 0) return empty({0}, {kInt64, boxes.device()});
  const Indices order = by_type(s, [&](const auto* p) {
    for (Index i = 0; i < n; ++i)
      DROPIN_CHECK(!std::isnan(p[i]), Error, who, ": scores[", i, "] is nan, expected numbers");
    return rank_all(p, nullptr, n, 0, n);
  });
  if (c.defined()) return kept_by_class(b, order, c.data<Index>(), o.iou_threshold);
  return kept_of(order, survivors<kernels::greedy_suppression>(b, order, {0, n}, o.iou_threshold));
}

Tensor nms(const Tensor& boxes, const Tensor& scores, const NmsOptions& o) {
  return batched_nms(boxes, scores, {}, o);
}

}  // namespace dropin
