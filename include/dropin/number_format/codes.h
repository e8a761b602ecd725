// Small floats as files store them: 4, 6 and 8 bits per value, code by code.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dropin/tensor/tensor.h"

namespace dropin {

/// One format. Code: sign, exponent field e, mantissa field m from the top; the value is
/// 2^(e - bias) (1 + m / 2^mantissa), or 2^(1 - bias) m / 2^mantissa where e is 0. E8M0 has neither
/// sign nor zero: 2^(code - 127).
struct NumberFormat {
  /// Codes that are no finite numbers: none; the highest exponent as in IEEE 754 (inf, NaN); only
  /// the code of all ones is NaN (fn); only the code of -0 is (fnuz).
  enum Special { Finite, Ieee, AllOnesNaN, NegativeZeroNaN };
  const char* name;   ///< safetensors' dtype, F8_E4M3
  const char* torch;  ///< PyTorch's or ml_dtypes' name, float8_e4m3fn
  int bits, exponent, mantissa, bias;
  Special special;

  /// The largest finite value.
  float largest() const;
};

/// Whose rules decide where libraries differ. Both round to nearest, ties to the even code, and
/// float64 goes through float32 (so it is rounded twice).
/// - torch (PyTorch 2.15): E4M3 beyond its largest value and inf become that value; NaN of E5M2 is
///   code 7f; E8M0 drops the sign, and 0 becomes 2^-127.
/// - ml_dtypes (0.6.0): E4M3 beyond 464 becomes NaN; NaN of E5M2 is code 7e; 0 and negative values
///   become NaN in E8M0. Formats that PyTorch does not convert to follow these rules in both.
enum class Conversion { Torch, MLDtypes };
/// "torch" or "ml_dtypes"; OptionError.
Conversion conversion_from_name(std::string_view name);

/// All formats: F8_E4M3 (float8_e4m3fn), F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ, F8_E8M0
/// (float8_e8m0fnu), F6_E2M3, F6_E3M2, F4 (float4_e2m1fn), and ml_dtypes' float8_e4m3, float8_e3m4,
/// float8_e4m3b11fnuz.
const std::vector<NumberFormat>& number_formats();
/// By either name; OptionError naming what there is.
const NumberFormat& number_format(std::string_view name);
/// The same, null if there is none.
const NumberFormat* find_number_format(std::string_view name);

/// The value of a code, exactly (its bits above the format's are ignored).
float decode_number(const NumberFormat& format, std::uint8_t code);
/// The code of a value.
std::uint8_t encode_number(const NumberFormat& format, float value,
                           Conversion conversion = Conversion::Torch);
/// Values of codes, one a byte: U8 of any shape, to float32 of that shape on the CPU. OptionError,
/// DTypeError.
Tensor decode_numbers(const Tensor& codes, const std::string& format);
/// Codes of values, one a byte: floating-point x of any shape, to U8 of that shape on the CPU. Not
/// differentiable. OptionError, DTypeError.
Tensor encode_numbers(const Tensor& x, const std::string& format,
                      const std::string& conversion = "torch");

}  // namespace dropin
