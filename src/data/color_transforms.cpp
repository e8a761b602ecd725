// Colors of pictures, changed at random (torchvision 0.29's arithmetic for tensors).
#include <algorithm>
#include <cmath>

#include "dropin/data/transforms.h"
#include "dropin/ops/elementwise.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/hd.h"

namespace dropin::transforms {

namespace {

void check_colors(const char* who, const Tensor& image) {
  DROPIN_CHECK(
      image.dim() >= 3 && image.numel() > 0 && (image.size(-3) == 1 || image.size(-3) == 3),
      ShapeError, who, ": image is ", image.sizes(),
      ", expected [..., C, H, W] with 1 or 3 channels");
  DROPIN_CHECK(image.dtype() == kUInt8 || is_floating(image.dtype()), DTypeError, who,
               ": image is ", image.dtype(), ", expected uint8 or floats");
}
void check_factor(const char* who, double factor) {
  DROPIN_CHECK(factor >= 0 && std::isfinite(factor), OptionError, who, ": the factor is ", factor,
               ", expected 0 or more");
}

double whitest(DType t) { return is_floating(t) ? 1 : 255; }
DType shades(DType t) { return is_floating(t) ? t : kFloat32; }

// [..., 1, H, W]; of bytes whole numbers, as floats.
Tensor luma(const Tensor& image) {
  const DType t = shades(image.dtype());
  if (image.size(-3) == 1) return image.to(t);
  auto channel = [&](int64_t c) { return image.narrow(-3, c, 1).to(t); };
  Tensor gray = channel(0) * 0.2989;
  gray.add_(channel(1), 0.587).add_(channel(2), 0.114);
  return image.dtype() == kUInt8 ? floor(gray) : gray;
}

// image * share + other * (1 - share), within the dtype's colors.
Tensor blend(const Tensor& image, const Tensor& other, double share) {
  Tensor y = image.to(shades(image.dtype())) * share;
  y.add_(other, 1 - share);
  return clamp(y, 0, whitest(image.dtype())).to(image.dtype());
}

// One pixel's hue moved on by `turn` of the circle.
void turn_hue(float (&rgb)[3], float turn) {
  const float r = rgb[0], g = rgb[1], b = rgb[2], v = std::max({r, g, b}),
              range = v - std::min({r, g, b}), s = range == 0 ? 0 : range / v,
              per = range == 0 ? 1 : range;
  const float rc = (v - r) / per, gc = (v - g) / per, bc = (v - b) / per;
  float h = v == r ? bc - gc : v == g ? rc + 2 - bc : gc + 4 - rc;
  h = std::fmod(h * (1.F / 6) + 1, 1.F) + turn;
  h -= std::floor(h);
  const float h6 = h * 6, whole = std::floor(h6), f = h6 - whole;
  auto level = [&](float x) { return std::clamp(x * v, 0.F, 1.F); };
  const float q = level(1 - s * f), t = level(s * f + (1 - s)), p = level(1 - s);
  const float sixths[6][3] = {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}};
  // a number that is none has no place on the circle
  const auto& to = sixths[whole >= 0 && whole < 6 ? static_cast<int>(whole) : 0];
  std::copy(std::begin(to), std::end(to), rgb);
}

// Where a factor is drawn from; nothing where it would change nothing.
std::optional<std::pair<double, double>> range_of(const char* name, const JitterRange& r,
                                                  double middle, double least, double greatest) {
  if (!r.given()) return {};
  double low = r.least(), high = r.greatest();
  if (r.one_number()) {
    DROPIN_CHECK(high >= 0, OptionError, "ColorJitter: ", name, " is ", high,
                 ", expected 0 or more, or {least, greatest}");
    low = std::max(middle - high, middle == 1 ? 0 : -HUGE_VAL);
    high = middle + high;
  }
  DROPIN_CHECK(least <= low && low <= high && high <= greatest, OptionError, "ColorJitter: ", name,
               " is {", low, ", ", high, "}, expected {least, greatest} within ", least, " and ",
               greatest);
  if (low == high && low == middle) return {};
  return std::pair(low, high);
}

}  // namespace

Tensor adjust_brightness(const Tensor& image, double factor) {
  check_colors("adjust_brightness", image);
  check_factor("adjust_brightness", factor);
  no_grad guard;
  return clamp(image.to(shades(image.dtype())) * factor, 0, whitest(image.dtype()))
      .to(image.dtype());
}

Tensor adjust_contrast(const Tensor& image, double factor) {
  check_colors("adjust_contrast", image);
  check_factor("adjust_contrast", factor);
  no_grad guard;
  return blend(image, mean(luma(image), {-3, -2, -1}, true), factor);
}

Tensor adjust_saturation(const Tensor& image, double factor) {
  check_colors("adjust_saturation", image);
  check_factor("adjust_saturation", factor);
  no_grad guard;
  return image.size(-3) == 1 ? image : blend(image, luma(image), factor);
}

Tensor adjust_hue(const Tensor& image, double factor) {
  check_colors("adjust_hue", image);
  DROPIN_CHECK(factor >= -0.5 && factor <= 0.5, OptionError, "adjust_hue: the factor is ", factor,
               ", expected -0.5 to 0.5");
  if (image.size(-3) == 1) return image;
  no_grad guard;
  const Tensor from = ToDtype(kFloat32, true)(image.to(kCPU)).contiguous();
  Tensor to = empty(from.sizes(), kFloat32);
  const int64_t area = image.size(-2) * image.size(-1), pictures = image.numel() / (3 * area);
  for (int64_t k = 0; k < pictures; ++k)
    for (int64_t i = 0; i < area; ++i) {
      const float* in = from.data<float>() + 3 * k * area + i;
      float* out = to.data<float>() + 3 * k * area + i;
      float rgb[3] = {in[0], in[area], in[2 * area]};
      turn_hue(rgb, static_cast<float>(factor));
      for (int64_t c = 0; c < 3; ++c) out[c * area] = rgb[c];
    }
  return ToDtype(image.dtype(), true)(to).to(image.device());
}

ColorJitter::ColorJitter(const ColorJitterOptions& o)
    : ranges_{range_of("brightness", o.brightness, 1, 0, HUGE_VAL),
              range_of("contrast", o.contrast, 1, 0, HUGE_VAL),
              range_of("saturation", o.saturation, 1, 0, HUGE_VAL),
              range_of("hue", o.hue, 0, -0.5, 0.5)} {}

Tensor ColorJitter::operator()(const Tensor& image) const {
  check_colors("ColorJitter", image);
  constexpr Tensor (*kChanges[])(const Tensor&, double) = {adjust_brightness, adjust_contrast,
                                                           adjust_saturation, adjust_hue};
  std::vector<std::size_t> order = {0, 1, 2, 3};
  for (int64_t i = 3; i > 0; --i)
    std::swap(order[at(i)], order[at(randint(0, i + 1, {1}).item<int64_t>())]);
  double factors[4] = {};
  for (std::size_t i = 0; i < 4; ++i)
    if (ranges_[i])
      factors[i] =
          ranges_[i]->first + rand({1}, kFloat64).item() * (ranges_[i]->second - ranges_[i]->first);
  Tensor x = image;
  for (const std::size_t i : order)
    if (ranges_[i]) x = kChanges[i](x, factors[i]);
  return x;
}

}  // namespace dropin::transforms
