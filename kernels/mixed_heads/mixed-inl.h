// What both directions of attention with mixed heads make of a tile [H, 24, 64] of queries and
// keys. Keys lie in the lanes of a vector, so a query's factors are broadcast and a key's are
// loaded. Included once per target (no ordinary include guard).
#if defined(DROPIN_KERNELS_MIXED_HEADS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_KERNELS_MIXED_HEADS_INL_H_
#undef DROPIN_KERNELS_MIXED_HEADS_INL_H_
#else
#define DROPIN_KERNELS_MIXED_HEADS_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/mixed_heads/problem.h"
#include "kernels/simd-inl.h"
#include "kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

constexpr int64_t kHeadStep = kMixedQueries * kMixedKeys;  // from one head of a tile to the next

// The factors that one stage takes: w1 [R, H], w2 [R, H], g [H] of each query, a row of 2
// factors() apart, and the same of a block of keys, [factors(), 64]; fixed [H, H] or null.
struct Mixing {
  int64_t heads, rank, step;
  const float *of_queries, *of_keys, *fixed;
};
Mixing mixing_of(const MixedProblem& p, int stage, const float* of_queries, const float* of_keys) {
  return {p.heads,
          p.spec.rank,
          2 * p.factors(),
          of_queries + stage * p.factors(),
          of_keys + stage * p.factors() * kMixedKeys,
          p.fixed.data ? p.fixed.as<float>() + stage * p.heads * p.heads : nullptr};
}

// Calls f with the rank as a constant where it is small.
template <class F>
void with_rank(int64_t rank, F&& f) {
  if (rank == 1) return f(std::integral_constant<int, 1>());
  if (rank == 2) return f(std::integral_constant<int, 2>());
  if (rank == 3) return f(std::integral_constant<int, 3>());
  f(std::integral_constant<int, 0>());
}

// y = a mixed, both tiles of m queries; y is not a.
template <int kRank>
void mix_tile(const Mixing& x, int64_t m, const float* a, float* y) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), n = x.heads,
                ranks = kRank ? kRank : x.rank;
  constexpr int kRoom = kRank ? kRank : static_cast<int>(kMixedRanks);
  for (int64_t t = 0; t < m; ++t) {
    const float *q1 = x.of_queries + t * x.step, *q2 = q1 + ranks * n, *qg = q2 + ranks * n;
    for (int64_t s = 0; s < kMixedKeys; s += lanes) {
      const float *k1 = x.of_keys + s, *k2 = k1 + ranks * n * kMixedKeys,
                  *kg = k2 + ranks * n * kMixedKeys, *from = a + t * kMixedKeys + s;
      VecOf<decltype(d)> by_query[kRoom], by_key[kRoom];
      for (int64_t r = 0; r < ranks; ++r) by_query[r] = by_key[r] = hn::Zero(d);
      for (int64_t h = 0; h < n; ++h) {
        const auto v = hn::LoadU(d, from + h * kHeadStep);
        for (int64_t r = 0; r < ranks; ++r) {
          by_query[r] = hn::MulAdd(v, hn::Set(d, q1[r * n + h]), by_query[r]);
          by_key[r] = hn::MulAdd(v, hn::LoadU(d, k1 + (r * n + h) * kMixedKeys), by_key[r]);
        }
      }
      float* to = y + t * kMixedKeys + s;
      for (int64_t h = 0; h < n; ++h) {
        const auto v = hn::LoadU(d, from + h * kHeadStep);
        auto sum = hn::MulAdd(v, hn::Add(hn::Set(d, qg[h]), hn::LoadU(d, kg + h * kMixedKeys)), v);
        for (int64_t r = 0; r < ranks; ++r) {
          sum = hn::MulAdd(by_query[r], hn::Set(d, q2[r * n + h]), sum);
          sum = hn::MulAdd(by_key[r], hn::LoadU(d, k2 + (r * n + h) * kMixedKeys), sum);
        }
        if (x.fixed)
          for (int64_t g = 0; g < n; ++g)
            sum =
                hn::MulAdd(hn::LoadU(d, from + g * kHeadStep), hn::Set(d, x.fixed[g * n + h]), sum);
        hn::StoreU(sum, d, to + h * kHeadStep);
      }
    }
  }
}
void mix(const Mixing& x, int64_t m, const float* a, float* y) {
  with_rank(x.rank, [&](auto rank) { mix_tile<decltype(rank)::value>(x, m, a, y); });
}

// Puts `value` where a query of the tile does not see a key, in all heads.
void hide(const MixedProblem& p, int64_t b, int64_t i0, int64_t m, int64_t block, float value,
          float* tile) {
  const int64_t j0 = block * kMixedKeys;
  const bool* mask = p.mask_row(b);
  for (int64_t t = 0; t < m; ++t) {
    int64_t lo, hi;
    p.key_range(i0 + t, i0 + t + 1, lo, hi);
    lo = std::clamp<int64_t>(lo - j0, 0, kMixedKeys),
    hi = std::clamp<int64_t>(hi - j0, lo, kMixedKeys);
    for (int64_t h = 0; h < p.heads; ++h) {
      float* row = tile + h * kHeadStep + t * kMixedKeys;
      std::fill(row, row + lo, value);
      std::fill(row + hi, row + kMixedKeys, value);
      for (int64_t j = lo; mask && j < hi; ++j)
        if (mask[(j0 + j) * p.key_mask.strides[1]]) row[j] = value;
    }
  }
}

// m rows of each head, a row `ld` apart, times `by`.
void pack_heads(const abi::TensorIn& x, int64_t heads, int64_t b, int64_t i0, int64_t m,
                int64_t width, float by, float* to, int64_t ld) {
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t t = 0; t < kMixedQueries; ++t, to += ld) {
      std::fill_n(to, ld, 0.0f);
      if (t >= m) continue;
      const float* from = MixedProblem::row(x, b, h, i0 + t);
      for (int64_t c = 0; c < width; ++c) to[c] = from[c] * by;
    }
}

// The keys of batch entry b; with rows and columns for backward.
void pack_keys(const MixedProblem& p, int64_t b, bool backward, MixedKeys& to) {
  const int64_t n = p.blocks(), d = p.width, dv = p.value_width, dp = whole_vectors(d),
                dvp = whole_vectors(dv), wide = 2 * p.factors(), rows = n * kMixedKeys;
  const int64_t all = p.heads * rows;
  if (!to.memory.data())
    to.memory = cpu::Scratch<float>(all * (d + (backward ? dp + dv : dvp)) + rows * wide);
  to.keys = to.memory.data();
  to.factors = to.keys + all * d;
  (backward ? to.key_rows : to.values) = to.factors + rows * wide;
  to.value_columns = to.factors + rows * wide + all * dp;
  to.finite.assign(at(p.heads * n), 1);
  for (int64_t h = 0; h < p.heads; ++h)
    for (int64_t block = 0; block < n; ++block) {
      const int64_t j0 = block * kMixedKeys, count = std::min(kMixedKeys, p.keys - j0),
                    first = h * rows + j0;
      const float *k = p.row(p.k, b, h, j0), *v = p.row(p.v, b, h, j0);
      pack_transposed(k, count, d, p.k.strides[2], to.keys + first * d, kMixedKeys);
      to.finite[at(h * n + block)] =
          all_finite(k, count, d, p.k.strides[2]) && all_finite(v, count, dv, p.v.strides[2]);
      auto by_rows = [&](const float* x, int64_t stride, int64_t width, int64_t ld, float* out) {
        std::fill_n(out, kMixedKeys * ld, 0.0f);
        for (int64_t j = 0; j < count; ++j) std::copy_n(x + j * stride, width, out + j * ld);
      };
      if (backward) {
        by_rows(k, p.k.strides[2], d, dp, to.key_rows + first * dp);
        pack_transposed(v, count, dv, p.v.strides[2], to.value_columns + first * dv, kMixedKeys);
      } else {
        by_rows(v, p.v.strides[2], dv, dvp, to.values + first * dvp);
      }
    }
  for (int64_t block = 0; block < n; ++block) {
    float* out = to.factors + block * wide * kMixedKeys;
    if (!p.of_keys.data) {
      std::fill_n(out, wide * kMixedKeys, 0.0f);
      continue;
    }
    const int64_t j0 = block * kMixedKeys;
    pack_transposed(p.of_keys.as<float>() + (b * p.keys + j0) * wide,
                    std::min(kMixedKeys, p.keys - j0), wide, wide, out, kMixedKeys);
  }
}

// A tile of queries [i0, i0 + m) of entry b and the strip of its tiles along the keys, blocks
// [first, last): of raw scores (backward wants them), and of probabilities.
struct Strip {
  int64_t b, i0, m, first, last;
  const float* of_queries;
  float *raw, *p;  // raw: null, or of a tile each; p
  float* spare;    // one tile
};

// One row of a tile: the greatest.
float greatest(const float* row) {
  const hn::ScalableTag<float> d;
  auto top = hn::LoadU(d, row);
  for (int64_t j = static_cast<int64_t>(hn::Lanes(d)); j < kMixedKeys;
       j += static_cast<int64_t>(hn::Lanes(d)))
    top = hn::Max(top, hn::LoadU(d, row + j));
  return hn::GetLane(hn::MaxOfLanes(d, top));
}
// row = exp(row - top), 0 for -inf; returns the sum.
float exponentials_of(float* row, float top_in) {
  const hn::ScalableTag<float> d;
  const auto top = hn::Set(d, top_in), none = hn::Set(d, -kInf<float>);
  auto sum = hn::Zero(d);
  for (int64_t j = 0; j < kMixedKeys; j += static_cast<int64_t>(hn::Lanes(d))) {
    const auto x = hn::LoadU(d, row + j);
    const auto e = hn::IfThenZeroElse(hn::Eq(x, none), exp_nonpositive(d, hn::Sub(x, top)));
    hn::StoreU(e, d, row + j);
    sum = hn::Add(sum, e);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// The probabilities of a strip: scores, mixed, normalised by head and query. q: [H, 24, D rounded
// up], with the scale in it.
void probabilities(const MixedProblem& p, const MixedKeys& keys, const Strip& s, const float* q) {
  const int64_t rows = p.heads * kMixedQueries, dp = whole_vectors(p.width);
  cpu::Scratch<float> work(2 * rows);
  float *top = work.data(), *sum = top + rows;
  std::fill_n(top, rows, -kInf<float>);
  std::fill_n(sum, rows, 0.0f);
  auto tile_of = [&](float* strip, int64_t block) { return strip + (block - s.first) * p.tile(); };
  auto each_row = [&](float* tile, auto f) {
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t t = 0; t < s.m; ++t)
        f(h * kMixedQueries + t, tile + h * kHeadStep + t * kMixedKeys);
  };
  for (int64_t block = s.first; block < s.last; ++block) {
    float *raw = s.raw ? tile_of(s.raw, block) : s.spare, *mixed = tile_of(s.p, block);
    for (int64_t h = 0; h < p.heads; ++h)
      product(s.m, kMixedKeys, p.width, q + h * kMixedQueries * dp, dp, 1,
              keys.keys + (h * p.blocks() + block) * kMixedKeys * p.width, kMixedKeys,
              raw + h * kHeadStep, kMixedKeys, false);
    mix(mixing_of(p, 0, s.of_queries, keys.factors + block * 2 * p.factors() * kMixedKeys), s.m,
        raw, mixed);
    if (p.partial(s.b, s.i0, s.m, block)) {
      hide(p, s.b, s.i0, s.m, block, -kInf<float>, mixed);
      if (s.raw) hide(p, s.b, s.i0, s.m, block, 0, raw);
    }
    each_row(mixed, [&](int64_t r, float* row) { top[r] = std::max(top[r], greatest(row)); });
  }
  for (int64_t block = s.first; block < s.last; ++block)
    each_row(tile_of(s.p, block),
             [&](int64_t r, float* row) { sum[r] += exponentials_of(row, top[r]); });
  for (int64_t block = s.first; block < s.last; ++block)
    each_row(tile_of(s.p, block), [&](int64_t r, float* row) {
      const float by = sum[r] == 0 ? 0 : 1 / sum[r];
      for (int64_t j = 0; j < kMixedKeys; ++j) row[j] *= by;
    });
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
