// One tile of attention scores, which both directions make. Included once per target, after
// kernels/simd.h (no ordinary include guard).
#if defined(DROPIN_KERNELS_ATTENTION_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_KERNELS_ATTENTION_SCORES_INL_H_
#undef DROPIN_KERNELS_ATTENTION_SCORES_INL_H_
#else
#define DROPIN_KERNELS_ATTENTION_SCORES_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "kernels/attention/positions.h"
#include "kernels/attention/problem.h"
#include "kernels/simd-inl.h"
#include "kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

// What lies over a tile: nothing, everything, or element by element.
enum class Cover { None, Full, Partial };

Cover cover_on_grid(const GridPlaces& g, int64_t h, int64_t i0, int64_t i1, int64_t j0,
                    int64_t j1) {
  if (i1 > g.placed || j1 > g.placed) return Cover::Partial;
  const GridPlaces::Seen s = g.between(h, i0 / kTile, j0 / kTile);
  return s.seen == 0 ? Cover::None : s.seen == s.all ? Cover::Full : Cover::Partial;
}

Cover cover(const AttentionProblem& p, int64_t b, int64_t h, int64_t i0, int64_t i1, int64_t j0,
            int64_t j1) {
  int64_t begin, end;
  p.key_range(i0, i1, begin, end);
  if (j1 <= begin || j0 >= end) return Cover::None;
  bool partial = !p.inside_window(i0, i1, j0, j1) || p.forbidden.data || j1 - j0 < kTile;
  if (p.on_grid) {
    const Cover c = cover_on_grid(*p.on_grid, h, i0, i1, j0, j1);
    if (c == Cover::None) return c;
    partial = partial || c == Cover::Partial;
  }
  if (const bool* mask = p.mask_row(b)) {
    int64_t hidden = 0;
    for (int64_t j = j0; j < j1; ++j) hidden += mask[j * p.key_mask.strides[1]];
    if (hidden == j1 - j0) return Cover::None;
    partial = partial || hidden;
  }
  return partial ? Cover::Partial : Cover::Full;
}

// The columns [lo, hi) of a tile that some of rows [i, i + rows) of it may see, in whole vectors.
struct Band {
  int64_t lo, hi;
};
Band band(const AttentionProblem& p, Cover c, int64_t i, int64_t rows, int64_t j0, int64_t j1) {
  const int64_t ld = padded(j1 - j0);
  if (c == Cover::Full) return {0, ld};
  int64_t begin, end;
  p.key_range(i, i + rows, begin, end);
  begin = std::max(begin, j0) - j0, end = std::min(end, j1) - j0;
  return begin < end ? Band{begin / 16 * 16, std::min(ld, ceil_div(end, 16) * 16)} : Band{0, 0};
}

/// f(first, rows) over m rows in the groups that the products take.
template <class F>
HWY_INLINE void for_groups(int64_t m, F&& f) {
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) f(i, int64_t{kRows});
  for (; i + 4 <= m; i += 4) f(i, int64_t{4});
  for (; i < m; ++i) f(i, int64_t{1});
}
HWY_INLINE void group_product(int64_t rows, int64_t n, int64_t depth, const float* a, int64_t ar,
                              int64_t ak, const float* b, int64_t ldb, float* c, int64_t ldc,
                              bool add) {
  if (rows == kRows)
    product_rows<kRows>(n, depth, a, ar, ak, b, ldb, c, ldc, add);
  else if (rows == 4)
    product_rows<4>(n, depth, a, ar, ak, b, ldb, c, ldc, add);
  else
    product_rows<1>(n, depth, a, ar, ak, b, ldb, c, ldc, add);
}

// Does a product q k^T need anything done to it before it is a score?
bool plain_scores(const AttentionProblem& p, Cover c) {
  return c == Cover::Full && p.spec.bias == 0 && !p.slopes.data && !p.added.data && !p.on_grid;
}

// What the grid says of keys [from, to) of row i, whose scores begin at key j0.
void add_grid(const AttentionProblem& p, int64_t h, int64_t i, int64_t j0, int64_t from, int64_t to,
              float* row) {
  const GridPlaces& g = *p.on_grid;
  if (i >= g.placed) return;
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto none = hn::Set(d, -kInf<float>);
  const float* bias = g.bias_of(p, h, i);
  to = std::min(to, g.placed);
  int64_t j = from;
  while (j < to) {
    const float* add = bias + g.at[at(j)];
    const int64_t beside = std::min<int64_t>(g.run[at(j)], to - j);
    int64_t c = 0;
    for (; c + lanes <= beside; c += lanes) {
      const auto x = hn::LoadU(d, add + c);
      float* s = row + (j - j0) + c;
      hn::StoreU(hn::IfThenElse(hn::Eq(x, none), none, hn::Add(hn::LoadU(d, s), x)), d, s);
    }
    for (; c < beside; ++c) {
      float& s = row[j - j0 + c];
      s = add[c] == -kInf<float> ? -kInf<float> : s + add[c];
    }
    j += beside;
  }
}

// Turns products q k^T in columns [in.lo, in.hi) of row i into scores: biases, and -inf where a key
// is not seen.
void finish_row(const AttentionProblem& p, int64_t b, int64_t h, int64_t i, int64_t j0, int64_t j1,
                Cover covered, Band in, float* row) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const float slope =
      p.slopes.data ? p.slopes.as<float>()[h * p.slopes.strides[0]] * static_cast<float>(p.distance)
                    : 0;
  if (p.spec.bias != 0) {
    const auto bias = hn::Set(d, static_cast<float>(p.spec.bias));
    for (int64_t j = in.lo; j < in.hi; j += lanes)
      hn::StoreU(hn::Add(hn::LoadU(d, row + j), bias), d, row + j);
  }
  const int64_t from = j0 + in.lo, to = std::min(j1, j0 + in.hi);
  if (slope != 0) {
    const float position = static_cast<float>(i + p.spec.alibi_offset);
    for (int64_t j = from; j < to; ++j)
      row[j - j0] -= slope * std::abs(position - static_cast<float>(j));
  }
  if (p.added.data) {
    const float* add = p.added.as<float>() + b * p.added.strides[0] + h * p.added.strides[1] +
                       i * p.added.strides[2];
    for (int64_t j = from; j < to; ++j) {
      const float x = add[j * p.added.strides[3]];
      row[j - j0] = x == -kInf<float> ? -kInf<float> : row[j - j0] + x;
    }
  }
  if (p.on_grid) add_grid(p, h, i, j0, from, to, row);
  if (covered != Cover::Partial) return;
  int64_t begin, end;
  p.key_range(i, i + 1, begin, end);
  begin = std::clamp(begin, from, to);
  end = std::clamp(end, begin, to);
  std::fill(row + in.lo, row + (begin - j0), -kInf<float>);
  std::fill(row + (end - j0), row + in.hi, -kInf<float>);
  if (const bool* mask = p.mask_row(b))
    for (int64_t j = begin; j < end; ++j)
      if (mask[j * p.key_mask.strides[1]]) row[j - j0] = -kInf<float>;
  if (p.forbidden.data) {
    const bool* f = p.forbidden.as<bool>() + b * p.forbidden.strides[0] +
                    h * p.forbidden.strides[1] + i * p.forbidden.strides[2];
    for (int64_t j = begin; j < end; ++j)
      if (f[j * p.forbidden.strides[3]]) row[j - j0] = -kInf<float>;
  }
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
// n rows of w floats, a stride apart, times `by`, as rows of `ld` (the rest is 0).
void pack_rows(const float* x, int64_t n, int64_t w, int64_t stride, float by, float* out,
               int64_t ld) {
  for (int64_t i = 0; i < n; ++i) {
    const float* from = x + i * stride;
    float* to = out + i * ld;
    if (by == 1)
      std::copy_n(from, w, to);
    else
      for (int64_t c = 0; c < w; ++c) to[c] = from[c] * by;
    std::fill(to + w, to + ld, 0.0f);
  }
}

float dot(const float* a, const float* b, int64_t n) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = hn::Zero(d);
  int64_t c = 0;
  for (; c + 2 * lanes <= n; c += 2 * lanes) {
    s0 = hn::MulAdd(hn::LoadU(d, a + c), hn::LoadU(d, b + c), s0);
    s1 = hn::MulAdd(hn::LoadU(d, a + c + lanes), hn::LoadU(d, b + c + lanes), s1);
  }
  float sum = 0;
  for (; c < n; ++c) sum += a[c] * b[c];
  return sum + hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1)));
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
