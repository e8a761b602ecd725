#include "dropin/number_format/codes.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "dropin/core/parallel.h"
#include "dropin/ops/ops.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

constexpr bool is_e8m0(const NumberFormat& f) { return f.exponent == 8; }

/// Code of the largest finite value, without sign.
int largest_code(const NumberFormat& f) {
  if (is_e8m0(f)) return 254;
  const int all = (1 << (f.exponent + f.mantissa)) - 1;
  return f.special == NumberFormat::Ieee         ? all - (1 << f.mantissa)
         : f.special == NumberFormat::AllOnesNaN ? all - 1
                                                 : all;
}

std::uint8_t nan_code(const NumberFormat& f, bool negative, Conversion c) {
  const int sign = negative ? 1 << (f.bits - 1) : 0;
  switch (f.special) {
    case NumberFormat::Finite:  // 4 and 6 bits hold none: ml_dtypes makes it a zero of the other
                                // sign
      return static_cast<std::uint8_t>(negative ? 0 : 1 << (f.bits - 1));
    case NumberFormat::NegativeZeroNaN:
      return static_cast<std::uint8_t>(1 << (f.bits - 1));
    case NumberFormat::AllOnesNaN:
      return static_cast<std::uint8_t>(sign | (largest_code(f) + 1));
    default:
      // PyTorch sets all bits of the mantissa, ml_dtypes the first.
      return static_cast<std::uint8_t>(sign |
                                       (c == Conversion::Torch && f.mantissa == 2 && f.exponent == 5
                                            ? largest_code(f) + 4
                                            : largest_code(f) + 1 + (1 << (f.mantissa - 1))));
  }
}

/// A power of two with no sign: to nearest, midpoints up.
std::uint8_t encode_e8m0(float value, Conversion c) {
  std::uint32_t u = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return 255;
  if (c == Conversion::MLDtypes && (value == 0 || u >> 31)) return 255;
  u &= 0x7fffffffu;
  const std::uint32_t e = u >> 23, m = u & 0x7fffffu;
  if (e == 0) return m > 0x400000u ? 1 : 0;  // 2^-127 is the subnormal 0x00400000
  return static_cast<std::uint8_t>(std::min<std::uint32_t>(255, e + (m >= 0x400000u ? 1 : 0)));
}

std::uint8_t overflow_code(const NumberFormat& f, bool negative, Conversion c) {
  const int sign = negative ? 1 << (f.bits - 1) : 0;
  switch (f.special) {
    case NumberFormat::Ieee:
      return static_cast<std::uint8_t>(sign | (largest_code(f) + 1));
    case NumberFormat::NegativeZeroNaN:
      return nan_code(f, negative, c);
    case NumberFormat::AllOnesNaN:
      if (c == Conversion::MLDtypes) return nan_code(f, negative, c);
      [[fallthrough]];
    default:
      return static_cast<std::uint8_t>(sign | largest_code(f));
  }
}

using Values = std::array<float, 256>;
Values table_of(const NumberFormat& f) {
  Values t{};
  for (int code = 0; code < 256; ++code)
    t[static_cast<std::size_t>(code)] = decode_number(f, static_cast<std::uint8_t>(code));
  return t;
}

constexpr int64_t kCodesAtOnce = 1 << 16;

}  // namespace

float NumberFormat::largest() const {
  return decode_number(*this, static_cast<std::uint8_t>(largest_code(*this)));
}

Conversion conversion_from_name(std::string_view name) {
  if (name == "torch") return Conversion::Torch;
  if (name == "ml_dtypes") return Conversion::MLDtypes;
  fail<OptionError>({"conversion is \"", name, "\", expected torch or ml_dtypes"});
}

const std::vector<NumberFormat>& number_formats() {
  using N = NumberFormat;
  static const std::vector<NumberFormat> all{
      {"F8_E4M3", "float8_e4m3fn", 8, 4, 3, 7, N::AllOnesNaN},
      {"F8_E5M2", "float8_e5m2", 8, 5, 2, 15, N::Ieee},
      {"F8_E4M3FNUZ", "float8_e4m3fnuz", 8, 4, 3, 8, N::NegativeZeroNaN},
      {"F8_E5M2FNUZ", "float8_e5m2fnuz", 8, 5, 2, 16, N::NegativeZeroNaN},
      {"F8_E8M0", "float8_e8m0fnu", 8, 8, 0, 127, N::AllOnesNaN},
      {"F6_E2M3", "float6_e2m3fn", 6, 2, 3, 1, N::Finite},
      {"F6_E3M2", "float6_e3m2fn", 6, 3, 2, 3, N::Finite},
      {"F4", "float4_e2m1fn", 4, 2, 1, 1, N::Finite},
      {"E4M3", "float8_e4m3", 8, 4, 3, 7, N::Ieee},
      {"E3M4", "float8_e3m4", 8, 3, 4, 3, N::Ieee},
      {"E4M3B11FNUZ", "float8_e4m3b11fnuz", 8, 4, 3, 11, N::NegativeZeroNaN}};
  return all;
}

const NumberFormat* find_number_format(std::string_view name) {
  for (const NumberFormat& f : number_formats())
    if (name == f.name || name == f.torch) return &f;
  return nullptr;
}

const NumberFormat& number_format(std::string_view name) {
  if (const NumberFormat* f = find_number_format(name)) return *f;
  std::string have;
  for (const NumberFormat& f : number_formats()) have += join({have.empty() ? "" : ", ", f.torch});
  fail<OptionError>({"number format is \"", name, "\", expected one of ", have});
}

float decode_number(const NumberFormat& f, std::uint8_t code) {
  if (is_e8m0(f))
    return code == 255 ? std::numeric_limits<float>::quiet_NaN()
                       : std::bit_cast<float>(code ? std::uint32_t(code) << 23 : 0x400000u);
  const int magnitude = code & ((1 << (f.bits - 1)) - 1), e = magnitude >> f.mantissa,
            m = magnitude & ((1 << f.mantissa) - 1);
  const bool negative = code >> (f.bits - 1) & 1;
  if (f.special == NumberFormat::NegativeZeroNaN && negative && magnitude == 0)
    return std::numeric_limits<float>::quiet_NaN();
  float v;
  if (magnitude <= largest_code(f))
    v = e ? std::ldexp(1.0f + std::ldexp(static_cast<float>(m), -f.mantissa), e - f.bias)
          : std::ldexp(static_cast<float>(m), 1 - f.bias - f.mantissa);
  else if (f.special == NumberFormat::Ieee && m == 0)
    v = kernels::kInf<float>;
  else
    v = std::numeric_limits<float>::quiet_NaN();
  return negative ? -v : v;
}

std::uint8_t encode_number(const NumberFormat& f, float value, Conversion c) {
  if (is_e8m0(f)) return encode_e8m0(value, c);
  const std::uint32_t u = std::bit_cast<std::uint32_t>(value);
  const bool negative = u >> 31;
  if (std::isnan(value)) return nan_code(f, negative, c);
  if (std::isinf(value)) return overflow_code(f, negative, c);
  const double a = std::fabs(static_cast<double>(value));
  const int emin = 1 - f.bias, e = std::max(emin, a > 0 ? std::ilogb(a) : emin);
  // Codes are consecutive: a mantissa that rounds up to 2 is the next exponent's 1.
  const double k = std::nearbyint(std::ldexp(a, f.mantissa - e));
  const int64_t code = (int64_t{e - emin} << f.mantissa) + static_cast<int64_t>(k);
  if (code > largest_code(f)) return overflow_code(f, negative, c);
  if (code == 0 && f.special == NumberFormat::NegativeZeroNaN) return 0;
  return static_cast<std::uint8_t>(code | (negative ? 1 << (f.bits - 1) : 0));
}

Tensor decode_numbers(const Tensor& codes, const std::string& format) {
  const NumberFormat& f = number_format(format);
  DROPIN_CHECK(codes.dtype() == kUInt8, DTypeError, "decode_numbers: codes are ", codes.dtype(),
               ", expected uint8");
  const Tensor c = codes.detach().to(kCPU).contiguous();
  Tensor y = empty(c.sizes(), kFloat32);
  const Values values = table_of(f);
  const auto* in = c.data<std::uint8_t>();
  auto* out = y.data<float>();
  parallel_for(c.numel(), kCodesAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = values[in[i]];
  });
  return y;
}

Tensor encode_numbers(const Tensor& x, const std::string& format, const std::string& conversion) {
  const NumberFormat& f = number_format(format);
  const Conversion c = conversion_from_name(conversion);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, "encode_numbers: x is ", x.dtype(),
               ", expected a floating-point type");
  const Tensor t = x.detach().to(kCPU).to(kFloat32).contiguous();
  Tensor y = empty(t.sizes(), kUInt8);
  const auto* in = t.data<float>();
  auto* out = y.data<std::uint8_t>();
  parallel_for(t.numel(), kCodesAtOnce / 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = encode_number(f, in[i], c);
  });
  return y;
}

}  // namespace dropin
