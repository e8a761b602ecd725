// Mixing heads backwards, one query of a tile at a time. Included once per target, after
// kernels/mixed_heads/mixed-inl.h (no ordinary include guard).
#if defined(DROPIN_KERNELS_MIXED_HEADS_UNMIX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_KERNELS_MIXED_HEADS_UNMIX_INL_H_
#undef DROPIN_KERNELS_MIXED_HEADS_UNMIX_INL_H_
#else
#define DROPIN_KERNELS_MIXED_HEADS_UNMIX_INL_H_
#endif

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

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
