#include "dropin/detection/delf.h"

#include <algorithm>
#include <cmath>

#include "dropin/ops/normalize.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

constexpr double kShort = 1e-6;  // a shorter vector is not made longer than in proportion

// A place of the pyramid that may become a keypoint.
struct Cell {
  double score, x0, y0, x1, y1;
  int64_t level, row, column;
};

void check_selection(const Tensors& features, const Tensors& scores, const Tensor& mean,
                     const Tensor& matrix, const Tensor& variance,
                     const SelectLocalFeaturesOptions& o) {
  const char* who = "select_local_features";
  DROPIN_CHECK(
      !features.empty() && features.size() == o.scales.size() && scores.size() == features.size(),
      OptionError, who, ": there are ", features.size(), " levels of features and ", scores.size(),
      " of scores, expected as many as scales: ", o.scales.size());
  const int64_t c = features[0].dim() == 3 ? features[0].size(0) : -1;
  for (std::size_t i = 0; i < features.size(); ++i) {
    DROPIN_CHECK(o.scales[i] > 0, OptionError, who, ": a scale is ", o.scales[i],
                 ", expected a positive number");
    DROPIN_CHECK(
        features[i].dim() == 3 && features[i].size(0) == c && is_floating(features[i].dtype()),
        ShapeError, who, ": features", i, " is ", features[i].dtype(), " ", features[i].sizes(),
        ", expected floats [C, H, W] with C = ", c);
    DROPIN_CHECK(scores[i].sizes() == (Shape{features[i].size(1), features[i].size(2)}) &&
                     is_floating(scores[i].dtype()),
                 ShapeError, who, ": scores", i, " is ", scores[i].dtype(), " ", scores[i].sizes(),
                 ", expected floats [", features[i].size(1), ", ", features[i].size(2), "]");
  }
  DROPIN_CHECK(mean.sizes() == Shape{c} && matrix.sizes() == (Shape{c, c}), ShapeError, who,
               ": pca_mean is ", mean.sizes(), " and pca_matrix ", matrix.sizes(), ", expected [",
               c, "] and [", c, ", ", c, "]");
  DROPIN_CHECK(!o.whitening || (variance.defined() && variance.sizes() == Shape{c}), ShapeError,
               who, ": pca_variance is ", variance.defined() ? variance.sizes().str() : "undefined",
               ", expected [", c, "] because whitening = true");
  DROPIN_CHECK(o.pca_dim >= 1 && o.pca_dim <= c, OptionError, who, ": pca_dim is ", o.pca_dim,
               ", expected 1 to ", c);
  DROPIN_CHECK(o.nms_iou >= 0 && o.max_features >= 0, OptionError, who, ": nms_iou ", o.nms_iou,
               " and max_features ", o.max_features, ", expected at least 0");
}

// Cells above the threshold, best first.
std::vector<Cell> ranked_cells(const Tensors& scores, const SelectLocalFeaturesOptions& o) {
  std::vector<Cell> cells;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const std::vector<double> s = scores[i].to_vector();
    const int64_t columns = scores[i].size(1);
    for (std::size_t k = 0; k < s.size(); ++k) {
      if (!(s[k] >= o.score_threshold)) continue;
      const int64_t row = static_cast<int64_t>(k) / columns,
                    column = static_cast<int64_t>(k) % columns;
      const double x = static_cast<double>(column) * o.stride - o.padding,
                   y = static_cast<double>(row) * o.stride - o.padding, q = o.scales[i],
                   side = o.receptive_field - 1;
      cells.push_back({s[k], x / q, y / q, (x + side) / q, (y + side) / q, static_cast<int64_t>(i),
                       row, column});
    }
  }
  std::stable_sort(cells.begin(), cells.end(),
                   [](const Cell& a, const Cell& b) { return a.score > b.score; });
  return cells;
}

double overlap(const Cell& a, const Cell& b) {
  const double w = std::min(a.x1, b.x1) - std::max(a.x0, b.x0),
               h = std::min(a.y1, b.y1) - std::max(a.y0, b.y0);
  if (w <= 0 || h <= 0) return 0;
  const double both = w * h, areas = (a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0);
  return both / (areas - both);
}

}  // namespace

LocalFeatures select_local_features(const Tensors& features, const Tensors& scores,
                                    const Tensor& pca_mean, const Tensor& pca_matrix,
                                    const Tensor& pca_variance,
                                    const SelectLocalFeaturesOptions& o) {
  check_selection(features, scores, pca_mean, pca_matrix, pca_variance, o);
  no_grad guard;
  std::vector<Cell> kept;
  for (const Cell& c : ranked_cells(scores, o)) {
    if (static_cast<int64_t>(kept.size()) == o.max_features) break;
    const bool free = o.nms_iou >= 1 || std::none_of(kept.begin(), kept.end(), [&](const Cell& k) {
                        return overlap(k, c) > o.nms_iou;
                      });
    if (free) kept.push_back(c);
  }
  const auto m = static_cast<int64_t>(kept.size());
  const TensorOptions like = features[0].options();
  std::vector<double> places, best, sizes;
  Tensors rows;
  for (const Cell& c : kept) {
    places.push_back((c.x0 + c.x1) / 2);
    places.push_back((c.y0 + c.y1) / 2);
    best.push_back(c.score);
    sizes.push_back(1 / o.scales[at(c.level)]);
    rows.push_back(features[at(c.level)].select(2, c.column).select(1, c.row).to(like.dtype));
  }
  LocalFeatures r{tensor(places, {m, 2}, like), zeros({0, o.pca_dim}, like),
                  tensor(best, {m}, like), tensor(sizes, {m}, like)};
  if (m == 0) return r;
  Tensor d = normalize(stack(rows), 1, kShort) - pca_mean.to(like.dtype);
  d = matmul(d, pca_matrix.to(like.dtype).narrow(0, 0, o.pca_dim).mT());
  if (o.whitening)
    d = d * rsqrt(clamp(pca_variance.to(like.dtype).narrow(0, 0, o.pca_dim), 1e-12,
                        kernels::kInf<double>));
  // a place without features has no direction, whatever the mean is
  const Tensor nothing = amax(abs(stack(rows)), {1}, true) == 0.0;
  r.descriptors = masked_fill(normalize(d, 1, kShort), nothing, 0);
  return r;
}

Pca fit_pca(const Tensor& descriptors) {
  DROPIN_CHECK(descriptors.dim() == 2 && descriptors.size(0) > 0 && descriptors.size(1) > 0 &&
                   is_floating(descriptors.dtype()),
               ShapeError, "fit_pca: descriptors is ", descriptors.dtype(), " ",
               descriptors.sizes(), ", expected floats [N, C] with a row at least");
  no_grad guard;
  const Tensor x = descriptors.to(kFloat64), centre = mean(x, {0}), d = x - centre;
  const Eigh e = eigh(matmul(d.mT(), d) / static_cast<double>(x.size(0)));
  const Tensor v = flip(e.vectors, {1}).mT(), top = gather(v, 1, argmax(abs(v), 1, true));
  return {centre.to(descriptors.dtype()),
          (v * where(top < 0.0, -1.0, ones_like(top))).to(descriptors.dtype()),
          clamp(flip(e.values, {0}), 0, kernels::kInf<double>).to(descriptors.dtype())};
}

}  // namespace dropin
