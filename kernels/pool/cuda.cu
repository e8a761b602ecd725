// Pooling: a thread per output, or per input in the gradients of averages. The gradient of a
// maximum is added atomically: windows may share their maximum.
#include "kernels/cuda/device.h"
#include "kernels/pool/kernel.h"

namespace dropin::kernels::cuda {
namespace {

struct Sizes {
  int64_t planes, H, W, P, Q;
  int64_t in() const { return planes * H * W; }
  int64_t out() const { return planes * P * Q; }
};
Status check(const TensorIn& x, const TensorIn& y, Sizes& s) {
  if (x.ndim != 4 || y.ndim != 4 || x.sizes[0] != y.sizes[0] || x.sizes[1] != y.sizes[1])
    return abi::failed("pool2d: sizes do not fit");
  if (x.dtype != y.dtype || !x.contiguous() || !y.contiguous())
    return abi::unsupported("pool2d: arrays must be contiguous and of one type");
  s = {x.sizes[0] * x.sizes[1], x.sizes[2], x.sizes[3], y.sizes[2], y.sizes[3]};
  return abi::ok();
}
#define GRID_LOOP(i, n)                                                                  \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)

template <class T>
__global__ void max_kernel(Sizes s, PoolGeometry g, const T* x, T* y, int64_t* index) {
  GRID_LOOP(i, s.planes * s.P * s.Q) {
    const int64_t q = i % s.Q, p = i / s.Q % s.P, u = i / (s.Q * s.P);
    const T* in = x + u * s.H * s.W;
    T best = sizeof(T) == 4 ? T(bits_float(static_cast<int>(0xff800000)))
                            : T(bits_double(static_cast<long long>(0xfff0000000000000ull)));
    int64_t at = -1;
    for (int64_t a = 0; a < g.kernel[0]; ++a) {
      const int64_t h = p * g.stride[0] - g.padding[0] + a * g.dilation[0];
      if (h < 0 || h >= s.H) continue;
      for (int64_t b = 0; b < g.kernel[1]; ++b) {
        const int64_t w = q * g.stride[1] - g.padding[1] + b * g.dilation[1];
        if (w < 0 || w >= s.W) continue;
        const T v = in[h * s.W + w];
        if (at < 0 || (!(v <= best) && best == best)) best = v, at = h * s.W + w;
      }
    }
    y[i] = best;
    index[i] = at;
  }
}
template <class T>
__global__ void max_grad_kernel(Sizes s, const T* gy, const int64_t* index, T* gx) {
  GRID_LOOP(i, s.planes * s.P * s.Q) {
    if (index[i] >= 0) atomicAdd(gx + i / (s.P * s.Q) * s.H * s.W + index[i], gy[i]);
  }
}

struct Window {
  int64_t begin, end, cells;
};
__device__ inline Window window(int64_t p, int64_t in, int64_t kernel, int64_t stride,
                                int64_t padding, bool include_pad) {
  const int64_t from = p * stride - padding,
                to = from + kernel < in + padding ? from + kernel : in + padding;
  const int64_t begin = from > 0 ? from : 0, end = to < in ? to : in;
  return {begin, end > begin ? end : begin,
          include_pad ? to - from : (end > begin ? end - begin : 0)};
}
__device__ inline int64_t divisor(const PoolGeometry& g, const Window& h, const Window& w) {
  const int64_t n = g.divisor_override ? g.divisor_override : h.cells * w.cells;
  return n ? n : 1;
}
template <class T>
__global__ void avg_kernel(Sizes s, PoolGeometry g, const T* x, T* y) {
  GRID_LOOP(i, s.planes * s.P * s.Q) {
    const int64_t q = i % s.Q, p = i / s.Q % s.P, u = i / (s.Q * s.P);
    const Window h = window(p, s.H, g.kernel[0], g.stride[0], g.padding[0], g.count_include_pad),
                 w = window(q, s.W, g.kernel[1], g.stride[1], g.padding[1], g.count_include_pad);
    T sum = 0;
    for (int64_t a = h.begin; a < h.end; ++a)
      for (int64_t b = w.begin; b < w.end; ++b) sum += x[(u * s.H + a) * s.W + b];
    y[i] = sum / static_cast<T>(divisor(g, h, w));
  }
}
template <class T>
__global__ void avg_grad_kernel(Sizes s, PoolGeometry g, const T* gy, T* gx) {
  GRID_LOOP(i, s.planes * s.H * s.W) {
    const int64_t b = i % s.W, a = i / s.W % s.H, u = i / (s.W * s.H);
    auto first = [](int64_t at, int64_t kernel, int64_t stride, int64_t padding) {
      const int64_t v = at + padding - kernel + 1;
      return v <= 0 ? 0 : ceil_div(v, stride);
    };
    T sum = 0;
    for (int64_t p = first(a, g.kernel[0], g.stride[0], g.padding[0]);
         p < s.P && p * g.stride[0] - g.padding[0] <= a; ++p)
      for (int64_t q = first(b, g.kernel[1], g.stride[1], g.padding[1]);
           q < s.Q && q * g.stride[1] - g.padding[1] <= b; ++q) {
        const Window h = window(p, s.H, g.kernel[0], g.stride[0], g.padding[0],
                                g.count_include_pad),
                     w = window(q, s.W, g.kernel[1], g.stride[1], g.padding[1],
                                g.count_include_pad);
        sum += gy[(u * s.P + p) * s.Q + q] / static_cast<T>(divisor(g, h, w));
      }
    gx[i] = sum;
  }
}
__device__ inline int64_t adaptive_begin(int64_t p, int64_t in, int64_t out) {
  return p * in / out;
}
__device__ inline int64_t adaptive_end(int64_t p, int64_t in, int64_t out) {
  return ceil_div((p + 1) * in, out);
}
template <class T>
__global__ void adaptive_kernel(Sizes s, const T* x, T* y) {
  GRID_LOOP(i, s.planes * s.P * s.Q) {
    const int64_t q = i % s.Q, p = i / s.Q % s.P, u = i / (s.Q * s.P);
    const int64_t h0 = adaptive_begin(p, s.H, s.P), h1 = adaptive_end(p, s.H, s.P),
                  w0 = adaptive_begin(q, s.W, s.Q), w1 = adaptive_end(q, s.W, s.Q);
    T sum = 0;
    for (int64_t a = h0; a < h1; ++a)
      for (int64_t b = w0; b < w1; ++b) sum += x[(u * s.H + a) * s.W + b];
    y[i] = sum / static_cast<T>((h1 - h0) * (w1 - w0));
  }
}
template <class T>
__global__ void adaptive_grad_kernel(Sizes s, const T* gy, T* gx) {
  GRID_LOOP(i, s.planes * s.H * s.W) {
    const int64_t b = i % s.W, a = i / s.W % s.H, u = i / (s.W * s.H);
    T sum = 0;
    for (int64_t p = a * s.P / s.H; p < s.P && adaptive_begin(p, s.H, s.P) <= a; ++p) {
      const int64_t h0 = adaptive_begin(p, s.H, s.P), h1 = adaptive_end(p, s.H, s.P);
      if (a >= h1) continue;
      for (int64_t q = b * s.Q / s.W; q < s.Q && adaptive_begin(q, s.W, s.Q) <= b; ++q) {
        const int64_t w0 = adaptive_begin(q, s.W, s.Q), w1 = adaptive_end(q, s.W, s.Q);
        if (b < w1) sum += gy[(u * s.P + p) * s.Q + q] / static_cast<T>((h1 - h0) * (w1 - w0));
      }
    }
    gx[i] = sum;
  }
}

#define LAUNCH(KERNEL, N, ...)                                                            \
  visit_real(x.dtype, [&](auto zero) {                                                    \
    using T = decltype(zero);                                                             \
    return launch(c, &KERNEL<T>, dim3(blocks_for(c, N, 256)), dim3(256), 0, __VA_ARGS__); \
  })

Status max_forward(const KernelContext& c, const TensorIn& x, const PoolGeometry& g,
                   const TensorOut& y, const TensorOut& index) {
  Sizes s;
  DROPIN_TRY(check(x, y, s));
  return LAUNCH(max_kernel, s.out(), s, g, x.as<T>(), y.as<T>(), index.as<int64_t>());
}
Status max_backward(const KernelContext& c, const TensorIn& x, const TensorIn& index,
                    const TensorOut& gx) {
  Sizes s;
  DROPIN_TRY(check(gx, x, s));
  if (gx.numel())
    DROPIN_TRY(checked(
        cudaMemsetAsync(gx.as<void>(), 0,
                        static_cast<std::size_t>(gx.numel() * item_bytes(gx.dtype)), stream_of(c)),
        c));
  return LAUNCH(max_grad_kernel, s.out(), s, x.as<T>(), index.as<int64_t>(), gx.as<T>());
}
Status avg_forward(const KernelContext& c, const TensorIn& x, const PoolGeometry& g,
                   const TensorOut& y) {
  Sizes s;
  DROPIN_TRY(check(x, y, s));
  return LAUNCH(avg_kernel, s.out(), s, g, x.as<T>(), y.as<T>());
}
Status avg_backward(const KernelContext& c, const TensorIn& x, const PoolGeometry& g,
                    const TensorOut& gx) {
  Sizes s;
  DROPIN_TRY(check(gx, x, s));
  return LAUNCH(avg_grad_kernel, s.in(), s, g, x.as<T>(), gx.as<T>());
}
Status adaptive_forward(const KernelContext& c, const TensorIn& x, const TensorOut& y) {
  Sizes s;
  DROPIN_TRY(check(x, y, s));
  return LAUNCH(adaptive_kernel, s.out(), s, x.as<T>(), y.as<T>());
}
Status adaptive_backward(const KernelContext& c, const TensorIn& x, const TensorOut& gx) {
  Sizes s;
  DROPIN_TRY(check(gx, x, s));
  return LAUNCH(adaptive_grad_kernel, s.in(), s, x.as<T>(), gx.as<T>());
}

}  // namespace

void provide_pool(KernelTable& t) {
  provide<max_pool2d_forward, &max_forward>(t);
  provide<max_pool2d_backward, &max_backward>(t);
  provide<avg_pool2d_forward, &avg_forward>(t);
  provide<avg_pool2d_backward, &avg_backward>(t);
  provide<adaptive_avg_pool2d_forward, &adaptive_forward>(t);
  provide<adaptive_avg_pool2d_backward, &adaptive_backward>(t);
}

}  // namespace dropin::kernels::cuda
