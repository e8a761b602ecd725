// GGUF's blocks of 256 values with scales of their own inside.
#include "serialize/gguf_numbers.h"

namespace dropin::serialize_detail {

namespace {

using Block = const unsigned char*;

/// Scales and minima of Q4_K and Q5_K: 6 bits each in 12 bytes.
struct KScale {
  int scale, minimum;
};
KScale k_scale(Block s, int i) {
  if (i < 4) return {s[i] & 63, s[4 + i] & 63};
  return {(s[4 + i] & 15) | s[i - 4] >> 6 << 4, s[4 + i] >> 4 | s[i] >> 6 << 4};
}

void dequantize_q2_k(Block b, float* y) {
  const float d = gguf_half(b + 80), least = gguf_half(b + 82);
  for (int k = 0; k < 16; ++k) {
    Block qs = b + 16 + 32 * (k / 8) + k % 2 * 16;
    const int shift = k / 2 % 4 * 2;
    const float scale = d * static_cast<float>(b[k] & 15),
                minimum = least * static_cast<float>(b[k] >> 4);
    for (int j = 0; j < 16; ++j)
      y[16 * k + j] = scale * static_cast<float>(qs[j] >> shift & 3) - minimum;
  }
}

void dequantize_q3_k(Block b, float* y) {
  Block s = b + 96;
  const float d = gguf_half(b + 108);
  for (int k = 0; k < 16; ++k) {
    const int low = k > 7 ? s[k - 8] >> 4 : s[k] & 15, high = s[8 + k % 4] >> (2 * (k / 4)) & 3;
    const float scale = d * static_cast<float>(low + 16 * high - 32);
    const int h = k / 8, c = k / 2 % 4, l = k % 2 * 16, shift = 2 * c, bit = 4 * h + c;
    Block qs = b + 32 + 32 * h + l, mask = b + l;
    for (int j = 0; j < 16; ++j)
      y[16 * k + j] =
          scale * static_cast<float>((qs[j] >> shift & 3) - 4 + 4 * (mask[j] >> bit & 1));
  }
}

void dequantize_q4_k(Block b, float* y) {
  const float d = gguf_half(b), least = gguf_half(b + 2);
  Block qs = b + 16;
  for (int i = 0; i < 8; ++i) {
    const KScale s = k_scale(b + 4, i);
    const float scale = d * static_cast<float>(s.scale),
                minimum = least * static_cast<float>(s.minimum);
    const int shift = i % 2 * 4;
    for (int l = 0; l < 32; ++l)
      y[32 * i + l] = scale * static_cast<float>(qs[32 * (i / 2) + l] >> shift & 15) - minimum;
  }
}

void dequantize_q5_k(Block b, float* y) {
  const float d = gguf_half(b), least = gguf_half(b + 2);
  Block qh = b + 16, qs = b + 48;
  for (int i = 0; i < 8; ++i) {
    const KScale s = k_scale(b + 4, i);
    const float scale = d * static_cast<float>(s.scale),
                minimum = least * static_cast<float>(s.minimum);
    const int shift = i % 2 * 4;
    for (int l = 0; l < 32; ++l)
      y[32 * i + l] =
          scale * static_cast<float>((qs[32 * (i / 2) + l] >> shift & 15) | (qh[l] >> i & 1) << 4) -
          minimum;
  }
}

void dequantize_q6_k(Block b, float* y) {
  const auto* sc = reinterpret_cast<const std::int8_t*>(b + 192);
  const float d = gguf_half(b + 208);
  for (int k = 0; k < 16; ++k) {
    const float scale = d * static_cast<float>(sc[k]);
    const int h = k / 8, c = k / 2 % 4, l = k % 2 * 16;
    Block low = b + 64 * h + 32 * (c & 1) + l, high = b + 128 + 32 * h + l;
    const int low_shift = (c >> 1) * 4, high_shift = 2 * c;
    for (int j = 0; j < 16; ++j)
      y[16 * k + j] =
          scale *
          static_cast<float>(((low[j] >> low_shift & 15) | (high[j] >> high_shift & 3) << 4) - 32);
  }
}

void dequantize_iq4_xs(Block b, float* y) {
  const float d = gguf_half(b);
  std::uint16_t high;
  std::memcpy(&high, b + 2, 2);
  Block low = b + 4, qs = b + 8;
  for (int i = 0; i < 8; ++i) {
    const int s = (low[i / 2] >> (i % 2 * 4) & 15) | (high >> (2 * i) & 3) << 4;
    const float scale = d * static_cast<float>(s - 32);
    for (int j = 0; j < 16; ++j) {
      y[32 * i + j] = scale * static_cast<float>(kGgufIq4[qs[16 * i + j] & 15]);
      y[32 * i + j + 16] = scale * static_cast<float>(kGgufIq4[qs[16 * i + j] >> 4]);
    }
  }
}

}  // namespace

void dequantize_gguf_k(std::uint32_t id, const unsigned char* block, float* out) {
  switch (id) {
    case 10:
      return dequantize_q2_k(block, out);
    case 11:
      return dequantize_q3_k(block, out);
    case 12:
      return dequantize_q4_k(block, out);
    case 13:
      return dequantize_q5_k(block, out);
    case 14:
      return dequantize_q6_k(block, out);
    default:
      return dequantize_iq4_xs(block, out);
  }
}

}  // namespace dropin::serialize_detail
