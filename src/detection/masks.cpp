#include "dropin/detection/masks.h"

#include <algorithm>
#include <cmath>

#include "kernels/masks/kernel.h"
#include "ops/common.h"

namespace dropin {

namespace {

// Rows [first, last) and columns [first, last) of each box, I64 [N, 4]: the pixels with first >=
// low and last - 1 < high; none when either is NaN.
Tensor crop_ranges(const Tensor& boxes, int64_t h, int64_t w, int64_t padding) {
  const int64_t n = boxes.size(0);
  const std::vector<double> b =
      boxes.detach()
          .to_vector();  // products with w and h in f64: a border that falls on a pixel falls on it
  Tensor r = empty({n, 4}, kInt64);
  auto range = [&](double u, double v, int64_t size, int64_t* out) {
    const double s = static_cast<double>(size), p = static_cast<double>(padding),
                 low = std::min(u, v) * s - p, high = std::max(u, v) * s + p;
    out[0] = out[1] = 0;
    if (std::isnan(u) || std::isnan(v) || !(low < s) || !(high > 0)) return;
    out[0] = low > 0 ? static_cast<int64_t>(std::ceil(low)) : 0;
    out[1] = std::max(out[0], high < s ? static_cast<int64_t>(std::ceil(high)) : size);
  };
  for (int64_t i = 0; i < n; ++i) {
    const double* c = b.data() + 4 * i;
    range(c[1], c[3], h, r.data<int64_t>() + 4 * i);
    range(c[0], c[2], w, r.data<int64_t>() + 4 * i + 2);
  }
  return r;
}

}  // namespace

Tensor crop_window(const Tensor& boxes, int64_t h, int64_t w, int64_t padding) {
  DROPIN_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, ShapeError, "crop_window: boxes is ",
               boxes.sizes(), ", expected [N, 4]");
  DROPIN_CHECK(h >= 0 && w >= 0 && padding >= 0, OptionError, "crop_window: h ", h, ", w ", w,
               " and padding ", padding, " must not be negative");
  const Tensor ranges = crop_ranges(boxes, h, w, padding);
  Tensor r = zeros({boxes.size(0), h, w}, kBool);
  const int64_t* in = ranges.data<int64_t>();
  for (int64_t i = 0; i < boxes.size(0); ++i, in += 4)
    for (int64_t y = in[0]; y < in[1]; ++y)
      std::fill(r.data<bool>() + (i * h + y) * w + in[2], r.data<bool>() + (i * h + y) * w + in[3],
                true);
  return r.to(boxes.device());
}

namespace {

// One axis: out = in[low] (1 - l) + in[high] l with centres of pixels aligned.
Tensor resize_axis(const Tensor& x, int64_t dim, int64_t size) {
  const int64_t n = x.size(dim);
  if (n == size) return x;
  Tensor low = empty({size}, kInt64), high = empty({size}, kInt64), share = empty({size}, kFloat64);
  for (int64_t i = 0; i < size; ++i) {
    const double at = std::max(
        (static_cast<double>(i) + 0.5) * static_cast<double>(n) / static_cast<double>(size) - 0.5,
        0.0);
    const int64_t k = std::min(static_cast<int64_t>(at), n - 1);
    low.data<int64_t>()[i] = k;
    high.data<int64_t>()[i] = std::min(k + 1, n - 1);
    share.data<double>()[i] = at - static_cast<double>(k);
  }
  Shape along;
  for (int64_t d = 0; d < x.dim(); ++d) along.push_back(d == dim ? size : 1);
  const Tensor l = share.to(x.dtype()).to(x.device()).reshape(along),
               a = index_select(x, dim, low.to(x.device())),
               b = index_select(x, dim, high.to(x.device()));
  return a + (b - a) * l;
}

}  // namespace

Tensor resize_bilinear(const Tensor& x, int64_t height, int64_t width) {
  DROPIN_CHECK(x.dim() >= 2, ShapeError, "resize_bilinear: x is ", x.sizes(),
               ", expected [*, h, w]");
  DROPIN_CHECK(height > 0 && width > 0, OptionError, "resize_bilinear: height ", height,
               " and width ", width, " must be positive");
  DROPIN_CHECK(x.size(-1) > 0 && x.size(-2) > 0, ShapeError, "resize_bilinear: x is ", x.sizes(),
               ": no pixels");
  return resize_axis(resize_axis(x, x.dim() - 2, height), x.dim() - 1, width);
}

namespace {

Tensor plain_masks(const Tensor& prototypes, const Tensor& coefficients) {
  const int64_t k = prototypes.size(0), h = prototypes.size(1), w = prototypes.size(2);
  return sigmoid(matmul(coefficients, prototypes.reshape({k, h * w})))
      .reshape({coefficients.size(0), h, w});
}
Tensor plain_cropped(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes,
                     int64_t padding) {
  return where(
      crop_window(boxes, prototypes.size(1), prototypes.size(2), padding).to(prototypes.device()),
      plain_masks(prototypes, coefficients), 0.0);
}

// Masks inside their windows only: the same values, without the rest of the picture.
Tensor cropped_masks(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes,
                     int64_t padding) {
  if (prototypes.dtype() != kFloat32 || !has_kernels<kernels::window_masks>(prototypes.device()))
    return plain_cropped(prototypes, coefficients, boxes, padding);
  const int64_t n = coefficients.size(0), k = prototypes.size(0), h = prototypes.size(1),
                w = prototypes.size(2);
  const Tensor p = prototypes.contiguous(), c = coefficients.contiguous(),
               ranges = crop_ranges(boxes, h, w, padding).to(p.device());
  Tensor m = empty({n, h, w}, p.options());
  run<kernels::window_masks>(p.device(), p.in(), c.in(), ranges.in(), m.out());
  return record("yolact_masks", m, {p, c}, {p, c, m, boxes.detach()},
                [padding, n, k, h, w](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor p = s[0], c = s[1], m = s[2], boxes = s[3];
                  if (grad_enabled())
                    return plain_gradients(s, {p, c}, g, [&](const Tensors& v) {
                      return plain_cropped(v[0], v[1], boxes, padding);
                    });
                  const Tensor z = where(crop_window(boxes, h, w, padding).to(m.device()),
                                         g * m * (1.0 - m), 0.0)
                                       .reshape({n, h * w});
                  return {s.needs(0) ? matmul(c.transpose(0, 1), z).reshape(p.sizes()) : Tensor(),
                          s.needs(1) ? matmul(z, p.reshape({k, h * w}).transpose(0, 1)) : Tensor()};
                });
}

}  // namespace

Tensor yolact_masks(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes,
                    const YolactMasksOptions& o) {
  const char* who = "yolact_masks";
  DROPIN_CHECK(prototypes.dim() == 3, ShapeError, who, ": prototypes is ", prototypes.sizes(),
               ", expected [K, h, w]");
  const int64_t k = prototypes.size(0), h = prototypes.size(1), w = prototypes.size(2);
  DROPIN_CHECK(coefficients.dim() == 2 && coefficients.size(1) == k, ShapeError, who,
               ": coefficients is ", coefficients.sizes(), ", expected [N, ", k,
               "] because prototypes is ", prototypes.sizes());
  const int64_t n = coefficients.size(0);
  DROPIN_CHECK(is_floating(prototypes.dtype()) && prototypes.dtype() == coefficients.dtype(),
               DTypeError, who, ": prototypes is ", prototypes.dtype(), " and coefficients ",
               coefficients.dtype(), ", expected one floating-point type");
  DROPIN_CHECK(o.crop_padding >= 0, OptionError, who, ": crop_padding is ", o.crop_padding,
               ", expected 0 or more");
  DROPIN_CHECK(o.out_height >= 0 && o.out_width >= 0, OptionError, who, ": out_height ",
               o.out_height, " and out_width ", o.out_width, " must not be negative");
  if (o.crop)
    DROPIN_CHECK(boxes.defined() && boxes.sizes() == (Shape{n, 4}), ShapeError, who, ": boxes is ",
                 boxes.defined() ? boxes.sizes() : Shape{}, ", expected [", n, ", 4]");
  Tensor m = o.crop ? cropped_masks(prototypes, coefficients, boxes, o.crop_padding)
                    : plain_masks(prototypes, coefficients);
  if (o.out_height > 0 || o.out_width > 0)
    m = resize_bilinear(m, o.out_height > 0 ? o.out_height : h, o.out_width > 0 ? o.out_width : w);
  return o.binarize ? (m > 0.5).to(kUInt8) : m;
}

Tensor rescore_masks(const Tensor& scores, const Tensor& mask_iou, const Tensor& classes) {
  const char* who = "rescore_masks";
  DROPIN_CHECK(mask_iou.dim() == 2, ShapeError, who, ": mask_iou is ", mask_iou.sizes(),
               ", expected [N, C]");
  const int64_t n = mask_iou.size(0), c = mask_iou.size(1);
  DROPIN_CHECK(scores.sizes() == Shape{n}, ShapeError, who, ": scores is ", scores.sizes(),
               ", expected [", n, "] because mask_iou is ", mask_iou.sizes());
  DROPIN_CHECK(classes.dtype() == kInt64, DTypeError, who, ": classes is ", classes.dtype(),
               ", expected int64");
  DROPIN_CHECK(classes.sizes() == Shape{n}, ShapeError, who, ": classes is ", classes.sizes(),
               ", expected [", n, "] because mask_iou is ", mask_iou.sizes());
  for (const double v : classes.to_vector())
    DROPIN_CHECK(v >= 0 && v < static_cast<double>(c), IndexError, who, ": class ", v,
                 " is outside [0, ", c, ")");
  return scores * gather(mask_iou, 1, classes.unsqueeze(1)).squeeze(1);
}

}  // namespace dropin
