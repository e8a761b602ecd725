// Depthwise convolution, channels-last. Nothing is copied: R rows of outputs at one column and a
// vector of channels stay in registers, with one column of K weights, and each loaded vector of x
// serves up to min(K, R) of them. Channels are the inner loop, so lines of memory are read whole
// and in order; rows outside the image read zeros. The input gradient is the same with gy and w
// turned round; a stride s cuts it into s x s of them. The weight gradient keeps R rows of gy and K
// sums in registers.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/conv/rows.h"
#include "kernels/simd.h"
#include "src/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv/cpu_rows.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "kernels/conv/each-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::cpu {
namespace HWY_NAMESPACE {
namespace {

/// The image that windows look at: x's row under output row p and tap i is first[0] + p step[0] + i
/// dil[0]; columns likewise.
struct Windows {
  const float* x;
  int64_t size[2], row, column;
  int64_t first[2], step[2], dil[2], kernel[2];
  int64_t channels;
  const float* zeros;  ///< a row of them

  const float* line(int64_t r) const { return r >= 0 && r < size[0] ? x + r * row : zeros; }
  /// The taps [j0, j1) of column n that lie in the image.
  void taps(int64_t n, int64_t& j0, int64_t& j1) const {
    const int64_t col = first[1] + n * step[1],
                  over = col + (kernel[1] - 1) * dil[1] - (size[1] - 1);
    j0 = col < 0 ? std::min(kernel[1], (-col + dil[1] - 1) / dil[1]) : 0;
    j1 = over > 0 ? std::max(j0, kernel[1] - (over + dil[1] - 1) / dil[1]) : kernel[1];
  }
};
/// w(i, j) of channel c at i wi + j wj + c; bias [channels] or null.
struct Weights {
  const float* w;
  int64_t wi, wj;
  const float* bias;
};
/// Rows and columns of outputs.
template <class T>
struct Outputs {
  T* y;
  int64_t row, column, columns;
};

/// Channels worked on at a time: what `lines` rows and the taps' columns hold of them stays in L1.
int64_t chunk_for(int64_t lines, int64_t columns) {
  return std::max<int64_t>(16, (24 << 10) / 4 / (lines * columns) / 16 * 16);
}

/// f(c, slot) for vectors of channels in [from, to) of `channels` >= a vector: the last one is
/// moved back to end with them; `slot` is a place of its own all the same.
template <class F>
HWY_INLINE void each_vector(int64_t from, int64_t to, int64_t channels, F&& f) {
  const int64_t L = lanes_of<float>();
  for (int64_t c = from; c < to; c += L) f(std::min(c, channels - L), c + L <= to ? c : channels);
}

/// K kernel rows, S rows of x from output to output, R outputs at a time; rows [p0, p1).
template <int K, int S, int R>
HWY_NOINLINE void sweep(const Windows& x, const Weights& w, const Outputs<float>& y, int64_t p0,
                        int64_t p1) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kLines = (R - 1) * S + K;
  const int64_t dil = x.dil[0], chunk = chunk_for(kLines, x.kernel[1]), wi = w.wi, wj = w.wj,
                right = x.dil[1] * x.column;
  for (int64_t f = p0; f < std::min(p0 + dil, p1);
       ++f) {  // outputs f, f + dil, ... share their rows of x
    for (int64_t p = f; p < p1; p += R * dil) {
      const int64_t rows = std::min<int64_t>(R, ceil_div(p1 - p, dil)), first = x.first[0] + p * S;
      const float* line[kLines];
      for (int h = 0; h < kLines; ++h) line[h] = x.line(first + h * dil);
      for (int64_t from = 0; from < x.channels; from += chunk) {
        const int64_t to = std::min(from + chunk, x.channels);
        for (int64_t n = 0; n < y.columns; ++n) {
          int64_t j0, j1;
          x.taps(n, j0, j1);
          const int64_t column = (x.first[1] + n * x.step[1] + j0 * x.dil[1]) * x.column;
          float* out = y.y + p * y.row + n * y.column;
          each_vector(from, to, x.channels, [&](int64_t c, int64_t) DROPIN_LAMBDA {
            const V bias = w.bias ? hn::LoadU(d, w.bias + c) : hn::Zero(d);
            V acc[R];
            each<R>([&](auto r) DROPIN_LAMBDA { acc[r] = bias; });
            const float* wc = w.w + j0 * wj + c;
            int64_t at = column + c;
            for (int64_t j = j0; j < j1; ++j, wc += wj, at += right) {
              V k[K];
              each<K>([&](auto i) DROPIN_LAMBDA { k[i] = hn::LoadU(d, wc + i * wi); });
              each<kLines>([&](auto h) DROPIN_LAMBDA {
                const V v = hn::LoadU(d, line[h] + at);
                each<R>([&](auto r) DROPIN_LAMBDA {
                  constexpr int i = h - r * S;
                  if constexpr (i >= 0 && i < K) acc[r] = hn::MulAdd(v, k[i], acc[r]);
                });
              });
            }
            if (HWY_LIKELY(rows == R)) {
              each<R>([&](auto r)
                          DROPIN_LAMBDA { hn::StoreU(acc[r], d, out + c + r * dil * y.row); });
            } else {
              each<R>([&](auto r) DROPIN_LAMBDA {
                if (r < rows) hn::StoreU(acc[r], d, out + c + r * dil * y.row);
              });
            }
          });
        }
      }
    }
  }
}

/// Any sizes. kPart: fewer channels than a vector has.
template <bool kPart>
HWY_NOINLINE void sweep_any(const Windows& x, const Weights& w, const Outputs<float>& y, int64_t p0,
                            int64_t p1) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const auto part = hn::FirstN(d, static_cast<std::size_t>(x.channels));
  auto load = [&](const float* p)
                  DROPIN_LAMBDA { return kPart ? hn::MaskedLoad(part, d, p) : hn::LoadU(d, p); };
  auto at_channel = [&](int64_t p, int64_t n, int64_t c) DROPIN_LAMBDA {
    int64_t j0, j1;
    x.taps(n, j0, j1);
    V sum = w.bias ? load(w.bias + c) : hn::Zero(d);
    for (int64_t j = j0; j < j1; ++j) {  // the order of sweep()
      const int64_t at = c + (x.first[1] + n * x.step[1] + j * x.dil[1]) * x.column;
      for (int64_t i = 0; i < x.kernel[0]; ++i)
        sum = hn::MulAdd(load(x.line(x.first[0] + p * x.step[0] + i * x.dil[0]) + at),
                         load(w.w + i * w.wi + j * w.wj + c), sum);
    }
    float* out = y.y + p * y.row + n * y.column + c;
    if (kPart)
      store_part(sum, d, out, x.channels);
    else
      hn::StoreU(sum, d, out);
  };
  for (int64_t p = p0; p < p1; ++p)
    for (int64_t n = 0; n < y.columns; ++n) {
      if constexpr (kPart)
        at_channel(p, n, 0);
      else
        each_vector(0, x.channels, x.channels,
                    [&](int64_t c, int64_t) DROPIN_LAMBDA { at_channel(p, n, c); });
    }
}

template <int S>
bool pick(const Windows& x, const Weights& w, const Outputs<float>& y, int64_t p0, int64_t p1) {
  const bool eight = (p1 - p0 + x.dil[0] - 1) / x.dil[0] % 8 == 0;
  // Small kernels wait for memory: few rows at a time are few streams of it. Larger ones gain by
  // every row that shares a load.
  auto with = [&]<int K>() {
    if constexpr (K <= 3) return sweep<K, S, 4>(x, w, y, p0, p1), true;
    if constexpr (K % 2 == 1 && S == 1)
      if (eight) return sweep<K, S, 8>(x, w, y, p0, p1), true;
    return sweep<K, S, 7>(x, w, y, p0, p1), true;
  };
  switch (x.kernel[0]) {
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
  if constexpr (S == 1) switch (x.kernel[0]) {
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

void correlate(const Windows& x, const Weights& w, const Outputs<float>& y, int64_t p0,
               int64_t p1) {
  if (p0 >= p1 || y.columns <= 0) return;
  if (x.channels < lanes_of<float>()) return sweep_any<true>(x, w, y, p0, p1);
  if constexpr (kVectors) {
    if (x.step[0] == 1 && pick<1>(x, w, y, p0, p1)) return;
    if (x.step[0] == 2 && x.dil[0] == 1 && pick<2>(x, w, y, p0, p1)) return;
  }
  sweep_any<false>(x, w, y, p0, p1);
}

/// sums(i0 + i, j) of the weight gradient from `count` rows of gy, p, p + dil, ...: a multiple of
/// R. S: rows of x from one to the next of them (R = 1: any).
template <int K, int S, int R, bool kPart = false>
HWY_NOINLINE void gather(const Windows& x, const Outputs<const float>& gy, float* sums, int64_t i0,
                         int64_t p, int64_t count) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kLines = (R - 1) * S + K;
  const int64_t dil = x.dil[0], chunk = chunk_for(kLines, x.kernel[1]),
                pitch = sums_pitch(x.channels), wi = x.kernel[1] * pitch,
                right = x.dil[1] * x.column;
  const auto part = hn::FirstN(d, static_cast<std::size_t>(x.channels));
  auto load = [&](const float* q)
                  DROPIN_LAMBDA { return kPart ? hn::MaskedLoad(part, d, q) : hn::LoadU(d, q); };
  for (; count > 0; count -= R, p += R * dil) {
    const float* line[kLines];
    for (int h = 0; h < kLines; ++h) line[h] = x.line(x.first[0] + p * x.step[0] + (i0 + h) * dil);
    for (int64_t from = 0; from < x.channels; from += chunk) {
      const int64_t to = std::min(from + chunk, x.channels);
      for (int64_t n = 0; n < gy.columns; ++n) {
        int64_t j0, j1;
        x.taps(n, j0, j1);
        const int64_t column = (x.first[1] + n * x.step[1] + j0 * x.dil[1]) * x.column;
        const float* g = gy.y + p * gy.row + n * gy.column;
        auto at_channel = [&](int64_t c, int64_t slot) DROPIN_LAMBDA {
          V v[R];
          each<R>([&](auto r) DROPIN_LAMBDA { v[r] = load(g + c + r * dil * gy.row); });
          float* s = sums + (i0 * x.kernel[1] + j0) * pitch + slot;
          int64_t at = column + c;
          for (int64_t j = j0; j < j1; ++j, s += pitch, at += right) {
            V sum[K];
            each<K>([&](auto i) DROPIN_LAMBDA { sum[i] = hn::LoadU(d, s + i * wi); });
            each<kLines>([&](auto h) DROPIN_LAMBDA {
              const V u = load(line[h] + at);
              each<R>([&](auto r) DROPIN_LAMBDA {
                constexpr int i = h - r * S;
                if constexpr (i >= 0 && i < K) sum[i] = hn::MulAdd(v[r], u, sum[i]);
              });
            });
            each<K>([&](auto i) DROPIN_LAMBDA { hn::StoreU(sum[i], d, s + i * wi); });
          }
        };
        if constexpr (kPart)
          at_channel(0, 0);
        else
          each_vector(from, to, x.channels, at_channel);
      }
    }
  }
}

/// Kernel rows K of S from i0 on: whole blocks of rows first, the rest row by row.
template <int K, bool kPart = false>
void gather_rows(const Windows& x, const Outputs<const float>& gy, float* sums, int64_t i0,
                 int64_t p0, int64_t p1) {
  const int64_t dil = x.dil[0];
  for (int64_t f = p0; f < std::min(p0 + dil, p1); ++f) {
    const int64_t count = ceil_div(p1 - f, dil);
    int64_t whole = 0;
    if constexpr (kVectors && !kPart && K > 1) {
      constexpr int kOther = K <= 3 ? 4 : 8;
      const int64_t rows = count % kOther && (count % 7 == 0 || kOther == 8) ? 7 : kOther;
      auto with = [&]<int S>() {
        whole = count / rows * rows;
        if (rows == 7)
          gather<K, S, 7>(x, gy, sums, i0, f, whole);
        else
          gather<K, S, kOther>(x, gy, sums, i0, f, whole);
      };
      if (x.step[0] == 1)
        with.template operator()<1>();
      else if (x.step[0] == 2 && dil == 1)
        with.template operator()<2>();
    }
    gather<K, 1, 1, kPart>(x, gy, sums, i0, f + whole * dil, count - whole);
  }
}

void gather_all(const Windows& x, const Outputs<const float>& gy, float* sums, int64_t p0,
                int64_t p1) {
  if (p0 >= p1 || gy.columns <= 0) return;
  const int64_t K = x.kernel[0];
  if constexpr (kVectors) {
    if (x.channels >= lanes_of<float>()) {
      switch (K) {
        case 5:
          return gather_rows<5>(x, gy, sums, 0, p0, p1);
        case 7:
          return gather_rows<7>(x, gy, sums, 0, p0, p1);
        case 9:
          return gather_rows<9>(x, gy, sums, 0, p0, p1);
      }
      int64_t i = 0;
      for (; i + 3 <= K; i += 3) gather_rows<3>(x, gy, sums, i, p0, p1);
      for (; i < K; ++i) gather_rows<1>(x, gy, sums, i, p0, p1);
      return;
    }
  }
  for (int64_t i = 0; i < K; ++i)
    if (x.channels < lanes_of<float>())
      gather_rows<1, true>(x, gy, sums, i, p0, p1);
    else
      gather_rows<1>(x, gy, sums, i, p0, p1);
}

Scratch<float> zero_row(int64_t size) {
  Scratch<float> zeros(size);
  std::fill_n(zeros.data(), size, 0.0f);
  return zeros;
}

/// The windows of the convolution over its whole input; `zeros`: a row of it for what lies outside.
Windows whole_input(const PlaneConv& c, int64_t channels, const float* x, const RowStrides& sx,
                    const float* zeros) {
  return {x,
          {c.size[0], c.size[1]},
          sx.row,
          sx.column,
          {-c.pad_begin[0], -c.pad_begin[1]},
          {c.stride[0], c.stride[1]},
          {c.dilation[0], c.dilation[1]},
          {c.kernel[0], c.kernel[1]},
          channels,
          zeros};
}

void Forward(const PlaneConv& c, int64_t channels, const float* x, const RowStrides& sx,
             const float* w, int64_t w_tap, const float* bias, float* y, const RowStrides& sy,
             int64_t p0, int64_t p1) {
  const Scratch<float> zeros = zero_row(c.size[1] * sx.column);
  correlate(whole_input(c, channels, x, sx, zeros.data()), {w, c.kernel[1] * w_tap, w_tap, bias},
            {y, sy.row, sy.column, c.out_size[1]}, p0, p1);
}

void InputGradient(const PlaneConv& c, int64_t channels, const float* gy, const RowStrides& sy,
                   const float* w, int64_t w_tap, float* gx, const RowStrides& sx, int64_t h0,
                   int64_t h1) {
  const Scratch<float> zeros = zero_row(c.out_size[1] * sy.column);
  const int64_t sh = c.stride[0], sw = c.stride[1];
  for (int64_t a = 0; a < std::min(sh, c.size[0]); ++a) {
    const Phase r = phase(c, 0, a);
    const int64_t t0 = ceil_div(std::max<int64_t>(0, h0 - a), sh),
                  t1 = ceil_div(std::max<int64_t>(0, h1 - a), sh);
    for (int64_t b = 0; b < std::min(sw, c.size[1]); ++b) {
      const Phase q = phase(c, 1, b);
      float* to = gx + a * sx.row + b * sx.column;
      if (!r.taps || !q.taps) {
        for (int64_t t = t0; t < t1; ++t)
          for (int64_t k = 0; k < q.count; ++k)
            std::fill_n(to + t * sx.row * sh + k * sx.column * sw, channels, 0.0f);
        continue;
      }
      correlate({gy,
                 {c.out_size[0], c.out_size[1]},
                 sy.row,
                 sy.column,
                 {r.row, q.row},
                 {1, 1},
                 {r.dil, q.dil},
                 {r.taps, q.taps},
                 channels,
                 zeros.data()},
                {w + (r.tap * c.kernel[1] + q.tap) * w_tap, -r.tap_step * c.kernel[1] * w_tap,
                 -q.tap_step * w_tap, nullptr},
                {to, sx.row * sh, sx.column * sw, q.count}, t0, t1);
    }
  }
}

void WeightGradient(const PlaneConv& c, int64_t channels, const float* gy, const RowStrides& sy,
                    const float* x, const RowStrides& sx, float* sums, bool bias, int64_t p0,
                    int64_t p1) {
  if (x) {
    const Scratch<float> zeros = zero_row(c.size[1] * sx.column);
    gather_all(whole_input(c, channels, x, sx, zeros.data()),
               {gy, sy.row, sy.column, c.out_size[1]}, sums, p0, p1);
  }
  if (bias) {  // row by row: long sums in one float lose digits
    float* sum = sums + c.kernel[0] * c.kernel[1] * sums_pitch(channels);
    const Scratch<float> row(channels);
    for (int64_t p = p0; p < p1; ++p) {
      std::copy_n(gy + p * sy.row, channels, row.data());
      for (int64_t q = 1; q < c.out_size[1]; ++q) {
        const float* HWY_RESTRICT g = gy + p * sy.row + q * sy.column;
        for (int64_t k = 0; k < channels; ++k) row[k] += g[k];
      }
      for (int64_t k = 0; k < channels; ++k) sum[k] += row[k];
    }
  }
}

void Finish(const PlaneConv& c, int64_t channels, const float* sums, float* gw, float* gb) {
  const int64_t L = lanes_of<float>(), taps = c.kernel[0] * c.kernel[1],
                pitch = sums_pitch(channels), whole = channels < L ? channels : channels / L * L;
  if (gw)
    for (int64_t k = 0; k < channels; ++k)
      for (int64_t t = 0; t < taps; ++t)
        gw[k * taps + t] =
            sums[t * pitch +
                 (k < whole ? k : k + L)];  // the last vector's own place begins at `channels`
  if (gb)
    for (int64_t k = 0; k < channels; ++k) gb[k] = sums[taps * pitch + k];
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace dropin::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::cpu {
HWY_EXPORT(Forward);
HWY_EXPORT(InputGradient);
HWY_EXPORT(WeightGradient);
HWY_EXPORT(Finish);
void rows_forward(const PlaneConv& c, int64_t channels, const float* x, const RowStrides& sx,
                  const float* w, int64_t w_tap, const float* bias, float* y, const RowStrides& sy,
                  int64_t p0, int64_t p1) {
  HWY_DYNAMIC_DISPATCH(Forward)(c, channels, x, sx, w, w_tap, bias, y, sy, p0, p1);
}
void rows_backward_input(const PlaneConv& c, int64_t channels, const float* gy,
                         const RowStrides& sy, const float* w, int64_t w_tap, float* gx,
                         const RowStrides& sx, int64_t h0, int64_t h1) {
  HWY_DYNAMIC_DISPATCH(InputGradient)(c, channels, gy, sy, w, w_tap, gx, sx, h0, h1);
}
void rows_backward_weight(const PlaneConv& c, int64_t channels, const float* gy,
                          const RowStrides& sy, const float* x, const RowStrides& sx, float* sums,
                          bool bias, int64_t p0, int64_t p1) {
  HWY_DYNAMIC_DISPATCH(WeightGradient)(c, channels, gy, sy, x, sx, sums, bias, p0, p1);
}
void rows_finish(const PlaneConv& c, int64_t channels, const float* sums, float* gw, float* gb) {
  HWY_DYNAMIC_DISPATCH(Finish)(c, channels, sums, gw, gb);
}
}  // namespace dropin::cpu
#endif
