#include "dropin/sequence/relative_position_attention.h"

#include "dropin/sequence/multihead_attention.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

struct Case {
  const char* method;
  int64_t max_position, length;
  bool values, causal, padded;
};

// The page's definition, pair by pair, in float64.
Tensor by_definition(RelativePositionAttention& m, const Tensor& x, const Tensor& pad) {
  const auto& o = m.options();
  const StateDict s = m.state_dict();
  const int64_t h = o.num_heads, e = o.embed_dim / h, n = o.max_position, b = x.size(0),
                l = x.size(1);
  auto heads = [&](const std::string& p) {
    return split_heads(linear(x, s.find(p + ".weight"), s.find(p + ".bias")), h).contiguous();
  };
  const Tensor q = heads("q_proj"), k = heads("k_proj"), v = heads("v_proj"),
               a = s.find("distance_embedding.weight"), av = s.find("value_embedding.weight");
  Tensor z = zeros({b, h, l, e}, kFloat64);
  auto at = [&](const Tensor& t, int64_t bi, int64_t hi, int64_t i, int64_t c) {
    return t.data<double>()[((bi * h + hi) * l + i) * e + c];
  };
  auto row = [&](int64_t i, int64_t j, bool directed) {
    return directed ? std::clamp(i - j, -(n - 1), n - 1) + n - 1 : std::min(std::abs(i - j), n - 1);
  };
  for (int64_t bi = 0; bi < b; ++bi)
    for (int64_t hi = 0; hi < h; ++hi)
      for (int64_t i = 0; i < l; ++i) {
        std::vector<double> w(static_cast<std::size_t>(l), 0);
        double total = 0;
        for (int64_t j = 0; j < l; ++j) {
          if ((o.causal && j > i) || (pad.defined() && pad[bi][j].item<bool>())) continue;
          const int64_t r = row(i, j, o.method != "m1");
          double score = 0;
          for (int64_t c = 0; c < e; ++c) {
            const double qc = at(q, bi, hi, i, c), kc = at(k, bi, hi, j, c),
                         ac = a.data<double>()[r * a.size(1) + (a.size(1) > 1 ? c : 0)];
            if (o.method == "shaw") score += qc * (kc + ac);
            if (o.method == "m1" || o.method == "m2" || o.method == "m3") score += qc * kc * ac;
            if (o.method == "m4") score += qc * kc + qc * ac + kc * ac;
          }
          w[static_cast<std::size_t>(j)] = std::exp(score / std::sqrt(static_cast<double>(e)));
          total += w[static_cast<std::size_t>(j)];
        }
        for (int64_t j = 0; j < l && total > 0; ++j)
          for (int64_t c = 0; c < e; ++c)
            z.data<double>()[((bi * h + hi) * l + i) * e + c] +=
                w[static_cast<std::size_t>(j)] / total *
                (at(v, bi, hi, j, c) +
                 (av.defined() ? av.data<double>()[row(i, j, true) * e + c] : 0));
      }
  return linear(merge_heads(z), s.find("out_proj.weight"), s.find("out_proj.bias"));
}

TEST(RelativePositionAttention, IsThePairwiseDefinition) {
  no_grad guard;
  for (const Case& c : {Case{"shaw", 4, 9, true, false, true},
                        {"shaw", 20, 9, false, true, false},
                        {"m1", 3, 9, true, false, true},
                        {"m2", 12, 9, false, true, true},
                        {"m3", 5, 9, true, true, false},
                        {"m3", 3, 8, false, false, true},
                        {"m4", 4, 9, true, true, true},
                        {"m4", 30, 7, false, false, false},
                        {"m4", 1, 5, true, false, false},
                        {"m1", 1, 5, false, false, false},
                        {"m4", 4, 1, true, true, false},
                        {"m4", 4, 2, true, false, false}}) {
    SCOPED_TRACE(c.method + std::string(" of ") + std::to_string(c.length));
    RelativePositionAttention m({.embed_dim = 12,
                                 .num_heads = 2,
                                 .method = c.method,
                                 .max_position = c.max_position,
                                 .value_embedding = c.values,
                                 .causal = c.causal});
    m.to(kFloat64);
    std::uint64_t seed = 20;
    for (auto& [name, p] : m.named_parameters()) p.add_(random(p.sizes(), kFloat64, ++seed), 0.3);
    const Tensor x = random({2, c.length, 12});
    Tensor pad;
    if (c.padded) {
      pad = zeros({2, c.length}, kBool);
      pad[0].narrow(0, 0, 2).fill_(1);
      pad[1].fill_(1);  // sees nothing: the bias of out_proj
    }
    EXPECT_LT(max_difference(m(x, {.key_padding_mask = pad}), by_definition(m, x, pad)), 1e-12);
  }
}

TEST(RelativePositionAttention, MultipliersStartAsPlainAttention) {
  MultiheadAttention plain({.embed_dim = 8, .num_heads = 2});
  for (const char* method : {"m1", "m2", "m3"}) {
    RelativePositionAttention m({.embed_dim = 8, .num_heads = 2, .method = method});
    m.load_state_dict(plain.state_dict(), false);
    const Tensor x = random({2, 6, 8}, kFloat32);
    EXPECT_LT(max_difference(m(x), plain(x)), 1e-6) << method;
  }
}

TEST(RelativePositionAttention, LongRowsOfM3ComeInParts) {
  // above the size of one part, values and gradients
  RelativePositionAttention m({.embed_dim = 64, .num_heads = 1, .method = "m3", .max_position = 9});
  m.to(kFloat64);
  {
    no_grad guard;
    auto p = m.named_parameters();
    for (auto& [name, t] : p) t.add_(random(t.sizes(), kFloat64, 4), 0.05);
  }
  const int64_t l = 300;
  const Tensor x = random({1, l, 64}).requires_grad_();
  const Tensor y = m(x);
  EXPECT_LT(max_difference(y.detach(), by_definition(m, x.detach(), {})), 1e-11);
  const Tensor w = random(y.sizes(), kFloat64, 3), u = random(x.sizes(), kFloat64, 8),
               g = grad({sum(y * w)}, {x})[0];
  no_grad guard;
  auto value = [&](double h) { return sum(m(x.detach() + u * h) * w).item(); };
  EXPECT_NEAR(sum(g * u).item(), (value(1e-6) - value(-1e-6)) / 2e-6,
              1e-5 * std::abs(sum(g * u).item()) + 1e-6);
}

TEST(RelativePositionAttention, ManyPartsHaveSecondDerivatives) {
  RelativePositionAttention m({.embed_dim = 4, .num_heads = 1, .max_position = 3, .causal = true});
  m.to(kFloat64);
  const Tensor x = random({1, 640, 4}).requires_grad_(), w = random({1, 640, 4}, kFloat64, 3),
               u = random({1, 640, 4}, kFloat64, 8);
  auto slope = [&](const Tensor& at) { return grad({sum(m(at) * w)}, {at}, {}, false, true)[0]; };
  const Tensor g = grad({sum(slope(x) * u)}, {x})[0];
  auto value = [&](double h) {
    const Tensor at = (x.detach() + w * h).requires_grad_();
    return sum(slope(at).detach() * u).item();
  };
  EXPECT_NEAR(sum(g * w).item(), (value(1e-5) - value(-1e-5)) / 2e-5, 1e-5);
}

TEST(RelativePositionAttention, OtherNamesOfMethods) {
  RelativePositionAttention m(
      {.embed_dim = 8, .num_heads = 2, .method = "relative_key_query", .max_position = 3});
  EXPECT_EQ(m.options().method, "m4");
  EXPECT_EQ(m.state_dict().find("distance_embedding.weight").sizes(), (Shape{5, 4}));
  EXPECT_EQ(RelativePositionAttention({.embed_dim = 8, .num_heads = 2, .method = "relative_key"})
                .options()
                .method,
            "shaw");
}

TEST(RelativePositionAttention, NamesWhatDoesNotFit) {
  EXPECT_ERROR(RelativePositionAttention({.embed_dim = 8, .num_heads = 2, .method = "m5"}),
               OptionError, "method is \"m5\"");
  EXPECT_ERROR(RelativePositionAttention({.embed_dim = 8, .num_heads = 2, .max_position = 0}),
               OptionError, "max_position is 0");
  EXPECT_ERROR(RelativePositionAttention({.embed_dim = 8, .num_heads = 3}), OptionError,
               "not divisible");
  RelativePositionAttention m({.embed_dim = 8, .num_heads = 2, .max_position = 4});
  StateDict wrong = m.state_dict();
  wrong.set("distance_embedding.weight", zeros({5, 4}));
  EXPECT_ERROR(m.load_state_dict(wrong), StateError, "distance_embedding.weight");
}

}  // namespace
}  // namespace dropin
