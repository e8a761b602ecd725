#include "dropin/sequence/dilated_attention.h"

#include <atomic>

#include "dropin/sequence/multihead_attention.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(DilatedAttention, OneDensePatternEqualsFullAttention) {
  for (const bool causal : {false, true}) {
    DilatedAttention m({.embed_dim = 32,
                        .num_heads = 4,
                        .segment_length = {200},
                        .dilated_ratio = {1},
                        .causal = causal});
    MultiheadAttention full({.embed_dim = 32, .num_heads = 4, .causal = causal});
    full.load_state_dict(m.state_dict());
    const Tensor x = random({2, 150, 32}, kFloat32);
    EXPECT_LT(max_difference(m(x), full(x)), 1e-6);
  }
}

TEST(DilatedAttention, TwoIdenticalPatternsEqualOne) {
  DilatedAttention one(
      {.embed_dim = 16, .num_heads = 2, .segment_length = {8}, .dilated_ratio = {1}});
  DilatedAttention two({.embed_dim = 16,
                        .num_heads = 2,
                        .segment_length = {8, 8},
                        .dilated_ratio = {1, 1},
                        .mix_grad = true});
  two.load_state_dict(one.state_dict());
  const Tensor x = random({1, 30, 16}, kFloat32);
  EXPECT_LT(max_difference(one(x), two(x)), 1e-6);
}

// The multiset of keys that position t sees in head j, pattern by pattern.
std::vector<int64_t> keys_of(const DilatedAttentionOptions& o, int64_t t, int64_t j, int64_t length,
                             const bool* hidden) {
  std::vector<int64_t> keys;
  for (std::size_t i = 0; i < o.segment_length.size(); ++i) {
    const int64_t w = std::min(o.segment_length[i], length), r = o.dilated_ratio[i],
                  s = o.head_offset == "modulo" ? j % r : j / ((o.num_heads + r - 1) / r);
    if (t % w % r != s) continue;
    for (int64_t u = t / w * w; u < std::min(length, t / w * w + w); ++u)
      if (u % w % r == s && !(o.causal && u > t) && !hidden[u]) keys.push_back(u);
  }
  return keys;
}

TEST(DilatedAttention, EqualsOneSoftmaxOverTheMultisetOfKeys) {
  no_grad guard;
  const DilatedAttentionOptions all[] = {
      {.embed_dim = 12, .num_heads = 3, .segment_length = {5, 11}, .dilated_ratio = {1, 3}},
      {.embed_dim = 12,
       .num_heads = 3,
       .segment_length = {4, 8, 64},
       .dilated_ratio = {1, 2, 5},
       .head_offset = "modulo",
       .causal = true},
      {.embed_dim = 12,
       .num_heads = 3,
       .segment_length = {6, 3},
       .dilated_ratio = {2, 7},
       .causal = true}};
  for (const auto& o : all) {
    DilatedAttention m(o);
    m.to(kFloat64);
    const int64_t length = 29, h = 3, dh = 4;
    const Tensor x = random({1, length, 12}) * 2;
    Tensor pad = zeros({1, length}, kBool);
    pad.narrow(1, 3, 4).fill_(1);
    const StateDict w = m.state_dict();
    auto project = [&](const std::string& name) {
      return split_heads(linear(x, w.find(name + ".weight"), w.find(name + ".bias")), h);
    };
    const Tensor q = project("q_proj"), k = project("k_proj"), v = project("v_proj");
    Tensor y = zeros({1, h, length, dh}, kFloat64);
    for (int64_t j = 0; j < h; ++j)
      for (int64_t t = 0; t < length; ++t) {
        double total = 0;
        Tensor sum_v = zeros({dh}, kFloat64);
        for (const int64_t u : keys_of(o, t, j, length, pad.data<bool>())) {
          const double e = std::exp(sum(q[0][j][t] * k[0][j][u]).item() / 2);
          total += e;
          sum_v = sum_v + v[0][j][u] * e;
        }
        if (total > 0) y[0][j][t].copy_(sum_v / total);
      }
    const Tensor want = linear(merge_heads(y), w.find("out_proj.weight"), w.find("out_proj.bias"));
    EXPECT_LT(max_difference(m(x, {.key_padding_mask = pad}), want), 1e-12);
    m.to(kFloat32);
    EXPECT_LT(max_difference(m(x.to(kFloat32), {.key_padding_mask = pad}).to(kFloat64), want),
              1e-5);
  }
}

TEST(DilatedAttention, SingleTokensSeeThemselvesWhereAPatternCoversThem) {
  DilatedAttention m({.embed_dim = 8,
                      .num_heads = 2,
                      .segment_length = {4},
                      .dilated_ratio = {2},
                      .head_offset = "modulo"});
  const Tensor x = random({1, 1, 8}, kFloat32);
  const StateDict w = m.state_dict();
  Tensor v = linear(x, w.find("v_proj.weight"), w.find("v_proj.bias")).detach().clone();
  v.narrow(2, 4, 4).zero_();  // head 1 has offset 1: position 0 takes no part
  EXPECT_LT(max_difference(m(x), linear(v, w.find("out_proj.weight"), w.find("out_proj.bias"))),
            1e-6);
}

TEST(DilatedAttention, LongRunsKeepTheCurrentSegments) {
  DilatedAttention m({.embed_dim = 8,
                      .num_heads = 2,
                      .segment_length = {4, 16},
                      .dilated_ratio = {1, 3},
                      .causal = true});
  no_grad guard;
  m.eval();
  const Tensor x = random({1, 150, 8}, kFloat32), y = m(x);
  Box<SequenceState> s = m.init_state(1, 1 << 20);
  for (int64_t t = 0; t < 150; ++t)
    ASSERT_LT(max_difference(m.step(x.narrow(1, t, 1), *s), y.narrow(1, t, 1)), 1e-5) << t;
}

struct Distributed {
  Tensor y, gx, gw;
  int64_t received;
};
// y, the gradient of x and of q_proj.weight (summed over ranks), and the bytes that rank 0
// received, forward and backward.
Distributed on_ranks(const DilatedAttentionOptions& o, const Tensor& x, int64_t ranks) {
  const int64_t l = x.size(1) / ranks;
  Tensors ys(static_cast<std::size_t>(ranks)), gxs = ys, gws = ys;
  std::atomic<int64_t> received{0};
  in_process(ranks, [&](Communicator& c) {
    manual_seed(9);
    DilatedAttention m(o);
    m.to(x.dtype());
    Tensor mine = x.narrow(1, c.rank() * l, l).clone().requires_grad_();
    const Tensor y = m.forward_distributed(mine, c);
    sum(square(y)).backward();
    const auto r = static_cast<std::size_t>(c.rank());
    ys[r] = y.detach();
    gxs[r] = mine.grad();
    gws[r] = m.named_parameters()[0].second.grad();
    if (c.rank() == 0) received = c.bytes_received();
  });
  Distributed d{concat(ys, 1), concat(gxs, 1), gws[0], received};
  for (std::size_t r = 1; r < gws.size(); ++r) d.gw = d.gw + gws[r];
  return d;
}

TEST(DilatedAttention, SequenceParallelEqualsOneDevice) {
  const DilatedAttentionOptions all[] = {{.embed_dim = 16,
                                          .num_heads = 4,
                                          .segment_length = {8, 32, 128},
                                          .dilated_ratio = {1, 2, 4},
                                          .mix_grad = true,
                                          .causal = true},
                                         {.embed_dim = 16,
                                          .num_heads = 4,
                                          .segment_length = {8, 32, 128},
                                          .dilated_ratio = {1, 2, 4},
                                          .rope = "half"},
                                         {.embed_dim = 16,
                                          .num_heads = 4,
                                          .segment_length = {16, 64},
                                          .dilated_ratio = {1, 3},
                                          .head_offset = "modulo",
                                          .causal = true}};
  for (const auto& o : all) {
    const Tensor x = random({2, 128, 16});
    manual_seed(9);
    DilatedAttention m(o);
    m.to(kFloat64);
    Tensor whole = x.clone().requires_grad_();
    const Tensor y = m(whole);
    sum(square(y)).backward();
    for (const int64_t ranks : {1, 4}) {
      const Distributed d = on_ranks(o, x, ranks);
      EXPECT_LT(max_difference(d.y, y), 1e-12) << ranks;
      EXPECT_LT(max_difference(d.gx, whole.grad()), 1e-11) << ranks;
      EXPECT_LT(max_difference(d.gw, m.named_parameters()[0].second.grad()), 1e-10) << ranks;
    }
  }
}

TEST(DilatedAttention, WhatIsExchangedDoesNotGrowWithTheLength) {  // 4 ranks, L = 4096: the figures
                                                                   // of the reproduction
  const DilatedAttentionOptions o{.embed_dim = 16,
                                  .num_heads = 4,
                                  .segment_length = {256, 1024, 4096},
                                  .dilated_ratio = {1, 2, 4},
                                  .causal = true};
  auto forward_bytes = [&](int64_t ranks, int64_t length) {
    std::atomic<int64_t> received{0};
    Tensors ys(static_cast<std::size_t>(ranks));
    const Tensor x = random({1, length, 16}, kFloat32);
    in_process(ranks, [&](Communicator& c) {
      no_grad guard;
      manual_seed(9);
      DilatedAttention m(o);
      ys[static_cast<std::size_t>(c.rank())] = m.forward_distributed(
          x.narrow(1, c.rank() * (length / ranks), length / ranks).clone(), c);
      if (c.rank() == 0) received = c.bytes_received();
    });
    manual_seed(9);
    no_grad guard;
    EXPECT_LT(max_difference(concat(ys, 1), DilatedAttention(o)(x)), 1e-5);
    return received.load();
  };
  const int64_t bytes = forward_bytes(4, 4096);
  EXPECT_EQ(bytes, 2 * (4096 / 4) * 16 * 4 * 3 / 4)
      << "keys and values of w / r tokens, less this rank's own quarter";
  EXPECT_EQ(forward_bytes(8, 8192), bytes);
}

TEST(DilatedAttention, NamesWhatDoesNotFit) {
  EXPECT_ERROR(
      DilatedAttention({.embed_dim = 8, .num_heads = 2, .segment_length = {}, .dilated_ratio = {}}),
      OptionError, "segment_length has 0 and dilated_ratio 0 entries");
  EXPECT_ERROR(
      DilatedAttention(
          {.embed_dim = 8, .num_heads = 2, .segment_length = {4, 8}, .dilated_ratio = {1}}),
      OptionError, "segment_length has 2 and dilated_ratio 1 entries");
  EXPECT_ERROR(DilatedAttention(
                   {.embed_dim = 8, .num_heads = 2, .segment_length = {0}, .dilated_ratio = {1}}),
               OptionError, "segment_length has 0");
  EXPECT_ERROR(DilatedAttention(
                   {.embed_dim = 8, .num_heads = 2, .segment_length = {4}, .dilated_ratio = {0}}),
               OptionError, "dilated_ratio has 0");
  EXPECT_ERROR(DilatedAttention({.embed_dim = 8, .num_heads = 2, .head_offset = "none"}),
               OptionError, "head_offset is \"none\", expected grouped or modulo");
  in_process(3, [](Communicator& c) {
    DilatedAttention m(
        {.embed_dim = 8, .num_heads = 2, .segment_length = {8}, .dilated_ratio = {1}});
    EXPECT_ERROR(m.forward_distributed(zeros({1, 6, 8}), c), ShapeError,
                 "not multiples of each other");
  });
  EXPECT_ERROR(in_process(2,
                          [](Communicator& c) {
                            if (c.rank() == 1) fail<StateError>({"rank 1 gives up"});
                            char x = 0, all[2];
                            c.all_gather(&x, 1, all);
                          }),
               Error, "");
}

TEST(DilatedAttention, SharesAddUpAtLargeScores) {
  for (const double scale : {30.0, 1000.0, 1e5}) {
    DilatedAttention one(
        {.embed_dim = 16, .num_heads = 2, .segment_length = {16}, .dilated_ratio = {1}});
    DilatedAttention two({.embed_dim = 16,
                          .num_heads = 2,
                          .segment_length = {16, 16},
                          .dilated_ratio = {1, 1},
                          .mix_grad = true});
    {
      no_grad guard;
      for (auto& [name, p] : one.named_parameters())
        if (name[0] == 'q' || name[0] == 'k') p.mul_(scale);
    }
    two.load_state_dict(one.state_dict());
    const Tensor x = random({1, 16, 16}, kFloat32);
    EXPECT_LT(max_difference(one(x), two(x)), 2e-6) << scale;
    const AttentionWithLse a{random({1, 2, 5, 4}, kFloat32), full({1, 2, 5}, scale)};
    EXPECT_LT(max_difference(merge_attention({a, a}).o, a.o), 1e-6) << scale;
  }
}

}  // namespace
}  // namespace dropin
