#include "dropin/sequence/scatterbrain_attention.h"

#include "dropin/sequence/multihead_attention.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

/// Numbers of clusters by hash, of each query and key.
struct Clusters {
  std::vector<std::vector<int64_t>> of_q, of_k;
};
/// Of one head: q, k [L, E], live [L].
Clusters clusters_of(const ScatterbrainAttentionOptions& o, const Tensor& alpha, const Tensor& q,
                     const Tensor& k, const Tensor& live) {
  const int64_t l = q.size(0), e = q.size(1);
  Clusters r;
  double top_q = 0, top_k = 0;
  auto vec = [&](const Tensor& t, int64_t i) { return t[i].to_vector(); };
  auto squares = [](const std::vector<double>& w) {
    double r = 0;
    for (double y : w) r += y * y;
    return r;
  };
  for (int64_t i = 0; i < l; ++i)
    if (live[i].item<bool>()) {
      top_q = std::max(top_q, squares(vec(q, i)));
      top_k = std::max(top_k, squares(vec(k, i)));
    }
  for (int64_t t = 0; alpha.defined() && t < o.n_hashes; ++t) {
    const std::vector<double> a = alpha.select(1, t).to_vector();
    auto numbers = [&](const Tensor& y, int64_t last) {
      std::vector<std::pair<double, int64_t>> order;
      for (int64_t i = 0; i < l; ++i) {
        const std::vector<double> w = vec(y, i);
        double z = std::sqrt(std::max(top_q + top_k - squares(w), 0.0)) *
                   a[static_cast<std::size_t>(last)];
        for (std::size_t d = 0; d < w.size(); ++d) z += w[d] * a[d];
        order.emplace_back(live[i].item<bool>() ? z : INFINITY, i);
      }
      std::stable_sort(order.begin(), order.end(),
                       [](const auto& c, const auto& d) { return c.first < d.first; });
      std::vector<int64_t> r(static_cast<std::size_t>(l));
      for (int64_t n = 0; n < l; ++n)
        r[static_cast<std::size_t>(order[static_cast<std::size_t>(n)].second)] = n / o.cluster_size;
      return r;
    };
    r.of_q.push_back(numbers(q, e + 1));
    r.of_k.push_back(numbers(k, e));
  }
  return r;
}

/// The pairs whose score is exact, [B, H, L, L].
Tensor support_of(const ScatterbrainAttention& m, const Tensor& q, const Tensor& k,
                  const Tensor& live) {
  const auto& o = m.options();
  const int64_t b = q.size(0), h = q.size(1), l = q.size(2);
  Tensor support = zeros({b, h, l, l}, kBool);
  const Tensor alpha = m.state_dict().find("lsh_alpha");
  for (int64_t bi = 0; bi < b; ++bi)
    for (int64_t hi = 0; hi < h; ++hi) {
      const auto [of_q, of_k] = clusters_of(o, alpha, q[bi][hi], k[bi][hi], live[bi]);
      for (int64_t i = 0; i < l; ++i)
        for (int64_t j = 0; j < l; ++j) {
          bool in = false;
          if (o.sparse == "local") {
            const int64_t w = o.local_context;
            in = i - w / 2 <= j && j < i + (w + 1) / 2;
          }
          for (std::size_t t = 0; t < of_q.size(); ++t)
            in = in || of_q[t][static_cast<std::size_t>(i)] == of_k[t][static_cast<std::size_t>(j)];
          support.data<bool>()[((bi * h + hi) * l + i) * l + j] = in;
        }
    }
  return support;
}

// The page's definition, with all matrices in memory: M_ij exact on the support, else by features.
Tensor by_definition(const ScatterbrainAttention& m, const Tensor& x, const Tensor& pad) {
  const auto& o = m.options();
  const StateDict s = m.state_dict();
  const int64_t h = o.num_heads, e = o.embed_dim / h, b = x.size(0), l = x.size(1);
  const double tau = o.softmax_temp > 0 ? o.softmax_temp : 1 / std::sqrt(static_cast<double>(e));
  auto heads = [&](const std::string& p) {
    return split_heads(linear(x, s.find(p + ".weight"), s.find(p + ".bias")), h);
  };
  const Tensor q = heads("q_proj"), k = heads("k_proj"), v = heads("v_proj"),
               p = s.find("projection_matrix");
  auto phi = [&](const Tensor& t) {
    const Tensor u = matmul(t * std::sqrt(tau), p.mT());
    return exp(concat({u, -u}, -1) - sum(square(t), {-1}, true) * (tau / 2)) /
           std::sqrt(2 * static_cast<double>(p.size(0)));
  };
  const Tensor exact = exp(matmul(q, k.mT()) * tau), guess = matmul(phi(q), phi(k).mT());
  const Tensor live = pad.defined() ? logical_not(pad) : ones({b, l}, kBool);
  const Tensor support = support_of(m, q, k, live);
  Tensor allowed = live.unsqueeze(1).unsqueeze(1);
  if (o.causal) allowed = logical_and(allowed, arange(l).unsqueeze(0) <= arange(l).unsqueeze(1));
  const Tensor all = where(allowed, where(support, exact, guess), 0.0),
               total = sum(all, {-1}, true);
  const Tensor y = where(total > 0.0, matmul(all, v) / total, 0.0);
  return linear(merge_heads(y), s.find("out_proj.weight"), s.find("out_proj.bias"));
}

TEST(ScatterbrainAttention, StepsEqualForward) {
  for (const int64_t window : {0, 1, 5, 8, 200}) {
    ScatterbrainAttention m({.embed_dim = 12,
                             .num_heads = 2,
                             .sparse = "local",
                             .local_context = window,
                             .causal = true,
                             .seed = 3});
    m.to(kFloat64);
    const Tensor x = random({2, 150, 12}), want = m(x);
    Box<SequenceState> s = m.init_state(2, 150);
    auto steps = [&](int64_t from, const std::vector<int64_t>& counts) {
      for (const int64_t n : counts) {
        EXPECT_LT(max_difference(m.step(x.narrow(1, from, n), *s), want.narrow(1, from, n)), 1e-10)
            << n << " from " << from << ", window " << window;
        from += n;
      }
    };
    steps(0, {1, 2, 97});
    s->rollback(30);
    steps(70, {1, 70, 9});
  }
}

TEST(ScatterbrainAttention, IsTheDefinitionPairByPair) {
  no_grad guard;
  for (const bool causal : {false, true})
    for (const char* sparse : {"local", "lsh"})
      for (const int64_t size : {1, 4, 5, 40}) {
        ScatterbrainAttention m({.embed_dim = 12,
                                 .num_heads = 2,
                                 .sparse = sparse,
                                 .cluster_size = size,
                                 .n_hashes = 3,
                                 .local_context = size,
                                 .softmax_temp = size == 4 ? 0.7 : 0,
                                 .causal = causal,
                                 .seed = size});
        m.to(kFloat64);
        for (const int64_t l : {1, 2, 9, 70}) {
          SCOPED_TRACE(options_str(m.options()) + " of " + std::to_string(l));
          const Tensor x = random({2, l, 12});
          EXPECT_LT(max_difference(m(x), by_definition(m, x, {})), 1e-9);
          Tensor pad = zeros({2, l}, kBool);
          if (l > 8) pad[0].narrow(0, 0, 3).fill_(1);
          if (l > 8) pad[0].narrow(0, 6, 2).fill_(1);
          pad[1].fill_(1);  // sees nothing
          EXPECT_LT(max_difference(m(x, {.key_padding_mask = pad}), by_definition(m, x, pad)),
                    1e-9);
        }
      }
}

TEST(ScatterbrainAttention, OneClusterIsExact) {
  MultiheadAttention dense({.embed_dim = 8, .num_heads = 2});
  ScatterbrainAttention m({.embed_dim = 8, .num_heads = 2});
  m.load_state_dict(dense.state_dict(), false);
  const Tensor x = random({2, 20, 8}, kFloat32);
  EXPECT_LT(max_difference(m(x), dense(x)), 1e-5);
}

TEST(ScatterbrainAttention, FeaturesAreUnbiased) {
  const Tensor q = random({1, 1, 12, 8}, kFloat64, 1) * 0.5,
               k = random({1, 1, 12, 8}, kFloat64, 2) * 0.5;
  const Tensor want = exp(matmul(q, k.mT()) / std::sqrt(8.0));
  ScatterbrainAttention m({.embed_dim = 8, .num_heads = 1, .nb_features = 16, .seed = 1});
  auto mean_error = [&](int draws) {
    Tensor total = zeros_like(want);
    for (int i = 0; i < draws; ++i) {
      m.redraw();
      const Tensor p = m.state_dict().find("projection_matrix").to(kFloat64);
      const double tau = 1 / std::sqrt(8.0);
      auto phi = [&](const Tensor& t) {
        const Tensor u = matmul(t * std::sqrt(tau), p.mT());
        return exp(concat({u, -u}, -1) - sum(square(t), {-1}, true) * (tau / 2)) / 4.0;
      };
      total = total + matmul(phi(q), phi(k).mT());
    }
    return norm(total / static_cast<double>(draws) - want).item() / norm(want).item();
  };
  manual_seed(5);
  const double one = mean_error(1), many = mean_error(400);
  EXPECT_LT(many, 0.1);
  EXPECT_LT(many, one / 3);
}

TEST(ScatterbrainAttention, RowsOfTheProjectionAreOrthogonal) {
  ScatterbrainAttention m(
      {.embed_dim = 8, .num_heads = 2, .nb_features = 21, .ortho_scaling = 1, .seed = 4});
  const Tensor p = m.state_dict().find("projection_matrix").to(kFloat64);
  ASSERT_EQ(p.sizes(), (Shape{10, 4}));
  for (const int64_t at : {0, 4})
    EXPECT_LT(max_difference(matmul(p.narrow(0, at, 4), p.narrow(0, at, 4).mT()),
                             eye(4, 4, kFloat64) * 4.0),
              1e-5);
  ScatterbrainAttention same(
      {.embed_dim = 8, .num_heads = 2, .nb_features = 21, .ortho_scaling = 1, .seed = 4});
  EXPECT_EQ(max_difference(p, same.state_dict().find("projection_matrix").to(kFloat64)), 0);
  m.redraw();
  EXPECT_GT(max_difference(p, m.state_dict().find("projection_matrix").to(kFloat64)), 1e-3);
}

TEST(ScatterbrainAttention, LargeNormsStayFinite) {
  for (const char* sparse : {"local", "lsh"}) {
    ScatterbrainAttention m(
        {.embed_dim = 8, .num_heads = 2, .sparse = sparse, .cluster_size = 4, .local_context = 4});
    const Tensor y = m(random({1, 30, 8}, kFloat32) * 60.0);
    EXPECT_TRUE(all(isfinite(y)).item<bool>()) << sparse;
  }
}

TEST(ScatterbrainAttention, OnlyTheLocalFormIsCausal) {
  EXPECT_FALSE(ScatterbrainAttention({.embed_dim = 8, .num_heads = 2, .causal = true}).causal());
  EXPECT_TRUE(
      ScatterbrainAttention({.embed_dim = 8, .num_heads = 2, .sparse = "local", .causal = true})
          .causal());
}

TEST(ScatterbrainAttention, NamesWhatDoesNotFit) {
  using M = ScatterbrainAttention;
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 3}), OptionError, "not divisible");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .sparse = "global"}), OptionError,
               "sparse is \"global\"");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .nb_features = 1}), OptionError,
               "nb_features is 1");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .cluster_size = 0}), OptionError,
               "cluster_size is 0");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .n_hashes = 0}), OptionError, "n_hashes is 0");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .softmax_temp = -1}), OptionError,
               "softmax_temp is -1");
  M m({.embed_dim = 8, .num_heads = 2, .nb_features = 8});
  StateDict wrong = m.state_dict();
  wrong.set("projection_matrix", zeros({3, 4}));
  EXPECT_ERROR(m.load_state_dict(wrong), StateError, "projection_matrix");
  M lsh({.embed_dim = 8, .num_heads = 2, .causal = true});
  EXPECT_ERROR(lsh.init_state(1, 4), OptionError, "sparse = \"local\"");
}

}  // namespace
}  // namespace dropin
