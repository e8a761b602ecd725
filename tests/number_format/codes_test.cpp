// Small floats code by code, and blocks by the rules of other libraries. Values that no formula
// here gives were printed by torch 2.15, ml_dtypes 0.6.0, torchao 0.18.0, gguf 0.19.0 and mlx
// 0.32.4.
#include "dropin/number_format/codes.h"

#include "dropin/number_format/block_rules.h"
#include "support.h"

namespace dropin {
namespace {

TEST(NumberCodes, EveryCodeIsTheNearestOfItsValue) {
  for (const NumberFormat& f : number_formats())
    for (int code = 0; code < 1 << f.bits; ++code) {
      const float v = decode_number(f, static_cast<std::uint8_t>(code));
      if (std::isnan(v)) continue;
      EXPECT_EQ(encode_number(f, v), code) << f.name;
      EXPECT_EQ(encode_number(f, v, Conversion::MLDtypes), code) << f.name;
    }
}

TEST(NumberCodes, HalfwayGoesToTheEvenCode) {
  for (const NumberFormat& f : number_formats()) {
    if (std::string(f.name) == "F8_E8M0") continue;  // its midpoints go up
    for (int code = 0; code + 1 < 1 << (f.bits - 1); ++code) {
      const double a = decode_number(f, static_cast<std::uint8_t>(code)),
                   b = decode_number(f, static_cast<std::uint8_t>(code + 1));
      if (!std::isfinite(a) || !std::isfinite(b)) continue;
      const auto middle = static_cast<float>((a + b) / 2);
      EXPECT_EQ(encode_number(f, middle), code + code % 2) << f.name << " " << code;
      EXPECT_EQ(encode_number(f, std::nextafter(middle, -INFINITY)), code) << f.name;
      EXPECT_EQ(encode_number(f, std::nextafter(middle, INFINITY)), code + 1) << f.name;
      const int sign = 1 << (f.bits - 1);
      const bool no_minus_zero = f.special == NumberFormat::NegativeZeroNaN && code + code % 2 == 0;
      EXPECT_EQ(encode_number(f, -middle), no_minus_zero ? 0 : sign | (code + code % 2)) << f.name;
    }
  }
}

TEST(NumberCodes, EndsAsTheTable) {
  struct Case {
    const char* format;
    float max, least;
    int too_big_torch, too_big_ml, nan_torch, nan_ml;
  };
  const Case cases[] = {{"F8_E4M3", 448, 0x1p-9f, 0x7e, 0x7f, 0x7f, 0x7f},
                        {"F8_E5M2", 57344, 0x1p-16f, 0x7c, 0x7c, 0x7f, 0x7e},
                        {"F8_E4M3FNUZ", 240, 0x1p-10f, 0x80, 0x80, 0x80, 0x80},
                        {"F8_E5M2FNUZ", 57344, 0x1p-17f, 0x80, 0x80, 0x80, 0x80},
                        {"F6_E2M3", 7.5f, 0.125f, 0x1f, 0x1f, 0x20, 0x20},
                        {"F6_E3M2", 28, 0.0625f, 0x1f, 0x1f, 0x20, 0x20},
                        {"F4", 6, 0.5f, 0x7, 0x7, 0x8, 0x8},
                        {"float8_e4m3", 240, 0x1p-9f, 0x78, 0x78, 0x7c, 0x7c},
                        {"float8_e3m4", 15.5f, 0x1p-6f, 0x70, 0x70, 0x78, 0x78}};
  for (const Case& c : cases) {
    const NumberFormat& f = number_format(c.format);
    EXPECT_EQ(f.largest(), c.max) << c.format;
    EXPECT_EQ(decode_number(f, 1), c.least) << c.format;
    for (const float big : {1e6f, INFINITY}) {
      EXPECT_EQ(encode_number(f, big), c.too_big_torch) << c.format;
      EXPECT_EQ(encode_number(f, big, Conversion::MLDtypes), c.too_big_ml) << c.format;
    }
    EXPECT_EQ(encode_number(f, NAN), c.nan_torch) << c.format;
    EXPECT_EQ(encode_number(f, NAN, Conversion::MLDtypes), c.nan_ml) << c.format;
  }
  EXPECT_EQ(encode_number(number_format("F8_E4M3"), 464, Conversion::MLDtypes), 0x7e) << "a tie";
  EXPECT_EQ(encode_number(number_format("F8_E4M3"), 465, Conversion::MLDtypes), 0x7f);
  const NumberFormat& e8 = number_format("F8_E8M0");
  for (const auto& [v, torch, ml] :
       std::vector<std::tuple<float, int, int>>{{1.0f, 127, 127},
                                                {1.5f, 128, 128},
                                                {3.0f, 129, 129},
                                                {0x1p-127f, 0, 0},
                                                {0x1.8p-127f, 1, 1},
                                                {0.0f, 0, 255},
                                                {-2.0f, 128, 255},
                                                {0x1.8p127f, 255, 255}}) {
    EXPECT_EQ(encode_number(e8, v), torch) << v;
    EXPECT_EQ(encode_number(e8, v, Conversion::MLDtypes), ml) << v;
  }
}

TEST(NumberCodes, TensorsOfCodes) {
  const Tensor x = tensor(std::vector<double>{0.3, -7, 500}).to(kFloat64).reshape({3, 1});
  const Tensor c = encode_numbers(x, "float8_e4m3fn");
  EXPECT_EQ(c.dtype(), kUInt8);
  EXPECT_EQ(decode_numbers(c, "F8_E4M3").to_vector(), (std::vector<double>{0.3125, -7, 448}));
  EXPECT_ERROR(encode_numbers(x, "float9"), OptionError, "expected one of float8_e4m3fn");
  EXPECT_ERROR(encode_numbers(x, "F4", "numpy"), OptionError, "expected torch or ml_dtypes");
  EXPECT_ERROR(encode_numbers(ones({1}, kInt64), "F4"), DTypeError, "floating-point");
  EXPECT_ERROR(decode_numbers(x, "F4"), DTypeError, "expected uint8");
}

/// A block whose first values are these, the others 0.
Tensor block(std::initializer_list<float> v) {
  Tensor t = zeros({1, 32});
  int64_t i = 0;
  for (const float x : v) t.data<float>()[i++] = x;
  return t;
}

TEST(BlockRules, ScalesOfEachLibrary) {
  const auto scale = [](const char* rule, float m) {
    return static_cast<int>(quantize_blocks(block({m, m / 3}), "F4", rule).scales.item());
  };
  struct Case {
    float m;
    int floor, ceil, even, rceil, gguf, mlx;
  };
  for (const Case& c :
       {Case{6, 127, 128, 127, 127, 127, 127}, Case{4, 127, 127, 127, 127, 127, 127},
        Case{3.9f, 126, 127, 127, 127, 126, 127}, Case{3, 126, 127, 126, 126, 126, 126},
        Case{1, 125, 125, 125, 125, 125, 125}, Case{0, 0, 0, 0, 0, 0, 127},
        Case{1e-38f, 0, 0, 0, 0, 254, 255}}) {
    EXPECT_EQ(scale("torchao.floor", c.m), c.floor) << c.m;
    EXPECT_EQ(scale("ocp", c.m), c.floor) << c.m;
    EXPECT_EQ(scale("torchao.ceil", c.m), c.ceil) << c.m;
    EXPECT_EQ(scale("torchao.even", c.m), c.even) << c.m;
    EXPECT_EQ(scale("torchao.rceil", c.m), c.rceil) << c.m;
    EXPECT_EQ(scale("gguf", c.m), c.gguf) << c.m;
    EXPECT_EQ(scale("mlx", c.m), c.mlx) << c.m;
  }
}

TEST(BlockRules, TiesAndEnds) {
  const Tensor ties = block({4, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, -0.75f, -0.0f});
  for (const char* rule :
       {"ocp", "torchao.floor", "torchao.ceil", "torchao.rceil", "gguf", "mlx"}) {
    const bool to_zero = rule[0] == 'g' || rule[0] == 'm';
    const MXTensor q = quantize_blocks(ties, "F4", rule);
    const std::vector<double> codes = q.codes.to_vector();
    const std::vector<double> even{6, 0, 2, 2, 4, 4, 6, 10, 8}, zero{6, 0, 1, 2, 3, 4, 5, 9, 0};
    for (std::size_t i = 0; i < 9; ++i)
      EXPECT_EQ(codes[i], to_zero ? zero[i] : even[i]) << rule << " " << i;
  }
  // A byte of 255: a NaN, but 2^128 by gguf.
  const Tensor codes = full({1, 32}, 1, kUInt8), top = full({1, 1}, 255, kUInt8);
  EXPECT_TRUE(std::isnan(dequantize_blocks(codes, top, "F4").to_vector()[0]));
  EXPECT_EQ(dequantize_blocks(codes, top, "F4", "gguf").to_vector()[0], 0x1p127);
  for (const char* rule : {"torchao.floor", "torchao.rceil"}) {
    const MXTensor q = quantize_blocks(block({1, NAN}), "F8_E4M3", rule);
    EXPECT_EQ(q.scales.item(), 255);
    EXPECT_TRUE(std::isnan(dequantize_blocks(q.codes, q.scales, "F8_E4M3").to_vector()[0]));
  }
  EXPECT_EQ(max(quantize_blocks(block({1, NAN}), "F4", "gguf").codes).item(), 0) << "zeros";
}

TEST(BlockRules, NothingSaturatesByRceil) {
  for (const char* element : {"F8_E4M3", "F8_E5M2", "F6_E2M3", "F6_E3M2", "F4"}) {
    const Tensor x = testing::random({64, 32}, kFloat32, 5);
    const MXTensor q = quantize_blocks(x, element, "torchao.rceil");
    const Tensor y = dequantize_blocks(q.codes, q.scales, element);
    // Half a step of the greatest magnitude's binade.
    const NumberFormat& f = number_format(element);
    const double step = std::ldexp(1.0, -f.mantissa);
    for (int64_t r = 0; r < 64; ++r)
      EXPECT_LE(max(abs(y[r] - x[r])).item(), max(abs(x[r])).item() * step) << element;
  }
}

TEST(BlockRules, Nvfp4OfTorchao) {
  Tensor x = zeros({2, 16});
  x.data<float>()[0] = 3;
  x.data<float>()[1] = -0.26f;
  const MXTensor one = quantize_nvfp4_torchao(x);
  EXPECT_EQ(one.scales.to_vector(), (std::vector<double>{0x30, 8})) << "zeros have 2^-6";
  EXPECT_EQ(dequantize_nvfp4_torchao(one.codes, one.scales).to_vector()[0], 3);
  EXPECT_EQ(dequantize_nvfp4_torchao(one.codes, one.scales).to_vector()[1], -0.25);
  const float p = 3.0f / 2688;
  const MXTensor two = quantize_nvfp4_torchao(x, p);
  EXPECT_EQ(two.scales.to_vector()[0], 0x7e) << "the greatest block has the greatest scale";
  EXPECT_NEAR(dequantize_nvfp4_torchao(two.codes, two.scales, p).to_vector()[0], 3, 1e-6);
  EXPECT_ERROR(quantize_nvfp4_torchao(zeros({2, 15})), ShapeError, "whole blocks of 16");
  EXPECT_ERROR(quantize_nvfp4_torchao(x, -1), OptionError, "per_tensor_scale is -1");
}

TEST(BlockRules, RefuseWhatTheyAreNotFor) {
  const Tensor x = zeros({1, 32});
  EXPECT_ERROR(quantize_blocks(x, "F4", "other"), OptionError,
               "expected one of ocp, torchao.floor");
  EXPECT_ERROR(quantize_blocks(x, "F8_E8M0"), OptionError, "element is \"F8_E8M0\"");
  EXPECT_ERROR(quantize_blocks(x, "F8_E4M3", "gguf"), OptionError, "is of F4, not of F8_E4M3");
  for (const char* rule : {"ocp", "mlx"})
    EXPECT_ERROR(quantize_blocks(zeros({1, 33}), "F4", rule), ShapeError, "whole blocks of 32");
  EXPECT_ERROR(dequantize_blocks(zeros({1, 32}, kUInt8), zeros({2, 1}, kUInt8), "F4"), ShapeError,
               "a scale for each 32 codes");
}

TEST(Nvfp4, ATensorScaleIsNeverZero) {
  // max / 2688 is less than float32 holds: blocks of zeros are zeros, not 0 / 0.
  for (const float tiny : {1e-45f, 1e-43f, 1e-42f, 0.0f}) {
    Tensor x = zeros({1, 32});
    x.data<float>()[0] = tiny;
    const NVFP4Tensor q = quantize_nvfp4(x);
    EXPECT_GT(q.tensor_scale.item(), 0) << tiny;
    EXPECT_EQ(q.scales.to_vector()[1], 0);
    const std::vector<double> y = dequantize_nvfp4(q.codes, q.scales, q.tensor_scale).to_vector();
    for (const double v : y) EXPECT_TRUE(std::isfinite(v)) << tiny;
    for (std::size_t i = 1; i < y.size(); ++i) EXPECT_EQ(y[i], 0);
  }
}

}  // namespace
}  // namespace dropin
