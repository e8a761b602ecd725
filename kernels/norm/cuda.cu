// Norms. Layer and RMS norm: a warp per row up to 1024 values, a block beyond; the gradients of
// weight and bias in two passes, rows split over blocks and the parts added in order. Batch norm: a
// block per channel for the statistics and sums, then one pass over everything.
#include "kernels/cuda/device.h"
#include "kernels/norm/kernel.h"

namespace dropin::kernels::cuda {
namespace {

dim3 group_of(int64_t n) { return n <= 1024 ? dim3(32, 4) : dim3(n <= 4096 ? 256 : 512); }
unsigned grid_of(const KernelContext& c, int64_t rows, const dim3& block) {
  return blocks_for(c, rows, block.y, 32);
}

template <class T>
__global__ void layer_norm_kernel(const T* x, const T* w, const T* b, double eps, T* y, T* mean,
                                  T* rstd, int64_t rows, int64_t n) {
  __shared__ T room[32];
  const T share = T(1) / static_cast<T>(n);
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const T* row = x + r * n;
    T sum = 0, squares = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += row[i];
    const T m = block_sum(sum, room) * share;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) squares += (row[i] - m) * (row[i] - m);
    const T s = T(1) / sqrt(block_sum(squares, room) * share + static_cast<T>(eps));
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      T v = (row[i] - m) * s;
      if (w) v *= w[i];
      if (b) v += b[i];
      y[r * n + i] = v;
    }
    if (threadIdx.x == 0) mean[r] = m, rstd[r] = s;
  }
}

// gx = rstd (gw - mean(gw) - xhat mean(gw xhat)), gw = g w; RMS norm: without the mean
template <class T>
__global__ void norm_grad_kernel(const T* g, const T* x, const T* w, const T* mean, const T* rstd,
                                 T* gx, int64_t rows, int64_t n) {
  __shared__ T room[32];
  const T share = T(1) / static_cast<T>(n);
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const T m = mean ? mean[r] : T(0), s = rstd[r];
    T first = 0, second = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const T v = g[r * n + i] * (w ? w[i] : T(1));
      first += v;
      second += v * ((x[r * n + i] - m) * s);
    }
    first = mean ? block_sum(first, room) * share : T(0);
    second = block_sum(second, room) * share;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const T v = g[r * n + i] * (w ? w[i] : T(1));
      gx[r * n + i] = s * (v - first - (x[r * n + i] - m) * s * second);
    }
  }
}

// Column sums over a split's rows: 32 columns, 8 rows of threads. part [splits, 2, n].
template <class T>
__global__ void parameter_grad_kernel(const T* g, const T* x, const T* mean, const T* rstd, T* part,
                                      int64_t rows, int64_t n, int64_t chunk) {
  __shared__ T gw[8][33], gb[8][33];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x, s = blockIdx.y;
  const int64_t end = (s + 1) * chunk < rows ? (s + 1) * chunk : rows;
  T a = 0, b = 0;
  if (i < n)
    for (int64_t r = s * chunk + threadIdx.y; r < end; r += 8) {
      const T v = g[r * n + i];
      a += v * ((x[r * n + i] - (mean ? mean[r] : T(0))) * rstd[r]);
      b += v;
    }
  gw[threadIdx.y][threadIdx.x] = a, gb[threadIdx.y][threadIdx.x] = b;
  __syncthreads();
  if (threadIdx.y == 0 && i < n) {
    for (int k = 1; k < 8; ++k) a += gw[k][threadIdx.x], b += gb[k][threadIdx.x];
    part[(s * 2) * n + i] = a;
    part[(s * 2 + 1) * n + i] = b;
  }
}
template <class T>
__global__ void add_parts_kernel(const T* part, T* gw, T* gb, int64_t n, int64_t splits) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    T a = 0, b = 0;
    for (int64_t s = 0; s < splits; ++s) a += part[s * 2 * n + i], b += part[(s * 2 + 1) * n + i];
    if (gw) gw[i] = a;
    if (gb) gb[i] = b;
  }
}
template <class T>
Status parameter_grads(const KernelContext& c, const T* g, const T* x, const T* mean, const T* rstd,
                       T* gw, T* gb, int64_t rows, int64_t n) {
  if ((!gw && !gb) || n == 0) return abi::ok();
  const int64_t across = ceil_div(n, 32),
                room = static_cast<int64_t>(multiprocessors(c)) * 8 / across;
  int64_t splits = ceil_div(rows, 64);
  if (splits > room) splits = room;
  if (splits < 1) splits = 1;
  if (splits > 65535) splits = 65535;
  DROPIN_SCRATCH(T, part, c, splits * 2 * n);
  DROPIN_TRY(launch(c, &parameter_grad_kernel<T>,
                    dim3(static_cast<unsigned>(across), static_cast<unsigned>(splits)), dim3(32, 8),
                    0, g, x, mean, rstd, part.get(), rows, n, ceil_div(rows, splits)));
  return launch(c, &add_parts_kernel<T>, dim3(blocks_for(c, n, 128)), dim3(128), 0, part.get(), gw,
                gb, n, splits);
}

int64_t rows_of(const NormInputs& in) { return in.n ? in.x.numel() / in.n : 0; }

Status layer_forward(const KernelContext& c, const NormInputs& in, const TensorOut& y,
                     const TensorOut& mean, const TensorOut& rstd) {
  const int64_t rows = rows_of(in);
  const dim3 block = group_of(in.n);
  return visit_real(in.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &layer_norm_kernel<T>, dim3(grid_of(c, rows, block)), block, 0, in.x.as<T>(),
                  in.weight.as<T>(), in.bias.as<T>(), in.eps, y.as<T>(), mean.as<T>(), rstd.as<T>(),
                  rows, in.n);
  });
}
Status norm_backward(const KernelContext& c, const TensorIn& g, const NormInputs& in,
                     const TensorIn& mean, const TensorIn& rstd, const NormGradients& out) {
  const int64_t rows = rows_of(in);
  const dim3 block = group_of(in.n);
  return visit_real(in.x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    const T *x = in.x.as<T>(), *w = in.weight.as<T>();
    if (out.x.data)
      DROPIN_TRY(launch(c, &norm_grad_kernel<T>, dim3(grid_of(c, rows, block)), block, 0, g.as<T>(),
                        x, w, mean.as<T>(), rstd.as<T>(), out.x.as<T>(), rows, in.n));
    return parameter_grads<T>(c, g.as<T>(), x, mean.as<T>(), rstd.as<T>(), out.weight.as<T>(),
                              out.bias.as<T>(), rows, in.n);
  });
}

template <class T>
__global__ void rms_norm_kernel(const T* x, const T* w, double eps, T* y, T* rstd, int64_t rows,
                                int64_t n) {
  __shared__ T room[32];
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    T squares = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) squares += x[r * n + i] * x[r * n + i];
    const T s = T(1) / sqrt(block_sum(squares, room) / static_cast<T>(n) + static_cast<T>(eps));
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
      y[r * n + i] = x[r * n + i] * s * (w ? w[i] : T(1));
    if (threadIdx.x == 0) rstd[r] = s;
  }
}
Status rms_forward(const KernelContext& c, const NormInputs& in, const TensorOut& y,
                   const TensorOut& rstd) {
  const int64_t rows = rows_of(in);
  const dim3 block = group_of(in.n);
  return visit_real(in.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &rms_norm_kernel<T>, dim3(grid_of(c, rows, block)), block, 0, in.x.as<T>(),
                  in.weight.as<T>(), in.eps, y.as<T>(), rstd.as<T>(), rows, in.n);
  });
}
Status rms_backward(const KernelContext& c, const TensorIn& g, const NormInputs& in,
                    const TensorIn& rstd, const NormGradients& out) {
  return norm_backward(c, g, in, TensorIn{}, rstd, {out.x, out.weight, {}});
}

// --- batch norm: x [B, C, S]

template <class T>
__global__ void batch_stats_kernel(const T* x, int64_t B, int64_t C, int64_t S, double eps, T* mean,
                                   T* var, T* rstd) {
  __shared__ double room[32];
  const int64_t ch = blockIdx.x, n = B * S;
  double sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    sum += static_cast<double>(x[(i / S * C + ch) * S + i % S]);
  const double m = block_sum(sum, room) / static_cast<double>(n);
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double d = static_cast<double>(x[(i / S * C + ch) * S + i % S]) - m;
    squares += d * d;
  }
  const double v = block_sum(squares, room) / static_cast<double>(n);
  if (threadIdx.x == 0) {
    mean[ch] = static_cast<T>(m), rstd[ch] = static_cast<T>(1 / sqrt(v + eps));
    if (var) var[ch] = static_cast<T>(v);
  }
}
template <class T>
__global__ void batch_forward_kernel(const T* x, const T* mean, const T* rstd, const T* w,
                                     const T* b, T* y, int64_t total, int64_t C, int64_t S) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t ch = i / S % C;
    y[i] = (x[i] - mean[ch]) * rstd[ch] * (w ? w[ch] : T(1)) + (b ? b[ch] : T(0));
  }
}
// sums [C, 2]: of g, and of g xhat
template <class T>
__global__ void batch_sums_kernel(const T* g, const T* x, const T* mean, const T* rstd, int64_t B,
                                  int64_t C, int64_t S, double* sums, T* gw, T* gb) {
  __shared__ double room[32];
  const int64_t ch = blockIdx.x, n = B * S;
  const T m = mean[ch], s = rstd[ch];
  double a = 0, b = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const int64_t at = (i / S * C + ch) * S + i % S;
    a += static_cast<double>(g[at]);
    b += static_cast<double>(g[at] * ((x[at] - m) * s));
  }
  a = block_sum(a, room);
  b = block_sum(b, room);
  if (threadIdx.x == 0) {
    sums[2 * ch] = a, sums[2 * ch + 1] = b;
    if (gb) gb[ch] = static_cast<T>(a);
    if (gw) gw[ch] = static_cast<T>(b);
  }
}
template <class T>
__global__ void batch_grad_kernel(const T* g, const T* x, const T* mean, const T* rstd, const T* w,
                                  const double* sums, bool training, T* gx, int64_t total,
                                  int64_t C, int64_t S, double share) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t ch = i / S % C;
    const T scale = rstd[ch] * (w ? w[ch] : T(1));
    const T xhat = (x[i] - mean[ch]) * rstd[ch];
    gx[i] = training ? scale * (g[i] - static_cast<T>(sums[2 * ch] * share) -
                                xhat * static_cast<T>(sums[2 * ch + 1] * share))
                     : scale * g[i];
  }
}

Status batch_stats(const KernelContext& c, const TensorIn& x, double eps, const TensorOut& mean,
                   const TensorOut& var, const TensorOut& rstd) {
  DROPIN_REQUIRE(x.ndim == 3 && x.contiguous(), "x must be [B, C, S], contiguous");
  return visit_real(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &batch_stats_kernel<T>, dim3(static_cast<unsigned>(x.sizes[1])),
                  dim3(x.sizes[0] * x.sizes[2] <= 256 ? 64 : 512), 0, x.as<T>(), x.sizes[0],
                  x.sizes[1], x.sizes[2], eps, mean.as<T>(), var.as<T>(), rstd.as<T>());
  });
}
Status batch_forward(const KernelContext& c, const BatchNormInputs& in, const TensorOut& y) {
  const TensorIn& x = in.x;
  DROPIN_REQUIRE(x.ndim == 3 && x.contiguous(), "x must be [B, C, S], contiguous");
  return visit_real(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &batch_forward_kernel<T>, dim3(blocks_for(c, x.numel(), 256)), dim3(256), 0,
                  x.as<T>(), in.mean.as<T>(), in.rstd.as<T>(), in.weight.as<T>(), in.bias.as<T>(),
                  y.as<T>(), x.numel(), x.sizes[1], x.sizes[2]);
  });
}
Status batch_backward(const KernelContext& c, const TensorIn& g, const BatchNormInputs& in,
                      const NormGradients& out) {
  const TensorIn& x = in.x;
  DROPIN_REQUIRE(x.ndim == 3 && x.contiguous() && g.contiguous(),
                 "x must be [B, C, S], contiguous");
  const int64_t B = x.sizes[0], C = x.sizes[1], S = x.sizes[2];
  DROPIN_SCRATCH(double, sums, c, 2 * C);
  return visit_real(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    const T *mean = in.mean.as<T>(), *rstd = in.rstd.as<T>();
    DROPIN_TRY(launch(c, &batch_sums_kernel<T>, dim3(static_cast<unsigned>(C)),
                      dim3(B * S <= 256 ? 64 : 512), 0, g.as<T>(), x.as<T>(), mean, rstd, B, C, S,
                      sums.get(), out.weight.as<T>(), out.bias.as<T>()));
    if (!out.x.data) return abi::ok();
    return launch(c, &batch_grad_kernel<T>, dim3(blocks_for(c, x.numel(), 256)), dim3(256), 0,
                  g.as<T>(), x.as<T>(), mean, rstd, in.weight.as<T>(), sums.get(), in.training,
                  out.x.as<T>(), x.numel(), C, S, 1.0 / static_cast<double>(B * S));
  });
}

}  // namespace

void provide_norm(KernelTable& t) {
  provide<layer_norm_forward, &layer_forward>(t);
  provide<layer_norm_backward, &norm_backward>(t);
  provide<rms_norm_forward, &rms_forward>(t);
  provide<rms_norm_backward, &rms_backward>(t);
  provide<batch_norm_stats, &batch_stats>(t);
  provide<batch_norm_forward, &batch_forward>(t);
  provide<batch_norm_backward, &batch_backward>(t);
}

}  // namespace dropin::kernels::cuda
