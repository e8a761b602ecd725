// Noise of the formats as measured, the order of NVFP4, bad input.
#include "dropin/projection/linear.h"
#include "dropin/projection/mx_linear.h"
#include "dropin/registry/registry.h"
#include "kernels/mx/scalar.h"
#include "support.h"

namespace dropin {
namespace {

using kernels::MxFormat;
using testing::max_difference;
using testing::random;

double decibels(const Tensor& x, const Tensor& y, double below = 1e30) {
  double signal = 0, noise = 0;
  const auto a = x.to_vector(), b = y.to_vector();
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::abs(a[i]) < below) signal += a[i] * a[i], noise += (a[i] - b[i]) * (a[i] - b[i]);
  return 10 * std::log10(signal / noise);
}

Tensor by_name(const char* format, const Tensor& x) {
  return registry().find(format).call(Json::object(), {{"x", x}}).get("y", format);
}

TEST(Microscaling, NoiseIsAsMeasuredInTheSpecification) {
  const Tensor x = random({4096, 128}, kFloat32, 11);
  for (auto [format, want] : {std::pair{"MXINT8", 41.7},
                              {"MXFP6_E2M3", 31.0},
                              {"MXFP8_E4M3", 30.6},
                              {"MXFP8_E5M2", 25.4},
                              {"MXFP6_E3M2", 25.4},
                              {"NVFP4", 20.4},
                              {"MXFP4_E2M1", 18.8},
                              {"int8", 39.4}})
    EXPECT_NEAR(decibels(x, by_name(format, x)), want, 0.3) << format;
  Tensor wild = x.clone();
  Generator g(5);
  const Tensor u = rand({wild.numel()}, kFloat32, &g);
  for (int64_t i = 0; i < wild.numel(); ++i)
    if (u.data<float>()[i] < 0.001f) wild.data<float>()[i] *= 100;
  for (auto [format, want] : {std::pair{"int8", 3.3},
                              {"MXFP4_E2M1", 14.5},
                              {"MXFP6_E2M3", 20.2},
                              {"MXINT8", 25.2},
                              {"MXFP8_E4M3", 30.7}})
    EXPECT_NEAR(decibels(wild, by_name(format, wild), 5), want, 1.0)
        << format << ": what the outliers of this draw leave";
}

TEST(NVFP4, FollowsItsFloat32Order) {
  const Tensor x = random({5, 39}, kFloat32, 3) * 10.0;
  const NVFP4Tensor q = quantize_nvfp4(x);
  EXPECT_EQ(q.scales.sizes(), (Shape{5, 3}));
  float top = 0;
  for (double v : x.to_vector()) top = std::max(top, static_cast<float>(std::abs(v)));
  const float t = top / 2688.0f;
  EXPECT_EQ(q.tensor_scale.item(), t);
  for (int64_t r = 0; r < 5; ++r)
    for (int64_t b = 0; b < 3; ++b) {
      float most = 0;
      for (int64_t i = b * 16; i < std::min<int64_t>(39, b * 16 + 16); ++i)
        most = std::max(most, std::abs(x.data<float>()[r * 39 + i]));
      const std::uint8_t scale = kernels::mx_encode(most / 6.0f / t, MxFormat::E4M3);
      EXPECT_EQ(q.scales.data<std::uint8_t>()[r * 3 + b], scale);
      const float s = static_cast<float>(kernels::mx_decode(scale, MxFormat::E4M3)) * t;
      for (int64_t i = b * 16; i < std::min<int64_t>(39, b * 16 + 16); ++i)
        EXPECT_EQ(q.codes.data<std::uint8_t>()[r * 39 + i],
                  kernels::mx_encode(x.data<float>()[r * 39 + i] / s, MxFormat::E2M1));
    }
  const NVFP4Tensor zero = quantize_nvfp4(zeros({2, 20}));
  EXPECT_EQ(zero.tensor_scale.item(), 1);
  EXPECT_EQ(
      max_difference(dequantize_nvfp4(zero.codes, zero.scales, zero.tensor_scale), zeros({2, 20})),
      0);
  Tensor bad = x.clone();
  bad.data<float>()[0] = NAN;
  const NVFP4Tensor n = quantize_nvfp4(bad);
  const Tensor y = dequantize_nvfp4(n.codes, n.scales, n.tensor_scale);
  for (int64_t i = 0; i < 39; ++i)
    EXPECT_EQ(std::isnan(y.data<float>()[i]), i < 16) << "poisons its block";
}

TEST(Microscaling, RefusesBadInput) {
  const Tensor x = random({4, 8}, kFloat32);
  EXPECT_ERROR(quantize_mx(x, {.format = "MXFP5"}), OptionError, "format is \"MXFP5\"");
  EXPECT_ERROR(quantize_mx(x, {.rounding = "up"}), OptionError, "rounding is \"up\"");
  EXPECT_ERROR(quantize_mx(x, {.scale_mode = "x"}), OptionError, "scale_mode is \"x\"");
  EXPECT_ERROR(quantize_mx(x, {.block_size = 0}), OptionError, "block_size is 0");
  EXPECT_ERROR(quantize_mx(x, {.axis = 2}), OptionError, "axis is 2");
  EXPECT_ERROR(quantize_mx(x, {.axis = 0}, true), OptionError, "packed needs the last axis");
  EXPECT_ERROR(quantize_mx(zeros({3}, kInt32)), DTypeError, "got int32");
  const MXTensor q = quantize_mx(x, {.format = "MXFP4_E2M1"});
  EXPECT_ERROR(dequantize_mx(q.codes, zeros({4, 2}, kUInt8), {.format = "MXFP4_E2M1"}), ShapeError,
               "codes are [4, 8] and scales [4, 2], expected scales of [4, 1]");
  Tensor wide = q.codes.clone();
  wide.data<std::uint8_t>()[5] = 16;
  EXPECT_ERROR(dequantize_mx(wide, q.scales, {.format = "MXFP4_E2M1"}), Error,
               "bits above the format's width");
  EXPECT_ERROR(dequantize_mx(q.codes, q.scales, {.format = "MXFP4_E2M1"}, true, 8), ShapeError,
               "expected a last dimension of 4");
  EXPECT_EQ(quantize_mx(zeros({0, 8})).scales.sizes(), (Shape{0, 1}));
  EXPECT_EQ(quantize_mx(zeros({3, 0})).scales.sizes(), (Shape{3, 0}));
  EXPECT_ERROR(MXLinear({.in_features = 3, .out_features = 3, .weight_format = "fp4"}), OptionError,
               "a format is \"fp4\"");
  EXPECT_ERROR(MXLinear({.in_features = 3, .out_features = 3, .block_size = 0}), OptionError,
               "block_size is 0");
  EXPECT_ERROR(MXMatmul()(random({2, 3, 4}), random({3, 4, 5})), ShapeError,
               "the same batch dimensions");
  EXPECT_ERROR(MXMatmul()(random({3, 4}), random({5, 4})), ShapeError, "a is [3, 4] and b [5, 4]");
}

}  // namespace
}  // namespace dropin
