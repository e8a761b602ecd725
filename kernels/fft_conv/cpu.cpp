// Long convolutions. Channels are the SIMD lanes: a block of as many channels as a vector holds is
// transformed at once, every butterfly a vector operation and every twiddle loaded once for all.
// What each sequence goes through:
//   first pass   reads u, the pre gate and zeros beyond L, and writes rows that fit a cache level;
//   each row     goes down to its spectrum, is multiplied by the filter's, and comes back, before
//   the next row is touched; last pass    takes the real part, multiplies by the post gate and
//   writes y.
// So a sequence longer than a cache is swept three times, whatever the number of passes. No bit
// reversal: the spectra stay in the order they come in. D u is a filter's lag 0: D is added to
// every frequency, and D's gradient is that of k[0].
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fft_conv/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cstring>

#include "cpu/scratch.h"
#include "dropin/core/parallel.h"
#include "kernels/fft_conv/butterflies-inl.h"
#include "kernels/fft_conv/kernel.h"
#include "kernels/fft_conv/plan.h"
#include "kernels/hd.h"

#ifndef DROPIN_FFT_CONV_SHARED_
#define DROPIN_FFT_CONV_SHARED_
namespace dropin::kernels {

constexpr int64_t kColumns = 8;  // samples of each row that a tile holds

/// The rows [C, L] of one batch entry.
struct Rows {
  float* data = nullptr;
  int64_t channel = 0, time = 0, length = 0;
  Rows() = default;
  Rows(const abi::TensorIn& t, int64_t b) {
    if (!t.data) return;
    const int d = t.ndim - 2;  // [B, C, L] or [C, L]
    data = const_cast<float*>(t.as<float>()) + (d ? b * t.strides[0] : 0);
    channel = t.strides[d], time = t.strides[d + 1], length = t.sizes[d + 1];
  }
  explicit operator bool() const { return data != nullptr; }
};
struct ForwardArgs {
  FftConvInputs in;
  abi::TensorOut y, conv, kept;
};
struct BackwardArgs {
  abi::TensorIn g, conv, kept;
  FftConvInputs in;
  FftConvGradients out;
};

}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

int64_t lanes() { return static_cast<int64_t>(hn::Lanes(F())); }

// --- tiles: kColumns samples of each of some rows (stride `rows apart` samples),
// [rows][kColumns][lanes]

// Transposes W vectors of W floats between `from` and `to`, strides apart; W = 8, or what a vector
// holds where that is less.
using Block = hn::CappedTag<float, 8>;
HWY_INLINE void transpose(const float* from, int64_t from_step, float* to, int64_t to_step) {
#if HWY_TARGET == HWY_SCALAR
  *to = *from;
#else
  const Block d;
  const hn::Repartition<double, Block> dd;
  constexpr int W = static_cast<int>(hn::MaxLanes(Block()));
  static_assert(W == 4 || W == 8);
  using B = hn::Vec<Block>;
  B x[W], y[W];
#pragma GCC unroll 8
  for (int i = 0; i < W; ++i) x[i] = hn::LoadU(d, from + i * from_step);
#pragma GCC unroll 4
  for (int i = 0; i < W; i += 2)
    y[i] = hn::InterleaveLower(d, x[i], x[i + 1]),
    y[i + 1] = hn::InterleaveUpper(d, x[i], x[i + 1]);
#pragma GCC unroll 2
  for (int i = 0; i < W; i += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      x[i + 2 * h] = hn::BitCast(
          d, hn::InterleaveLower(dd, hn::BitCast(dd, y[i + h]), hn::BitCast(dd, y[i + 2 + h])));
      x[i + 2 * h + 1] = hn::BitCast(
          d, hn::InterleaveUpper(dd, hn::BitCast(dd, y[i + h]), hn::BitCast(dd, y[i + 2 + h])));
    }
  if constexpr (W == 8) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      y[i] = hn::ConcatLowerLower(d, x[i + 4], x[i]),
      y[i + 4] = hn::ConcatUpperUpper(d, x[i + 4], x[i]);
#pragma GCC unroll 8
    for (int i = 0; i < W; ++i) hn::StoreU(y[i], d, to + i * to_step);
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < W; ++i) hn::StoreU(x[i], d, to + i * to_step);
  }
#endif
}

// Where a tile lies: rows of samples t0 + j apart + c, c < columns, channels from c0 on.
struct Place {
  int64_t rows, apart, t0, columns, c0, channels;  // channels: of the block, at most lanes
};

void fetch(const Rows& x, const Place& p, float* tile) {
  const F d;
  const int64_t n = lanes();
  const int64_t w = static_cast<int64_t>(hn::Lanes(Block()));
  const float* base = x.data + p.c0 * x.channel;
  for (int64_t j = 0; j < p.rows; ++j, tile += kColumns * n) {
    const int64_t t = p.t0 + j * p.apart, valid = std::clamp<int64_t>(x.length - t, 0, p.columns);
    const float* from = base + t * x.time;
    if (x.channel == 1 && p.channels == n) {
      for (int64_t c = 0; c < valid; ++c)
        hn::Store(hn::LoadU(d, from + c * x.time), d, tile + c * n);
    } else if (x.time == 1 && p.channels == n && valid == kColumns) {
      for (int64_t l = 0; l < n; l += w)
        for (int64_t c = 0; c < kColumns; c += w)
          transpose(from + l * x.channel + c, x.channel, tile + c * n + l, n);
    } else {
      for (int64_t c = 0; c < valid; ++c) {
        for (int64_t l = 0; l < p.channels; ++l) tile[c * n + l] = from[l * x.channel + c * x.time];
        for (int64_t l = p.channels; l < n; ++l) tile[c * n + l] = 0;
      }
    }
    std::fill(tile + valid * n, tile + p.columns * n, 0.0f);
  }
}
void put(const float* tile, const Place& p, const Rows& y) {
  const F d;
  const int64_t n = lanes();
  const int64_t w = static_cast<int64_t>(hn::Lanes(Block()));
  float* base = y.data + p.c0 * y.channel;
  for (int64_t j = 0; j < p.rows; ++j, tile += kColumns * n) {
    const int64_t t = p.t0 + j * p.apart, valid = std::clamp<int64_t>(y.length - t, 0, p.columns);
    float* to = base + t * y.time;
    if (y.channel == 1 && p.channels == n) {
      for (int64_t c = 0; c < valid; ++c) hn::StoreU(hn::Load(d, tile + c * n), d, to + c * y.time);
    } else if (y.time == 1 && p.channels == n && valid == kColumns) {
      for (int64_t l = 0; l < n; l += w)
        for (int64_t c = 0; c < kColumns; c += w)
          transpose(tile + c * n + l, n, to + l * y.channel + c, y.channel);
    } else {
      for (int64_t c = 0; c < valid; ++c)
        for (int64_t l = 0; l < p.channels; ++l) to[l * y.channel + c * y.time] = tile[c * n + l];
    }
  }
}
// k_rev's gradient: minus the imaginary part at t is that of lag n - t.
void put_reversed(const float* tile, const Place& p, int64_t length, const Rows& y) {
  const int64_t n = lanes();
  for (int64_t j = 0; j < p.rows; ++j, tile += kColumns * n)
    for (int64_t c = 0; c < p.columns; ++c) {
      const int64_t t = p.t0 + j * p.apart + c, lag = length - t;
      if (t == 0 || lag >= y.length) continue;
      for (int64_t l = 0; l < p.channels; ++l)
        y.data[(p.c0 + l) * y.channel + lag * y.time] = -tile[c * n + l];
    }
}

/// f on each vector of a tile's filled columns; f(i) gets the vector's first float.
template <class Fn>
HWY_INLINE void each(const Place& p, Fn&& f) {
  const int64_t n = lanes();
  for (int64_t j = 0; j < p.rows; ++j)
    for (int64_t c = 0; c < p.columns; ++c) f((j * kColumns + c) * n);
}
HWY_INLINE void multiply(const Place& p, const float* by, float* tile) {
  const F d;
  each(p, [&](int64_t i) HWY_ATTR {
    hn::Store(hn::Mul(hn::Load(d, tile + i), hn::Load(d, by + i)), d, tile + i);
  });
}
// pre u, with `other` as working memory
void fetch_gated(const Rows& x, const Rows& gate, const Place& p, float* tile, float* other) {
  fetch(x, p, tile);
  if (!gate) return;
  fetch(gate, p, other);
  multiply(p, other, tile);
}
// D scale for the channels of a block, zeros where there is none
void fetch_skip(const abi::TensorIn& D, int64_t c0, int64_t channels, float scale, float* to) {
  std::fill_n(to, lanes(), 0.0f);
  for (int64_t l = 0; D.data && l < channels; ++l) to[l] = scale * D.as<float>()[c0 + l];
}

// --- passes over rows

HWY_INLINE Complex load(const float* p) { return {hn::Load(F(), p), hn::Load(F(), p + lanes())}; }
HWY_INLINE void store(const Complex& a, float* p) {
  hn::Store(a.re, F(), p);
  hn::Store(a.im, F(), p + lanes());
}

// One level down (decimation in frequency) or up (in time) of the row at x.
template <int R, bool kUp>
void level_pass(const ConvPlan& p, const ConvPlan::Level& l, float* x) {
  const int64_t size = 2 * lanes(), row = l.row * size, run = std::min(p.run, l.m),
                runs = l.m / run;
  const float* w = l.twiddles.data();
  for (int64_t r = 0; r < runs; ++r) {
    float* at = x + p.offsets[static_cast<std::size_t>(r)] * size;
    for (int64_t q = 0; q < run; ++q, at += size, w += 2 * (R - 1)) {
      Complex a[R];
      if constexpr (!kUp) {
#pragma GCC unroll 16
        for (int j = 0; j < R; ++j) a[j] = load(at + j * row);
        dft<R, false>(a);
        store(a[0], at);
#pragma GCC unroll 16
        for (int k = 1; k < R; ++k)
          store(mul(a[place<R>(k)], set(w[2 * k - 2]), set(w[2 * k - 1])), at + k * row);
      } else {
        a[0] = load(at);
#pragma GCC unroll 16
        for (int k = 1; k < R; ++k)
          a[k] = mul_conj(load(at + k * row), set(w[2 * k - 2]), set(w[2 * k - 1]));
        dft<R, true>(a);
#pragma GCC unroll 16
        for (int j = 0; j < R; ++j) store(a[place<R>(j)], at + j * row);
      }
    }
  }
}
template <bool kUp>
void level_pass(const ConvPlan& p, const ConvPlan::Level& l, float* x) {
  switch (l.radix) {
    case 2:
      return level_pass<2, kUp>(p, l, x);
    case 3:
      return level_pass<3, kUp>(p, l, x);
    case 4:
      return level_pass<4, kUp>(p, l, x);
    case 5:
      return level_pass<5, kUp>(p, l, x);
    default:
      return level_pass<8, kUp>(p, l, x);
  }
}

// What happens at the bottom, to `groups` rows of R elements that lie side by side at x (and at x2
// in the second buffer), whose frequencies are from `index` on in the order of the spectra.
struct Convolve {  // x <- back(down(x) (K + skip)), and down(x) kept on request
  const float* filter;
  const float* skip;  // a vector
  float* kept;
  static constexpr bool kDown = true, kUp = true;
  template <int R>
  HWY_INLINE void at(float* x, float*, int64_t index) const {
    const int64_t size = 2 * lanes();
    Complex a[R], b[R];
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) a[j] = load(x + j * size);
    dft<R, false>(a);
    if (kept)
      for (int k = 0; k < R; ++k) store(a[place<R>(k)], kept + (index + k) * size);
    const V add = hn::Load(F(), skip);
#pragma GCC unroll 16
    for (int k = 0; k < R; ++k) {
      const Complex f = load(filter + (index + k) * size);
      b[k] = mul(a[place<R>(k)], hn::Add(f.re, add), f.im);
    }
    dft<R, true>(b);
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) store(b[place<R>(j)], x + j * size);
  }
};
struct ConvolveBoth {  // x <- back(down(x) (scale down(x2) + skip)): a filter used once
  const float* skip;
  float scale;
  static constexpr bool kDown = true, kUp = true;
  template <int R>
  HWY_INLINE void at(float* x, float* x2, int64_t) const {
    const int64_t size = 2 * lanes();
    Complex a[R], b[R];
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) a[j] = load(x2 + j * size);
    dft<R, false>(a);
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) b[j] = load(x + j * size);
    dft<R, false>(b);
    const V s = set(scale), add = hn::Load(F(), skip);
    Complex c[R];
#pragma GCC unroll 8
    for (int k = 0; k < R; ++k)
      c[k] =
          mul(b[place<R>(k)], hn::MulAdd(a[place<R>(k)].re, s, add), hn::Mul(a[place<R>(k)].im, s));
    dft<R, true>(c);
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) store(c[place<R>(j)], x + j * size);
  }
};
struct Analyse {  // out <- scale down(x), or out + its conjugate
  float* out;
  float scale;
  bool add_conjugate;
  static constexpr bool kDown = true, kUp = false;
  template <int R>
  HWY_INLINE void at(float* x, float*, int64_t index) const {
    const int64_t size = 2 * lanes();
    Complex a[R];
    for (int j = 0; j < R; ++j) a[j] = load(x + j * size);
    dft<R, false>(a);
    const V s = set(scale);
    for (int k = 0; k < R; ++k) {
      float* to = out + (index + k) * size;
      Complex f{hn::Mul(a[place<R>(k)].re, s), hn::Mul(a[place<R>(k)].im, s)};
      if (add_conjugate) {
        const Complex old = load(to);
        f = {hn::Add(old.re, f.re), hn::Sub(old.im, f.im)};
      }
      store(f, to);
    }
  }
};
struct Correlate {  // x <- back(conj(K + skip) down(x)); sum += conj(U) down(x) with U = down(x2)
                    // or kept
  const float *filter, *skip, *kept;
  float* sum;
  static constexpr bool kDown = true, kUp = true;
  template <int R>
  HWY_INLINE void at(float* x, float* x2, int64_t index) const {
    const int64_t size = 2 * lanes();
    Complex a[R], b[R];
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) a[j] = load(x + j * size);
    dft<R, false>(a);
    if (sum) {
      if (x2) {
#pragma GCC unroll 16
        for (int j = 0; j < R; ++j) b[j] = load(x2 + j * size);
        dft<R, false>(b);
      }
#pragma GCC unroll 16
      for (int k = 0; k < R; ++k) {
        const Complex u = x2 ? b[place<R>(k)] : load(kept + (index + k) * size);
        float* to = sum + (index + k) * size;
        store(add(load(to), mul_conj(a[place<R>(k)], u.re, u.im)), to);
      }
    }
    const V more = hn::Load(F(), skip);
#pragma GCC unroll 16
    for (int k = 0; k < R; ++k) {
      const Complex f = load(filter + (index + k) * size);
      b[k] = mul_conj(a[place<R>(k)], hn::Add(f.re, more), f.im);
    }
    dft<R, true>(b);
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) store(b[place<R>(j)], x + j * size);
  }
};
struct Return {  // x <- back(scale sum)
  const float* sum;
  float scale;
  static constexpr bool kDown = false, kUp = true;
  template <int R>
  HWY_INLINE void at(float* x, float*, int64_t index) const {
    const int64_t size = 2 * lanes();
    const V s = set(scale);
    Complex a[R];
    for (int k = 0; k < R; ++k) {
      const Complex f = load(sum + (index + k) * size);
      a[k] = {hn::Mul(f.re, s), hn::Mul(f.im, s)};
    }
    dft<R, true>(a);
    for (int j = 0; j < R; ++j) store(a[place<R>(j)], x + j * size);
  }
};

template <int R, class Bottom>
void bottom(float* x, float* x2, int64_t groups, int64_t index, const Bottom& f) {
  const int64_t size = 2 * lanes();
  for (int64_t g = 0; g < groups; ++g)
    f.template at<R>(x + g * R * size, x2 ? x2 + g * R * size : nullptr, index + g * R);
}
template <class Bottom>
void bottom(int radix, float* x, float* x2, int64_t groups, int64_t index, const Bottom& f) {
  switch (radix) {
    case 2:
      return bottom<2>(x, x2, groups, index, f);
    case 3:
      return bottom<3>(x, x2, groups, index, f);
    case 4:
      return bottom<4>(x, x2, groups, index, f);
    case 5:
      return bottom<5>(x, x2, groups, index, f);
    default:
      return bottom<8>(x, x2, groups, index, f);
  }
}

// The rows of level `depth - 1`, each down, bottom and up before the next: what fits a cache stays
// there.
template <class Bottom>
void rows(const ConvPlan& p, std::size_t depth, float* x, float* x2, int64_t index,
          const Bottom& f) {
  const ConvPlan::Level &above = p.levels[depth - 1], &l = p.levels[depth];
  const int64_t size = 2 * lanes();
  if (depth + 1 == p.levels.size() && above.row == l.radix)
    return bottom(static_cast<int>(l.radix), x, x2, above.radix, index, f);
  for (int64_t j = 0; j < above.radix; ++j) {
    float *a = x + j * above.row * size, *b = x2 ? x2 + j * above.row * size : nullptr;
    if (depth + 1 == p.levels.size()) {
      bottom(static_cast<int>(l.radix), a, b, 1, index + j * above.m, f);
      continue;
    }
    if constexpr (Bottom::kDown) {
      level_pass<false>(p, l, a);
      if (b) level_pass<false>(p, l, b);
    }
    rows(p, depth + 1, a, b, index + j * above.m, f);
    if constexpr (Bottom::kUp) level_pass<true>(p, l, a);
  }
}

// --- first and last pass, between tiles and rows

HWY_INLINE int64_t row_offset(const ConvPlan& p, int64_t q) {
  return p.offsets[static_cast<std::size_t>(q / p.run)] + q % p.run;
}

template <int R>
void enter(const ConvPlan& p, const float* tile, const Place& at, float* x) {
  const ConvPlan::Level& l = p.levels[0];
  const int64_t n = lanes(), size = 2 * n, row = l.row * size;
  const float* w = l.twiddles.data() + at.t0 * 2 * R;
  for (int64_t c = 0; c < at.columns; ++c, w += 2 * R) {
    Complex a[R];
    shifted_dft<R>(tile + c * n, kColumns * n, a);
    float* to = x + row_offset(p, at.t0 + c) * size;
#pragma GCC unroll 16
    for (int k = 0; k < R; ++k)
      store(mul(a[place<R>(k)], set(w[2 * k]), set(w[2 * k + 1])), to + k * row);
  }
}
template <int R>
void leave(const ConvPlan& p, const float* x, const Place& at, float* re, float* im) {
  const ConvPlan::Level& l = p.levels[0];
  const int64_t n = lanes(), size = 2 * n, row = l.row * size;
  const float* w = l.twiddles.data() + at.t0 * 2 * R;
  for (int64_t c = 0; c < at.columns; ++c, w += 2 * R) {
    const float* from = x + row_offset(p, at.t0 + c) * size;
    Complex a[R];
#pragma GCC unroll 16
    for (int k = 0; k < R; ++k)
      a[k] = mul_conj(load(from + k * row), set(w[2 * k]), set(w[2 * k + 1]));
    shifted_idft<R>(a, re + c * n, im ? im + c * n : nullptr, kColumns * n);
  }
}
void enter(const ConvPlan& p, const float* tile, const Place& at, float* x) {
  p.levels[0].radix == 16 ? enter<16>(p, tile, at, x) : enter<4>(p, tile, at, x);
}
void leave(const ConvPlan& p, const float* x, const Place& at, float* re, float* im) {
  p.levels[0].radix == 16 ? leave<16>(p, x, at, re, im) : leave<4>(p, x, at, re, im);
}

struct Blocks {
  int64_t channels, count;
  explicit Blocks(int64_t c) : channels(c), count(ceil_div(c, lanes())) {}
  int64_t first(int64_t i) const { return i * lanes(); }
  int64_t size(int64_t i) const { return std::min(lanes(), channels - first(i)); }
};
/// f(place, h) for each tile of a sequence, in each of the blocks first + h.
template <class Fn>
void tiles(const ConvPlan& p, const Blocks& blocks, int64_t first, int64_t last, Fn&& f) {
  const ConvPlan::Level& l = p.levels[0];
  for (int64_t q = 0; q < l.m; q += kColumns)
    for (int64_t i = first; i < last; ++i)
      f(Place{l.radix, l.m, q, std::min(kColumns, l.m - q), blocks.first(i), blocks.size(i)},
        i - first);
}
/// Blocks that are taken together: where channels lie side by side, as many as fill a cache line.
int64_t group_of(const abi::TensorIn& u, const Blocks& blocks) {
  const bool channels_last = u.strides[1] == 1 && u.sizes[1] > 1 && u.strides[2] != 1;
  return channels_last ? std::clamp<int64_t>(16 / lanes(), 1, std::max<int64_t>(blocks.count, 1))
                       : 1;
}
constexpr int64_t kTileRows = 16;

// --- direct sums: a block of channels as [L][lanes], with zeros around

// y[t] += sum_{s <= t, s < taps} k[s] x[t - s]
void causal_sum(const float* k, int64_t taps, const float* x, int64_t length, float* y) {
  const F d;
  const int64_t n = lanes();
  for (int64_t t = 0; t < length; ++t) {
    V a = hn::Load(d, y + t * n), b = hn::Zero(d);
    const int64_t last = std::min(t + 1, taps);
    int64_t s = 0;
    for (; s + 2 <= last; s += 2) {
      a = hn::MulAdd(hn::Load(d, k + s * n), hn::Load(d, x + (t - s) * n), a);
      b = hn::MulAdd(hn::Load(d, k + (s + 1) * n), hn::Load(d, x + (t - s - 1) * n), b);
    }
    if (s < last) a = hn::MulAdd(hn::Load(d, k + s * n), hn::Load(d, x + (t - s) * n), a);
    hn::Store(hn::Add(a, b), d, y + t * n);
  }
}
// y[t] += sum_{s < taps, t + s < length} k[s] x[t + s], for t < outputs
void lookahead_sum(const float* k, int64_t taps, const float* x, int64_t length, int64_t outputs,
                   float* y) {
  const F d;
  const int64_t n = lanes();
  for (int64_t t = 0; t < outputs; ++t) {
    V a = hn::Load(d, y + t * n), b = hn::Zero(d);
    const int64_t last = std::min(length - t, taps);
    int64_t s = 0;
    for (; s + 2 <= last; s += 2) {
      a = hn::MulAdd(hn::Load(d, k + s * n), hn::Load(d, x + (t + s) * n), a);
      b = hn::MulAdd(hn::Load(d, k + (s + 1) * n), hn::Load(d, x + (t + s + 1) * n), b);
    }
    if (s < last) a = hn::MulAdd(hn::Load(d, k + s * n), hn::Load(d, x + (t + s) * n), a);
    hn::Store(hn::Add(a, b), d, y + t * n);
  }
}
// A whole short sequence as tiles: kDirectLength / kColumns rows of consecutive samples.
constexpr int64_t kDirectRows = kDirectLength / kColumns;
Place whole(int64_t c0, int64_t channels) {
  return {kDirectRows, kColumns, 0, kColumns, c0, channels};
}
static_assert(kDirectRows <= kTileRows);

// --- the kernels

// Floats of one block's spectrum: n complex numbers, or both filters themselves where sums are
// direct.
int64_t block_floats(const ConvPlan* p) { return (p ? p->n : kDirectLength) * 2 * lanes(); }

int64_t Size(int64_t channels, int64_t length) {
  const auto plan = length > kDirectLength ? conv_plan(length) : nullptr;
  return Blocks(channels).count * block_floats(plan.get());
}

// The spectra of the filters of blocks first ... last - 1; tile and x (a buffer per block) are
// working memory.
void block_spectra(const ConvPlan* plan, const abi::TensorIn& k, const abi::TensorIn& k_rev,
                   const Blocks& blocks, int64_t first, int64_t last, float* tile, float* x,
                   float* to) {
  for (int64_t i = first; i < last && !plan; ++i, to += 2 * kDirectLength * lanes()) {
    fetch(Rows(k, 0), whole(blocks.first(i), blocks.size(i)), to);
    if (k_rev.data)
      fetch(Rows(k_rev, 0), whole(blocks.first(i), blocks.size(i)), to + kDirectLength * lanes());
    else
      std::fill_n(to + kDirectLength * lanes(), kDirectLength * lanes(), 0.0f);
  }
  if (!plan) return;
  const int64_t buffer = plan->storage * 2 * lanes();
  for (const abi::TensorIn* f : {&k, &k_rev}) {
    if (!f->data) continue;
    tiles(*plan, blocks, first, last, [&](const Place& at, int64_t h) HWY_ATTR {
      fetch(Rows(*f, 0), at, tile);
      enter(*plan, tile, at, x + h * buffer);
    });
    for (int64_t h = 0; h < last - first; ++h)
      rows(*plan, 1, x + h * buffer, nullptr, 0,
           Analyse{to + h * block_floats(plan), 1 / static_cast<float>(plan->n), f == &k_rev});
  }
}

void Spectrum(const abi::TensorIn& k, const abi::TensorIn& k_rev, int64_t length, float* out) {
  const Blocks blocks(k.sizes[0]);
  const auto plan = length > kDirectLength ? conv_plan(length) : nullptr;
  const int64_t floats = block_floats(plan.get());
  const int64_t group = std::clamp<int64_t>(16 / lanes(), 1, std::max<int64_t>(blocks.count, 1));
  parallel_for(ceil_div(blocks.count, group), 1, [&](int64_t begin, int64_t end) HWY_ATTR {
    cpu::Scratch<float> memory((plan ? plan->storage * 2 * lanes() * group : 0) +
                               kTileRows * kColumns * lanes());
    float *tile = memory.data(), *x = tile + kTileRows * kColumns * lanes();
    for (int64_t i = begin * group; i < std::min(end * group, blocks.count); i += group)
      block_spectra(plan.get(), k, k_rev, blocks, i, std::min(i + group, blocks.count), tile, x,
                    out + i * floats);
  });
}

// What both directions know of a call.
struct Call {
  const FftConvInputs& in;
  Blocks blocks;
  std::shared_ptr<const ConvPlan> plan;  // null: direct sums
  int64_t batch, length, taps, taps_rev;
  int64_t floats,
      buffer;             // of a block's spectrum, of one signal on its way through the passes
  int64_t group, groups;  // blocks that are taken together, and how often

  explicit Call(const FftConvInputs& inputs)
      : in(inputs),
        blocks(in.u.sizes[1]),
        plan(in.u.sizes[2] > kDirectLength ? conv_plan(in.u.sizes[2]) : nullptr),
        batch(in.u.sizes[0]),
        length(in.u.sizes[2]),
        taps(in.k.sizes[1]),
        taps_rev(in.k_rev.data ? in.k_rev.sizes[1] : 0),
        floats(block_floats(plan.get())),
        buffer(plan ? plan->storage * 2 * lanes() : 0),
        group(group_of(in.u, blocks)),
        groups(ceil_div(blocks.count, group)) {}
  float scale() const { return 1 / static_cast<float>(plan->n); }
  Place place(int64_t i) const { return whole(blocks.first(i), blocks.size(i)); }
  // The spectrum of block i's filter; `own` holds those of this group, from block `first` on, where
  // the caller gave none.
  const float* filter(int64_t i, int64_t first, const float* own) const {
    return in.spectrum.data ? in.spectrum.as<float>() + i * floats : own + (i - first) * floats;
  }
  // Block i of entry b in `kept`, or null.
  template <class T>
  auto kept(const T& t, int64_t b, int64_t i) const {
    return t.data ? t.template as<float>() + (b * blocks.count + i) * floats : nullptr;
  }
};
constexpr int64_t kTileSamples = kTileRows * kColumns;

// --- forward

// A thread's working memory: tiles, the signals of a group, its filters.
struct ForwardWork {
  float *tile, *tile2, *tile3, *x, *own;
};
// The rows of one batch entry.
struct ForwardRows {
  Rows u, pre, post, y, conv;
  ForwardRows(const ForwardArgs& a, int64_t b)
      : u(a.in.u, b), pre(a.in.pre, b), post(a.in.post, b), y(a.y, b), conv(a.conv, b) {}
  // The sums in the tile become y.
  void finish(const Place& p, const ForwardWork& w) const {
    if (conv) put(w.tile, p, conv);
    if (post) {
      fetch(post, p, w.tile2);
      multiply(p, w.tile2, w.tile);
    }
    put(w.tile, p, y);
  }
};

// Block i of a short sequence.
void forward_direct(const Call& c, const ForwardRows& r, int64_t i, const float* filter,
                    const ForwardWork& w) {
  const F d;
  HWY_ALIGN float skip[hn::MaxLanes(F())];
  const Place p = c.place(i);
  fetch_gated(r.u, r.pre, p, w.tile2, w.tile3);
  fetch_skip(c.in.D, p.c0, p.channels, 1, skip);
  const V s = hn::Load(d, skip);
  each(p,
       [&](int64_t k) HWY_ATTR { hn::Store(hn::Mul(hn::Load(d, w.tile2 + k), s), d, w.tile + k); });
  causal_sum(filter, c.taps, w.tile2, c.length, w.tile);
  if (c.taps_rev)
    lookahead_sum(filter + kDirectLength * lanes(), c.taps_rev, w.tile2, c.length, c.length,
                  w.tile);
  r.finish(p, w);
}

// Blocks [first, last) of entry b by transforms. once: the filter goes down with the signal.
void forward_transformed(const Call& c, const ForwardArgs& a, const ForwardRows& r, int64_t b,
                         int64_t first, int64_t last, bool once, const ForwardWork& w) {
  const ConvPlan& plan = *c.plan;
  const int64_t own_floats = std::max(c.floats, c.buffer);
  HWY_ALIGN float skip[hn::MaxLanes(F())];
  tiles(plan, c.blocks, first, last, [&](const Place& p, int64_t h) HWY_ATTR {
    fetch_gated(r.u, r.pre, p, w.tile, w.tile2);
    enter(plan, w.tile, p, w.x + h * c.buffer);
    if (!once) return;
    fetch(Rows(c.in.k, 0), p, w.tile);
    enter(plan, w.tile, p, w.own + h * own_floats);
  });
  for (int64_t i = first; i < last; ++i) {
    float* x = w.x + (i - first) * c.buffer;
    fetch_skip(c.in.D, c.blocks.first(i), c.blocks.size(i), c.scale(), skip);
    if (once)
      rows(plan, 1, x, w.own + (i - first) * own_floats, 0, ConvolveBoth{skip, c.scale()});
    else
      rows(plan, 1, x, nullptr, 0, Convolve{c.filter(i, first, w.own), skip, c.kept(a.kept, b, i)});
  }
  tiles(plan, c.blocks, first, last, [&](const Place& p, int64_t h) HWY_ATTR {
    leave(plan, w.x + h * c.buffer, p, w.tile, nullptr);
    r.finish(p, w);
  });
}

void Forward(const ForwardArgs& a) {
  const Call c(a.in);
  const int64_t tile = kTileSamples * lanes(),
                grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(c.length, 1)),
                own_floats = a.in.spectrum.data ? 0 : std::max(c.floats, c.buffer);
  const bool once = c.plan && c.batch == 1 && !a.in.spectrum.data && !c.taps_rev;
  // batch entries of one group of blocks come one after the other: its spectrum stays in cache
  parallel_for(c.groups * c.batch, grain, [&](int64_t begin, int64_t end) HWY_ATTR {
    cpu::Scratch<float> memory(3 * tile + c.group * (c.buffer + own_floats));
    float* at_tile = memory.data();
    const ForwardWork w{at_tile, at_tile + tile, at_tile + 2 * tile, at_tile + 3 * tile,
                        at_tile + 3 * tile + c.group * c.buffer};
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at % c.batch, first = at / c.batch * c.group,
                    last = std::min(c.blocks.count, first + c.group);
      const ForwardRows r(a, b);
      if (!a.in.spectrum.data && !once && (b == 0 || at == begin))
        block_spectra(c.plan.get(), a.in.k, a.in.k_rev, c.blocks, first, last, w.tile, w.x, w.own);
      if (c.plan)
        forward_transformed(c, a, r, b, first, last, once, w);
      else
        for (int64_t i = first; i < last; ++i)
          forward_direct(c, r, i, c.filter(i, first, w.own), w);
    }
  });
}

// --- backward

// As ForwardWork; x2 holds u's signals where their spectra were not kept, sums the gradients of the
// group's filters as spectra (direct: as they are), null where not wanted.
struct BackwardWork {
  float *tile, *tile2, *tile3, *tile4, *x, *x2, *sums, *own;
};
struct BackwardRows {
  Rows u, pre, post, g, conv, gu, gpre, gpost;
  BackwardRows(const BackwardArgs& a, int64_t b)
      : u(a.in.u, b),
        pre(a.in.pre, b),
        post(a.in.post, b),
        g(a.g, b),
        conv(a.conv, b),
        gu(a.out.u, b),
        gpre(a.out.pre, b),
        gpost(a.out.post, b) {}
  // tile <- post g, and post's gradient on the way.
  void incoming(const Place& p, const BackwardWork& w) const {
    fetch(g, p, w.tile);
    if (gpost) {
      fetch(conv, p, w.tile2);
      multiply(p, w.tile, w.tile2);
      put(w.tile2, p, gpost);
    }
    if (!post) return;
    fetch(post, p, w.tile2);
    multiply(p, w.tile2, w.tile);
  }
  // tile3, the gradient of pre u -> gradients of u and pre.
  void finish(const Place& p, const BackwardWork& w) const {
    if (gpre) {
      fetch(u, p, w.tile2);
      multiply(p, w.tile3, w.tile2);
      put(w.tile2, p, gpre);
    }
    if (!gu) return;
    if (pre) {
      fetch(pre, p, w.tile2);
      multiply(p, w.tile2, w.tile3);
    }
    put(w.tile3, p, gu);
  }
};

// Block i of a short sequence; sum (or null) collects the filters' gradients.
void backward_direct(const Call& c, const BackwardRows& r, int64_t i, const float* filter,
                     float* sum, const BackwardWork& w) {
  const F d;
  HWY_ALIGN float skip[hn::MaxLanes(F())];
  const Place p = c.place(i);
  const int64_t n = lanes(), length = c.length;
  r.incoming(p, w);
  fetch_skip(c.in.D, p.c0, p.channels, 1, skip);
  const V s = hn::Load(d, skip);
  each(p,
       [&](int64_t k) HWY_ATTR { hn::Store(hn::Mul(hn::Load(d, w.tile + k), s), d, w.tile3 + k); });
  lookahead_sum(filter, c.taps, w.tile, length, length, w.tile3);
  if (c.taps_rev) causal_sum(filter + kDirectLength * n, c.taps_rev, w.tile, length, w.tile3);
  if (sum) {
    fetch_gated(r.u, r.pre, p, w.tile2, w.tile4);
    lookahead_sum(w.tile2, length, w.tile, length, c.taps, sum);  // sum_t u[t] g[t + s]
    if (c.taps_rev)
      lookahead_sum(w.tile, length, w.tile2, length, c.taps_rev, sum + kDirectLength * n);
  }
  r.finish(p, w);
}

// Blocks [first, last) of entry b by transforms.
void backward_transformed(const Call& c, const BackwardArgs& a, const BackwardRows& r, int64_t b,
                          int64_t first, int64_t last, const BackwardWork& w) {
  const ConvPlan& plan = *c.plan;
  HWY_ALIGN float skip[hn::MaxLanes(F())];
  tiles(plan, c.blocks, first, last, [&](const Place& p, int64_t h) HWY_ATTR {
    r.incoming(p, w);
    enter(plan, w.tile, p, w.x + h * c.buffer);
    if (!w.x2) return;
    fetch_gated(r.u, r.pre, p, w.tile, w.tile2);
    enter(plan, w.tile, p, w.x2 + h * c.buffer);
  });
  for (int64_t i = first; i < last; ++i) {
    const int64_t h = i - first;
    fetch_skip(c.in.D, c.blocks.first(i), c.blocks.size(i), c.scale(), skip);
    rows(plan, 1, w.x + h * c.buffer, w.x2 ? w.x2 + h * c.buffer : nullptr, 0,
         Correlate{c.filter(i, first, w.own), skip, c.kept(a.kept, b, i),
                   w.sums ? w.sums + h * c.floats : nullptr});
  }
  if (!r.gu && !r.gpre) return;
  tiles(plan, c.blocks, first, last, [&](const Place& p, int64_t h) HWY_ATTR {
    leave(plan, w.x + h * c.buffer, p, w.tile3, nullptr);
    r.finish(p, w);
  });
}

// What the sums over the batch say of k, k_rev and D, for blocks [first, last).
void filter_gradients(const Call& c, const FftConvGradients& out, int64_t first, int64_t last,
                      const BackwardWork& w) {
  const Rows gk(out.k, 0), gk_rev(out.k_rev, 0);
  auto lag_0 = [&](const Place& p, const float* from) HWY_ATTR {
    for (int64_t l = 0; l < p.channels; ++l) {
      if (out.D.data) out.D.as<float>()[p.c0 + l] = from[l];
      if (gk_rev) gk_rev.data[(p.c0 + l) * gk_rev.channel] = from[l];
    }
  };
  for (int64_t i = first; i < last && !c.plan; ++i) {
    const Place p = c.place(i);
    const float* sum = w.sums + (i - first) * c.floats;
    if (gk) put(sum, p, gk);
    if (gk_rev) put(sum + kDirectLength * lanes(), p, gk_rev);
    lag_0(p, sum);
  }
  if (!c.plan) return;
  const ConvPlan& plan = *c.plan;
  for (int64_t h = 0; h < last - first; ++h)
    rows(plan, 1, w.x + h * c.buffer, nullptr, 0, Return{w.sums + h * c.floats, c.scale()});
  tiles(plan, c.blocks, first, last, [&](const Place& p, int64_t h) HWY_ATTR {
    leave(plan, w.x + h * c.buffer, p, w.tile, gk_rev ? w.tile2 : nullptr);
    if (gk) put(w.tile, p, gk);
    if (gk_rev) put_reversed(w.tile2, p, plan.n, gk_rev);
    if (p.t0 == 0) lag_0(p, w.tile);
  });
}

void Backward(const BackwardArgs& a) {
  const Call c(a.in);
  const FftConvGradients& out = a.out;
  const int64_t tile = kTileSamples * lanes();
  const bool filters = out.k.data || out.k_rev.data || out.D.data, second = filters && !a.kept.data;
  const int64_t signals = c.group * c.buffer, spectra = c.group * c.floats;
  parallel_for(c.groups, 1, [&](int64_t begin, int64_t end) HWY_ATTR {
    cpu::Scratch<float> memory(4 * tile + (second ? 2 : 1) * signals + (filters ? spectra : 0) +
                               (a.in.spectrum.data ? 0 : spectra));
    float *t = memory.data(), *x = t + 4 * tile, *x2 = x + signals,
          *sums = second ? x2 + signals : x2;
    const BackwardWork w{t,
                         t + tile,
                         t + 2 * tile,
                         t + 3 * tile,
                         x,
                         second ? x2 : nullptr,
                         filters ? sums : nullptr,
                         filters ? sums + spectra : sums};
    for (int64_t at = begin; at < end; ++at) {
      const int64_t first = at * c.group, last = std::min(c.blocks.count, first + c.group);
      if (!a.in.spectrum.data)
        block_spectra(c.plan.get(), a.in.k, a.in.k_rev, c.blocks, first, last, w.tile, w.x, w.own);
      if (filters) std::fill_n(w.sums, (last - first) * c.floats, 0.0f);
      for (int64_t b = 0; b < c.batch; ++b) {
        const BackwardRows r(a, b);
        if (c.plan)
          backward_transformed(c, a, r, b, first, last, w);
        else
          for (int64_t i = first; i < last; ++i)
            backward_direct(c, r, i, c.filter(i, first, w.own),
                            filters ? w.sums + (i - first) * c.floats : nullptr, w);
      }
      if (filters) filter_gradients(c, out, first, last, w);
    }
  });
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {

void provide_short_conv_cpu(abi::KernelTable& t);

namespace {

HWY_EXPORT(Size);
HWY_EXPORT(Spectrum);
HWY_EXPORT(Forward);
HWY_EXPORT(Backward);

bool floats(std::initializer_list<const abi::TensorIn*> ts) {
  return std::all_of(ts.begin(), ts.end(),
                     [](const abi::TensorIn* t) { return !t->data || t->dtype == DType::Float32; });
}
constexpr const char* kFloats = "float32";

abi::Status size(const abi::KernelContext&, int64_t channels, int64_t length, int64_t* n) {
  *n = HWY_DYNAMIC_DISPATCH(Size)(channels, length);
  return abi::ok();
}
abi::Status spectrum(const abi::KernelContext&, const abi::TensorIn& k, const abi::TensorIn& k_rev,
                     int64_t length, const abi::TensorOut& out) {
  if (!floats({&k, &k_rev, &out})) return abi::unsupported(kFloats);
  HWY_DYNAMIC_DISPATCH(Spectrum)(k, k_rev, length, out.as<float>());
  return abi::ok();
}
abi::Status forward(const abi::KernelContext&, const FftConvInputs& in, const abi::TensorOut& y,
                    const abi::TensorOut& conv, const abi::TensorOut& kept) {
  if (!floats({&in.u, &in.k, &in.k_rev, &in.pre, &in.post, &in.D, &in.spectrum, &y, &conv, &kept}))
    return abi::unsupported(kFloats);
  HWY_DYNAMIC_DISPATCH(Forward)({in, y, conv, kept});
  return abi::ok();
}
abi::Status backward(const abi::KernelContext&, const abi::TensorIn& g, const FftConvInputs& in,
                     const abi::TensorIn& conv, const abi::TensorIn& kept,
                     const FftConvGradients& out) {
  if (!floats({&g, &in.u, &in.k, &in.k_rev, &in.pre, &in.post, &in.D, &in.spectrum, &conv, &kept,
               &out.u, &out.pre, &out.post, &out.D, &out.k, &out.k_rev}))
    return abi::unsupported(kFloats);
  HWY_DYNAMIC_DISPATCH(Backward)({g, conv, kept, in, out});
  return abi::ok();
}

}  // namespace

void provide_fft_conv_cpu(abi::KernelTable& t) {
  t.provide<fft_conv_size>(&size);
  t.provide<fft_conv_spectrum>(&spectrum);
  t.provide<fft_conv_forward>(&forward);
  t.provide<fft_conv_backward>(&backward);
  provide_short_conv_cpu(t);
}

}  // namespace dropin::kernels
#endif  // HWY_ONCE
