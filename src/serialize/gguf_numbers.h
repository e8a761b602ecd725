// What the block formats of GGUF share.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "dropin/core/dtype.h"

namespace dropin::serialize_detail {

inline float gguf_half(const unsigned char* p) {
  std::uint16_t h;
  std::memcpy(&h, p, 2);
  return float16::decode(h);
}
inline void put_gguf_half(unsigned char* p, float v) {
  const std::uint16_t h = float16::encode(v);
  std::memcpy(p, &h, 2);
}
/// 2^(b - 127) of a scale byte; 255 is 2^128's place, which float32 reads as inf.
inline float gguf_half_e8m0(unsigned char b) {  // half of it, since the codes below are doubled
  return std::bit_cast<float>(b < 2 ? 0x00200000u << b : static_cast<std::uint32_t>(b - 1) << 23);
}
/// Twice the values of E2M1's codes; code 8 is +0.
inline constexpr std::int8_t kGgufE2M1[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                              0, -1, -2, -3, -4, -6, -8, -12};
inline constexpr std::int8_t kGgufIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                             1,    13,   25,  38,  53,  69,  89,  113};

void dequantize_gguf_k(std::uint32_t id, const unsigned char* block, float* out);

}  // namespace dropin::serialize_detail
