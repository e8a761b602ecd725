// Convolution. Dense: unfolded to columns in chunks of the batch, then products by cuBLASLt (or the
// product kernels beside it); the gradient of the input folds the columns back, a thread per pixel,
// so that its sums have one order. Grouped with few channels a group, and small ones: a thread per
// result. Depthwise and MixConv: a thread per output that walks its window, all runs of channels in
// one launch; weight gradients by a block per channel and part of the batch, whose parts are added
// in order.
#include "kernels/conv/kernel.h"
#include "kernels/cuda/device.h"
#include "kernels/gemm/kernel.h"

namespace dropin::kernels::cuda {

Status product_f(const KernelContext& c, const TensorIn& a, const TensorIn& b, double beta,
                 const TensorOut& y);  // kernels/gemm/cuda.cu

namespace {

struct Conv {
  int64_t B, C, H, W, O, P, Q, kh, kw, Cg, Og;
  ConvGeometry g;
};
Status describe(const TensorIn& x, const TensorIn& w, const TensorIn& y, const ConvGeometry& g,
                Conv& s) {
  if (x.ndim != 4 || w.ndim != 4 || y.ndim != 4 || !x.contiguous() || !w.contiguous() ||
      !y.contiguous() || x.dtype != w.dtype || x.dtype != y.dtype || g.groups < 1 ||
      x.sizes[0] != y.sizes[0] || w.sizes[0] != y.sizes[1] || w.sizes[1] * g.groups != x.sizes[1] ||
      w.sizes[0] % g.groups)
    return abi::failed("conv2d: arrays do not fit");
  s = {x.sizes[0],
       x.sizes[1],
       x.sizes[2],
       x.sizes[3],
       w.sizes[0],
       y.sizes[2],
       y.sizes[3],
       w.sizes[2],
       w.sizes[3],
       w.sizes[1],
       w.sizes[0] / g.groups,
       g};
  return abi::ok();
}
#define GRID_LOOP(i, n)                                                                  \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)

template <class T>
__global__ void forward_kernel(Conv s, const T* x, const T* w, const T* bias, T* y) {
  GRID_LOOP(i, s.B * s.O * s.P * s.Q) {
    const int64_t q = i % s.Q, p = i / s.Q % s.P, o = i / (s.Q * s.P) % s.O,
                  b = i / (s.Q * s.P * s.O), c0 = o / s.Og * s.Cg;
    T sum = bias ? bias[o] : T(0);
    for (int64_t c = 0; c < s.Cg; ++c) {
      const T* in = x + (b * s.C + c0 + c) * s.H * s.W;
      const T* f = w + (o * s.Cg + c) * s.kh * s.kw;
      for (int64_t u = 0; u < s.kh; ++u) {
        const int64_t h = p * s.g.stride[0] - s.g.pad_begin[0] + u * s.g.dilation[0];
        if (h < 0 || h >= s.H) continue;
        for (int64_t v = 0; v < s.kw; ++v) {
          const int64_t k = q * s.g.stride[1] - s.g.pad_begin[1] + v * s.g.dilation[1];
          if (k >= 0 && k < s.W) sum += in[h * s.W + k] * f[u * s.kw + v];
        }
      }
    }
    y[i] = sum;
  }
}
template <class T>
__global__ void input_kernel(Conv s, const T* gy, const T* w, T* gx) {
  GRID_LOOP(i, s.B * s.C * s.H * s.W) {
    const int64_t k = i % s.W, h = i / s.W % s.H, c = i / (s.W * s.H) % s.C,
                  b = i / (s.W * s.H * s.C), group = c / s.Cg;
    T sum = 0;
    for (int64_t u = 0; u < s.kh; ++u) {
      const int64_t ph = h + s.g.pad_begin[0] - u * s.g.dilation[0];
      if (ph < 0 || ph % s.g.stride[0] || ph / s.g.stride[0] >= s.P) continue;
      for (int64_t v = 0; v < s.kw; ++v) {
        const int64_t qw = k + s.g.pad_begin[1] - v * s.g.dilation[1];
        if (qw < 0 || qw % s.g.stride[1] || qw / s.g.stride[1] >= s.Q) continue;
        const int64_t at = ph / s.g.stride[0] * s.Q + qw / s.g.stride[1];
        for (int64_t o = group * s.Og; o < (group + 1) * s.Og; ++o)
          sum +=
              gy[(b * s.O + o) * s.P * s.Q + at] * w[((o * s.Cg + c % s.Cg) * s.kh + u) * s.kw + v];
      }
    }
    gx[i] = sum;
  }
}
// A warp per weight.
template <class T>
__global__ void weight_kernel(Conv s, const T* gy, const T* x, T* gw) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       i < s.O * s.Cg * s.kh * s.kw; i += warps) {
    const int64_t v = i % s.kw, u = i / s.kw % s.kh, c = i / (s.kw * s.kh) % s.Cg,
                  o = i / (s.kw * s.kh * s.Cg), ch = o / s.Og * s.Cg + c;
    T sum = 0;
    for (int64_t n = lane; n < s.B * s.P * s.Q; n += 32) {
      const int64_t q = n % s.Q, p = n / s.Q % s.P, b = n / (s.Q * s.P);
      const int64_t h = p * s.g.stride[0] - s.g.pad_begin[0] + u * s.g.dilation[0],
                    k = q * s.g.stride[1] - s.g.pad_begin[1] + v * s.g.dilation[1];
      if (h >= 0 && h < s.H && k >= 0 && k < s.W)
        sum += gy[((b * s.O + o) * s.P + p) * s.Q + q] * x[((b * s.C + ch) * s.H + h) * s.W + k];
    }
    sum = warp_sum(sum);
    if (lane == 0) gw[i] = sum;
  }
}
template <class T>
__global__ void bias_kernel(const T* gy, int64_t B, int64_t O, int64_t S, T* gb) {
  __shared__ double room[32];
  const int64_t o = blockIdx.x;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < B * S; i += blockDim.x)
    sum += static_cast<double>(gy[(i / S * O + o) * S + i % S]);
  sum = block_sum(sum, room);
  if (threadIdx.x == 0) gb[o] = static_cast<T>(sum);
}

// --- by columns: cols [n, C kh kw, P Q] of n images from b0 on

template <class T>
__global__ void unfold_kernel(Conv s, const T* x, int64_t b0, int64_t n, T* cols) {
  const int64_t L = s.P * s.Q, rows = s.C * s.kh * s.kw;
  GRID_LOOP(i, n * rows * L) {
    const int64_t l = i % L, r = i / L % rows, b = b0 + i / (L * rows), v = r % s.kw,
                  u = r / s.kw % s.kh, c = r / (s.kw * s.kh);
    const int64_t h = l / s.Q * s.g.stride[0] - s.g.pad_begin[0] + u * s.g.dilation[0],
                  k = l % s.Q * s.g.stride[1] - s.g.pad_begin[1] + v * s.g.dilation[1];
    cols[i] =
        h >= 0 && h < s.H && k >= 0 && k < s.W ? x[((b * s.C + c) * s.H + h) * s.W + k] : T(0);
  }
}
template <class T>
__global__ void fold_kernel(Conv s, const T* cols, int64_t b0, int64_t n, T* gx) {
  const int64_t L = s.P * s.Q, rows = s.C * s.kh * s.kw;
  GRID_LOOP(i, n * s.C * s.H * s.W) {
    const int64_t k = i % s.W, h = i / s.W % s.H, c = i / (s.W * s.H) % s.C,
                  b = i / (s.W * s.H * s.C);
    T sum = 0;
    for (int64_t u = 0; u < s.kh; ++u) {
      const int64_t ph = h + s.g.pad_begin[0] - u * s.g.dilation[0];
      if (ph < 0 || ph % s.g.stride[0] || ph / s.g.stride[0] >= s.P) continue;
      for (int64_t v = 0; v < s.kw; ++v) {
        const int64_t qw = k + s.g.pad_begin[1] - v * s.g.dilation[1];
        if (qw < 0 || qw % s.g.stride[1] || qw / s.g.stride[1] >= s.Q) continue;
        sum += cols[(b * rows + (c * s.kh + u) * s.kw + v) * L + ph / s.g.stride[0] * s.Q +
                    qw / s.g.stride[1]];
      }
    }
    gx[(b0 * s.C) * s.H * s.W + i] = sum;
  }
}
template <class T>
__global__ void bias_add_kernel(T* y, const T* bias, int64_t n, int64_t O, int64_t S) {
  GRID_LOOP(i, n) y[i] += bias[i / S % O];
}

// [t, rows, cols] with these strides
template <class T>
TensorOut matrix(DType dtype, T* data, int64_t t, int64_t rows, int64_t cols, int64_t ts,
                 int64_t rs, int64_t cs) {
  TensorOut m;
  m.data = data, m.dtype = dtype, m.ndim = 3;
  m.sizes[0] = t, m.sizes[1] = rows, m.sizes[2] = cols, m.strides[0] = ts, m.strides[1] = rs,
  m.strides[2] = cs;
  return m;
}
bool by_columns(const Conv& s) { return s.Cg * s.kh * s.kw >= 16 && s.Og >= 8 && s.P * s.Q >= 16; }
int64_t images_at_once(const Conv& s, int64_t item) {
  const int64_t each = s.C * s.kh * s.kw * s.P * s.Q * item,
                room = (int64_t{256} << 20) / (each > 0 ? each : 1);
  return room < 1 ? 1 : room < s.B ? room : s.B;
}

Status forward(const KernelContext& c, const TensorIn& x, const TensorIn& w, const TensorIn& bias,
               const ConvGeometry& g, const TensorOut& y) {
  Conv s;
  DROPIN_TRY(describe(x, w, y, g, s));
  const int64_t total = y.numel();
  if (total == 0) return abi::ok();
  return visit_real(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if (!by_columns(s))
      return launch(c, &forward_kernel<T>, dim3(blocks_for(c, total, 128, 64)), dim3(128), 0, s,
                    x.as<T>(), w.as<T>(), bias.as<T>(), y.as<T>());
    const int64_t K = s.Cg * s.kh * s.kw, L = s.P * s.Q, rows = s.C * s.kh * s.kw,
                  at_once = images_at_once(s, sizeof(T));
    DROPIN_SCRATCH(T, cols, c, at_once * rows * L);
    for (int64_t b = 0; b < s.B; b += at_once) {
      const int64_t n = s.B - b < at_once ? s.B - b : at_once;
      DROPIN_TRY(launch(c, &unfold_kernel<T>, dim3(blocks_for(c, n * rows * L, 256)), dim3(256), 0,
                        s, x.as<T>(), b, n, cols.get()));
      for (int64_t k = 0; k < g.groups; ++k)
        DROPIN_TRY(product_f(
            c, matrix(x.dtype, w.as<T>() + k * s.Og * K, n, s.Og, K, 0, K, 1),
            matrix(x.dtype, cols.get() + k * K * L, n, K, L, rows * L, L, 1), 0,
            matrix(x.dtype, y.as<T>() + (b * s.O + k * s.Og) * L, n, s.Og, L, s.O * L, L, 1)));
    }
    if (bias.data)
      return launch(c, &bias_add_kernel<T>, dim3(blocks_for(c, total, 256)), dim3(256), 0,
                    y.as<T>(), bias.as<T>(), total, s.O, L);
    return abi::ok();
  });
}
Status backward_input(const KernelContext& c, const TensorIn& gy, const TensorIn& w,
                      const ConvGeometry& g, const TensorOut& gx) {
  Conv s;
  DROPIN_TRY(describe(gx, w, gy, g, s));
  if (gx.numel() == 0) return abi::ok();
  return visit_real(gx.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if (!by_columns(s))
      return launch(c, &input_kernel<T>, dim3(blocks_for(c, gx.numel(), 128, 64)), dim3(128), 0, s,
                    gy.as<T>(), w.as<T>(), gx.as<T>());
    const int64_t K = s.Cg * s.kh * s.kw, L = s.P * s.Q, rows = s.C * s.kh * s.kw,
                  at_once = images_at_once(s, sizeof(T));
    DROPIN_SCRATCH(T, cols, c, at_once * rows * L);
    for (int64_t b = 0; b < s.B; b += at_once) {
      const int64_t n = s.B - b < at_once ? s.B - b : at_once;
      for (int64_t k = 0; k < g.groups; ++k)
        DROPIN_TRY(product_f(
            c, matrix(gx.dtype, w.as<T>() + k * s.Og * K, n, K, s.Og, 0, 1, K),
            matrix(gx.dtype, gy.as<T>() + (b * s.O + k * s.Og) * L, n, s.Og, L, s.O * L, L, 1), 0,
            matrix(gx.dtype, cols.get() + k * K * L, n, K, L, rows * L, L, 1)));
      DROPIN_TRY(launch(c, &fold_kernel<T>, dim3(blocks_for(c, n * s.C * s.H * s.W, 256)),
                        dim3(256), 0, s, cols.get(), b, n, gx.as<T>()));
    }
    return abi::ok();
  });
}
Status backward_weight(const KernelContext& c, const TensorIn& gy, const TensorIn& x,
                       const ConvGeometry& g, const TensorOut& gw, const TensorOut& gb) {
  Conv s;
  DROPIN_TRY(describe(x, gw, gy, g, s));
  return visit_real(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if (gb.data)
      DROPIN_TRY(launch(c, &bias_kernel<T>, dim3(static_cast<unsigned>(s.O)), dim3(256), 0,
                        gy.as<T>(), s.B, s.O, s.P * s.Q, gb.as<T>()));
    if (gw.numel() == 0) return abi::ok();
    if (!by_columns(s) || s.B == 0)
      return launch(c, &weight_kernel<T>, dim3(blocks_for(c, gw.numel(), 4, 64)), dim3(128), 0, s,
                    gy.as<T>(), x.as<T>(), gw.as<T>());
    const int64_t K = s.Cg * s.kh * s.kw, L = s.P * s.Q, rows = s.C * s.kh * s.kw,
                  at_once = images_at_once(s, sizeof(T));
    DROPIN_SCRATCH(T, cols, c, at_once * rows * L);
    for (int64_t b = 0; b < s.B; b += at_once) {
      const int64_t n = s.B - b < at_once ? s.B - b : at_once;
      DROPIN_TRY(launch(c, &unfold_kernel<T>, dim3(blocks_for(c, n * rows * L, 256)), dim3(256), 0,
                        s, x.as<T>(), b, n, cols.get()));
      for (int64_t i = 0; i < n; ++i)  // the sum over images is the products' beta
        for (int64_t k = 0; k < g.groups; ++k)
          DROPIN_TRY(product_f(
              c, matrix(x.dtype, gy.as<T>() + ((b + i) * s.O + k * s.Og) * L, 1, s.Og, L, 0, L, 1),
              matrix(x.dtype, cols.get() + (i * rows + k * K) * L, 1, L, K, 0, 1, L),
              b + i > 0 ? 1 : 0, matrix(x.dtype, gw.as<T>() + k * s.Og * K, 1, s.Og, K, 0, K, 1)));
    }
    return abi::ok();
  });
}

// --- depthwise: consecutive runs of channels, each with its kernel size; x, y by strides

constexpr int kMaxRuns = 16;
struct Run {
  const float *w, *bias;
  float *gw, *gb;
  int64_t first, channels, kh, kw, dil[2], pad[2];
};
struct Depthwise {
  int64_t B, C, H, W, P, Q, stride[2], xs[4], ys[4];
  int runs;
  Run run[kMaxRuns];
  __device__ const Run& of(int64_t c) const {
    int r = 0;
    while (r + 1 < runs && c >= run[r + 1].first) ++r;
    return run[r];
  }
};
// Outputs in the order of memory: the last of W, or of C when channels lie side by side.
__device__ inline void place(const Depthwise& s, int64_t i, int64_t H, int64_t W, bool last,
                             int64_t& b, int64_t& c, int64_t& h, int64_t& w) {
  if (last) {
    c = i % s.C, i /= s.C;
    w = i % W, i /= W;
    h = i % H, b = i / H;
  } else {
    w = i % W, i /= W;
    h = i % H, i /= H;
    c = i % s.C, b = i / s.C;
  }
}
__global__ void depthwise_forward_kernel(Depthwise s, const float* x, float* y) {
  const bool last = s.ys[1] == 1 && s.C > 1;
  GRID_LOOP(i, s.B * s.C * s.P * s.Q) {
    int64_t b, c, p, q;
    place(s, i, s.P, s.Q, last, b, c, p, q);
    const Run& r = s.of(c);
    const float *f = r.w + (c - r.first) * r.kh * r.kw, *in = x + b * s.xs[0] + c * s.xs[1];
    float sum = r.bias ? r.bias[c - r.first] : 0.0f;
    for (int64_t u = 0; u < r.kh; ++u) {
      const int64_t h = p * s.stride[0] - r.pad[0] + u * r.dil[0];
      if (h < 0 || h >= s.H) continue;
      for (int64_t v = 0; v < r.kw; ++v) {
        const int64_t w = q * s.stride[1] - r.pad[1] + v * r.dil[1];
        if (w >= 0 && w < s.W) sum += in[h * s.xs[2] + w * s.xs[3]] * f[u * r.kw + v];
      }
    }
    y[b * s.ys[0] + c * s.ys[1] + p * s.ys[2] + q * s.ys[3]] = sum;
  }
}
__global__ void depthwise_input_kernel(Depthwise s, const float* gy, float* gx) {
  const bool last = s.xs[1] == 1 && s.C > 1;
  GRID_LOOP(i, s.B * s.C * s.H * s.W) {
    int64_t b, c, h, w;
    place(s, i, s.H, s.W, last, b, c, h, w);
    const Run& r = s.of(c);
    const float *f = r.w + (c - r.first) * r.kh * r.kw, *in = gy + b * s.ys[0] + c * s.ys[1];
    float sum = 0;
    for (int64_t u = 0; u < r.kh; ++u) {
      const int64_t ph = h + r.pad[0] - u * r.dil[0];
      if (ph < 0 || ph % s.stride[0] || ph / s.stride[0] >= s.P) continue;
      for (int64_t v = 0; v < r.kw; ++v) {
        const int64_t qw = w + r.pad[1] - v * r.dil[1];
        if (qw >= 0 && qw % s.stride[1] == 0 && qw / s.stride[1] < s.Q)
          sum += in[ph / s.stride[0] * s.ys[2] + qw / s.stride[1] * s.ys[3]] * f[u * r.kw + v];
      }
    }
    gx[b * s.xs[0] + c * s.xs[1] + h * s.xs[2] + w * s.xs[3]] = sum;
  }
}
// A block per channel; every weight is a sum over all images and outputs. The last one, kh kw, is
// the bias's.
__global__ void depthwise_weight_kernel(Depthwise s, const float* gy, const float* x) {
  __shared__ float room[32];
  const int64_t c = blockIdx.x;
  const Run& r = s.of(c);
  const int64_t n = s.B * s.P * s.Q;
  for (int64_t k = blockIdx.y; k <= r.kh * r.kw; k += gridDim.y) {
    const bool bias = k == r.kh * r.kw;
    if (bias ? !r.gb : !r.gw) continue;
    const int64_t u = k / r.kw, v = k % r.kw;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const int64_t q = i % s.Q, p = i / s.Q % s.P, b = i / (s.Q * s.P);
      const int64_t h = p * s.stride[0] - r.pad[0] + u * r.dil[0],
                    w = q * s.stride[1] - r.pad[1] + v * r.dil[1];
      const float g = gy[b * s.ys[0] + c * s.ys[1] + p * s.ys[2] + q * s.ys[3]];
      if (bias)
        sum += g;
      else if (h >= 0 && h < s.H && w >= 0 && w < s.W)
        sum += g * x[b * s.xs[0] + c * s.xs[1] + h * s.xs[2] + w * s.xs[3]];
    }
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) (bias ? r.gb[c - r.first] : r.gw[(c - r.first) * r.kh * r.kw + k]) = sum;
  }
}

// Runs from, from + 1, ... (at most kMaxRuns) of the list as a problem of their own channels;
// pointers of x and y are moved by the caller.
Status describe(const TensorIn& x, const TensorIn& y, const DepthwiseRuns& runs, int64_t from,
                Depthwise& s) {
  const int64_t to = runs.count < from + kMaxRuns ? runs.count : from + kMaxRuns;
  s = {};
  s.B = x.sizes[0], s.H = x.sizes[2], s.W = x.sizes[3], s.P = y.sizes[2], s.Q = y.sizes[3];
  for (int i = 0; i < 4; ++i) s.xs[i] = x.strides[i], s.ys[i] = y.strides[i];
  for (int64_t k = from; k < to; ++k) {
    const DepthwiseRun& d = runs.first[k];
    if (!d.w.contiguous() || d.w.dtype != DType::Float32)
      return abi::failed("depthwise: weights must be contiguous float32");
    s.run[s.runs++] = {d.w.as<float>(),
                       d.bias.as<float>(),
                       d.gw.as<float>(),
                       d.gb.as<float>(),
                       s.C,
                       d.w.sizes[0],
                       d.w.sizes[2],
                       d.w.sizes[3],
                       {d.g.dilation[0], d.g.dilation[1]},
                       {d.g.pad_begin[0], d.g.pad_begin[1]}};
    s.C += d.w.sizes[0];
    s.stride[0] = d.g.stride[0], s.stride[1] = d.g.stride[1];
  }
  return abi::ok();
}

Status depthwise_forward(const KernelContext& c, const TensorIn& x, const DepthwiseRuns& runs,
                         const TensorOut& y) {
  DROPIN_REQUIRE(
      x.ndim == 4 && y.ndim == 4 && x.dtype == DType::Float32 && y.dtype == DType::Float32,
      "depthwise: x and y must be [B, C, H, W] float32");
  int64_t channel = 0;
  for (int64_t from = 0; from < runs.count; from += kMaxRuns) {
    Depthwise s;
    DROPIN_TRY(describe(x, y, runs, from, s));
    DROPIN_TRY(launch(c, &depthwise_forward_kernel,
                      dim3(blocks_for(c, s.B * s.C * s.P * s.Q, 256, 64)), dim3(256), 0, s,
                      x.as<float>() + channel * x.strides[1],
                      y.as<float>() + channel * y.strides[1]));
    channel += s.C;
  }
  return abi::ok();
}
Status depthwise_backward(const KernelContext& c, const TensorIn& gy, const TensorIn& x,
                          const DepthwiseRuns& runs, const TensorOut& gx) {
  int64_t channel = 0;
  for (int64_t from = 0; from < runs.count; from += kMaxRuns) {
    Depthwise s;
    DROPIN_TRY(describe(x, gy, runs, from, s));
    const float* g = gy.as<float>() + channel * gy.strides[1];
    if (gx.data) {
      Depthwise t = s;
      for (int i = 0; i < 4; ++i) t.xs[i] = gx.strides[i];
      DROPIN_TRY(launch(c, &depthwise_input_kernel,
                        dim3(blocks_for(c, s.B * s.C * s.H * s.W, 256, 64)), dim3(256), 0, t, g,
                        gx.as<float>() + channel * gx.strides[1]));
    }
    bool weights = false;
    int64_t most = 0;
    for (int r = 0; r < s.runs; ++r) {
      weights = weights || s.run[r].gw || s.run[r].gb;
      most = s.run[r].kh * s.run[r].kw > most ? s.run[r].kh * s.run[r].kw : most;
    }
    if (weights)
      DROPIN_TRY(launch(
          c, &depthwise_weight_kernel,
          dim3(static_cast<unsigned>(s.C), static_cast<unsigned>(most + 1 < 128 ? most + 1 : 128)),
          dim3(128), 0, s, g, x.as<float>() + channel * x.strides[1]));
    channel += s.C;
  }
  return abi::ok();
}

}  // namespace

void provide_conv(KernelTable& t) {
  provide<conv2d_forward, &forward>(t);
  provide<conv2d_backward_input, &backward_input>(t);
  provide<conv2d_backward_weight, &backward_weight>(t);
  provide<mixed_depthwise_forward, &depthwise_forward>(t);
  provide<mixed_depthwise_backward, &depthwise_backward>(t);
}

}  // namespace dropin::kernels::cuda
