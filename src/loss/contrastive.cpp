#include "dropin/loss/contrastive.h"

#include <cmath>
#include <limits>

#include "dropin/ops/normalize.h"
#include "ops/common.h"

namespace dropin {

namespace {

constexpr int64_t kWholeRows = 4096;  ///< up to here all scores are held at once

void check_scale(std::string_view who, const Tensor& scale) {
  DROPIN_CHECK(scale.numel() == 1, ShapeError, who, ": logit_scale is ", scale.sizes(),
               ", expected []");
  DROPIN_CHECK(is_floating(scale.dtype()), DTypeError, who, ": logit_scale is ", scale.dtype(),
               ", expected a floating-point tensor");
  const double s = scale.item();
  DROPIN_CHECK(std::isfinite(s) && s > 0, Error, who, ": logit_scale is ", s,
               ", expected a positive number");
}
void check_features(std::string_view who, const char* name, const Tensor& x, const Tensor& other,
                    int64_t dims) {
  DROPIN_CHECK(x.dim() == dims && x.sizes() == other.sizes(), ShapeError, who, ": ", name, " is ",
               x.sizes(), ", expected ", dims == 2 ? "[N, E]" : "[B, M, E]", ", both alike, not ",
               other.sizes());
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who, ": ", name, " is ", x.dtype(),
               ", expected a floating-point tensor");
}

// Sum over rows a[i] of logsumexp_j s a[i] b[j] - s a[i] b[i + first], without the j whose texts
// conflict with that of i.
Tensor cross_entropies(const Tensor& a, const Tensor& b, const Tensor& scale, int64_t first,
                       const Tensor& texts, double threshold) {
  const int64_t rows = a.size(0);
  Tensor s = matmul(a, b.mT()) * scale;
  const Tensor own = s.narrow(1, first, rows).diagonal();
  if (texts.defined()) {
    const Tensor mine = arange(first, first + rows).unsqueeze(1).to(s.device()),
                 all = arange(0, b.size(0)).unsqueeze(0).to(s.device());
    const Tensor alike = matmul(texts.narrow(0, first, rows), texts.mT()) > threshold;
    s = where(logical_and(alike, ne(mine, all)), -std::numeric_limits<double>::infinity(), s);
  }
  return sum(logsumexp(s, {1}) - own);
}

// The same over all rows, block by block; large problems compute a block again for its gradient.
Tensor by_blocks(const Tensor& a, const Tensor& b, const Tensor& scale, const Tensor& texts,
                 double threshold) {
  const int64_t n = a.size(0);
  if (n <= kWholeRows) return cross_entropies(a, b, scale, 0, texts, threshold);
  const int64_t rows = std::max<int64_t>(1, kWholeRows * kWholeRows / n);
  Tensor total;
  for (int64_t first = 0; first < n; first += rows) {
    const int64_t count = std::min(rows, n - first);
    const Tensor part = checkpoint(
        [first, texts, threshold](const Tensors& in) -> Tensors {
          return {cross_entropies(in[0], in[1], in[2], first, texts, threshold)};
        },
        {a.narrow(0, first, count), b, scale})[0];
    total = total.defined() ? total + part : part;
  }
  return total;
}

// Of rows [N, E]; threshold 0: no conflicts.
Tensor symmetric_loss(const Tensor& x, const Tensor& texts, const Tensor& logit_scale,
                      double threshold) {
  const int64_t n = x.size(0);
  const Tensor scale = ops_detail::prepared(logit_scale).reshape({});
  if (n == 0) return sum(x) + sum(texts) + scale * 0.0;
  const Tensor a = normalize(ops_detail::prepared(x), 1),
               b = normalize(ops_detail::prepared(texts), 1);
  const Tensor captions = threshold > 0 ? b.detach() : Tensor();
  return (by_blocks(a, b, scale, captions, threshold) +
          by_blocks(b, a, scale, captions, threshold)) *
         (0.5 / static_cast<double>(n));
}

// Rows of the valid slots, in order; undefined mask: all. Warns when there is none.
Tensor valid_slots(std::string_view who, const Tensor& mask, const Shape& sizes,
                   const Device& device) {
  const Shape slots{sizes[0], sizes[1]};
  DROPIN_CHECK(!mask.defined() || mask.dtype() == kBool, DTypeError, who, ": region_mask is ",
               mask.dtype(), ", expected bool");
  DROPIN_CHECK(!mask.defined() || mask.sizes() == slots, ShapeError, who, ": region_mask is ",
               mask.sizes(), ", expected ", slots);
  const Tensor index = mask.defined() ? nonzero(mask.reshape({-1})).reshape({-1})
                                      : arange(0, slots.numel()).to(kInt64).to(device);
  if (index.size(0) == 0) warn_once(std::string(who) + ": no region is valid; the loss is 0");
  return index;
}
Tensor picked(const Tensor& x, const Tensor& index) {
  return index_select(x.reshape({x.size(0) * x.size(1), x.size(2)}), 0, index);
}

}  // namespace

Tensor ClipLoss(const Tensor& image_features, const Tensor& text_features,
                const Tensor& logit_scale) {
  const char* who = "ClipLoss";
  check_features(who, "image_features", image_features, text_features, 2);
  check_features(who, "text_features", text_features, image_features, 2);
  check_scale(who, logit_scale);
  return symmetric_loss(image_features, text_features, logit_scale, 0);
}

Tensor RegionTextContrastiveLoss(const Tensor& region_features, const Tensor& text_features,
                                 const Tensor& logit_scale, const Tensor& region_mask,
                                 const RegionTextContrastiveLossOptions& o) {
  const char* who = "RegionTextContrastiveLoss";
  DROPIN_CHECK(!o.gather, OptionError, who,
               ": gather is true, expected false: this build gathers no other processes' regions");
  DROPIN_CHECK(!std::isnan(o.conflict_threshold), OptionError, who,
               ": conflict_threshold is nan, expected a number");
  check_features(who, "region_features", region_features, text_features, 3);
  check_features(who, "text_features", text_features, region_features, 3);
  check_scale(who, logit_scale);
  const Tensor index =
      valid_slots(who, region_mask, region_features.sizes(), region_features.device());
  return symmetric_loss(picked(region_features, index), picked(text_features, index), logit_scale,
                        o.conflict_threshold);
}

namespace {

// 1 - GIoU of corner boxes [N, 4].
Tensor giou_loss(const Tensor& p, const Tensor& q) {
  auto corner = [](const Tensor& b, int i) { return b.select(1, i); };
  auto side = [](const Tensor& low, const Tensor& high) { return relu(high - low); };
  auto area = [&](const Tensor& b) {
    return side(corner(b, 0), corner(b, 2)) * side(corner(b, 1), corner(b, 3));
  };
  auto share = [](const Tensor& part, const Tensor& whole) {  // 0 of nothing
    const Tensor none = whole == 0.0;
    return where(none, 0.0, part / where(none, 1.0, whole));
  };
  auto extent = [&](int low, int high, bool inside) {
    const Tensor a = inside ? maximum(corner(p, low), corner(q, low))
                            : minimum(corner(p, low), corner(q, low)),
                 b = inside ? minimum(corner(p, high), corner(q, high))
                            : maximum(corner(p, high), corner(q, high));
    return side(a, b);
  };
  const Tensor both = extent(0, 2, true) * extent(1, 3, true),
               hull = extent(0, 2, false) * extent(1, 3, false), one = area(p) + area(q) - both;
  return 1.0 - share(both, one) + share(hull - one, hull);
}

}  // namespace

Tensor GroundingLoss(const Tensor& pred, const Tensor& boxes, const Tensor& region_mask,
                     const GroundingLossOptions& o) {
  const char* who = "GroundingLoss";
  DROPIN_CHECK(pred.dim() == 3 && pred.size(2) == 4 && pred.sizes() == boxes.sizes(), ShapeError,
               who, ": pred is ", pred.sizes(), ", boxes ", boxes.sizes(),
               ", expected the same [B, M, 4]");
  for (const Tensor& t : {pred, boxes})
    DROPIN_CHECK(is_floating(t.dtype()), DTypeError, who, ": pred is ", pred.dtype(), ", boxes ",
                 boxes.dtype(), ", expected floating-point tensors");
  DROPIN_CHECK(std::isfinite(o.giou_weight), OptionError, who, ": giou_weight is ", o.giou_weight,
               ", expected a finite number");
  const Tensor index = valid_slots(who, region_mask, pred.sizes(), pred.device());
  const Tensor p = sigmoid(ops_detail::prepared(picked(pred, index))),
               q = picked(boxes, index).detach().to(p.dtype());
  if (index.size(0) == 0) return sum(p);
  const Tensor centre = p.narrow(1, 0, 2), half = p.narrow(1, 2, 2) * 0.5,
               corners = concat({centre - half, centre + half}, 1);
  const Tensor distance = mean(abs(corners - q));
  return o.giou_weight == 0 ? distance : distance + mean(giou_loss(corners, q)) * o.giou_weight;
}

}  // namespace dropin
