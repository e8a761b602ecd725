// The backward pass of attention with mixed heads: a strip of 12 queries is made again, raw scores
// and probabilities, and walked twice, back through the second mixing and then through the first.
// What keys get is summed by parts of the queries, so results do not depend on the thread count.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mixed_heads/cpu_backward.cpp"
#include "hwy/foreach_target.h"
//
#include "dropin/core/parallel.h"
#include "kernels/mixed_heads/mixed-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

// Gradients of what a stage mixes with: rows of queries, 2 factors() apart; of a block of keys;
// fixed or null. All are added to.
struct MixingGradients {
  float *of_queries, *of_keys, *fixed;
};

// What low-rank parts make of one query's row of a tile, [R, 64] each: a w1 and dy w2^T, of the
// query's factors and of the keys'.
struct LowRank {
  float by_query[kMixedRanks * kMixedKeys], by_key[kMixedRanks * kMixedKeys];
};
template <int kRank>
void low_rank_of(int64_t heads, int64_t ranks_in, const float* row, const float* of_query,
                 const float* of_keys, LowRank& to) {
  const hn::ScalableTag<float> d;
  const int64_t ranks = kRank ? kRank : ranks_in;
  constexpr int kRoom = kRank ? kRank : static_cast<int>(kMixedRanks);
  for (int64_t s = 0; s < kMixedKeys; s += static_cast<int64_t>(hn::Lanes(d))) {
    VecOf<decltype(d)> q[kRoom], k[kRoom];
    for (int64_t r = 0; r < ranks; ++r) q[r] = k[r] = hn::Zero(d);
    for (int64_t h = 0; h < heads; ++h) {
      const auto v = hn::LoadU(d, row + h * kHeadStep + s);
      for (int64_t r = 0; r < ranks; ++r) {
        q[r] = hn::MulAdd(v, hn::Set(d, of_query[r * heads + h]), q[r]);
        k[r] = hn::MulAdd(v, hn::LoadU(d, of_keys + (r * heads + h) * kMixedKeys + s), k[r]);
      }
    }
    for (int64_t r = 0; r < ranks; ++r) {
      hn::StoreU(q[r], d, to.by_query + r * kMixedKeys + s);
      hn::StoreU(k[r], d, to.by_key + r * kMixedKeys + s);
    }
  }
}

// Through y = mix(a), one query: da from dy, and the factors' gradients.
template <int kRank>
void unmix_row(const Mixing& x, const float* a, const float* dy, float* da, const float* q,
               float* gq, float* gk) {
  const hn::ScalableTag<float> d;
  const int64_t n = x.heads, ranks = kRank ? kRank : x.rank, part = ranks * n,
                kpart = part * kMixedKeys;
  constexpr int kRoom = kRank ? kRank : static_cast<int>(kMixedRanks);
  LowRank forward, back;
  low_rank_of<kRank>(n, x.rank, a, q, x.of_keys, forward);
  low_rank_of<kRank>(n, x.rank, dy, q + part, x.of_keys + kpart, back);
  for (int64_t h = 0; h < n; ++h) {
    VecOf<decltype(d)> g1[kRoom], g2[kRoom];
    for (int64_t r = 0; r < ranks; ++r) g1[r] = g2[r] = hn::Zero(d);
    auto g0 = hn::Zero(d);
    for (int64_t s = 0; s < kMixedKeys; s += static_cast<int64_t>(hn::Lanes(d))) {
      const auto va = hn::LoadU(d, a + h * kHeadStep + s),
                 vy = hn::LoadU(d, dy + h * kHeadStep + s);
      const float* k = x.of_keys + h * kMixedKeys + s;
      float* to = gk + h * kMixedKeys + s;
      auto sum =
          hn::MulAdd(vy, hn::Add(hn::Set(d, q[2 * part + h]), hn::LoadU(d, k + 2 * kpart)), vy);
      const auto both = hn::Mul(va, vy);
      g0 = hn::Add(g0, both);
      hn::StoreU(hn::Add(hn::LoadU(d, to + 2 * kpart), both), d, to + 2 * kpart);
      for (int64_t r = 0; r < ranks; ++r) {
        const int64_t row = r * n * kMixedKeys, at = r * kMixedKeys + s;
        const auto fq = hn::LoadU(d, forward.by_query + at), fk = hn::LoadU(d, forward.by_key + at),
                   bq = hn::LoadU(d, back.by_query + at), bk = hn::LoadU(d, back.by_key + at);
        sum = hn::MulAdd(bq, hn::Set(d, q[r * n + h]), sum);
        sum = hn::MulAdd(bk, hn::LoadU(d, k + row), sum);
        g1[r] = hn::MulAdd(va, bq, g1[r]);
        g2[r] = hn::MulAdd(vy, fq, g2[r]);
        hn::StoreU(hn::MulAdd(va, bk, hn::LoadU(d, to + row)), d, to + row);
        hn::StoreU(hn::MulAdd(vy, fk, hn::LoadU(d, to + kpart + row)), d, to + kpart + row);
      }
      if (x.fixed)
        for (int64_t g = 0; g < n; ++g)
          sum =
              hn::MulAdd(hn::LoadU(d, dy + g * kHeadStep + s), hn::Set(d, x.fixed[h * n + g]), sum);
      hn::StoreU(sum, d, da + h * kHeadStep + s);
    }
    gq[2 * part + h] += hn::GetLane(hn::SumOfLanes(d, g0));
    for (int64_t r = 0; r < ranks; ++r) {
      gq[r * n + h] += hn::GetLane(hn::SumOfLanes(d, g1[r]));
      gq[part + r * n + h] += hn::GetLane(hn::SumOfLanes(d, g2[r]));
    }
  }
}

// The same for a tile; da is not dy.
void unmix(const Mixing& x, int64_t m, const float* a, const float* dy, float* da,
           const MixingGradients& g) {
  for (int64_t t = 0; t < m; ++t) {
    const int64_t at = t * kMixedKeys;
    with_rank(x.rank, [&](auto rank) {
      unmix_row<decltype(rank)::value>(x, a + at, dy + at, da + at, x.of_queries + t * x.step,
                                       g.of_queries + t * x.step, g.of_keys);
    });
    if (!x.fixed) continue;
    for (int64_t h = 0; h < x.heads; ++h)
      for (int64_t i = 0; i < x.heads; ++i) {
        float sum = 0;
        for (int64_t s = 0; s < kMixedKeys; ++s)
          sum += a[h * kHeadStep + at + s] * dy[i * kHeadStep + at + s];
        g.fixed[h * x.heads + i] += sum;
      }
  }
}

// What a part of the queries gives the keys: [H, blocks 64, D and Dv rounded up], [blocks, 2
// factors(), 64], [2, H, H].
struct KeyGradients {
  cpu::Scratch<float> k, v, factors, fixed;
  explicit KeyGradients(const MixedProblem& p) {
    const int64_t rows = p.blocks() * kMixedKeys;
    auto cleared = [](int64_t n) {
      cpu::Scratch<float> s(n);
      std::fill_n(s.data(), n, 0.0f);
      return s;
    };
    k = cleared(p.heads * rows * whole_vectors(p.width));
    v = cleared(p.heads * rows * whole_vectors(p.value_width));
    factors = cleared(rows * 2 * p.factors());
    fixed = cleared(2 * p.heads * p.heads);
  }
  MixingGradients of(const MixedProblem& p, int stage, int64_t block, float* of_queries) const {
    return {of_queries + stage * p.factors(),
            factors.data() + (2 * block + stage) * p.factors() * kMixedKeys,
            fixed.data() + stage * p.heads * p.heads};
  }
};

// Working memory of a thread: strips of raw scores, probabilities and their gradients, two tiles
// more, and rows of queries.
struct StripWork {
  int64_t dp, dvp;
  cpu::Scratch<float> all;
  float *raw, *p, *dp_strip, *one, *two, *q, *go, *gq, *factors, *delta;
  explicit StripWork(const MixedProblem& x)
      : dp(whole_vectors(x.width)), dvp(whole_vectors(x.value_width)) {
    const int64_t rows = x.heads * kMixedQueries, strip = x.blocks() * x.tile();
    all = cpu::Scratch<float>(3 * strip + 2 * x.tile() + rows * (2 * dp + dvp + 1) +
                              kMixedQueries * 2 * x.factors());
    float* next = all.data();
    auto take = [&](int64_t n) {
      float* at = next;
      next += n;
      return at;
    };
    raw = take(strip), p = take(strip), dp_strip = take(strip);
    one = take(x.tile()), two = take(x.tile());
    q = take(rows * dp), go = take(rows * dvp), gq = take(rows * dp);
    factors = take(kMixedQueries * 2 * x.factors()), delta = take(rows);
  }
};

// Back through values and the second mixing: the gradient of the probabilities, and each row's mean
// of it under them.
void back_to_probabilities(const MixedProblem& p, const MixedKeys& keys, const Strip& s,
                           const StripWork& w, bool finite, const KeyGradients& g) {
  std::fill_n(w.delta, p.heads * kMixedQueries, 0.0f);
  for (int64_t block = s.first; block < s.last; ++block) {
    const float* probability = s.p + (block - s.first) * p.tile();
    float* dprob = w.dp_strip + (block - s.first) * p.tile();
    const Mixing x =
        mixing_of(p, 1, s.of_queries, keys.factors.data() + block * 2 * p.factors() * kMixedKeys);
    mix(x, s.m, probability, w.two);
    for (int64_t h = 0; h < p.heads; ++h)
      product(s.m, kMixedKeys, p.value_width, w.go + h * kMixedQueries * w.dvp, w.dvp, 1,
              keys.value_columns.data() + (h * p.blocks() + block) * kMixedKeys * p.value_width,
              kMixedKeys, w.one + h * kHeadStep, kMixedKeys, false);
    const bool partial = p.partial(s.b, s.i0, s.m, block);
    if (partial)
      for (float* tile : {w.one, w.two}) hide(p, s.b, s.i0, s.m, block, 0, tile);
    for (int64_t h = 0; h < p.heads; ++h)
      masked_product(partial && !(finite && keys.finite[at(h * p.blocks() + block)]), kMixedKeys,
                     w.dvp, s.m, w.two + h * kHeadStep, 1, kMixedKeys,
                     w.go + h * kMixedQueries * w.dvp, w.dvp,
                     g.v.data() + (h * p.blocks() + block) * kMixedKeys * w.dvp, w.dvp, true);
    unmix(x, s.m, probability, w.one, dprob, g.of(p, 1, block, w.factors));
    if (partial) hide(p, s.b, s.i0, s.m, block, 0, dprob);
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t t = 0; t < s.m; ++t) {
        const int64_t row = h * kHeadStep + t * kMixedKeys;
        float sum = 0;
        for (int64_t j = 0; j < kMixedKeys; ++j) sum += probability[row + j] * dprob[row + j];
        w.delta[h * kMixedQueries + t] += sum;
      }
  }
}

// Back through softmax, the first mixing and the scores.
void back_to_scores(const MixedProblem& p, const MixedKeys& keys, const Strip& s,
                    const StripWork& w, bool finite, const KeyGradients& g) {
  std::fill_n(w.gq, p.heads * kMixedQueries * w.dp, 0.0f);
  for (int64_t block = s.first; block < s.last; ++block) {
    const int64_t tile = (block - s.first) * p.tile();
    const float* probability = s.p + tile;
    float* ds = w.dp_strip + tile;
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t t = 0; t < s.m; ++t) {
        const int64_t row = h * kHeadStep + t * kMixedKeys;
        const float mean = w.delta[h * kMixedQueries + t];
        for (int64_t j = row; j < row + kMixedKeys; ++j) ds[j] = probability[j] * (ds[j] - mean);
      }
    const bool partial = p.partial(s.b, s.i0, s.m, block);
    if (partial) hide(p, s.b, s.i0, s.m, block, 0, ds);
    unmix(mixing_of(p, 0, s.of_queries, keys.factors.data() + block * 2 * p.factors() * kMixedKeys),
          s.m, s.raw + tile, ds, w.one, g.of(p, 0, block, w.factors));
    if (partial) hide(p, s.b, s.i0, s.m, block, 0, w.one);
    for (int64_t h = 0; h < p.heads; ++h) {
      const int64_t first = (h * p.blocks() + block) * kMixedKeys;
      const bool careful = partial && !(finite && keys.finite[at(h * p.blocks() + block)]);
      masked_product(careful, s.m, w.dp, kMixedKeys, w.one + h * kHeadStep, kMixedKeys, 1,
                     keys.key_rows.data() + first * w.dp, w.dp, w.gq + h * kMixedQueries * w.dp,
                     w.dp, true);
      masked_product(careful, kMixedKeys, w.dp, s.m, w.one + h * kHeadStep, 1, kMixedKeys,
                     w.q + h * kMixedQueries * w.dp, w.dp, g.k.data() + first * w.dp, w.dp, true);
    }
  }
}

void back_tile(const MixedProblem& p, const MixedKeys& keys, int64_t b, int64_t i0,
               const cpu::Scratch<float>& none, const StripWork& w, const KeyGradients& g) {
  const int64_t m = std::min(kMixedQueries, p.queries - i0), rows = p.heads * kMixedQueries;
  int64_t from, to;
  p.key_range(i0, i0 + m, from, to);
  const Strip s{
      b,     i0,  m,    from / kMixedKeys, ceil_div(to, kMixedKeys), query_factors(p, b, i0, none),
      w.raw, w.p, w.one};
  pack_heads(p.q, p.heads, b, i0, m, p.width, static_cast<float>(p.spec.scale), w.q, w.dp);
  pack_heads(p.go, p.heads, b, i0, m, p.value_width, 1, w.go, w.dvp);
  const bool finite = all_finite(w.q, rows, w.dp, w.dp) && all_finite(w.go, rows, w.dvp, w.dvp);
  std::fill_n(w.factors, kMixedQueries * 2 * p.factors(), 0.0f);
  probabilities(p, keys, s, w.q);
  back_to_probabilities(p, keys, s, w, finite, g);
  back_to_scores(p, keys, s, w, finite, g);
  for (int64_t h = 0; h < p.heads; ++h)
    for (int64_t t = 0; t < m; ++t) {
      float* out = p.row(p.grad.q, b, h, i0 + t);
      const float* gq = w.gq + (h * kMixedQueries + t) * w.dp;
      for (int64_t c = 0; c < p.width; ++c) out[c] = gq[c] * static_cast<float>(p.spec.scale);
    }
  if (p.grad.of_queries.data)
    std::copy_n(w.factors, m * 2 * p.factors(),
                p.grad.of_queries.as<float>() + (b * p.queries + i0) * 2 * p.factors());
}

// The parts' gradients of entry b's keys, in order.
void store_keys(const MixedProblem& p, int64_t b, const std::vector<KeyGradients>& parts) {
  const int64_t dp = whole_vectors(p.width), dvp = whole_vectors(p.value_width),
                rows = p.blocks() * kMixedKeys, wide = 2 * p.factors();
  parallel_for(p.keys, 64, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      auto add = [&](const abi::TensorOut& out, cpu::Scratch<float> KeyGradients::*of, int64_t ld,
                     int64_t width) {
        for (int64_t h = 0; h < p.heads; ++h) {
          float* to = p.row(out, b, h, j);
          std::fill_n(to, width, 0.0f);
          for (const KeyGradients& g : parts)
            for (int64_t c = 0; c < width; ++c) to[c] += (g.*of)[(h * rows + j) * ld + c];
        }
      };
      add(p.grad.k, &KeyGradients::k, dp, p.width);
      add(p.grad.v, &KeyGradients::v, dvp, p.value_width);
      if (!p.grad.of_keys.data) continue;
      float* to = p.grad.of_keys.as<float>() + (b * p.keys + j) * wide;
      std::fill_n(to, wide, 0.0f);
      for (const KeyGradients& g : parts)
        for (int64_t c = 0; c < wide; ++c)
          to[c] += g.factors[(j / kMixedKeys * wide + c) * kMixedKeys + j % kMixedKeys];
    }
  });
  if (!p.grad.fixed.data) return;
  float* to = p.grad.fixed.as<float>();
  for (const KeyGradients& g : parts)
    for (int64_t c = 0; c < 2 * p.heads * p.heads; ++c) to[c] += g.fixed[c];
}

void MixedBackward(const MixedProblem& p) {
  constexpr int64_t kParts = 4;  // each has gradients of its own for all keys
  const int64_t tiles = ceil_div(p.queries, kMixedQueries), parts = std::min(kParts, tiles);
  cpu::Scratch<float> none(kMixedQueries * 2 * p.factors());
  std::fill_n(none.data(), kMixedQueries * 2 * p.factors(), 0.0f);
  if (p.grad.fixed.data) std::fill_n(p.grad.fixed.as<float>(), 2 * p.heads * p.heads, 0.0f);
  MixedKeys keys;
  for (int64_t b = 0; b < p.batch; ++b) {
    pack_keys(p, b, true, keys);
    std::vector<KeyGradients> sums;
    for (int64_t t = 0; t < parts; ++t) sums.emplace_back(p);
    parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
      const StripWork w(p);
      for (int64_t t = begin; t < end; ++t)
        for (int64_t u = t; u < tiles; u += parts)
          back_tile(p, keys, b, u * kMixedQueries, none, w, sums[at(t)]);
    });
    store_keys(p, b, sums);
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
namespace {
HWY_EXPORT(MixedBackward);
}  // namespace

void mixed_heads_gradients(const MixedProblem& p) { HWY_DYNAMIC_DISPATCH(MixedBackward)(p); }

}  // namespace dropin::kernels
#endif  // HWY_ONCE
