// Quantization by the rules of the gguf package (0.19.0), in float32.
#include <algorithm>
#include <limits>

#include "dropin/core/parallel.h"
#include "serialize/gguf_blocks.h"
#include "serialize/gguf_numbers.h"

namespace dropin::serialize_detail {

namespace {

float inverse_or_zero(float d) { return d == 0 ? 0 : 1 / d; }

/// What is not finite is 0, as in theirs.
int code_of(float v, int least, int most) {
  return !std::isfinite(v) ? 0 : static_cast<int>(std::clamp(v, float(least), float(most)));
}

float greatest_magnitude(const float* x, int n) {
  float m = 0;
  for (int i = 0; i < n; ++i) {
    if (std::isnan(x[i])) return x[i];
    m = std::max(m, std::fabs(x[i]));
  }
  return m;
}

/// Half away from zero, on float32.
float round_away(float v) {
  const float a = std::fabs(v), whole = std::floor(a), r = whole + (std::floor(2 * (a - whole)));
  return std::copysign(r, v);
}

/// The first value of the greatest magnitude, with its sign.
float signed_greatest(const float* x, int n) {
  float best = x[0];
  for (int i = 1; i < n; ++i) {
    if (std::isnan(best)) break;
    if (std::isnan(x[i]) || std::fabs(x[i]) > std::fabs(best)) best = x[i];
  }
  return best;
}

void put_nibbles(const int* q, unsigned char* out) {
  for (int j = 0; j < 16; ++j)
    out[j] = static_cast<unsigned char>((q[j] & 15) | (q[j + 16] & 15) << 4);
}
void put_high_bits(const int* q, unsigned char* out) {
  std::uint32_t h = 0;
  for (int j = 0; j < 32; ++j) h |= static_cast<std::uint32_t>(q[j] >> 4 & 1) << j;
  std::memcpy(out, &h, 4);
}

void quantize_q8_0(const float* x, unsigned char* out) {
  const float d = greatest_magnitude(x, 32) / 127, by = inverse_or_zero(d);
  put_gguf_half(out, d);
  for (int j = 0; j < 32; ++j)
    out[2 + j] = static_cast<unsigned char>(
        static_cast<std::int8_t>(code_of(round_away(x[j] * by), -128, 127)));
}

/// Q4_0 (most 15) and Q5_0 (most 31).
void quantize_symmetric(const float* x, int half, int* q, float* d) {
  *d = signed_greatest(x, 32) / static_cast<float>(-half);
  const float by = inverse_or_zero(*d);
  for (int j = 0; j < 32; ++j)
    q[j] = code_of(std::trunc(x[j] * by + (static_cast<float>(half) + 0.5f)), 0, 2 * half - 1);
}
void quantize_q4_0(const float* x, unsigned char* out) {
  int q[32];
  float d;
  quantize_symmetric(x, 8, q, &d);
  put_gguf_half(out, d);
  put_nibbles(q, out + 2);
}
void quantize_q5_0(const float* x, unsigned char* out) {
  int q[32];
  float d;
  quantize_symmetric(x, 16, q, &d);
  put_gguf_half(out, d);
  put_high_bits(q, out + 2);
  put_nibbles(q, out + 6);
}

/// Q4_1 (most 15) and Q5_1 (most 31).
void quantize_affine(const float* x, int most, int* q, float* d, float* least) {
  float low = x[0], high = x[0];
  for (int j = 1; j < 32; ++j) {
    low = std::isnan(low) || x[j] >= low ? low : x[j];  // a NaN stays
    high = std::isnan(high) || x[j] <= high ? high : x[j];
  }
  *least = low;
  *d = (high - low) / static_cast<float>(most);
  const float by = inverse_or_zero(*d);
  for (int j = 0; j < 32; ++j) q[j] = code_of(std::trunc((x[j] - low) * by + 0.5f), 0, most);
}
void quantize_q4_1(const float* x, unsigned char* out) {
  int q[32];
  float d, m;
  quantize_affine(x, 15, q, &d, &m);
  put_gguf_half(out, d);
  put_gguf_half(out + 2, m);
  put_nibbles(q, out + 4);
}
void quantize_q5_1(const float* x, unsigned char* out) {
  int q[32];
  float d, m;
  quantize_affine(x, 31, q, &d, &m);
  put_gguf_half(out, d);
  put_gguf_half(out + 2, m);
  put_high_bits(q, out + 4);
  put_nibbles(q, out + 8);
}

/// Digits 0 to 2 of 256 values.
float ternary_digits(const float* x, int* q) {
  const float d = greatest_magnitude(x, 256), by = inverse_or_zero(d);
  for (int j = 0; j < 256; ++j) q[j] = code_of(round_away(x[j] * by), -1, 1) + 1;
  return d;
}
void quantize_tq1_0(const float* x, unsigned char* out) {
  int q[256];
  const float d = ternary_digits(x, q);
  const auto pack = [&](int from, int stride, int digits, unsigned char* to) {
    for (int j = 0; j < stride; ++j) {
      int n = 0;
      for (int i = 0; i < 5; ++i) n = 3 * n + (i < digits ? q[from + stride * i + j] : 0);
      to[j] = static_cast<unsigned char>((n * 256 + 242) / 243);
    }
  };
  pack(0, 32, 5, out);
  pack(160, 16, 5, out + 32);
  pack(240, 4, 4, out + 48);
  put_gguf_half(out + 52, d);
}
void quantize_tq2_0(const float* x, unsigned char* out) {
  int q[256];
  const float d = ternary_digits(x, q);
  for (int k = 0; k < 2; ++k)
    for (int j = 0; j < 32; ++j) {
      int byte = 0;
      for (int i = 0; i < 4; ++i) byte |= q[128 * k + 32 * i + j] << (2 * i);
      out[32 * k + j] = static_cast<unsigned char>(byte);
    }
  put_gguf_half(out + 64, d);
}

void quantize_mxfp4(const float* x, unsigned char* out) {
  const float m = greatest_magnitude(x, 32);
  int e = 0;
  if (m > 0 && std::isfinite(m)) e = std::ilogb(m) - 2 + 127;
  out[0] = static_cast<unsigned char>(e & 255);  // wraps below 2^-125, as theirs
  const float d = gguf_half_e8m0(out[0]);
  int q[32];
  for (int j = 0; j < 32; ++j) {
    q[j] = 0;
    float least = std::numeric_limits<float>::infinity();
    for (int c = 0; c < 16; ++c) {
      const float error = std::fabs(d * static_cast<float>(kGgufE2M1[c]) - x[j]);
      if (error < least) {
        least = error;
        q[j] = c;
      }
    }
  }
  put_nibbles(q, out + 1);
}

}  // namespace

void quantize_gguf(const GgufType& t, const float* values, std::int64_t blocks,
                   unsigned char* out) {
  void (*one)(const float*, unsigned char*) = nullptr;
  switch (t.id) {
    case 2:
      one = quantize_q4_0;
      break;
    case 3:
      one = quantize_q4_1;
      break;
    case 6:
      one = quantize_q5_0;
      break;
    case 7:
      one = quantize_q5_1;
      break;
    case 8:
      one = quantize_q8_0;
      break;
    case 34:
      one = quantize_tq1_0;
      break;
    case 35:
      one = quantize_tq2_0;
      break;
    default:
      one = quantize_mxfp4;
  }
  parallel_for(blocks, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) one(values + i * t.block, out + i * t.bytes);
  });
}

}  // namespace dropin::serialize_detail
