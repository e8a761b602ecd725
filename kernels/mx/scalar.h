// The MX formats on one value and one block, in double: the definition, the path of float64, of
// blocks near the ends of float32's range, and of the tests. Nothing here depends on the modes that
// flush subnormal numbers.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/hd.h"
#include "kernels/mx/kernel.h"

namespace dropin::kernels {

struct MxTraits {
  int width, mantissa, bias, emax, max_code;
  double largest;
  std::uint32_t largest_mantissa;  ///< of `largest` as a float
  DROPIN_HD int emin() const { return 1 - bias; }
};
DROPIN_HD inline MxTraits mx_traits(
    MxFormat f) {  // no table: on a GPU it would be built on the stack
  switch (f) {
    case MxFormat::E4M3:
      return {8, 3, 7, 8, 0x7e, 448, 0x600000};
    case MxFormat::E5M2:
      return {8, 2, 15, 15, 0x7b, 57344, 0x600000};
    case MxFormat::E3M2:
      return {6, 2, 3, 4, 0x1f, 28, 0x600000};
    case MxFormat::E2M3:
      return {6, 3, 1, 2, 0x1f, 7.5, 0x700000};
    case MxFormat::E2M1:
      return {4, 1, 1, 2, 0x07, 6, 0x400000};
    default:
      return {8, 0, 0, 0, 127, 127.0 / 64, 0x7e0000};
  }
}

DROPIN_HD inline double mx_exact(double x) { return x; }
DROPIN_HD inline double mx_exact(float x) {
  std::uint32_t b;
  std::memcpy(&b, &x, 4);
  if (b & 0x7f800000u) return x;
  const double v = std::ldexp(static_cast<double>(b & 0x7fffffu), -149);
  return b >> 31 ? -v : v;
}
template <class T>
DROPIN_HD T mx_rounded(double v);
template <>
DROPIN_HD inline double mx_rounded<double>(double v) {
  return v;
}
template <>
DROPIN_HD inline float mx_rounded<float>(double v) {
  if (!(std::fabs(v) < 0x1p-126) || v == 0) return static_cast<float>(v);
  const std::uint32_t b =
      static_cast<std::uint32_t>(std::nearbyint(std::ldexp(std::fabs(v), 149))) |
      (v < 0 ? 0x80000000u : 0u);
  float r;
  std::memcpy(&r, &b, 4);
  return r;
}

DROPIN_HD inline double mx_round(double w, MxRounding r, double u) {  // w >= 0
  const double k = std::floor(w), rest = w - k;
  switch (r) {
    case MxRounding::Even:
      return std::nearbyint(w);
    case MxRounding::Away:
      return k + (rest >= 0.5 ? 1 : 0);
    case MxRounding::Stochastic:
      return k + (rest + u >= 1 ? 1 : 0);
    default:
      return k;
  }
}

/// The code of v, already divided by the scale.
DROPIN_HD inline std::uint8_t mx_encode(double v, MxFormat format,
                                        MxRounding rounding = MxRounding::Even, double u = 0) {
  const MxTraits f = mx_traits(format);
  const double a = std::fabs(v);
  if (format == MxFormat::Int8) {
    const int k = static_cast<int>(std::min(mx_round(std::min(a, 4.0) * 64, rounding, u), 127.0));
    return static_cast<std::uint8_t>(std::signbit(v) ? -k : k);
  }
  const int e = a > 0 ? std::clamp(std::ilogb(a), f.emin(), 1000) : f.emin();
  const double k = mx_round(std::ldexp(a, f.mantissa - e), rounding, u);
  const int code = e > f.emax + 1
                       ? f.max_code
                       : std::min(((e - f.emin()) << f.mantissa) + static_cast<int>(k), f.max_code);
  return static_cast<std::uint8_t>(code | (std::signbit(v) ? 1 << (f.width - 1) : 0));
}

/// The element of a code, without its scale.
DROPIN_HD inline double mx_decode(std::uint8_t code, MxFormat format) {
  const MxTraits f = mx_traits(format);
  if (format == MxFormat::Int8) return static_cast<std::int8_t>(code) / 64.0;
  const int magnitude = code & ((1 << (f.width - 1)) - 1), e = magnitude >> f.mantissa,
            m = magnitude & ((1 << f.mantissa) - 1);
  double v = e ? std::ldexp(1.0 + std::ldexp(m, -f.mantissa), e - f.bias)
               : std::ldexp(m, f.emin() - f.mantissa);
  if (format == MxFormat::E4M3 && magnitude == 0x7f) v = std::numeric_limits<double>::quiet_NaN();
  if (format == MxFormat::E5M2 && e == 31)
    v = m ? std::numeric_limits<double>::quiet_NaN() : kInf<double>;
  return code >> (f.width - 1) & 1 ? -v : v;
}

/// The scale's exponent for a block whose largest magnitude is m > 0, finite.
DROPIN_HD inline int mx_scale_exponent(double m, const MxArgs& a) {
  const MxTraits f = mx_traits(a.format);
  int e;
  const double significand = std::frexp(m, &e) * 2;  // m = significand 2^(e - 1)
  const bool more =
      a.ceil_scale && significand > f.largest / std::ldexp(1.0, std::ilogb(f.largest));
  return std::clamp(e - 1 - f.emax + (more ? 1 : 0), -127, 127);
}

/// NVFP4's scale of a tensor whose largest finite magnitude is m. Never 0, also where m / 2688 is
/// less than float32 holds: blocks of zeros would then be 0 / 0.
DROPIN_HD inline float nvfp4_tensor_scale(float m) {
  const float scale = m / 2688.0f;
  return !(m > 0) ? 1.0f : scale > 0 ? scale : 0x1p-149f;
}

/// One block of n values, `stride` apart. Writes codes and *scale, or y.
template <class T>
DROPIN_HD void mx_block(const MxArgs& a, const T* x, const float* u, int64_t n, int64_t stride,
                        std::uint8_t* codes, std::uint8_t* scale, T* y) {
  double m = 0;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    const double v = std::fabs(mx_exact(x[i * stride]));
    finite = finite && v <= std::numeric_limits<double>::max();
    m = std::max(m, v);
  }
  const int s = finite && m > 0 ? mx_scale_exponent(m, a) : -127;
  if (scale) *scale = static_cast<std::uint8_t>(finite ? s + 127 : 255);
  for (int64_t i = 0; i < n; ++i) {
    const std::uint8_t c = finite ? mx_encode(std::ldexp(mx_exact(x[i * stride]), -s), a.format,
                                              a.rounding, u ? u[i * stride] : 0)
                                  : 0;
    if (codes) codes[i * stride] = c;
    if (y)
      y[i * stride] = finite ? mx_rounded<T>(std::ldexp(mx_decode(c, a.format), s))
                             : std::numeric_limits<T>::quiet_NaN();
  }
}

}  // namespace dropin::kernels
