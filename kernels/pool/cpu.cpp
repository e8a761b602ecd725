// Pooling: one plane (an image's channel) at a time, an output row at a time, taps outermost so
// that the loops over a row become vector code.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "dropin/core/parallel.h"
#include "kernels/hd.h"
#include "kernels/pool/kernel.h"
#include "src/cpu/scratch.h"

namespace dropin::kernels {
namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

struct Sizes {
  int64_t planes, H, W, P, Q;
};

Status check(const TensorIn& x, const TensorIn& y, Sizes& s) {
  if (x.ndim != 4 || y.ndim != 4 || x.sizes[0] != y.sizes[0] || x.sizes[1] != y.sizes[1])
    return abi::failed("pool2d: sizes do not fit");
  if (x.dtype != y.dtype || (x.dtype != DType::Float32 && x.dtype != DType::Float64))
    return abi::unsupported("pool2d: no kernel for these types; there are float32 and float64");
  if (!x.contiguous() || !y.contiguous())
    return abi::unsupported("pool2d: arrays must be contiguous");
  s = {x.sizes[0] * x.sizes[1], x.sizes[2], x.sizes[3], y.sizes[2], y.sizes[3]};
  return abi::ok();
}

Status check(const PoolGeometry& g) {
  for (int i = 0; i < 2; ++i)
    if (g.kernel[i] < 1 || g.stride[i] < 1 || g.dilation[i] < 1 || g.padding[i] < 0)
      return abi::failed("pool2d: geometry out of range");
  return abi::ok();
}

/// f(plane) for all of them, in parallel; `work` is the operations of one.
template <class F>
void each_plane(int64_t planes, int64_t work, F&& f) {
  parallel_for(planes, std::max<int64_t>(1, (1 << 17) / std::max<int64_t>(1, work)),
               [&](int64_t u, int64_t end) {
                 for (; u < end; ++u) f(u);
               });
}

/// Output positions [first, last) whose tap, at `offset` from stride * position, falls inside [0,
/// in).
void inside(int64_t out, int64_t in, int64_t stride, int64_t offset, int64_t& first,
            int64_t& last) {
  first = offset < 0 ? std::min(out, ceil_div(-offset, stride)) : 0;
  last = in > offset ? std::min(out, (in - 1 - offset) / stride + 1) : 0;
  last = std::max(first, last);
}

/// The window of output position p along one axis: [begin, end) inside the input, and its cells
/// inside input plus padding (the part of a divisor).
struct Window {
  int64_t begin, end, cells;
};

Window window(int64_t p, int64_t in, int64_t kernel, int64_t stride, int64_t padding,
              bool include_pad) {
  const int64_t b = p * stride - padding, e = std::min(b + kernel, in + padding);
  const int64_t begin = std::max<int64_t>(b, 0), end = std::max(begin, std::min(e, in));
  return {begin, end, std::max<int64_t>(0, include_pad ? e - b : end - begin)};
}

/// best[q], at[q]: replaced where v[q * stride] is greater, or the first NaN. `stride` is a
/// constant where that lets the loop become vector code.
template <class T, class I>
void take_greater(const T* __restrict v, int64_t stride, I position, int64_t first, int64_t last,
                  T* __restrict best, I* __restrict at) {
  auto run = [=](auto step) {
    const I move = static_cast<I>(step), from = static_cast<I>(first), to = static_cast<I>(last);
    for (I q = from; q < to; ++q) {
      const T x = v[q * step], old = best[q];
      const I here = position + q * move, there = at[q];
      const bool keep = (x <= old) | (old != old);
      best[q] = keep ? old : x;
      at[q] = keep ? there : here;
    }
  };
  if (stride == 1)
    run(std::integral_constant<int64_t, 1>{});
  else if (stride == 2)
    run(std::integral_constant<int64_t, 2>{});
  else
    run(stride);
}

/// I: an integer of T's width where positions fit in it.
template <class I, class T>
void max_forward(const Sizes& s, const PoolGeometry& g, const T* x, T* y, int64_t* index) {
  each_plane(s.planes, s.P * s.Q * g.kernel[0] * g.kernel[1] * 2, [&](int64_t u) {
    const T* in = x + u * s.H * s.W;
    const cpu::Scratch<I> at(s.Q);
    for (int64_t p = 0; p < s.P; ++p) {
      T* const out = y + (u * s.P + p) * s.Q;
      // A window begins with its first cell inside the image; one wholly outside has -inf and -1.
      const int64_t h0 = p * g.stride[0] - g.padding[0],
                    top = h0 < 0 ? h0 + ceil_div(-h0, g.dilation[0]) * g.dilation[0] : h0;
      for (int64_t q = 0; q < s.Q; ++q) {
        const int64_t w0 = q * g.stride[1] - g.padding[1],
                      left = w0 < 0 ? w0 + ceil_div(-w0, g.dilation[1]) * g.dilation[1] : w0;
        const bool any = top < std::min(s.H, h0 + g.kernel[0] * g.dilation[0]) &&
                         left < std::min(s.W, w0 + g.kernel[1] * g.dilation[1]);
        out[q] = any ? in[top * s.W + left] : -kInf<T>;
        at[q] = any ? static_cast<I>(top * s.W + left) : I(-1);
      }
      for (int64_t i = 0; i < g.kernel[0]; ++i) {
        const int64_t h = h0 + i * g.dilation[0];
        if (h < 0 || h >= s.H) continue;
        for (int64_t j = 0; j < g.kernel[1]; ++j) {
          const int64_t dx = j * g.dilation[1] - g.padding[1];
          int64_t first, last;
          inside(s.Q, s.W, g.stride[1], dx, first, last);
          take_greater(in + h * s.W + dx, g.stride[1], static_cast<I>(h * s.W + dx), first, last,
                       out, at.data());
        }
      }
      std::copy_n(at.data(), s.Q, index + (u * s.P + p) * s.Q);
    }
  });
}

template <class T>
void max_backward(const Sizes& s, const T* gy, const int64_t* index, T* gx) {
  each_plane(s.planes, s.P * s.Q * 2 + s.H * s.W, [&](int64_t u) {
    T* in = gx + u * s.H * s.W;
    std::fill_n(in, s.H * s.W, T(0));
    for (int64_t k = u * s.P * s.Q; k < (u + 1) * s.P * s.Q; ++k)
      if (index[k] >= 0) in[index[k]] += gy[k];
  });
}

/// The divisor of every window.
template <class T>
cpu::Scratch<T> divisors(const Sizes& s, const PoolGeometry& g) {
  cpu::Scratch<T> w(s.P * s.Q);
  for (int64_t p = 0; p < s.P; ++p) {
    const int64_t rows =
        window(p, s.H, g.kernel[0], g.stride[0], g.padding[0], g.count_include_pad).cells;
    for (int64_t q = 0; q < s.Q; ++q) {
      const int64_t cells = g.divisor_override ? g.divisor_override
                                               : rows * window(q, s.W, g.kernel[1], g.stride[1],
                                                               g.padding[1], g.count_include_pad)
                                                            .cells;
      w[p * s.Q + q] = static_cast<T>(cells ? cells : 1);  // a window without cells sums nothing
    }
  }
  return w;
}

template <class T>
void avg_forward(const Sizes& s, const PoolGeometry& g, const T* x, T* y) {
  const cpu::Scratch<T> w = divisors<T>(s, g);
  each_plane(s.planes, s.P * s.Q * g.kernel[0] * g.kernel[1], [&](int64_t u) {
    const T* in = x + u * s.H * s.W;
    cpu::Scratch<T> line(s.W);
    for (int64_t p = 0; p < s.P; ++p) {
      const Window rows = window(p, s.H, g.kernel[0], g.stride[0], g.padding[0], true);
      std::fill_n(line.data(), s.W, T(0));
      for (int64_t h = rows.begin; h < rows.end; ++h)
        for (int64_t k = 0; k < s.W; ++k) line[k] += in[h * s.W + k];
      T* const out = y + (u * s.P + p) * s.Q;
      std::fill_n(out, s.Q, T(0));
      for (int64_t j = 0; j < g.kernel[1]; ++j) {
        const int64_t dx = j - g.padding[1];
        int64_t first, last;
        inside(s.Q, s.W, g.stride[1], dx, first, last);
        const T* row = line.data() + dx;
        if (g.stride[1] == 1)
          for (int64_t q = first; q < last; ++q) out[q] += row[q];
        else
          for (int64_t q = first; q < last; ++q) out[q] += row[q * g.stride[1]];
      }
      for (int64_t q = 0; q < s.Q; ++q) out[q] /= w[p * s.Q + q];
    }
  });
}

template <class T>
void avg_backward(const Sizes& s, const PoolGeometry& g, const T* gy, T* gx) {
  const cpu::Scratch<T> w = divisors<T>(s, g);
  each_plane(s.planes, s.P * s.Q * g.kernel[0] * g.kernel[1] + s.H * s.W, [&](int64_t u) {
    T* in = gx + u * s.H * s.W;
    std::fill_n(in, s.H * s.W, T(0));
    cpu::Scratch<T> line(s.W);
    for (int64_t p = 0; p < s.P; ++p) {
      const T *out = gy + (u * s.P + p) * s.Q, *scale = w.data() + p * s.Q;
      std::fill_n(line.data(), s.W, T(0));
      for (int64_t j = 0; j < g.kernel[1]; ++j) {
        const int64_t dx = j - g.padding[1];
        int64_t first, last;
        inside(s.Q, s.W, g.stride[1], dx, first, last);
        T* row = line.data() + dx;
        for (int64_t q = first; q < last; ++q) row[q * g.stride[1]] += out[q] / scale[q];
      }
      const Window rows = window(p, s.H, g.kernel[0], g.stride[0], g.padding[0], true);
      for (int64_t h = rows.begin; h < rows.end; ++h)
        for (int64_t k = 0; k < s.W; ++k) in[h * s.W + k] += line[k];
    }
  });
}

/// Adaptive windows: floor(p in / out) .. ceil((p + 1) in / out).
Window adaptive(int64_t p, int64_t in, int64_t out) {
  const int64_t b = p * in / out, e = ceil_div((p + 1) * in, out);
  return {b, e, e - b};
}

template <class T>
T sum_of(const T* v, int64_t n) {
  constexpr int kLanes = 64 / sizeof(T);
  T lanes[kLanes] = {}, total = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) lanes[k] += v[i + k];
  for (; i < n; ++i) total += v[i];
  for (T lane : lanes) total += lane;
  return total;
}

template <class T>
void adaptive_forward(const Sizes& s, const T* x, T* y) {
  each_plane(s.planes, s.H * s.W + s.P * s.Q, [&](int64_t u) {
    const T* in = x + u * s.H * s.W;
    T* out = y + u * s.P * s.Q;
    if (s.P == 1 && s.Q == 1) {
      *out = sum_of(in, s.H * s.W) / static_cast<T>(s.H * s.W);
      return;
    }
    for (int64_t p = 0; p < s.P; ++p) {
      const Window rows = adaptive(p, s.H, s.P);
      for (int64_t q = 0; q < s.Q; ++q) {
        const Window cols = adaptive(q, s.W, s.Q);
        T sum = 0;
        for (int64_t h = rows.begin; h < rows.end; ++h)
          sum += sum_of(in + h * s.W + cols.begin, cols.cells);
        *out++ = sum / static_cast<T>(rows.cells * cols.cells);
      }
    }
  });
}

template <class T>
void adaptive_backward(const Sizes& s, const T* gy, T* gx) {
  each_plane(s.planes, s.H * s.W + s.P * s.Q, [&](int64_t u) {
    T* in = gx + u * s.H * s.W;
    const T* out = gy + u * s.P * s.Q;
    std::fill_n(in, s.H * s.W, T(0));
    for (int64_t p = 0; p < s.P; ++p) {
      const Window rows = adaptive(p, s.H, s.P);
      for (int64_t q = 0; q < s.Q; ++q) {
        const Window cols = adaptive(q, s.W, s.Q);
        const T share = *out++ / static_cast<T>(rows.cells * cols.cells);
        for (int64_t h = rows.begin; h < rows.end; ++h)
          for (int64_t k = cols.begin; k < cols.end; ++k) in[h * s.W + k] += share;
      }
    }
  });
}

bool is_index(const TensorIn& index, const TensorIn& y) {
  bool same = index.dtype == DType::Int64 && index.ndim == y.ndim && index.contiguous();
  for (int i = 0; same && i < y.ndim; ++i) same = index.sizes[i] == y.sizes[i];
  return same;
}

Status max_forward_cpu(const abi::KernelContext&, const TensorIn& x, const PoolGeometry& g,
                       const TensorOut& y, const TensorOut& index) {
  Sizes s;
  if (Status st = check(x, y, s); st.code) return st;
  if (Status st = check(g); st.code) return st;
  if (!is_index(index, y))
    return abi::failed("max_pool2d: the index must be int64 of the output's shape");
  if (x.dtype == DType::Float64)
    max_forward<int64_t>(s, g, x.as<double>(), y.as<double>(), index.as<int64_t>());
  else if (s.H * s.W > std::numeric_limits<std::int32_t>::max())
    max_forward<int64_t>(s, g, x.as<float>(), y.as<float>(), index.as<int64_t>());
  else
    max_forward<std::int32_t>(s, g, x.as<float>(), y.as<float>(), index.as<int64_t>());
  return abi::ok();
}

Status max_backward_cpu(const abi::KernelContext&, const TensorIn& gy, const TensorIn& index,
                        const TensorOut& gx) {
  Sizes s;
  if (Status st = check(gx, gy, s); st.code) return st;
  if (!is_index(index, gy))
    return abi::failed("max_pool2d: the index must be int64 of the output's shape");
  const int64_t n = s.planes * s.P * s.Q, area = s.H * s.W;
  for (int64_t i = 0; i < n; ++i)
    if (index.as<int64_t>()[i] < -1 || index.as<int64_t>()[i] >= area)
      return abi::out_of_range("index out of range");
  if (gy.dtype == DType::Float64)
    max_backward(s, gy.as<double>(), index.as<int64_t>(), gx.as<double>());
  else
    max_backward(s, gy.as<float>(), index.as<int64_t>(), gx.as<float>());
  return abi::ok();
}

Status avg_forward_cpu(const abi::KernelContext&, const TensorIn& x, const PoolGeometry& g,
                       const TensorOut& y) {
  Sizes s;
  if (Status st = check(x, y, s); st.code) return st;
  if (Status st = check(g); st.code) return st;
  if (x.dtype == DType::Float64)
    avg_forward(s, g, x.as<double>(), y.as<double>());
  else
    avg_forward(s, g, x.as<float>(), y.as<float>());
  return abi::ok();
}

Status avg_backward_cpu(const abi::KernelContext&, const TensorIn& gy, const PoolGeometry& g,
                        const TensorOut& gx) {
  Sizes s;
  if (Status st = check(gx, gy, s); st.code) return st;
  if (Status st = check(g); st.code) return st;
  if (gy.dtype == DType::Float64)
    avg_backward(s, g, gy.as<double>(), gx.as<double>());
  else
    avg_backward(s, g, gy.as<float>(), gx.as<float>());
  return abi::ok();
}

Status adaptive_forward_cpu(const abi::KernelContext&, const TensorIn& x, const TensorOut& y) {
  Sizes s;
  if (Status st = check(x, y, s); st.code) return st;
  if (s.planes * s.P * s.Q == 0) return abi::ok();
  if (s.H == 0 || s.W == 0) return abi::failed("adaptive_avg_pool2d: empty image");
  if (x.dtype == DType::Float64)
    adaptive_forward(s, x.as<double>(), y.as<double>());
  else
    adaptive_forward(s, x.as<float>(), y.as<float>());
  return abi::ok();
}

Status adaptive_backward_cpu(const abi::KernelContext&, const TensorIn& gy, const TensorOut& gx) {
  Sizes s;
  if (Status st = check(gx, gy, s); st.code) return st;
  if (gy.dtype == DType::Float64)
    adaptive_backward(s, gy.as<double>(), gx.as<double>());
  else
    adaptive_backward(s, gy.as<float>(), gx.as<float>());
  return abi::ok();
}

}  // namespace

void provide_pool_cpu(abi::KernelTable& t) {
  t.provide<max_pool2d_forward>(&max_forward_cpu);
  t.provide<max_pool2d_backward>(&max_backward_cpu);
  t.provide<avg_pool2d_forward>(&avg_forward_cpu);
  t.provide<avg_pool2d_backward>(&avg_backward_cpu);
  t.provide<adaptive_avg_pool2d_forward>(&adaptive_forward_cpu);
  t.provide<adaptive_avg_pool2d_backward>(&adaptive_backward_cpu);
}

}  // namespace dropin::kernels
