// The backward pass of tiled attention: probabilities are made again from the scores and lse, tile
// by tile. How it is cut over threads: see cpu.cpp.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/cpu_backward.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
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

// The tiles of a task, and its queries and their gradients packed: kt [D, 64], vt [Dv, 64], k [64,
// dp], s and ds [64, 64], gk [64, dp], gv [64, dvp]; q [heads, rows, dp] with the scale in it, go
// [heads, rows, dvp] for queries [from, to). With tables: what their windows are worked in, scores
// before the factors [64, 64], and the gradients of the tables' rows in DistanceTables' order.
struct BackwardWork {
  float *kt, *vt, *k, *s, *ds, *gk, *gv, *q, *go;
  float *windows = nullptr, *raw = nullptr, *table = nullptr, *values = nullptr, *factors = nullptr;
};

// Queries [i0, i0 + m) against keys [j0, j0 + n) of head h.
struct Tile {
  int64_t b, h, i0, m, j0, n;
  Cover cover;
  bool plain;
  Band bands[kTile];
  Tile(const AttentionProblem& p, int64_t b_, int64_t h_, int64_t i, int64_t j)
      : b(b_),
        h(h_),
        i0(i),
        m(std::min(kTile, p.queries - i)),
        j0(j),
        n(std::min(kTile, p.keys - j)),
        cover(kernels::HWY_NAMESPACE::cover(p, b, h_, i, i + m, j, j + n)),
        plain(plain_scores(p, cover)) {}
  TileAt at() const { return {i0, m, j0, n, bands}; }
};

// The probabilities of row i of a tile from its scores, in place, and drow: go v^T times what
// softmax or sigmoid makes of it, the gradient of the scores. kOwn: drow stays go v^T, and its mean
// under the probabilities is gathered: own += sum of s ds, mass += sum of s.
template <bool kOwn>
HWY_INLINE void probability_row(const AttentionProblem& p, const Tile& t, Band in, int64_t i,
                                float* row, float* drow, float* own, float* mass) {
  const bool softmax = p.spec.kind == ScoreKind::Softmax;
  const hn::ScalableTag<float> tag;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(tag));
  const auto zero = hn::Zero(tag), one = hn::Set(tag, 1.0f), none = hn::Set(tag, -kInf<float>);
  // a query that sees nothing has lse -inf: every score is -inf and every probability 0
  const auto top = hn::Set(tag, softmax ? *p.row(p.lse, t.b, t.h, t.i0 + i) : 0.0f),
             rest = hn::Set(tag, softmax ? *p.row(p.rest, t.b, t.h, t.i0 + i) : 0.0f);
  const auto shift =
      hn::Set(tag, softmax && !kOwn
                       ? p.delta[(t.b * p.heads + t.h) * p.delta_size + (t.i0 + i) * p.delta_step]
                       : 0.0f);
  auto sum_own = zero, sum_mass = zero;
  for (int64_t j = in.lo; j < in.hi; j += lanes) {
    const auto x = hn::LoadU(tag, row + j), dprob = hn::LoadU(tag, drow + j);
    const auto hidden = hn::Eq(x, none);
    auto pr = zero, slope = zero;
    if (!softmax) {
      pr = hn::IfThenZeroElse(hidden, weight_of(tag, x));
      slope = hn::IfThenZeroElse(hidden, hn::Mul(hn::Mul(pr, hn::Sub(one, pr)), dprob));
    } else {
      // lse is rounded, so a score may exceed it by a hair; the exponent is kept at 0 or below (a
      // NaN stays)
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

// What the tables add to a tile's products s = q k^T and ds = go v^T.
void add_tables(const AttentionProblem& p, const Tile& t, const float* q, const float* kt,
                const float* go, float* s, float* ds, const BackwardWork& w) {
  const int64_t dp = rounded(p.width), dvp = rounded(p.value_width), ld = padded(t.n);
  if (p.factors.data) {
    std::copy_n(s, t.m * kTile, w.raw);
    multiply_factors(p, t.at(), s);
  }
  if (p.table.data) add_table_scores(p, t.at(), {q, dp, 1}, {kt, 1, ld}, s, w.windows);
  if (p.value_table.data)
    add_window(t.at(), p.value_width, {go, dvp, 1},
               p.tables->value_columns.data() + p.tables->window(t.i0, t.j0) * p.value_width, ds,
               w.windows);
}

// The products of a tile, s = q k^T and ds = go v^T, then probability_row on each row.
template <bool kOwn>
void tile_scores(const AttentionProblem& p, Tile& t, const float* q, const float* kt,
                 const float* go, const float* vt, float* s, float* ds, float* own, float* mass,
                 const BackwardWork& w) {
  const int64_t d = p.width, dv = p.value_width, dp = rounded(d), dvp = rounded(dv),
                ld = padded(t.n);
  for_groups(t.m, [&](int64_t i, int64_t rows) {
    const Band in = t.bands[i] = band(p, t.cover, t.i0 + i, rows, t.j0, t.j0 + t.n);
    if (in.hi > in.lo)
      group_product(rows, in.hi - in.lo, d, q + i * dp, dp, 1, kt + in.lo, ld,
                    s + i * kTile + in.lo, kTile, false);
  });
  for_groups(t.m, [&](int64_t i, int64_t rows) {
    const Band in = t.bands[i];
    if (in.hi > in.lo)
      group_product(rows, in.hi - in.lo, dv, go + i * dvp, dvp, 1, vt + in.lo, ld,
                    ds + i * kTile + in.lo, kTile, false);
  });
  if (p.tables) add_tables(p, t, q, kt, go, s, ds, w);
  for_groups(t.m, [&](int64_t first, int64_t rows) {
    const Band in = t.bands[first];
    for (int64_t i = first; i < first + rows; ++i) {
      float *row = s + i * kTile, *drow = ds + i * kTile;
      if (t.cover == Cover::Partial)
        for (float* x : {row, drow})
          std::fill(x, x + in.lo, 0.0f), std::fill(x + in.hi, x + ld, 0.0f);
      if (!t.plain && in.hi > in.lo)
        finish_row(p, t.b, t.h, t.i0 + i, t.j0, t.j0 + t.n, t.cover, in, row);
      probability_row<kOwn>(p, t, in, i, row, drow, own, mass);
    }
  });
}

// What the gradient of the scores ds and the probabilities s give: gq += ds k, gv += s^T go, gk +=
// ds^T q.
void tile_gradients(const AttentionProblem& p, const Tile& t, bool careful, const float* s,
                    const float* ds, const float* q, const float* go, const float* k, float* gq,
                    float* gk, float* gv) {
  const int64_t m = t.m, n = t.n, dp = rounded(p.width), dvp = rounded(p.value_width);
  if (careful) {
    careful_product(n, dvp, m, s, 1, kTile, go, dvp, gv, dvp, true);
    careful_product(n, dp, m, ds, 1, kTile, q, dp, gk, dp, true);
    careful_product(m, dp, n, ds, kTile, 1, k, dp, gq, dp, true);
    return;
  }
  for_groups(m, [&](int64_t i, int64_t rows) {
    const Band in = t.bands[i];
    if (in.hi > in.lo)
      group_product(rows, dp, std::min(in.hi, n) - in.lo, ds + i * kTile + in.lo, kTile, 1,
                    k + in.lo * dp, dp, gq + i * dp, dp, true);
  });
  auto queries_of = [&](int64_t j,
                        int64_t rows) {  // of this tile, those that may see keys [j, j + rows)
    if (t.cover == Cover::Full) return Band{0, m};
    int64_t lo, hi;
    p.query_range(t.j0 + j, t.j0 + j + rows, lo, hi);
    lo = std::clamp<int64_t>(lo - t.i0, 0, m);
    return Band{lo, std::clamp<int64_t>(hi - t.i0, lo, m)};
  };
  for_groups(n, [&](int64_t j, int64_t rows) {
    const Band in = queries_of(j, rows);
    if (in.hi > in.lo)
      group_product(rows, dvp, in.hi - in.lo, s + in.lo * kTile + j, 1, kTile, go + in.lo * dvp,
                    dvp, gv + j * dvp, dvp, true);
  });
  for_groups(n, [&](int64_t j, int64_t rows) {
    const Band in = queries_of(j, rows);
    if (in.hi > in.lo)
      group_product(rows, dp, in.hi - in.lo, ds + in.lo * kTile + j, 1, kTile, q + in.lo * dp, dp,
                    gk + j * dp, dp, true);
  });
}

// What s and ds give the tables, and the tables the gradients of queries and keys. Before
// tile_gradients: the factors turn ds into the gradient of q k^T.
void tile_table_gradients(const AttentionProblem& p, const Tile& t, bool careful, const float* s,
                          float* ds, const float* q, const float* go, const float* k, float* gq,
                          const BackwardWork& w) {
  const int64_t dp = rounded(p.width), dvp = rounded(p.value_width),
                window = p.tables->window(t.i0, t.j0);
  if (p.table.data) {
    const float* rows_of = p.tables->rows.data() + window * dp;
    table_gradients(p, t.at(), careful, ds, q, rows_of, gq, w.table + window * dp, w.windows);
    if (p.spec.table_of_keys)
      table_gradients_of_keys(p, t.at(), careful, ds, k, rows_of, w.gk, w.table + window * dp,
                              w.windows);
  }
  if (p.value_table.data) {
    straighten(t.m, padded(t.n), s, w.windows);
    gather_by_distance(careful, t.m, dvp, w.windows, go, w.values + window * dvp);
  }
  if (p.factors.data) factor_gradients(p, t.at(), w.raw, ds, w.factors + window);
}

void pack_queries(const AttentionProblem& p, const Strand& strand, int64_t from, int64_t to,
                  float* q, float* go) {
  const int64_t d = p.width, dv = p.value_width, dp = rounded(d), dvp = rounded(dv),
                span = to - from, rows = std::min(p.queries, to) - from;
  for (int64_t g = 0; g < strand.heads; ++g) {
    pack_rows(p.row(p.q, strand.b, strand.head + g, from), rows, d, p.q.strides[2],
              static_cast<float>(p.spec.scale), q + g * span * dp, dp);
    pack_rows(p.row(p.go, strand.b, strand.head + g, from), rows, dv, p.go.strides[2], 1,
              go + g * span * dvp, dvp);
  }
}

// The keys [j0, j0 + n) and values packed; returns whether all are finite.
bool pack_keys(const AttentionProblem& p, const Strand& strand, int64_t j0, int64_t n, float* kt,
               float* vt, float* k) {
  const int64_t hk = strand.head / p.group(), d = p.width, dv = p.value_width, dp = rounded(d),
                ld = padded(n);
  pack_transposed(p.row(p.k, strand.b, hk, j0), n, d, p.k.strides[2], kt, ld);
  pack_transposed(p.row(p.v, strand.b, hk, j0), n, dv, p.v.strides[2], vt, ld);
  pack_rows(p.row(p.k, strand.b, hk, j0), n, d, p.k.strides[2], 1, k, dp);
  return all_finite(k, n, dp, dp) && all_finite(vt, dv, ld, ld);
}

void store_keys(const AttentionProblem& p, const Strand& strand, int64_t j0, int64_t n,
                const float* from_k, const float* from_v) {
  const int64_t hk = strand.head / p.group(), d = p.width, dv = p.value_width, dp = rounded(d),
                dvp = rounded(dv);
  for (int64_t j = 0; j < n; ++j) {
    float *gk = p.row(p.gk, strand.b, hk, j0 + j), *gv = p.row(p.gv, strand.b, hk, j0 + j);
    if (p.spec.accumulate) {
      for (int64_t c = 0; c < d; ++c) gk[c] += from_k[j * dp + c];
      for (int64_t c = 0; c < dv; ++c) gv[c] += from_v[j * dvp + c];
    } else {
      std::copy_n(from_k + j * dp, d, gk);
      std::copy_n(from_v + j * dvp, dv, gv);
    }
  }
}

// Key blocks [block0, block1) of one strand: their gradients, and their share of the gradients of
// queries [from, to) of its heads (gq: [heads, to - from, dp], added to, without the scale).
void backward_run(const AttentionProblem& p, const Strand& strand, int64_t block0, int64_t block1,
                  int64_t from, int64_t to, float* gq, const BackwardWork& w) {
  const int64_t dp = rounded(p.width), dvp = rounded(p.value_width), span = to - from;
  pack_queries(p, strand, from, to, w.q, w.go);
  for (int64_t block = block0; block < block1; ++block) {
    const int64_t j0 = block * kTile, n = std::min(kTile, p.keys - j0);
    const bool finite = pack_keys(p, strand, j0, n, w.kt, w.vt, w.k);
    std::fill_n(w.gk, n * dp, 0.0f);
    std::fill_n(w.gv, n * dvp, 0.0f);
    int64_t begin, end;
    p.query_range(j0, j0 + n, begin, end);
    for (int64_t g = 0; g < strand.heads; ++g)
      for (int64_t i0 = begin / kTile * kTile; i0 < end; i0 += kTile) {
        Tile t(p, strand.b, strand.head + g, i0, j0);
        if (t.cover == Cover::None) continue;
        const int64_t at = g * span + i0 - from;
        const float *q = w.q + at * dp, *go = w.go + at * dvp;
        const bool careful = t.cover == Cover::Partial && (!finite || !all_finite(q, t.m, dp, dp) ||
                                                           !all_finite(go, t.m, dvp, dvp));
        tile_scores<false>(p, t, q, w.kt, go, w.vt, w.s, w.ds, nullptr, nullptr, w);
        if (p.tables) tile_table_gradients(p, t, careful, w.s, w.ds, q, go, w.k, gq + at * dp, w);
        tile_gradients(p, t, careful, w.s, w.ds, q, go, w.k, gq + at * dp, w.gk, w.gv);
      }
    store_keys(p, strand, j0, n, w.gk, w.gv);
  }
}

// The whole of a strand whose probabilities are its share of a mixture, a share that is held
// constant: a row's shift is the mean of go v^T under its own probabilities, which is only known
// once all its keys were seen. The tiles of a short strand are kept between the two passes; a long
// one makes them again.
constexpr int64_t kKeptRows = 256;
void backward_own(const AttentionProblem& p, const Strand& strand, float* gq,
                  const BackwardWork& w) {
  const int64_t d = p.width, dv = p.value_width, dp = rounded(d), dvp = rounded(dv), count = p.keys,
                blocks = ceil_div(count, kTile), area = kTile * kTile;
  const int64_t span = blocks * kTile;
  const bool keep = count <= kKeptRows;
  pack_queries(p, strand, 0, span, w.q, w.go);
  cpu::Scratch<float> work(blocks * kTile * (d + dv + 2 * dp + dvp) + 2 * span +
                           (keep ? 2 * blocks * blocks * area : 0));
  float *kt = work.data(), *vt = kt + span * d, *k = vt + span * dv, *gk = k + span * dp,
        *gv = gk + span * dp, *own = gv + span * dvp, *mass = own + span, *kept = mass + span;
  bool finite = all_finite(w.q, count, dp, dp) && all_finite(w.go, count, dvp, dvp);
  for (int64_t j0 = 0; j0 < count; j0 += kTile)
    finite &= pack_keys(p, strand, j0, std::min(kTile, count - j0), kt + j0 * d, vt + j0 * dv,
                        k + j0 * dp);
  std::fill_n(gk, span * (dp + dvp), 0.0f);
  std::fill_n(own, 2 * span, 0.0f);
  auto tiles = [&](bool first) {
    for (int64_t i0 = 0; i0 < count; i0 += kTile) {
      int64_t begin, end;
      p.key_range(i0, std::min(count, i0 + kTile), begin, end);
      for (int64_t j0 = begin / kTile * kTile; j0 < end; j0 += kTile) {
        Tile t(p, strand.b, strand.head, i0, j0);
        if (t.cover == Cover::None) continue;
        const float *q = w.q + i0 * dp, *go = w.go + i0 * dvp;
        float *s = keep ? kept + (i0 / kTile * blocks + j0 / kTile) * 2 * area : w.s,
              *ds = keep ? s + area : w.ds;
        if (first || !keep) {
          float unused[2 * kTile];
          tile_scores<true>(p, t, q, kt + j0 * d, go, vt + j0 * dv, s, ds,
                            first ? own + i0 : unused, first ? mass + i0 : unused + kTile, w);
        } else {
          for_groups(t.m, [&](int64_t i, int64_t rows) {
            t.bands[i] = band(p, t.cover, i0 + i, rows, j0, j0 + t.n);
          });
        }
        if (first) continue;
        for_groups(t.m, [&](int64_t i, int64_t rows) {
          const Band in = t.bands[i];
          for (int64_t r = i; r < i + rows; ++r)
            for (int64_t j = in.lo; j < in.hi; ++j)
              ds[r * kTile + j] =
                  s[r * kTile + j] == 0 ? 0 : s[r * kTile + j] * (ds[r * kTile + j] - own[i0 + r]);
        });
        tile_gradients(p, t, t.cover == Cover::Partial && !finite, s, ds, q, go, k + j0 * dp,
                       gq + i0 * dp, gk + j0 * dp, gv + j0 * dvp);
      }
    }
  };
  tiles(true);
  for (int64_t i = 0; i < count; ++i) {
    own[i] = mass[i] > 0 ? own[i] / mass[i] : 0;
    if (p.glse.data) own[i] -= *p.row(p.glse, strand.b, strand.head, i);
  }
  tiles(false);
  for (int64_t j0 = 0; j0 < count; j0 += kTile)
    store_keys(p, strand, j0, std::min(kTile, count - j0), gk + j0 * dp, gv + j0 * dvp);
}

// delta_i = gO_i . O_i - (gradient of lse_i)
void row_shifts(const AttentionProblem& p) {
  parallel_for(p.batch * p.heads * p.queries, 256, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const int64_t b = t / p.queries / p.heads, h = t / p.queries % p.heads, i = t % p.queries;
      const float s = dot(p.row(p.go, b, h, i), p.row(p.out, b, h, i), p.value_width);
      p.delta[t] = p.glse.data ? s - *p.row(p.glse, b, h, i) : s;
    }
  });
}

// The strands, cut into runs of key blocks: tasks, each with gradients of its own of the queries
// [from, to) that see its keys, from float gq on. Those of strand t are tasks first[t] ... first[t
// + 1] - 1.
struct BackwardCut {
  struct Task {
    std::size_t strand;
    int64_t block0, block1, from, to, gq;
  };
  std::vector<Strand> strands;
  std::vector<Task> tasks;
  std::vector<std::size_t> first;
  int64_t size = 0;  // floats of all gq

  explicit BackwardCut(const AttentionProblem& p);
};

BackwardCut::BackwardCut(const AttentionProblem& p) : strands(strands_of(p)) {
  int64_t longest = 0;
  for (const Strand& s : strands) longest = std::max(longest, s.count);
  for (std::size_t t = 0; t < strands.size(); ++t) {
    const Strand& s = strands[t];
    const AttentionProblem part = p.spec.step ? p.strand(s.first, s.step, s.count) : p;
    const int64_t blocks = ceil_div(s.count, kTile);
    // enough tasks for a few threads, whatever the number of threads
    const int64_t runs = s.count * 2 < longest || p.spec.own_mean
                             ? 1
                             : std::clamp<int64_t>(8 / static_cast<int64_t>(strands.size()), 1,
                                                   std::max<int64_t>(1, blocks));
    first.push_back(tasks.size());
    for (int64_t r = 0; r < runs; ++r) {
      Task x{t, blocks * r / runs, blocks * (r + 1) / runs, 0, 0, size};
      if (x.block0 < x.block1)
        part.query_range(x.block0 * kTile, std::min(s.count, x.block1 * kTile), x.from, x.to);
      x.from = x.from / kTile * kTile;
      x.to =
          std::max(x.from, x.to == 0 ? 0 : std::min(part.queries, ceil_div(x.to, kTile) * kTile));
      size += s.heads * (x.to - x.from) * rounded(p.width);
      tasks.push_back(x);
    }
  }
  first.push_back(tasks.size());
}

// Gradients of the tables' rows, an entry for each distance; with several of them, of a few tasks
// each.
struct TableShares {
  int64_t rows = 0, dp, dvp, parts;
  cpu::Scratch<float> table, values, factors;
  TableShares(const AttentionProblem& p, int64_t parts_in)
      : dp(rounded(p.width)), dvp(rounded(p.value_width)), parts(parts_in) {
    if (!p.tables) return;
    rows = p.tables->blocks * kTile;
    auto cleared = [&](const abi::TensorIn& given, int64_t width) {
      if (!given.data) return cpu::Scratch<float>();
      cpu::Scratch<float> all(parts * rows * width);
      std::fill_n(all.data(), parts * rows * width, 0.0f);
      return all;
    };
    table = cleared(p.table, dp);
    values = cleared(p.value_table, dvp);
    factors = cleared(p.factors, 1);
  }
  void give(BackwardWork& w, int64_t part) const {
    if (table.data()) w.table = table.data() + part * rows * dp;
    if (values.data()) w.values = values.data() + part * rows * dvp;
    if (factors.data()) w.factors = factors.data() + part * rows;
  }
  /// Sums all, in order, into the rows that the tables have.
  void store(const AttentionProblem& p) const {
    auto fold = [&](const cpu::Scratch<float>& from, int64_t ld, const abi::TensorIn& table_in,
                    const abi::TensorOut& to) {
      if (!from.data() || !to.data) return;
      const int64_t width = table_in.ndim > 1 ? table_in.sizes[1] : 1;
      std::fill_n(to.as<float>(), table_in.sizes[0] * width, 0.0f);
      for (int64_t t = 0; t < parts * rows; ++t) {
        float* row = to.as<float>() + p.tables->row(p, table_in, t % rows) * width;
        for (int64_t c = 0; c < width; ++c) row[c] += from[t * ld + c];
      }
    };
    fold(table, dp, p.table, p.gtable);
    fold(values, dvp, p.value_table, p.gvalue_table);
    fold(factors, 1, p.factors, p.gfactors);
  }
};

// Tasks [begin, end), one after the other in one working memory; `part` of the tables' shares is
// theirs.
void run_tasks(const AttentionProblem& p, const BackwardCut& cut, int64_t begin, int64_t end,
               float* gq, const TableShares& shares, int64_t part) {
  const int64_t d = p.width, dv = p.value_width, dp = rounded(d), dvp = rounded(dv);
  auto task = [&](int64_t t) -> const BackwardCut::Task& {
    return cut.tasks[static_cast<std::size_t>(t)];
  };
  int64_t most = 0;
  for (int64_t t = begin; t < end; ++t)
    most = std::max(most, cut.strands[task(t).strand].heads * (task(t).to - task(t).from));
  const int64_t windows = p.tables ? kWindowWork : 0, raw = p.factors.data ? kTile * kTile : 0;
  cpu::Scratch<float> work(kTile * (d + dv + 2 * dp + dvp + 2 * kTile) + most * (dp + dvp) +
                           windows + raw);
  float* next = work.data();
  auto take = [&](int64_t n) {
    float* at = next;
    next += n;
    return at;
  };
  BackwardWork w{take(kTile * d),     take(kTile * dv),    take(kTile * dp),
                 take(kTile * kTile), take(kTile * kTile), take(kTile * dp),
                 take(kTile * dvp),   take(most * dp),     take(most * dvp)};
  w.windows = take(windows);
  w.raw = take(raw);
  shares.give(w, part);
  for (int64_t t = begin; t < end; ++t) {
    const BackwardCut::Task& x = task(t);
    const Strand& s = cut.strands[x.strand];
    std::fill_n(gq + x.gq, s.heads * (x.to - x.from) * dp, 0.0f);
    const AttentionProblem own = p.spec.step ? p.strand(s.first, s.step, s.count) : p;
    if (p.spec.own_mean)
      backward_own(own, s, gq + x.gq, w);
    else
      backward_run(own, s, x.block0, x.block1, x.from, x.to, gq + x.gq, w);
  }
}

// The tasks' shares of each query's gradient, in order.
void add_shares(const AttentionProblem& p, const BackwardCut& cut, const float* gq) {
  const int64_t d = p.width, dp = rounded(d);
  const float scale = static_cast<float>(p.spec.scale);
  struct Rows {
    std::size_t strand;
    int64_t head, begin, end;
  };
  std::vector<Rows> rows;
  for (std::size_t t = 0; t < cut.strands.size(); ++t) {
    const int64_t n = p.spec.step ? cut.strands[t].count : p.queries;
    for (int64_t g = 0; g < cut.strands[t].heads; ++g)
      for (int64_t i = 0; i < n; i += 256) rows.push_back({t, g, i, std::min(n, i + 256)});
  }
  auto add = [&](const Rows& r) {
    const Strand& s = cut.strands[r.strand];
    for (int64_t i = r.begin; i < r.end; ++i) {
      float* to = p.row(p.gq, s.b, s.head + r.head, s.first + i * s.step);
      if (!p.spec.accumulate) std::fill_n(to, d, 0.0f);
      for (std::size_t k = cut.first[r.strand]; k < cut.first[r.strand + 1]; ++k) {
        const BackwardCut::Task& x = cut.tasks[k];
        if (i < x.from || i >= x.to) continue;
        const float* from = gq + x.gq + (r.head * (x.to - x.from) + i - x.from) * dp;
        for (int64_t c = 0; c < d; ++c) to[c] += from[c] * scale;
      }
    }
  };
  parallel_for(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) add(rows[static_cast<std::size_t>(t)]);
  });
}

void Backward(const AttentionProblem& all) {
  AttentionProblem p = all;
  cpu::Scratch<float> delta(p.batch * p.heads * p.queries);
  p.delta = delta.data();
  p.delta_size = p.queries;
  if (p.spec.kind == ScoreKind::Softmax && !p.spec.own_mean) row_shifts(p);
  const BackwardCut cut(p);
  cpu::Scratch<float> gq(cut.size);
  const auto tasks = static_cast<int64_t>(cut.tasks.size());
  // with tables, few parts: each has gradients of its own for every distance
  const int64_t parts = p.tables ? std::min<int64_t>(tasks, 16) : tasks;
  const TableShares shares(p, parts);
  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      run_tasks(p, cut, tasks * t / parts, tasks * (t + 1) / parts, gq.data(), shares, t);
  });
  shares.store(p);
  add_shares(p, cut, gq.data());
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
namespace {
HWY_EXPORT(Backward);
}  // namespace

void attention_gradients(const AttentionProblem& p) { HWY_DYNAMIC_DISPATCH(Backward)(p); }

}  // namespace dropin::kernels
#endif  // HWY_ONCE
