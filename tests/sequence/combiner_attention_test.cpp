#include "dropin/sequence/combiner_attention.h"

#include "dropin/sequence/multihead_attention.h"
#include "sequence/combiner.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;
using Set = std::vector<int64_t>;
using Row = std::vector<double>;

bool axial(const std::string& v) { return v.rfind("axial_", 0) == 0 && v != "axial_rowmajor"; }

// What query i sees, by the page's table; padding comes later.
struct Seen {
  Set direct;
  std::vector<Set> regions;
};
Seen seen_by(const CombinerAttentionOptions& o, int64_t i, int64_t length, int64_t s) {
  Seen r;
  const int64_t u = i / s, c = i % s, rows = (length + s - 1) / s;
  if (o.variant == "logsparse") {
    r.direct = {i};
    for (int64_t l = 0; (i >> l) > 0; ++l)
      if ((i >> l) & 1) {
        Set block;
        for (int64_t j = ((i >> l) - 1) << l; j < (i >> l) << l; ++j) block.push_back(j);
        r.regions.push_back(block);
      }
    return r;
  }
  auto row_of = [&](int64_t from, auto keep) {
    Set row;
    for (int64_t j = from * s; j < std::min(length, (from + 1) * s); ++j)
      if (keep(j)) row.push_back(j);
    return row;
  };
  r.direct = row_of(u, [&](int64_t j) { return !o.causal || j <= i; });
  if (o.variant == "fixed")
    for (int64_t w = 0; w < rows; ++w)
      if (o.causal ? w < u : w != u || !o.exclude_self_span)
        r.regions.push_back(row_of(w, [](int64_t) { return true; }));
  if (!axial(o.variant)) return r;
  for (int64_t w = 0; w < rows; ++w)
    if (w != u && (!o.causal || w < u) && w * s + c < length) r.direct.push_back(w * s + c);
  auto column = [&](int64_t at, int64_t from, int64_t to) {
    Set k;
    for (int64_t w = from; w < to; ++w)
      if (w * s + at < length) k.push_back(w * s + at);
    return k;
  };
  if (o.variant != "axial_horizontal")
    for (int64_t k = 0; k < s; ++k)
      if (k != c) {
        r.regions.push_back(column(k, 0, u));
        if (!o.causal) r.regions.push_back(column(k, u + 1, rows));
      }
  if (o.variant != "axial_vertical")
    for (int64_t w = 0; w < rows; ++w)
      if (o.causal ? w < u : w != u) {
        r.regions.push_back(row_of(w, [&](int64_t j) { return j % s < c; }));
        r.regions.push_back(row_of(w, [&](int64_t j) { return j % s > c; }));
      }
  return r;
}

// The page's definition for one query and head: q, k, v [L][e].
struct Head {
  std::vector<Row> q, k, v;
  std::vector<bool> live;
};
double dot(const Row& a, const Row& b) {
  double s = 0;
  for (std::size_t d = 0; d < a.size(); ++d) s += a[d] * b[d];
  return s;
}
Row softmax_of(Row logits) {
  double top = -INFINITY, total = 0;
  for (double x : logits) top = std::max(top, x);
  for (double& x : logits) total += x = std::exp(x - top);
  for (double& x : logits) x /= total;
  return logits;
}
Row summed(const Row& p, const std::vector<Row>& values, const Set& at) {
  Row y(values[0].size(), 0);
  for (std::size_t a = 0; a < at.size(); ++a)
    for (std::size_t d = 0; d < y.size(); ++d)
      y[d] += p[a] * values[static_cast<std::size_t>(at[a])][d];
  return y;
}
Row pooled(const CombinerAttentionOptions& o, const std::vector<Row>& x, const Set& at) {
  Row y(x[0].size(), o.pool == "max" ? -INFINITY : 0);
  for (int64_t j : at)
    for (std::size_t d = 0; d < y.size(); ++d) {
      double t = x[static_cast<std::size_t>(j)][d];
      if (o.pool_act == "relu") t = std::max(t, 0.0);
      y[d] = o.pool == "max" ? std::max(y[d], t) : y[d] + t;
    }
  if (o.pool == "mean")
    for (double& t : y) t /= static_cast<double>(at.size());
  return y;
}
Row context(const CombinerAttentionOptions& o, const Head& h, int64_t i, int64_t s) {
  const auto length = static_cast<int64_t>(h.q.size());
  Seen seen = seen_by(o, i, length, s);
  auto only_live = [&](Set& set) {
    std::erase_if(set, [&](int64_t j) { return !h.live[static_cast<std::size_t>(j)]; });
  };
  only_live(seen.direct);
  std::vector<Row> keys, values;
  for (int64_t j : seen.direct) {
    keys.push_back(h.k[static_cast<std::size_t>(j)]);
    values.push_back(h.v[static_cast<std::size_t>(j)]);
  }
  auto inner = [&](const Row& query, const Set& at) {
    Row logits;
    for (int64_t j : at) logits.push_back(dot(query, h.k[static_cast<std::size_t>(j)]));
    return softmax_of(logits);
  };
  for (Set& region : seen.regions) {
    only_live(region);
    if (region.empty()) continue;
    keys.push_back(pooled(o, h.k, region));
    values.push_back(summed(inner(pooled(o, h.q, region), region), h.v, region));
  }
  if (o.variant == "axial_rowmajor")
    for (int64_t w = 0; w * s < length; ++w) {
      if (o.causal ? w >= i / s : w == i / s && o.exclude_self_span) continue;
      const int64_t stands = w * s + i % s;
      if (stands >= length || !h.live[static_cast<std::size_t>(stands)]) continue;
      Set row;
      for (int64_t j = w * s; j < std::min(length, (w + 1) * s); ++j) row.push_back(j);
      only_live(row);
      const Row p = inner(h.q[static_cast<std::size_t>(stands)], row);
      keys.push_back(o.row_summary == "wsum" ? summed(p, h.k, row)
                                             : h.k[static_cast<std::size_t>(stands)]);
      values.push_back(summed(p, h.v, row));
    }
  Row y(h.v[0].size(), 0), logits;
  if (keys.empty()) return y;
  for (const Row& k : keys) logits.push_back(dot(h.q[static_cast<std::size_t>(i)], k));
  const Row p = softmax_of(logits);
  for (std::size_t a = 0; a < keys.size(); ++a)
    for (std::size_t d = 0; d < y.size(); ++d) y[d] += p[a] * values[a][d];
  return y;
}

Tensor by_definition(const CombinerAttention& m, const Tensor& x, const Tensor& pad) {
  const auto& o = m.options();
  const StateDict w = m.state_dict();
  const int64_t b = x.size(0), l = x.size(1), heads = o.num_heads, e = o.embed_dim / heads;
  int64_t s = o.span;
  if (s == 0) s = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(l))));
  auto project = [&](const std::string& p) {
    return linear(x, w.find(p + ".weight"), w.find(p + ".bias")).contiguous();
  };
  const Tensor q = project("q_proj") / std::sqrt(static_cast<double>(e)), k = project("k_proj"),
               v = project("v_proj");
  Tensor z = zeros({b, l, o.embed_dim}, kFloat64);
  for (int64_t bi = 0; bi < b; ++bi)
    for (int64_t hi = 0; hi < heads; ++hi) {
      Head h;
      for (int64_t j = 0; j < l; ++j) {
        auto row = [&](const Tensor& t) {
          const double* at = t.data<double>() + (bi * l + j) * o.embed_dim + hi * e;
          return Row(at, at + e);
        };
        h.q.push_back(row(q));
        h.k.push_back(row(k));
        h.v.push_back(row(v));
        h.live.push_back(!pad.defined() || !pad[bi][j].item<bool>());
      }
      for (int64_t i = 0; i < l; ++i) {
        const Row y = context(o, h, i, s);
        std::copy(y.begin(), y.end(), z.data<double>() + (bi * l + i) * o.embed_dim + hi * e);
      }
    }
  return linear(z, w.find("out_proj.weight"), w.find("out_proj.bias"));
}

TEST(CombinerAttention, StepsEqualForward) {
  for (const char* variant : {"fixed", "logsparse", "axial_vertical", "axial_horizontal",
                              "axial_mixture", "axial_rowmajor"})
    for (const char* pool : {"max", "mean"})
      for (const char* summary : {"none", "wsum", "proj"}) {
        if (summary != std::string("none") && variant != std::string("axial_rowmajor")) continue;
        CombinerAttention m({.embed_dim = 12,
                             .num_heads = 2,
                             .variant = variant,
                             .span = 4,
                             .causal = true,
                             .pool = pool,
                             .pool_act = "deepset",
                             .row_summary = summary});
        m.to(kFloat64);
        SCOPED_TRACE(options_str(m.options()));
        const Tensor x = random({2, 23, 12}), want = m(x);
        Box<SequenceState> s = m.init_state(2, 23);
        auto steps = [&](int64_t from, const std::vector<int64_t>& counts) {
          for (const int64_t n : counts) {
            EXPECT_LT(max_difference(m.step(x.narrow(1, from, n), *s), want.narrow(1, from, n)),
                      1e-12)
                << n << " from " << from;
            from += n;
          }
        };
        steps(0, {1, 1, 7, 2, 6});
        s->rollback(9);  // summaries of rows that were finished are made again
        steps(8, {5, 1, 1, 8});
      }
}

TEST(CombinerAttention, IsTheDefinitionSetBySet) {
  no_grad guard;
  std::vector<CombinerAttentionOptions> all;
  for (const char* variant : {"fixed", "logsparse", "axial_vertical", "axial_horizontal",
                              "axial_mixture", "axial_rowmajor"})
    for (const bool causal : {false, true}) {
      if (variant == std::string("logsparse") && !causal) continue;
      CombinerAttentionOptions o{
          .embed_dim = 12, .num_heads = 2, .variant = variant, .span = 4, .causal = causal};
      all.push_back(o);
      o.pool = "mean";
      o.pool_act = "relu";
      o.span = 0;
      if (variant == std::string("axial_rowmajor")) o.row_summary = "wsum";
      all.push_back(o);
      o.pool = "sum";
      o.span = 5;
      o.exclude_self_span = true;
      all.push_back(o);
    }
  for (const CombinerAttentionOptions& o : all) {
    CombinerAttention m(o);
    m.to(kFloat64);
    for (const int64_t l : {1, 2, 9, 16, 23}) {
      const Tensor x = random({2, l, 12});
      Tensor pad = zeros({2, l}, kBool);
      if (l > 8) {
        pad[0].narrow(0, 3, 5).fill_(1);
        pad[0].narrow(0, l - 2, 2).fill_(1);
      }
      pad[1].fill_(1);
      EXPECT_LT(max_difference(m(x), by_definition(m, x, {})), 1e-11)
          << options_str(o) << " of " << l;
      EXPECT_LT(max_difference(m(x, {.key_padding_mask = pad}), by_definition(m, x, pad)), 1e-11)
          << options_str(o) << " of " << l << ", padded";
    }
    EXPECT_EQ(m(zeros({2, 0, 12}, kFloat64)).sizes(), (Shape{2, 0, 12}));
  }
}

TEST(CombinerAttention, ALongSpanIsDenseAttention) {
  for (const bool causal : {false, true})
    for (const char* variant : {"fixed", "axial_mixture", "axial_rowmajor"}) {
      MultiheadAttention dense({.embed_dim = 8, .num_heads = 2, .causal = causal});
      CombinerAttention m({.embed_dim = 8,
                           .num_heads = 2,
                           .variant = variant,
                           .span = 40,
                           .causal = causal,
                           .exclude_self_span = true});
      m.load_state_dict(dense.state_dict());
      const Tensor x = random({2, 17, 8}, kFloat32);
      EXPECT_LT(max_difference(m(x), dense(x)), 1e-5) << variant;
    }
}

TEST(CombinerAttention, EveryQueryReachesEveryEarlierToken) {
  for (const char* variant : {"fixed", "logsparse", "axial_vertical", "axial_horizontal",
                              "axial_mixture", "axial_rowmajor"}) {
    CombinerAttention m({.embed_dim = 8,
                         .num_heads = 2,
                         .variant = variant,
                         .span = 4,
                         .causal = true,
                         .pool = "mean"});
    m.to(kFloat64);
    const Tensor x = random({1, 16, 8}).requires_grad_();
    for (const int64_t i : {0, 5, 15}) {
      const Tensor g = grad({sum(square(m(x)[0][i]))}, {x})[0];
      for (int64_t j = 0; j < 16; ++j)
        EXPECT_EQ(amax(abs(g[0][j])).item() > 0, j <= i) << variant << " " << i << " " << j;
    }
  }
}

TEST(CombinerAttention, OfEqualMaximaTheFirstGetsTheGradient) {
  const Tensor x = ones({1, 1, 1, 5, 1}, kFloat64).requires_grad_(),
               other = random({1, 1, 1, 5, 1});
  const combiner::Region r{other, x, other, other, tensor({0, 1, 1, 1, 1}, {1, 1, 1, 5}, kBool)};
  auto gradient = [&](const Tensor& keys) { return grad({sum(keys)}, {x})[0].flatten(); };
  testing::expect_values(gradient(combiner::whole(r, "max").k), {0, 1, 0, 0, 0});
  testing::expect_values(gradient(combiner::before(r, "max").k), {0, 3, 0, 0, 0});
  testing::expect_values(gradient(combiner::after(r, "max").k), {0, 1, 1, 1, 1});
}

TEST(CombinerAttention, ANaNTokenReachesOnlyThoseThatSeeIt) {
  for (const char* variant : {"fixed", "logsparse", "axial_mixture", "axial_rowmajor"}) {
    CombinerAttention m(
        {.embed_dim = 8, .num_heads = 2, .variant = variant, .span = 4, .causal = true});
    Tensor x = random({1, 16, 8}, kFloat32);
    x[0][6].fill_(std::nan(""));
    const Tensor y = m(x);
    for (int64_t t = 0; t < 6; ++t)
      EXPECT_TRUE(all(isfinite(y[0][t])).item<bool>()) << variant << " " << t;
    EXPECT_FALSE(any(isfinite(y[0][6])).item<bool>());
  }
}

TEST(CombinerAttention, NamesWhatDoesNotFit) {
  using M = CombinerAttention;
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 3}), OptionError, "not divisible");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .variant = "rows"}), OptionError,
               "variant is \"rows\", expected one of fixed, logsparse");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .span = -1}), OptionError, "span is -1");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .pool = "min"}), OptionError, "pool is \"min\"");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .pool_act = "gelu"}), OptionError,
               "pool_act is \"gelu\"");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .variant = "logsparse"}), OptionError,
               "logsparse hides the future");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .row_summary = "wsum"}), OptionError,
               "row_summary is \"wsum\", expected none with variant fixed");
  M m({.embed_dim = 8, .num_heads = 2, .causal = true});
  EXPECT_ERROR(m.init_state(1, 4), OptionError, "step() needs a span");
}

}  // namespace
}  // namespace dropin
