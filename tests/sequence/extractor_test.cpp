#include "dropin/sequence/extractor.h"

#include <cmath>

#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

// Two loops over tokens.
Tensor by_definition(const Extractor& m, const Tensor& x, const Tensor& pad = {}) {
  const ExtractorOptions& o = m.options();
  const StateDict s = m.state_dict();
  auto masked = [&](const Tensor& t) {
    return pad.defined() ? masked_fill(t, pad.unsqueeze(2), 0) : t;
  };
  const Tensor from =
      masked(o.variant == "he" ? linear(x, s.find("in_proj.weight"), s.find("in_proj.bias")) : x);
  const Tensor w = s.find("ext_weight");
  Tensor y = zeros_like(x);
  for (int64_t t = 0; t < x.size(1); ++t) {
    Tensor ext = zeros_like(x.select(1, t));
    for (int64_t i = 0; i <= t; ++i) {
      const int64_t tau = o.positions == "relative" ? t - i : i;
      if (tau >= o.max_len) continue;
      const Tensor one = from.select(1, i);
      ext = ext + (o.variant == "she" ? linear(one, w[tau]) : one * w[tau]);
    }
    if (o.scale == "rsqrt") ext = ext / std::sqrt(static_cast<double>(t + 1));
    if (o.bias) ext = ext + s.find("ext_bias");
    const Tensor now = x.select(1, t);
    Tensor gate = o.variant == "me"
                      ? now * s.find("adj_weight")
                      : linear(now, s.find("adj_proj.weight"), s.find("adj_proj.bias"));
    if (o.variant == "me" && o.bias) gate = gate + s.find("adj_bias");
    y.select(1, t).copy_(ext * gate);
  }
  return y;
}

TEST(Extractor, EqualsTheDoubleLoopDirectlyAndByTransforms) {
  no_grad guard;
  for (const char* variant : {"she", "he", "we", "me"})
    for (const char* positions : {"relative", "absolute"})
      for (const auto& [length, lags] :
           {std::pair<int64_t, int64_t>{1, 5}, {9, 9}, {9, 4}, {160, 150}, {150, 200}}) {
        manual_seed(4);
        Extractor m({.embed_dim = 4,
                     .max_len = lags,
                     .variant = variant,
                     .positions = positions,
                     .scale = length == 9 ? "rsqrt" : "none"});
        m.to(kFloat64);
        for (auto& [name, p] : m.named_parameters()) p.add_(random(p.sizes(), kFloat64, 5), 0.1);
        const Tensor x = random({length < 100 ? 2 : 12, length, 4});  // 12: by transforms
        EXPECT_LT(max_difference(m(x), by_definition(m, x)), 1e-10)
            << variant << " " << positions << " " << length << " " << lags;
      }
}

TEST(Extractor, TransformsAgreeInSinglePrecision) {
  no_grad guard;
  for (const char* variant : {"she", "we"}) {
    Extractor m({.embed_dim = 16, .max_len = 400, .variant = variant});
    const Tensor x = random({4, 400, 16}, kFloat32);
    const Tensor want = by_definition(m, x);
    EXPECT_LT(max_difference(m(x), want), 1e-4 * amax(abs(want)).item()) << variant;
  }
}

TEST(Extractor, GradientsOfTransformsEqualThoseOfDirectSums) {
  for (const char* variant : {"she", "we"}) {
    manual_seed(6);
    Extractor m({.embed_dim = 3, .max_len = 140, .variant = variant});
    m.to(kFloat64);
    Tensor x = random({12, 140, 3}).requires_grad_();
    Tensors leaves{x};
    for (auto& [name, p] : m.named_parameters()) leaves.push_back(p);
    auto gradients = [&](int64_t length) {
      const Tensor y = m(x.narrow(1, 0, length));
      return grad({sum(square(y.narrow(1, 0, 100)))}, leaves);
    };
    const Tensors direct = gradients(100), transformed = gradients(140);
    for (std::size_t i = 0; i < leaves.size(); ++i)
      EXPECT_LT(max_difference(direct[i], transformed[i]), 1e-9) << variant << " " << i;
  }
}

TEST(Extractor, WhatIsNotFiniteReachesLaterTokensOnly) {
  no_grad guard;
  for (const char* variant : {"she", "he", "we", "me"}) {
    Extractor m({.embed_dim = 4, .max_len = 150, .variant = variant});
    Tensor x = random({12, 200, 4}, kFloat32);
    const Tensor want = m(x);
    x[0][20].fill_(std::nan(""));
    const Tensor y = m(x);
    EXPECT_LT(max_difference(y.narrow(1, 0, 20), want.narrow(1, 0, 20)), 1e-4) << variant;
    EXPECT_LT(max_difference(y.narrow(1, 170, 30), want.narrow(1, 170, 30)), 1e-4)
        << variant << " beyond the table";
    EXPECT_TRUE(any(isnan(y[0][40])).item<bool>()) << variant;
  }
}

TEST(Extractor, PaddingContributesNothingButIsCounted) {
  no_grad guard;
  for (const char* positions : {"relative", "absolute"}) {
    manual_seed(5);
    Extractor m(
        {.embed_dim = 4, .max_len = 6, .variant = "he", .positions = positions, .scale = "rsqrt"});
    m.to(kFloat64);
    const Tensor x = random({2, 9, 4});
    Tensor pad = zeros({2, 9}, kBool);
    pad[0].narrow(0, 0, 3).fill_(1);
    pad[1].narrow(0, 4, 2).fill_(1);
    EXPECT_LT(max_difference(m(x, {.key_padding_mask = pad}), by_definition(m, x, pad)), 1e-12);
  }
}

TEST(Extractor, HasAsManyParametersAsItsPageSays) {
  const int64_t d = 6, n = 10;
  auto count = [&](const char* variant) {
    return Extractor({.embed_dim = d, .max_len = n, .variant = variant}).num_parameters();
  };
  EXPECT_EQ(count("she"), (n + 1) * d * d + 2 * d);
  EXPECT_EQ(count("he"), 2 * d * d + n * d + 3 * d);
  EXPECT_EQ(count("we"), d * d + n * d + 2 * d);
  EXPECT_EQ(count("me"), n * d + 3 * d);
}

TEST(Extractor, NamesOfThePaperAreItsVariants) {
  const Json o = Json::parse(R"({"embed_dim": 4, "max_len": 3})");
  for (const auto& [name, variant] : {std::pair{"SuperHighPerformanceExtractor", "she"},
                                      {"HigherPerformanceExtractor", "he"},
                                      {"WorthwhileExtractor", "we"},
                                      {"MinimalistExtractor", "me"}}) {
    const Box<Module> m = make(name, o);
    EXPECT_EQ(m->options_json().find("variant")->as_string(), variant);
  }
}

TEST(Extractor, RefusesWhatDoesNotFitInWords) {
  EXPECT_ERROR(Extractor({.embed_dim = 0, .max_len = 3}), OptionError, "embed_dim 0");
  EXPECT_ERROR(Extractor({.embed_dim = 4, .max_len = 0}), OptionError, "max_len 0");
  EXPECT_ERROR(Extractor({.embed_dim = 4, .max_len = 3, .variant = "xe"}), OptionError,
               "variant is \"xe\", expected she, he, we or me");
  EXPECT_ERROR(Extractor({.embed_dim = 4, .max_len = 3, .positions = "here"}), OptionError,
               "expected relative or absolute");
  EXPECT_ERROR(Extractor({.embed_dim = 4, .max_len = 3, .scale = "t"}), OptionError,
               "expected none or rsqrt");
}

}  // namespace
}  // namespace dropin
