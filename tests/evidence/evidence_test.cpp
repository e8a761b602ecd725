// What benchmarks and claims rest on: verdicts, cases made from the registry, pictures.
#include <algorithm>
#include <thread>

#include "evidence/cases.h"
#include "evidence/claims.h"
#include "evidence/limits.h"
#include "evidence/pictures.h"
#include "evidence/svg.h"
#include "support.h"

namespace dropin::evidence {
namespace {

TEST(Timing, AContestFindsTheFasterAndItsPeak) {
  auto wait = [](int us) {
    return [us] { std::this_thread::sleep_for(std::chrono::microseconds(us)); };
  };
  const Contest c = contest(wait(500), wait(5000), {.rounds = 5, .min_time = 0});
  EXPECT_GT(c.ratio.middle, 2);
  EXPECT_LE(c.ratio.low, c.ratio.middle);
  const Timing t = time_call([] { zeros({1 << 20}); }, {.rounds = 3, .min_time = 0});
  EXPECT_NEAR(t.peak_bytes, 4 << 20, 4096);
}

TEST(Timing, ANoisyMachineGivesNoVerdict) {
  Contest c;
  c.ratio = {1.5, 0.8, 3};
  c.noise = 2 * kNoiseLimit;
  EXPECT_NE(verdict(c).find("too noisy"), std::string::npos);
  c.noise = 0.5 * kNoiseLimit;
  EXPECT_EQ(verdict(c), "1.5x (0.8 to 3)");
}

TEST(Findings, FailWhenEveryRoundDoesAndAreUndecidedWhenSomeDo) {
  Contest c;
  c.ratio = {6, 5.5, 7};
  Findings all;
  all.below("t", c, 5);
  EXPECT_EQ(all.verdict(), Check::Fails);
  c.ratio.low = 4;
  Findings some;
  some.below("t", c, 5);
  EXPECT_EQ(some.verdict(), Check::Undecided);
  some.holds("x", false);
  EXPECT_EQ(some.verdict(), Check::Fails);
  Findings none;
  none.below("t", c, 6.5);
  none.near("n", 1.02, 1, 0.05);
  EXPECT_EQ(none.verdict(), Check::Holds);
  none.near("n", NAN, 1, 0.05);
  EXPECT_EQ(none.verdict(), Check::Fails);
}

TEST(Cases, EveryComponentHasABenchFromItsLine) {
  int without = 0;
  for (const ComponentInfo& c : registry().all()) {
    try {
      const Case k = make_case(c, 0, standard_of(c), Json::object(), kCPU);
      k.forward();
      if (k.both) k.both();
      EXPECT_GE(k.bytes, 0) << c.name;
    } catch (const Error& e) {
      ++without;
      EXPECT_EQ(c.kind, ComponentKind::Function) << c.name << ": " << e.what();
    }
  }
  EXPECT_LE(without, 3) << "functions registered without an example of their inputs";
}

TEST(Cases, ADropInIsSizedAsItsStandardMember) {
  for (const char* name :
       {"LongformerAttention", "HyenaOperator", "GRU", "BitLinear", "MixConv2d", "FewBitGELU"}) {
    const ComponentInfo &c = registry().find(name), *standard = standard_of(c);
    ASSERT_NE(standard, nullptr) << name;
    EXPECT_TRUE(make_case(c, 0, standard, Json::object(), kCPU).x ==
                make_case(*standard, 0, nullptr, Json::object(), kCPU).x)
        << name;
  }
}

// Peers, without a page of their own.
constexpr const char* kPeers[] = {"GatedMLP", "SeparableConv2d", "RMSNorm", "soft_nms",
                                  "matrix_nms"};
// Correct by their golden cases, and not yet measured against their papers; a name leaves this list
// with its claim.
constexpr const char* kAwaitingTheirClaim[] = {"AdaptiveTransformCoder",
                                               "AttentiveLocalFeatures",
                                               "BSQBottleneck",
                                               "ComplexAdam",
                                               "DDPMSampler",
                                               "dependency_aware_bundle",
                                               "dlig",
                                               "dmig",
                                               "DPMSolverSampler",
                                               "EditInvariantSequenceLoss",
                                               "Extractor",
                                               "fid_infinity",
                                               "GaLoreAdamW",
                                               "GeodesicDistillationLoss",
                                               "HigherPerformanceExtractor",
                                               "HydraHeads",
                                               "ImageTextFilter",
                                               "is_infinity",
                                               "LokiPredictor",
                                               "Mamba2Mixer",
                                               "mbr_decode",
                                               "MatrixMixer",
                                               "MinimalistExtractor",
                                               "modularity",
                                               "NaturalGaLore",
                                               "NeuralSDE",
                                               "RegionTextContrastiveLoss",
                                               "sap",
                                               "SegmentalUnitQuantizer",
                                               "SMPConv1d",
                                               "SMPConv2d",
                                               "SobolNormal",
                                               "SpeculativeDecoder",
                                               "SuperHighPerformanceExtractor",
                                               "TStitchSampler",
                                               "TunableConv2d",
                                               "TunableLinear",
                                               "VectorSearchIndex",
                                               "WorthwhileExtractor",
                                               "xmig"};

TEST(Claims, NameComponentsThatExistAndAreComplete) {
  for (const Claim& c : all_claims()) {
    ASSERT_FALSE(c.components.empty());
    for (const std::string& n : c.components) EXPECT_TRUE(registry().contains(n)) << n;
    EXPECT_FALSE(c.claim.empty() || c.figure.empty()) << c.components[0];
    EXPECT_TRUE(c.show) << c.components[0];
  }
  auto claimed = [](const std::string& name) {
    for (const Claim& k : all_claims())
      if (std::find(k.components.begin(), k.components.end(), name) != k.components.end())
        return true;
    return false;
  };
  auto listed = [](const auto& list, const std::string& name) {
    return std::find(std::begin(list), std::end(list), name) != std::end(list);
  };
  // what replaces a standard member by a paper's idea is there for its claim
  for (const ComponentInfo& c : registry().all()) {
    if (c.replaces.empty() || c.paper.empty() || listed(kPeers, c.name)) continue;
    EXPECT_NE(claimed(c.name), listed(kAwaitingTheirClaim, c.name)) << c.name;
  }
}

TEST(Pictures, HaveAxesWithUnitsAndNothingThatIsNotANumber) {
  const std::string s =
      svg_lines({{"t",
                  {"length L"},
                  {"time, ms"},
                  {{"a & b", {{64, 1}, {128, 2}}}, {"limit", {{64, 0.5}, {128, 1}}, true}}},
                 {"empty", {"x"}, {"y"}, {}}});
  for (const char* wanted : {"<svg", "length L", "time, ms", "a &amp; b", "prefers-color-scheme",
                             "stroke-dasharray", "</svg>"})
    EXPECT_NE(s.find(wanted), std::string::npos) << wanted;
  for (const char* bad : {"nan", "inf"}) EXPECT_EQ(s.find(bad), std::string::npos) << bad;
  const std::string b = svg_ratios("t", "x", {{"fast", 2, 1.5, 2.5}, {"slow", 0.5, 0.4, 0.6}});
  EXPECT_EQ(b.find("nan"), std::string::npos);
  EXPECT_NE(b.find("0.5x"), std::string::npos);
}

TEST(Limits, AreOfThisMachine) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "times under ThreadSanitizer say nothing";
#endif
  const Limits l = measure_limits();
  EXPECT_GT(l.flops, 1e8);
  EXPECT_GT(l.bandwidth(1 << 12), 1e8);
  EXPECT_GT(l.bandwidth(1e12), 1e7);
  EXPECT_GT(l.least(1e9, 0), 0);
}

}  // namespace
}  // namespace dropin::evidence
