// Tiles of 64 queries by 64 keys: scores, probabilities and their gradients live in a 16 KB tile.
// All that a product reads row by row is packed first (rows of a head lie a power of two apart and
// would fall into the same few cache sets): keys and values once per key block, queries, with the
// scale in them, once per query block. On a tile that a window cuts, products and exponentials run
// over the band that the rows at hand see. A problem is a set of strands: rows that see each other
// (all rows of a key head, or every r-th row of a segment), which share no row. Forward is cut over
// strands x heads x query blocks. Backward is cut over strands (and over runs of key blocks when
// those are few): a task owns the gradients of its keys and values, and adds to gradients of
// queries of its own, which are summed in order at the end, so results do not depend on the thread
// count.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/scratch.h"
#include "dropin/core/parallel.h"
#include "kernels/attention/kernel.h"
#include "kernels/simd-inl.h"
#include "kernels/tile-inl.h"

#ifndef DROPIN_ATTENTION_PROBLEM_
#define DROPIN_ATTENTION_PROBLEM_
namespace dropin::kernels {

constexpr std::int64_t kTile = 64;
constexpr std::int64_t kDecodeQueries = 8;  ///< up to so many queries per key head, the keys are
                                            ///< read where they lie and split over the threads

/// One problem of rows that see each other: the arguments of both directions, unpacked. A strand of
/// a larger one is the same with other strides.
struct AttentionProblem {
  AttentionSpec spec;
  std::int64_t batch, heads, key_heads, queries, keys, width, value_width;
  abi::TensorIn q, k, v, slopes, key_mask, forbidden, added;
  abi::TensorOut o, lse, rest;  // forward
  abi::TensorIn go, glse, out;  // backward, with lse and rest
  abi::TensorOut gq, gk, gv;
  float* delta = nullptr;  // [B, H, Lq]
  std::int64_t delta_size = 0, delta_step = 1;
  std::int64_t distance = 1;  // between neighbouring rows, as ALiBi counts it

  std::int64_t group() const { return heads / key_heads; }
  static const float* row(const abi::TensorIn& t, std::int64_t b, std::int64_t h, std::int64_t i) {
    return t.as<float>() + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
  }
  static float* row(const abi::TensorOut& t, std::int64_t b, std::int64_t h, std::int64_t i) {
    return t.as<float>() + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
  }
  /// Keys [begin, end) that some query of [i0, i1) may see.
  void key_range(std::int64_t i0, std::int64_t i1, std::int64_t& begin, std::int64_t& end) const {
    begin = spec.left == INT64_MIN
                ? 0
                : std::clamp<std::int64_t>(i0 + spec.offset + spec.left, 0, keys);
    end = spec.right == INT64_MAX
              ? keys
              : std::clamp<std::int64_t>(i1 + spec.offset + spec.right, 0, keys);
  }
  /// Queries [begin, end) that may see some key of [j0, j1).
  void query_range(std::int64_t j0, std::int64_t j1, std::int64_t& begin, std::int64_t& end) const {
    begin = spec.right == INT64_MAX
                ? 0
                : std::clamp<std::int64_t>(j0 - spec.offset - spec.right, 0, queries);
    end = spec.left == INT64_MIN
              ? queries
              : std::clamp<std::int64_t>(j1 - spec.offset - spec.left, 0, queries);
  }
  /// Does every query of [i0, i1) see every key of [j0, j1) as far as the window goes?
  bool inside_window(std::int64_t i0, std::int64_t i1, std::int64_t j0, std::int64_t j1) const {
    return (spec.left == INT64_MIN || j0 - (i1 - 1 + spec.offset) >= spec.left) &&
           (spec.right == INT64_MAX || j1 - 1 - (i0 + spec.offset) <= spec.right);
  }
  const bool* mask_row(std::int64_t b) const {
    return key_mask.data ? key_mask.as<bool>() + b * key_mask.strides[0] : nullptr;
  }

  /// Rows first, first + step, ..., `count` of them, as a problem of its own.
  AttentionProblem strand(std::int64_t first, std::int64_t step, std::int64_t count) const {
    AttentionProblem p = *this;
    if (step == 1 && first == 0 && count == queries && count == keys) return p;
    auto thin = [&](abi::TensorIn& t, int dim) {
      if (!t.data) return;
      const std::int64_t size = t.dtype == DType::Boolean ? 1 : 4;
      t.data = static_cast<const char*>(t.data) + first * t.strides[dim] * size;
      t.strides[dim] *= step;
    };
    for (abi::TensorIn* t : {&p.q, &p.k, &p.v, &p.forbidden, &p.added, &p.go, &p.glse, &p.out})
      thin(*t, 2);
    for (abi::TensorOut* t : {&p.o, &p.lse, &p.rest, &p.gq, &p.gk, &p.gv}) thin(*t, 2);
    thin(p.forbidden, 3);
    thin(p.added, 3);
    thin(p.key_mask, 1);
    if (p.delta) p.delta += first;
    p.delta_step = step;
    p.distance = step;
    p.queries = p.keys = count;
    return p;
  }
};

/// Heads [head, head + heads) of batch b, of one key head, and the rows of a strand.
struct Strand {
  std::int64_t b, head, heads, first, step, count;
  std::int64_t packed = 0,
               blocks = 0;  ///< its first row and its first block among those of all strands
};

/// The strands of a problem: one per key head, or those that spec.segment, step and first cut from
/// each head.
inline std::vector<Strand> strands_of(const AttentionProblem& p) {
  std::vector<Strand> all;
  if (!p.spec.step) {
    for (std::int64_t b = 0; b < p.batch; ++b)
      for (std::int64_t hk = 0; hk < p.key_heads; ++hk)
        all.push_back({b, hk * p.group(), p.group(), 0, 1, p.keys});
    return all;
  }
  const std::int64_t segment = p.spec.segment > 0 ? std::min(p.spec.segment, p.keys) : p.keys;
  for (std::int64_t b = 0; b < p.batch; ++b)
    for (std::int64_t h = 0; h < p.heads; ++h) {
      const std::int64_t step = p.spec.step[h], from = p.spec.first ? p.spec.first[h] : -1;
      for (std::int64_t start = 0; start < p.keys; start += segment) {
        const std::int64_t size = std::min(segment, p.keys - start);
        const std::int64_t lo = from < 0 ? 0 : from,
                           hi = from < 0 ? std::min(step, size) : std::min(from + 1, size);
        for (std::int64_t r = lo; r < hi; ++r)
          all.push_back({b, h, 1, start + r, step, (size - r + step - 1) / step});
      }
    }
  std::stable_sort(all.begin(), all.end(), [](const Strand& x, const Strand& y) {
    return x.count > y.count;
  });  // the long ones first
  return all;
}

/// A row of n floats in whole vectors.
inline std::int64_t rounded(std::int64_t n) { return (n + 15) / 16 * 16; }
/// Columns of the last block of n keys: whole vectors.
inline std::int64_t padded(std::int64_t n) { return std::min(kTile, rounded(n)); }

}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

constexpr float kInfinity = HUGE_VALF;

// --- one tile of scores

// What lies over a tile: nothing, everything, or element by element.
enum class Cover { None, Full, Partial };

Cover cover(const AttentionProblem& p, std::int64_t b, std::int64_t i0, std::int64_t i1,
            std::int64_t j0, std::int64_t j1) {
  std::int64_t begin, end;
  p.key_range(i0, i1, begin, end);
  if (j1 <= begin || j0 >= end) return Cover::None;
  bool partial = !p.inside_window(i0, i1, j0, j1) || p.forbidden.data || j1 - j0 < kTile;
  if (const bool* mask = p.mask_row(b)) {
    std::int64_t hidden = 0;
    for (std::int64_t j = j0; j < j1; ++j) hidden += mask[j * p.key_mask.strides[1]];
    if (hidden == j1 - j0) return Cover::None;
    partial = partial || hidden;
  }
  return partial ? Cover::Partial : Cover::Full;
}

// The columns [lo, hi) of a tile that some of rows [i, i + rows) of it may see, in whole vectors.
struct Band {
  std::int64_t lo, hi;
};
Band band(const AttentionProblem& p, Cover c, std::int64_t i, std::int64_t rows, std::int64_t j0,
          std::int64_t j1) {
  const std::int64_t ld = padded(j1 - j0);
  if (c == Cover::Full) return {0, ld};
  std::int64_t begin, end;
  p.key_range(i, i + rows, begin, end);
  begin = std::max(begin, j0) - j0, end = std::min(end, j1) - j0;
  return begin < end ? Band{begin / 16 * 16, std::min(ld, (end + 15) / 16 * 16)} : Band{0, 0};
}

/// f(first, rows) over m rows in the groups that the products take.
template <class F>
HWY_INLINE void for_groups(std::int64_t m, F&& f) {
  std::int64_t i = 0;
  for (; i + kRows <= m; i += kRows) f(i, std::int64_t{kRows});
  for (; i + 4 <= m; i += 4) f(i, std::int64_t{4});
  for (; i < m; ++i) f(i, std::int64_t{1});
}
HWY_INLINE void group_product(std::int64_t rows, std::int64_t n, std::int64_t depth, const float* a,
                              std::int64_t ar, std::int64_t ak, const float* b, std::int64_t ldb,
                              float* c, std::int64_t ldc, bool add) {
  if (rows == kRows)
    product_rows<kRows>(n, depth, a, ar, ak, b, ldb, c, ldc, add);
  else if (rows == 4)
    product_rows<4>(n, depth, a, ar, ak, b, ldb, c, ldc, add);
  else
    product_rows<1>(n, depth, a, ar, ak, b, ldb, c, ldc, add);
}

// Does a product q k^T need anything done to it before it is a score?
bool plain_scores(const AttentionProblem& p, Cover c) {
  return c == Cover::Full && p.spec.bias == 0 && !p.slopes.data && !p.added.data;
}

// Turns products q k^T in columns [in.lo, in.hi) of row i into scores: biases, and -inf where a key
// is not seen.
void finish_row(const AttentionProblem& p, std::int64_t b, std::int64_t h, std::int64_t i,
                std::int64_t j0, std::int64_t j1, Cover covered, Band in, float* row) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float slope =
      p.slopes.data ? p.slopes.as<float>()[h * p.slopes.strides[0]] * static_cast<float>(p.distance)
                    : 0;
  if (p.spec.bias != 0) {
    const auto bias = hn::Set(d, static_cast<float>(p.spec.bias));
    for (std::int64_t j = in.lo; j < in.hi; j += lanes)
      hn::StoreU(hn::Add(hn::LoadU(d, row + j), bias), d, row + j);
  }
  const std::int64_t from = j0 + in.lo, to = std::min(j1, j0 + in.hi);
  if (slope != 0) {
    const float position = static_cast<float>(i + p.spec.alibi_offset);
    for (std::int64_t j = from; j < to; ++j)
      row[j - j0] -= slope * std::abs(position - static_cast<float>(j));
  }
  if (p.added.data) {
    const float* add = p.added.as<float>() + b * p.added.strides[0] + h * p.added.strides[1] +
                       i * p.added.strides[2];
    for (std::int64_t j = from; j < to; ++j) {
      const float x = add[j * p.added.strides[3]];
      row[j - j0] = x == -kInfinity ? -kInfinity : row[j - j0] + x;
    }
  }
  if (covered != Cover::Partial) return;
  std::int64_t begin, end;
  p.key_range(i, i + 1, begin, end);
  begin = std::clamp(begin, from, to);
  end = std::clamp(end, begin, to);
  std::fill(row + in.lo, row + (begin - j0), -kInfinity);
  std::fill(row + (end - j0), row + in.hi, -kInfinity);
  if (const bool* mask = p.mask_row(b))
    for (std::int64_t j = begin; j < end; ++j)
      if (mask[j * p.key_mask.strides[1]]) row[j - j0] = -kInfinity;
  if (p.forbidden.data) {
    const bool* f = p.forbidden.as<bool>() + b * p.forbidden.strides[0] +
                    h * p.forbidden.strides[1] + i * p.forbidden.strides[2];
    for (std::int64_t j = begin; j < end; ++j)
      if (f[j * p.forbidden.strides[3]]) row[j - j0] = -kInfinity;
  }
}

// row = exp(row - m) over a band; returns the sum. -inf gives 0, also when m is -inf; `plain` rows
// have none.
float exponentials(float* row, Band in, float m, bool plain) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto top = hn::Set(d, m), none = hn::Set(d, -kInfinity);
  auto sum = hn::Zero(d);
  if (plain) {
    for (std::int64_t j = in.lo; j < in.hi; j += lanes) {
      const auto e = exp_weight(d, hn::Sub(hn::LoadU(d, row + j), top));
      hn::StoreU(e, d, row + j);
      sum = hn::Add(sum, e);
    }
    return hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (std::int64_t j = in.lo; j < in.hi; j += lanes) {
    const auto x = hn::LoadU(d, row + j);
    const auto e = hn::IfThenZeroElse(hn::Eq(x, none), exp_nonpositive(d, hn::Sub(x, top)));
    hn::StoreU(e, d, row + j);
    sum = hn::Add(sum, e);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}
// The largest; a NaN among them may be missed here, and comes out of the exponentials.
float largest(const float* row, Band in) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto m = hn::Set(d, -kInfinity);
  for (std::int64_t j = in.lo; j < in.hi; j += lanes) m = hn::Max(m, hn::LoadU(d, row + j));
  return hn::GetLane(hn::MaxOfLanes(d, m));
}
/// 1 / (1 + e^-x): a division's worth of accuracy from the reciprocal estimate and one Newton step.
template <class D>
HWY_INLINE VecOf<D> weight_of(D d, VecOf<D> x) {
  const auto one = hn::Set(d, 1.0f), e = exp_nonpositive(d, hn::Neg(hn::Abs(x))),
             y = hn::Add(one, e);
  auto r = hn::ApproximateReciprocal(y);
  r = hn::Mul(r, hn::NegMulAdd(y, r, hn::Set(d, 2.0f)));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Mul(e, r), r);
}
void sigmoids(float* row, Band in) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t j = in.lo; j < in.hi; j += lanes)
    hn::StoreU(weight_of(d, hn::LoadU(d, row + j)), d, row + j);
}
void scale_row(float* row, std::int64_t n, float by) {
  for (std::int64_t j = 0; j < n; ++j) row[j] *= by;
}

// n rows of w floats, a stride apart, times `by`, as rows of `ld` (the rest is 0).
void pack_rows(const float* x, std::int64_t n, std::int64_t w, std::int64_t stride, float by,
               float* out, std::int64_t ld) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float* from = x + i * stride;
    float* to = out + i * ld;
    if (by == 1)
      std::copy_n(from, w, to);
    else
      for (std::int64_t c = 0; c < w; ++c) to[c] = from[c] * by;
    std::fill(to + w, to + ld, 0.0f);
  }
}

// --- forward

// What a block of queries knows after some of its keys: the largest score, the sum of exponentials,
// and the values weighted so far.
struct Running {
  float *top, *sum, *acc;  // [rows], [rows], [rows, width]
  std::int64_t width;      // Dv, or more
};

// The weights of row i of a tile from its scores, in place; what was there before is rescaled.
void absorb_row(const AttentionProblem& p, Band in, std::int64_t i, float* row, bool plain,
                const Running& r) {
  if (p.spec.kind == ScoreKind::Sigmoid) return sigmoids(row, in);
  const float t = largest(row, in);
  float high = std::isnan(t) || std::isnan(r.top[i]) ? std::nanf("") : std::max(r.top[i], t);
  if (high == -kInfinity) {
    if (std::none_of(row + in.lo, row + in.hi,
                     [](float x) { return std::isnan(x); })) {  // nothing seen yet
      std::fill(row + in.lo, row + in.hi, 0.0f);
      return;
    }
    high = std::nanf("");
  }
  const float shrink = r.top[i] == high         ? 1
                       : r.top[i] == -kInfinity ? 0
                                                : std::exp(r.top[i] - high);
  r.sum[i] = r.sum[i] * shrink + exponentials(row, in, high, plain);
  if (shrink != 1) scale_row(r.acc + i * r.width, r.width, shrink);
  r.top[i] = high;
}

void clear(std::int64_t m, const Running& r) {
  std::fill_n(r.top, m, -kInfinity);
  std::fill_n(r.sum, m, 0.0f);
  std::fill_n(r.acc, m * r.width, 0.0f);
}

// The sum of two numbers, and what rounding takes from it (Knuth's two-sum).
struct TwoSum {
  float sum, rest;
};
TwoSum two_sum(float a, float b) {
  const float sum = a + b, of_b = sum - a, rest = (a - (sum - of_b)) + (b - of_b);
  return {sum, std::isfinite(sum) ? rest : 0};
}

// Writes rows [i0, i0 + m) of head h, or merges them into what is there when the problem
// accumulates.
void finish(const AttentionProblem& p, std::int64_t b, std::int64_t h, std::int64_t i0,
            std::int64_t m, const Running& r) {
  const std::int64_t dv = p.value_width;
  const bool softmax = p.spec.kind == ScoreKind::Softmax;
  for (std::int64_t i = 0; i < m; ++i) {
    float *o = p.row(p.o, b, h, i0 + i), *acc = r.acc + i * r.width;
    if (!softmax) {
      if (p.spec.accumulate)
        for (std::int64_t c = 0; c < dv; ++c) o[c] += acc[c];
      else
        std::copy_n(acc, dv, o);
      continue;
    }
    float* lse = p.lse.data ? p.row(p.lse, b, h, i0 + i) : nullptr;
    const bool blind = r.sum[i] == 0;
    const TwoSum mine = blind ? TwoSum{-kInfinity, 0} : two_sum(r.top[i], std::log(r.sum[i]));
    float* rest = lse ? p.row(p.rest, b, h, i0 + i) : nullptr;
    if (p.spec.accumulate) {
      if (blind) continue;
      const float old = *lse;
      if (old != -kInfinity) {
        // The shares by their own sum, which makes them add up to 1.
        const float high = std::max(old, mine.sum), a = std::exp(old - high + *rest),
                    m = std::exp(mine.sum - high + mine.rest);
        const float keep = a / (a + m), take = m / (a + m) / r.sum[i];
        for (std::int64_t c = 0; c < dv; ++c) o[c] = o[c] * keep + acc[c] * take;
        const TwoSum both = two_sum(high, std::log(a + m));
        *lse = both.sum, *rest = both.rest;
        continue;
      }
    }
    const float by = blind ? 0 : 1 / r.sum[i];
    for (std::int64_t c = 0; c < dv; ++c) o[c] = blind ? 0 : acc[c] * by;
    if (lse) *lse = mine.sum, *rest = mine.rest;
  }
}

// The packed keys and values of one strand: per block of 64, the keys transposed [D, padded(n)] and
// the values [n, dvp]; `finite` tells which blocks' values are.
struct Packed {
  float *keys, *values;
  unsigned char* finite;
  std::int64_t dvp;
};

// One block of queries of one head. work: the scores [kTile, kTile], the queries [kTile, D], the
// weighted values [kTile, dvp].
void forward_block(const AttentionProblem& p, std::int64_t b, std::int64_t h, std::int64_t i0,
                   const Packed& k, float* work) {
  const std::int64_t i1 = std::min(p.queries, i0 + kTile), m = i1 - i0, d = p.width, dvp = k.dvp;
  float *s = work, *q = s + kTile * kTile, top[kTile], sum[kTile];
  const Running r{top, sum, q + kTile * d, dvp};
  clear(m, r);
  pack_rows(p.row(p.q, b, h, i0), m, d, p.q.strides[2], static_cast<float>(p.spec.scale), q, d);
  std::int64_t begin, end;
  p.key_range(i0, i1, begin, end);
  for (std::int64_t j0 = begin / kTile * kTile; j0 < end; j0 += kTile) {
    const std::int64_t j1 = std::min(p.keys, j0 + kTile), n = j1 - j0, ld = padded(n);
    const Cover c = cover(p, b, i0, i1, j0, j1);
    if (c == Cover::None) continue;
    const float *kt = k.keys + j0 * d, *v = k.values + j0 * dvp;
    const bool plain = plain_scores(p, c), careful = c == Cover::Partial && !k.finite[j0 / kTile];
    Band bands[kTile];
    for_groups(m, [&](std::int64_t i, std::int64_t rows) {
      const Band in = bands[i] = band(p, c, i0 + i, rows, j0, j1);
      if (careful) std::fill_n(s + i * kTile, rows * kTile, 0.0f);
      if (in.hi > in.lo)
        group_product(rows, in.hi - in.lo, d, q + i * d, d, 1, kt + in.lo, ld,
                      s + i * kTile + in.lo, kTile, false);
    });
    for_groups(m, [&](std::int64_t i, std::int64_t rows) {
      const Band in = bands[i];
      if (in.hi == in.lo) return;
      for (std::int64_t t = i; t < i + rows; ++t) {
        if (!plain) finish_row(p, b, h, i0 + t, j0, j1, c, in, s + t * kTile);
        absorb_row(p, in, t, s + t * kTile, plain, r);
      }
      if (!careful)
        group_product(rows, dvp, std::min(in.hi, n) - in.lo, s + i * kTile + in.lo, kTile, 1,
                      v + in.lo * dvp, dvp, r.acc + i * dvp, dvp, true);
    });
    if (careful) careful_product(m, dvp, n, s, kTile, 1, v, dvp, r.acc, dvp, true);
  }
  finish(p, b, h, i0, m, r);
}

float dot(const float* a, const float* b, std::int64_t n) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = hn::Zero(d);
  std::int64_t c = 0;
  for (; c + 2 * lanes <= n; c += 2 * lanes) {
    s0 = hn::MulAdd(hn::LoadU(d, a + c), hn::LoadU(d, b + c), s0);
    s1 = hn::MulAdd(hn::LoadU(d, a + c + lanes), hn::LoadU(d, b + c + lanes), s1);
  }
  float sum = 0;
  for (; c < n; ++c) sum += a[c] * b[c];
  return sum + hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1)));
}

// Few queries against many keys, as in decoding: reading the keys is all the cost, so they are not
// packed, and cut over the threads.
void decode(const AttentionProblem& p) {
  const std::int64_t group = p.group(), rows = group * p.queries, dv = p.value_width,
                     heads = p.batch * p.key_heads;
  std::int64_t begin, end;
  p.key_range(0, p.queries, begin, end);
  const std::int64_t first = begin / kTile,
                     blocks = std::max<std::int64_t>(0, (end + kTile - 1) / kTile - first);
  const std::int64_t splits = std::clamp<std::int64_t>(
                         blocks / 8, 1,
                         std::max<std::int64_t>(1, 16 / std::max<std::int64_t>(1, heads))),
                     part = rows * (dv + 2);
  cpu::Scratch<float> parts(heads * splits * part);
  auto running = [&](std::int64_t t) {
    float* at = parts.data() + t * part;
    return Running{at, at + rows, at + 2 * rows, dv};
  };
  parallel_for(heads * splits, 1, [&](std::int64_t t0, std::int64_t t1) {
    float s[kDecodeQueries * kTile];
    const float scale = static_cast<float>(p.spec.scale);
    for (std::int64_t t = t0; t < t1; ++t) {
      const std::int64_t b = t / splits / p.key_heads, hk = t / splits % p.key_heads,
                         split = t % splits;
      const Running all = running(t);
      clear(rows, all);
      for (std::int64_t block = first + blocks * split / splits;
           block < first + blocks * (split + 1) / splits; ++block) {
        const std::int64_t j0 = block * kTile, j1 = std::min(p.keys, j0 + kTile), n = j1 - j0;
        const Cover c = cover(p, b, 0, p.queries, j0, j1);
        if (c == Cover::None) continue;
        const float *k = p.row(p.k, b, hk, j0), *v = p.row(p.v, b, hk, j0);
        const bool careful = c == Cover::Partial && !all_finite(v, n, dv, p.v.strides[2]);
        const Band in{0, padded(n)};
        for (std::int64_t g = 0; g < group; ++g) {
          const Running own{all.top + g * p.queries, all.sum + g * p.queries,
                            all.acc + g * p.queries * dv, dv};
          for (std::int64_t i = 0; i < p.queries; ++i) {
            const float* q = p.row(p.q, b, hk * group + g, i);
            float* row = s + i * kTile;
            for (std::int64_t j = 0; j < n; ++j)
              row[j] = dot(q, k + j * p.k.strides[2], p.width) * scale;
            std::fill(row + n, row + in.hi, 0.0f);
            if (!plain_scores(p, c)) finish_row(p, b, hk * group + g, i, j0, j1, c, in, row);
            absorb_row(p, in, i, row, false, own);
          }
          masked_product(careful, p.queries, dv, n, s, kTile, 1, v, p.v.strides[2], own.acc, dv,
                         true);
        }
      }
    }
  });
  // the parts of a head, in order
  for (std::int64_t t = 0; t < heads; ++t) {
    const Running all = running(t * splits);
    for (std::int64_t split = 1; split < splits; ++split) {
      const Running more = running(t * splits + split);
      for (std::int64_t i = 0; i < rows; ++i) {
        float keep = 1, take = 1;
        if (p.spec.kind == ScoreKind::Softmax) {
          const float high = std::isnan(all.top[i]) || std::isnan(more.top[i])
                                 ? std::nanf("")
                                 : std::max(all.top[i], more.top[i]);
          if (high == -kInfinity) continue;
          keep = all.top[i] == -kInfinity ? 0 : std::exp(all.top[i] - high);
          take = more.top[i] == -kInfinity ? 0 : std::exp(more.top[i] - high);
          all.sum[i] = all.sum[i] * keep + more.sum[i] * take;
          all.top[i] = high;
        }
        for (std::int64_t c = 0; c < dv; ++c)
          all.acc[i * dv + c] = all.acc[i * dv + c] * keep + more.acc[i * dv + c] * take;
      }
    }
    for (std::int64_t g = 0; g < group; ++g)
      finish(p, t / p.key_heads, t % p.key_heads * group + g, 0, p.queries,
             {all.top + g * p.queries, all.sum + g * p.queries, all.acc + g * p.queries * dv, dv});
  }
}

void Forward(const AttentionProblem& p) {
  if (!p.spec.step && p.queries <= kDecodeQueries && p.queries < p.keys) return decode(p);
  std::vector<Strand> strands = strands_of(p);
  struct Item {
    std::int64_t strand, head, block;
  };
  struct KeyBlock {
    std::int64_t strand, block;
  };
  std::vector<Item> items;
  std::vector<KeyBlock> key_blocks;
  const std::int64_t d = p.width, dvp = rounded(p.value_width);
  std::int64_t rows = 0, blocks_in_all = 0;
  for (std::int64_t t = 0; t < static_cast<std::int64_t>(strands.size()); ++t) {
    Strand& s = strands[static_cast<std::size_t>(t)];
    s.packed = rows;
    s.blocks = blocks_in_all;
    rows += s.count / kTile * kTile + padded(s.count % kTile);
    blocks_in_all += (s.count + kTile - 1) / kTile;
    const std::int64_t blocks = ((p.spec.step ? s.count : p.queries) + kTile - 1) / kTile;
    for (std::int64_t j = 0; j < s.count; j += kTile) key_blocks.push_back({t, j});
    for (std::int64_t g = 0; g < s.heads; ++g)
      for (std::int64_t i = 0; i < blocks; ++i)
        items.push_back({t, s.head + g,
                         p.spec.right == INT64_MAX
                             ? i
                             : blocks - 1 - i});  // the long rows of a causal problem first
  }
  // keys and values in blocks: as much memory as they take themselves
  cpu::Scratch<float> keys(rows * d), values(rows * dvp);
  std::vector<unsigned char> finite(static_cast<std::size_t>(blocks_in_all));
  auto packed_of = [&](const Strand& s) {
    return Packed{keys.data() + s.packed * d, values.data() + s.packed * dvp,
                  finite.data() + s.blocks, dvp};
  };
  parallel_for(
      static_cast<std::int64_t>(key_blocks.size()), 8, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t t = first; t < last; ++t) {
          const KeyBlock& k = key_blocks[static_cast<std::size_t>(t)];
          const Strand& s = strands[static_cast<std::size_t>(k.strand)];
          const Packed to = packed_of(s);
          const std::int64_t n = std::min(kTile, s.count - k.block),
                             at = s.first + k.block * s.step, hk = s.head / p.group();
          pack_transposed(p.row(p.k, s.b, hk, at), n, d, p.k.strides[2] * s.step,
                          to.keys + k.block * d, padded(n));
          float* v = to.values + k.block * dvp;
          pack_rows(p.row(p.v, s.b, hk, at), n, p.value_width, p.v.strides[2] * s.step, 1, v, dvp);
          to.finite[k.block / kTile] = all_finite(v, n, dvp, dvp);
        }
      });
  parallel_for(
      static_cast<std::int64_t>(items.size()), 1, [&](std::int64_t first, std::int64_t last) {
        cpu::Scratch<float> work(kTile * (kTile + d + dvp));
        for (std::int64_t t = first; t < last; ++t) {
          const Item& item = items[static_cast<std::size_t>(t)];
          const Strand& s = strands[static_cast<std::size_t>(item.strand)];
          const AttentionProblem part = p.spec.step ? p.strand(s.first, s.step, s.count) : p;
          forward_block(part, s.b, item.head, item.block * kTile, packed_of(s), work.data());
        }
      });
}

// --- backward

// The tiles of a task, and its queries and their gradients packed: kt [D, 64], vt [Dv, 64], k [64,
// dp], s and ds [64, 64], gk [64, dp], gv [64, dvp]; q [heads, rows, dp] with the scale in it, go
// [heads, rows, dvp] for queries [from, to).
struct BackwardWork {
  float *kt, *vt, *k, *s, *ds, *gk, *gv, *q, *go;
};

// Queries [i0, i0 + m) against keys [j0, j0 + n) of head h.
struct Tile {
  std::int64_t b, h, i0, m, j0, n;
  Cover cover;
  bool plain;
  Band bands[kTile];
  Tile(const AttentionProblem& p, std::int64_t b_, std::int64_t h_, std::int64_t i, std::int64_t j)
      : b(b_),
        h(h_),
        i0(i),
        m(std::min(kTile, p.queries - i)),
        j0(j),
        n(std::min(kTile, p.keys - j)),
        cover(kernels::HWY_NAMESPACE::cover(p, b, i, i + m, j, j + n)),
        plain(plain_scores(p, cover)) {}
};

// s becomes the probabilities, ds their gradient go v^T times what softmax or sigmoid makes of it:
// the gradient of the scores. kOwn: ds stays go v^T, and per row its mean under the probabilities
// is gathered: own += sum of s ds, mass += sum of s.
template <bool kOwn>
void tile_scores(const AttentionProblem& p, Tile& t, const float* q, const float* kt,
                 const float* go, const float* vt, float* s, float* ds, float* own, float* mass) {
  const bool softmax = p.spec.kind == ScoreKind::Softmax;
  const std::int64_t d = p.width, dv = p.value_width, dp = rounded(d), dvp = rounded(dv),
                     ld = padded(t.n);
  const hn::ScalableTag<float> tag;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(tag));
  const auto zero = hn::Zero(tag), one = hn::Set(tag, 1.0f), none = hn::Set(tag, -kInfinity);
  for_groups(t.m, [&](std::int64_t i, std::int64_t rows) {
    const Band in = t.bands[i] = band(p, t.cover, t.i0 + i, rows, t.j0, t.j0 + t.n);
    if (in.hi > in.lo)
      group_product(rows, in.hi - in.lo, d, q + i * dp, dp, 1, kt + in.lo, ld,
                    s + i * kTile + in.lo, kTile, false);
  });
  for_groups(t.m, [&](std::int64_t i, std::int64_t rows) {
    const Band in = t.bands[i];
    if (in.hi > in.lo)
      group_product(rows, in.hi - in.lo, dv, go + i * dvp, dvp, 1, vt + in.lo, ld,
                    ds + i * kTile + in.lo, kTile, false);
  });
  for_groups(t.m, [&](std::int64_t first, std::int64_t rows) {
    const Band in = t.bands[first];
    for (std::int64_t i = first; i < first + rows; ++i) {
      float *row = s + i * kTile, *drow = ds + i * kTile;
      if (t.cover == Cover::Partial)
        for (float* x : {row, drow})
          std::fill(x, x + in.lo, 0.0f), std::fill(x + in.hi, x + ld, 0.0f);
      if (!t.plain && in.hi > in.lo)
        finish_row(p, t.b, t.h, t.i0 + i, t.j0, t.j0 + t.n, t.cover, in, row);
      // a query that sees nothing has lse -inf: every score is -inf and every probability 0
      const auto top = hn::Set(tag, softmax ? *p.row(p.lse, t.b, t.h, t.i0 + i) : 0.0f),
                 rest = hn::Set(tag, softmax ? *p.row(p.rest, t.b, t.h, t.i0 + i) : 0.0f);
      const auto shift = hn::Set(
          tag, softmax && !kOwn
                   ? p.delta[(t.b * p.heads + t.h) * p.delta_size + (t.i0 + i) * p.delta_step]
                   : 0.0f);
      auto sum_own = zero, sum_mass = zero;
      for (std::int64_t j = in.lo; j < in.hi; j += lanes) {
        const auto x = hn::LoadU(tag, row + j), dprob = hn::LoadU(tag, drow + j);
        const auto hidden = hn::Eq(x, none);
        auto pr = zero, slope = zero;
        if (!softmax) {
          pr = hn::IfThenZeroElse(hidden, weight_of(tag, x));
          slope = hn::IfThenZeroElse(hidden, hn::Mul(hn::Mul(pr, hn::Sub(one, pr)), dprob));
        } else {
          // lse is rounded, so a score may exceed it by a hair; the exponent is kept at 0 or below
          // (a NaN stays)
          const auto exponent = at_most(tag, hn::Sub(hn::Sub(x, top), rest), 0.0f);
          if (t.plain) {
            pr = exp_weight(tag, exponent);
            slope = hn::Mul(pr, hn::Sub(dprob, shift));
          } else {
            pr = hn::IfThenZeroElse(hidden, exp_nonpositive(tag, exponent));
            slope = hn::IfThenZeroElse(hidden, hn::Mul(pr, hn::Sub(dprob, shift)));
          }
        }
        hn::StoreU(pr, tag, row + j);
        if (kOwn) {
          sum_own = hn::Add(sum_own, slope);
          sum_mass = hn::Add(sum_mass, pr);
        } else {
          hn::StoreU(slope, tag, drow + j);
        }
      }
      if (kOwn) {
        own[i] += hn::GetLane(hn::SumOfLanes(tag, sum_own));
        mass[i] += hn::GetLane(hn::SumOfLanes(tag, sum_mass));
      }
    }
  });
}

// What the gradient of the scores ds and the probabilities s give: gq += ds k, gv += s^T go, gk +=
// ds^T q.
void tile_gradients(const AttentionProblem& p, const Tile& t, bool careful, const float* s,
                    const float* ds, const float* q, const float* go, const float* k, float* gq,
                    float* gk, float* gv) {
  const std::int64_t m = t.m, n = t.n, dp = rounded(p.width), dvp = rounded(p.value_width);
  if (careful) {
    careful_product(n, dvp, m, s, 1, kTile, go, dvp, gv, dvp, true);
    careful_product(n, dp, m, ds, 1, kTile, q, dp, gk, dp, true);
    careful_product(m, dp, n, ds, kTile, 1, k, dp, gq, dp, true);
    return;
  }
  for_groups(m, [&](std::int64_t i, std::int64_t rows) {
    const Band in = t.bands[i];
    if (in.hi > in.lo)
      group_product(rows, dp, std::min(in.hi, n) - in.lo, ds + i * kTile + in.lo, kTile, 1,
                    k + in.lo * dp, dp, gq + i * dp, dp, true);
  });
  auto queries_of = [&](std::int64_t j,
                        std::int64_t rows) {  // of this tile, those that may see keys [j, j + rows)
    if (t.cover == Cover::Full) return Band{0, m};
    std::int64_t lo, hi;
    p.query_range(t.j0 + j, t.j0 + j + rows, lo, hi);
    lo = std::clamp<std::int64_t>(lo - t.i0, 0, m);
    return Band{lo, std::clamp<std::int64_t>(hi - t.i0, lo, m)};
  };
  for_groups(n, [&](std::int64_t j, std::int64_t rows) {
    const Band in = queries_of(j, rows);
    if (in.hi > in.lo)
      group_product(rows, dvp, in.hi - in.lo, s + in.lo * kTile + j, 1, kTile, go + in.lo * dvp,
                    dvp, gv + j * dvp, dvp, true);
  });
  for_groups(n, [&](std::int64_t j, std::int64_t rows) {
    const Band in = queries_of(j, rows);
    if (in.hi > in.lo)
      group_product(rows, dp, in.hi - in.lo, ds + in.lo * kTile + j, 1, kTile, q + in.lo * dp, dp,
                    gk + j * dp, dp, true);
  });
}

void pack_queries(const AttentionProblem& p, const Strand& strand, std::int64_t from,
                  std::int64_t to, float* q, float* go) {
  const std::int64_t d = p.width, dv = p.value_width, dp = rounded(d), dvp = rounded(dv),
                     span = to - from, rows = std::min(p.queries, to) - from;
  for (std::int64_t g = 0; g < strand.heads; ++g) {
    pack_rows(p.row(p.q, strand.b, strand.head + g, from), rows, d, p.q.strides[2],
              static_cast<float>(p.spec.scale), q + g * span * dp, dp);
    pack_rows(p.row(p.go, strand.b, strand.head + g, from), rows, dv, p.go.strides[2], 1,
              go + g * span * dvp, dvp);
  }
}

// The keys [j0, j0 + n) and values packed; returns whether all are finite.
bool pack_keys(const AttentionProblem& p, const Strand& strand, std::int64_t j0, std::int64_t n,
               float* kt, float* vt, float* k) {
  const std::int64_t hk = strand.head / p.group(), d = p.width, dv = p.value_width, dp = rounded(d),
                     ld = padded(n);
  pack_transposed(p.row(p.k, strand.b, hk, j0), n, d, p.k.strides[2], kt, ld);
  pack_transposed(p.row(p.v, strand.b, hk, j0), n, dv, p.v.strides[2], vt, ld);
  pack_rows(p.row(p.k, strand.b, hk, j0), n, d, p.k.strides[2], 1, k, dp);
  return all_finite(k, n, dp, dp) && all_finite(vt, dv, ld, ld);
}

void store_keys(const AttentionProblem& p, const Strand& strand, std::int64_t j0, std::int64_t n,
                const float* from_k, const float* from_v) {
  const std::int64_t hk = strand.head / p.group(), d = p.width, dv = p.value_width, dp = rounded(d),
                     dvp = rounded(dv);
  for (std::int64_t j = 0; j < n; ++j) {
    float *gk = p.row(p.gk, strand.b, hk, j0 + j), *gv = p.row(p.gv, strand.b, hk, j0 + j);
    if (p.spec.accumulate) {
      for (std::int64_t c = 0; c < d; ++c) gk[c] += from_k[j * dp + c];
      for (std::int64_t c = 0; c < dv; ++c) gv[c] += from_v[j * dvp + c];
    } else {
      std::copy_n(from_k + j * dp, d, gk);
      std::copy_n(from_v + j * dvp, dv, gv);
    }
  }
}

// Key blocks [block0, block1) of one strand: their gradients, and their share of the gradients of
// queries [from, to) of its heads (gq: [heads, to - from, dp], added to, without the scale).
void backward_run(const AttentionProblem& p, const Strand& strand, std::int64_t block0,
                  std::int64_t block1, std::int64_t from, std::int64_t to, float* gq,
                  const BackwardWork& w) {
  const std::int64_t dp = rounded(p.width), dvp = rounded(p.value_width), span = to - from;
  pack_queries(p, strand, from, to, w.q, w.go);
  for (std::int64_t block = block0; block < block1; ++block) {
    const std::int64_t j0 = block * kTile, n = std::min(kTile, p.keys - j0);
    const bool finite = pack_keys(p, strand, j0, n, w.kt, w.vt, w.k);
    std::fill_n(w.gk, n * dp, 0.0f);
    std::fill_n(w.gv, n * dvp, 0.0f);
    std::int64_t begin, end;
    p.query_range(j0, j0 + n, begin, end);
    for (std::int64_t g = 0; g < strand.heads; ++g)
      for (std::int64_t i0 = begin / kTile * kTile; i0 < end; i0 += kTile) {
        Tile t(p, strand.b, strand.head + g, i0, j0);
        if (t.cover == Cover::None) continue;
        const std::int64_t at = g * span + i0 - from;
        const float *q = w.q + at * dp, *go = w.go + at * dvp;
        const bool careful = t.cover == Cover::Partial && (!finite || !all_finite(q, t.m, dp, dp) ||
                                                           !all_finite(go, t.m, dvp, dvp));
        tile_scores<false>(p, t, q, w.kt, go, w.vt, w.s, w.ds, nullptr, nullptr);
        tile_gradients(p, t, careful, w.s, w.ds, q, go, w.k, gq + at * dp, w.gk, w.gv);
      }
    store_keys(p, strand, j0, n, w.gk, w.gv);
  }
}

// The whole of a strand whose probabilities are its share of a mixture, a share that is held
// constant: a row's shift is the mean of go v^T under its own probabilities, which is only known
// once all its keys were seen. The tiles of a short strand are kept between the two passes; a long
// one makes them again.
constexpr std::int64_t kKeptRows = 256;
void backward_own(const AttentionProblem& p, const Strand& strand, float* gq,
                  const BackwardWork& w) {
  const std::int64_t d = p.width, dv = p.value_width, dp = rounded(d), dvp = rounded(dv),
                     count = p.keys, blocks = (count + kTile - 1) / kTile, area = kTile * kTile;
  const std::int64_t span = blocks * kTile;
  const bool keep = count <= kKeptRows;
  pack_queries(p, strand, 0, span, w.q, w.go);
  cpu::Scratch<float> work(blocks * kTile * (d + dv + 2 * dp + dvp) + 2 * span +
                           (keep ? 2 * blocks * blocks * area : 0));
  float *kt = work.data(), *vt = kt + span * d, *k = vt + span * dv, *gk = k + span * dp,
        *gv = gk + span * dp, *own = gv + span * dvp, *mass = own + span, *kept = mass + span;
  bool finite = all_finite(w.q, count, dp, dp) && all_finite(w.go, count, dvp, dvp);
  for (std::int64_t j0 = 0; j0 < count; j0 += kTile)
    finite &= pack_keys(p, strand, j0, std::min(kTile, count - j0), kt + j0 * d, vt + j0 * dv,
                        k + j0 * dp);
  std::fill_n(gk, span * (dp + dvp), 0.0f);
  std::fill_n(own, 2 * span, 0.0f);
  auto tiles = [&](bool first) {
    for (std::int64_t i0 = 0; i0 < count; i0 += kTile) {
      std::int64_t begin, end;
      p.key_range(i0, std::min(count, i0 + kTile), begin, end);
      for (std::int64_t j0 = begin / kTile * kTile; j0 < end; j0 += kTile) {
        Tile t(p, strand.b, strand.head, i0, j0);
        if (t.cover == Cover::None) continue;
        const float *q = w.q + i0 * dp, *go = w.go + i0 * dvp;
        float *s = keep ? kept + (i0 / kTile * blocks + j0 / kTile) * 2 * area : w.s,
              *ds = keep ? s + area : w.ds;
        if (first || !keep) {
          float unused[2 * kTile];
          tile_scores<true>(p, t, q, kt + j0 * d, go, vt + j0 * dv, s, ds,
                            first ? own + i0 : unused, first ? mass + i0 : unused + kTile);
        } else {
          for_groups(t.m, [&](std::int64_t i, std::int64_t rows) {
            t.bands[i] = band(p, t.cover, i0 + i, rows, j0, j0 + t.n);
          });
        }
        if (first) continue;
        for_groups(t.m, [&](std::int64_t i, std::int64_t rows) {
          const Band in = t.bands[i];
          for (std::int64_t r = i; r < i + rows; ++r)
            for (std::int64_t j = in.lo; j < in.hi; ++j)
              ds[r * kTile + j] =
                  s[r * kTile + j] == 0 ? 0 : s[r * kTile + j] * (ds[r * kTile + j] - own[i0 + r]);
        });
        tile_gradients(p, t, t.cover == Cover::Partial && !finite, s, ds, q, go, k + j0 * dp,
                       gq + i0 * dp, gk + j0 * dp, gv + j0 * dvp);
      }
    }
  };
  tiles(true);
  for (std::int64_t i = 0; i < count; ++i) {
    own[i] = mass[i] > 0 ? own[i] / mass[i] : 0;
    if (p.glse.data) own[i] -= *p.row(p.glse, strand.b, strand.head, i);
  }
  tiles(false);
  for (std::int64_t j0 = 0; j0 < count; j0 += kTile)
    store_keys(p, strand, j0, std::min(kTile, count - j0), gk + j0 * dp, gv + j0 * dvp);
}

void Backward(const AttentionProblem& all) {
  const std::int64_t d = all.width, dv = all.value_width, dp = rounded(d), dvp = rounded(dv);
  AttentionProblem p = all;
  p.delta_size = p.queries;
  // delta_i = gO_i . O_i - (gradient of lse_i)
  cpu::Scratch<float> delta(p.batch * p.heads * p.queries);
  p.delta = delta.data();
  if (p.spec.kind == ScoreKind::Softmax && !p.spec.own_mean)
    parallel_for(p.batch * p.heads * p.queries, 256, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t b = t / p.queries / p.heads, h = t / p.queries % p.heads,
                           i = t % p.queries;
        const float s = dot(p.row(p.go, b, h, i), p.row(p.out, b, h, i), dv);
        p.delta[t] = p.glse.data ? s - *p.row(p.glse, b, h, i) : s;
      }
    });
  const std::vector<Strand> strands = strands_of(p);
  struct Task {
    std::size_t strand;
    std::int64_t block0, block1, from, to, gq;
  };
  std::vector<Task> tasks;
  std::vector<std::size_t> first_task;
  std::int64_t size = 0, longest = 0;
  for (const Strand& s : strands) longest = std::max(longest, s.count);
  for (std::size_t t = 0; t < strands.size(); ++t) {
    const Strand& s = strands[t];
    const AttentionProblem part = p.spec.step ? p.strand(s.first, s.step, s.count) : p;
    const std::int64_t blocks = (s.count + kTile - 1) / kTile;
    // enough tasks for a few threads, whatever the number of threads
    const std::int64_t runs =
        s.count * 2 < longest || p.spec.own_mean
            ? 1
            : std::clamp<std::int64_t>(8 / static_cast<std::int64_t>(strands.size()), 1,
                                       std::max<std::int64_t>(1, blocks));
    first_task.push_back(tasks.size());
    for (std::int64_t r = 0; r < runs; ++r) {
      Task x{t, blocks * r / runs, blocks * (r + 1) / runs, 0, 0, size};
      if (x.block0 < x.block1)
        part.query_range(x.block0 * kTile, std::min(s.count, x.block1 * kTile), x.from, x.to);
      x.from = x.from / kTile * kTile;
      x.to = std::max(x.from,
                      x.to == 0 ? 0 : std::min(part.queries, (x.to + kTile - 1) / kTile * kTile));
      size += s.heads * (x.to - x.from) * dp;
      tasks.push_back(x);
    }
  }
  first_task.push_back(tasks.size());
  cpu::Scratch<float> gq(size);
  parallel_for(
      static_cast<std::int64_t>(tasks.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        std::int64_t most = 0;
        for (std::int64_t t = begin; t < end; ++t)
          most = std::max(most, strands[tasks[static_cast<std::size_t>(t)].strand].heads *
                                    (tasks[static_cast<std::size_t>(t)].to -
                                     tasks[static_cast<std::size_t>(t)].from));
        cpu::Scratch<float> work(kTile * (d + dv + 2 * dp + dvp + 2 * kTile) + most * (dp + dvp));
        float* next = work.data();
        auto take = [&](std::int64_t n) {
          float* at = next;
          next += n;
          return at;
        };
        BackwardWork w{take(kTile * d),     take(kTile * dv),    take(kTile * dp),
                       take(kTile * kTile), take(kTile * kTile), take(kTile * dp),
                       take(kTile * dvp),   take(most * dp),     take(most * dvp)};
        for (std::int64_t t = begin; t < end; ++t) {
          const Task& x = tasks[static_cast<std::size_t>(t)];
          const Strand& s = strands[x.strand];
          std::fill_n(gq.data() + x.gq, s.heads * (x.to - x.from) * dp, 0.0f);
          const AttentionProblem part = p.spec.step ? p.strand(s.first, s.step, s.count) : p;
          if (p.spec.own_mean)
            backward_own(part, s, gq.data() + x.gq, w);
          else
            backward_run(part, s, x.block0, x.block1, x.from, x.to, gq.data() + x.gq, w);
        }
      });
  // the shares of each query, in order
  const float scale = static_cast<float>(p.spec.scale);
  struct Rows {
    std::size_t strand;
    std::int64_t head, begin, end;
  };
  std::vector<Rows> rows;
  for (std::size_t t = 0; t < strands.size(); ++t) {
    const std::int64_t n = p.spec.step ? strands[t].count : p.queries;
    for (std::int64_t g = 0; g < strands[t].heads; ++g)
      for (std::int64_t i = 0; i < n; i += 256) rows.push_back({t, g, i, std::min(n, i + 256)});
  }
  parallel_for(
      static_cast<std::int64_t>(rows.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          const Rows& r = rows[static_cast<std::size_t>(t)];
          const Strand& s = strands[r.strand];
          for (std::int64_t i = r.begin; i < r.end; ++i) {
            float* to = p.row(p.gq, s.b, s.head + r.head, s.first + i * s.step);
            if (!p.spec.accumulate) std::fill_n(to, d, 0.0f);
            for (std::size_t k = first_task[r.strand]; k < first_task[r.strand + 1]; ++k) {
              const Task& x = tasks[k];
              if (i < x.from || i >= x.to) continue;
              const float* from = gq.data() + x.gq + (r.head * (x.to - x.from) + i - x.from) * dp;
              for (std::int64_t c = 0; c < d; ++c) to[c] += from[c] * scale;
            }
          }
        }
      });
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
namespace {

HWY_EXPORT(Forward);
HWY_EXPORT(Backward);

abi::Status unpack(AttentionProblem& p, const abi::TensorIn& q, const abi::TensorIn& k,
                   const abi::TensorIn& v, const AttentionSpec& spec, const abi::TensorIn& slopes,
                   const abi::TensorIn& key_mask, const abi::TensorIn& forbidden,
                   const abi::TensorIn& added) {
  for (const abi::TensorIn* t : {&q, &k, &v})
    if (t->dtype != DType::Float32 || t->ndim != 4 || (t->strides[3] != 1 && t->sizes[3] > 1))
      return abi::unsupported("float32 [B, H, L, D] with a contiguous last dimension");
  if (spec.own_mean && !spec.step) return abi::unsupported("a share of a mixture along strands");
  if (spec.step && (q.sizes[1] != k.sizes[1] || q.sizes[2] != k.sizes[2] || !spec.accumulate))
    return abi::unsupported("strands where queries and keys are the same positions, accumulated");
  p.spec = spec;
  p.batch = q.sizes[0], p.heads = q.sizes[1], p.key_heads = k.sizes[1], p.queries = q.sizes[2],
  p.keys = k.sizes[2], p.width = q.sizes[3], p.value_width = v.sizes[3];
  p.q = q, p.k = k, p.v = v, p.slopes = slopes, p.key_mask = key_mask, p.forbidden = forbidden,
  p.added = added;
  return abi::ok();
}

abi::Status forward(const abi::KernelContext&, const abi::TensorIn& q, const abi::TensorIn& k,
                    const abi::TensorIn& v, const AttentionSpec& spec, const abi::TensorIn& slopes,
                    const abi::TensorIn& key_mask, const abi::TensorIn& forbidden,
                    const abi::TensorIn& added, const abi::TensorOut& o, const abi::TensorOut& lse,
                    const abi::TensorOut& rest) {
  AttentionProblem p;
  if (abi::Status s = unpack(p, q, k, v, spec, slopes, key_mask, forbidden, added); s.code)
    return s;
  if (o.numel() == 0 && lse.numel() == 0) return abi::ok();
  p.o = o, p.lse = lse, p.rest = rest;
  HWY_DYNAMIC_DISPATCH(Forward)(p);
  return abi::ok();
}

abi::Status backward(const abi::KernelContext&, const abi::TensorIn& go, const abi::TensorIn& glse,
                     const abi::TensorIn& q, const abi::TensorIn& k, const abi::TensorIn& v,
                     const abi::TensorIn& o, const abi::TensorIn& lse, const abi::TensorIn& rest,
                     const AttentionSpec& spec, const abi::TensorIn& slopes,
                     const abi::TensorIn& key_mask, const abi::TensorIn& forbidden,
                     const abi::TensorIn& added, const abi::TensorOut& gq, const abi::TensorOut& gk,
                     const abi::TensorOut& gv) {
  AttentionProblem p;
  if (abi::Status s = unpack(p, q, k, v, spec, slopes, key_mask, forbidden, added); s.code)
    return s;
  p.go = go, p.glse = glse, p.out = o;
  static_cast<abi::TensorIn&>(p.lse) = lse;
  static_cast<abi::TensorIn&>(p.rest) = rest;
  p.gq = gq, p.gk = gk, p.gv = gv;
  HWY_DYNAMIC_DISPATCH(Backward)(p);
  return abi::ok();
}

}  // namespace

void provide_attention_cpu(abi::KernelTable& t) {
  t.provide<attention_forward>(&forward);
  t.provide<attention_backward>(&backward);
}

}  // namespace dropin::kernels
#endif  // HWY_ONCE
