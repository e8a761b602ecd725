// BitNet products. Weights stay packed: a warp per output feature walks its row's bytes, unpacks
// four codes into the bytes of a word and takes dp4a products with the tokens' 8-bit activations;
// sum q (code - 1) = sum q code - sum q, so no sign is unpacked.
#include "kernels/bitlinear/kernel.h"
#include "kernels/cuda/device.h"

namespace dropin::kernels::cuda {
namespace {

template <class T>
__device__ bool finite(T v) {
  return fabs(v) <= (sizeof(T) == 4 ? T(3.402823466e38) : T(1.7976931348623157e308));
}

// Extremes of a slice of a token: a warp each. lowest may be null.
template <class T>
__global__ void range_kernel(bool shift, const T* h, int64_t M, int64_t K, int64_t groups,
                             T* lowest, T* highest, bool* ok) {
  const int64_t n = K / groups, warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       u < M * groups; u += warps) {
    const T* p = h + u / groups * K + u % groups * n;
    const T inf = sizeof(T) == 4 ? T(bits_float(0x7f800000)) : T(bits_double(0x7ff0000000000000ll));
    T lo = inf, hi = shift ? -inf : T(0);
    int good = 1;
    for (int64_t i = lane; i < n; i += 32) {
      const T v = p[i], w = shift ? v : static_cast<T>(fabs(v));
      lo = v < lo ? v : lo;
      hi = w > hi ? w : hi;
      good = good && finite(v);
    }
    lo = warp_reduce(lo, [](T a, T b) { return a < b ? a : b; });
    hi = warp_reduce(hi, Larger());
    good = __all_sync(kFull, good);
    if (lane == 0) lowest[u] = lo, highest[u] = hi, ok[u] = good;
  }
}
// t (and e) of each slice, for each token or of all together.
template <class T>
__global__ void scale_kernel(BitActivations a, int64_t M, const T* lowest, const T* highest,
                             const bool* ok, T* t, T* e) {
  const T nan = sizeof(T) == 4 ? T(bits_float(0x7fc00000)) : T(bits_double(0x7ff8000000000000ll)),
          inf = sizeof(T) == 4 ? T(bits_float(0x7f800000)) : T(bits_double(0x7ff0000000000000ll));
  const int64_t all = a.per_tensor ? a.groups : M * a.groups;
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; u < all;
       u += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    T lo = inf, hi = a.shift ? -inf : T(0);
    bool good = true;
    if (a.per_tensor) {
      for (int64_t r = 0; r < M; ++r) {
        const int64_t k = r * a.groups + u;
        lo = lowest[k] < lo ? lowest[k] : lo;
        hi = highest[k] > hi ? highest[k] : hi;
        good = good && ok[k];
      }
      if (M == 0) lo = hi = 0;
    } else {
      lo = lowest[u], hi = highest[u], good = ok[u];
    }
    T v = a.shift ? hi - lo : hi;
    if (v < static_cast<T>(1e-5)) v = static_cast<T>(1e-5);
    t[u] = good && finite(v) ? v : nan;
    if (a.shift) e[u] = good ? lo : nan;
  }
}
template <class T>
__global__ void quantize_kernel(BitActivations a, const T* h, int64_t M, int64_t K, const T* t,
                                const T* e, std::int8_t* q) {
  const int64_t n = K / a.groups;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < M * K;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t s = i % K / n, at = a.per_tensor ? s : i / K * a.groups + s;
    const T scale = t[at];
    T v = (h[i] - (a.shift ? e[at] : T(0))) * (static_cast<T>(a.qmax) / scale);
    const T least = a.shift ? T(0) : T(-128);
    v = v < least ? least : v > T(127) ? T(127) : v;
    q[i] = scale != scale ? std::int8_t(0) : static_cast<std::int8_t>(rint(v));
  }
}
template <class T>
__global__ void dequantize_kernel(BitActivations a, const std::int8_t* q, int64_t M, int64_t K,
                                  const T* t, const T* e, T* h) {
  const int64_t n = K / a.groups;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < M * K;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t s = i % K / n, at = a.per_tensor ? s : i / K * a.groups + s;
    h[i] = static_cast<T>(q[i]) * (t[at] / static_cast<T>(a.qmax)) + (a.shift ? e[at] : T(0));
  }
}

Status quantize(const KernelContext& c, const BitActivations& a, const TensorIn& h,
                const TensorOut& q, const TensorOut& t, const TensorOut& e) {
  DROPIN_REQUIRE(h.ndim == 2 && h.contiguous() && q.contiguous() && a.groups >= 1 &&
                     h.sizes[1] % a.groups == 0 && t.dtype == h.dtype,
                 "h must be [M, K] with K divisible by the slices, t of its type");
  const int64_t M = h.sizes[0], K = h.sizes[1];
  return visit_real(h.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    DROPIN_SCRATCH(T, lowest, c, M * a.groups);
    DROPIN_SCRATCH(T, highest, c, M * a.groups);
    DROPIN_SCRATCH(bool, ok, c, M* a.groups);
    DROPIN_TRY(launch(c, &range_kernel<T>, dim3(blocks_for(c, M * a.groups, 4)), dim3(128), 0,
                      a.shift, h.as<T>(), M, K, a.groups, lowest.get(), highest.get(), ok.get()));
    DROPIN_TRY(launch(c, &scale_kernel<T>, dim3(blocks_for(c, t.numel(), 64)), dim3(64), 0, a, M,
                      lowest.get(), highest.get(), ok.get(), t.as<T>(), e.as<T>()));
    return launch(c, &quantize_kernel<T>, dim3(blocks_for(c, M * K, 256)), dim3(256), 0, a,
                  h.as<T>(), M, K, t.as<T>(), e.as<T>(), q.as<std::int8_t>());
  });
}
Status dequantize(const KernelContext& c, const BitActivations& a, const TensorIn& q,
                  const TensorIn& t, const TensorIn& e, const TensorOut& h) {
  DROPIN_REQUIRE(h.ndim == 2 && h.contiguous() && q.contiguous() && a.groups >= 1 &&
                     h.sizes[1] % a.groups == 0 && t.dtype == h.dtype,
                 "h must be [M, K] with K divisible by the slices, t of its type");
  return visit_real(h.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &dequantize_kernel<T>, dim3(blocks_for(c, h.numel(), 256)), dim3(256), 0, a,
                  q.as<std::int8_t>(), h.sizes[0], h.sizes[1], t.as<T>(), e.as<T>(), h.as<T>());
  });
}

// --- weights

__global__ void row_sums_kernel(const float* w, int64_t N, int64_t K,
                                double* sums) {  // [N, 2]: of w, of |w|
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; r < N;
       r += warps) {
    double plain = 0, size = 0;
    for (int64_t i = lane; i < K; i += 32)
      plain += static_cast<double>(w[r * K + i]), size += static_cast<double>(fabsf(w[r * K + i]));
    plain = warp_sum(plain);
    size = warp_sum(size);
    if (lane == 0) sums[2 * r] = plain, sums[2 * r + 1] = size;
  }
}
__global__ void group_kernel(bool ternary, const double* sums, int64_t N, int64_t K, int64_t groups,
                             float* scale, float* threshold) {
  __shared__ double room[32];
  const int64_t g = blockIdx.x, rows = N / groups;
  double plain = 0, size = 0;
  for (int64_t r = threadIdx.x; r < rows; r += blockDim.x)
    plain += sums[2 * (g * rows + r)], size += sums[2 * (g * rows + r) + 1];
  plain = block_sum(plain, room);
  size = block_sum(size, room);
  if (threadIdx.x == 0) {
    const double count = static_cast<double>(rows * K);
    float s = static_cast<float>(size / count);
    if (ternary && !(s > 1e-5f)) s = s != s ? s : 1e-5f;
    scale[g] = s;
    threshold[g] = ternary ? 0.5f * s : static_cast<float>(plain / count);
  }
}
__global__ void pack_kernel(bool ternary, const float* w, int64_t N, int64_t K, int64_t groups,
                            const float* threshold, std::uint8_t* packed) {
  const int64_t each = ternary ? 4 : 8, bytes = ceil_div(K, each), rows = N / groups;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < N * bytes;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t r = i / bytes, k0 = i % bytes * each;
    const float limit = threshold[r / rows];
    unsigned b = 0;
    for (int j = 0; j < each; ++j) {
      if (k0 + j >= K) {
        b |= ternary ? 1u << (2 * j) : 0u;
        continue;
      }
      const float v = w[r * K + k0 + j];
      b |= ternary ? static_cast<unsigned>(1 + (v > limit) - (v < -limit)) << (2 * j)
                   : static_cast<unsigned>(v > limit) << j;
    }
    packed[i] = static_cast<std::uint8_t>(b);
  }
}
__global__ void unpack_kernel(bool ternary, const std::uint8_t* packed, int64_t N, int64_t K,
                              int64_t groups, const float* scale, float* w) {
  const int64_t each = ternary ? 4 : 8, bytes = ceil_div(K, each), rows = N / groups;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < N * K;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t r = i / K, k = i % K;
    const unsigned b = packed[r * bytes + k / each];
    const int v =
        ternary ? static_cast<int>(b >> (2 * (k % 4)) & 3) - 1 : (b >> (k % 8) & 1 ? 1 : -1);
    w[i] = static_cast<float>(v) * scale[r / rows];
  }
}
Status pack(const KernelContext& c, bool ternary, const TensorIn& w, const TensorOut& packed,
            const TensorOut& scale) {
  DROPIN_REQUIRE(w.ndim == 2 && w.contiguous() && w.dtype == DType::Float32 && scale.numel() > 0 &&
                     w.sizes[0] % scale.numel() == 0,
                 "w must be [N, K] float32, scale float32 [groups of rows]");
  const int64_t N = w.sizes[0], K = w.sizes[1], groups = scale.numel();
  DROPIN_SCRATCH(double, sums, c, 2 * N);
  DROPIN_SCRATCH(float, threshold, c, groups);
  DROPIN_TRY(launch(c, &row_sums_kernel, dim3(blocks_for(c, N, 4)), dim3(128), 0, w.as<float>(), N,
                    K, sums.get()));
  DROPIN_TRY(launch(c, &group_kernel, dim3(static_cast<unsigned>(groups)), dim3(128), 0, ternary,
                    sums.get(), N, K, groups, scale.as<float>(), threshold.get()));
  return launch(c, &pack_kernel, dim3(blocks_for(c, packed.numel(), 128)), dim3(128), 0, ternary,
                w.as<float>(), N, K, groups, threshold.get(), packed.as<std::uint8_t>());
}
Status unpack(const KernelContext& c, bool ternary, const TensorIn& packed, const TensorIn& scale,
              const TensorOut& w) {
  DROPIN_REQUIRE(
      w.ndim == 2 && w.contiguous() && scale.numel() > 0 && w.sizes[0] % scale.numel() == 0,
      "w must be [N, K] float32, scale float32 [groups of rows]");
  return launch(c, &unpack_kernel, dim3(blocks_for(c, w.numel(), 256)), dim3(256), 0, ternary,
                packed.as<std::uint8_t>(), w.sizes[0], w.sizes[1], scale.numel(), scale.as<float>(),
                w.as<float>());
}

// --- the product

#ifdef __CUDACC__
__device__ __forceinline__ int dot4(int a, int b, int c) { return __dp4a(a, b, c); }
#else
inline int dot4(int a, int b, int c) {
  for (int i = 0; i < 4; ++i)
    c += static_cast<std::int8_t>(a >> (8 * i)) * static_cast<std::int8_t>(b >> (8 * i));
  return c;
}
#endif
/// Four codes as the bytes of a word: 2 bits each (a byte), or 1 bit each (a nibble).
__device__ __forceinline__ int spread2(unsigned b) {
  return static_cast<int>((b & 3u) | (b & 0xcu) << 6 | (b & 0x30u) << 12 | (b & 0xc0u) << 18);
}
__device__ __forceinline__ int spread1(unsigned n) {
  return static_cast<int>((n & 1u) | (n & 2u) << 7 | (n & 4u) << 14 | (n & 8u) << 21);
}

struct Product {
  int64_t M, N, K, bytes, rows;  // rows per scale
  const std::int8_t* q;
  const float *t, *e, *scale, *bias;
  const std::uint8_t* packed;
  float* y;
};
constexpr int kTokens = 4;

// By words: K and the slices are multiples of 16, and every row of packed weights starts on 4 bytes
// (K a multiple of 32 for 1 bit, 16 for ternary).
template <bool kTernary>
__global__ void product_kernel(BitActivations a, Product p) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32), slice = p.K / a.groups;
  constexpr int kPer = kTernary ? 16 : 32;  // codes in four bytes
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       u < p.N * ceil_div(p.M, kTokens); u += warps) {
    const int64_t n = u % p.N, m0 = u / p.N * kTokens;
    float total[kTokens] = {};
    for (int64_t s = 0; s < a.groups; ++s) {
      int dot[kTokens] = {}, plain[kTokens] = {}, ones = 0;
      for (int64_t k = s * slice + lane * kPer; k < (s + 1) * slice; k += 32 * kPer) {
        const unsigned w =
            *reinterpret_cast<const unsigned*>(p.packed + n * p.bytes + k / (kPer / 4));
        DROPIN_UNROLL
        for (int j = 0; j < kPer / 4; ++j) {
          const int code = kTernary ? spread2(w >> (8 * j) & 0xffu) : spread1(w >> (4 * j) & 0xfu);
          ones = dot4(code, 0x01010101, ones);
          DROPIN_UNROLL
          for (int m = 0; m < kTokens; ++m) {
            if (m0 + m >= p.M) continue;
            const int q = *reinterpret_cast<const int*>(p.q + (m0 + m) * p.K + k + 4 * j);
            dot[m] = dot4(q, code, dot[m]);
            plain[m] = dot4(q, 0x01010101, plain[m]);
          }
        }
      }
      ones = warp_sum(ones);
      const float sum_w = static_cast<float>(kTernary ? ones - static_cast<int>(slice)
                                                      : 2 * ones - static_cast<int>(slice));
      for (int m = 0; m < kTokens; ++m) {
        const int d = warp_sum(dot[m]), q = warp_sum(plain[m]);
        if (m0 + m >= p.M) continue;
        const int64_t at = a.per_tensor ? s : (m0 + m) * a.groups + s;
        total[m] += static_cast<float>(kTernary ? d - q : 2 * d - q) *
                        (p.t[at] / static_cast<float>(a.qmax)) +
                    (a.shift ? p.e[at] * sum_w : 0.0f);
      }
    }
    if (lane == 0)
      for (int m = 0; m < kTokens && m0 + m < p.M; ++m)
        p.y[(m0 + m) * p.N + n] = total[m] * p.scale[n / p.rows] + (p.bias ? p.bias[n] : 0.0f);
  }
}
// Code by code, for every other shape.
__global__ void product_any_kernel(bool ternary, BitActivations a, Product p) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32), slice = p.K / a.groups;
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       u < p.N * p.M; u += warps) {
    const int64_t n = u % p.N, m = u / p.N;
    float total = 0;
    for (int64_t s = 0; s < a.groups; ++s) {
      int dot = 0, sum = 0;
      for (int64_t k = s * slice + lane; k < (s + 1) * slice; k += 32) {
        const unsigned b = p.packed[n * p.bytes + (ternary ? k / 4 : k / 8)];
        const int v =
            ternary ? static_cast<int>(b >> (2 * (k % 4)) & 3) - 1 : (b >> (k % 8) & 1 ? 1 : -1);
        dot += v * p.q[m * p.K + k];
        sum += v;
      }
      dot = warp_sum(dot);
      sum = warp_sum(sum);
      const int64_t at = a.per_tensor ? s : m * a.groups + s;
      total += static_cast<float>(dot) * (p.t[at] / static_cast<float>(a.qmax)) +
               (a.shift ? p.e[at] * static_cast<float>(sum) : 0.0f);
    }
    if (lane == 0) p.y[m * p.N + n] = total * p.scale[n / p.rows] + (p.bias ? p.bias[n] : 0.0f);
  }
}
Status linear(const KernelContext& c, bool ternary, const BitActivations& a, const BitCodes& h,
              const BitWeight& weight, const TensorIn& bias, const TensorOut& y) {
  const TensorIn &q = h.q, &packed = weight.packed, &scale = weight.scale;
  DROPIN_REQUIRE(q.ndim == 2 && y.ndim == 2 && q.sizes[0] == y.sizes[0] && a.groups >= 1 &&
                     q.sizes[1] % a.groups == 0 && q.contiguous() && y.contiguous() &&
                     packed.contiguous(),
                 "q must be [M, K] and y [M, N]");
  const int64_t K = q.sizes[1], N = y.sizes[1], M = y.sizes[0];
  if (M == 0 || N == 0) return abi::ok();
  const Product p{M,
                  N,
                  K,
                  (K + (ternary ? 3 : 7)) / (ternary ? 4 : 8),
                  N / scale.numel(),
                  q.as<std::int8_t>(),
                  h.t.as<float>(),
                  h.e.as<float>(),
                  scale.as<float>(),
                  bias.as<float>(),
                  packed.as<std::uint8_t>(),
                  y.as<float>()};
  const int64_t step = ternary ? 16 : 32;
  if (K % step == 0 && K / a.groups % step == 0 && aligned(q.data, 4) && aligned(packed.data, 4))
    return launch(c, ternary ? &product_kernel<true> : &product_kernel<false>,
                  dim3(blocks_for(c, N * ceil_div(M, kTokens), 4, 32)), dim3(128), 0, a, p);
  return launch(c, &product_any_kernel, dim3(blocks_for(c, N * M, 4, 32)), dim3(128), 0, ternary, a,
                p);
}

}  // namespace

void provide_bitlinear(KernelTable& t) {
  provide<bit_quantize_activations, &quantize>(t);
  provide<bit_dequantize_activations, &dequantize>(t);
  provide<bit_pack_weight, &pack>(t);
  provide<bit_unpack_weight, &unpack>(t);
  provide<bit_linear, &linear>(t);
}

}  // namespace dropin::kernels::cuda
