// Sobol points: even spread, scramblings, blocks, torch's state; normals from them.
#include <algorithm>

#include "dropin/metric/sobol.h"
#include "support.h"

namespace dropin::testing {
namespace {

Tensor points(SobolOptions o, int64_t count) { return SobolSequence(o).draw(count); }

TEST(SobolSequence, BeginsAsPublished) {
  expect_values(sobol_sequence({.dim = 3, .count = 4, .scramble = "none"}),
                {0, 0, 0, 0.5, 0.5, 0.5, 0.75, 0.25, 0.25, 0.25, 0.75, 0.75});
}

TEST(SobolSequence, FillsEveryCellOnceUnderEveryScrambling) {
  for (const char* scramble : {"none", "shift", "lms", "owen"})
    for (const int64_t bits : {8, 30, 32}) {
      const Tensor x = points({.dim = 7, .bits = bits, .scramble = scramble, .seed = 5}, 64);
      EXPECT_GE(amin(x).item(), 0);
      EXPECT_LT(amax(x).item(), 1);
      for (int64_t d = 0; d < 7; ++d) {
        auto cells = floor(x.select(1, d) * 64.0).to_vector();
        std::sort(cells.begin(), cells.end());
        for (std::size_t i = 0; i < cells.size(); ++i)
          EXPECT_EQ(cells[i], static_cast<double>(i)) << scramble << " " << d;
      }
    }
}

TEST(SobolSequence, SeedsMatterWhereTheyShould) {
  for (const char* scramble : {"none", "shift", "lms", "owen"}) {
    const bool same = max_difference(points({.dim = 4, .scramble = scramble, .seed = 1}, 9),
                                     points({.dim = 4, .scramble = scramble, .seed = 2}, 9)) == 0;
    EXPECT_EQ(same, std::string(scramble) == "none") << scramble;
  }
}

TEST(SobolSequence, IsTheFunctionAtAnyPlace) {
  SobolSequence s({.dim = 5, .scramble = "owen", .seed = 3});
  s.draw(13);
  EXPECT_EQ(max_difference(
                s.draw(8),
                sobol_sequence({.dim = 5, .count = 8, .start = 13, .scramble = "owen", .seed = 3})),
            0);
}

TEST(SobolSequence, ReordersWithinBlocksOnly) {
  const Tensor plain = points({.dim = 2}, 16), mixed = points({.dim = 2, .reorder_block = 8}, 16);
  EXPECT_GT(max_difference(plain, mixed), 0);
  for (const int64_t block : {0, 8}) {
    auto a = plain.narrow(0, block, 8).select(1, 0).to_vector(),
         b = mixed.narrow(0, block, 8).select(1, 0).to_vector();
    std::sort(a.begin(), a.end());
    std::sort(b.begin(), b.end());
    EXPECT_EQ(a, b);
  }
}

TEST(SobolSequence, EndsAtTwoToTheBits) {
  SobolSequence s({.dim = 2, .bits = 3});
  s.draw(6);
  EXPECT_ERROR(s.draw(3), StateError, "at most 2^bits = 8");
  EXPECT_EQ(s.draw(2).size(0), 2);
  EXPECT_ERROR(SobolSequence({.dim = 1112}), OptionError, "dim is 1112");
  EXPECT_ERROR(SobolSequence({}), OptionError, "dim is 0");
  EXPECT_ERROR(SobolSequence({.dim = 2, .bits = 33}), OptionError, "bits is 33");
  EXPECT_ERROR(SobolSequence({.dim = 2, .scramble = "x"}), OptionError, "scramble is \"x\"");
  EXPECT_ERROR(SobolSequence({.dim = 2, .reorder_block = 6}), OptionError, "reorder_block is 6");
  EXPECT_EQ(points({.dim = 1111}, 2).size(1), 1111);
}

TEST(SobolNormal, InvertsTheDistributionFunction) {
  SobolNormal z({.dim = 3, .endpoint = "midpoint"});
  SobolSequence u({.dim = 3});
  const auto a = z.draw(500).to_vector(), b = u.draw(500).to_vector();
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_NEAR(std::erfc(-a[i] / std::sqrt(2)) / 2, b[i], 3e-7);
}

TEST(SobolNormal, EndsOfTheUnitIntervalStayFinite) {
  SobolNormal shrink({.dim = 2, .scramble = "none"}),
      midpoint({.dim = 2, .scramble = "none", .endpoint = "midpoint"}),
      polar({.dim = 3, .scramble = "none", .transform = "box_muller"});
  EXPECT_NEAR(shrink.draw(1).to_vector()[0], -5.2947, 1e-4);
  EXPECT_NEAR(midpoint.draw(1).to_vector()[0], -6.12, 0.01);
  const auto z = polar.draw(2).to_vector();  // (0, 0) and (1/2, 1/2)
  EXPECT_NEAR(z[0], std::sqrt(2 * 31 * std::log(2.0)), 1e-5);
  EXPECT_NEAR(z[1], 0, 1e-6);
  EXPECT_NEAR(z[3], -std::sqrt(2 * std::log(2.0)), 1e-6);
  EXPECT_ERROR(SobolNormal({.dim = 2, .transform = "x"}), OptionError, "transform is \"x\"");
  EXPECT_ERROR(SobolNormal({.dim = 2, .endpoint = "x"}), OptionError, "endpoint is \"x\"");
}

TEST(SobolNormal, AveragesBetterThanIndependentNoise) {
  auto error = [](NoiseSampler& s) {
    const Tensor z = s.draw(1024);
    return amax(abs(mean(z, {0}))).item() + amax(abs(var(z, {0}) - 1.0)).item();
  };
  double sobol = 0, independent = 0;
  for (int64_t seed = 0; seed < 5; ++seed)
    for (const char* transform : {"inverse", "box_muller"}) {
      SobolNormal a({.dim = 6, .seed = seed, .transform = transform});
      NormalSampler b({.dim = 6});
      sobol += error(a);
      independent += error(b);
    }
  EXPECT_LT(sobol * 3, independent);
}

}  // namespace
}  // namespace dropin::testing
