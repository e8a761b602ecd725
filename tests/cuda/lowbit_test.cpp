// Low-bit formats and 8-bit states on both devices.
#include <sys/wait.h>
#include <unistd.h>

#include "cuda/both_devices.h"
#include "dropin/ops/ops.h"
#include "dropin/optimizer/blockwise.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;

TEST_F(Cuda, MxOfEveryMagnitudeRoundingAndAxis) {
  // every exponent that float32 has, zeros, NaN and Inf
  std::vector<double> values;
  for (int e = -149; e < 128; ++e)
    for (double m : {1.0, 1.25, 1.46875, 1.53125, 1.75, 1.96875})
      values.push_back((values.size() % 3 ? 1 : -1) * std::ldexp(m, e));
  while (values.size() % 96) values.push_back(0);
  const auto rows = static_cast<int64_t>(values.size() / 96);
  Tensor x = tensor(values, {rows, 96});
  x.select(0, 3).narrow(0, 5, 1).fill_(NAN);
  x.select(0, 5).narrow(0, 70, 1).fill_(-INFINITY);
  for (const char* f :
       {"MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2", "MXFP6_E2M3", "MXFP4_E2M1", "MXINT8"})
    for (const char* r : {"even", "away", "zero"})
      for (const char* mode : {"floor", "ceil"})
        for (const int64_t axis : {-1, 0})
          for (const int64_t block : {32, 16}) {
            const MXParams p{
                .format = f, .axis = axis, .block_size = block, .rounding = r, .scale_mode = mode};
            const MXTensor a = quantize_mx(x, p), b = quantize_mx(x.to(kCUDA), p);
            EXPECT_EQ(max_difference(a.codes, b.codes.to(kCPU)), 0)
                << f << " " << r << " " << mode << " axis " << axis << " block " << block;
            EXPECT_EQ(max_difference(a.scales, b.scales.to(kCPU)), 0) << f << " " << mode;
            EXPECT_EQ(
                max_difference(fake_quantize_mx(x, p), fake_quantize_mx(x.to(kCUDA), p).to(kCPU)),
                0)
                << f << " " << r << " axis " << axis << " block " << block;
            EXPECT_EQ(max_difference(dequantize_mx(a.codes, a.scales, p),
                                     dequantize_mx(b.codes, b.scales, p).to(kCPU)),
                      0)
                << f;
          }
}

TEST_F(Cuda, LowBitFormats) {
  const Tensor x = noise({33, 130}) * 3.0, c = x.to(kCUDA);
  for (const int64_t width : {130, 160})  // a last block that is short; rows of whole blocks
    for (const char* f :
         {"MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2", "MXFP6_E2M3", "MXFP4_E2M1", "MXINT8"})
      for (const bool packed : {false, true}) {
        const Tensor here = noise({33, width}) * 3.0, there = here.to(kCUDA);
        const MXTensor a = quantize_mx(here, {.format = f}, packed),
                       b = quantize_mx(there, {.format = f}, packed);
        EXPECT_EQ(max_difference(a.codes, b.codes.to(kCPU)), 0) << f << " of " << width;
        EXPECT_EQ(max_difference(a.scales, b.scales.to(kCPU)), 0) << f << " of " << width;
        EXPECT_EQ(
            max_difference(dequantize_mx(a.codes, a.scales, {.format = f}, packed, width),
                           dequantize_mx(b.codes, b.scales, {.format = f}, packed, width).to(kCPU)),
            0)
            << f << " of " << width;
      }
  const Blockwise a = quantize_blockwise(x, true, 64), b = quantize_blockwise(c, true, 64);
  EXPECT_EQ(max_difference(a.codes, b.codes.to(kCPU)), 0);
  EXPECT_EQ(max_difference(dequantize_blockwise(a.codes, a.absmax, true, 64),
                           dequantize_blockwise(b.codes, b.absmax, true, 64).to(kCPU)),
            0);
  for (const bool ternary : {true, false})
    for (const int64_t k : {7, 64, 96, 130}) {
      BitLinearParams p;
      p.ternary = ternary;
      agrees("bit_linear", {noise({5, k}), noise({12, k}, kFloat32, 2), noise({12}, kFloat32, 3)},
             [&](const Tensors& v) { return bit_linear(v[0], v[1], v[2], p); });
    }
}

TEST_F(Cuda, EightBitCodesAreTheCpusAtEveryMidpoint) {
  for (const bool is_signed : {true, false}) {
    const Tensor map = create_dynamic_map(is_signed);
    std::vector<float> v;
    for (int c = 0; c < 255; ++c) {
      const float mid =
          static_cast<float>((map.data<float>()[c] + map.data<float>()[c + 1]) * 0.5f);
      for (const float x :
           {mid, std::nextafter(mid, 2.0f), std::nextafter(mid, -2.0f), map.data<float>()[c]})
        v.push_back(x);
    }
    for (int k = 0; k < 3000; ++k)
      v.push_back((is_signed && k % 2 ? -1.0f : 1.0f) *
                  std::pow(10.0f, -static_cast<float>(k) / 400));
    for (const int64_t block : {16, 256, 1000}) {
      std::vector<float> all;  // every block's largest is 1: codes of the values themselves
      for (std::size_t k = 0; k < v.size(); ++k) {
        if (all.size() % static_cast<std::size_t>(block) == 0) all.push_back(1);
        all.push_back(v[k]);
      }
      const Tensor x = tensor(std::vector<double>(all.begin(), all.end()));
      const Blockwise a = quantize_blockwise(x, is_signed, block),
                      b = quantize_blockwise(x.to(kCUDA), is_signed, block);
      EXPECT_EQ(max_difference(a.codes, b.codes.to(kCPU)), 0)
          << "signed " << is_signed << " block " << block;
      EXPECT_EQ(max_difference(a.absmax, b.absmax.to(kCPU)), 0);
      EXPECT_EQ(max_difference(dequantize_blockwise(a.codes, a.absmax, is_signed, block),
                               dequantize_blockwise(b.codes, b.absmax, is_signed, block).to(kCPU)),
                0);
    }
  }
}

TEST_F(Cuda, EightBitStatesKeepTheirSigns) {
  std::vector<Tensor> codes;
  for (const Device& d : {kCPU, kCUDA}) {
    Tensor p = zeros({256}).to(d).clone().requires_grad_(), g = full({256}, -1e-9);
    g.data<float>()[0] = 1;
    Box<Optimizer> opt = make_optimizer("Adam8bit", {p}, Json::parse(R"({"min_8bit_size": 0})"));
    p.set_grad(g.to(d));
    opt->step();
    codes.push_back(opt->state_dict().find("state.0.state1").to(kCPU));
    EXPECT_EQ(codes.back().data<std::uint8_t>()[0], 255);
    EXPECT_EQ(codes.back().data<std::uint8_t>()[1], 126)
        << "negative, and smaller than every code but 0";
  }
  EXPECT_EQ(max_difference(codes[0], codes[1]), 0);
}

}  // namespace
}  // namespace dropin
