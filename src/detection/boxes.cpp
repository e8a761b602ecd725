#include "dropin/detection/boxes.h"

#include <cmath>

namespace dropin {
namespace {

void check_pairs(const char* who, const char* what, const Tensor& a, const Tensor& priors) {
  for (const Tensor& t : {a, priors})
    DROPIN_CHECK(is_floating(t.dtype()), DTypeError, who, ": ", t.is_same(a) ? what : "priors",
                 " is ", t.dtype(), ", expected a floating-point tensor");
  DROPIN_CHECK(a.dim() == 2 && a.size(1) == 4, ShapeError, who, ": ", what, " is ", a.sizes(),
               ", expected [P, 4]");
  DROPIN_CHECK(priors.sizes() == a.sizes(), ShapeError, who, ": priors is ", priors.sizes(),
               ", expected ", a.sizes(), " as ", what);
}
Tensor first(const Tensor& t) { return t.slice(1, 0, 2); }
Tensor second(const Tensor& t) { return t.slice(1, 2, 4); }

}  // namespace

Tensor decode_boxes(const Tensor& loc, const Tensor& priors) {
  check_pairs("decode_boxes", "loc", loc, priors);
  const Tensor size = second(priors) * exp(second(loc) * 0.2),
               centre = first(priors) + first(loc) * second(priors) * 0.1, half = size * 0.5;
  return concat({centre - half, centre + half}, 1);
}

Tensor encode_boxes(const Tensor& boxes, const Tensor& priors) {
  check_pairs("encode_boxes", "boxes", boxes, priors);
  const Tensor centre = (first(boxes) + second(boxes)) * 0.5, size = second(boxes) - first(boxes);
  return concat(
      {(centre - first(priors)) / (second(priors) * 0.1), log(size / second(priors)) / 0.2}, 1);
}

Tensor yolact_priors(const YolactPriorsOptions& o) {
  const char* who = "yolact_priors";
  DROPIN_CHECK(o.conv_h > 0 && o.conv_w > 0, OptionError, who, ": conv_h ", o.conv_h,
               " and conv_w ", o.conv_w, " must be positive");
  DROPIN_CHECK(o.max_size > 0, OptionError, who, ": max_size is ", o.max_size,
               ", expected a positive number");
  DROPIN_CHECK(!o.scales.empty() && !o.aspect_ratios.empty(), OptionError, who,
               ": scales and aspect_ratios must not be empty");
  for (double v : o.scales)
    DROPIN_CHECK(v > 0, OptionError, who, ": scales holds ", v, ", expected positive numbers");
  for (double v : o.aspect_ratios)
    DROPIN_CHECK(v > 0, OptionError, who, ": aspect_ratios holds ", v,
                 ", expected positive numbers");
  Tensor priors = empty(
      {o.conv_h * o.conv_w * static_cast<int64_t>(o.scales.size() * o.aspect_ratios.size()), 4});
  float* p = priors.data<float>();
  for (int64_t j = 0; j < o.conv_h; ++j)
    for (int64_t i = 0; i < o.conv_w; ++i)
      for (const double scale : o.scales)
        for (const double ratio : o.aspect_ratios) {
          const double root = std::sqrt(ratio), w = scale * root / o.max_size,
                       h = scale / root / o.max_size;
          *p++ = static_cast<float>((static_cast<double>(i) + 0.5) / static_cast<double>(o.conv_w));
          *p++ = static_cast<float>((static_cast<double>(j) + 0.5) / static_cast<double>(o.conv_h));
          *p++ = static_cast<float>(w);
          *p++ = static_cast<float>(o.square ? w : h);
        }
  return priors;
}

Tensor boxes_to_pixels(const Tensor& boxes, int64_t height, int64_t width) {
  DROPIN_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, ShapeError, "boxes_to_pixels: boxes is ",
               boxes.sizes(), ", expected [N, 4]");
  DROPIN_CHECK(height > 0 && width > 0, OptionError, "boxes_to_pixels: height ", height,
               " and width ", width, " must be positive");
  const std::vector<double> b = boxes.detach().to_vector();
  Tensor r = empty(boxes.sizes(), kInt64);
  int64_t* out = r.data<int64_t>();
  for (std::size_t n = 0; n < b.size(); n += 4)
    for (std::size_t axis = 0; axis < 2; ++axis) {
      const double size = static_cast<double>(axis ? height : width);
      auto pixel = [&](double v) {
        return static_cast<int64_t>(v > 0 ? std::min(v, size) : 0);
      };  // NaN is not above 0
      const double u = b[n + axis] * size, v = b[n + 2 + axis] * size;
      out[n + axis] = pixel(std::min(u, v));
      out[n + 2 + axis] = pixel(std::max(u, v));
    }
  return r;
}

}  // namespace dropin
