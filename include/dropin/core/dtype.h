// DType helpers, and the 16-bit float types.
#pragma once
#include <cstdint>
#include <cstring>
#include <string_view>

#include "dropin/abi/abi.h"

namespace dropin {

inline constexpr DType kFloat32 = DType::Float32, kFloat64 = DType::Float64,
                       kBFloat16 = DType::BFloat16, kFloat16 = DType::Float16, kInt8 = DType::Int8,
                       kUInt8 = DType::UInt8, kInt32 = DType::Int32, kInt64 = DType::Int64,
                       kBool = DType::Boolean;

/// Bytes of one element.
constexpr int64_t item_size(DType t) {
  switch (t) {
    case DType::Float64:
    case DType::Int64:
      return 8;
    case DType::Float32:
    case DType::Int32:
      return 4;
    case DType::BFloat16:
    case DType::Float16:
      return 2;
    default:
      return 1;
  }
}
constexpr bool is_floating(DType t) { return t <= DType::Float16; }
constexpr bool is_integral(DType t) { return t > DType::Float16 && t != DType::Boolean; }
/// PyTorch's name: "float32", "int64", "bool", ...
const char* name(DType t);
/// The dtype of that name; DTypeError listing the names if there is none.
DType dtype_from_name(std::string_view name);
/// PyTorch's promotion of two dtypes (bool < integers < floats; the wider within a kind; bf16 with
/// f16 gives f32).
DType promote(DType a, DType b);

/// bfloat16 storage; arithmetic goes through float. Rounds to nearest even.
struct bfloat16 {
  std::uint16_t bits = 0;
  bfloat16() = default;
  bfloat16(float f) {
    std::uint32_t u;
    std::memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
      bits = static_cast<std::uint16_t>((u >> 16) | 0x40);
    else
      bits = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
  }
  operator float() const {
    std::uint32_t u = static_cast<std::uint32_t>(bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
};

/// IEEE binary16 storage; arithmetic goes through float. Rounds to nearest even.
struct float16 {
  std::uint16_t bits = 0;
  float16() = default;
  float16(float f) : bits(encode(f)) {}
  operator float() const { return decode(bits); }
  static std::uint16_t encode(float f) {
    std::uint32_t u;
    std::memcpy(&u, &f, 4);
    const std::uint16_t sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
    if (u >= 0x477ff000u)
      return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
    if (u < 0x38800000u) {                                // subnormal half: add a magic number
      float magic;
      std::uint32_t m = 0x3f000000u;  // 0.5: its last mantissa bit weighs 2^-24
      std::memcpy(&magic, &m, 4);
      float a;
      std::memcpy(&a, &u, 4);
      a += magic;
      std::memcpy(&u, &a, 4);
      return static_cast<std::uint16_t>(sign | (u - m));
    }
    u += 0xc8000fffu + ((u >> 13) & 1);  // rebias the exponent by -112 and round
    return static_cast<std::uint16_t>(sign | (u >> 13));
  }
  static float decode(std::uint16_t h) {
    const std::uint32_t sign = (h & 0x8000u) << 16;
    const std::uint32_t e = (h >> 10) & 31, m = h & 1023u;
    std::uint32_t u;
    if (e == 31)
      u = sign | 0x7f800000u | (m << 13);
    else if (e)
      u = sign | ((e + 112) << 23) | (m << 13);
    else {
      float f = static_cast<float>(m) * 5.9604644775390625e-08f;  // 2^-24
      return sign ? -f : f;
    }
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
};

template <class T>
struct dtype_of;
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::Float32;
};
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::Float64;
};
template <>
struct dtype_of<bfloat16> {
  static constexpr DType value = DType::BFloat16;
};
template <>
struct dtype_of<float16> {
  static constexpr DType value = DType::Float16;
};
template <>
struct dtype_of<std::int8_t> {
  static constexpr DType value = DType::Int8;
};
template <>
struct dtype_of<std::uint8_t> {
  static constexpr DType value = DType::UInt8;
};
template <>
struct dtype_of<std::int32_t> {
  static constexpr DType value = DType::Int32;
};
template <>
struct dtype_of<int64_t> {
  static constexpr DType value = DType::Int64;
};
template <>
struct dtype_of<bool> {
  static constexpr DType value = DType::Boolean;
};

/// Whether tensors can have elements of that C++ type.
template <class T>
concept has_dtype = requires {
  dtype_of<T>::value;
};

/// Calls f(T{}) with the C++ type of `t`.
template <class F>
decltype(auto) visit_dtype(DType t, F&& f) {
  switch (t) {
    case DType::Float64:
      return f(double{});
    case DType::BFloat16:
      return f(bfloat16{});
    case DType::Float16:
      return f(float16{});
    case DType::Int8:
      return f(std::int8_t{});
    case DType::UInt8:
      return f(std::uint8_t{});
    case DType::Int32:
      return f(std::int32_t{});
    case DType::Int64:
      return f(int64_t{});
    case DType::Boolean:
      return f(bool{});
    default:
      return f(float{});
  }
}

}  // namespace dropin
