// Latent attention. A causal scan in three passes: the state of every chunk of 64 tokens by itself,
// the running state before each chunk, then the outputs of all chunks at once. With lse_tl the log
// of what latent l has summed by token t (S0, m0, z0: the state before the chunk),
//   o_t = sum_l p_tl exp(m0_l - lse_tl) S0_l + sum_{s <= t} A_ts v_s,   A_ts = sum_l p_tl exp(k_sl
//   - lse_tl),
// in which no exponent is positive. Backward is the same scan from the end: with R_l = sum_{t
// beyond the chunk} p_tl exp(lse_El - lse_tl) go_t, E the chunk's last token, and Q_l the same sum
// of gp_tl instead of go_t,
//   gp_tl = exp(m0_l - lse_tl) go_t . S0_l + sum_{s <= t} exp(k_sl - lse_tl) go_t . v_s
//   gv_s  = sum_l exp(k_sl - lse_El) R_l + sum_{t >= s} A_ts go_t
//   gk_sl = exp(k_sl - lse_El) (v_s . R_l - Q_l) + sum_{t >= s} p_tl exp(k_sl - lse_tl) (go_t . v_s
//   - gp_tl).
// Without the causal order there is one state for all tokens, and the sums over s and t within a
// chunk fall away.
#include "kernels/cuda/device.h"
#include "kernels/latent/kernel.h"

namespace dropin::kernels::cuda {
namespace {

constexpr int kC = static_cast<int>(kLatentChunk), kMostLatents = 64, kThreads = 128;

struct Heads {
  const float* data;
  int64_t b, h, t;
  __device__ const float* row(int64_t batch, int64_t head, int64_t token) const {
    return data + batch * b + head * h + token * t;
  }
};
struct HeadsOut {
  float* data;
  int64_t b, h, t;
  __device__ float* row(int64_t batch, int64_t head, int64_t token) const {
    return data + batch * b + head * h + token * t;
  }
};
struct Job {
  Heads p, k, v, go;
  HeadsOut o, gp, gk, gv;
  int64_t B, H, T, chunks, size;
  int N, D;
  bool causal;
};
Heads heads(const TensorIn& t) { return {t.as<float>(), t.strides[0], t.strides[1], t.strides[2]}; }
HeadsOut heads(const TensorOut& t) {
  return {t.as<float>(), t.strides[0], t.strides[1], t.strides[2]};
}

/// exp(a - b) where b = -inf stands for nothing seen.
__device__ __forceinline__ float weight(float a, float b) {
  return b == -kInf<float> ? 0.0f : expf(a - b);
}
/// exp(lse_a - lse_b) of two states, lse = m + log z kept as its parts: log z would be lost beside
/// a large m. 0 when a saw nothing.
__device__ __forceinline__ float ratio(const float* a, const float* b, int N, int l) {
  if (!(a[N + l] > 0 || a[N + l] != a[N + l])) return 0.0f;
  return expf(a[l] - b[l]) * a[N + l] / b[N + l];
}
/// What latent l has summed by token t of a chunk: the maximum, and 1 / the sum in its units (0:
/// nothing).
struct Sums {
  float m[kC][kMostLatents], r[kC][kMostLatents];
  __device__ float share(float k, int t, int l) const {
    return r[t][l] == 0.0f ? 0.0f : expf(k - m[t][l]) * r[t][l];
  }
};

/// The state of one chunk by itself.
__global__ void local_state_kernel(Job j, float* local) {
  __shared__ float e[kC][kMostLatents];
  const int64_t c = blockIdx.x, b = blockIdx.y / j.H, h = blockIdx.y % j.H, t0 = c * kC;
  const int n = static_cast<int>(j.T - t0 < kC ? j.T - t0 : kC);
  float* out = local + (blockIdx.y * j.chunks + c) * j.size;
  for (int l = threadIdx.x; l < j.N; l += kThreads) {
    float m = -kInf<float>, z = 0;
    for (int s = 0; s < n; ++s) {
      const float v = j.k.row(b, h, t0 + s)[l];
      m = v > m || v != v ? v : m;
    }
    for (int s = 0; s < n; ++s) z += e[s][l] = weight(j.k.row(b, h, t0 + s)[l], m);
    out[l] = m, out[j.N + l] = z;
  }
  __syncthreads();
  for (int u = threadIdx.x; u < j.N * j.D; u += kThreads) {
    const int l = u / j.D, d = u % j.D;
    float sum = 0;
    for (int s = 0; s < n; ++s) sum += e[s][l] * j.v.row(b, h, t0 + s)[d];
    out[2 * j.N + u] = sum;
  }
}
/// before[c] = the state before chunk c; state: on entry the one before the first token, on exit
/// after the last. A block per head.
__global__ void running_state_kernel(Job j, const float* local, float* before, float* state) {
  const float* mine = local + blockIdx.x * j.chunks * j.size;
  float *at = before ? before + blockIdx.x * j.chunks * j.size : nullptr,
        *s = state + blockIdx.x * j.size;
  for (int u = threadIdx.x; u < j.N * j.D; u += blockDim.x) {
    const int l = u / j.D;
    float m = s[l], z = s[j.N + l], sum = s[2 * j.N + u];
    if (!(z > 0 || z != z)) m = -kInf<float>;
    for (int64_t c = 0; c < j.chunks; ++c) {
      const float* x = mine + c * j.size;
      if (at) {
        at[c * j.size + 2 * j.N + u] = sum;
        if (u % j.D == 0) at[c * j.size + l] = m, at[c * j.size + j.N + l] = z;
      }
      const float top = x[l] > m || x[l] != x[l] ? x[l] : m, f = weight(m, top),
                  g = weight(x[l], top);
      m = top, z = z * f + x[j.N + l] * g, sum = sum * f + x[2 * j.N + u] * g;
    }
    s[2 * j.N + u] = sum;
  }
  __syncthreads();
  for (int l = threadIdx.x; l < j.N; l += blockDim.x) {
    float m = s[l], z = s[j.N + l];
    if (!(z > 0 || z != z)) m = -kInf<float>;
    for (int64_t c = 0; c < j.chunks; ++c) {
      const float* x = mine + c * j.size;
      const float top = x[l] > m || x[l] != x[l] ? x[l] : m;
      z = z * weight(m, top) + x[j.N + l] * weight(x[l], top), m = top;
    }
    s[l] = m, s[j.N + l] = z;
  }
}

/// The sums of a chunk's tokens from the state before it (causal), or those of the one state.
__device__ inline void chunk_sums(const Job& j, int64_t b, int64_t h, int64_t t0, int n,
                                  const float* state, Sums& to) {
  for (int l = threadIdx.x; l < j.N; l += kThreads) {
    float m = state[l], z = state[j.N + l];
    if (!(z > 0 || z != z)) m = -kInf<float>, z = 0;
    for (int t = 0; t < n; ++t) {
      if (j.causal) {
        const float v = j.k.row(b, h, t0 + t)[l], top = v > m || v != v ? v : m;
        z = z * weight(m, top) + weight(v, top), m = top;
      }
      to.m[t][l] = m, to.r[t][l] = z > 0 || z != z ? 1.0f / z : 0.0f;
    }
  }
  __syncthreads();
}
/// dots[t][s] = go_t . v_s for s <= t, 0 beyond.
__device__ inline void chunk_dots(const Job& j, int64_t b, int64_t h, int64_t t0, int n,
                                  float (*dots)[kC]) {
  for (int u = threadIdx.x; u < n * n; u += kThreads) {
    const int t = u / n, s = u % n;
    float sum = 0;
    if (s <= t)
      for (int d = 0; d < j.D; ++d) sum += j.go.row(b, h, t0 + t)[d] * j.v.row(b, h, t0 + s)[d];
    dots[t][s] = sum;
  }
}
/// a[t][s] = A_ts, 0 beyond.
__device__ inline void chunk_mix(const Job& j, int64_t b, int64_t h, int64_t t0, int n,
                                 const Sums& sums, float (*a)[kC]) {
  for (int u = threadIdx.x; u < n * n; u += kThreads) {
    const int t = u / n, s = u % n;
    float sum = 0;
    if (s <= t && j.causal)
      for (int l = 0; l < j.N; ++l)
        sum += j.p.row(b, h, t0 + t)[l] * sums.share(j.k.row(b, h, t0 + s)[l], t, l);
    a[t][s] = sum;
  }
  __syncthreads();
}

__global__ void output_kernel(Job j, const float* before, int64_t per_head) {
  __shared__ Sums sums;
  __shared__ float a[kC][kC];
  const int64_t c = blockIdx.x, b = blockIdx.y / j.H, h = blockIdx.y % j.H, t0 = c * kC;
  const int n = static_cast<int>(j.T - t0 < kC ? j.T - t0 : kC);
  const float* state = before + blockIdx.y * per_head + (j.causal ? c * j.size : 0);
  chunk_sums(j, b, h, t0, n, state, sums);
  chunk_mix(j, b, h, t0, n, sums, a);
  for (int u = threadIdx.x; u < n * j.D; u += kThreads) {
    const int t = u / j.D, d = u % j.D;
    const float* p = j.p.row(b, h, t0 + t);
    float sum = 0;
    for (int l = 0; l < j.N; ++l)
      sum += p[l] * sums.share(state[l], t, l) * state[2 * j.N + l * j.D + d];
    if (j.causal)
      for (int s = 0; s <= t; ++s) sum += a[t][s] * j.v.row(b, h, t0 + s)[d];
    j.o.row(b, h, t0 + t)[d] = sum;
  }
}

/// gp, and what the chunk adds to the reverse state of the chunks before it: [Q N, R N D] in units
/// of the lse before the chunk (causal) or of the one lse.
__global__ void reverse_local_kernel(Job j, const float* before, int64_t per_head, float* local) {
  __shared__ Sums sums;
  __shared__ float dots[kC][kC];
  const int64_t c = blockIdx.x, b = blockIdx.y / j.H, h = blockIdx.y % j.H, t0 = c * kC;
  const int n = static_cast<int>(j.T - t0 < kC ? j.T - t0 : kC);
  const float* state = before + blockIdx.y * per_head + (j.causal ? c * j.size : 0);
  float* out = local + (blockIdx.y * j.chunks + c) * j.size;
  chunk_sums(j, b, h, t0, n, state, sums);
  if (j.causal) chunk_dots(j, b, h, t0, n, dots);
  __syncthreads();
  for (int u = threadIdx.x; u < n * j.N; u += kThreads) {
    const int t = u / j.N, l = u % j.N;
    float sum = 0;
    for (int d = 0; d < j.D; ++d) sum += j.go.row(b, h, t0 + t)[d] * state[2 * j.N + l * j.D + d];
    sum *= sums.share(state[l], t, l);
    if (j.causal)
      for (int s = 0; s <= t; ++s) sum += sums.share(j.k.row(b, h, t0 + s)[l], t, l) * dots[t][s];
    j.gp.row(b, h, t0 + t)[l] = sum;
  }
  __syncthreads();
  for (int u = threadIdx.x; u < j.N * (j.D + 1); u += kThreads) {
    const int l = u / (j.D + 1), d = u % (j.D + 1) - 1;
    const float seen =
        state[j.N + l] > 0 || state[j.N + l] != state[j.N + l] ? state[j.N + l] : 0.0f;
    float sum = 0;
    for (int t = 0; t < n && seen != 0; ++t)
      sum += j.p.row(b, h, t0 + t)[l] * (sums.share(state[l], t, l) * seen) *
             (d < 0 ? j.gp.row(b, h, t0 + t)[l] : j.go.row(b, h, t0 + t)[d]);
    if (d < 0)
      out[l] = sum;
    else
      out[j.N + l * j.D + d] = sum;
  }
}
/// after[c] = the reverse state of what follows chunk c, in units of the lse at its end; not
/// causal: of everything, once per head.
__global__ void reverse_running_kernel(Job j, const float* before, const float* local,
                                       float* after) {
  const float* mine = local + blockIdx.x * j.chunks * j.size;
  const float* states = before + blockIdx.x * j.chunks * j.size;
  for (int u = threadIdx.x; u < j.N * (j.D + 1); u += blockDim.x) {
    const int l = u < j.N ? u : (u - j.N) / j.D;
    float sum = 0;
    if (!j.causal) {
      for (int64_t c = 0; c < j.chunks; ++c) sum += mine[c * j.size + u];
      after[blockIdx.x * j.size + u] = sum;
      continue;
    }
    for (int64_t c = j.chunks - 1; c >= 0; --c) {
      after[(blockIdx.x * j.chunks + c) * j.size + u] = sum;
      // to the unit before this chunk: the lse at its end is that before the next one, or does not
      // matter when nothing follows
      sum = (c + 1 < j.chunks ? sum * ratio(states + c * j.size, states + (c + 1) * j.size, j.N, l)
                              : 0.0f) +
            mine[c * j.size + u];
    }
  }
}
__global__ void key_value_grad_kernel(Job j, const float* before, int64_t per_head,
                                      const float* after) {
  __shared__ Sums sums;
  __shared__ float a[kC][kC];
  const int64_t c = blockIdx.x, b = blockIdx.y / j.H, h = blockIdx.y % j.H, t0 = c * kC;
  const int n = static_cast<int>(j.T - t0 < kC ? j.T - t0 : kC);
  const float* state = before + blockIdx.y * per_head + (j.causal ? c * j.size : 0);
  const float* rest = after + (j.causal ? blockIdx.y * j.chunks + c : blockIdx.y) * j.size;
  chunk_sums(j, b, h, t0, n, state, sums);
  chunk_mix(j, b, h, t0, n, sums, a);
  for (int u = threadIdx.x; u < n * j.D; u += kThreads) {
    const int s = u / j.D, d = u % j.D;
    float sum = 0;
    for (int l = 0; l < j.N; ++l)
      sum += sums.share(j.k.row(b, h, t0 + s)[l], n - 1, l) * rest[j.N + l * j.D + d];
    if (j.causal)
      for (int t = s; t < n; ++t) sum += a[t][s] * j.go.row(b, h, t0 + t)[d];
    j.gv.row(b, h, t0 + s)[d] = sum;
  }
  __syncthreads();
  if (j.causal) chunk_dots(j, b, h, t0, n, a);
  __syncthreads();
  for (int u = threadIdx.x; u < n * j.N; u += kThreads) {
    const int s = u / j.N, l = u % j.N;
    const float ks = j.k.row(b, h, t0 + s)[l];
    float sum = 0;
    for (int d = 0; d < j.D; ++d) sum += j.v.row(b, h, t0 + s)[d] * rest[j.N + l * j.D + d];
    sum = sums.share(ks, n - 1, l) * (sum - rest[l]);
    if (j.causal)
      for (int t = s; t < n; ++t)
        sum +=
            j.p.row(b, h, t0 + t)[l] * sums.share(ks, t, l) * (a[t][s] - j.gp.row(b, h, t0 + t)[l]);
    j.gk.row(b, h, t0 + s)[l] = sum;
  }
}

Status describe(const LatentInputs& in, Job& j) {
  const TensorIn &p = in.p, &k = in.k, &v = in.v;
  if (p.sizes[3] > kMostLatents) return abi::unsupported("more than 64 latents");
  DROPIN_REQUIRE(p.ndim == 4 && k.ndim == 4 && v.ndim == 4 && p.dtype == DType::Float32 &&
                     k.dtype == DType::Float32 && v.dtype == DType::Float32 &&
                     p.sizes[0] * p.sizes[1] <= 65535,
                 "p, k, v must be [B, H, T, *] float32");
  j.p = heads(p), j.k = heads(k), j.v = heads(v);
  j.B = p.sizes[0], j.H = p.sizes[1], j.T = p.sizes[2], j.N = static_cast<int>(p.sizes[3]),
  j.D = static_cast<int>(v.sizes[3]);
  j.chunks = ceil_div(j.T, kC), j.size = latent_state_size(j.N, j.D), j.causal = in.causal;
  return abi::ok();
}

Status forward(const KernelContext& c, const LatentInputs& in, const TensorOut& o,
               const TensorOut& state, const TensorOut& kept) {
  const bool causal = in.causal;
  Job j{};
  DROPIN_TRY(describe(in, j));
  j.o = heads(o);
  const int64_t all = j.B * j.H;
  if (all == 0 || j.T == 0) return abi::ok();
  const dim3 grid(static_cast<unsigned>(j.chunks), static_cast<unsigned>(all));
  DROPIN_SCRATCH(float, local, c, all* j.chunks* j.size);
  DROPIN_SCRATCH(float, running, c, causal && !kept.data ? all * j.chunks * j.size : 0);
  float* before = causal ? kept.data ? kept.as<float>() : running.get() : nullptr;
  DROPIN_TRY(launch(c, &local_state_kernel, grid, dim3(kThreads), 0, j, local.get()));
  DROPIN_TRY(launch(c, &running_state_kernel, dim3(static_cast<unsigned>(all)), dim3(256), 0, j,
                    local.get(), before, state.as<float>()));
  return launch(c, &output_kernel, grid, dim3(kThreads), 0, j, causal ? before : state.as<float>(),
                causal ? j.chunks * j.size : j.size);
}

Status backward(const KernelContext& c, const TensorIn& go, const LatentInputs& in,
                const TensorIn& kept, const LatentGradients& out) {
  Job j{};
  DROPIN_TRY(describe(in, j));
  j.go = heads(go), j.gp = heads(out.p), j.gk = heads(out.k), j.gv = heads(out.v);
  const int64_t all = j.B * j.H, per_head = in.causal ? j.chunks * j.size : j.size;
  if (all == 0 || j.T == 0) return abi::ok();
  const dim3 grid(static_cast<unsigned>(j.chunks), static_cast<unsigned>(all));
  DROPIN_SCRATCH(float, local, c, all* j.chunks* j.size);
  DROPIN_SCRATCH(float, after, c, all* per_head);
  DROPIN_TRY(launch(c, &reverse_local_kernel, grid, dim3(kThreads), 0, j, kept.as<float>(),
                    per_head, local.get()));
  DROPIN_TRY(launch(c, &reverse_running_kernel, dim3(static_cast<unsigned>(all)), dim3(256), 0, j,
                    kept.as<float>(), local.get(), after.get()));
  return launch(c, &key_value_grad_kernel, grid, dim3(kThreads), 0, j, kept.as<float>(), per_head,
                after.get());
}

}  // namespace

void provide_latent(KernelTable& t) {
  provide<latent_forward, &forward>(t);
  provide<latent_backward, &backward>(t);
}

}  // namespace dropin::kernels::cuda
