// Deformable convolution: samples as columns, then products; the gradients walk the columns'
// gradients. gx is added to atomically: samples meet in pixels.
#include "kernels/cuda/device.h"
#include "kernels/deform/kernel.h"

namespace dropin::kernels::cuda {

Status product_f(const KernelContext& c, const TensorIn& a, const TensorIn& b, double beta,
                 const TensorOut& y);  // kernels/gemm/cuda.cu

namespace {

struct Job {
  int64_t B, C, H, W, O, P, Q, kh, kw, K, G, groups;
  ConvGeometry g;
  const float *x, *offset, *mask;
};
struct Tap {  // the four pixels around a sample: their places (-1: none), weights, and the weights'
              // slopes along rows and columns
  int64_t at[4];
  float w[4], dr[4], dc[4];
  bool any;
};
__device__ inline Tap tap_of(const Job& j, int64_t b, int64_t group, int64_t k, int64_t l) {
  const int64_t L = j.P * j.Q, p = l / j.Q, q = l % j.Q;
  const float* o = j.offset + ((b * j.G + group) * 2 * j.K + 2 * k) * L + l;
  const float row =
      static_cast<float>(p * j.g.stride[0] - j.g.pad_begin[0] + k / j.kw * j.g.dilation[0]) + o[0];
  const float col =
      static_cast<float>(q * j.g.stride[1] - j.g.pad_begin[1] + k % j.kw * j.g.dilation[1]) + o[L];
  Tap t;
  t.any = row > -1 && col > -1 && row < static_cast<float>(j.H) &&
          col < static_cast<float>(j.W);  // not NaN
  if (!t.any) return t;
  const float r0 = floorf(row), c0 = floorf(col), lr = row - r0, lc = col - c0;
  for (int i = 0; i < 4; ++i) {
    const int64_t r = static_cast<int64_t>(r0) + i / 2, c = static_cast<int64_t>(c0) + i % 2;
    t.at[i] = r >= 0 && r < j.H && c >= 0 && c < j.W ? r * j.W + c : -1;
    const float wr = i / 2 ? lr : 1 - lr, wc = i % 2 ? lc : 1 - lc;
    t.w[i] = wr * wc, t.dr[i] = (i / 2 ? 1.0f : -1.0f) * wc, t.dc[i] = (i % 2 ? 1.0f : -1.0f) * wr;
  }
  return t;
}
#define GRID_LOOP(i, n)                                                                  \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)

// cols [C K, P Q] of one image
__global__ void columns_kernel(Job j, int64_t b, float* cols) {
  const int64_t L = j.P * j.Q;
  GRID_LOOP(i, j.C * j.K * L) {
    const int64_t l = i % L, k = i / L % j.K, c = i / (L * j.K), group = c / (j.C / j.G);
    const Tap t = tap_of(j, b, group, k, l);
    float v = 0;
    if (t.any) {
      const float* plane = j.x + (b * j.C + c) * j.H * j.W;
      for (int n = 0; n < 4; ++n)
        if (t.at[n] >= 0) v += t.w[n] * plane[t.at[n]];
      if (j.mask) v *= j.mask[((b * j.G + group) * j.K + k) * L + l];
    }
    cols[i] = v;
  }
}
__global__ void input_grad_kernel(Job j, int64_t b, const float* gcols, float* gx) {
  const int64_t L = j.P * j.Q;
  GRID_LOOP(i, j.C * j.K * L) {
    const int64_t l = i % L, k = i / L % j.K, c = i / (L * j.K), group = c / (j.C / j.G);
    const Tap t = tap_of(j, b, group, k, l);
    if (!t.any) continue;
    const float g = gcols[i] * (j.mask ? j.mask[((b * j.G + group) * j.K + k) * L + l] : 1.0f);
    for (int n = 0; n < 4; ++n)
      if (t.at[n] >= 0) atomicAdd(gx + (b * j.C + c) * j.H * j.W + t.at[n], g * t.w[n]);
  }
}
__global__ void offset_grad_kernel(Job j, int64_t b, const float* gcols, float* goffset,
                                   float* gmask) {
  const int64_t L = j.P * j.Q, each = j.C / j.G;
  GRID_LOOP(i, j.G * j.K * L) {
    const int64_t l = i % L, k = i / L % j.K, group = i / (L * j.K);
    const Tap t = tap_of(j, b, group, k, l);
    const int64_t at = ((b * j.G + group) * j.K + k) * L + l;
    const float m = j.mask ? j.mask[at] : 1.0f;
    float gr = 0, gc = 0, gm = 0;
    if (t.any)
      for (int64_t c = group * each; c < (group + 1) * each; ++c) {
        const float* plane = j.x + (b * j.C + c) * j.H * j.W;
        const float g = gcols[(c * j.K + k) * L + l];
        for (int n = 0; n < 4; ++n) {
          if (t.at[n] < 0) continue;
          const float v = plane[t.at[n]];
          gr += g * v * t.dr[n], gc += g * v * t.dc[n], gm += g * v * t.w[n];
        }
      }
    if (goffset) {
      float* o = goffset + ((b * j.G + group) * 2 * j.K + 2 * k) * L + l;
      o[0] = gr * m, o[L] = gc * m;
    }
    if (gmask) gmask[at] = gm;
  }
}
__global__ void bias_kernel(float* y, const float* bias, int64_t n, int64_t O, int64_t L) {
  GRID_LOOP(i, n) y[i] += bias[i / L % O];
}

Status describe(const DeformConvInputs& in, const TensorIn& y, Job& j) {
  const TensorIn &x = in.x, &offset = in.offset, &mask = in.mask, &w = in.weight;
  const ConvGeometry& g = in.geometry;
  DROPIN_REQUIRE(x.ndim == 4 && offset.ndim == 4 && w.ndim == 4 && y.ndim == 4 &&
                     x.dtype == DType::Float32 && x.contiguous() && offset.contiguous() &&
                     w.contiguous() && y.contiguous(),
                 "arrays must be contiguous float32");
  const int64_t K = w.sizes[2] * w.sizes[3];
  j = {x.sizes[0],
       x.sizes[1],
       x.sizes[2],
       x.sizes[3],
       w.sizes[0],
       y.sizes[2],
       y.sizes[3],
       w.sizes[2],
       w.sizes[3],
       K,
       offset.sizes[1] / (2 * K),
       g.groups,
       g,
       x.as<float>(),
       offset.as<float>(),
       mask.as<float>()};
  return abi::ok();
}
TensorOut matrix(const float* data, int64_t t, int64_t rows, int64_t cols, int64_t ts, int64_t rs,
                 int64_t cs) {
  TensorOut m;
  m.data = data, m.ndim = 3;
  m.sizes[0] = t, m.sizes[1] = rows, m.sizes[2] = cols, m.strides[0] = ts, m.strides[1] = rs,
  m.strides[2] = cs;
  return m;
}

// The groups are the batch of each product.
Status forward(const KernelContext& c, const DeformConvInputs& in, const TensorOut& y) {
  Job j;
  DROPIN_TRY(describe(in, y, j));
  const int64_t L = j.P * j.Q, depth = j.C / j.groups * j.K, Og = j.O / j.groups;
  if (y.numel() == 0) return abi::ok();
  DROPIN_SCRATCH(float, cols, c, j.C* j.K* L);
  for (int64_t b = 0; b < j.B; ++b) {
    DROPIN_TRY(launch(c, &columns_kernel, dim3(blocks_for(c, j.C * j.K * L, 256)), dim3(256), 0, j,
                      b, cols.get()));
    DROPIN_TRY(product_f(c,
                         matrix(in.weight.as<float>(), j.groups, Og, depth, Og * depth, depth, 1),
                         matrix(cols.get(), j.groups, depth, L, depth * L, L, 1), 0,
                         matrix(y.as<float>() + b * j.O * L, j.groups, Og, L, Og * L, L, 1)));
  }
  if (in.bias.data)
    return launch(c, &bias_kernel, dim3(blocks_for(c, y.numel(), 256)), dim3(256), 0, y.as<float>(),
                  in.bias.as<float>(), y.numel(), j.O, L);
  return abi::ok();
}
Status zero(const KernelContext& c, const TensorOut& t) {
  if (!t.data || t.numel() == 0) return abi::ok();
  const auto bytes = static_cast<std::size_t>(t.numel()) * sizeof(float);
  return checked(cudaMemsetAsync(t.as<void>(), 0, bytes, stream_of(c)), c);
}
Status backward(const KernelContext& c, const TensorIn& gy, const DeformConvInputs& in,
                const DeformConvGradients& out) {
  Job j;
  DROPIN_TRY(describe(in, gy, j));
  const int64_t L = j.P * j.Q, depth = j.C / j.groups * j.K, Og = j.O / j.groups,
                all = j.C * j.K * L;
  DROPIN_TRY(zero(c, out.x));
  if (j.B == 0 || L == 0) DROPIN_TRY(zero(c, out.weight));
  if (all == 0) return abi::ok();
  DROPIN_SCRATCH(float, cols, c, all);
  const dim3 grid(blocks_for(c, all, 256)), block(256);
  for (int64_t b = 0; b < j.B; ++b) {
    const float* g_b = gy.as<float>() + b * j.O * L;
    if (out.weight.data) {
      DROPIN_TRY(launch(c, &columns_kernel, grid, block, 0, j, b, cols.get()));
      DROPIN_TRY(
          product_f(c, matrix(g_b, j.groups, Og, L, Og * L, L, 1),
                    matrix(cols.get(), j.groups, L, depth, depth * L, 1, L), b > 0 ? 1 : 0,
                    matrix(out.weight.as<float>(), j.groups, Og, depth, Og * depth, depth, 1)));
    }
    if (!out.x.data && !out.offset.data && !out.mask.data) continue;
    DROPIN_TRY(product_f(c,
                         matrix(in.weight.as<float>(), j.groups, depth, Og, Og * depth, 1, depth),
                         matrix(g_b, j.groups, Og, L, Og * L, L, 1), 0,
                         matrix(cols.get(), j.groups, depth, L, depth * L, L, 1)));
    if (out.x.data)
      DROPIN_TRY(
          launch(c, &input_grad_kernel, grid, block, 0, j, b, cols.get(), out.x.as<float>()));
    if (out.offset.data || out.mask.data)
      DROPIN_TRY(launch(c, &offset_grad_kernel, dim3(blocks_for(c, j.G * j.K * L, 256)), block, 0,
                        j, b, cols.get(), out.offset.as<float>(), out.mask.as<float>()));
  }
  return abi::ok();
}

}  // namespace

void provide_deform(KernelTable& t) {
  provide<deform_conv2d_forward, &forward>(t);
  provide<deform_conv2d_backward, &backward>(t);
}

}  // namespace dropin::kernels::cuda
