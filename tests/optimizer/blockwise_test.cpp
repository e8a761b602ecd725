// The map of 8-bit codes and quantization by blocks.
#include <cstring>

#include "dropin/optimizer/optimizer8bit.h"
#include "kernels/optim8/map.h"
#include "optimizer/codes8.h"
#include "support.h"

namespace dropin {
namespace {

using kernels::dynamic_map;
using testing::max_difference;
using testing::random;

TEST(DynamicMap, HasTheOfficialValues) {
  const auto &s = dynamic_map(true), &u = dynamic_map(false);
  EXPECT_EQ(s.value[0], -0.99296874f);
  EXPECT_EQ(s.value[127], 0.0f);
  EXPECT_EQ(s.value[254], 0.99296874f);
  EXPECT_EQ(s.value[255], 1.0f);
  EXPECT_FLOAT_EQ(s.value[128], 5.5e-7f);
  EXPECT_EQ(u.value[0], 0.0f);
  EXPECT_FLOAT_EQ(u.value[1], 3.25e-7f);
  EXPECT_FLOAT_EQ(u.value[254], 0.9964844f);
  for (const auto* m : {&s, &u})
    for (int c = 1; c < 256; ++c) EXPECT_LT(m->value[c - 1], m->value[c]) << c;
  for (int c = 1; c < 128; ++c) EXPECT_EQ(s.value[127 + c], -s.value[127 - c]);
}

TEST(QuantizeBlockwise, CodesAreExact) {
  for (const bool is_signed : {true, false}) {
    const auto& map = dynamic_map(is_signed);
    for (const int64_t block : {16, 32, 100, 256, 2048})
      for (const double scale : {1.0, 3e-6, 1e-38, 7e-42, 2e38}) {
        Generator g(static_cast<std::uint64_t>(block));
        const int64_t n = 5 * 2048 + 37;
        Tensor x = randn({n}, kFloat32, &g);
        float* p = x.data<float>();
        for (int64_t i = 0; i < n; ++i) {  // values of every decade, midpoints and their neighbours
          const double decade = std::pow(10.0, -static_cast<double>(i % 9));
          float v = static_cast<float>(std::clamp(p[i] * 0.3 * decade, -1.0, 1.0));
          if (i % 3 == 0) v = map.mid[i / 3 % 255];
          if (i % 12 == 3) v = std::nextafter(v, 2.0f);
          if (i % 12 == 6) v = std::nextafter(v, -2.0f);
          if (i % block == 1) v = 1;
          if (!is_signed) v = std::abs(v);
          p[i] = static_cast<float>(v * scale);
        }
        const Blockwise q = quantize_blockwise(x, is_signed, block);
        const Tensor y = dequantize_blockwise(q.codes, q.absmax, is_signed, block);
        int64_t wrong = 0;
        for (int64_t i = 0; i < n; ++i) {
          float top = 0;
          for (int64_t k = i / block * block; k < std::min(n, (i / block + 1) * block); ++k)
            top = std::max(top, std::abs(p[k]));
          ASSERT_EQ(q.absmax.data<float>()[i / block], top);
          const int want = nearest_by_distance(map, top > 0 ? p[i] / top : 0);
          wrong += q.codes.data<std::uint8_t>()[i] != want;
          EXPECT_EQ(y.data<float>()[i], map.value[want] * top);
        }
        EXPECT_EQ(wrong, 0) << "signed " << is_signed << " block " << block << " scale " << scale;
      }
  }
}

/// Every `step`-th float of [0, 1] and its negatives, times absmax, against a search in the
/// midpoints.
void check_floats(std::uint32_t step, float absmax) {
  constexpr int64_t kBlock = 256, kSize = kBlock * 4096;
  const std::uint32_t one = 0x3f800000u;
  for (const bool is_signed : {true, false}) {
    const auto& map = dynamic_map(is_signed);
    const Tensor x = empty({kSize});
    float* p = x.data<float>();
    int64_t wrong = 0;
    for (std::uint32_t bits = 0; bits <= one;) {
      for (int64_t i = 0; i < kSize; ++i) {
        const std::uint32_t b = std::min(bits, one);
        float v = 1;  // each block's first value is its largest
        if (i % kBlock) std::memcpy(&v, &b, 4), bits += step;
        p[i] = (is_signed && i % 2 ? -v : v) * absmax;
      }
      const auto [codes, scales] = quantize_blockwise(x, is_signed, kBlock);
      const std::uint8_t* c = codes.data<std::uint8_t>();
      for (int64_t i = 0; i < kSize; ++i) wrong += c[i] != map.nearest(p[i] / absmax);
    }
    EXPECT_EQ(wrong, 0) << (is_signed ? "signed" : "unsigned") << ", absmax " << absmax;
  }
}

TEST(QuantizeBlockwise, FloatsHaveTheirNearestCode) {
  check_floats(1009, 1);
  for (const float absmax : {0.7312345f, 3.0e-9f, 1.7e30f, 0.99999994f}) check_floats(5003, absmax);
}

TEST(QuantizeBlockwise, DISABLED_EveryFloatHasItsNearestCode) {
  check_floats(1, 1);
}  // a minute or two; --gtest_also_run_disabled_tests

TEST(QuantizeBlockwise, EdgesAndBadInput) {
  const Blockwise zero = quantize_blockwise(zeros({300}), true, 256);
  EXPECT_EQ(zero.codes.to_vector<int>(), std::vector<int>(300, 127));
  EXPECT_EQ(zero.absmax.to_vector(), (std::vector<double>{0, 0}));
  EXPECT_EQ(quantize_blockwise(zeros({3}), false, 16).codes.to_vector<int>(),
            (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(quantize_blockwise(zeros({0, 4})).codes.sizes(), (Shape{0, 4}));
  const Blockwise n = quantize_blockwise(tensor({1, NAN, INFINITY, -2}));
  EXPECT_EQ(n.absmax.item(), 2) << "values that are not finite do not count";
  EXPECT_EQ(n.codes.to_vector<int>()[1], 127);
  const Tensor x = random({6, 50}, kFloat32);
  EXPECT_EQ(max_difference(quantize_blockwise(x.transpose(0, 1)).codes,
                           quantize_blockwise(x.transpose(0, 1).contiguous()).codes),
            0);
  EXPECT_ERROR(quantize_blockwise(zeros({3}, kInt32)), DTypeError, "x is int32");
  EXPECT_ERROR(quantize_blockwise(zeros({3}), true, 0), OptionError, "block_size is 0");
  EXPECT_ERROR(dequantize_blockwise(zeros({300}, kUInt8), zeros({1})), ShapeError,
               "absmax is [1], expected [2]");
  EXPECT_ERROR(dequantize_blockwise(zeros({3}), zeros({1})), DTypeError, "codes are float32");
}

}  // namespace
}  // namespace dropin
