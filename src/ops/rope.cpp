// Rotary positions, and heads split and merged.
#include <cmath>

#include "dropin/ops/attention.h"
#include "dropin/ops/elementwise.h"
#include "dropin/ops/shape.h"

namespace dropin {
namespace {

// x [B, H, L, Dh] turned to positions [.., L] (doubles on the CPU; they broadcast to [B, 1, L]).
Tensor turned(const Tensor& x, std::string_view style, double base, const Tensor& positions) {
  if (style != "half" && style != "interleaved")
    fail<OptionError>({"rope: style is \"", style, "\", expected none, half or interleaved"});
  const int64_t d = x.size(-1), half = d / 2;
  if (d % 2) fail<ShapeError>({"rope: the head width ", d, " is odd; rotary positions turn pairs"});
  Tensor speed = empty({half}, kFloat64);
  for (int64_t c = 0; c < half; ++c)
    speed.data<double>()[c] =
        std::pow(base, -2.0 * static_cast<double>(c) / static_cast<double>(d));
  const Tensor angle = positions.unsqueeze(-1) * speed;
  const DType wide = x.dtype() == kFloat64 ? kFloat64 : kFloat32;
  const Tensor cosine = cos(angle).to(wide).to(x.device()),
               sine = sin(angle).to(wide).to(x.device()), v = x.to(wide);
  Tensor y;
  if (style == "half") {
    const Tensor a = v.narrow(-1, 0, half), b = v.narrow(-1, half, half);
    y = concat({a * cosine - b * sine, b * cosine + a * sine}, -1);
  } else {
    const Tensor a = v.slice(-1, 0, kEnd, 2), b = v.slice(-1, 1, kEnd, 2);
    y = stack({a * cosine - b * sine, b * cosine + a * sine}, -1).flatten(-2, -1);
  }
  return y.to(x.dtype());
}

}  // namespace

Tensor rope(const Tensor& x, std::string_view style, double base, int64_t start) {
  if (style == "none") return x;
  const double first = static_cast<double>(start);
  return turned(x, style, base,
                arange(first, first + static_cast<double>(x.size(-2)), 1, kFloat64));
}
Tensor rope(const Tensor& x, std::string_view style, double base, const Tensor& positions) {
  if (style == "none") return x;
  const Shape want{x.size(0), x.size(-2)};
  if (positions.dtype() != kInt64)
    fail<DTypeError>({"rope: positions are ", positions.dtype(), ", expected int64"});
  if (x.dim() != 4 || !(positions.sizes() == want))
    fail<ShapeError>({"rope: positions are ", positions.sizes(), " for x ", x.sizes(),
                      ", expected [B, L] for [B, H, L, Dh]"});
  return turned(x, style, base, positions.to(Device{}).to(kFloat64).unsqueeze(1));
}

Tensor split_heads(const Tensor& x, int64_t heads) {
  if (x.dim() != 3 || heads <= 0 || x.size(2) % heads)
    fail<ShapeError>(
        {"split_heads: x is ", x.sizes(), ", expected [B, L, H * Dh] with H = ", heads});
  return x.reshape({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}
Tensor merge_heads(const Tensor& x) {
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

}  // namespace dropin
