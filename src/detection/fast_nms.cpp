// Fast NMS (YOLACT): all boxes of a list are decided at once.
#include <algorithm>
#include <cmath>

#include "detection/common.h"
#include "dropin/core/parallel.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin {

using namespace detection_detail;

namespace {

Detections fast_nms_there(const Tensor& boxes, const Tensor& scores, const FastNmsOptions& o) {
  const Device& d = boxes.device();
  const Index N = boxes.size(0), C = scores.size(0);
  const Detections none{empty({0}, {kInt64, d}), empty({0}, {kInt64, d}),
                        empty({0}, scores.options())};
  if (N == 0 || C == 0) return none;
  const ValuesIndices best = max(scores, 0);
  const Tensor among = nonzero(best.values.to(kFloat64) > o.conf_threshold).reshape({-1});
  const Index candidates = among.size(0);
  if (candidates == 0) return none;
  const Tensor lists = o.cross_class ? index_select(best.values, 0, among).unsqueeze(0)
                                     : index_select(scores, 1, among);
  const Index L = lists.size(0), k = o.top_k > 0 ? std::min(o.top_k, candidates) : candidates;
  const Tensor rank =
      topk(masked_fill(lists, isnan(lists), -HUGE_VAL), k, 1, true).indices;  // NaN last
  const Tensor order = index_select(among, 0, rank.reshape({-1})),
               values = gather(lists, 1, rank).reshape({-1});
  Indices starts;
  for (Index l = 0; l <= L; ++l) starts.push_back(l * k);
  Tensor kept = survivors_there<kernels::fast_suppression>(boxes, order, starts, o.iou_threshold);
  if (o.second_threshold) kept = logical_and(kept, values.to(kFloat64) > o.conf_threshold);
  const Tensor chosen = nonzero(kept).reshape({-1});
  const Index found = chosen.size(0),
              limit = o.max_detections > 0 ? std::min(o.max_detections, found) : found;
  if (found == 0) return none;
  const Tensor out = index_select(values, 0, chosen),
               last = index_select(
                   chosen, 0,
                   topk(masked_fill(out, isnan(out), -HUGE_VAL), limit, 0, true).indices);
  const Tensor indices = index_select(order, 0, last);
  const Tensor classes = o.cross_class
                             ? index_select(best.indices, 0, indices)
                             : floor_divide(last, full({}, static_cast<double>(k), last.options()));
  return {indices, classes, index_select(values, 0, last)};
}

/// What step 1 leaves: the boxes in question and, across classes, the best score and class of each.
template <class T>
struct Candidates {
  std::vector<T> best;
  Indices best_class, among;
};
template <class T>
Candidates<T> candidates_of(const T* scores, Index C, Index N, const FastNmsOptions& o) {
  Candidates<T> r{
      std::vector<T>(static_cast<std::size_t>(N)), Indices(static_cast<std::size_t>(N)), {}};
  if (C == 0) return r;
  std::copy_n(scores, N, r.best.begin());
  for (Index c = 1; c < C; ++c)
    for (Index n = 0; n < N; ++n) {  // a NaN wins and stays
      const auto k = static_cast<std::size_t>(n);
      const T v = scores[c * N + n];
      const bool more = !(v <= r.best[k]) && !std::isnan(r.best[k]);
      r.best[k] = more ? v : r.best[k];
      r.best_class[k] = more ? c : r.best_class[k];
    }
  for (Index n = 0; n < N; ++n)
    if (static_cast<double>(r.best[static_cast<std::size_t>(n)]) > o.conf_threshold)
      r.among.push_back(n);
  return r;
}

template <class T>
Detections fast_nms_of(const Tensor& boxes, const T* scores, Index C, Index N,
                       const FastNmsOptions& o) {
  // 1. Candidates, and (cross_class) the best score and class of each.
  const Candidates<T> first = candidates_of(scores, C, N, o);
  const std::vector<T>& best = first.best;
  const Indices &best_class = first.best_class, &among = first.among;
  // 2. Each list sorted and cut.
  const auto candidates = static_cast<Index>(among.size());
  const Index lists = candidates == 0 ? 0 : o.cross_class ? 1 : C;
  std::vector<Indices> sorted(static_cast<std::size_t>(lists));
  parallel_for(
      lists, std::max<Index>(1, 2048 / std::max<Index>(candidates, 1)), [&](Index from, Index to) {
        for (Index c = from; c < to; ++c)
          sorted[static_cast<std::size_t>(c)] = rank_all(
              o.cross_class ? best.data() : scores + c * N, among.data(), candidates, o.top_k, N);
      });
  Indices order, starts{0};
  for (const Indices& s : sorted) {
    order.insert(order.end(), s.begin(), s.end());
    starts.push_back(static_cast<Index>(order.size()));
  }
  // 3, 4. Decided at once.
  const auto kept = survivors<kernels::fast_suppression>(boxes, order, starts, o.iou_threshold);
  std::vector<T> out;
  Indices indices, classes;
  for (Index c = 0; c < lists; ++c)
    for (Index k = starts[static_cast<std::size_t>(c)]; k < starts[static_cast<std::size_t>(c) + 1];
         ++k) {
      const Index n = order[static_cast<std::size_t>(k)];
      const T v = o.cross_class ? best[static_cast<std::size_t>(n)] : scores[c * N + n];
      if (!kept[static_cast<std::size_t>(k)] ||
          (o.second_threshold && !(static_cast<double>(v) > o.conf_threshold)))
        continue;  // 5.
      indices.push_back(n);
      classes.push_back(o.cross_class ? best_class[static_cast<std::size_t>(n)] : c);
      out.push_back(v);
    }
  // 6. All classes by score.
  const auto found = static_cast<Index>(out.size());
  const Indices final_order = rank_all(out.data(), nullptr, found, o.max_detections, found);
  Detections r{empty({static_cast<Index>(final_order.size())}, kInt64),
               empty({static_cast<Index>(final_order.size())}, kInt64),
               empty({static_cast<Index>(final_order.size())}, dtype_of<T>::value)};
  for (std::size_t k = 0; k < final_order.size(); ++k) {
    const auto i = static_cast<std::size_t>(final_order[k]);
    r.indices.data<Index>()[k] = indices[i];
    r.classes.data<Index>()[k] = classes[i];
    r.scores.data<T>()[k] = out[i];
  }
  return r;
}

void check_fast_nms(const FastNmsOptions& o) {
  check_share("fast_nms", "iou_threshold", o.iou_threshold);
  check_not_nan("fast_nms", "conf_threshold", o.conf_threshold);
  check_count("fast_nms", "top_k", o.top_k);
  check_count("fast_nms", "max_detections", o.max_detections);
}

}  // namespace

Detections fast_nms(const Tensor& boxes, const Tensor& scores, const FastNmsOptions& o) {
  check_boxes("fast_nms", boxes, scores);
  DROPIN_CHECK(scores.dim() == 2 && scores.size(1) == boxes.size(0), ShapeError,
               "fast_nms: scores is ", scores.sizes(), ", expected [C, ", boxes.size(0),
               "] because boxes is ", boxes.sizes());
  check_fast_nms(o);
  const Tensor b = contiguous(boxes), s = contiguous(scores);
  if (!b.device().is_cpu()) return fast_nms_there(b, s, o);
  return by_type(s, [&](const auto* p) { return fast_nms_of(b, p, s.size(0), s.size(1), o); });
}

std::vector<Detections> fast_nms_batch(const Tensor& boxes, const Tensor& scores,
                                       const FastNmsOptions& o) {
  DROPIN_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, ShapeError, "fast_nms: boxes is ",
               boxes.sizes(), ", expected [B, N, 4]");
  DROPIN_CHECK(
      scores.dim() == 3 && scores.size(0) == boxes.size(0) && scores.size(2) == boxes.size(1),
      ShapeError, "fast_nms: scores is ", scores.sizes(), ", expected [", boxes.size(0), ", C, ",
      boxes.size(1), "] because boxes is ", boxes.sizes());
  check_fast_nms(o);
  std::vector<Detections> r;
  for (Index i = 0; i < boxes.size(0); ++i) r.push_back(fast_nms(boxes[i], scores[i], o));
  return r;
}

}  // namespace dropin
