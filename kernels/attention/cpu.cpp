// Tiles of 64 queries by 64 keys: scores, probabilities and their gradients live in a 16 KB tile.
// All that a product reads row by row is packed first (rows of a head lie a power of two apart and
// would fall into the same few cache sets): keys and values once per key block, queries, with the
// scale in them, once per query block. On a tile that a window cuts, products and exponentials run
// over the band that the rows at hand see. A problem is a set of strands: rows that see each other
// (all rows of a key head, or every r-th row of a segment), which share no row. Forward is cut over
// strands x heads x query blocks. Backward is cut over strands (and over runs of key blocks when
// those are few): a task owns the gradients of its keys and values, and adds to gradients of
// queries of its own, which are summed in order at the end, so results do not depend on the thread
// count (cpu_backward.cpp).
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "cpu/scratch.h"
#include "dropin/core/parallel.h"
#include "kernels/attention/distances-inl.h"
#include "kernels/attention/positions.h"
#include "kernels/attention/problem.h"
#include "kernels/attention/scores-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

// What a block of queries knows after some of its keys: the largest score, the sum of exponentials,
// and the values weighted so far.
struct Running {
  float *top, *sum, *acc;  // [rows], [rows], [rows, width]
  int64_t width;           // Dv, or more
  Running from(int64_t row) const { return {top + row, sum + row, acc + row * width, width}; }
};

// row = exp(row - m) over a band; returns the sum. -inf gives 0, also when m is -inf; `plain` rows
// have none.
float exponentials(float* row, Band in, float m, bool plain) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto top = hn::Set(d, m), none = hn::Set(d, -kInf<float>);
  auto sum = hn::Zero(d);
  if (plain) {
    for (int64_t j = in.lo; j < in.hi; j += lanes) {
      const auto e = exp_weight(d, hn::Sub(hn::LoadU(d, row + j), top));
      hn::StoreU(e, d, row + j);
      sum = hn::Add(sum, e);
    }
    return hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (int64_t j = in.lo; j < in.hi; j += lanes) {
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
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto m = hn::Set(d, -kInf<float>);
  for (int64_t j = in.lo; j < in.hi; j += lanes) m = hn::Max(m, hn::LoadU(d, row + j));
  return hn::GetLane(hn::MaxOfLanes(d, m));
}
void sigmoids(float* row, Band in) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t j = in.lo; j < in.hi; j += lanes)
    hn::StoreU(weight_of(d, hn::LoadU(d, row + j)), d, row + j);
}
void scale_row(float* row, int64_t n, float by) {
  for (int64_t j = 0; j < n; ++j) row[j] *= by;
}

// The weights of row i of a tile from its scores, in place; what was there before is rescaled.
void absorb_row(const AttentionProblem& p, Band in, int64_t i, float* row, bool plain,
                const Running& r) {
  if (p.spec.kind == ScoreKind::Sigmoid) return sigmoids(row, in);
  const float t = largest(row, in);
  float high = std::isnan(t) || std::isnan(r.top[i]) ? std::nanf("") : std::max(r.top[i], t);
  if (high == -kInf<float>) {
    if (std::none_of(row + in.lo, row + in.hi,
                     [](float x) { return std::isnan(x); })) {  // nothing seen yet
      std::fill(row + in.lo, row + in.hi, 0.0f);
      return;
    }
    high = std::nanf("");
  }
  const float shrink = r.top[i] == high           ? 1
                       : r.top[i] == -kInf<float> ? 0
                                                  : std::exp(r.top[i] - high);
  r.sum[i] = r.sum[i] * shrink + exponentials(row, in, high, plain);
  if (shrink != 1) scale_row(r.acc + i * r.width, r.width, shrink);
  r.top[i] = high;
}

void clear(int64_t m, const Running& r) {
  std::fill_n(r.top, m, -kInf<float>);
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
void finish(const AttentionProblem& p, int64_t b, int64_t h, int64_t i0, int64_t m,
            const Running& r) {
  const int64_t dv = p.value_width;
  const bool softmax = p.spec.kind == ScoreKind::Softmax;
  for (int64_t i = 0; i < m; ++i) {
    float *o = p.row(p.o, b, h, i0 + i), *acc = r.acc + i * r.width;
    if (!softmax) {
      if (p.spec.accumulate)
        for (int64_t c = 0; c < dv; ++c) o[c] += acc[c];
      else
        std::copy_n(acc, dv, o);
      continue;
    }
    float* lse = p.lse.data ? p.row(p.lse, b, h, i0 + i) : nullptr;
    const bool blind = r.sum[i] == 0;
    const TwoSum mine = blind ? TwoSum{-kInf<float>, 0} : two_sum(r.top[i], std::log(r.sum[i]));
    float* rest = lse ? p.row(p.rest, b, h, i0 + i) : nullptr;
    if (p.spec.accumulate) {
      if (blind) continue;
      const float old = *lse;
      if (old != -kInf<float>) {
        // The shares by their own sum, which makes them add up to 1.
        const float high = std::max(old, mine.sum), a = std::exp(old - high + *rest),
                    m = std::exp(mine.sum - high + mine.rest);
        const float keep = a / (a + m), take = m / (a + m) / r.sum[i];
        for (int64_t c = 0; c < dv; ++c) o[c] = o[c] * keep + acc[c] * take;
        const TwoSum both = two_sum(high, std::log(a + m));
        *lse = both.sum, *rest = both.rest;
        continue;
      }
    }
    const float by = blind ? 0 : 1 / r.sum[i];
    for (int64_t c = 0; c < dv; ++c) o[c] = blind ? 0 : acc[c] * by;
    if (lse) *lse = mine.sum, *rest = mine.rest;
  }
}

// The packed keys and values of one strand: per block of 64, the keys transposed [D, padded(n)] and
// the values [n, dvp]; `finite` tells which blocks' values are.
struct Packed {
  float *keys, *values;
  unsigned char* finite;
  int64_t dvp;
};

// One block of queries of one head. work: the scores [kTile, kTile], the queries [kTile, D], the
// weighted values [kTile, dvp], kWindowWork with tables.
void forward_block(const AttentionProblem& p, int64_t b, int64_t h, int64_t i0, const Packed& k,
                   float* work) {
  const int64_t i1 = std::min(p.queries, i0 + kTile), m = i1 - i0, d = p.width, dvp = k.dvp;
  float *s = work, *q = s + kTile * kTile, top[kTile], sum[kTile];
  const Running r{top, sum, q + kTile * d, dvp};
  float* windows = r.acc + kTile * dvp;
  clear(m, r);
  pack_rows(p.row(p.q, b, h, i0), m, d, p.q.strides[2], static_cast<float>(p.spec.scale), q, d);
  int64_t begin, end;
  p.key_range(i0, i1, begin, end);
  for (int64_t j0 = begin / kTile * kTile; j0 < end; j0 += kTile) {
    const int64_t j1 = std::min(p.keys, j0 + kTile), n = j1 - j0, ld = padded(n);
    const Cover c = cover(p, b, h, i0, i1, j0, j1);
    if (c == Cover::None) continue;
    const float *kt = k.keys + j0 * d, *v = k.values + j0 * dvp;
    const bool plain = plain_scores(p, c), careful = c == Cover::Partial && !k.finite[j0 / kTile];
    Band bands[kTile];
    for_groups(m, [&](int64_t i, int64_t rows) {
      const Band in = bands[i] = band(p, c, i0 + i, rows, j0, j1);
      if (careful) std::fill_n(s + i * kTile, rows * kTile, 0.0f);
      if (in.hi > in.lo)
        group_product(rows, in.hi - in.lo, d, q + i * d, d, 1, kt + in.lo, ld,
                      s + i * kTile + in.lo, kTile, false);
    });
    const TileAt tile{i0, m, j0, n, bands};
    if (p.factors.data) multiply_factors(p, tile, s);
    if (p.table.data) add_table_scores(p, tile, {q, d, 1}, {kt, 1, ld}, s, windows);
    for_groups(m, [&](int64_t i, int64_t rows) {
      const Band in = bands[i];
      if (in.hi == in.lo) return;
      for (int64_t t = i; t < i + rows; ++t) {
        if (!plain) finish_row(p, b, h, i0 + t, j0, j1, c, in, s + t * kTile);
        absorb_row(p, in, t, s + t * kTile, plain, r);
      }
      if (!careful)
        group_product(rows, dvp, std::min(in.hi, n) - in.lo, s + i * kTile + in.lo, kTile, 1,
                      v + in.lo * dvp, dvp, r.acc + i * dvp, dvp, true);
    });
    if (careful) careful_product(m, dvp, n, s, kTile, 1, v, dvp, r.acc, dvp, true);
    if (p.value_table.data) add_value_rows(p, tile, s, r.acc, dvp, windows);
  }
  finish(p, b, h, i0, m, r);
}

// Few queries against many keys, as in decoding: reading the keys is all the cost, so they are not
// packed, and cut over the threads.

// Key blocks [first, last) of one key head, for all queries of its group.
void decode_blocks(const AttentionProblem& p, int64_t b, int64_t hk, int64_t first, int64_t last,
                   const Running& all) {
  const int64_t group = p.group(), dv = p.value_width;
  const float scale = static_cast<float>(p.spec.scale);
  float s[kDecodeQueries * kTile];
  clear(group * p.queries, all);
  for (int64_t block = first; block < last; ++block) {
    const int64_t j0 = block * kTile, j1 = std::min(p.keys, j0 + kTile), n = j1 - j0;
    const Cover c = cover(p, b, hk * p.group(), 0, p.queries, j0, j1);
    if (c == Cover::None) continue;
    const float *k = p.row(p.k, b, hk, j0), *v = p.row(p.v, b, hk, j0);
    const bool careful = c == Cover::Partial && !all_finite(v, n, dv, p.v.strides[2]);
    const Band in{0, padded(n)};
    for (int64_t g = 0; g < group; ++g) {
      const Running own = all.from(g * p.queries);
      for (int64_t i = 0; i < p.queries; ++i) {
        const float* q = p.row(p.q, b, hk * group + g, i);
        float* row = s + i * kTile;
        for (int64_t j = 0; j < n; ++j) row[j] = dot(q, k + j * p.k.strides[2], p.width) * scale;
        std::fill(row + n, row + in.hi, 0.0f);
        if (!plain_scores(p, c)) finish_row(p, b, hk * group + g, i, j0, j1, c, in, row);
        absorb_row(p, in, i, row, false, own);
      }
      masked_product(careful, p.queries, dv, n, s, kTile, 1, v, p.v.strides[2], own.acc, dv, true);
    }
  }
}

// Adds to what is known of `rows` queries what other keys say.
void merge(const AttentionProblem& p, int64_t rows, const Running& more, const Running& all) {
  const int64_t dv = all.width;
  for (int64_t i = 0; i < rows; ++i) {
    float keep = 1, take = 1;
    if (p.spec.kind == ScoreKind::Softmax) {
      const float high = std::isnan(all.top[i]) || std::isnan(more.top[i])
                             ? std::nanf("")
                             : std::max(all.top[i], more.top[i]);
      if (high == -kInf<float>) continue;
      keep = all.top[i] == -kInf<float> ? 0 : std::exp(all.top[i] - high);
      take = more.top[i] == -kInf<float> ? 0 : std::exp(more.top[i] - high);
      all.sum[i] = all.sum[i] * keep + more.sum[i] * take;
      all.top[i] = high;
    }
    for (int64_t c = 0; c < dv; ++c)
      all.acc[i * dv + c] = all.acc[i * dv + c] * keep + more.acc[i * dv + c] * take;
  }
}

void decode(const AttentionProblem& p) {
  const int64_t group = p.group(), rows = group * p.queries, dv = p.value_width,
                heads = p.batch * p.key_heads;
  int64_t begin, end;
  p.key_range(0, p.queries, begin, end);
  const int64_t first = begin / kTile, blocks = std::max<int64_t>(0, ceil_div(end, kTile) - first);
  const int64_t splits = std::clamp<int64_t>(
                    blocks / 8, 1, std::max<int64_t>(1, 16 / std::max<int64_t>(1, heads))),
                part = rows * (dv + 2);
  cpu::Scratch<float> parts(heads * splits * part);
  auto running = [&](int64_t t) {
    float* at = parts.data() + t * part;
    return Running{at, at + rows, at + 2 * rows, dv};
  };
  parallel_for(heads * splits, 1, [&](int64_t t0, int64_t t1) {
    for (int64_t t = t0; t < t1; ++t) {
      const int64_t head = t / splits, split = t % splits;
      decode_blocks(p, head / p.key_heads, head % p.key_heads, first + blocks * split / splits,
                    first + blocks * (split + 1) / splits, running(t));
    }
  });
  for (int64_t t = 0; t < heads; ++t) {
    const Running all = running(t * splits);
    for (int64_t split = 1; split < splits; ++split)  // in order
      merge(p, rows, running(t * splits + split), all);
    for (int64_t g = 0; g < group; ++g)
      finish(p, t / p.key_heads, t % p.key_heads * group + g, 0, p.queries,
             all.from(g * p.queries));
  }
}

// The strands of a problem, cut into blocks of queries and blocks of keys, with the keys and values
// packed: as much memory as they take themselves.
struct ForwardCut {
  struct Item {
    int64_t strand, head, block;
  };
  struct KeyBlock {
    int64_t strand, first;
  };
  std::vector<Strand> strands;
  std::vector<Item> items;
  std::vector<KeyBlock> key_blocks;
  int64_t width, dvp;
  cpu::Scratch<float> keys, values;
  std::vector<unsigned char> finite;

  explicit ForwardCut(const AttentionProblem& p);
  Packed packed(const Strand& s) {
    return {keys.data() + s.packed * width, values.data() + s.packed * dvp,
            finite.data() + s.blocks, dvp};
  }
  void pack(const AttentionProblem& p, const KeyBlock& k);
};

ForwardCut::ForwardCut(const AttentionProblem& p)
    : strands(strands_of(p)), width(p.width), dvp(rounded(p.value_width)) {
  int64_t rows = 0, blocks_in_all = 0;
  for (int64_t t = 0; t < static_cast<int64_t>(strands.size()); ++t) {
    Strand& s = strands[static_cast<std::size_t>(t)];
    s.packed = rows;
    s.blocks = blocks_in_all;
    rows += s.count / kTile * kTile + padded(s.count % kTile);
    blocks_in_all += ceil_div(s.count, kTile);
    const int64_t blocks = ceil_div(p.spec.step ? s.count : p.queries, kTile);
    for (int64_t j = 0; j < s.count; j += kTile) key_blocks.push_back({t, j});
    for (int64_t g = 0; g < s.heads; ++g)
      for (int64_t i = 0; i < blocks; ++i)
        items.push_back({t, s.head + g,
                         p.spec.right == INT64_MAX
                             ? i
                             : blocks - 1 - i});  // the long rows of a causal problem first
  }
  keys = cpu::Scratch<float>(rows * width);
  values = cpu::Scratch<float>(rows * dvp);
  finite.resize(static_cast<std::size_t>(blocks_in_all));
}

void ForwardCut::pack(const AttentionProblem& p, const KeyBlock& k) {
  const Strand& s = strands[static_cast<std::size_t>(k.strand)];
  const Packed to = packed(s);
  const int64_t n = std::min(kTile, s.count - k.first), at = s.first + k.first * s.step,
                hk = s.head / p.group();
  pack_transposed(p.row(p.k, s.b, hk, at), n, width, p.k.strides[2] * s.step,
                  to.keys + k.first * width, padded(n));
  float* v = to.values + k.first * dvp;
  pack_rows(p.row(p.v, s.b, hk, at), n, p.value_width, p.v.strides[2] * s.step, 1, v, dvp);
  to.finite[k.first / kTile] = all_finite(v, n, dvp, dvp);
}

void Forward(const AttentionProblem& p) {
  if (!p.spec.step && p.queries <= kDecodeQueries && p.queries < p.keys && !p.tables)
    return decode(p);
  ForwardCut cut(p);
  parallel_for(static_cast<int64_t>(cut.key_blocks.size()), 8, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) cut.pack(p, cut.key_blocks[static_cast<std::size_t>(t)]);
  });
  parallel_for(static_cast<int64_t>(cut.items.size()), 1, [&](int64_t first, int64_t last) {
    cpu::Scratch<float> work(kTile * (kTile + cut.width + cut.dvp) + (p.tables ? kWindowWork : 0));
    for (int64_t t = first; t < last; ++t) {
      const ForwardCut::Item& item = cut.items[static_cast<std::size_t>(t)];
      const Strand& s = cut.strands[static_cast<std::size_t>(item.strand)];
      const AttentionProblem part = p.spec.step ? p.strand(s.first, s.step, s.count) : p;
      forward_block(part, s.b, item.head, item.block * kTile, cut.packed(s), work.data());
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

abi::Status unpack(AttentionProblem& p, const AttentionInputs& in, const AttentionSpec& spec) {
  const abi::TensorIn &q = in.q, &k = in.k, &v = in.v;
  if (!are_heads({&q, &k, &v})) return abi::unsupported(kHeads);
  if (spec.own_mean && !spec.step) return abi::unsupported("a share of a mixture along strands");
  if (spec.step && (q.sizes[1] != k.sizes[1] || q.sizes[2] != k.sizes[2] || !spec.accumulate))
    return abi::unsupported("strands where queries and keys are the same positions, accumulated");
  if (spec.step && (in.grid.data || in.table.data || in.value_table.data || in.factors.data))
    return abi::unsupported("learned distances or a grid along strands");
  for (const abi::TensorIn* t : {&in.table, &in.value_table, &in.factors, &in.grid})
    if (t->data && (t->dtype != DType::Float32 || !t->contiguous()))
      return abi::unsupported("tables of contiguous float32");
  if (in.grid.data && (q.sizes[2] != k.sizes[2] || in.places.dtype != DType::Int64 ||
                       !in.places.contiguous() || in.places.sizes[0] > k.sizes[2]))
    return abi::unsupported("places [P, 2] int64 of queries that are the keys too");
  p.spec = spec;
  p.batch = q.sizes[0], p.heads = q.sizes[1], p.key_heads = k.sizes[1], p.queries = q.sizes[2],
  p.keys = k.sizes[2], p.width = q.sizes[3], p.value_width = v.sizes[3];
  static_cast<AttentionInputs&>(p) = in;
  return abi::ok();
}

// Positions laid out as the tiles read them, for the length of a call.
struct Positions {
  std::optional<DistanceTables> tables;
  std::optional<GridPlaces> on_grid;
  explicit Positions(AttentionProblem& p) {
    if (p.has_tables()) p.tables = &tables.emplace(p);
    if (p.grid.data) p.on_grid = &on_grid.emplace(p);
  }
};

abi::Status forward(const abi::KernelContext&, const AttentionInputs& in, const AttentionSpec& spec,
                    const abi::TensorOut& o, const abi::TensorOut& lse,
                    const abi::TensorOut& rest) {
  AttentionProblem p;
  if (abi::Status s = unpack(p, in, spec); s.code) return s;
  if (o.numel() == 0 && lse.numel() == 0) return abi::ok();
  p.o = o, p.lse = lse, p.rest = rest;
  const Positions laid_out(p);
  HWY_DYNAMIC_DISPATCH(Forward)(p);
  return abi::ok();
}

abi::Status backward(const abi::KernelContext&, const abi::TensorIn& go, const abi::TensorIn& glse,
                     const AttentionInputs& in, const AttentionSpec& spec,
                     const AttentionResults& results, const AttentionGradients& out) {
  AttentionProblem p;
  if (abi::Status s = unpack(p, in, spec); s.code) return s;
  p.go = go, p.glse = glse, p.out = results.o;
  static_cast<abi::TensorIn&>(p.lse) = results.lse;
  static_cast<abi::TensorIn&>(p.rest) = results.rest;
  p.gq = out.q, p.gk = out.k, p.gv = out.v;
  p.gtable = out.table, p.gvalue_table = out.value_table, p.gfactors = out.factors;
  const Positions laid_out(p);
  attention_gradients(p);
  return abi::ok();
}

}  // namespace

void provide_attention_cpu(abi::KernelTable& t) {
  t.provide<attention_forward>(&forward);
  t.provide<attention_backward>(&backward);
}

}  // namespace dropin::kernels
#endif  // HWY_ONCE
