// Depthwise convolution of planes [H, W], all three passes. A plane's rows are copied once into a
// small band with their padding, columns split by their remainder modulo the stride, so that every
// tap of every stride is a plain load. What is left is one correlation for all passes:
//   forward          x with w,
//   input gradient   gy with w turned round; a stride s cuts it into s x s correlations of gy, one
//   for each remainder of gx's rows and columns, weight gradient  x with gy.
// In the first two, R output rows stay in registers with one column of K weights, and each loaded
// vector serves up to min(K, R) of them: the multiply-adds, not the loads, set the speed. In the
// third, K x J sums and R rows of gy stay. Where channels lie side by side: cpu_rows.cpp.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/conv/plane.h"
#include "kernels/simd.h"
#include "src/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv/cpu_plane.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "kernels/conv/each-inl.h"
#include "kernels/hd.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::cpu {
namespace HWY_NAMESPACE {
namespace {
constexpr int64_t kBandBytes =
    48 << 10;  // of copied rows worked on at a time: what stays close to the core
constexpr int64_t kAhead = 16384;  // elements asked for in advance, at most

// ---- Copied rows

/// Rows and columns of an image from (row0, col0) on, with zeros outside it. Columns: those of
/// remainder f modulo `split` at f * part.
struct Band {
  int64_t row0, rows, col0, split, part, row;  ///< row: elements from one to the next
};

/// n elements; up to a vector beyond them becomes 0, which is what stands there.
template <class T>
HWY_INLINE void copy_columns(const T* from, int64_t n, T* to) {
  const hn::ScalableTag<T> d;
  const int64_t L = lanes_of<T>();
  int64_t k = 0;
  for (; k + L <= n; k += L) hn::StoreU(hn::LoadU(d, from + k), d, to + k);
  if (k < n)
    hn::StoreU(hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(n - k)), d, from + k), d,
               to + k);
}

/// Columns of one row inside the image, split by their remainder.
template <class T>
void split_row(const Band& b, int64_t width, const T* from, T* to) {
  const hn::ScalableTag<T> d;
  const int64_t L = lanes_of<T>(), st = b.split;
  if (st == 2) {  // column pairs
    const int64_t first = std::clamp<int64_t>(ceil_div(-b.col0, 2), 0, b.part),
                  last = std::clamp<int64_t>((width - b.col0) / 2, first, b.part);
    if (first > 0 && b.col0 + 2 * first == 1 && width > 0)
      to[b.part + first - 1] = from[0];  // half a pair
    int64_t k = first;
    for (; k + L <= last; k += L) {
      hn::Vec<decltype(d)> even, odd;
      hn::LoadInterleaved2(d, from + b.col0 + 2 * k, even, odd);
      hn::StoreU(even, d, to + k);
      hn::StoreU(odd, d, to + b.part + k);
    }
    for (; k < last; ++k) to[k] = from[b.col0 + 2 * k], to[b.part + k] = from[b.col0 + 2 * k + 1];
    if (last < b.part && b.col0 + 2 * last >= 0 && b.col0 + 2 * last < width)
      to[last] = from[b.col0 + 2 * last];
    return;
  }
  for (int64_t f = 0; f < st; ++f) {
    // Column k of part f is the image's column k * st + f + col0.
    const int64_t dx = f + b.col0, first = std::clamp<int64_t>(ceil_div(-dx, st), 0, b.part),
                  last = std::clamp<int64_t>(ceil_div(width - dx, st), first, b.part);
    for (int64_t k = first; k < last; ++k) to[f * b.part + k] = from[k * st + dx];
  }
}

/// `to` has room for rows * row elements, and holds zeros outside the image already: from
/// zero_band(), and from then on with every image of the same band.
template <class T>
void copy_band(const Band& b, const int64_t size[2], const T* from, int64_t row_step, T* to) {
  const int64_t r0 = std::clamp<int64_t>(-b.row0, 0, b.rows),
                r1 = std::clamp<int64_t>(size[0] - b.row0, r0, b.rows);
  const int64_t first = std::clamp<int64_t>(-b.col0, 0, b.part),
                last = std::clamp<int64_t>(size[1] - b.col0, first, b.part);
  for (int64_t r = r0; r < r1; ++r) {
    const T* line = from + (b.row0 + r) * row_step;
    T* row = to + r * b.row;
    if (b.split == 1)
      copy_columns(line + b.col0 + first, last - first, row + first);
    else
      split_row(b, size[1], line, row);
  }
}
template <class T>
void zero_band(const Band& b, T* to) {
  std::fill_n(to, b.rows * b.row, T(0));
}

// ---- Correlation

/// y(p, n) = bias + sum over i < K, j of w(i, j) x[(p S + i dil) row + at[j] + n step], for p < P
/// and n < positions; vectors of `lanes` columns.
template <class T>
struct Correlation {
  const T* x;
  int64_t row, dil, S, K;
  const int64_t* at;
  int64_t kw;
  const T* w;  ///< w(i, j) at i wi + j wj
  int64_t wi, wj;
  const T* bias;                                         ///< or null
  int64_t P, positions, x_step, x_last, y_step, y_last;  ///< position n is at min(n step, last)
  T* y;
  int64_t y_row, lanes;
  const T* ahead = nullptr;  ///< what will be copied next; asked for while this is worked on
  int64_t ahead_size = 0;    ///< in elements
};

/// R rows of outputs at one position, y_row apart; `rows` of them are stored.
template <int R, class D>
HWY_INLINE void store_rows(D d, const hn::Vec<D> (&acc)[R], hn::TFromD<D>* y, int64_t y_row,
                           int64_t rows, int64_t lanes) {
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  if (HWY_LIKELY(rows == R && lanes == L)) {
    each<R>([&](auto r) DROPIN_LAMBDA { hn::StoreU(acc[r], d, y + r * y_row); });
  } else {
    each<R>([&](auto r) DROPIN_LAMBDA {
      if (r < rows) {
        if (lanes == L)
          hn::StoreU(acc[r], d, y + r * y_row);
        else
          store_part(acc[r], d, y + r * y_row, lanes);
      }
    });
  }
}

/// K kernel rows, S rows from output to output (1 or 2), R outputs at a time.
template <int K, int S, int R>
HWY_NOINLINE void sweep(const Correlation<float>& c) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t step = c.dil * c.row, wi = c.wi;
  const V bias = c.bias ? hn::Set(d, *c.bias) : hn::Zero(d);
  // A share of what comes next per block, in cache lines of 16 elements.
  const int64_t blocks = std::max<int64_t>(1, (c.P / R) * c.positions),
                share = c.ahead ? ceil_div(c.ahead_size / blocks, 16) * 16 : 0;
  const float *ahead = c.ahead, *ahead_end = c.ahead + c.ahead_size;
  for (int64_t f = 0; f < std::min(c.dil, c.P);
       ++f) {  // outputs f, f + dil, ... share their rows of x
    const int64_t count = ceil_div(c.P - f, c.dil);
    for (int64_t t = 0; t < count; t += R) {
      const int64_t t0 = std::max<int64_t>(0, std::min(t, count - R)),
                    rows = std::min<int64_t>(
                        R, count - t0);  // the last block goes back over some rows
      const float* xr = c.x + (f * S + t0 * S * c.dil) * c.row;
      float* yr = c.y + (f + t0 * c.dil) * c.y_row;
      for (int64_t n = 0; n < c.positions; ++n) {
        const float* x = xr + std::min(n * c.x_step, c.x_last);
        V acc[R];
        each<R>([&](auto r) DROPIN_LAMBDA { acc[r] = bias; });
        const float* w = c.w;
        for (int64_t j = 0; j < c.kw; ++j, w += c.wj) {
          V k[K];
          each<K>([&](auto i) DROPIN_LAMBDA { k[i] = hn::Set(d, w[i * wi]); });
          const float* p = x + c.at[j];
          each<(R - 1) * S + K>([&](auto h) DROPIN_LAMBDA {
            const V v = hn::LoadU(d, p);
            p += step;
            each<R>([&](auto r) DROPIN_LAMBDA {
              constexpr int i = h - r * S;
              if constexpr (i >= 0 && i < K) acc[r] = hn::MulAdd(v, k[i], acc[r]);
            });
          });
        }
        float* y = yr + std::min(n * c.y_step, c.y_last);
        store_rows<R>(d, acc, y, c.dil * c.y_row, rows, c.lanes);
        if (share > 0) {
          for (int64_t k = 0; k < share && ahead < ahead_end; k += 16, ahead += 16)
            __builtin_prefetch(ahead);
          if (t + 2 * R <= count)  // the lines of the rows below, to write
            each<R>([&](auto r)
                        DROPIN_LAMBDA { __builtin_prefetch(y + (R + r) * c.dil * c.y_row, 1); });
        }
      }
    }
  }
}

/// Any sizes: every tap is loaded for every output. R outputs x_out apart at once.
HWY_NOINLINE inline void sweep_any(const Correlation<float>& c) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int R = 8;
  const V bias = c.bias ? hn::Set(d, *c.bias) : hn::Zero(d);
  const int64_t step = c.S * c.row;
  for (int64_t t = 0; t < c.P; t += R) {
    const int64_t t0 = std::max<int64_t>(0, std::min(t, c.P - R)),
                  rows = std::min<int64_t>(R, c.P - t0);
    for (int64_t n = 0; n < c.positions; ++n) {
      const float* x = c.x + t0 * step + std::min(n * c.x_step, c.x_last);
      V acc[R];
      each<R>([&](auto r) DROPIN_LAMBDA { acc[r] = bias; });
      for (int64_t j = 0; j < c.kw; ++j)  // the order of sweep()
        for (int64_t i = 0; i < c.K; ++i) {
          const V k = hn::Set(d, c.w[i * c.wi + j * c.wj]);
          const float* p = x + i * c.dil * c.row + c.at[j];
          each<R>([&](auto r) DROPIN_LAMBDA {
            acc[r] = hn::MulAdd(k, hn::LoadU(d, p + r * step), acc[r]);
          });
        }
      store_rows<R>(d, acc, c.y + t0 * c.y_row + std::min(n * c.y_step, c.y_last), c.y_row, rows,
                    c.lanes);
    }
  }
}

constexpr int kRegisters = HWY_TARGET <= HWY_AVX3 ? 32 : 16;
/// Rows of outputs that fit beside K weights and a vector of x.
template <int K>
constexpr int rows_for() {
  return std::min(8, kRegisters - 1 - K);
}
/// correlate() reads what so many outputs need (times the dilation), even when there are fewer.
constexpr int64_t kBlock = 8;

template <int S>
bool pick(const Correlation<float>& c) {
  const int64_t count = ceil_div(c.P, c.dil);
  // Pictures are often 7 2^k high: seven rows at a time when eight would go over more of them
  // twice.
  const bool seven = ceil_div(count, 7) * 7 < ceil_div(count, 8) * 8;
  auto with = [&]<int K>() {
    if constexpr (K % 2 == 1 && K <= 7 && S == 1)
      if (seven) return sweep<K, S, 7>(c), true;
    return sweep<K, S, rows_for<K>()>(c), true;
  };
  switch (c.K) {
    case 3:
      return with.template operator()<3>();
    case 5:
      return with.template operator()<5>();
    case 7:
      return with.template operator()<7>();
    case 9:
      return with.template operator()<9>();
    case 11:
      return with.template operator()<11>();
  }
  if constexpr (S == 1) switch (c.K) {
      case 1:
        return with.template operator()<1>();
      case 2:
        return with.template operator()<2>();
      case 4:
        return with.template operator()<4>();
      case 6:
        return with.template operator()<6>();
    }
  return false;
}

void correlate(const Correlation<float>& c) {
  if (c.P <= 0 || c.positions <= 0) return;
  if (c.P == 1 && c.positions > 1) {  // one row (Conv1d): as many vectors along it at once
    const int64_t L = lanes_of<float>(), full = c.positions - 1;
    Correlation<float> a = c;
    Scratch<int64_t> at(c.K * c.kw);
    Scratch<float> w(c.K * c.kw);
    for (int64_t i = 0; i < c.K; ++i)
      for (int64_t j = 0; j < c.kw; ++j)
        at[i * c.kw + j] = i * c.dil * c.row + c.at[j], w[i * c.kw + j] = c.w[i * c.wi + j * c.wj];
    a.K = 1, a.kw = c.K * c.kw, a.at = at.data(), a.w = w.data(), a.wi = 0, a.wj = 1, a.dil = 1;
    a.S = 1, a.row = L, a.P = full, a.y_row = L, a.positions = 1;
    sweep_any(a);
    a.x += c.x_last, a.y += c.y_last, a.P = 1;
    return sweep_any(a);
  }
  if constexpr (kVectors) {
    if (c.S == 1 && pick<1>(c)) return;
    if (c.S == 2 && c.dil == 1 && pick<2>(c)) return;
  }
  sweep_any(c);
}

// ---- Weight gradient

/// sums(i, j) += over p < P, n < positions of gy[p gy_row + n gy_step] x[p S + i dil rows, + at[j]
/// + n x_step]. Sums are vectors [K, kw]. At the last position only `last_lanes` lanes of x count
/// (the rest may be infinite where gy is 0).
template <class T>
struct Gradient {
  const T *gy, *x;
  int64_t gy_row, gy_step, row, dil, S, K;
  const int64_t* at;
  int64_t kw, P, positions, x_step, last_lanes;
  T* sums;
};

/// How many products one register of a sum takes before it is added to memory: long sums in one
/// float lose digits.
constexpr int64_t kLongest = 1024;

/// R rows of gy at a time (1: any stride and dilation), K kernel rows from i0, J columns from j0.
template <int K, int J, int R, int S, class T>
HWY_NOINLINE void gather(const Gradient<T>& g, int64_t i0, int64_t j0, int64_t p0, int64_t p1) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t L = lanes_of<T>();
  V sum[K * J];
  each<K * J>([&](auto k) DROPIN_LAMBDA { sum[k] = hn::Zero(d); });
  const int64_t down = R == 1 ? g.dil * g.row : g.row;
  const auto tail = hn::FirstN(d, static_cast<std::size_t>(g.last_lanes));
  auto at_position = [&](const T* gy, const T* x, auto masked) DROPIN_LAMBDA {
    V v[R];
    each<R>([&](auto r) DROPIN_LAMBDA { v[r] = hn::LoadU(d, gy + r * g.gy_row); });
    each<J>([&](auto j) DROPIN_LAMBDA {
      const T* p = x + g.at[j0 + j];
      each<(R - 1) * S + K>([&](auto h) DROPIN_LAMBDA {
        V u = hn::LoadU(d, p + h * down);
        if constexpr (masked) u = hn::IfThenElseZero(tail, u);
        each<R>([&](auto r) DROPIN_LAMBDA {
          constexpr int i = h - r * S;
          if constexpr (i >= 0 && i < K) sum[i * J + j] = hn::MulAdd(v[r], u, sum[i * J + j]);
        });
      });
    });
  };
  for (int64_t p = p0; p < p1; p += R) {
    const T *gy = g.gy + p * g.gy_row, *x = g.x + (p * g.S + i0 * g.dil) * g.row;
    int64_t n = 0;
    for (; n < g.positions - 1; ++n)
      at_position(gy + n * g.gy_step, x + n * g.x_step, std::false_type());
    if (g.last_lanes == L)
      at_position(gy + n * g.gy_step, x + n * g.x_step, std::false_type());
    else
      at_position(gy + n * g.gy_step, x + n * g.x_step, std::true_type());
  }
  each<K>([&](auto i) DROPIN_LAMBDA {
    each<J>([&](auto j) DROPIN_LAMBDA {
      T* s = g.sums + ((i0 + i) * g.kw + j0 + j) * L;
      hn::StoreU(hn::Add(hn::LoadU(d, s), sum[i * J + j]), d, s);
    });
  });
}

template <int K, int J, int R, class T>
void gather_rows(const Gradient<T>& g, int64_t i0, int64_t j0) {
  int64_t p = 0;
  if constexpr (sizeof(T) == 4 && R > 1) {  // f64 is not in a hurry
    if (g.dil == 1 && (g.S == 1 || g.S == 2)) {
      const int64_t rows = std::max<int64_t>(1, kLongest / (R * g.positions)) * R;
      for (const int64_t whole = g.P / R * R; p < whole; p = std::min(p + rows, whole)) {
        if (g.S == 1)
          gather<K, J, R, 1>(g, i0, j0, p, std::min(p + rows, whole));
        else
          gather<K, J, R, 2>(g, i0, j0, p, std::min(p + rows, whole));
      }
    }
  }
  const int64_t rows = std::max<int64_t>(1, kLongest / g.positions);
  for (; p < g.P; p += rows) gather<K, J, 1, 1>(g, i0, j0, p, std::min(p + rows, g.P));
}

/// J columns at a time as long as there are so many, then one.
template <int K, int J, int R, int R1, class T>
void gather_columns(const Gradient<T>& g, int64_t i0) {
  int64_t j = 0;
  for (; j + J <= g.kw; j += J) gather_rows<K, J, R>(g, i0, j);
  for (; j < g.kw; ++j) gather_rows<K, 1, R1>(g, i0, j);
}

template <class T>
void gather_all(const Gradient<T>& g) {
  if (g.P <= 0 || g.positions <= 0) return;
  int64_t i = 0;
  if constexpr (kVectors) {  // sums and rows of gy fill 15 registers
    if constexpr (sizeof(T) == 4) {
      if (g.K == 7) return gather_columns<7, 1, 7, 7>(g, 0);
      for (; i + 5 <= g.K && g.K - i != 6 && g.K - i != 9; i += 5) gather_columns<5, 1, 7, 7>(g, i);
    }
    for (; i + 3 <= g.K; i += 3) gather_columns<3, 3, 4, 4>(g, i);
  }
  for (; i < g.K; ++i) gather_columns<1, 1, 1, 1>(g, i);
}

// ---- The passes

/// Columns as the loops see them, in vectors: position n is column n L, the last one moved back to
/// end with the row.
struct Columns {
  int64_t positions, step, last, lanes;
};
template <class T>
Columns columns(int64_t count) {
  const int64_t L = lanes_of<T>();
  if (count < L) return {count > 0 ? 1 : 0, L, 0, count};
  return {ceil_div(count, L), L, count - L, L};
}

/// Taps' offsets in a band's row.
void tap_offsets(const Band& b, int64_t kernel, int64_t dilation, int64_t* at) {
  for (int64_t j = 0; j < kernel; ++j)
    at[j] = j * dilation % b.split * b.part + j * dilation / b.split;
}

/// The columns of x that `out` windows see, from col0 on.
template <class T>
Band window_band(const PlaneConv& c, int64_t col0) {
  const int64_t L = lanes_of<T>(), reach = (c.kernel[1] - 1) * c.dilation[1], st = c.stride[1];
  Band b{0, 0, col0, st, 0, 0};
  b.part = c.out_size[1] + reach / st + 1;
  b.row = st * b.part + L;
  return b;
}

void Forward(const PlaneConv& c, int64_t channels, const float* x, const float* w,
             const float* bias, float* y) {
  const int64_t x_plane = c.size[0] * c.size[1], y_plane = c.out_size[0] * c.out_size[1];
  const int64_t L = lanes_of<float>(), taps = c.kernel[0] * c.kernel[1],
                reach = (c.kernel[0] - 1) * c.dilation[0] + 1;
  Band b = window_band<float>(c, -c.pad_begin[1]);
  const int64_t P = c.out_size[0], Q = c.out_size[1];
  // Rows of outputs per band, a multiple of 56 where that fits: blocks of seven and eight rows end
  // with it.
  const int64_t room = (kBandBytes / 4 / b.row - reach) / c.stride[0] + 1,
                rows =
                    std::min(P, room >= 56 ? room / 56 * 56 : std::max<int64_t>(8, room / 8 * 8));
  auto rows_read = [&](int64_t count) {
    return (std::max(count, kBlock * c.dilation[0]) - 1) * c.stride[0] + reach;
  };
  Scratch<float> band(rows_read(rows) * b.row + L);
  Scratch<int64_t> at(c.kernel[1]);
  tap_offsets(b, c.kernel[1], c.dilation[1], at.data());
  const Columns q = columns<float>(Q);
  for (int64_t k = 0; k < channels; ++k)
    for (int64_t p = 0; p < P; p += rows) {
      const int64_t count = std::min(rows, P - p);
      b.row0 = p * c.stride[0] - c.pad_begin[0];
      b.rows = rows_read(count);
      if (rows < P || k == 0)
        zero_band(
            b, band.data());  // a plane in one band leaves the zeros where the next one needs them
      copy_band(b, c.size, x + k * x_plane, c.size[1], band.data());
      const bool more = p + rows >= P && k + 1 < channels;
      correlate({band.data(),
                 b.row,
                 c.dilation[0],
                 c.stride[0],
                 c.kernel[0],
                 at.data(),
                 c.kernel[1],
                 w + k * taps,
                 c.kernel[1],
                 1,
                 bias ? bias + k : nullptr,
                 count,
                 q.positions,
                 q.step,
                 q.last,
                 L,
                 q.last,
                 y + k * y_plane + p * Q,
                 Q,
                 q.lanes,
                 more ? x + (k + 1) * x_plane : nullptr,
                 more ? std::min(c.size[0] * c.size[1], kAhead) : 0});
    }
}

/// A plane's gx from the band of its gy that starts at (row0, col0).
class InputGradient {
 public:
  explicit InputGradient(const PlaneConv& c) : c_(c), L_(lanes_of<float>()) {
    int64_t low[2] = {0, 0}, high[2] = {c.out_size[0] + kBlock, c.out_size[1] + L_};
    for (int axis = 0; axis < 2; ++axis)
      for (int64_t f = 0; f < std::min(c.stride[axis], c.size[axis]); ++f) {
        const Phase p = phase(c, axis, f);
        if (!p.taps) continue;
        low[axis] = std::min(low[axis], p.row);
        const int64_t count = axis == 0 ? std::max(p.count, kBlock * p.dil) : p.count + L_;
        high[axis] = std::max(high[axis], p.row + count + (p.taps - 1) * p.dil);
      }
    band_ = {low[0], high[0] - low[0], low[1], 1, high[1] - low[1], 0};
    band_.row = band_.part + L_;
  }
  const Band& band() const { return band_; }
  int64_t band_size() const { return band_.rows * band_.row + L_; }
  /// Where gy's row 0, column 0 stands.
  int64_t origin() const { return -band_.row0 * band_.row - band_.col0; }

  /// w [taps]. `ahead` (or null): a plane of ahead_size elements that is needed next.
  void run(const float* band, const float* w, float* gx, const float* ahead,
           int64_t ahead_size) const {
    const int64_t row = c_.size[1], sh = c_.stride[0], sw = c_.stride[1],
                  across = std::min(sw, c_.size[1]);
    const bool mixed = sw > 1;  // column parts are put together from scratch
    const int64_t part = mixed ? ceil_div(c_.size[1], sw) + L_ : 0;
    Scratch<int64_t> at(c_.kernel[1]);
    Scratch<float> parts(mixed ? part * across * ceil_div(c_.size[0], sh) + L_ : 0);
    for (int64_t a = 0; a < std::min(sh, c_.size[0]); ++a) {
      const Phase r = phase(c_, 0, a);
      for (int64_t b = 0; b < across; ++b) {
        const Phase q = phase(c_, 1, b);
        float* to = mixed ? parts.data() + b * part * r.count : gx + a * row + b;
        const int64_t to_row = mixed ? part : row * sh;
        if (!r.taps || !q.taps) {
          for (int64_t t = 0; t < r.count; ++t) std::fill_n(to + t * to_row, q.count, 0.0f);
          continue;
        }
        for (int64_t v = 0; v < q.taps; ++v) at[v] = v * q.dil;
        const Columns k = columns<float>(q.count);
        correlate({band + (r.row - band_.row0) * band_.row + q.row - band_.col0,
                   band_.row,
                   r.dil,
                   1,
                   r.taps,
                   at.data(),
                   q.taps,
                   w + r.tap * c_.kernel[1] + q.tap,
                   -r.tap_step * c_.kernel[1],
                   -q.tap_step,
                   nullptr,
                   r.count,
                   k.positions,
                   k.step,
                   k.last,
                   L_,
                   k.last,
                   to,
                   to_row,
                   k.lanes,
                   a + b == 0 ? ahead : nullptr,
                   ahead_size});
      }
      if (mixed)
        for (int64_t t = 0; t < r.count; ++t)
          interleave(parts.data() + t * part, part * r.count, across, gx + (a + t * sh) * row);
    }
  }

 private:
  void interleave(const float* from, int64_t apart, int64_t parts, float* to) const {
    const hn::ScalableTag<float> d;
    int64_t k = 0;
    if (parts == 2 && c_.stride[1] == 2)
      for (; 2 * (k + L_) <= c_.size[1]; k += L_)
        hn::StoreInterleaved2(hn::LoadU(d, from + k), hn::LoadU(d, from + apart + k), d,
                              to + 2 * k);
    for (int64_t q = k * c_.stride[1]; q < c_.size[1]; ++q)
      to[q] = from[q % c_.stride[1] * apart + q / c_.stride[1]];
  }
  const PlaneConv& c_;
  int64_t L_;
  Band band_;
};

/// The sums of a gradient, [taps] vectors, added up to numbers.
template <class T>
void finish(const T* sums, int64_t taps, T* gw) {
  const hn::ScalableTag<T> d;
  for (int64_t t = 0; t < taps; ++t)
    gw[t] = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, sums + t * lanes_of<T>())));
}

/// Adds the sum of gy's rows to a vector.
template <class T>
void add_rows(const T* gy, int64_t row, int64_t rows, int64_t n, T* sum) {
  const hn::ScalableTag<T> d;
  const int64_t L = lanes_of<T>();
  auto s = hn::LoadU(d, sum);
  for (int64_t r = 0; r < rows; ++r) {
    auto of_row = hn::Zero(d);
    for (int64_t k = 0; k < n; ++k) of_row = hn::Add(of_row, hn::LoadU(d, gy + r * row + k * L));
    s = hn::Add(s, of_row);
  }
  hn::StoreU(s, d, sum);
}

void Backward(const PlaneConv& c, int64_t channels, int64_t images, const float* gy,
              int64_t gy_image, const float* x, int64_t x_image, const float* w, float* gx,
              float* gw, float* gb) {
  const int64_t L = lanes_of<float>(), taps = c.kernel[0] * c.kernel[1],
                reach = (c.kernel[0] - 1) * c.dilation[0] + 1;
  const InputGradient input(c);
  Band b = window_band<float>(c, -c.pad_begin[1]);
  b.row0 = -c.pad_begin[0], b.rows = (c.out_size[0] - 1) * c.stride[0] + reach;
  Scratch<float> grad(input.band_size()), band(gw ? b.rows * b.row + L : 0), sums((taps + 1) * L);
  Scratch<int64_t> at(c.kernel[1]);
  tap_offsets(b, c.kernel[1], c.dilation[1], at.data());
  const int64_t P = c.out_size[0], Q = c.out_size[1], positions = ceil_div(Q, L),
                x_plane = c.size[0] * c.size[1], y_plane = P * Q;
  const int64_t ahead = std::min(x_plane, kAhead);
  zero_band(input.band(), grad.data());
  if (gw) zero_band(b, band.data());
  for (int64_t k = 0; k < channels; ++k) {
    std::fill_n(sums.data(), (taps + 1) * L, 0.0f);
    for (int64_t i = 0; i < images; ++i) {
      const float* xk = gw ? x + i * x_image + k * x_plane : nullptr;
      copy_band(input.band(), c.out_size, gy + i * gy_image + k * y_plane, Q, grad.data());
      const float* origin = grad.data() + input.origin();
      if (gx) input.run(grad.data(), w + k * taps, gx + i * x_image + k * x_plane, xk, ahead);
      if (gw) {
        copy_band(b, c.size, xk, c.size[1], band.data());
        gather_all<float>({origin, band.data(), input.band().row, L, b.row, c.dilation[0],
                           c.stride[0], c.kernel[0], at.data(), c.kernel[1], P, positions, L,
                           Q - (positions - 1) * L, sums.data()});
      }
      if (gb) add_rows(origin, input.band().row, P, positions, sums.data() + taps * L);
    }
    if (gw) finish(sums.data(), taps, gw + k * taps);
    if (gb) finish(sums.data() + taps * L, 1, gb + k);
  }
}

template <class T>
void weight_gradient(const PlaneConv& c, int64_t images, const T* gy, int64_t gy_image, const T* x,
                     int64_t x_image, T* gw) {
  const int64_t L = lanes_of<T>(), taps = c.kernel[0] * c.kernel[1], P = c.out_size[0],
                Q = c.out_size[1], positions = ceil_div(Q, L);
  Band b = window_band<T>(c, -c.pad_begin[1]);
  b.row0 = -c.pad_begin[0], b.rows = (P - 1) * c.stride[0] + (c.kernel[0] - 1) * c.dilation[0] + 1;
  const Band g{0, P, 0, 1, Q, Q + L};
  Scratch<T> band(b.rows * b.row + L), grad(g.rows * g.row + L), sums(taps * L);
  Scratch<int64_t> at(c.kernel[1]);
  tap_offsets(b, c.kernel[1], c.dilation[1], at.data());
  std::fill_n(sums.data(), taps * L, T(0));
  zero_band(b, band.data());
  zero_band(g, grad.data());
  for (int64_t i = 0; i < images; ++i) {
    copy_band(b, c.size, x + i * x_image, c.size[1], band.data());
    copy_band(g, c.out_size, gy + i * gy_image, Q, grad.data());
    gather_all<T>({grad.data(), band.data(), g.row, L, b.row, c.dilation[0], c.stride[0],
                   c.kernel[0], at.data(), c.kernel[1], P, positions, L, Q - (positions - 1) * L,
                   sums.data()});
  }
  finish(sums.data(), taps, gw);
}

void GradientF32(const PlaneConv& c, int64_t n, const float* gy, int64_t gs, const float* x,
                 int64_t xs, float* gw) {
  weight_gradient(c, n, gy, gs, x, xs, gw);
}
void GradientF64(const PlaneConv& c, int64_t n, const double* gy, int64_t gs, const double* x,
                 int64_t xs, double* gw) {
  weight_gradient(c, n, gy, gs, x, xs, gw);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace dropin::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::cpu {
HWY_EXPORT(Forward);
HWY_EXPORT(Backward);
HWY_EXPORT(GradientF32);
HWY_EXPORT(GradientF64);
void planes_forward(const PlaneConv& c, int64_t channels, const float* x, const float* w,
                    const float* bias, float* y) {
  HWY_DYNAMIC_DISPATCH(Forward)(c, channels, x, w, bias, y);
}
void planes_backward(const PlaneConv& c, int64_t channels, int64_t images, const float* gy,
                     int64_t gy_image, const float* x, int64_t x_image, const float* w, float* gx,
                     float* gw, float* gb) {
  HWY_DYNAMIC_DISPATCH(Backward)(c, channels, images, gy, gy_image, x, x_image, w, gx, gw, gb);
}
template <>
void plane_weight_gradient<float>(const PlaneConv& c, int64_t n, const float* gy, int64_t gs,
                                  const float* x, int64_t xs, float* gw) {
  HWY_DYNAMIC_DISPATCH(GradientF32)(c, n, gy, gs, x, xs, gw);
}
template <>
void plane_weight_gradient<double>(const PlaneConv& c, int64_t n, const double* gy, int64_t gs,
                                   const double* x, int64_t xs, double* gw) {
  HWY_DYNAMIC_DISPATCH(GradientF64)(c, n, gy, gs, x, xs, gw);
}
}  // namespace dropin::cpu
#endif
