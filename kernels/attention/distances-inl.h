// Learned distances in one tile: products with a window of a table, read along its diagonals.
// Included once per target, after kernels/attention/scores-inl.h (no ordinary include guard).
// Entry (i, j) of a tile lies at column j - i + 64 of the window.
#if defined(DROPIN_KERNELS_ATTENTION_DISTANCES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_KERNELS_ATTENTION_DISTANCES_INL_H_
#undef DROPIN_KERNELS_ATTENTION_DISTANCES_INL_H_
#else
#define DROPIN_KERNELS_ATTENTION_DISTANCES_INL_H_
#endif

#include "kernels/attention/positions.h"
#include "kernels/attention/scores-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

constexpr int64_t kWindowWork = 2 * kTile * kSpan;  // floats that the functions below work in

// Queries [i0, i0 + m) and keys [j0, j0 + n), and the columns that each group of rows sees.
struct TileAt {
  int64_t i0, m, j0, n;
  const Band* bands;
};
// Rows of numbers: (r, c) lies at data[r * row + c * column].
struct Operand {
  const float* data;
  int64_t row, column;
};

// Columns of the window that rows [i, i + rows) have, in columns `in` of the tile.
HWY_INLINE Band window_of(Band in, int64_t i, int64_t rows) {
  return {in.lo - (i + rows - 1) + kTile, in.hi - i + kTile};
}

// c [rows, kSpan], columns `in` of it in whole vectors = a times the window's columns.
void window_product(int64_t rows, Band in, int64_t depth, const Operand& a, const float* columns,
                    float* c) {
  const int64_t lo = in.lo / 16 * 16, hi = std::min(kSpan, ceil_div(in.hi, 16) * 16);
  if (lo < kTile)
    group_product(rows, std::min(hi, kTile) - lo, depth, a.data, a.row, a.column, columns + lo,
                  kTile, c + lo, kSpan, false);
  const int64_t from = std::max(lo, kTile);
  if (from < hi)
    group_product(rows, hi - from, depth, a.data, a.row, a.column,
                  columns + depth * kTile + from - kTile, kTile, c + from, kSpan, false);
}

// s_ij += q_i . a.
void add_window(const TileAt& t, int64_t depth, const Operand& q, const float* columns, float* s,
                float* work) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for_groups(t.m, [&](int64_t i, int64_t rows) {
    const Band in = t.bands[i];
    if (in.hi == in.lo) return;
    float* w = work + i * kSpan;
    window_product(rows, window_of(in, i, rows), depth, {q.data + i * q.row, q.row, q.column},
                   columns, w);
    for (int64_t r = i; r < i + rows; ++r, w += kSpan)
      for (int64_t j = in.lo; j < in.hi; j += lanes)
        hn::StoreU(hn::Add(hn::LoadU(d, s + r * kTile + j), hn::LoadU(d, w + kTile - r + j)), d,
                   s + r * kTile + j);
  });
}

// s_ij += scale k_j . a.
void add_window_of_keys(const TileAt& t, int64_t depth, const Operand& k, const float* columns,
                        float scale, float* s, float* work) {
  for_groups(t.n, [&](int64_t j, int64_t rows) {
    window_product(rows, {j - (t.m - 1) + kTile, j + rows + kTile}, depth,
                   {k.data + j * k.row, k.row, k.column}, columns, work + j * kSpan);
  });
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> whole;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr auto kDiagonal = static_cast<std::int32_t>(kSpan + 1);
  const auto steps = hn::Mul(hn::Iota(whole, 0), hn::Set(whole, kDiagonal));
  const auto by = hn::Set(d, scale);
  for_groups(t.m, [&](int64_t i, int64_t rows) {
    const Band in = t.bands[i];
    for (int64_t r = i; r < i + rows; ++r)
      for (int64_t j = in.lo; j < in.hi; j += lanes) {
        const auto x = hn::GatherIndex(d, work + kTile - r + j * kDiagonal, steps);
        hn::StoreU(hn::MulAdd(x, by, hn::LoadU(d, s + r * kTile + j)), d, s + r * kTile + j);
      }
  });
}

// The scores' terms from the table. q has the scale in it, k has not.
void add_table_scores(const AttentionProblem& p, const TileAt& t, const Operand& q,
                      const Operand& k, float* s, float* work) {
  const float* columns = p.tables->columns.data() + p.tables->window(t.i0, t.j0) * p.width;
  add_window(t, p.width, q, columns, s, work);
  if (p.spec.table_of_keys)
    add_window_of_keys(t, p.width, k, columns, static_cast<float>(p.spec.scale), s, work);
}

// The factors of row i of a tile: entry j is of key j.
HWY_INLINE const float* factors_of(const AttentionProblem& p, const TileAt& t, int64_t i) {
  return p.tables->factors.data() + p.tables->window(t.i0, t.j0) + kTile - i;
}
// s_ij *= a.
void multiply_factors(const AttentionProblem& p, const TileAt& t, float* s) {
  for_groups(t.m, [&](int64_t i, int64_t rows) {
    const Band in = t.bands[i];
    for (int64_t r = i; r < i + rows; ++r) {
      const float* f = factors_of(p, t, r);
      for (int64_t j = in.lo; j < in.hi; ++j) s[r * kTile + j] *= f[j];
    }
  });
}

// Columns [0, n) of rows of s, each in its window, the rest 0.
[[maybe_unused]] void straighten(int64_t m, int64_t n, const float* s, float* w) {
  for (int64_t r = 0; r < m; ++r) {
    float* to = w + r * kSpan;
    std::fill_n(to, kSpan, 0.0f);
    std::copy_n(s + r * kTile, n, to + kTile - r);
  }
}

// acc_i += sum_j s_ij a, with a table of values; columns beyond a row's band are not read.
[[maybe_unused]] void add_value_rows(const AttentionProblem& p, const TileAt& t, const float* s,
                                     float* acc, int64_t width, float* work) {
  const float* rows_of = p.tables->value_rows.data() + p.tables->window(t.i0, t.j0) * width;
  for_groups(t.m, [&](int64_t i, int64_t rows) {
    const Band in{t.bands[i].lo, std::min(t.bands[i].hi, t.n)};
    if (in.hi <= in.lo) return;
    const Band at = window_of(in, i, rows);
    for (int64_t r = i; r < i + rows; ++r) {
      float* to = work + r * kSpan;
      std::fill(to + at.lo, to + at.hi, 0.0f);
      std::copy(s + r * kTile + in.lo, s + r * kTile + in.hi, to + in.lo - r + kTile);
    }
    group_product(rows, width, at.hi - at.lo, work + i * kSpan + at.lo, kSpan, 1,
                  rows_of + at.lo * width, width, acc + i * width, width, true);
  });
}

// c [rows, width] += a b; `careful`: where a is 0, b is not looked at.
HWY_INLINE void add_product(bool careful, int64_t rows, int64_t width, int64_t depth,
                            const Operand& a, const float* b, float* c) {
  if (depth <= 0) return;
  if (careful)
    careful_product(rows, width, depth, a.data, a.row, a.column, b, width, c, width, true);
  else
    group_product(rows, width, depth, a.data, a.row, a.column, b, width, c, width, true);
}

// w [m, kSpan] holds what straighten() made: table [kSpan, width] += w^T x.
[[maybe_unused]] void gather_by_distance(bool careful, int64_t m, int64_t width, const float* w,
                                         const float* x, float* table) {
  for_groups(kSpan, [&](int64_t a, int64_t rows) {
    const int64_t lo = std::clamp<int64_t>(kTile - (a + rows - 1), 0, m),
                  hi = std::clamp<int64_t>(kSpan - a, lo, m);
    add_product(careful, rows, width, hi - lo, {w + lo * kSpan + a, 1, kSpan}, x + lo * width,
                table + a * width);
  });
}

// With the gradient of the scores ds: gq += ds a, and the table's part.
[[maybe_unused]] void table_gradients(const AttentionProblem& p, const TileAt& t, bool careful,
                                      const float* ds, const float* q, const float* rows_of,
                                      float* gq, float* table, float* work) {
  const int64_t dp = rounded(p.width);
  straighten(t.m, padded(t.n), ds, work);
  for_groups(t.m, [&](int64_t i, int64_t rows) {
    const Band at = window_of({0, t.n}, i, rows);
    add_product(careful, rows, dp, at.hi - at.lo, {work + i * kSpan + at.lo, kSpan, 1},
                rows_of + at.lo * dp, gq + i * dp);
  });
  gather_by_distance(careful, t.m, dp, work, q, table);
}

// The same where keys meet the table: gk += ds^T a, and the table's part.
[[maybe_unused]] void table_gradients_of_keys(const AttentionProblem& p, const TileAt& t,
                                              bool careful, const float* ds, const float* k,
                                              const float* rows_of, float* gk, float* table,
                                              float* work) {
  const int64_t dp = rounded(p.width);
  const float scale = static_cast<float>(p.spec.scale);
  std::fill_n(work, t.n * kSpan, 0.0f);
  for (int64_t i = 0; i < t.m; ++i)
    for (int64_t j = 0; j < t.n; ++j) work[j * (kSpan + 1) + kTile - i] = scale * ds[i * kTile + j];
  for_groups(t.n, [&](int64_t j, int64_t rows) {
    const int64_t lo = j - (t.m - 1) + kTile, hi = j + rows + kTile;
    add_product(careful, rows, dp, hi - lo, {work + j * kSpan + lo, kSpan, 1}, rows_of + lo * dp,
                gk + j * dp);
  });
  for_groups(kSpan, [&](int64_t a, int64_t rows) {
    const int64_t lo = std::clamp<int64_t>(a - kTile, 0, t.n),
                  hi = std::clamp<int64_t>(a + rows - 1 - kTile + t.m, lo, t.n);
    add_product(careful, rows, dp, hi - lo, {work + lo * kSpan + a, 1, kSpan}, k + lo * dp,
                table + a * dp);
  });
}

// raw: q k^T before the factors. Their gradient gets ds raw, and ds becomes the gradient of raw.
[[maybe_unused]] void factor_gradients(const AttentionProblem& p, const TileAt& t, const float* raw,
                                       float* ds, float* factors) {
  for (int64_t i = 0; i < t.m; ++i) {
    const float *f = factors_of(p, t, i), *x = raw + i * kTile;
    float *g = factors + kTile - i, *to = ds + i * kTile;
    for (int64_t j = 0; j < t.n; ++j) {
      g[j] += to[j] == 0 ? 0 : to[j] * x[j];
      to[j] *= f[j];
    }
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
