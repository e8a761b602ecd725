#include "dropin/number_format/block_rules.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "dropin/core/parallel.h"
#include "dropin/number_format/codes.h"
#include "dropin/ops/ops.h"

namespace dropin {

namespace {

enum class Rule { Ocp, Floor, Ceil, Even, Rceil, Gguf, Mlx };

constexpr int64_t kBlock = 32;

Rule rule_named(std::string_view who, const std::string& name, const std::string& element) {
  const auto& names = block_rules();
  const auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end()) {
    std::string have;
    for (const std::string& n : names) have += (have.empty() ? "" : ", ") + n;
    fail<OptionError>({who, ": rule is \"", name, "\", expected one of ", have});
  }
  const Rule r = static_cast<Rule>(at - names.begin());
  if ((r == Rule::Gguf || r == Rule::Mlx) && element != "F4")
    fail<OptionError>({who, ": rule ", name, " is of F4, not of ", element});
  return r;
}

const NumberFormat& element_named(std::string_view who, const std::string& name) {
  for (const char* known : {"F8_E4M3", "F8_E5M2", "F6_E2M3", "F6_E3M2", "F4"})
    if (name == known) return number_format(name);
  fail<OptionError>(
      {who, ": element is \"", name, "\", expected F8_E4M3, F8_E5M2, F6_E2M3, F6_E3M2 or F4"});
}

/// The exponent of the greatest value.
int greatest_exponent(const NumberFormat& f) { return std::ilogb(f.largest()); }

float power(int byte) { return std::bit_cast<float>(byte ? std::uint32_t(byte) << 23 : 0x400000u); }

/// The exponent field of a float, less its bias: -127 for zero and what is subnormal.
int field_exponent(float v) {
  return static_cast<int>(std::bit_cast<std::uint32_t>(v) >> 23 & 255) - 127;
}

float block_magnitude(const float* x, int64_t n, bool* nan) {
  float m = 0;
  *nan = false;
  for (int64_t i = 0; i < n; ++i) {
    *nan = *nan || std::isnan(x[i]);
    m = std::max(m, std::fabs(x[i]));
  }
  return m;
}

int torchao_byte(const NumberFormat& f, Rule r, float m) {
  if (r == Rule::Rceil)
    return static_cast<int>(std::clamp(std::ceil(std::log2(m / f.largest())), -127.0f, 127.0f)) +
           127;
  if (r == Rule::Even)
    m = std::bit_cast<float>(std::bit_cast<std::uint32_t>(m) + (1u << (22 - f.mantissa)));
  int e = field_exponent(m);
  if (r == Rule::Ceil && (std::bit_cast<std::uint32_t>(m) & 0x7fffffu) != 0) ++e;
  return std::clamp(e - greatest_exponent(f), -127, 128) + 127;
}

/// Codes of values that have been divided by their scale.
void encode_clipped(const NumberFormat& f, const float* x, std::uint8_t* codes,
                    const std::function<float(float)>& scaled) {
  const float most = f.largest();
  for (int64_t i = 0; i < kBlock; ++i)
    codes[i] = encode_number(f, std::clamp(scaled(x[i]), -most, most));
}

void torchao_block(const NumberFormat& f, Rule r, const float* x, std::uint8_t* codes,
                   std::uint8_t* scale) {
  bool nan;
  const float m = block_magnitude(x, kBlock, &nan);
  const int byte = nan ? 255 : torchao_byte(f, r, m);
  *scale = static_cast<std::uint8_t>(byte);
  if (nan) {
    for (int64_t i = 0; i < kBlock; ++i) codes[i] = encode_number(f, x[i]);
    return;
  }
  if (r == Rule::Rceil) {
    const float by = byte == 0 ? 1.0f : byte == 254 ? 0x1p-127f : power(254 - byte);
    encode_clipped(f, x, codes, [by](float v) { return v * by; });
  } else {
    const float by =
        byte == 255 ? std::numeric_limits<float>::infinity() : std::max(power(byte), 0x1p-126f);
    encode_clipped(f, x, codes, [by](float v) { return v / by; });
  }
}

/// E2M1 with ties toward zero: the first of the nearest in the order of magnitudes.
std::uint8_t nearest_e2m1(float v) {
  constexpr float kEnds[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float a = std::fabs(v);
  int code = 0;
  while (code < 7 && a > kEnds[code]) ++code;
  return static_cast<std::uint8_t>(code | (v < 0 && code ? 8 : 0));
}

void other_block(Rule r, const float* x, std::uint8_t* codes, std::uint8_t* scale) {
  bool nan;
  const float m = block_magnitude(x, kBlock, &nan);
  int byte = r == Rule::Mlx ? 127 : 0;
  if (nan || std::isinf(m)) {
    *scale = r == Rule::Mlx ? 128 : 0;
    std::fill(codes, codes + kBlock, std::uint8_t{0});
    return;
  }
  if (r == Rule::Gguf ? m > 0 : m / 6.0f > 0)
    byte = r == Rule::Gguf ? std::ilogb(m) - 2 + 127
                           : static_cast<int>(std::ceil(std::log2(m / 6.0f))) + 127;
  *scale = static_cast<std::uint8_t>(byte & 255);
  // mlx divides by the scale that its byte has no room for.
  const float by = r == Rule::Mlx ? std::ldexp(1.0f, byte - 127) : power(*scale);
  for (int64_t i = 0; i < kBlock; ++i) codes[i] = nearest_e2m1(x[i] / by);
}

/// One call per block of `size` values of the last axis.
template <class F>
MXTensor by_blocks(std::string_view who, const Tensor& x_, int64_t size, F&& one) {
  DROPIN_CHECK(is_floating(x_.dtype()), DTypeError, who, ": x is ", x_.dtype(),
               ", expected a floating-point type");
  DROPIN_CHECK(x_.dim() > 0 && x_.size(-1) % size == 0, ShapeError, who, ": x is ", x_.sizes(),
               ", expected a last axis of whole blocks of ", size);
  const Tensor x = x_.detach().to(kCPU).to(kFloat32).contiguous();
  Shape scales = x.sizes();
  scales[x.dim() - 1] /= size;
  MXTensor r{empty(x.sizes(), kUInt8), empty(scales, kUInt8)};
  const float* in = x.data<float>();
  auto *codes = r.codes.data<std::uint8_t>(), *by = r.scales.data<std::uint8_t>();
  parallel_for(r.scales.numel(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) one(in + b * size, codes + b * size, by + b);
  });
  return r;
}

void check_blocks(std::string_view who, const Tensor& codes, const Tensor& scales, int64_t size) {
  DROPIN_CHECK(codes.dtype() == kUInt8 && scales.dtype() == kUInt8, DTypeError, who, ": codes are ",
               codes.dtype(), " and scales ", scales.dtype(), ", expected uint8");
  DROPIN_CHECK(
      codes.dim() > 0 && codes.numel() == size * scales.numel() && codes.size(-1) % size == 0,
      ShapeError, who, ": codes are ", codes.sizes(), " and scales ", scales.sizes(),
      ", expected a scale for each ", size, " codes of the last axis");
}

}  // namespace

const std::vector<std::string>& block_rules() {
  static const std::vector<std::string> names{
      "ocp", "torchao.floor", "torchao.ceil", "torchao.even", "torchao.rceil", "gguf", "mlx"};
  return names;
}

MXTensor quantize_blocks(const Tensor& x, const std::string& element, const std::string& rule) {
  const NumberFormat& f = element_named("quantize_blocks", element);
  const Rule r = rule_named("quantize_blocks", rule, element);
  if (r == Rule::Ocp) {
    const std::string format = (f.bits == 8   ? "MXFP8_"
                                : f.bits == 6 ? "MXFP6_"
                                              : "MXFP4_") +
                               (element == "F4" ? std::string("E2M1") : element.substr(3));
    DROPIN_CHECK(x.dim() > 0 && x.size(-1) % kBlock == 0, ShapeError, "quantize_blocks: x is ",
                 x.sizes(), ", expected a last axis of whole blocks of ", kBlock);
    return quantize_mx(x, {.format = format});
  }
  return by_blocks("quantize_blocks", x, kBlock,
                   [&](const float* in, std::uint8_t* codes, std::uint8_t* scale) {
                     if (r == Rule::Gguf || r == Rule::Mlx)
                       other_block(r, in, codes, scale);
                     else
                       torchao_block(f, r, in, codes, scale);
                   });
}

Tensor dequantize_blocks(const Tensor& codes, const Tensor& scales, const std::string& element,
                         const std::string& rule) {
  element_named("dequantize_blocks", element);
  const Rule r = rule_named("dequantize_blocks", rule, element);
  check_blocks("dequantize_blocks", codes, scales, kBlock);
  const Tensor values = decode_numbers(codes, element), s = scales.detach().to(kCPU).contiguous();
  auto* v = values.data<float>();
  const auto* by = s.data<std::uint8_t>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    const int byte = by[i / kBlock];
    if (byte == 255 && r != Rule::Gguf)
      v[i] = std::numeric_limits<float>::quiet_NaN();
    else
      v[i] = std::ldexp(r == Rule::Gguf && v[i] == 0 ? 0.0f : v[i], byte - 127);
  }
  return values;
}

MXTensor quantize_nvfp4_torchao(const Tensor& x, float p) {
  DROPIN_CHECK(p >= 0, OptionError, "quantize_nvfp4_torchao: per_tensor_scale is ", p,
               ", expected a positive number, or 0 for none");
  const NumberFormat &scale_format = number_format("F8_E4M3"), &element = number_format("F4");
  return by_blocks("quantize_nvfp4_torchao", x, 16,
                   [&](const float* in, std::uint8_t* codes, std::uint8_t* scale) {
                     bool nan;
                     float s = block_magnitude(in, 16, &nan) / 6.0f;
                     if (p > 0) s = s / p;
                     *scale = encode_number(scale_format, std::clamp(s, 0x1p-6f, 448.0f));
                     const float e = decode_number(scale_format, *scale),
                                 by = p > 0 ? (1.0f / p) / e : 1.0f / e;
                     for (int64_t i = 0; i < 16; ++i)
                       codes[i] = encode_number(element, std::clamp(in[i] * by, -6.0f, 6.0f));
                   });
}

Tensor dequantize_nvfp4_torchao(const Tensor& codes, const Tensor& scales, float p) {
  check_blocks("dequantize_nvfp4_torchao", codes, scales, 16);
  const Tensor values = decode_numbers(codes, "F4"), s = decode_numbers(scales, "F8_E4M3");
  for (int64_t i = 0; i < values.numel(); ++i) {
    const float by = s.data<float>()[i / 16];
    values.data<float>()[i] *= p > 0 ? p * by : by;
  }
  return values;
}

}  // namespace dropin
