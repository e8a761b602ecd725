// Resizing, an axis after the other: every result is a weighted sum of a few slices.
#include "dropin/ops/resize.h"

#include <algorithm>
#include <cmath>

#include "dropin/ops/conv.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin {

namespace {

/// One axis: from n cells to m, of which one is `step` cells of the input.
struct ResizedAxis {
  int64_t n, m;
  double step;
};

/// Where the centre of result cell i lies in the input.
double source_place(const ResizedAxis& a, int64_t i, bool align_corners) {
  if (!align_corners) return a.step * (static_cast<double>(i) + 0.5) - 0.5;
  return a.m > 1 ? static_cast<double>(i * (a.n - 1)) / static_cast<double>(a.m - 1) : 0;
}

/// The taps of an axis: slices of the input and their weights, tap after tap; no weights: 1.
struct Taps {
  std::vector<std::vector<int64_t>> index;
  std::vector<std::vector<double>> weight = {};
};

Taps nearest_taps(const ResizedAxis& a, bool exact) {
  Taps t{{std::vector<int64_t>(static_cast<std::size_t>(a.m))}};
  for (int64_t i = 0; i < a.m; ++i) {  // in float, as torch computes it
    const float place = (static_cast<float>(i) + (exact ? 0.5F : 0.F)) * static_cast<float>(a.step);
    t.index[0][static_cast<std::size_t>(i)] =
        std::min(static_cast<int64_t>(std::floor(place)), a.n - 1);
  }
  return t;
}

Taps linear_taps(const ResizedAxis& a, bool align_corners) {
  const auto m = static_cast<std::size_t>(a.m);
  Taps t{std::vector(2, std::vector<int64_t>(m)), std::vector(2, std::vector<double>(m))};
  for (std::size_t i = 0; i < m; ++i) {
    const double place = std::max(0.0, source_place(a, static_cast<int64_t>(i), align_corners));
    const int64_t low = std::min(static_cast<int64_t>(place), a.n - 1);
    const double share = std::min(1.0, place - static_cast<double>(low));
    t.index[0][i] = low;
    t.index[1][i] = std::min(low + 1, a.n - 1);
    t.weight[0][i] = 1 - share;
    t.weight[1][i] = share;
  }
  return t;
}

/// Keys' cubic kernel at distance d.
double cubic_weight(double d) {
  constexpr double a = -0.75;
  d = std::abs(d);
  if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}
Taps cubic_taps(const ResizedAxis& a, bool align_corners) {
  const auto m = static_cast<std::size_t>(a.m);
  Taps t{std::vector(4, std::vector<int64_t>(m)), std::vector(4, std::vector<double>(m))};
  for (std::size_t i = 0; i < m; ++i) {
    const double place = source_place(a, static_cast<int64_t>(i), align_corners),
                 base = std::floor(place);
    for (std::size_t k = 0; k < 4; ++k) {
      const double at = base + static_cast<double>(k) - 1;
      t.index[k][i] = std::clamp(static_cast<int64_t>(at), int64_t{0}, a.n - 1);
      t.weight[k][i] = cubic_weight(place - at);
    }
  }
  return t;
}

Tensor along_axis(const Tensor& x, int dim, const Taps& taps) {
  Tensor y;
  for (std::size_t k = 0; k < taps.index.size(); ++k) {
    Tensor part = index_select(x, dim, tensor(taps.index[k]).to(x.device()));
    if (!taps.weight.empty()) {
      Shape along;
      for (int d = 0; d < x.dim(); ++d) along.push_back(d == dim ? part.size(dim) : 1);
      part = part * tensor(taps.weight[k], kFloat64).to(x.dtype(), x.device()).reshape(along);
    }
    y = y.defined() ? y + part : part;
  }
  return y;
}

/// Sizes of the result and steps, all arguments checked.
std::vector<ResizedAxis> resized_axes(const Tensor& x, const InterpolateParams& p) {
  const char* who = "interpolate";
  ops_detail::need_floating(who, x);
  const std::string& mode = p.mode;
  const bool any = mode == "nearest" || mode == "nearest-exact" || mode == "area";
  DROPIN_CHECK(any || mode == "linear" || mode == "bilinear" || mode == "bicubic", OptionError, who,
               ": mode is \"", mode,
               "\", expected nearest, nearest-exact, linear, bilinear, bicubic or area");
  const int64_t dims = mode == "linear" ? 3 : 4;
  DROPIN_CHECK(any ? x.dim() == 3 || x.dim() == 4 : x.dim() == dims, ShapeError, who, ": x is ",
               x.sizes(), ", expected ",
               any         ? "[B, C, L] or [B, C, H, W]"
               : dims == 3 ? "[B, C, L]"
                           : "[B, C, H, W]",
               " for mode ", mode);
  DROPIN_CHECK(!any || !p.align_corners, OptionError, who,
               ": align_corners is for linear, bilinear "
               "and bicubic, not for ",
               mode);
  const auto n = static_cast<std::size_t>(x.dim() - 2),
             given = std::max(p.size.size(), p.scale_factor.size());
  DROPIN_CHECK(p.size.empty() != p.scale_factor.empty(), OptionError, who,
               ": expected one of size and scale_factor");
  DROPIN_CHECK(given == 1 || given == n, OptionError, who, ": ", given,
               " numbers of size or scale_factor, expected 1 or ", n);
  std::vector<ResizedAxis> axes;
  for (std::size_t i = 0; i < n; ++i) {
    const int64_t from = x.size(static_cast<int64_t>(i) + 2);
    const std::size_t at = given == 1 ? 0 : i;
    const double scale = p.size.empty() ? p.scale_factor[at] : 1;
    const int64_t to = p.size.empty()
                           ? static_cast<int64_t>(std::floor(static_cast<double>(from) * scale))
                           : p.size[at];
    DROPIN_CHECK(from > 0 && scale > 0 && to > 0, ShapeError, who, ": ", from,
                 " cells would become ", to, ", expected at least 1");
    axes.push_back(
        {from, to,
         p.size.empty() ? 1 / scale : static_cast<double>(from) / static_cast<double>(to)});
  }
  return axes;
}

}  // namespace

Tensor interpolate(const Tensor& x_in, const InterpolateParams& p) {
  const std::vector<ResizedAxis> axes = resized_axes(x_in, p);
  if (p.mode == "area") {
    const Pair sizes{axes.size() == 1 ? 1 : axes[0].m, axes.back().m};
    return axes.size() == 1 ? adaptive_avg_pool2d(x_in.unsqueeze(2), sizes).squeeze(2)
                            : adaptive_avg_pool2d(x_in, sizes);
  }
  Tensor y = ops_detail::prepared(x_in);
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const ResizedAxis& a = axes[i];
    const bool nearest = p.mode == "nearest" || p.mode == "nearest-exact";
    const Taps taps = nearest               ? nearest_taps(a, p.mode == "nearest-exact")
                      : p.mode == "bicubic" ? cubic_taps(a, p.align_corners)
                                            : linear_taps(a, p.align_corners);
    y = along_axis(y, static_cast<int>(i) + 2, taps);
  }
  return y.to(x_in.dtype());
}

}  // namespace dropin
