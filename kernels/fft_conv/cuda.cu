// Convolution along L by transforms in shared memory, one sequence of a channel a block, up to
// 16384 positions; beyond, the operation is composed of cuFFT's transforms. Right-angle
// convolution: with z_k = exp(i pi / (2 n)) exp(-2 pi i k / n) the sum of x[t] z_k^t is a complex
// transform of n >= L weighed values, z^n = i, so what wraps around falls into the imaginary part:
// no zero padding to 2 L. Spectra stay in the order the transform leaves (bit reversed); the
// filter's is K(z) + conj(K_rev(z)). Short convolutions of a few taps: a thread per value, channels
// side by side.
#include "kernels/cuda/device.h"
#include "kernels/fft/block_fft.h"
#include "kernels/fft_conv/kernel.h"

namespace dropin::kernels::cuda {
namespace {

constexpr int64_t kLongest = 16384;
using Value = Complex<float>;

struct Series {  // [B, C, L] or [C, L]
  float* data;
  int64_t b, c, l;
  __device__ float& at(int64_t batch, int64_t channel, int64_t t) const {
    return data[batch * b + channel * c + t * l];
  }
};
Series series(const TensorIn& t) {
  if (!t.data) return {nullptr, 0, 0, 0};
  const int n = t.ndim;
  return {const_cast<float*>(t.as<float>()), n == 3 ? t.strides[0] : 0, t.strides[n - 2],
          t.strides[n - 1]};
}

int bits_of(int64_t length) {
  int bits = 1;
  while ((int64_t{1} << bits) < length) ++bits;
  return bits;
}
int threads_of(int bits) { return bits <= 8 ? 64 : bits <= 11 ? 256 : 512; }

__device__ inline Value weighed(float v, int t, int n) {
  const Value w = root_of(static_cast<float>(t) / static_cast<float>(2 * n));
  return {v * w.re, v * w.im};
}
__device__ inline float unweighed(Value v, int t,
                                  int n) {  // of the real part, with the transform's factor
  const Value w = root_of(static_cast<float>(t) / static_cast<float>(2 * n));
  return (v.re * w.re + v.im * w.im) / static_cast<float>(n);
}

__global__ void spectrum_kernel(Series k, Series rev, int64_t taps, int64_t rev_taps, int bits,
                                Value* out) {
  DROPIN_DYNAMIC_SHARED(Value, data);
  const int n = 1 << bits;
  const int64_t c = blockIdx.x;
  Value* to = out + c * n;
  for (int pass = 0; pass < 2; ++pass) {
    const Series& f = pass ? rev : k;
    if (!f.data) break;
    const int64_t count = pass ? rev_taps : taps;
    __syncthreads();
    for (int t = threadIdx.x; t < n; t += blockDim.x)
      data[t] = t < count ? weighed(f.at(0, c, t), t, n) : Value{0, 0};
    __syncthreads();
    transform_down<float>(data, bits, 1, 1, -1.0f);
    for (int t = threadIdx.x; t < n; t += blockDim.x) {
      if (pass)
        to[t] = Value{to[t].re + data[t].re, to[t].im - data[t].im};
      else
        to[t] = data[t];
    }
  }
}

struct Job {
  Series u, pre, post, y, conv, g, gu, gpre, gpost;
  const float* D;
  int64_t B, C, L;
  int bits;
  const Value* spectrum;
  Value* kept;
};

__global__ void forward_kernel(Job j) {
  DROPIN_DYNAMIC_SHARED(Value, data);
  const int n = 1 << j.bits;
  const int64_t c = blockIdx.x, b = blockIdx.y;
  const Value* h = j.spectrum + c * n;
  Value* kept = j.kept ? j.kept + (b * j.C + c) * n : nullptr;
  auto input = [&](int t) { return j.u.at(b, c, t) * (j.pre.data ? j.pre.at(b, c, t) : 1.0f); };
  for (int t = threadIdx.x; t < n; t += blockDim.x)
    data[t] = t < j.L ? weighed(input(t), t, n) : Value{0, 0};
  __syncthreads();
  transform_down<float>(data, j.bits, 1, 1, -1.0f);
  for (int t = threadIdx.x; t < n; t += blockDim.x) {
    if (kept) kept[t] = data[t];
    data[t] = data[t] * h[t];
  }
  __syncthreads();
  transform_up<float>(data, j.bits, 1, 1, 1.0f);
  for (int t = threadIdx.x; t < j.L; t += blockDim.x) {
    float v = unweighed(data[t], t, n);
    if (j.D) v += j.D[c] * input(t);
    if (j.conv.data) j.conv.at(b, c, t) = v;
    if (j.post.data) v *= j.post.at(b, c, t);
    j.y.at(b, c, t) = v;
  }
}

// Gradients of u and the gates; sums of the products of spectra over a split's batch entries to
// part [splits, C, n], and of D's to part_D [splits, C].
__global__ void backward_kernel(Job j, int64_t each, Value* part, float* part_D, Value* own) {
  DROPIN_DYNAMIC_SHARED(Value, data);
  __shared__ float room[32];
  const int n = 1 << j.bits;
  const int64_t c = blockIdx.x, s = blockIdx.y;
  const Value* h = j.spectrum + c * n;
  Value *sum = part ? part + (s * j.C + c) * n : nullptr,
        *mine = own ? own + (s * j.C + c) * n : nullptr;
  if (sum)
    for (int t = threadIdx.x; t < n; t += blockDim.x) sum[t] = {0, 0};
  float sum_D = 0;
  for (int64_t b = s * each; b < (s + 1) * each && b < j.B; ++b) {
    auto input = [&](int t) { return j.u.at(b, c, t) * (j.pre.data ? j.pre.at(b, c, t) : 1.0f); };
    auto gradient = [&](int t) {
      return j.g.at(b, c, t) * (j.post.data ? j.post.at(b, c, t) : 1.0f);
    };
    const Value* x = j.kept ? j.kept + (b * j.C + c) * n : mine;
    if (sum && !j.kept) {  // a thread reads below only what it wrote here
      __syncthreads();
      for (int t = threadIdx.x; t < n; t += blockDim.x)
        data[t] = t < j.L ? weighed(input(t), t, n) : Value{0, 0};
      __syncthreads();
      transform_down<float>(data, j.bits, 1, 1, -1.0f);
      for (int t = threadIdx.x; t < n; t += blockDim.x) mine[t] = data[t];
    }
    __syncthreads();
    for (int t = threadIdx.x; t < n; t += blockDim.x)
      data[t] = t < j.L ? weighed(gradient(t), t, n) : Value{0, 0};
    __syncthreads();
    transform_down<float>(data, j.bits, 1, 1, -1.0f);
    for (int t = threadIdx.x; t < n; t += blockDim.x) {
      if (sum) sum[t] = sum[t] + data[t] * Value{x[t].re, -x[t].im};
      data[t] = data[t] * Value{h[t].re, -h[t].im};
    }
    __syncthreads();
    transform_up<float>(data, j.bits, 1, 1, 1.0f);
    for (int t = threadIdx.x; t < j.L; t += blockDim.x) {
      const float gc = gradient(t);
      float gx = unweighed(data[t], t, n);
      if (j.D) gx += j.D[c] * gc;
      sum_D += gc * input(t);
      if (j.gu.data) j.gu.at(b, c, t) = gx * (j.pre.data ? j.pre.at(b, c, t) : 1.0f);
      if (j.gpre.data) j.gpre.at(b, c, t) = gx * j.u.at(b, c, t);
      if (j.gpost.data) j.gpost.at(b, c, t) = j.g.at(b, c, t) * j.conv.at(b, c, t);
    }
  }
  if (part_D) {
    sum_D = block_sum(sum_D, room);
    if (threadIdx.x == 0) part_D[s * j.C + c] = sum_D;
  }
}
__global__ void filter_grad_kernel(int64_t C, int bits, int64_t splits, const Value* part,
                                   const float* part_D, Series gk, Series grev, int64_t taps,
                                   int64_t rev_taps, float* gD) {
  DROPIN_DYNAMIC_SHARED(Value, data);
  const int n = 1 << bits;
  const int64_t c = blockIdx.x;
  for (int pass = 0; pass < 2; ++pass) {
    const Series& f = pass ? grev : gk;
    if (!f.data) continue;
    __syncthreads();
    for (int t = threadIdx.x; t < n; t += blockDim.x) {
      Value v{0, 0};
      for (int64_t s = 0; s < splits; ++s) v = v + part[(s * C + c) * n + t];
      data[t] = pass ? Value{v.re, -v.im} : v;
    }
    __syncthreads();
    transform_up<float>(data, bits, 1, 1, 1.0f);
    for (int t = threadIdx.x; t < (pass ? rev_taps : taps); t += blockDim.x)
      f.at(0, c, t) = unweighed(data[t], t, n);
  }
  if (gD && threadIdx.x == 0) {
    float sum = 0;
    for (int64_t s = 0; s < splits; ++s) sum += part_D[s * C + c];
    gD[c] = sum;
  }
}

Status size(const KernelContext&, int64_t channels, int64_t length, int64_t* floats) {
  *floats = length <= kLongest ? 2 * channels * (int64_t{1} << bits_of(length)) : 0;  // 0: not here
  return abi::ok();
}
Status make_spectrum(const KernelContext& c, const TensorIn& k, const TensorIn& rev, int64_t length,
                     Value* out) {
  const int bits = bits_of(length);
  return launch(c, &spectrum_kernel, dim3(static_cast<unsigned>(k.sizes[0])),
                dim3(threads_of(bits)), sizeof(Value) << bits, series(k), series(rev), k.sizes[1],
                rev.data ? rev.sizes[1] : 0, bits, out);
}
Status spectrum(const KernelContext& c, const TensorIn& k, const TensorIn& rev, int64_t length,
                const TensorOut& out) {
  return make_spectrum(c, k, rev, length, reinterpret_cast<Value*>(out.as<float>()));
}

Status describe(const FftConvInputs& in, Job& j) {
  if (in.u.ndim != 3 || in.u.sizes[2] > kLongest)
    return abi::unsupported("longer than the kernels hold");
  DROPIN_REQUIRE(in.u.sizes[0] <= 65535, "too many sequences for one launch");
  j.u = series(in.u), j.pre = series(in.pre), j.post = series(in.post), j.D = in.D.as<float>();
  j.B = in.u.sizes[0], j.C = in.u.sizes[1], j.L = in.u.sizes[2], j.bits = bits_of(in.u.sizes[2]);
  j.spectrum = reinterpret_cast<const Value*>(in.spectrum.as<float>());
  return abi::ok();
}

Status forward(const KernelContext& c, const FftConvInputs& in, const TensorOut& y,
               const TensorOut& conv, const TensorOut& kept) {
  Job j{};
  DROPIN_TRY(describe(in, j));
  DROPIN_SCRATCH(Value, made, c, j.spectrum ? 0 : j.C << j.bits);
  if (!j.spectrum) {
    DROPIN_TRY(make_spectrum(c, in.k, in.k_rev, j.L, made.get()));
    j.spectrum = made.get();
  }
  j.y = series(y), j.conv = series(conv), j.kept = reinterpret_cast<Value*>(kept.as<float>());
  return launch(c, &forward_kernel, dim3(static_cast<unsigned>(j.C), static_cast<unsigned>(j.B)),
                dim3(threads_of(j.bits)), sizeof(Value) << j.bits, j);
}
Status backward(const KernelContext& c, const TensorIn& g, const FftConvInputs& in,
                const TensorIn& conv, const TensorIn& kept, const FftConvGradients& out) {
  Job j{};
  DROPIN_TRY(describe(in, j));
  DROPIN_SCRATCH(Value, made, c, j.spectrum ? 0 : j.C << j.bits);
  if (!j.spectrum) {
    DROPIN_TRY(make_spectrum(c, in.k, in.k_rev, j.L, made.get()));
    j.spectrum = made.get();
  }
  j.g = series(g), j.conv = series(conv), j.gu = series(out.u), j.gpre = series(out.pre),
  j.gpost = series(out.post);
  j.kept = reinterpret_cast<Value*>(const_cast<float*>(kept.as<float>()));
  const bool filters = out.k.data || out.k_rev.data;
  int64_t splits = static_cast<int64_t>(multiprocessors(c)) * 2 / (j.C > 0 ? j.C : 1);
  splits = splits < 1 ? 1 : splits > j.B ? (j.B > 0 ? j.B : 1) : splits;
  const int64_t each = ceil_div(j.B, splits);
  DROPIN_SCRATCH(Value, part, c, filters ? splits * j.C << j.bits : 0);
  DROPIN_SCRATCH(Value, own, c, filters && !j.kept ? splits * j.C << j.bits : 0);
  DROPIN_SCRATCH(float, part_D, c, out.D.data ? splits* j.C : 0);
  DROPIN_TRY(launch(c, &backward_kernel,
                    dim3(static_cast<unsigned>(j.C), static_cast<unsigned>(splits)),
                    dim3(threads_of(j.bits)), sizeof(Value) << j.bits, j, each, part.get(),
                    part_D.get(), own.get()));
  if (!filters && !out.D.data) return abi::ok();
  return launch(c, &filter_grad_kernel, dim3(static_cast<unsigned>(j.C)), dim3(threads_of(j.bits)),
                sizeof(Value) << j.bits, j.C, j.bits, splits, part.get(), part_D.get(),
                series(out.k), series(out.k_rev), out.k.data ? out.k.sizes[1] : 0,
                out.k_rev.data ? out.k_rev.sizes[1] : 0, out.D.as<float>());
}

// --- a few taps: x [B, L, C]

struct Short {
  int64_t B, L, C, K, xb, xl, yb, yl;
};
__global__ void short_forward_kernel(Short s, const float* x, const float* w, const float* bias,
                                     float* y) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < s.B * s.L * s.C;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t c = i % s.C, t = i / s.C % s.L, b = i / (s.C * s.L);
    float sum = bias ? bias[c] : 0.0f;
    for (int64_t k = 0; k < s.K; ++k)
      if (const int64_t at = t - (s.K - 1) + k; at >= 0)
        sum += w[c * s.K + k] * x[b * s.xb + at * s.xl + c];
    y[b * s.yb + t * s.yl + c] = sum;
  }
}
__global__ void short_input_kernel(Short s, const float* g, const float* w,
                                   float* gx) {  // x: g, y: gx
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < s.B * s.L * s.C;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t c = i % s.C, t = i / s.C % s.L, b = i / (s.C * s.L);
    float sum = 0;
    for (int64_t k = 0; k < s.K; ++k)
      if (const int64_t at = t + (s.K - 1) - k; at < s.L)
        sum += w[c * s.K + k] * g[b * s.xb + at * s.xl + c];
    gx[b * s.yb + t * s.yl + c] = sum;
  }
}
// 32 channels and a tap a block (the last one: the bias), 8 rows of threads over the tokens.
__global__ void short_weight_kernel(Short s, const float* g, const float* x, float* gw,
                                    float* gb) {  // x: g, y: x
  __shared__ float room[8][33];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x, k = blockIdx.y;
  float sum = 0;
  if (c < s.C)
    for (int64_t n = threadIdx.y; n < s.B * s.L; n += 8) {
      const int64_t t = n % s.L, b = n / s.L, at = t - (s.K - 1) + k;
      const float v = g[b * s.xb + t * s.xl + c];
      if (k == s.K)
        sum += v;
      else if (at >= 0)
        sum += v * x[b * s.yb + at * s.yl + c];
    }
  room[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && c < s.C) {
    for (int r = 1; r < 8; ++r) sum += room[r][threadIdx.x];
    if (k == s.K) {
      if (gb) gb[c] = sum;
    } else if (gw) {
      gw[c * s.K + k] = sum;
    }
  }
}
Status short_forward(const KernelContext& c, const TensorIn& x, const TensorIn& w,
                     const TensorIn& bias, const TensorOut& y) {
  DROPIN_REQUIRE(
      x.ndim == 3 && y.ndim == 3 && w.ndim == 2 && w.contiguous() && x.dtype == DType::Float32,
      "x must be [B, L, C], w [C, K], float32");
  const Short s{x.sizes[0],   x.sizes[1],   x.sizes[2],   w.sizes[1],
                x.strides[0], x.strides[1], y.strides[0], y.strides[1]};
  return launch(c, &short_forward_kernel, dim3(blocks_for(c, x.numel(), 256)), dim3(256), 0, s,
                x.as<float>(), w.as<float>(), bias.as<float>(), y.as<float>());
}
Status short_backward(const KernelContext& c, const TensorIn& g, const TensorIn& x,
                      const TensorIn& w, const TensorOut& gx, const TensorOut& gw,
                      const TensorOut& gb) {
  DROPIN_REQUIRE(
      x.ndim == 3 && g.ndim == 3 && w.ndim == 2 && w.contiguous() && x.dtype == DType::Float32,
      "x must be [B, L, C], w [C, K], float32");
  const Short s{x.sizes[0], x.sizes[1], x.sizes[2], w.sizes[1], g.strides[0], g.strides[1], 0, 0};
  if (gx.data) {
    Short t = s;
    t.yb = gx.strides[0], t.yl = gx.strides[1];
    DROPIN_TRY(launch(c, &short_input_kernel, dim3(blocks_for(c, x.numel(), 256)), dim3(256), 0, t,
                      g.as<float>(), w.as<float>(), gx.as<float>()));
  }
  if (!gw.data && !gb.data) return abi::ok();
  Short t = s;
  t.yb = x.strides[0], t.yl = x.strides[1];
  return launch(c, &short_weight_kernel,
                dim3(blocks_exactly(s.C, 32), static_cast<unsigned>(s.K + 1)), dim3(32, 8), 0, t,
                g.as<float>(), x.as<float>(), gw.as<float>(), gb.as<float>());
}

}  // namespace

void provide_fft_conv(KernelTable& t) {
  provide<fft_conv_size, &size>(t);
  provide<fft_conv_spectrum, &spectrum>(t);
  provide<fft_conv_forward, &forward>(t);
  provide<fft_conv_backward, &backward>(t);
  provide<short_conv_forward, &short_forward>(t);
  provide<short_conv_backward, &short_backward>(t);
}

}  // namespace dropin::kernels::cuda
