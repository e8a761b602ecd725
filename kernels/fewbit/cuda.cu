// Few-bit activations: a thread takes eight values, whose codes are `bits` whole bytes. Forward is
// one pass: function, code, packing.
#include "kernels/cuda/device.h"
#include "kernels/fewbit/kernel.h"

namespace dropin::kernels::cuda {
namespace {

template <class T>
__device__ T sigmoid_of(T x) {
  return T(1) / (T(1) + exp(-x));
}
template <class T>
__device__ T softplus_of(T x) {
  return x > T(20) ? x : log1p(exp(x));
}
template <class T>
__device__ T weighted_of(T x, T w) {
  return w == T(0) && x == x ? T(0) * (x < T(0) ? T(-1) : T(1)) : x * w;
}  // -inf 0 is 0
template <class T>
__device__ T between(T x, T lo, T hi) {
  return x != x ? x : x < lo ? lo : x > hi ? hi : x;
}

template <class T>
__device__ __noinline__ T value_of(FewBitFunction f, T x, T a, T b) {
  switch (f) {
    case FewBitFunction::Gelu:
      return weighted_of(x, T(0.5) * erfc(x * T(-0.70710678118654752440)));
    case FewBitFunction::Silu:
      return weighted_of(x, sigmoid_of(x));
    case FewBitFunction::Sigmoid:
      return sigmoid_of(x);
    case FewBitFunction::Tanh:
      return tanh(x);
    case FewBitFunction::Selu:
      return x > T(0) ? x * T(1.0507009873554804934193349852946)
                      : T(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717) *
                            expm1(x);
    case FewBitFunction::Elu:
      return x > T(0) ? x : a * expm1(x);
    case FewBitFunction::Celu:
      return x > T(0) ? x : a * expm1(x / a);
    case FewBitFunction::Softplus:
      return x * a > b ? x : softplus_of(x * a) / a;
    case FewBitFunction::LogSigmoid:
      return -softplus_of(-x);
    case FewBitFunction::Mish: {
      if (x > T(20)) return x;
      const T t = exp(x), n = t * (t + T(2));
      return weighted_of(x, n / (n + T(2)));
    }
    case FewBitFunction::Hardswish:
      return weighted_of(x, between(x + T(3), T(0), T(6)) * T(1.0 / 6));
    case FewBitFunction::Hardsigmoid:
      return between(x + T(3), T(0), T(6)) * T(1.0 / 6);
    case FewBitFunction::Softsign: {
      const T most = sizeof(T) == 4 ? T(1e30) : T(1e300), y = between(x, -most, most);
      return y / (T(1) + fabs(y));
    }
    case FewBitFunction::Tanhshrink:
      return x - tanh(x);
    case FewBitFunction::Relu:
      return x <= T(0) ? T(0) : x;
    case FewBitFunction::Relu6:
      return between(x, T(0), T(6));
    case FewBitFunction::LeakyRelu:
      return x < T(0) ? x * a : x;
    case FewBitFunction::Hardtanh:
      return between(x, a, b);
    case FewBitFunction::Hardshrink:
      return fabs(x) <= a ? T(0) : x;
    case FewBitFunction::Softshrink:
      return fabs(x) <= a ? T(0) : x > T(0) ? x - a : x < T(0) ? x + a : x;
    default:
      return x <= a ? b : x;
  }
}

// Eight codes are one little-endian number of 8 bits (at most 64 bits).
template <class T>
__global__ void forward_kernel(FewBitForward f, const T* x, const T* borders, int count, T* y,
                               std::uint8_t* packed, int64_t n) {
  __shared__ T shared[256];
  for (int i = threadIdx.x; i < count; i += blockDim.x) shared[i] = borders[i];
  __syncthreads();
  const T a = static_cast<T>(f.a), b = static_cast<T>(f.b), lo = static_cast<T>(f.lo),
          hi = static_cast<T>(f.hi), scale = static_cast<T>(f.scale);
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g * 8 < n;
       g += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    std::uint64_t word = 0;
    for (int j = 0; j < 8 && g * 8 + j < n; ++j) {
      const T v = x[g * 8 + j];
      y[g * 8 + j] = value_of<T>(f.function, v, a, b);
      if (!packed) continue;
      unsigned code = 0;
      switch (f.split) {
        case FewBitSplit::Borders:
        case FewBitSplit::Folded: {
          T s = v * scale;
          if (f.split == FewBitSplit::Folded) s = fabs(s);
          for (int k = 0; k < count; ++k) code += !(s <= shared[k]);  // NaN: the last
          break;
        }
        case FewBitSplit::AtLeast:
          code = !(v < lo);
          break;
        case FewBitSplit::Between:
          code = !(v <= lo || v >= hi);
          break;
        case FewBitSplit::Outside:
          code = !(fabs(v) <= lo);
          break;
        default:
          code = !(v <= lo);
          break;
      }
      word |= static_cast<std::uint64_t>(code) << (j * f.bits);
    }
    if (packed)
      for (int k = 0; k < f.bits; ++k)
        packed[g * f.bits + k] = static_cast<std::uint8_t>(word >> (8 * k));
  }
}
template <class T>
__global__ void backward_kernel(int bits, const std::uint8_t* packed, const T* levels, int count,
                                const T* g, T* gx, int64_t n) {
  __shared__ T shared[256];
  for (int i = threadIdx.x; i < count; i += blockDim.x) shared[i] = levels[i];
  __syncthreads();
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; u * 8 < n;
       u += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    std::uint64_t word = 0;
    for (int k = 0; k < bits; ++k)
      word |= static_cast<std::uint64_t>(packed[u * bits + k]) << (8 * k);
    for (int j = 0; j < 8 && u * 8 + j < n; ++j) {
      const int code = static_cast<int>(word >> (j * bits)) & ((1 << bits) - 1);
      gx[u * 8 + j] = shared[code < count ? code : count - 1] * g[u * 8 + j];
    }
  }
}
__global__ void pack_kernel(const std::uint8_t* codes, int bits, std::uint8_t* packed, int64_t n) {
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; u * 8 < n;
       u += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    std::uint64_t word = 0;
    for (int j = 0; j < 8 && u * 8 + j < n; ++j)
      word |= static_cast<std::uint64_t>(codes[u * 8 + j] & ((1 << bits) - 1)) << (j * bits);
    for (int k = 0; k < bits; ++k)
      packed[u * bits + k] = static_cast<std::uint8_t>(word >> (8 * k));
  }
}
__global__ void unpack_kernel(const std::uint8_t* packed, int bits, std::uint8_t* codes,
                              int64_t n) {
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; u * 8 < n;
       u += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    std::uint64_t word = 0;
    for (int k = 0; k < bits; ++k)
      word |= static_cast<std::uint64_t>(packed[u * bits + k]) << (8 * k);
    for (int j = 0; j < 8 && u * 8 + j < n; ++j)
      codes[u * 8 + j] = static_cast<std::uint8_t>(word >> (j * bits) & ((1u << bits) - 1));
  }
}

dim3 grid_of(const KernelContext& c, int64_t n) { return dim3(blocks_for(c, ceil_div(n, 8), 128)); }

Status forward(const KernelContext& c, const FewBitForward& f, const TensorIn& x,
               const TensorIn& borders, const TensorOut& y, const TensorOut& packed) {
  DROPIN_REQUIRE(x.contiguous() && y.contiguous() && x.dtype == y.dtype &&
                     (!borders.data || borders.dtype == x.dtype) && borders.numel() <= 256,
                 "arrays do not fit");
  const int count = borders.data ? static_cast<int>(borders.numel()) : 0;
  const int64_t n = x.numel();
  return visit_real(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &forward_kernel<T>, grid_of(c, n), dim3(128), 0, f, x.as<T>(), borders.as<T>(),
                  count, y.as<T>(), packed.as<std::uint8_t>(), n);
  });
}
Status backward(const KernelContext& c, std::int32_t bits, const TensorIn& packed,
                const TensorIn& levels, const TensorIn& g, const TensorOut& gx) {
  DROPIN_REQUIRE(g.contiguous() && gx.contiguous() && levels.dtype == g.dtype &&
                     gx.dtype == g.dtype && levels.numel() <= 256,
                 "arrays do not fit");
  return visit_real(g.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &backward_kernel<T>, grid_of(c, g.numel()), dim3(128), 0, bits,
                  packed.as<std::uint8_t>(), levels.as<T>(), static_cast<int>(levels.numel()),
                  g.as<T>(), gx.as<T>(), g.numel());
  });
}
Status pack(const KernelContext& c, const TensorIn& codes, std::int32_t bits,
            const TensorOut& packed) {
  return launch(c, &pack_kernel, grid_of(c, codes.numel()), dim3(128), 0, codes.as<std::uint8_t>(),
                bits, packed.as<std::uint8_t>(), codes.numel());
}
Status unpack(const KernelContext& c, const TensorIn& packed, std::int32_t bits,
              const TensorOut& codes) {
  return launch(c, &unpack_kernel, grid_of(c, codes.numel()), dim3(128), 0,
                packed.as<std::uint8_t>(), bits, codes.as<std::uint8_t>(), codes.numel());
}

}  // namespace

void provide_fewbit(KernelTable& t) {
  provide<fewbit_forward, &forward>(t);
  provide<fewbit_backward, &backward>(t);
  provide<fewbit_pack, &pack>(t);
  provide<fewbit_unpack, &unpack>(t);
}

}  // namespace dropin::kernels::cuda
