#include "dropin/loss/object_aware.h"

#include <cmath>

#include "dropin/ops/assignment.h"
#include "dropin/ops/normalize.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

void need_floats(const char* who, const char* name, const Tensor& t, bool fits, const char* want) {
  DROPIN_CHECK(is_floating(t.dtype()), DTypeError, who, ": ", name, " is ", t.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(fits, ShapeError, who, ": ", name, " is ", t.sizes(), ", expected ", want);
}

struct Corners {
  Tensor x0, y0, x1, y1, area;
};
Corners corners_of(const Tensor& b) {
  auto part = [&](int64_t i) { return b.select(-1, i); };
  const Tensor w = part(2) * 0.5, h = part(3) * 0.5;
  return {part(0) - w, part(1) - h, part(0) + w, part(1) + h, part(2) * part(3)};
}
// Generalized intersection over union (Rezatofighi et al. 2019), elementwise with broadcasting.
Tensor generalized_iou(const Tensor& a_, const Tensor& b_, double eps) {
  const Corners a = corners_of(a_), b = corners_of(b_);
  const Tensor both = relu(minimum(a.x1, b.x1) - maximum(a.x0, b.x0)) *
                      relu(minimum(a.y1, b.y1) - maximum(a.y0, b.y0)),
               either = a.area + b.area - both,
               hull = (maximum(a.x1, b.x1) - minimum(a.x0, b.x0)) *
                      (maximum(a.y1, b.y1) - minimum(a.y0, b.y0));
  return both / (either + eps) - (hull - either) / hull;
}

Tensor rows_at(const Tensor& t, const std::vector<int64_t>& rows) {
  return index_select(t.reshape({-1, t.size(-1)}), 0,
                      tensor(rows, {static_cast<int64_t>(rows.size())}).to(t.device()));
}

}  // namespace

BoxSetLosses box_set_loss(const Tensor& pred, const Tensor& boxes_, const Tensor& mask,
                          const BoxSetLossOptions& o) {
  const char* who = "BoxSetLoss";
  need_floats(who, "pred", pred, pred.dim() == 3 && pred.size(2) == 4, "[M, Q, 4]");
  need_floats(who, "boxes", boxes_,
              boxes_.dim() == 3 && boxes_.size(2) == 4 && boxes_.size(0) == pred.size(0),
              "[M, G, 4] with pred's M");
  DROPIN_CHECK(mask.dtype() == kBool, DTypeError, who, ": box_mask is ", mask.dtype(),
               ", expected bool");
  const int64_t m = pred.size(0), q = pred.size(1), g = boxes_.size(1);
  DROPIN_CHECK(mask.sizes() == (Shape{m, g}), ShapeError, who, ": box_mask is ", mask.sizes(),
               ", expected [", m, ", ", g, "]");
  DROPIN_CHECK(o.iou_eps >= 0, OptionError, who, ": iou_eps is ", o.iou_eps,
               ", expected at least 0");
  const Tensor boxes = boxes_.detach().to(pred.dtype());
  const std::vector<int64_t> real = mask.to(kInt64).to_vector<int64_t>();
  const std::vector<double> numbers = boxes.to_vector();
  for (int64_t i = 0; i < m * g; ++i) {
    if (!real[at(i)]) continue;
    const double* b = numbers.data() + 4 * i;
    DROPIN_CHECK(std::isfinite(b[0] + b[1] + b[2] + b[3]) && b[2] > 0 && b[3] > 0, OptionError, who,
                 ": box [", i / g, ", ", i % g, "] is ", b[0], ", ", b[1], ", ", b[2], ", ", b[3],
                 ", expected finite numbers, width and height positive");
  }
  std::vector<int64_t> matched(at(m * g), -1), from, to;
  {
    no_grad guard;
    const Tensor p = pred.detach().to(kFloat64).unsqueeze(2), b = boxes.to(kFloat64).unsqueeze(1);
    const std::vector<double> cost =
        (sum(abs(p - b), {3}) * o.cost_l1 - generalized_iou(p, b, o.iou_eps) * o.cost_giou)
            .to_vector();  // [M, Q, G]
    for (int64_t i = 0; i < m; ++i) {
      std::vector<int64_t> targets;
      for (int64_t k = 0; k < g; ++k)
        if (real[at(i * g + k)]) targets.push_back(k);
      const auto count = static_cast<int64_t>(targets.size());
      DROPIN_CHECK(count <= q, ShapeError, who, ": sample ", i, " has ", count,
                   " targets, expected at most ", q, ", one per prediction");
      std::vector<double> own;
      for (int64_t row = 0; row < q; ++row)
        for (const int64_t k : targets) own.push_back(cost[at((i * q + row) * g + k)]);
      const std::vector<int64_t> rows = detail::assigned_rows(own.data(), q, count);
      for (int64_t k = 0; k < count; ++k) {
        matched[at(i * g + targets[at(k)])] = rows[at(k)];
        from.push_back(i * q + rows[at(k)]);
        to.push_back(i * g + targets[at(k)]);
      }
    }
  }
  BoxSetLosses r{sum(pred.narrow(0, 0, 0)), tensor(matched, {m, g}).to(pred.device())};
  if (from.empty()) return r;  // 0, and a gradient of 0
  const Tensor p = rows_at(pred, from), b = rows_at(boxes, to);
  r.y =
      (sum(abs(p - b)) * o.l1_weight + sum(1 - generalized_iou(p, b, o.iou_eps)) * o.giou_weight) *
      (1 / static_cast<double>(from.size()));
  return r;
}

Tensor word_contrastive_loss(const Tensor& nouns, const Tensor& objects, const Tensor& ids,
                             const WordContrastiveLossOptions& o) {
  const char* who = "WordContrastiveLoss";
  need_floats(who, "noun_embeds", nouns, nouns.dim() == 2, "[V, E]");
  need_floats(who, "object_embeds", objects, objects.dim() == 3 && objects.size(2) == nouns.size(1),
              "[B, Q, E] with noun_embeds' E");
  DROPIN_CHECK(ids.dtype() == kInt64, DTypeError, who, ": noun_ids is ", ids.dtype(),
               ", expected int64");
  DROPIN_CHECK(ids.dim() == 2 && ids.size(0) == objects.size(0), ShapeError, who, ": noun_ids is ",
               ids.sizes(), ", expected [", objects.size(0), ", W]");
  DROPIN_CHECK(o.temperature > 0, OptionError, who, ": temperature is ", o.temperature,
               ", expected a positive number");
  const int64_t b = objects.size(0), q = objects.size(1), v = nouns.size(0), w = ids.size(1);
  const std::vector<int64_t> words = ids.to_vector<int64_t>();
  for (const int64_t id : words)
    DROPIN_CHECK(id >= 0 && id < v, IndexError, who, ": noun_ids holds ", id, ", expected 0 to ",
                 v - 1);
  const Tensor unit = normalize(nouns, -1, 1e-8),
               cosines = matmul(normalize(objects, -1, 1e-8), unit.mT());  // [B, Q, V]
  const std::vector<double> c = cosines.detach().to_vector();
  std::vector<int64_t> rows, targets;
  for (int64_t i = 0; i < b; ++i) {
    std::vector<int64_t> own;
    for (int64_t k = 0; k < w; ++k)
      if (words[at(i * w + k)] > 0) own.push_back(words[at(i * w + k)]);
    const auto count = static_cast<int64_t>(own.size());
    std::vector<double> cost;
    for (int64_t row = 0; row < q; ++row)
      for (const int64_t id : own) cost.push_back(-c[at((i * q + row) * v + id)]);
    const std::vector<int64_t> of = detail::assigned_rows(cost.data(), q, count);
    for (int64_t k = 0; k < count; ++k)
      if (of[at(k)] >= 0) rows.push_back(i * q + of[at(k)]), targets.push_back(own[at(k)]);
  }
  if (rows.empty()) return sum(objects.narrow(0, 0, 0)) + sum(nouns.narrow(0, 0, 0));
  const Tensor target =
      tensor(targets, {static_cast<int64_t>(targets.size())}).to(objects.device());
  Tensor near;  // other nouns of almost the same meaning
  {
    no_grad guard;
    const Tensor alike = matmul(index_select(unit, 0, target), unit.mT()) > o.noun_threshold;
    near = logical_and(alike, one_hot(target, v) == 0);
  }
  const Tensor logits = masked_fill(rows_at(cosines, rows), near, -1) * (1 / o.temperature);
  return cross_entropy(logits, target);
}

Tensor ego_nce_loss(const Tensor& text, const Tensor& video, const Tensor& verb_sim,
                    const Tensor& noun_sim, const Tensor& mask, const EgoNCELossOptions& o) {
  const char* who = "EgoNCELoss";
  need_floats(who, "video_embeds", video, video.dim() == 2, "[V, E]");
  const int64_t v = video.size(0);
  need_floats(who, "text_embeds", text,
              text.dim() == 2 && text.size(1) == video.size(1) &&
                  (v == 0 ? text.size(0) == 0 : text.size(0) % v == 0),
              "[V R, E] with video_embeds' V and E");
  for (const auto& [name, t] : {std::pair{"verb_sim", verb_sim}, {"noun_sim", noun_sim}})
    DROPIN_CHECK(t.sizes() == (Shape{v, v}), ShapeError, who, ": ", name, " is ", t.sizes(),
                 ", expected [", v, ", ", v, "]");
  DROPIN_CHECK(o.temperature > 0, OptionError, who, ": temperature is ", o.temperature,
               ", expected a positive number");
  const int64_t n = text.size(0), each = v ? n / v : 0;
  std::vector<int64_t> kept, owner;
  std::vector<int64_t> real(at(n), 1);
  if (mask.defined()) {
    DROPIN_CHECK(mask.dtype() == kBool, DTypeError, who, ": caption_mask is ", mask.dtype(),
                 ", expected bool");
    DROPIN_CHECK(mask.sizes() == Shape{n}, ShapeError, who, ": caption_mask is ", mask.sizes(),
                 ", expected [", n, "]");
    real = mask.to(kInt64).to_vector<int64_t>();
  }
  for (int64_t i = 0; i < n; ++i)
    if (real[at(i)]) kept.push_back(i), owner.push_back(i / each);
  if (kept.empty()) return sum(text.narrow(0, 0, 0)) + sum(video.narrow(0, 0, 0));
  const Tensor s =
      matmul(normalize(rows_at(text, kept), -1, 1e-8), normalize(video, -1, 1e-8).mT()) *
      (1 / o.temperature);  // [c, V]
  Tensor positive, captions, videos, counted;
  {
    no_grad guard;
    const auto count = static_cast<int64_t>(owner.size());
    const Tensor own = tensor(owner, {count}).to(text.device()),
                 alike = index_select(verb_sim * noun_sim, 0, own) > o.vn_threshold;
    positive = logical_or(alike, one_hot(own, v) != 0).to(s.dtype());
    captions = positive / sum(positive, {1}, true);
    const Tensor per_video = sum(positive, {0}, true);
    videos = positive / clamp(per_video, 1, kernels::kInf<double>);
    counted = sum((per_video > 0.0).to(s.dtype()));
  }
  return -sum(log_softmax(s, 1) * captions) * (1 / static_cast<double>(owner.size())) -
         sum(log_softmax(s, 0) * videos) / counted;
}

}  // namespace dropin
