// Tiles of 64 queries by 64 keys: scores, probabilities and their gradients live in a 16 KB tile; keys and values are packed once per key block.
// A problem is a set of strands: rows that see each other (all rows of a key head, or every r-th row of a segment), which share no row.
// Forward is cut over strands x heads x query blocks. Backward is cut over strands (and over runs of key blocks when those are few): a task owns the gradients
// of its keys and values, and adds to gradients of queries of its own, which are summed in order at the end, so results do not depend on the thread count.
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
constexpr std::int64_t kDecodeQueries = 8;  ///< up to so many queries per key head, the keys are read where they lie and split over the threads

/// One problem of rows that see each other: the arguments of both directions, unpacked. A strand of a larger one is the same with other strides.
struct AttentionProblem {
  AttentionSpec spec;
  std::int64_t batch, heads, key_heads, queries, keys, width, value_width;
  abi::TensorIn q, k, v, slopes, key_mask, forbidden, added;
  abi::TensorOut o, lse;        // forward
  abi::TensorIn go, glse, out;  // backward, with lse
  abi::TensorOut gq, gk, gv;
  float* delta = nullptr;        // [B, H, Lq]
  std::int64_t delta_size = 0, delta_step = 1;
  std::int64_t distance = 1;     // between neighbouring rows, as ALiBi counts it

  std::int64_t group() const { return heads / key_heads; }
  static const float* row(const abi::TensorIn& t, std::int64_t b, std::int64_t h, std::int64_t i) {
    return t.as<float>() + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
  }
  static float* row(const abi::TensorOut& t, std::int64_t b, std::int64_t h, std::int64_t i) {
    return t.as<float>() + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
  }
  /// Keys [begin, end) that some query of [i0, i1) may see.
  void key_range(std::int64_t i0, std::int64_t i1, std::int64_t& begin, std::int64_t& end) const {
    begin = spec.left == INT64_MIN ? 0 : std::clamp<std::int64_t>(i0 + spec.offset + spec.left, 0, keys);
    end = spec.right == INT64_MAX ? keys : std::clamp<std::int64_t>(i1 + spec.offset + spec.right, 0, keys);
  }
  /// Queries [begin, end) that may see some key of [j0, j1).
  void query_range(std::int64_t j0, std::int64_t j1, std::int64_t& begin, std::int64_t& end) const {
    begin = spec.right == INT64_MAX ? 0 : std::clamp<std::int64_t>(j0 - spec.offset - spec.right, 0, queries);
    end = spec.left == INT64_MIN ? queries : std::clamp<std::int64_t>(j1 - spec.offset - spec.left, 0, queries);
  }
  /// Does every query of [i0, i1) see every key of [j0, j1) as far as the window goes?
  bool inside_window(std::int64_t i0, std::int64_t i1, std::int64_t j0, std::int64_t j1) const {
    return (spec.left == INT64_MIN || j0 - (i1 - 1 + spec.offset) >= spec.left) && (spec.right == INT64_MAX || j1 - 1 - (i0 + spec.offset) <= spec.right);
  }
  const bool* mask_row(std::int64_t b) const { return key_mask.data ? key_mask.as<bool>() + b * key_mask.strides[0] : nullptr; }

  /// Rows first, first + step, ..., `count` of them, as a problem of its own.
  AttentionProblem strand(std::int64_t first, std::int64_t step, std::int64_t count) const {
    AttentionProblem p = *this;
    if (step == 1 && first == 0 && count == queries && count == keys) return p;
    auto thin = [&](abi::TensorIn& t, int dim) {
      if (!t.data) return;
      const std::int64_t size = t.dtype == DType::Bool ? 1 : 4;
      t.data = static_cast<const char*>(t.data) + first * t.strides[dim] * size;
      t.strides[dim] *= step;
    };
    for (abi::TensorIn* t : {&p.q, &p.k, &p.v, &p.forbidden, &p.added, &p.go, &p.glse, &p.out}) thin(*t, 2);
    for (abi::TensorOut* t : {&p.o, &p.lse, &p.gq, &p.gk, &p.gv}) thin(*t, 2);
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
  std::int64_t packed = 0;  ///< where its keys lie, transposed
};

/// The strands of a problem: one per key head, or those that spec.segment, step and first cut from each head.
inline std::vector<Strand> strands_of(const AttentionProblem& p) {
  std::vector<Strand> all;
  if (!p.spec.step) {
    for (std::int64_t b = 0; b < p.batch; ++b)
      for (std::int64_t hk = 0; hk < p.key_heads; ++hk) all.push_back({b, hk * p.group(), p.group(), 0, 1, p.keys});
    return all;
  }
  const std::int64_t segment = p.spec.segment > 0 ? std::min(p.spec.segment, p.keys) : p.keys;
  for (std::int64_t b = 0; b < p.batch; ++b)
    for (std::int64_t h = 0; h < p.heads; ++h) {
      const std::int64_t step = p.spec.step[h], from = p.spec.first ? p.spec.first[h] : -1;
      for (std::int64_t start = 0; start < p.keys; start += segment) {
        const std::int64_t size = std::min(segment, p.keys - start);
        const std::int64_t lo = from < 0 ? 0 : from, hi = from < 0 ? std::min(step, size) : std::min(from + 1, size);
        for (std::int64_t r = lo; r < hi; ++r) all.push_back({b, h, 1, start + r, step, (size - r + step - 1) / step});
      }
    }
  std::stable_sort(all.begin(), all.end(), [](const Strand& x, const Strand& y) { return x.count > y.count; });  // the long ones first
  return all;
}

/// Columns of the last block of n keys: whole vectors.
inline std::int64_t padded(std::int64_t n) { return std::min<std::int64_t>(kTile, (n + 15) / 16 * 16); }

}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

constexpr float kInfinity = HUGE_VALF;

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
    for (std::int64_t j = j0; j < j1; ++j) hidden += mask[j * p.key_mask.strides[1]];
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
  const float slope = p.slopes.data ? p.slopes.as<float>()[h * p.slopes.strides[0]] * static_cast<float>(p.distance) : 0;
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
        if (mask[j * p.key_mask.strides[1]]) row[j - j0] = -kInfinity;
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

// What a block of queries knows after some of its keys: the largest score, the sum of exponentials, and the values weighted so far.
struct Running {
  float *top, *sum, *acc;  // [rows], [rows], [rows, Dv]
};

// Takes in one tile of finished scores s [m, kTile], which it overwrites, with the n values v.
void absorb(const AttentionProblem& p, Cover c, std::int64_t m, std::int64_t n, float* s, const float* v, const Running& r) {
  const std::int64_t dv = p.value_width;
  for (std::int64_t i = 0; i < m; ++i) {
    float* row = s + i * kTile;
    if (p.spec.kind == ScoreKind::Sigmoid) {
      sigmoids(row);
      continue;
    }
    const float t = largest(row), high = std::isnan(t) || std::isnan(r.top[i]) ? std::nanf("") : std::max(r.top[i], t);
    if (high == -kInfinity) {  // nothing seen yet
      std::fill_n(row, kTile, 0.0f);
      continue;
    }
    const float shrink = r.top[i] == -kInfinity ? 0 : std::exp(r.top[i] - high);
    r.sum[i] = r.sum[i] * shrink + exponentials(row, high);
    if (shrink != 1) scale_row(r.acc + i * dv, dv, shrink);
    r.top[i] = high;
  }
  const bool careful = c == Cover::Partial && !all_finite(v, n, dv, p.v.strides[2]);
  masked_product(careful, m, dv, n, s, kTile, 1, v, p.v.strides[2], r.acc, dv, true);
}

void clear(const AttentionProblem& p, std::int64_t m, const Running& r) {
  std::fill_n(r.top, m, -kInfinity);
  std::fill_n(r.sum, m, 0.0f);
  std::fill_n(r.acc, m * p.value_width, 0.0f);
}

// Writes rows [i0, i0 + m) of head h, or merges them into what is there when the problem accumulates.
void finish(const AttentionProblem& p, std::int64_t b, std::int64_t h, std::int64_t i0, std::int64_t m, const Running& r) {
  const std::int64_t dv = p.value_width;
  const bool softmax = p.spec.kind == ScoreKind::Softmax;
  for (std::int64_t i = 0; i < m; ++i) {
    float *o = p.row(p.o, b, h, i0 + i), *acc = r.acc + i * dv;
    if (!softmax) {
      if (p.spec.accumulate)
        for (std::int64_t c = 0; c < dv; ++c) o[c] += acc[c];
      else
        std::copy_n(acc, dv, o);
      continue;
    }
    float* lse = p.lse.data ? p.row(p.lse, b, h, i0 + i) : nullptr;
    const bool blind = r.sum[i] == 0;
    const float mine = blind ? -kInfinity : r.top[i] + std::log(r.sum[i]);
    if (p.spec.accumulate) {
      if (blind) continue;
      const float old = *lse;
      if (old != -kInfinity) {
        const float high = std::max(old, mine), both = high + std::log(std::exp(old - high) + std::exp(mine - high));
        const float keep = std::exp(old - both), take = std::exp(mine - both) / r.sum[i];
        for (std::int64_t c = 0; c < dv; ++c) o[c] = o[c] * keep + acc[c] * take;
        *lse = both;
        continue;
      }
    }
    const float by = blind ? 0 : 1 / r.sum[i];
    for (std::int64_t c = 0; c < dv; ++c) o[c] = blind ? 0 : acc[c] * by;
    if (lse) *lse = mine;
  }
}

// One block of queries of one head; `packed` holds the keys of its strand, transposed, block after block.
void forward_block(const AttentionProblem& p, std::int64_t b, std::int64_t h, std::int64_t i0, const float* packed, float* s, float* acc) {
  const std::int64_t i1 = std::min(p.queries, i0 + kTile), m = i1 - i0, hk = h / p.group();
  float top[kTile], sum[kTile];
  const Running r{top, sum, acc};
  clear(p, m, r);
  std::int64_t begin, end;
  p.key_range(i0, i1, begin, end);
  const float* q = p.row(p.q, b, h, i0);
  for (std::int64_t j0 = begin / kTile * kTile; j0 < end; j0 += kTile) {
    const std::int64_t j1 = std::min(p.keys, j0 + kTile), n = j1 - j0, ld = padded(n);
    const Cover c = cover(p, b, i0, i1, j0, j1);
    if (c == Cover::None) continue;
    product(m, ld, p.width, q, p.q.strides[2], 1, packed + j0 * p.width, ld, s, kTile, false);
    finish_scores(p, b, h, i0, i1, j0, j1, c, s);
    absorb(p, c, m, n, s, p.row(p.v, b, hk, j0), r);
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

// Few queries against many keys, as in decoding: reading the keys is all the cost, so they are not packed, and cut over the threads.
void decode(const AttentionProblem& p) {
  const std::int64_t group = p.group(), rows = group * p.queries, dv = p.value_width, heads = p.batch * p.key_heads;
  std::int64_t begin, end;
  p.key_range(0, p.queries, begin, end);
  const std::int64_t first = begin / kTile, blocks = std::max<std::int64_t>(0, (end + kTile - 1) / kTile - first);
  const std::int64_t splits = std::clamp<std::int64_t>(blocks / 8, 1, std::max<std::int64_t>(1, 16 / std::max<std::int64_t>(1, heads))), part = rows * (dv + 2);
  cpu::Scratch<float> parts(heads * splits * part);
  auto running = [&](std::int64_t t) {
    float* at = parts.data() + t * part;
    return Running{at, at + rows, at + 2 * rows};
  };
  parallel_for(heads * splits, 1, [&](std::int64_t t0, std::int64_t t1) {
    float s[kDecodeQueries * kTile];
    for (std::int64_t t = t0; t < t1; ++t) {
      const std::int64_t b = t / splits / p.key_heads, hk = t / splits % p.key_heads, split = t % splits;
      const Running all = running(t);
      clear(p, rows, all);
      for (std::int64_t block = first + blocks * split / splits; block < first + blocks * (split + 1) / splits; ++block) {
        const std::int64_t j0 = block * kTile, j1 = std::min(p.keys, j0 + kTile), n = j1 - j0;
        const Cover c = cover(p, b, 0, p.queries, j0, j1);
        if (c == Cover::None) continue;
        const float *k = p.row(p.k, b, hk, j0), *v = p.row(p.v, b, hk, j0);
        for (std::int64_t g = 0; g < group; ++g) {
          for (std::int64_t i = 0; i < p.queries; ++i) {
            const float* q = p.row(p.q, b, hk * group + g, i);
            for (std::int64_t j = 0; j < n; ++j) s[i * kTile + j] = dot(q, k + j * p.k.strides[2], p.width);
            std::fill(s + i * kTile + n, s + (i + 1) * kTile, 0.0f);
          }
          finish_scores(p, b, hk * group + g, 0, p.queries, j0, j1, c, s);
          absorb(p, c, p.queries, n, s, v, {all.top + g * p.queries, all.sum + g * p.queries, all.acc + g * p.queries * dv});
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
          const float high = std::isnan(all.top[i]) || std::isnan(more.top[i]) ? std::nanf("") : std::max(all.top[i], more.top[i]);
          if (high == -kInfinity) continue;
          keep = all.top[i] == -kInfinity ? 0 : std::exp(all.top[i] - high);
          take = more.top[i] == -kInfinity ? 0 : std::exp(more.top[i] - high);
          all.sum[i] = all.sum[i] * keep + more.sum[i] * take;
          all.top[i] = high;
        }
        for (std::int64_t c = 0; c < dv; ++c) all.acc[i * dv + c] = all.acc[i * dv + c] * keep + more.acc[i * dv + c] * take;
      }
    }
    for (std::int64_t g = 0; g < group; ++g)
      finish(p, t / p.key_heads, t % p.key_heads * group + g, 0, p.queries, {all.top + g * p.queries, all.sum + g * p.queries, all.acc + g * p.queries * dv});
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
  std::int64_t size = 0;
  for (std::int64_t t = 0; t < static_cast<std::int64_t>(strands.size()); ++t) {
    Strand& s = strands[static_cast<std::size_t>(t)];
    s.packed = size;
    size += (s.count / kTile * kTile + padded(s.count % kTile)) * p.width;
    const std::int64_t blocks = ((p.spec.step ? s.count : p.queries) + kTile - 1) / kTile;
    for (std::int64_t j = 0; j < s.count; j += kTile) key_blocks.push_back({t, j});
    for (std::int64_t g = 0; g < s.heads; ++g)
      for (std::int64_t i = 0; i < blocks; ++i) items.push_back({t, s.head + g, p.spec.right == INT64_MAX ? i : blocks - 1 - i});  // the long rows of a causal problem first
  }
  // the keys, transposed and in blocks: as much memory as the keys themselves
  cpu::Scratch<float> packed(size);
  parallel_for(static_cast<std::int64_t>(key_blocks.size()), 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const KeyBlock& k = key_blocks[static_cast<std::size_t>(t)];
      const Strand& s = strands[static_cast<std::size_t>(k.strand)];
      const std::int64_t n = std::min(kTile, s.count - k.block), stride = p.k.strides[2];
      pack_transposed(p.row(p.k, s.b, s.head / p.group(), s.first + k.block * s.step), n, p.width, stride * s.step, packed.data() + s.packed + k.block * p.width, padded(n));
    }
  });
  parallel_for(static_cast<std::int64_t>(items.size()), 1, [&](std::int64_t first, std::int64_t last) {
    cpu::Scratch<float> work(kTile * kTile + kTile * p.value_width);
    for (std::int64_t t = first; t < last; ++t) {
      const Item& item = items[static_cast<std::size_t>(t)];
      const Strand& s = strands[static_cast<std::size_t>(item.strand)];
      const AttentionProblem part = p.spec.step ? p.strand(s.first, s.step, s.count) : p;
      forward_block(part, s.b, item.head, item.block * kTile, packed.data() + s.packed, work.data(), work.data() + kTile * kTile);
    }
  });
}

// --- backward

struct BackwardWork {
  float *kt, *vt, *s, *ds;
};

// Key blocks [block0, block1) of one strand: their gradients, and their share of the gradients of queries [from, to) of its heads (gq: [heads, to - from, D],
// added to).
void backward_run(const AttentionProblem& p, const Strand& strand, std::int64_t block0, std::int64_t block1, std::int64_t from, std::int64_t to, float* gq, const BackwardWork& w) {
  const bool softmax = p.spec.kind == ScoreKind::Softmax;
  const std::int64_t b = strand.b, hk = strand.head / p.group(), d = p.width, dv = p.value_width;
  const float scale = static_cast<float>(p.spec.scale);
  for (std::int64_t block = block0; block < block1; ++block) {
    const std::int64_t j0 = block * kTile, j1 = std::min(p.keys, j0 + kTile), n = j1 - j0, ld = padded(n);
    const float *k = p.row(p.k, b, hk, j0), *v = p.row(p.v, b, hk, j0);
    pack_transposed(k, n, d, p.k.strides[2], w.kt, ld);
    pack_transposed(v, n, dv, p.v.strides[2], w.vt, ld);
    const bool finite = all_finite(k, n, d, p.k.strides[2]) && all_finite(v, n, dv, p.v.strides[2]);
    float *gk = p.row(p.gk, b, hk, j0), *gv = p.row(p.gv, b, hk, j0);
    if (!p.spec.accumulate)
      for (std::int64_t j = 0; j < n; ++j) {
        std::fill_n(gk + j * p.gk.strides[2], d, 0.0f);
        std::fill_n(gv + j * p.gv.strides[2], dv, 0.0f);
      }
    std::int64_t begin, end;
    p.query_range(j0, j1, begin, end);
    for (std::int64_t g = 0; g < strand.heads; ++g) {
      const std::int64_t h = strand.head + g;
      for (std::int64_t i0 = begin / kTile * kTile; i0 < end; i0 += kTile) {
        const std::int64_t i1 = std::min(p.queries, i0 + kTile), m = i1 - i0;
        const Cover c = cover(p, b, i0, i1, j0, j1);
        if (c == Cover::None) continue;
        const float *q = p.row(p.q, b, h, i0), *go = p.row(p.go, b, h, i0);
        const std::int64_t ldq = p.q.strides[2], ldo = p.go.strides[2];
        const bool careful = c == Cover::Partial && (!finite || !all_finite(q, m, d, ldq) || !all_finite(go, m, dv, ldo));
        product(m, ld, d, q, ldq, 1, w.kt, ld, w.s, kTile, false);
        finish_scores(p, b, h, i0, i1, j0, j1, c, w.s);
        product(m, ld, dv, go, ldo, 1, w.vt, ld, w.ds, kTile, false);
        const hn::ScalableTag<float> tag;
        const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(tag));
        const auto one = hn::Set(tag, 1.0f), by = hn::Set(tag, scale), none = hn::Set(tag, -kInfinity);
        for (std::int64_t i = 0; i < m; ++i) {
          float *row = w.s + i * kTile, *drow = w.ds + i * kTile;
          // a query that sees nothing has lse -inf: every score is -inf and every probability 0
          const auto top = hn::Set(tag, softmax ? *p.row(p.lse, b, h, i0 + i) : 0.0f);
          const auto shift = hn::Set(tag, softmax ? p.delta[(b * p.heads + h) * p.delta_size + (i0 + i) * p.delta_step] : 0.0f);
          for (std::int64_t j = 0; j < ld; j += lanes) {
            const auto s = hn::LoadU(tag, row + j), dp = hn::LoadU(tag, drow + j);
            const auto hidden = hn::Eq(s, none);
            // lse is rounded, so a score may exceed it by a hair; the exponent is kept at 0 or below
            const auto pr = hn::IfThenZeroElse(hidden, softmax ? exp_nonpositive(tag, keep_nan<decltype(tag)>(hn::Sub(s, top), hn::Min(hn::Sub(s, top), hn::Set(tag, 0.0f)))) : sigmoid(tag, s));
            const auto slope = softmax ? hn::Sub(dp, shift) : hn::Mul(dp, hn::Sub(one, pr));
            hn::StoreU(pr, tag, row + j);
            hn::StoreU(hn::IfThenZeroElse(hidden, hn::Mul(hn::Mul(pr, slope), by)), tag, drow + j);
          }
        }
        masked_product(careful, n, dv, m, w.s, 1, kTile, go, ldo, gv, p.gv.strides[2], true);
        masked_product(careful, n, d, m, w.ds, 1, kTile, q, ldq, gk, p.gk.strides[2], true);
        masked_product(careful, m, d, n, w.ds, kTile, 1, k, p.k.strides[2], gq + (g * (to - from) + i0 - from) * d, d, true);
      }
    }
  }
}

void Backward(const AttentionProblem& all) {
  const std::int64_t d = all.width, dv = all.value_width;
  AttentionProblem p = all;
  p.delta_size = p.queries;
  // delta_i = gO_i . O_i - (gradient of lse_i)
  cpu::Scratch<float> delta(p.batch * p.heads * p.queries);
  p.delta = delta.data();
  if (p.spec.kind == ScoreKind::Softmax)
    parallel_for(p.batch * p.heads * p.queries, 256, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t b = t / p.queries / p.heads, h = t / p.queries % p.heads, i = t % p.queries;
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
    const std::int64_t runs = s.count * 2 < longest ? 1 : std::clamp<std::int64_t>(8 / static_cast<std::int64_t>(strands.size()), 1, std::max<std::int64_t>(1, blocks));
    first_task.push_back(tasks.size());
    for (std::int64_t r = 0; r < runs; ++r) {
      Task x{t, blocks * r / runs, blocks * (r + 1) / runs, 0, 0, size};
      if (x.block0 < x.block1) part.query_range(x.block0 * kTile, std::min(s.count, x.block1 * kTile), x.from, x.to);
      x.from = x.from / kTile * kTile;
      x.to = std::max(x.from, x.to == 0 ? 0 : std::min(part.queries, (x.to + kTile - 1) / kTile * kTile));
      size += s.heads * (x.to - x.from) * d;
      tasks.push_back(x);
    }
  }
  first_task.push_back(tasks.size());
  cpu::Scratch<float> gq(size);
  parallel_for(static_cast<std::int64_t>(tasks.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    cpu::Scratch<float> work(kTile * (d + dv + 2 * kTile));
    float* at = work.data();
    const BackwardWork w{at, at + kTile * d, at + kTile * (d + dv), at + kTile * (d + dv + kTile)};
    for (std::int64_t t = begin; t < end; ++t) {
      const Task& x = tasks[static_cast<std::size_t>(t)];
      const Strand& s = strands[x.strand];
      std::fill_n(gq.data() + x.gq, s.heads * (x.to - x.from) * d, 0.0f);
      backward_run(p.spec.step ? p.strand(s.first, s.step, s.count) : p, s, x.block0, x.block1, x.from, x.to, gq.data() + x.gq, w);
    }
  });
  // the shares of each query, in order
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
  parallel_for(static_cast<std::int64_t>(rows.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const Rows& r = rows[static_cast<std::size_t>(t)];
      const Strand& s = strands[r.strand];
      for (std::int64_t i = r.begin; i < r.end; ++i) {
        float* to = p.row(p.gq, s.b, s.head + r.head, s.first + i * s.step);
        if (!p.spec.accumulate) std::fill_n(to, d, 0.0f);
        for (std::size_t k = first_task[r.strand]; k < first_task[r.strand + 1]; ++k) {
          const Task& x = tasks[k];
          if (i < x.from || i >= x.to) continue;
          const float* from = gq.data() + x.gq + (r.head * (x.to - x.from) + i - x.from) * d;
          for (std::int64_t c = 0; c < d; ++c) to[c] += from[c];
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

abi::Status unpack(AttentionProblem& p, const abi::TensorIn& q, const abi::TensorIn& k, const abi::TensorIn& v, const AttentionSpec& spec, const abi::TensorIn& slopes,
                   const abi::TensorIn& key_mask, const abi::TensorIn& forbidden, const abi::TensorIn& added) {
  for (const abi::TensorIn* t : {&q, &k, &v})
    if (t->dtype != DType::Float32 || t->ndim != 4 || (t->strides[3] != 1 && t->sizes[3] > 1)) return abi::unsupported("float32 [B, H, L, D] with a contiguous last dimension");
  if (spec.step && (q.sizes[1] != k.sizes[1] || q.sizes[2] != k.sizes[2] || !spec.accumulate)) return abi::unsupported("strands where queries and keys are the same positions, accumulated");
  p.spec = spec;
  p.batch = q.sizes[0], p.heads = q.sizes[1], p.key_heads = k.sizes[1], p.queries = q.sizes[2], p.keys = k.sizes[2], p.width = q.sizes[3], p.value_width = v.sizes[3];
  p.q = q, p.k = k, p.v = v, p.slopes = slopes, p.key_mask = key_mask, p.forbidden = forbidden, p.added = added;
  return abi::ok();
}

abi::Status forward(const abi::KernelContext&, const abi::TensorIn& q, const abi::TensorIn& k, const abi::TensorIn& v, const AttentionSpec& spec, const abi::TensorIn& slopes,
                    const abi::TensorIn& key_mask, const abi::TensorIn& forbidden, const abi::TensorIn& added, const abi::TensorOut& o, const abi::TensorOut& lse) {
  AttentionProblem p;
  if (abi::Status s = unpack(p, q, k, v, spec, slopes, key_mask, forbidden, added); s.code) return s;
  if (o.numel() == 0 && lse.numel() == 0) return abi::ok();
  p.o = o, p.lse = lse;
  HWY_DYNAMIC_DISPATCH(Forward)(p);
  return abi::ok();
}

abi::Status backward(const abi::KernelContext&, const abi::TensorIn& go, const abi::TensorIn& glse, const abi::TensorIn& q, const abi::TensorIn& k, const abi::TensorIn& v,
                     const abi::TensorIn& o, const abi::TensorIn& lse, const AttentionSpec& spec, const abi::TensorIn& slopes, const abi::TensorIn& key_mask,
                     const abi::TensorIn& forbidden, const abi::TensorIn& added, const abi::TensorOut& gq, const abi::TensorOut& gk, const abi::TensorOut& gv) {
  AttentionProblem p;
  if (abi::Status s = unpack(p, q, k, v, spec, slopes, key_mask, forbidden, added); s.code) return s;
  p.go = go, p.glse = glse, p.out = o;
  static_cast<abi::TensorIn&>(p.lse) = lse;
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
