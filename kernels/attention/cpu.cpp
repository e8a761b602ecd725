// Tiles of 64 queries by 64 keys: scores, probabilities and their gradients live in a 16 KB tile; keys and values are packed once per key block.
// Forward is cut over B x H x query blocks. Backward is cut over B x Hk (and over runs of key blocks when those are few): a task owns the gradients of
// its keys and values, and adds to gradients of queries of its own, which are summed in order at the end, so results do not depend on the thread count.
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

#ifndef DROPIN_ATTENTION_PROBLEM_
#define DROPIN_ATTENTION_PROBLEM_
namespace dropin::kernels {

constexpr std::int64_t kTile = 64;

/// The arguments of both directions, unpacked.
struct AttentionProblem {
  AttentionSpec spec;
  std::int64_t batch, heads, key_heads, queries, keys, width, value_width;
  abi::TensorIn q, k, v, slopes, key_mask, forbidden, added;

  std::int64_t group() const { return heads / key_heads; }
  const float* row(const abi::TensorIn& t, std::int64_t b, std::int64_t h, std::int64_t i) const {
    return t.as<float>() + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
  }
  /// Keys [begin, end) that some query of [i0, i1) may see.
  void key_range(std::int64_t i0, std::int64_t i1, std::int64_t& begin, std::int64_t& end) const {
    begin = spec.left == INT64_MIN ? 0 : std::clamp<std::int64_t>(i0 + spec.offset + spec.left, 0, keys);
    end = spec.right == INT64_MAX ? keys : std::clamp<std::int64_t>(i1 - 1 + spec.offset + spec.right + 1, 0, keys);
  }
  /// Does every query of [i0, i1) see every key of [j0, j1) as far as the window goes?
  bool inside_window(std::int64_t i0, std::int64_t i1, std::int64_t j0, std::int64_t j1) const {
    return (spec.left == INT64_MIN || j0 - (i1 - 1 + spec.offset) >= spec.left) && (spec.right == INT64_MAX || j1 - 1 - (i0 + spec.offset) <= spec.right);
  }
  const bool* mask_row(std::int64_t b) const { return key_mask.data ? key_mask.as<bool>() + b * key_mask.strides[0] : nullptr; }
};

/// What both directions are told beside the problem.
struct AttentionArrays {
  abi::TensorOut o, lse;
  abi::TensorIn go, glse, out;
  abi::TensorOut gq, gk, gv;
};

}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

constexpr float kInfinity = HUGE_VALF;

// --- small matrix products: C[M, N] (+)= A B, where A(r, k) = a[r * ar + k * ak] is broadcast and B's rows are vectors

#if HWY_TARGET <= HWY_AVX3
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

template <int R, int W> HWY_INLINE void product_block(std::int64_t depth, const float* a, std::int64_t ar, std::int64_t ak, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                                                      bool add) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> acc[R][W];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int w = 0; w < W; ++w) acc[r][w] = add ? hn::LoadU(d, c + r * ldc + w * lanes) : hn::Zero(d);
  for (std::int64_t k = 0; k < depth; ++k) {
    hn::Vec<decltype(d)> row[W];
#pragma GCC unroll 2
    for (int w = 0; w < W; ++w) row[w] = hn::LoadU(d, b + k * ldb + w * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto x = hn::Set(d, a[r * ar + k * ak]);
#pragma GCC unroll 2
      for (int w = 0; w < W; ++w) acc[r][w] = hn::MulAdd(x, row[w], acc[r][w]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int w = 0; w < W; ++w) hn::StoreU(acc[r][w], d, c + r * ldc + w * lanes);
}

template <int R> HWY_NOINLINE void product_rows(std::int64_t n, std::int64_t depth, const float* a, std::int64_t ar, std::int64_t ak, const float* b, std::int64_t ldb, float* c,
                                                std::int64_t ldc, bool add) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes) product_block<R, 2>(depth, a, ar, ak, b + j, ldb, c + j, ldc, add);
  for (; j + lanes <= n; j += lanes) product_block<R, 1>(depth, a, ar, ak, b + j, ldb, c + j, ldc, add);
  for (; j < n; ++j)
    for (int r = 0; r < R; ++r) {
      float s = add ? c[r * ldc + j] : 0;
      for (std::int64_t k = 0; k < depth; ++k) s += a[r * ar + k * ak] * b[k * ldb + j];
      c[r * ldc + j] = s;
    }
}

void product(std::int64_t m, std::int64_t n, std::int64_t depth, const float* a, std::int64_t ar, std::int64_t ak, const float* b, std::int64_t ldb, float* c, std::int64_t ldc, bool add) {
  std::int64_t i = 0;
  for (; i + kRows <= m; i += kRows) product_rows<kRows>(n, depth, a + i * ar, ar, ak, b, ldb, c + i * ldc, ldc, add);
  for (; i + 4 <= m; i += 4) product_rows<4>(n, depth, a + i * ar, ar, ak, b, ldb, c + i * ldc, ldc, add);
  for (; i < m; ++i) product_rows<1>(n, depth, a + i * ar, ar, ak, b, ldb, c + i * ldc, ldc, add);
}

// The same where A's zeros stand for masked pairs and B may hold NaN or Inf there: those products are left out.
void careful_product(std::int64_t m, std::int64_t n, std::int64_t depth, const float* a, std::int64_t ar, std::int64_t ak, const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                     bool add) {
  for (std::int64_t i = 0; i < m; ++i) {
    if (!add) std::fill_n(c + i * ldc, n, 0.0f);
    for (std::int64_t k = 0; k < depth; ++k) {
      const float x = a[i * ar + k * ak];
      if (x != 0)
        for (std::int64_t j = 0; j < n; ++j) c[i * ldc + j] += x * b[k * ldb + j];
    }
  }
}
void masked_product(bool careful, std::int64_t m, std::int64_t n, std::int64_t depth, const float* a, std::int64_t ar, std::int64_t ak, const float* b, std::int64_t ldb, float* c,
                    std::int64_t ldc, bool add) {
  (careful ? careful_product : product)(m, n, depth, a, ar, ak, b, ldb, c, ldc, add);
}

bool all_finite(const float* p, std::int64_t rows, std::int64_t n, std::int64_t stride) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);  // 0 * x is NaN unless x is finite
  float rest = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t j = 0;
    for (; j + lanes <= n; j += lanes) sum = hn::MulAdd(hn::LoadU(d, p + r * stride + j), hn::Zero(d), sum);
    for (; j < n; ++j) rest += p[r * stride + j] * 0.0f;
  }
  return hn::AllFalse(d, hn::IsNaN(sum)) && rest == 0;
}

// rows [n, width] with a stride -> columns [width, kTile]; what is beyond n is 0.
void pack_transposed(const float* x, std::int64_t n, std::int64_t width, std::int64_t stride, float* out) {
  for (std::int64_t c0 = 0; c0 < width; c0 += 8) {
    const std::int64_t c1 = std::min(width, c0 + 8);
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t c = c0; c < c1; ++c) out[c * kTile + j] = x[j * stride + c];
    for (std::int64_t c = c0; c < c1; ++c) std::fill(out + c * kTile + n, out + (c + 1) * kTile, 0.0f);
  }
}

// --- one tile of scores

// What lies over a tile: nothing, everything, or element by element.
enum class Cover { None, Full, Partial };

Cover cover(const AttentionProblem& p, std::int64_t b, std::int64_t i0, std::int64_t i1, std::int64_t j0, std::int64_t j1) {
  std::int64_t begin, end;
  p.key_range(i0, i1, begin, end);
  if (j1 <= begin || j0 >= end) return Cover::None;
  bool partial = !p.inside_window(i0, i1, j0, j1) || p.forbidden.data || j1 - j0 < kTile;
  if (const bool* mask = p.mask_row(b)) {
    std::int64_t hidden = 0;
    for (std::int64_t j = j0; j < j1; ++j) hidden += mask[j];
    if (hidden == j1 - j0) return Cover::None;
    partial = partial || hidden;
  }
  return partial ? Cover::Partial : Cover::Full;
}

// Turns products q k^T into scores: scale, biases, and -inf where a key is not seen. s is [i1 - i0, kTile].
void finish_scores(const AttentionProblem& p, std::int64_t b, std::int64_t h, std::int64_t i0, std::int64_t i1, std::int64_t j0, std::int64_t j1, Cover covered, float* s) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, static_cast<float>(p.spec.scale)), bias = hn::Set(d, static_cast<float>(p.spec.bias));
  const bool* mask = p.mask_row(b);
  const float slope = p.slopes.data ? p.slopes.as<float>()[h * p.slopes.strides[0]] : 0;
  for (std::int64_t i = i0; i < i1; ++i) {
    float* row = s + (i - i0) * kTile;
    for (std::int64_t j = 0; j < kTile; j += lanes) hn::StoreU(hn::MulAdd(hn::LoadU(d, row + j), scale, bias), d, row + j);
    if (slope != 0) {
      const float position = static_cast<float>(i + p.spec.alibi_offset);
      for (std::int64_t j = j0; j < j1; ++j) row[j - j0] -= slope * std::abs(position - static_cast<float>(j));
    }
    if (p.added.data) {
      const float* add = p.added.as<float>() + b * p.added.strides[0] + h * p.added.strides[1] + i * p.added.strides[2];
      for (std::int64_t j = j0; j < j1; ++j) {
        const float x = add[j * p.added.strides[3]];
        row[j - j0] = x == -kInfinity ? -kInfinity : row[j - j0] + x;
      }
    }
    if (covered != Cover::Partial) continue;
    std::int64_t begin, end;
    p.key_range(i, i + 1, begin, end);
    begin = std::clamp(begin, j0, j1);
    end = std::clamp(end, begin, j1);
    std::fill(row, row + (begin - j0), -kInfinity);
    std::fill(row + (end - j0), row + kTile, -kInfinity);
    if (mask)
      for (std::int64_t j = begin; j < end; ++j)
        if (mask[j]) row[j - j0] = -kInfinity;
    if (p.forbidden.data) {
      const bool* f = p.forbidden.as<bool>() + b * p.forbidden.strides[0] + h * p.forbidden.strides[1] + i * p.forbidden.strides[2];
      for (std::int64_t j = begin; j < end; ++j)
        if (f[j * p.forbidden.strides[3]]) row[j - j0] = -kInfinity;
    }
  }
}

// row = exp(row - m); returns the sum. -inf gives 0, also when m is -inf.
float exponentials(float* row, float m) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto top = hn::Set(d, m), none = hn::Set(d, -kInfinity);
  auto sum = hn::Zero(d);
  for (std::int64_t j = 0; j < kTile; j += lanes) {
    const auto x = hn::LoadU(d, row + j);
    const auto e = hn::IfThenZeroElse(hn::Eq(x, none), exp_nonpositive(d, hn::Sub(x, top)));
    hn::StoreU(e, d, row + j);
    sum = hn::Add(sum, e);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}
float largest(const float* row) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto m = hn::LoadU(d, row);
  auto bad = hn::IsNaN(m);
  for (std::int64_t j = lanes; j < kTile; j += lanes) {
    const auto x = hn::LoadU(d, row + j);
    bad = hn::Or(bad, hn::IsNaN(x));
    m = hn::Max(m, x);
  }
  return hn::AllFalse(d, bad) ? hn::GetLane(hn::MaxOfLanes(d, m)) : std::nanf("");
}
void sigmoids(float* row) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t j = 0; j < kTile; j += lanes) hn::StoreU(sigmoid(d, hn::LoadU(d, row + j)), d, row + j);
}
void scale_row(float* row, std::int64_t n, float by) {
  for (std::int64_t j = 0; j < n; ++j) row[j] *= by;
}

// --- forward

// One block of queries of one head; `packed` holds the keys of its key head, transposed, block after block.
void forward_block(const AttentionProblem& p, const AttentionArrays& x, std::int64_t b, std::int64_t h, std::int64_t i0, const float* packed, float* s, float* acc) {
  const std::int64_t i1 = std::min(p.queries, i0 + kTile), m = i1 - i0, dv = p.value_width, hk = h / p.group();
  const bool softmax = p.spec.kind == ScoreKind::Softmax;
  float top[kTile], sum[kTile];
  std::fill_n(top, kTile, -kInfinity);
  std::fill_n(sum, kTile, 0.0f);
  std::fill_n(acc, m * dv, 0.0f);
  std::int64_t begin, end;
  p.key_range(i0, i1, begin, end);
  const float* q = p.row(p.q, b, h, i0);
  for (std::int64_t j0 = begin / kTile * kTile; j0 < end; j0 += kTile) {
    const std::int64_t j1 = std::min(p.keys, j0 + kTile), n = j1 - j0;
    const Cover c = cover(p, b, i0, i1, j0, j1);
    if (c == Cover::None) continue;
    product(m, kTile, p.width, q, p.q.strides[2], 1, packed + j0 * p.width, kTile, s, kTile, false);
    finish_scores(p, b, h, i0, i1, j0, j1, c, s);
    for (std::int64_t i = 0; i < m; ++i) {
      float* row = s + i * kTile;
      if (!softmax) {
        sigmoids(row);
        continue;
      }
      const float t = largest(row), high = std::isnan(t) || std::isnan(top[i]) ? std::nanf("") : std::max(top[i], t);
      if (high == -kInfinity) {  // nothing seen yet
        std::fill_n(row, kTile, 0.0f);
        continue;
      }
      const float shrink = top[i] == -kInfinity ? 0 : std::exp(top[i] - high);
      sum[i] = sum[i] * shrink + exponentials(row, high);
      if (shrink != 1) scale_row(acc + i * dv, dv, shrink);
      top[i] = high;
    }
    const float* v = p.row(p.v, b, hk, j0);
    const bool careful = c == Cover::Partial && !all_finite(v, n, dv, p.v.strides[2]);
    masked_product(careful, m, dv, n, s, kTile, 1, v, p.v.strides[2], acc, dv, true);
  }
  float* lse = softmax && x.lse.data ? x.lse.as<float>() + (b * p.heads + h) * p.queries + i0 : nullptr;
  for (std::int64_t i = 0; i < m; ++i) {
    float* o = x.o.as<float>() + b * x.o.strides[0] + h * x.o.strides[1] + (i0 + i) * x.o.strides[2];
    const float by = !softmax ? 1 : sum[i] == 0 ? 0 : 1 / sum[i];
    for (std::int64_t c = 0; c < dv; ++c) o[c] = sum[i] == 0 && softmax ? 0 : acc[i * dv + c] * by;
    if (lse) lse[i] = sum[i] == 0 ? -kInfinity : top[i] + std::log(sum[i]);
  }
}

void Forward(const AttentionProblem& p, const AttentionArrays& x) {
  const std::int64_t blocks = (p.queries + kTile - 1) / kTile, key_blocks = (p.keys + kTile - 1) / kTile, heads = p.batch * p.key_heads, one = key_blocks * kTile * p.width;
  // keys, transposed and in blocks: as much memory as the keys themselves
  cpu::Scratch<float> packed(static_cast<std::size_t>(heads * one));
  parallel_for(heads * key_blocks, 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const std::int64_t g = t / key_blocks, j0 = t % key_blocks * kTile;
      pack_transposed(p.row(p.k, g / p.key_heads, g % p.key_heads, j0), std::min(kTile, p.keys - j0), p.width, p.k.strides[2], packed.data() + g * one + j0 * p.width);
    }
  });
  parallel_for(p.batch * p.heads * blocks, 1, [&](std::int64_t first, std::int64_t last) {
    cpu::Scratch<float> work(static_cast<std::size_t>(kTile * kTile + kTile * p.value_width));
    for (std::int64_t t = first; t < last; ++t) {
      const std::int64_t bh = t / blocks, b = bh / p.heads, h = bh % p.heads;
      // the long rows of a causal problem first
      const std::int64_t block = p.spec.right == INT64_MAX ? t % blocks : blocks - 1 - t % blocks;
      forward_block(p, x, b, h, block * kTile, packed.data() + (b * p.key_heads + h / p.group()) * one, work.data(), work.data() + kTile * kTile);
    }
  });
}

// --- backward

struct BackwardWork {
  float *kt, *vt, *s, *ds, *delta;
};

// Key blocks [block0, block1) of one key head: their gradients, and their share of the gradients of the group's queries (gq: [group, Lq, D], added to).
void backward_run(const AttentionProblem& p, const AttentionArrays& x, std::int64_t b, std::int64_t hk, std::int64_t block0, std::int64_t block1, float* gq, const float* delta,
                  const BackwardWork& w) {
  const bool softmax = p.spec.kind == ScoreKind::Softmax;
  const std::int64_t group = p.group(), d = p.width, dv = p.value_width;
  const float scale = static_cast<float>(p.spec.scale);
  for (std::int64_t block = block0; block < block1; ++block) {
    const std::int64_t j0 = block * kTile, j1 = std::min(p.keys, j0 + kTile), n = j1 - j0;
    const float *k = p.row(p.k, b, hk, j0), *v = p.row(p.v, b, hk, j0);
    pack_transposed(k, n, d, p.k.strides[2], w.kt);
    pack_transposed(v, n, dv, p.v.strides[2], w.vt);
    const bool finite = all_finite(k, n, d, p.k.strides[2]) && all_finite(v, n, dv, p.v.strides[2]);
    float* gk = x.gk.as<float>() + b * x.gk.strides[0] + hk * x.gk.strides[1] + j0 * x.gk.strides[2];
    float* gv = x.gv.as<float>() + b * x.gv.strides[0] + hk * x.gv.strides[1] + j0 * x.gv.strides[2];
    for (std::int64_t j = 0; j < n; ++j) {
      std::fill_n(gk + j * x.gk.strides[2], d, 0.0f);
      std::fill_n(gv + j * x.gv.strides[2], dv, 0.0f);
    }
    for (std::int64_t g = 0; g < group; ++g) {
      const std::int64_t h = hk * group + g;
      for (std::int64_t i0 = 0; i0 < p.queries; i0 += kTile) {
        const std::int64_t i1 = std::min(p.queries, i0 + kTile), m = i1 - i0;
        const Cover c = cover(p, b, i0, i1, j0, j1);
        if (c == Cover::None) continue;
        const float *q = p.row(p.q, b, h, i0), *go = p.row(x.go, b, h, i0);
        const std::int64_t ldq = p.q.strides[2], ldo = x.go.strides[2];
        const bool careful = c == Cover::Partial && (!finite || !all_finite(q, m, d, ldq) || !all_finite(go, m, dv, ldo));
        product(m, kTile, d, q, ldq, 1, w.kt, kTile, w.s, kTile, false);
        finish_scores(p, b, h, i0, i1, j0, j1, c, w.s);
        product(m, kTile, dv, go, ldo, 1, w.vt, kTile, w.ds, kTile, false);
        const float* lse = softmax ? x.lse.as<float>() + (b * p.heads + h) * p.queries + i0 : nullptr;
        const float* dl = delta + g * p.queries + i0;
        const hn::ScalableTag<float> tag;
        const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(tag));
        for (std::int64_t i = 0; i < m; ++i) {
          float *row = w.s + i * kTile, *drow = w.ds + i * kTile;
          const auto one = hn::Set(tag, 1.0f), by = hn::Set(tag, scale), none = hn::Set(tag, -kInfinity);
          // a query that sees nothing has lse -inf: every score is -inf and every probability 0
          const auto top = hn::Set(tag, softmax ? lse[i] : 0.0f), shift = hn::Set(tag, softmax ? dl[i] : 0.0f);
          for (std::int64_t j = 0; j < kTile; j += lanes) {
            const auto s = hn::LoadU(tag, row + j), dp = hn::LoadU(tag, drow + j);
            const auto hidden = hn::Eq(s, none);
            // lse is rounded, so a score may exceed it by a hair; the exponent is kept at 0 or below
            const auto pr = hn::IfThenZeroElse(hidden, softmax ? exp_nonpositive(tag, keep_nan<decltype(tag)>(hn::Sub(s, top), hn::Min(hn::Sub(s, top), hn::Set(tag, 0.0f)))) : sigmoid(tag, s));
            const auto slope = softmax ? hn::Sub(dp, shift) : hn::Mul(dp, hn::Sub(one, pr));
            hn::StoreU(pr, tag, row + j);
            hn::StoreU(hn::IfThenZeroElse(hidden, hn::Mul(hn::Mul(pr, slope), by)), tag, drow + j);
          }
        }
        masked_product(careful, n, dv, m, w.s, 1, kTile, go, ldo, gv, x.gv.strides[2], true);
        masked_product(careful, n, d, m, w.ds, 1, kTile, q, ldq, gk, x.gk.strides[2], true);
        masked_product(careful, m, d, n, w.ds, kTile, 1, k, p.k.strides[2], gq + (g * p.queries + i0) * d, d, true);
      }
    }
  }
}

void Backward(const AttentionProblem& p, const AttentionArrays& x) {
  const bool softmax = p.spec.kind == ScoreKind::Softmax;
  const std::int64_t heads = p.batch * p.key_heads, group = p.group(), d = p.width, dv = p.value_width, key_blocks = (p.keys + kTile - 1) / kTile;
  // delta_i = gO_i . O_i - (gradient of lse_i)
  cpu::Scratch<float> delta(static_cast<std::size_t>(p.batch * p.heads * p.queries));
  if (softmax)
    parallel_for(p.batch * p.heads, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t)
        for (std::int64_t i = 0; i < p.queries; ++i) {
          const float *go = p.row(x.go, t / p.heads, t % p.heads, i), *o = p.row(x.out, t / p.heads, t % p.heads, i);
          float s = 0;
          for (std::int64_t c = 0; c < dv; ++c) s += go[c] * o[c];
          const std::int64_t at = t * p.queries + i;
          delta.data()[at] = x.glse.data ? s - x.glse.as<float>()[at] : s;
        }
    });
  // enough tasks for a few threads, whatever the number of threads
  const std::int64_t runs = std::clamp<std::int64_t>(8 / std::max<std::int64_t>(1, heads), 1, std::max<std::int64_t>(1, key_blocks)), share = group * p.queries * d;
  cpu::Scratch<float> gq(static_cast<std::size_t>(heads * runs * share));
  parallel_for(heads * runs, 1, [&](std::int64_t first, std::int64_t last) {
    cpu::Scratch<float> work(static_cast<std::size_t>(kTile * (d + dv + 2 * kTile)));
    float* at = work.data();
    const BackwardWork w{at, at + kTile * d, at + kTile * (d + dv), at + kTile * (d + dv + kTile), nullptr};
    for (std::int64_t t = first; t < last; ++t) {
      const std::int64_t g = t / runs, r = t % runs;
      float* mine = gq.data() + t * share;
      std::fill_n(mine, share, 0.0f);
      backward_run(p, x, g / p.key_heads, g % p.key_heads, key_blocks * r / runs, key_blocks * (r + 1) / runs, mine, delta.data() + g * group * p.queries, w);
    }
  });
  parallel_for(p.batch * p.heads * p.queries, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const std::int64_t b = t / (p.heads * p.queries), h = t / p.queries % p.heads, i = t % p.queries;
      float* to = x.gq.as<float>() + b * x.gq.strides[0] + h * x.gq.strides[1] + i * x.gq.strides[2];
      const float* from = gq.data() + (b * p.key_heads + h / group) * runs * share + (h % group * p.queries + i) * d;
      for (std::int64_t c = 0; c < d; ++c) to[c] = from[c];
      for (std::int64_t r = 1; r < runs; ++r)
        for (std::int64_t c = 0; c < d; ++c) to[c] += from[r * share + c];
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

abi::Status unpack(AttentionProblem& p, const abi::TensorIn& q, const abi::TensorIn& k, const abi::TensorIn& v, const AttentionSpec& spec, const abi::TensorIn& slopes,
                   const abi::TensorIn& key_mask, const abi::TensorIn& forbidden, const abi::TensorIn& added) {
  for (const abi::TensorIn* t : {&q, &k, &v})
    if (t->dtype != DType::Float32 || t->ndim != 4 || (t->strides[3] != 1 && t->sizes[3] > 1)) return abi::unsupported("float32 [B, H, L, D] with a contiguous last dimension");
  p = {spec, q.sizes[0], q.sizes[1], k.sizes[1], q.sizes[2], k.sizes[2], q.sizes[3], v.sizes[3], q, k, v, slopes, key_mask, forbidden, added};
  return abi::ok();
}

abi::Status forward(const abi::KernelContext&, const abi::TensorIn& q, const abi::TensorIn& k, const abi::TensorIn& v, const AttentionSpec& spec, const abi::TensorIn& slopes,
                    const abi::TensorIn& key_mask, const abi::TensorIn& forbidden, const abi::TensorIn& added, const abi::TensorOut& o, const abi::TensorOut& lse) {
  AttentionProblem p;
  if (abi::Status s = unpack(p, q, k, v, spec, slopes, key_mask, forbidden, added); s.code) return s;
  if (o.numel() == 0 && lse.numel() == 0) return abi::ok();
  AttentionArrays x;
  x.o = o;
  x.lse = lse;
  HWY_DYNAMIC_DISPATCH(Forward)(p, x);
  return abi::ok();
}

abi::Status backward(const abi::KernelContext&, const abi::TensorIn& go, const abi::TensorIn& glse, const abi::TensorIn& q, const abi::TensorIn& k, const abi::TensorIn& v,
                     const abi::TensorIn& o, const abi::TensorIn& lse, const AttentionSpec& spec, const abi::TensorIn& slopes, const abi::TensorIn& key_mask,
                     const abi::TensorIn& forbidden, const abi::TensorIn& added, const abi::TensorOut& gq, const abi::TensorOut& gk, const abi::TensorOut& gv) {
  AttentionProblem p;
  if (abi::Status s = unpack(p, q, k, v, spec, slopes, key_mask, forbidden, added); s.code) return s;
  AttentionArrays x;
  x.go = go;
  x.glse = glse;
  x.out = o;
  static_cast<abi::TensorIn&>(x.lse) = lse;
  x.gq = gq;
  x.gk = gk;
  x.gv = gv;
  HWY_DYNAMIC_DISPATCH(Backward)(p, x);
  return abi::ok();
}

}  // namespace

void provide_attention_cpu(abi::KernelTable& t) {
  t.provide<attention_forward>(&forward);
  t.provide<attention_backward>(&backward);
}

}  // namespace dropin::kernels
#endif  // HWY_ONCE
