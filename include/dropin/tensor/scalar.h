// Scalar: a number that remembers whether it was floating, an integer or a bool.
#pragma once
#include <cstdint>
#include <type_traits>

#include "dropin/core/dtype.h"

namespace dropin {

/// A C++ number as an operand beside tensors. Its kind, never its value, takes part in type
/// promotion: 2.0 makes an integer tensor float32, 2 leaves it as it is. Integers are kept exactly.
class Scalar {
 public:
  template <class T>
  requires std::is_arithmetic_v<T> Scalar(T v) {
    if constexpr (std::is_floating_point_v<T>) {
      real_ = static_cast<double>(v);
      dtype_ = DType::Float32;
    } else {
      whole_ = static_cast<int64_t>(v);
      dtype_ = std::is_same_v<T, bool> ? DType::Boolean : DType::Int64;
    }
  }
  /// What a tensor of this number alone has: float32, int64 or bool.
  DType dtype() const { return dtype_; }
  bool is_floating() const { return dtype_ == DType::Float32; }
  double to_double() const { return is_floating() ? real_ : static_cast<double>(whole_); }
  /// The integer; a floating number is truncated, saturates, and is 0 for NaN.
  int64_t to_int64() const;
  /// False for an integer that no double holds.
  bool fits_double() const {
    constexpr int64_t most = int64_t{1} << 53;
    return is_floating() || (whole_ <= most && whole_ >= -most);
  }
  /// Whether an element of that type takes the number without overflow, by torch's rule: infinities
  /// and NaN only into floating types, a fraction is cut off, a negative integer down to -255 wraps
  /// round in uint8, bool takes all.
  bool fits(DType t) const;

 private:
  union {
    double real_;
    int64_t whole_;
  };
  DType dtype_;
};

/// Throws the DTypeError of a number that a type does not hold.
[[noreturn]] void does_not_fit(const Scalar& v, DType t, const char* who);

/// A number as a C++ number; DTypeError naming `who` where T does not hold it.
template <class T>
T number_as(const Scalar& v, const char* who) {
  if (!v.fits(dtype_of<T>::value)) [[unlikely]]
    does_not_fit(v, dtype_of<T>::value, who);
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
    return static_cast<T>(v.to_int64());
  else
    return static_cast<T>(v.to_double());
}

}  // namespace dropin
