// Block-wise 8-bit states: a CUDA block takes one block of values at a time. The map and its
// midpoints lie in shared memory; a code is guessed by the lines of map.h, good to one, and set
// right by the midpoints beside it: two look-ups in place of a bisection's eight.
#include "kernels/cuda/device.h"
#include "kernels/optim8/kernel.h"
#include "kernels/optim8/map.h"

namespace dropin::kernels::cuda {
namespace {

constexpr float kMost = 3.402823466e38f;

struct Map {  // by value to a kernel: 2 KiB
  float value[256], mid[256];
  float start, bend[DynamicMap::kDecades], less[DynamicMap::kDecades], slope, more, end;
  int zero, base;
};
Map map_of(bool is_signed) {
  Map m{};
  const DynamicMap& d = dynamic_map(is_signed);
  for (int i = 0; i < 256; ++i) m.value[i] = d.value[i];
  for (int i = 0; i < 255; ++i) m.mid[i] = d.mid[i];
  for (int i = 0; i < DynamicMap::kDecades; ++i) m.bend[i] = d.bend[i], m.less[i] = d.less[i];
  m.start = d.start[0], m.slope = d.slope, m.more = d.more, m.end = d.end, m.zero = d.zero,
  m.base = d.base;
  return m;
}
/// The code nearest to x in [-1, 1] (unsigned maps: [0, 1]); ties: the even code. mid: m's, in
/// shared memory.
__device__ __forceinline__ int nearest(const Map& m, const float* mid, float x) {
  const float a = fabsf(x);
  float y = m.start;
  DROPIN_UNROLL
  for (int i = 1; i < DynamicMap::kDecades; ++i) y = fmaf(m.less[i], fminf(a, m.bend[i]), y);
  y = fmaf(m.slope, a, fmaf(m.more, fmaxf(a, m.end), y));
  const float below = bits_float(float_bits(y) & static_cast<int>(0xff800000));
  const int steps = static_cast<int>(fminf(y, 2.0f * y - below - 0.4f)) - m.base;
  const int c = x < 0 ? m.zero - steps : m.zero + steps;
  return settled(mid, c < 0 ? 0 : c > 255 ? 255 : c, x);
}
__device__ inline void load_map(const Map& m, float* value, float* mid) {
  for (int i = threadIdx.x; i < 256; i += blockDim.x) {
    if (value) value[i] = m.value[i];
    if (mid) mid[i] = m.mid[i];
  }
}
__device__ __forceinline__ bool finite(float v) { return fabsf(v) <= kMost; }
__device__ __forceinline__ float scaled(float v, float top) { return top > 0 ? v / top : 0.0f; }

/// The code of state v in a block of this largest magnitude: a negative one keeps its sign.
__device__ __forceinline__ int code_of_state(const Map& m, const float* mid, float v, float top) {
  const int c = nearest(m, mid, scaled(v, top));
  return c == m.zero && v < 0 ? c - 1 : c;
}

__global__ void quantize_kernel(Map m, const float* x, int64_t n, bool is_signed, int64_t block,
                                std::uint8_t* codes, float* absmax) {
  __shared__ float mid[256], room[32];
  load_map(m, nullptr, mid);
  __syncthreads();
  for (int64_t b = blockIdx.x; b * block < n; b += gridDim.x) {
    const int64_t from = b * block, end = from + block < n ? from + block : n;
    float top = 0;
    for (int64_t i = from + threadIdx.x; i < end; i += blockDim.x) {
      const float v = finite(x[i]) ? fabsf(x[i]) : 0.0f;
      top = v > top ? v : top;
    }
    top = block_reduce(top, Larger(), 0.0f, room);
    if (threadIdx.x == 0) absmax[b] = top;
    for (int64_t i = from + threadIdx.x; i < end; i += blockDim.x) {
      float v = finite(x[i]) ? x[i] : 0.0f;
      if (!is_signed && v < 0) v = 0;
      codes[i] = static_cast<std::uint8_t>(nearest(m, mid, scaled(v, top)));
    }
  }
}
__global__ void dequantize_kernel(Map m, const std::uint8_t* codes, const float* absmax, int64_t n,
                                  int64_t block, float* y) {
  __shared__ float value[256];
  load_map(m, value, nullptr);
  __syncthreads();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    y[i] = value[codes[i]] * absmax[i / block];
}

struct Update {
  Rule8 rule;
  float rate, root, eps, decay, keep1, take1, keep2, take2, scale;
  bool first;
  /// p, s1, s2 from the gradient; returns it with its decay.
  __device__ float operator()(float& p, float g, float& s1, float& s2) const {
    switch (rule) {
      case Rule8::Adam:
        s1 = fmaf(keep1, s1, take1 * g);
        s2 = fmaf(take2 * g, g, keep2 * s2);
        p = p * decay +
            rate * s1 / (sqrtf(s2) * root + eps);  // an s2 beyond all floats moves nothing
        s2 = s2 < kMost ? s2 : kMost;
        break;
      case Rule8::Momentum:
        g = fmaf(decay, p, g);
        s1 = first ? g : fmaf(keep1, s1, g);
        s1 = s1 < -kMost ? -kMost : s1 > kMost ? kMost : s1;
        p = fmaf(rate, s1, p);
        break;
      case Rule8::Lion: {
        const float c = fmaf(keep1, s1, take1 * g);
        p = p * decay + (c > 0 ? rate : c < 0 ? -rate : 0.0f);
        s1 = fmaf(keep2, s1, take2 * g);
        break;
      }
      default:
        g = fmaf(decay, p, g);
        s1 = rule == Rule8::RmsProp ? fmaf(take2 * g, g, keep2 * s1) : fmaf(g, g, s1);
        p = p + rate * g / (sqrtf(s1) + eps);
        s1 = s1 < kMost ? s1 : kMost;
        break;
    }
    return g;
  }
};

struct Arrays {
  float* p;
  const float* g;
  void *s1, *s2;
  float *absmax1, *absmax2;
  int64_t n, block;
};

__global__ void step_float_kernel(Update u, Arrays t) {
  float *a = static_cast<float*>(t.s1), *b = static_cast<float*>(t.s2);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < t.n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    float p = t.p[i], s1 = a[i], s2 = b ? b[i] : 0.0f;
    const bool good = finite(u(p, t.g[i] * u.scale, s1, s2));
    if (good) t.p[i] = p;
    a[i] = good ? s1 + 0.0f : 0.0f;
    if (b) b[i] = good ? s2 : 0.0f;
  }
}
// kKeep values a thread stay in registers between the step and the encoding, which needs the
// block's largest; longer blocks compute them again.
constexpr int kThreads = 128, kKeep = 4;
__global__ void __launch_bounds__(kThreads)
    step_bytes_kernel(Update u, Arrays t, Map signed_map, Map unsigned_map) {
  __shared__ float value1[256], mid1[256], value2[256], mid2[256], room[32];
  const bool two = u.rule == Rule8::Adam;
  load_map(signed_map, value1, mid1);
  load_map(unsigned_map, value2, mid2);
  __syncthreads();
  std::uint8_t *c1 = static_cast<std::uint8_t*>(t.s1), *c2 = static_cast<std::uint8_t*>(t.s2);
  for (int64_t b = blockIdx.x; b * t.block < t.n; b += gridDim.x) {
    const int64_t from = b * t.block, end = from + t.block < t.n ? from + t.block : t.n;
    const float old1 = t.absmax1[b], old2 = two ? t.absmax2[b] : 0.0f;
    auto moved = [&](int64_t i, float& p, float& s1, float& s2) {
      s1 = value1[c1[i]] * old1;
      s2 = two ? value2[c2[i]] * old2 : 0.0f;
      const float before = p;
      const bool good = finite(u(p, t.g[i] * u.scale, s1, s2));
      if (!good) p = before, s1 = s2 = 0;
      s1 += 0.0f;  // -0 becomes 0
    };
    float n1[kKeep], n2[kKeep], np[kKeep], top1 = 0, top2 = 0;
    const bool fits = t.block <= kThreads * kKeep;
    int k = 0;
    for (int64_t i = from + threadIdx.x; i < end; i += kThreads, ++k) {
      float p = t.p[i], s1, s2;
      moved(i, p, s1, s2);
      if (fits) {
        DROPIN_UNROLL
        for (int j = 0; j < kKeep; ++j)  // an index known to the compiler keeps them in registers
          if (j == k) np[j] = p, n1[j] = s1, n2[j] = s2;
      }
      top1 = fabsf(s1) > top1 ? fabsf(s1) : top1;
      top2 = s2 > top2 ? s2 : top2;
    }
    top1 = block_reduce(top1, Larger(), 0.0f, room);
    if (two) top2 = block_reduce(top2, Larger(), 0.0f, room);
    k = 0;
    for (int64_t i = from + threadIdx.x; i < end; i += kThreads, ++k) {
      float p = 0, s1 = 0, s2 = 0;
      if (fits) {
        DROPIN_UNROLL
        for (int j = 0; j < kKeep; ++j)
          if (j == k) p = np[j], s1 = n1[j], s2 = n2[j];
      } else {
        p = t.p[i];
        moved(i, p, s1, s2);
      }
      t.p[i] = p;
      c1[i] = static_cast<std::uint8_t>(code_of_state(signed_map, mid1, s1, top1));
      if (two) c2[i] = static_cast<std::uint8_t>(code_of_state(unsigned_map, mid2, s2, top2));
    }
    if (threadIdx.x == 0) {
      t.absmax1[b] = top1;
      if (two) t.absmax2[b] = top2;
    }
    __syncthreads();
  }
}

bool is(const TensorIn& t, DType dtype, int64_t n) {
  return t.dtype == dtype && t.numel() == n && t.contiguous() && (t.data || n == 0);
}

Status quantize(const KernelContext& c, const TensorIn& x, bool is_signed, int64_t block,
                const TensorOut& codes, const TensorOut& absmax) {
  const int64_t n = x.numel();
  DROPIN_REQUIRE(block >= 1, "block must be positive");
  DROPIN_REQUIRE(
      is(x, DType::Float32, n) && is(codes, DType::UInt8, n) &&
          is(absmax, DType::Float32, ceil_div(n, block)),
      "x must be contiguous float32, codes uint8 of its size, absmax float32 of a value per block");
  return launch(c, &quantize_kernel, dim3(blocks_for(c, ceil_div(n, block), 1)),
                dim3(block <= 64 ? 32 : 128), 0, map_of(is_signed), x.as<float>(), n, is_signed,
                block, codes.as<std::uint8_t>(), absmax.as<float>());
}
Status dequantize(const KernelContext& c, const TensorIn& codes, const TensorIn& absmax,
                  bool is_signed, int64_t block, const TensorOut& y) {
  const int64_t n = codes.numel();
  DROPIN_REQUIRE(block >= 1, "block must be positive");
  DROPIN_REQUIRE(
      is(codes, DType::UInt8, n) && is(absmax, DType::Float32, ceil_div(n, block)) &&
          is(y, DType::Float32, n),
      "codes must be contiguous uint8, y float32 of its size, absmax float32 of a value per block");
  return launch(c, &dequantize_kernel, dim3(blocks_for(c, n, 256)), dim3(256), 0, map_of(is_signed),
                codes.as<std::uint8_t>(), absmax.as<float>(), n, block, y.as<float>());
}
Status step(const KernelContext& c, const Step8& a, const TensorOut& p, const TensorIn& g,
            const State8& state1, const State8& state2) {
  const TensorOut &s1 = state1.values, &absmax1 = state1.absmax, &s2 = state2.values,
                  &absmax2 = state2.absmax;
  const int64_t n = p.numel();
  const bool bytes = absmax1.data != nullptr, two = a.rule == Rule8::Adam;
  const DType state = bytes ? DType::UInt8 : DType::Float32;
  if (n == 0) return abi::ok();
  DROPIN_REQUIRE(a.block >= 1, "block must be positive");
  DROPIN_REQUIRE(is(p, DType::Float32, n) && is(g, DType::Float32, n),
                 "p and g must be contiguous float32 and of one size");
  DROPIN_REQUIRE(
      is(s1, state, n) && (!two || is(s2, state, n)) &&
          (!bytes || is(absmax1, DType::Float32, ceil_div(n, a.block))) &&
          (!bytes || !two || is(absmax2, DType::Float32, ceil_div(n, a.block))),
      "states must be contiguous, of p's size, uint8 with an absmax per block, or float32");
  const double t = static_cast<double>(a.step);
  const bool adam = a.rule == Rule8::Adam;
  const Update u{a.rule,
                 static_cast<float>(adam ? -a.lr / (1 - pow(a.beta1, t)) : -a.lr),
                 static_cast<float>(adam ? 1 / sqrt(1 - pow(a.beta2, t)) : 1),
                 static_cast<float>(a.eps),
                 static_cast<float>(adam || a.rule == Rule8::Lion ? 1 - a.lr * a.weight_decay
                                                                  : a.weight_decay),
                 static_cast<float>(a.beta1),
                 static_cast<float>(1 - a.beta1),
                 static_cast<float>(a.beta2),
                 static_cast<float>(1 - a.beta2),
                 static_cast<float>(a.gradient_scale),
                 a.step == 1};
  const Arrays arrays{p.as<float>(),
                      g.as<float>(),
                      s1.as<void>(),
                      two ? s2.as<void>() : nullptr,
                      absmax1.as<float>(),
                      absmax2.as<float>(),
                      n,
                      a.block};
  if (!bytes)
    return launch(c, &step_float_kernel, dim3(blocks_for(c, n, 256)), dim3(256), 0, u, arrays);
  return launch(c, &step_bytes_kernel, dim3(blocks_for(c, ceil_div(n, a.block), 1)), dim3(kThreads),
                0, u, arrays, map_of(true), map_of(false));
}

}  // namespace

void provide_optim8(KernelTable& t) {
  provide<blockwise_quantize, &quantize>(t);
  provide<blockwise_dequantize, &dequantize>(t);
  provide<optimizer8_step, &step>(t);
}

}  // namespace dropin::kernels::cuda
