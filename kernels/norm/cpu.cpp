// Layer, RMS and batch normalisation. Rows stay in cache between their passes. Gradients of weight
// and bias are gathered per chunk of rows (chunks depend on the sizes alone) and added up in a
// fixed order, so they do not depend on the number of threads.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <memory>
#include <vector>

#include "dropin/core/parallel.h"
#include "kernels/norm/kernel.h"
#include "kernels/reduce/blocks.h"
#include "kernels/row-inl.h"
#include "kernels/strided.h"

#ifndef DROPIN_NORM_ARGS_
#define DROPIN_NORM_ARGS_
namespace dropin::kernels {
/// Rows of n values; null where there is none. mean is null for RMS normalisation.
struct RowNorm {
  int64_t rows = 0, n = 0;
  const void *g = nullptr, *x = nullptr, *w = nullptr, *b = nullptr;
  void *mean = nullptr, *rstd = nullptr;
  double eps = 0;
  void *y = nullptr, *gx = nullptr, *gw = nullptr, *gb = nullptr;
};
struct BatchNorm {
  int64_t batch = 0, channels = 0, positions = 0;
  const void *g = nullptr, *x = nullptr, *mean = nullptr, *rstd = nullptr, *w = nullptr,
             *b = nullptr;
  bool training = false;
  void *y = nullptr, *gx = nullptr, *gw = nullptr, *gb = nullptr;
};
constexpr int64_t kFlushRows =
    128;  // rows whose contributions are added in the tensor's dtype before double takes over
constexpr int64_t kMaxChunks = 64, kChunkRows = 64;
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

inline int64_t rows_per_thread(int64_t n) {
  return std::max<int64_t>(1, kGrain / 4 / std::max<int64_t>(1, n));
}
template <class T>
const T* in(const void* p) {
  return static_cast<const T*>(p);
}
template <class T>
T* out(void* p) {
  return static_cast<T*>(p);
}

template <class T>
void forward_row(const RowNorm& a, int64_t r) {
  const Tag<T> d;
  const int64_t n = a.n;
  const T *x = in<T>(a.x) + r * n, *w = in<T>(a.w), *b = in<T>(a.b);
  T* y = out<T>(a.y) + r * n;
  T mean = 0;
  double squares;
  if (a.mean) {
    const T rough = static_cast<T>(sum_row<T>(n, [&](auto at) HWY_ATTR { return at.load(d, x); }) /
                                   static_cast<double>(n));
    const auto m = hn::Set(d, rough);
    auto drift = hn::Zero(d);  // the deviations' own sum repairs the mean of numbers far from 0
    squares = sum_row<T>(n, [&](auto at) HWY_ATTR {
      const auto e = hn::Sub(at.load(d, x), m);
      drift = hn::Add(drift, at.only(d, e));
      return hn::Mul(e, e);
    });
    const double shift = static_cast<double>(sum_lanes(d, drift)) / static_cast<double>(n);
    mean = static_cast<T>(static_cast<double>(rough) + shift);
    squares = std::max(0.0, squares - static_cast<double>(n) * shift * shift) +
              0 * squares;  // the last term keeps NaN
    out<T>(a.mean)[r] = mean;
  } else {
    squares = sum_row<T>(n, [&](auto at) HWY_ATTR {
      const auto e = at.load(d, x);
      return hn::Mul(e, e);
    });
  }
  const T rstd = static_cast<T>(1 / std::sqrt(squares / static_cast<double>(n) + a.eps));
  out<T>(a.rstd)[r] = rstd;
  const auto m = hn::Set(d, mean), s = hn::Set(d, rstd);
  if (w && b)
    each<T>(0, n, [&](auto at) HWY_ATTR {
      at.store(d, hn::MulAdd(hn::Mul(hn::Sub(at.load(d, x), m), s), at.load(d, w), at.load(d, b)),
               y);
    });
  else if (w)
    each<T>(0, n, [&](auto at) HWY_ATTR {
      at.store(d, hn::Mul(hn::Mul(hn::Sub(at.load(d, x), m), s), at.load(d, w)), y);
    });
  else if (b)
    each<T>(0, n, [&](auto at) HWY_ATTR {
      at.store(d, hn::MulAdd(hn::Sub(at.load(d, x), m), s, at.load(d, b)), y);
    });
  else
    each<T>(0, n, [&](auto at) HWY_ATTR { at.store(d, hn::Mul(hn::Sub(at.load(d, x), m), s), y); });
}
template <class T>
void forward_rows(const RowNorm& a) {
  parallel_for(a.rows, rows_per_thread(a.n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) forward_row<T>(a, r);
  });
}

/// Adds the row's share to gw and gb (when not null) and takes the two means that gx needs.
template <class T>
void gather_row(const RowNorm& a, int64_t r, T* gw, T* gb, double* mean_gw, double* mean_gwx) {
  const Tag<T> d;
  const int64_t n = a.n;
  const T *x = in<T>(a.x) + r * n, *g = in<T>(a.g) + r * n, *w = in<T>(a.w);
  const auto m = hn::Set(d, a.mean ? out<T>(a.mean)[r] : T(0)), s = hn::Set(d, out<T>(a.rstd)[r]);
  auto first = hn::Zero(d);
  double sum = 0, sum_first = 0;
  for (int64_t from = 0; from < n; from += kSumBlock) {
    auto second = hn::Zero(d);
    first = hn::Zero(d);
    each<T>(from, std::min(n, from + kSumBlock), [&](auto at) HWY_ATTR {
      const auto gi = at.load(d, g), hat = hn::Mul(hn::Sub(at.load(d, x), m), s);
      if (gw) at.store(d, hn::MulAdd(gi, hat, at.load(d, gw)), gw);
      if (gb) at.store(d, hn::Add(gi, at.load(d, gb)), gb);
      const auto weighted = w ? hn::Mul(gi, at.load(d, w)) : gi;
      first = hn::Add(first, weighted);
      second = hn::MulAdd(weighted, hat, second);
    });
    sum_first += static_cast<double>(sum_lanes(d, first));
    sum += static_cast<double>(sum_lanes(d, second));
  }
  *mean_gw = sum_first / static_cast<double>(n);
  *mean_gwx = sum / static_cast<double>(n);
}
/// gx = rstd (g w - mean(g w) - xhat mean(g w xhat)); RMS: without the first mean.
template <class T>
void grad_row(const RowNorm& a, int64_t r, double mean_gw, double mean_gwx) {
  const Tag<T> d;
  const int64_t n = a.n;
  const T *x = in<T>(a.x) + r * n, *g = in<T>(a.g) + r * n, *w = in<T>(a.w);
  T* gx = out<T>(a.gx) + r * n;
  const auto m = hn::Set(d, a.mean ? out<T>(a.mean)[r] : T(0)), s = hn::Set(d, out<T>(a.rstd)[r]);
  const auto c1 = hn::Set(d, a.mean ? static_cast<T>(mean_gw) : T(0)),
             c2 = hn::Set(d, static_cast<T>(mean_gwx));
  each<T>(0, n, [&](auto at) HWY_ATTR {
    const auto hat = hn::Mul(hn::Sub(at.load(d, x), m), s);
    const auto weighted = w ? hn::Mul(at.load(d, g), at.load(d, w)) : at.load(d, g);
    at.store(d, hn::Mul(s, hn::NegMulAdd(hat, c2, hn::Sub(weighted, c1))), gx);
  });
}

/// Calls row(r, first, second) for every row, with two accumulators [n] to add to; their totals
/// over all rows go to `sums` ([2, n], double).
template <class T, class F>
void accumulate_rows(int64_t rows, int64_t n, double* sums, const F& row) {
  const int64_t chunks = std::clamp<int64_t>(rows / kChunkRows, 1, kMaxChunks);
  std::vector<double> parts(static_cast<std::size_t>(chunks > 1 ? chunks * 2 * n : 0));
  const int64_t chunk_grain =
      std::max<int64_t>(1, rows_per_thread(n) * chunks / std::max<int64_t>(1, rows));
  std::fill_n(sums, 2 * n, 0.0);
  parallel_for(chunks, chunk_grain, [&](int64_t begin, int64_t end) {
    std::vector<T> near(static_cast<std::size_t>(2 * n));
    for (int64_t c = begin; c < end; ++c) {
      double* total = chunks > 1 ? parts.data() + c * 2 * n : sums;
      const int64_t last = rows * (c + 1) / chunks;
      for (int64_t r = rows * c / chunks; r < last;) {
        const int64_t stop = std::min(last, r + kFlushRows);
        for (; r < stop; ++r) row(r, near.data(), near.data() + n);
        for (int64_t j = 0; j < 2 * n; ++j) total[j] += static_cast<double>(near[j]), near[j] = 0;
      }
    }
  });
  if (chunks > 1)
    for (int64_t c = 0; c < chunks; ++c)
      for (int64_t j = 0; j < 2 * n; ++j) sums[j] += parts[c * 2 * n + j];
}

template <class T>
void backward_rows(const RowNorm& a) {
  if (!a.gw && !a.gb) {
    parallel_for(a.rows, rows_per_thread(a.n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        double c1, c2;
        gather_row<T>(a, r, nullptr, nullptr, &c1, &c2);
        if (a.gx) grad_row<T>(a, r, c1, c2);
      }
    });
    return;
  }
  std::vector<double> sums(static_cast<std::size_t>(2 * a.n));
  accumulate_rows<T>(a.rows, a.n, sums.data(), [&](int64_t r, T* gw, T* gb) {
    double c1, c2;
    gather_row<T>(a, r, a.gw ? gw : nullptr, a.gb ? gb : nullptr, &c1, &c2);
    if (a.gx) grad_row<T>(a, r, c1, c2);
  });
  for (int64_t j = 0; j < a.n; ++j) {
    if (a.gw) out<T>(a.gw)[j] = static_cast<T>(sums[j]);
    if (a.gb) out<T>(a.gb)[j] = static_cast<T>(sums[a.n + j]);
  }
}

/// Mean and sum of squared deviations of every channel; a channel's second pass finds it in cache
/// where it fits.
template <class T>
void batch_stats(const T* x, int64_t batch, int64_t channels, int64_t s, double* mean,
                 double* squares) {
  const Tag<T> d;
  const double count = static_cast<double>(batch * s);
  parallel_for(channels, rows_per_thread(batch * s), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t c = begin; c < end; ++c) {
      double sum = 0, square = 0, shift = 0;
      for (int64_t i = 0; i < batch; ++i) {
        const T* p = x + (i * channels + c) * s;
        sum += sum_row<T>(s, [&](auto at) HWY_ATTR { return at.load(d, p); });
      }
      const T rough = static_cast<T>(sum / count);
      const auto m = hn::Set(d, rough);
      for (int64_t i = 0; i < batch; ++i) {
        const T* p = x + (i * channels + c) * s;
        auto drift = hn::Zero(d);
        square += sum_row<T>(s, [&](auto at) HWY_ATTR {
          const auto e = hn::Sub(at.load(d, p), m);
          drift = hn::Add(drift, at.only(d, e));
          return hn::Mul(e, e);
        });
        shift += static_cast<double>(sum_lanes(d, drift));
      }
      shift /= count;
      mean[c] = static_cast<double>(rough) + shift;
      squares[c] =
          std::max(0.0, square - count * shift * shift) + 0 * square;  // the last term keeps NaN
    }
  });
}

/// y = (x - mean) scale + shift, the three per channel. One position: vectors run along the
/// channels; else along the positions.
template <class T>
void batch_forward(const BatchNorm& a) {
  const Tag<T> d;
  const int64_t channels = a.channels, s = a.positions;
  const T *mean = in<T>(a.mean), *rstd = in<T>(a.rstd), *w = in<T>(a.w), *b = in<T>(a.b);
  std::vector<T> scale(static_cast<std::size_t>(channels)),
      shift(static_cast<std::size_t>(channels));
  for (int64_t c = 0; c < channels; ++c)
    scale[c] = w ? rstd[c] * w[c] : rstd[c], shift[c] = b ? b[c] : T(0);
  const bool flat = s == 1;
  const int64_t rows = flat ? a.batch : a.batch * channels, n = flat ? channels : s;
  parallel_for(rows, rows_per_thread(n), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t r = begin; r < end; ++r) {
      const T* x = in<T>(a.x) + r * n;
      T* y = out<T>(a.y) + r * n;
      if (flat) {
        each<T>(0, n, [&](auto at) HWY_ATTR {
          at.store(d,
                   hn::MulAdd(hn::Sub(at.load(d, x), at.load(d, mean)), at.load(d, scale.data()),
                              at.load(d, shift.data())),
                   y);
        });
      } else {
        const int64_t c = r % channels;
        const auto m = hn::Set(d, mean[c]), k = hn::Set(d, scale[c]), t = hn::Set(d, shift[c]);
        each<T>(0, n, [&](auto at) HWY_ATTR {
          at.store(d, hn::MulAdd(hn::Sub(at.load(d, x), m), k, t), y);
        });
      }
    }
  });
}

/// H = sum g (x - mean) and G = sum g of every channel, over batch and positions: sums [2, C], H
/// first.
template <class T>
void batch_sums(const BatchNorm& a, double* sums) {
  const Tag<T> d;
  const int64_t channels = a.channels, s = a.positions;
  const T* mean = in<T>(a.mean);
  if (s == 1) {
    accumulate_rows<T>(a.batch, channels, sums, [&](int64_t r, T* h, T* total) {
      const T *x = in<T>(a.x) + r * channels, *g = in<T>(a.g) + r * channels;
      each<T>(0, channels, [&](auto at) HWY_ATTR {
        const auto gi = at.load(d, g);
        at.store(d, hn::MulAdd(gi, hn::Sub(at.load(d, x), at.load(d, mean)), at.load(d, h)), h);
        at.store(d, hn::Add(gi, at.load(d, total)), total);
      });
    });
    return;
  }
  auto channel = [&](int64_t c) HWY_ATTR {
    const auto m = hn::Set(d, mean[c]);
    double h = 0, total = 0;
    for (int64_t i = 0; i < a.batch; ++i) {
      const T *x = in<T>(a.x) + (i * channels + c) * s, *g = in<T>(a.g) + (i * channels + c) * s;
      for (int64_t from = 0; from < s; from += kSumBlock) {
        auto u = hn::Zero(d), v = hn::Zero(d);
        each<T>(from, std::min(s, from + kSumBlock), [&](auto at) HWY_ATTR {
          const auto gi = at.load(d, g);
          u = hn::MulAdd(gi, hn::Sub(at.load(d, x), m), u);
          v = hn::Add(v, gi);
        });
        h += static_cast<double>(sum_lanes(d, u));
        total += static_cast<double>(sum_lanes(d, v));
      }
    }
    sums[c] = h;
    sums[channels + c] = total;
  };
  parallel_for(channels, rows_per_thread(a.batch * s), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t c = begin; c < end; ++c) channel(c);
  });
}

/// gx = scale (g - first - (x - mean) second), the three per channel.
template <class T>
void batch_grad(const BatchNorm& a, const T* scale, const T* first, const T* second) {
  const Tag<T> d;
  const T* mean = in<T>(a.mean);
  const bool flat = a.positions == 1;
  const int64_t channels = a.channels, rows = flat ? a.batch : a.batch * channels,
                n = flat ? channels : a.positions;
  parallel_for(rows, rows_per_thread(n), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t r = begin; r < end; ++r) {
      const T *x = in<T>(a.x) + r * n, *g = in<T>(a.g) + r * n;
      T* gx = out<T>(a.gx) + r * n;
      if (flat) {
        each<T>(0, n, [&](auto at) HWY_ATTR {
          const auto e = hn::Sub(at.load(d, x), at.load(d, mean));
          const auto v =
              hn::NegMulAdd(e, at.load(d, second), hn::Sub(at.load(d, g), at.load(d, first)));
          at.store(d, hn::Mul(v, at.load(d, scale)), gx);
        });
      } else {
        const int64_t c = r % channels;
        const auto m = hn::Set(d, mean[c]), k = hn::Set(d, scale[c]), c1 = hn::Set(d, first[c]),
                   c2 = hn::Set(d, second[c]);
        each<T>(0, n, [&](auto at) HWY_ATTR {
          at.store(
              d,
              hn::Mul(hn::NegMulAdd(hn::Sub(at.load(d, x), m), c2, hn::Sub(at.load(d, g), c1)), k),
              gx);
        });
      }
    }
  });
}

/// With the sums G and H: gb = G, gw = H rstd, and gx = w rstd (g - G / N - (x - mean) rstd^2 H /
/// N) in training, w rstd g otherwise.
template <class T>
void batch_backward(const BatchNorm& a) {
  const int64_t channels = a.channels;
  const T *rstd = in<T>(a.rstd), *w = in<T>(a.w);
  const double count = static_cast<double>(a.batch * a.positions);
  std::vector<double> sums(static_cast<std::size_t>(2 * channels));
  batch_sums<T>(a, sums.data());
  for (int64_t c = 0; c < channels; ++c) {
    if (a.gw) out<T>(a.gw)[c] = static_cast<T>(sums[c] * static_cast<double>(rstd[c]));
    if (a.gb) out<T>(a.gb)[c] = static_cast<T>(sums[channels + c]);
  }
  if (!a.gx) return;
  std::vector<T> scale(static_cast<std::size_t>(channels)),
      first(static_cast<std::size_t>(channels)), second(static_cast<std::size_t>(channels));
  for (int64_t c = 0; c < channels; ++c) {
    const double r = static_cast<double>(rstd[c]);
    scale[c] = w ? rstd[c] * w[c] : rstd[c];
    first[c] = a.training ? static_cast<T>(sums[channels + c] / count) : T(0);
    second[c] = a.training ? static_cast<T>(r * r * sums[c] / count) : T(0);
  }
  batch_grad<T>(a, scale.data(), first.data(), second.data());
}

void row_forward(DType t, const RowNorm& a) {
  t == DType::Float32 ? forward_rows<float>(a) : forward_rows<double>(a);
}
void row_backward(DType t, const RowNorm& a) {
  t == DType::Float32 ? backward_rows<float>(a) : backward_rows<double>(a);
}
void channel_stats(const abi::TensorIn& x, double* mean, double* squares) {
  if (x.dtype == DType::Float32)
    batch_stats(x.as<float>(), x.sizes[0], x.sizes[1], x.sizes[2], mean, squares);
  else
    batch_stats(x.as<double>(), x.sizes[0], x.sizes[1], x.sizes[2], mean, squares);
}
void channel_forward(DType t, const BatchNorm& a) {
  t == DType::Float32 ? batch_forward<float>(a) : batch_forward<double>(a);
}
void channel_backward(DType t, const BatchNorm& a) {
  t == DType::Float32 ? batch_backward<float>(a) : batch_backward<double>(a);
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(row_forward);
HWY_EXPORT(row_backward);
HWY_EXPORT(channel_stats);
HWY_EXPORT(channel_forward);
HWY_EXPORT(channel_backward);
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

/// Null, or `count` contiguous values of x's dtype.
bool vector_of(const TensorIn& t, const TensorIn& x, int64_t count) {
  return !t.data || (t.dtype == x.dtype && t.numel() == count && t.contiguous());
}
template <class... V>
bool vectors_of(const TensorIn& x, int64_t count, const V&... t) {
  return (... && vector_of(t, x, count));
}

Status check(const TensorIn& x, int64_t n, bool fits) {
  if (x.dtype != DType::Float32 && x.dtype != DType::Float64)
    return abi::unsupported("needs float32 or float64");
  if (n < 0 || !x.contiguous() || (n && x.numel() % n) || !fits)
    return abi::failed("tensors must be contiguous, of one dtype, and of fitting sizes");
  return abi::ok();
}
void zero(const TensorOut& y) {
  if (y.data) std::fill_n(y.as<char>(), y.numel() * item_size(y.dtype), 0);
}

int64_t rows_of(const NormInputs& in) { return in.n > 0 ? in.x.numel() / in.n : 0; }
RowNorm rows(const NormInputs& in) {
  return {.rows = rows_of(in),
          .n = in.n,
          .x = in.x.data,
          .w = in.weight.data,
          .b = in.bias.data,
          .eps = in.eps};
}

/// Layer norm where mean is an array, RMS norm where its data is null.
Status norm_forward(const NormInputs& in, const TensorOut& y, const TensorOut& mean,
                    const TensorOut& rstd) {
  const bool fits = vectors_of(in.x, in.n, in.weight, in.bias) &&
                    vectors_of(in.x, rows_of(in), mean, rstd) && vector_of(y, in.x, in.x.numel());
  if (Status s = check(in.x, in.n, fits); s.code) return s;
  RowNorm a = rows(in);
  if (a.rows == 0) return abi::ok();
  a.mean = mean.as<void>(), a.rstd = rstd.as<void>(), a.y = y.as<void>();
  HWY_DYNAMIC_DISPATCH(row_forward)(in.x.dtype, a);
  return abi::ok();
}
Status norm_backward(const TensorIn& g, const NormInputs& in, const TensorIn& mean,
                     const TensorIn& rstd, const NormGradients& out) {
  const bool fits = vectors_of(in.x, in.n, in.weight, out.weight, out.bias) &&
                    vectors_of(in.x, rows_of(in), mean, rstd) &&
                    vectors_of(in.x, in.x.numel(), g, out.x);
  if (Status s = check(in.x, in.n, fits); s.code) return s;
  RowNorm a = rows(in);
  if (a.rows == 0) return zero(out.weight), zero(out.bias), abi::ok();
  a.g = g.data, a.mean = const_cast<void*>(mean.data), a.rstd = const_cast<void*>(rstd.data);
  a.gx = out.x.as<void>(), a.gw = out.weight.as<void>(), a.gb = out.bias.as<void>();
  HWY_DYNAMIC_DISPATCH(row_backward)(in.x.dtype, a);
  return abi::ok();
}
NormInputs without_bias(NormInputs in) { return in.bias = {}, in; }

Status layer_forward(const KernelContext&, const NormInputs& in, const TensorOut& y,
                     const TensorOut& mean, const TensorOut& rstd) {
  return norm_forward(in, y, mean, rstd);
}
Status layer_backward(const KernelContext&, const TensorIn& g, const NormInputs& in,
                      const TensorIn& mean, const TensorIn& rstd, const NormGradients& out) {
  return norm_backward(g, in, mean, rstd, out);
}
Status rms_forward(const KernelContext&, const NormInputs& in, const TensorOut& y,
                   const TensorOut& rstd) {
  return norm_forward(without_bias(in), y, {}, rstd);
}
Status rms_backward(const KernelContext&, const TensorIn& g, const NormInputs& in,
                    const TensorIn& rstd, const NormGradients& out) {
  return norm_backward(g, without_bias(in), {}, rstd, {out.x, out.weight, {}});
}

/// x as [batch, channels, positions]; the sizes behind the second are one.
TensorIn as_planes(const TensorIn& x) {
  TensorIn p = x;
  int64_t s = 1;
  for (int i = 2; i < x.ndim; ++i) s *= x.sizes[i];
  p.ndim = 3;
  p.sizes[2] = s;
  p.strides[0] = x.sizes[1] * s, p.strides[1] = s, p.strides[2] = 1;
  return p;
}
Status check_planes(const TensorIn& x, bool fits) { return check(x, 1, x.ndim >= 2 && fits); }

Status batch_stats(const KernelContext&, const TensorIn& x, double eps, const TensorOut& mean,
                   const TensorOut& var, const TensorOut& rstd) {
  if (Status s = check_planes(x, vectors_of(x, x.sizes[1], mean, var, rstd)); s.code) return s;
  const TensorIn p = as_planes(x);
  const int64_t channels = p.sizes[1];
  const double count = static_cast<double>(p.sizes[0] * p.sizes[2]);
  std::vector<double> m(static_cast<std::size_t>(channels)), v(static_cast<std::size_t>(channels));
  if (p.sizes[2] < 16)
    moments(p, 0b101, m.data(), v.data());  // vectors along the channels, or nothing much to gain
  else
    HWY_DYNAMIC_DISPATCH(channel_stats)(p, m.data(), v.data());
  for (int64_t c = 0; c < channels; ++c) {
    const double values[3] = {m[c], v[c] / count, 1 / std::sqrt(v[c] / count + eps)};
    const TensorOut* to[3] = {&mean, &var, &rstd};
    for (int k = 0; k < 3; ++k) {
      if (!to[k]->data) continue;
      if (x.dtype == DType::Float32)
        to[k]->as<float>()[c] = static_cast<float>(values[k]);
      else
        to[k]->as<double>()[c] = values[k];
    }
  }
  return abi::ok();
}

BatchNorm planes(const BatchNormInputs& in) {
  const TensorIn p = as_planes(in.x);
  return {.batch = p.sizes[0],
          .channels = p.sizes[1],
          .positions = p.sizes[2],
          .x = in.x.data,
          .mean = in.mean.data,
          .rstd = in.rstd.data,
          .w = in.weight.data,
          .b = in.bias.data,
          .training = in.training};
}

Status batch_forward_cpu(const KernelContext&, const BatchNormInputs& in, const TensorOut& y) {
  const bool fits = vectors_of(in.x, in.x.sizes[1], in.mean, in.rstd, in.weight, in.bias) &&
                    vector_of(y, in.x, in.x.numel());
  if (Status s = check_planes(in.x, fits); s.code) return s;
  if (in.x.numel() == 0) return abi::ok();
  BatchNorm a = planes(in);
  a.y = y.as<void>();
  HWY_DYNAMIC_DISPATCH(channel_forward)(in.x.dtype, a);
  return abi::ok();
}

Status batch_backward_cpu(const KernelContext&, const TensorIn& g, const BatchNormInputs& in,
                          const NormGradients& out) {
  const bool fits =
      vectors_of(in.x, in.x.sizes[1], in.mean, in.rstd, in.weight, out.weight, out.bias) &&
      vectors_of(in.x, in.x.numel(), g, out.x);
  if (Status s = check_planes(in.x, fits); s.code) return s;
  if (in.x.numel() == 0) return zero(out.weight), zero(out.bias), abi::ok();
  BatchNorm a = planes(in);
  a.g = g.data;
  a.gx = out.x.as<void>(), a.gw = out.weight.as<void>(), a.gb = out.bias.as<void>();
  HWY_DYNAMIC_DISPATCH(channel_backward)(in.x.dtype, a);
  return abi::ok();
}

}  // namespace

void provide_norm_cpu(abi::KernelTable& t) {
  t.provide<layer_norm_forward>(&layer_forward);
  t.provide<layer_norm_backward>(&layer_backward);
  t.provide<rms_norm_forward>(&rms_forward);
  t.provide<rms_norm_backward>(&rms_backward);
  t.provide<batch_norm_stats>(&batch_stats);
  t.provide<batch_norm_forward>(&batch_forward_cpu);
  t.provide<batch_norm_backward>(&batch_backward_cpu);
}

}  // namespace dropin::kernels
#endif
