// MX formats: vector code against the definition bit for bit, rounding, packing.
#include "kernels/mx/scalar.h"
#include "support.h"

namespace dropin {
namespace {

using kernels::MxArgs;
using kernels::MxFormat;
using kernels::MxRounding;
using testing::max_difference;
using testing::random;

const char* const kFormats[] = {"MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2",
                                "MXFP6_E2M3", "MXFP4_E2M1", "MXINT8"};

// Values of all kinds: blocks of ordinary, tiny, huge, subnormal numbers, exact ties, zeros, NaN
// and Inf.
Tensor mixed(const Shape& sizes, std::uint64_t seed) {
  Tensor x = random(sizes, kFloat32, seed).clone();
  Generator g(seed + 1);
  const Tensor kind = randint(0, 100, {x.numel()}, kInt64, &g);
  float* p = x.data<float>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    const int64_t region = i / 97 % 8, k = kind.data<int64_t>()[i];
    if (region == 1) p[i] *= 1e-38f;
    if (region == 2) p[i] *= 1e-42f;
    if (region == 3) p[i] *= 1e38f;
    if (region == 4) p[i] = std::round(p[i] * 8) / 16;  // ties
    if (region == 5) p[i] = std::ldexp(std::round(p[i] * 4), static_cast<int>(k % 40) - 20);
    if (region == 6 && k < 97) p[i] = k % 2 ? 0.0f : -0.0f;
    if (region == 7) p[i] *= std::ldexp(1.0f, static_cast<int>(k % 30) - 15);
    if (k == 99) p[i] = std::numeric_limits<float>::max();
    if (i % 1511 == 7) p[i] = NAN;
    if (i % 1511 == 700) p[i] = -INFINITY;
  }
  return x;
}

std::uint32_t bits_of(float v) {
  std::uint32_t b;
  std::memcpy(&b, &v, 4);
  return b;
}

TEST(Microscaling, EqualsTheDefinitionBitForBit) {
  const char* const roundings[] = {"even", "away", "zero"};
  for (int f = 0; f < 6; ++f)
    for (int r = 0; r < 3; ++r)
      for (const bool ceil : {false, true})
        for (const int64_t block : {1, 3, 16, 32, 100})
          for (const int axis : {0, 1, 2}) {
            const Tensor x = mixed({13, 37, 41}, static_cast<std::uint64_t>(f * 10 + r));
            const MXParams p{kFormats[f], axis, block, roundings[r], ceil ? "ceil" : "floor"};
            const MXTensor q = quantize_mx(x, p);
            const Tensor fake = fake_quantize_mx(x, p), y = dequantize_mx(q.codes, q.scales, p);
            MxArgs a{static_cast<MxFormat>(f), static_cast<MxRounding>(r), ceil};
            const Shape s = x.sizes();
            int64_t outer = 1, inner = 1;
            const int64_t n = s[axis], blocks = (n + block - 1) / block;
            for (int i = 0; i < axis; ++i) outer *= s[i];
            for (int i = axis + 1; i < 3; ++i) inner *= s[i];
            std::vector<std::uint8_t> codes(static_cast<std::size_t>(x.numel())),
                scales(static_cast<std::size_t>(q.scales.numel()));
            std::vector<float> values(codes.size());
            for (int64_t o = 0; o < outer; ++o)
              for (int64_t b = 0; b < blocks; ++b)
                for (int64_t c = 0; c < inner; ++c) {
                  const int64_t at = (o * n + b * block) * inner + c;
                  kernels::mx_block<float>(a, x.data<float>() + at, nullptr,
                                           std::min(block, n - b * block), inner, codes.data() + at,
                                           scales.data() + (o * blocks + b) * inner + c,
                                           values.data() + at);
                }
            ASSERT_EQ(std::memcmp(q.scales.data<std::uint8_t>(), scales.data(), scales.size()), 0)
                << p.format << " " << p.rounding << " block " << block << " axis " << axis;
            ASSERT_EQ(std::memcmp(q.codes.data<std::uint8_t>(), codes.data(), codes.size()), 0)
                << p.format << " " << p.rounding << " block " << block << " axis " << axis;
            for (std::size_t i = 0; i < values.size(); ++i) {
              if (std::isnan(values[i])) {
                ASSERT_TRUE(std::isnan(fake.data<float>()[i]) && std::isnan(y.data<float>()[i]));
                continue;
              }
              ASSERT_EQ(bits_of(fake.data<float>()[i]), bits_of(values[i]))
                  << p.format << " of " << x.data<float>()[i];
              ASSERT_EQ(bits_of(y.data<float>()[i]), bits_of(values[i]))
                  << p.format << " of " << x.data<float>()[i];
            }
          }
}

TEST(Microscaling, TheDefinitionRoundsToTheNearestValue) {
  for (int f = 0; f < 6; ++f) {
    const MxFormat format = static_cast<MxFormat>(f);
    const auto& t = kernels::mx_traits(format);
    std::vector<double> all;
    for (int c = 0; c < 1 << (t.width - 1); ++c) {
      const double v = kernels::mx_decode(static_cast<std::uint8_t>(c), format);
      if (std::isfinite(v) && v <= t.largest) all.push_back(v);
    }
    std::sort(all.begin(), all.end());
    EXPECT_EQ(all.back(), t.largest);
    EXPECT_EQ(static_cast<int>(all.size()), t.max_code + 1) << "codes ascend with their values";
    for (int i = 0; i < 20000; ++i) {
      const double v = t.largest * 1.2 * std::pow(i / 20000.0, 3);
      const double got = kernels::mx_decode(kernels::mx_encode(v, format), format),
                   down =
                       kernels::mx_decode(kernels::mx_encode(-v, format, MxRounding::Zero), format);
      double best = 1e9;
      for (double a : all) best = std::min(best, std::abs(a - v));
      EXPECT_DOUBLE_EQ(std::abs(got - v), best) << kFormats[f] << " " << v;
      EXPECT_LE(-down, v);
    }
    for (std::size_t i = 1; i < all.size(); ++i) {  // ties: the even code, or away
      const double tie = (all[i - 1] + all[i]) / 2;
      EXPECT_EQ(kernels::mx_encode(tie, format) % 2, 0) << kFormats[f] << " " << tie;
      EXPECT_EQ(kernels::mx_encode(tie, format, MxRounding::Away), i) << kFormats[f];
    }
  }
}

TEST(Microscaling, PackedRowsAreBitStreamsOfTrueSize) {
  for (const char* format : kFormats)
    for (const int64_t n : {1, 2, 7, 8, 31, 32, 33, 50, 256})
      for (const int64_t block : {5, 32}) {
        const Tensor x = random({4, n}, kFloat32, static_cast<std::uint64_t>(n));
        const MXParams p{.format = format, .block_size = block};
        const MXTensor a = quantize_mx(x, p), b = quantize_mx(x, p, true);
        const int w = mx_bits(format);
        const int64_t bytes = (n * w + 7) / 8;
        ASSERT_EQ(b.codes.sizes(), (Shape{4, bytes}));
        const auto codes = a.codes.to_vector<int>(), packed = b.codes.to_vector<int>();
        for (int64_t r = 0; r < 4; ++r)
          for (int64_t i = 0; i < bytes * 8; ++i) {
            const int want =
                i / w < n ? codes[static_cast<std::size_t>(r * n + i / w)] >> (i % w) & 1 : 0;
            ASSERT_EQ(packed[static_cast<std::size_t>(r * bytes + i / 8)] >> (i % 8) & 1, want)
                << format << " " << n << " " << block;
          }
        EXPECT_EQ(max_difference(dequantize_mx(b.codes, b.scales, p, true, n),
                                 dequantize_mx(a.codes, a.scales, p)),
                  0);
      }
}

TEST(Microscaling, StochasticRoundingIsUnbiased) {
  manual_seed(3);
  const Tensor x = full({4000, 32}, 1.3), up = full({1, 32}, 1.9);
  const Tensor y =
      fake_quantize_mx(concat({x, up}), {.format = "MXFP4_E2M1", .rounding = "stochastic"});
  EXPECT_NEAR(mean(y.narrow(0, 0, 4000)).item(), 1.3, 5e-3);
  for (double v : y.narrow(0, 0, 10).to_vector())
    EXPECT_TRUE(v == 1.25 || v == 1.5 || v == 1.0) << v;
}

}  // namespace
}  // namespace dropin
