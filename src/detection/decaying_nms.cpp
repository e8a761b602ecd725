// Soft-NMS and Matrix NMS: scores decay with the IoU, whose value counts.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "detection/common.h"
#include "dropin/core/parallel.h"

namespace dropin {

using namespace detection_detail;

namespace {

/// A box in f64.
struct Rect {
  double x1, y1, x2, y2, area;
};
std::vector<Rect> read_boxes(const Tensor& boxes) {
  return by_type(boxes, [n = boxes.size(0)](const auto* p) {
    std::vector<Rect> r(static_cast<std::size_t>(n));
    for (Rect& b : r) {
      b = {static_cast<double>(p[0]), static_cast<double>(p[1]), static_cast<double>(p[2]),
           static_cast<double>(p[3]), 0};
      b.area = (b.x2 - b.x1) * (b.y2 - b.y1);
      if (!std::isfinite(b.x1) || !std::isfinite(b.y1) || !std::isfinite(b.x2) ||
          !std::isfinite(b.y2))
        b = {0, 0, 0, 0, 0};
      p += 4;
    }
    return r;
  });
}
double iou(const Rect& a, const Rect& b) {
  const double w = std::min(a.x2, b.x2) - std::max(a.x1, b.x1),
               h = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  const double inter = std::max(w, 0.0) * std::max(h, 0.0), all = a.area + b.area - inter;
  return all > 0 ? inter / all : 0;
}

/// By how much each box (best first) decays for the better ones of its class.
std::vector<double> matrix_decay(const std::vector<Rect>& box, const Indices& label,
                                 const MatrixNmsOptions& o) {
  const std::size_t n = box.size();
  const bool gaussian = o.kernel == "gaussian";
  std::vector<double> decays(n),
      worst(n);  // worst[j]: the greatest IoU of j with a better box of its class (comp)
  // Row j needs worst[i] of the better boxes only, so one pass in order would do; two, because each
  // row then stands for itself and rows go to the threads.
  auto rows = [&](auto&& f) {
    parallel_for(static_cast<Index>(n), 64, [&](Index from, Index to) {
      for (Index j = from; j < to; ++j) f(static_cast<std::size_t>(j));
    });
  };
  rows([&](std::size_t j) {
    double m = 0;
    for (std::size_t i = 0; i < j; ++i)
      if (label[i] == label[j]) m = std::max(m, iou(box[i], box[j]));
    worst[j] = m;
  });
  rows([&](std::size_t j) {
    double decay = 1;
    for (std::size_t i = 0; i < j; ++i) {
      if (label[i] != label[j]) continue;
      const double v = iou(box[i], box[j]);
      decay = std::min(decay, gaussian ? std::exp(-o.sigma * (v * v - worst[i] * worst[i]))
                                       : (1 - v) / std::max(1 - worst[i], 1e-10));
    }
    decays[j] = decay;
  });
  return decays;
}

}  // namespace

Detections soft_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                    const SoftNmsOptions& o) {
  const char* who = "soft_nms";
  check_scores(who, boxes, scores);
  if (idxs.defined()) check_classes(who, "idxs", idxs, boxes);
  DROPIN_CHECK(o.method == "gaussian" || o.method == "linear" || o.method == "hard", OptionError,
               who, ": method is \"", o.method, "\", expected gaussian, linear or hard");
  DROPIN_CHECK(o.sigma > 0, OptionError, who, ": sigma is ", o.sigma,
               ", expected a positive number");
  check_share(who, "iou_threshold", o.iou_threshold);
  check_not_nan(who, "min_score", o.min_score);
  if (!boxes.device().is_cpu())
    return moved(soft_nms(on_cpu(boxes), on_cpu(scores), on_cpu(idxs), o),
                 boxes.device());  // one box after the other, or few: not worth a device
  const std::vector<Rect> all = read_boxes(contiguous(boxes));
  const Tensor c = idxs.defined() ? contiguous(idxs) : Tensor();
  std::vector<double> score = scores.detach().to_vector();
  const Index* cls = c.defined() ? c.data<Index>() : nullptr;
  Indices left(all.size()), taken;
  std::iota(left.begin(), left.end(), Index{0});
  std::vector<double> out;
  const bool gaussian = o.method == "gaussian", linear = o.method == "linear";
  while (!left.empty()) {
    std::size_t best = left.size();
    for (std::size_t k = 0; k < left.size(); ++k) {  // NaN is never the best
      const double v = score[static_cast<std::size_t>(left[k])];
      if (best == left.size() ? !std::isnan(v) : v > score[static_cast<std::size_t>(left[best])])
        best = k;
    }
    if (best == left.size()) break;
    const auto i = static_cast<std::size_t>(left[best]);
    if (score[i] < o.min_score) break;
    taken.push_back(left[best]);
    out.push_back(score[i]);
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(best));
    for (const Index k : left) {
      const auto j = static_cast<std::size_t>(k);
      if (cls && cls[j] != cls[i]) continue;
      const double v = iou(all[i], all[j]);
      if (gaussian)
        score[j] *= std::exp(-v * v / o.sigma);
      else if (v > o.iou_threshold)
        score[j] = linear ? score[j] * (1 - v) : 0;
    }
  }
  Detections r{to_tensor(taken), {}, tensor(out, {static_cast<Index>(out.size())}, scores.dtype())};
  return r;
}

Detections matrix_nms(const Tensor& boxes, const Tensor& scores, const Tensor& classes,
                      const MatrixNmsOptions& o) {
  const char* who = "matrix_nms";
  check_scores(who, boxes, scores);
  check_classes(who, "classes", classes, boxes);
  DROPIN_CHECK(o.kernel == "gaussian" || o.kernel == "linear", OptionError, who, ": kernel is \"",
               o.kernel, "\", expected gaussian or linear");
  DROPIN_CHECK(o.sigma > 0, OptionError, who, ": sigma is ", o.sigma,
               ", expected a positive number");
  check_count(who, "top_k", o.top_k);
  check_count(who, "max_detections", o.max_detections);
  check_not_nan(who, "score_threshold", o.score_threshold);
  if (!boxes.device().is_cpu())
    return moved(matrix_nms(on_cpu(boxes), on_cpu(scores), on_cpu(classes), o),
                 boxes.device());  // one box after the other, or few: not worth a device
  const std::vector<Rect> all = read_boxes(contiguous(boxes));
  const Tensor s = contiguous(scores), c = contiguous(classes);
  const Index* cls = c.data<Index>();
  const Indices order = by_type(s, [&](const auto* p) {
    return rank_all(p, nullptr, boxes.size(0), o.top_k, boxes.size(0));
  });
  const std::size_t n = order.size();
  std::vector<Rect> box(n);
  Indices label(n);
  for (std::size_t k = 0; k < n; ++k)
    box[k] = all[static_cast<std::size_t>(order[k])], label[k] = cls[order[k]];
  std::vector<double> decayed = matrix_decay(box, label, o);
  const std::vector<double> raw = scores.detach().to_vector();
  for (std::size_t j = 0; j < n; ++j) decayed[j] *= raw[static_cast<std::size_t>(order[j])];
  Indices among;
  for (std::size_t j = 0; j < n; ++j)
    if (decayed[j] >= o.score_threshold) among.push_back(static_cast<Index>(j));
  const Indices best = rank_all(decayed.data(), among.data(), static_cast<Index>(among.size()),
                                o.max_detections, static_cast<Index>(n));
  Indices indices, kinds;
  std::vector<double> out;
  for (const Index j : best) {
    indices.push_back(order[static_cast<std::size_t>(j)]);
    kinds.push_back(label[static_cast<std::size_t>(j)]);
    out.push_back(decayed[static_cast<std::size_t>(j)]);
  }
  return {to_tensor(indices), to_tensor(kinds),
          tensor(out, {static_cast<Index>(out.size())}, scores.dtype())};
}

}  // namespace dropin
