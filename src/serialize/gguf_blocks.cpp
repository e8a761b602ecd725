#include "serialize/gguf_blocks.h"

#include <algorithm>
#include <array>

#include "dropin/core/parallel.h"
#include "serialize/gguf_numbers.h"

namespace dropin::serialize_detail {

namespace {

constexpr GgufType kGgufTypes[] = {{0, "F32", 1, 4, kFloat32, true, false},
                                   {1, "F16", 1, 2, kFloat16, true, false},
                                   {2, "Q4_0", 32, 18, kFloat32, false, true},
                                   {3, "Q4_1", 32, 20, kFloat32, false, true},
                                   {6, "Q5_0", 32, 22, kFloat32, false, true},
                                   {7, "Q5_1", 32, 24, kFloat32, false, true},
                                   {8, "Q8_0", 32, 34, kFloat32, false, true},
                                   {10, "Q2_K", 256, 84, kFloat32, false, false},
                                   {11, "Q3_K", 256, 110, kFloat32, false, false},
                                   {12, "Q4_K", 256, 144, kFloat32, false, false},
                                   {13, "Q5_K", 256, 176, kFloat32, false, false},
                                   {14, "Q6_K", 256, 210, kFloat32, false, false},
                                   {20, "IQ4_NL", 32, 18, kFloat32, false, false},
                                   {23, "IQ4_XS", 256, 136, kFloat32, false, false},
                                   {24, "I8", 1, 1, kInt8, true, false},
                                   {25, "I16", 1, 2, kInt32, true, false},
                                   {26, "I32", 1, 4, kInt32, true, false},
                                   {27, "I64", 1, 8, kInt64, true, false},
                                   {28, "F64", 1, 8, kFloat64, true, false},
                                   {30, "BF16", 1, 2, kBFloat16, true, false},
                                   {34, "TQ1_0", 256, 54, kFloat32, false, true},
                                   {35, "TQ2_0", 256, 66, kFloat32, false, true},
                                   {39, "MXFP4", 32, 17, kFloat32, false, true},
                                   {40, "NVFP4", 64, 36, kFloat32, false, false}};

using Bytes = const unsigned char*;

/// Nibbles j and j + 16 of byte j.
template <class F>
void halves(Bytes q, float* y, F value) {
  for (int j = 0; j < 16; ++j) {
    y[j] = value(q[j] & 15);
    y[j + 16] = value(q[j] >> 4);
  }
}

void dequantize_q4_0(Bytes b, float* y) {
  const float d = gguf_half(b);
  halves(b + 2, y, [d](int q) { return static_cast<float>(q - 8) * d; });
}
void dequantize_q4_1(Bytes b, float* y) {
  const float d = gguf_half(b), m = gguf_half(b + 2);
  halves(b + 4, y, [d, m](int q) { return static_cast<float>(q) * d + m; });
}
void dequantize_q5_0(Bytes b, float* y) {
  const float d = gguf_half(b);
  std::uint32_t h;
  std::memcpy(&h, b + 2, 4);
  for (int j = 0; j < 16; ++j) {
    const int low = (b[6 + j] & 15) | static_cast<int>(h >> j & 1) << 4,
              high = b[6 + j] >> 4 | static_cast<int>(h >> (j + 16) & 1) << 4;
    y[j] = static_cast<float>(low - 16) * d;
    y[j + 16] = static_cast<float>(high - 16) * d;
  }
}
void dequantize_q5_1(Bytes b, float* y) {
  const float d = gguf_half(b), m = gguf_half(b + 2);
  std::uint32_t h;
  std::memcpy(&h, b + 4, 4);
  for (int j = 0; j < 16; ++j) {
    const int low = (b[8 + j] & 15) | static_cast<int>(h >> j & 1) << 4,
              high = b[8 + j] >> 4 | static_cast<int>(h >> (j + 16) & 1) << 4;
    y[j] = static_cast<float>(low) * d + m;
    y[j + 16] = static_cast<float>(high) * d + m;
  }
}
void dequantize_q8_0(Bytes b, float* y) {
  const float d = gguf_half(b);
  for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(static_cast<std::int8_t>(b[2 + j])) * d;
}
void dequantize_iq4_nl(Bytes b, float* y) {
  const float d = gguf_half(b);
  halves(b + 2, y, [d](int q) { return d * static_cast<float>(kGgufIq4[q]); });
}
void dequantize_mxfp4(Bytes b, float* y) {
  const float d = gguf_half_e8m0(b[0]);
  halves(b + 1, y, [d](int q) { return d * static_cast<float>(kGgufE2M1[q]); });
}
void dequantize_nvfp4(Bytes b, float* y) {
  for (int s = 0; s < 4; ++s) {
    const int code = b[s], e = code >> 3 & 15, m = code & 7;
    float d = 0;  // half the scale, an E4M3 without its sign; 00 and 7f are none
    if (code != 0 && code != 0x7f)
      d = e ? std::ldexp(1.0f + static_cast<float>(m) / 8, e - 8)
            : std::ldexp(static_cast<float>(m), -10);
    for (int j = 0; j < 8; ++j) {
      const unsigned char two = b[4 + 8 * s + j];
      y[16 * s + j] = d * static_cast<float>(kGgufE2M1[two & 15]);
      y[16 * s + j + 8] = d * static_cast<float>(kGgufE2M1[two >> 4]);
    }
  }
}

/// The digit i, 0 to 2, of a byte of five base-3 digits kept as a fraction of 256.
constexpr auto kTernaryDigits = [] {
  std::array<std::array<float, 256>, 5> r{};
  for (int i = 0, power = 1; i < 5; ++i, power *= 3)
    for (int b = 0; b < 256; ++b)
      r[static_cast<std::size_t>(i)][static_cast<std::size_t>(b)] =
          static_cast<float>(((b * power & 255) * 3 >> 8) - 1);
  return r;
}();

void dequantize_tq1_0(Bytes b, float* y) {
  const float d = gguf_half(b + 52);
  for (std::size_t i = 0; i < 5; ++i)
    for (std::size_t j = 0; j < 32; ++j) y[32 * i + j] = d * kTernaryDigits[i][b[j]];
  for (std::size_t i = 0; i < 5; ++i)
    for (std::size_t j = 0; j < 16; ++j) y[160 + 16 * i + j] = d * kTernaryDigits[i][b[32 + j]];
  for (std::size_t i = 0; i < 4; ++i)
    for (std::size_t j = 0; j < 4; ++j) y[240 + 4 * i + j] = d * kTernaryDigits[i][b[48 + j]];
}
void dequantize_tq2_0(Bytes b, float* y) {
  const float d = gguf_half(b + 64);
  for (int k = 0; k < 2; ++k)
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 32; ++j)
        y[128 * k + 32 * i + j] = static_cast<float>((b[32 * k + j] >> (2 * i) & 3) - 1) * d;
}

template <void (*One)(Bytes, float*)>
void dequantize_all(const GgufType& t, Bytes in, std::int64_t count, float* out) {
  const std::int64_t grain = std::max(1, (1 << 15) / t.block);
  parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) One(in + i * t.bytes, out + i * t.block);
  });
}

}  // namespace

const GgufType* find_gguf_type(std::uint32_t id) {
  for (const GgufType& t : kGgufTypes)
    if (t.id == id) return &t;
  return nullptr;
}

const GgufType* find_gguf_type(std::string_view name) {
  for (const GgufType& t : kGgufTypes)
    if (name == t.name) return &t;
  return nullptr;
}

void dequantize_gguf(const GgufType& t, Bytes in, std::int64_t count, float* out) {
  switch (t.id) {
    case 2:
      return dequantize_all<dequantize_q4_0>(t, in, count, out);
    case 3:
      return dequantize_all<dequantize_q4_1>(t, in, count, out);
    case 6:
      return dequantize_all<dequantize_q5_0>(t, in, count, out);
    case 7:
      return dequantize_all<dequantize_q5_1>(t, in, count, out);
    case 8:
      return dequantize_all<dequantize_q8_0>(t, in, count, out);
    case 20:
      return dequantize_all<dequantize_iq4_nl>(t, in, count, out);
    case 34:
      return dequantize_all<dequantize_tq1_0>(t, in, count, out);
    case 35:
      return dequantize_all<dequantize_tq2_0>(t, in, count, out);
    case 39:
      return dequantize_all<dequantize_mxfp4>(t, in, count, out);
    case 40:
      return dequantize_all<dequantize_nvfp4>(t, in, count, out);
    default:
      parallel_for(count, 128, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
          dequantize_gguf_k(t.id, in + i * t.bytes, out + i * t.block);
      });
  }
}

}  // namespace dropin::serialize_detail
