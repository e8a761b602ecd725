// A complex transform of a power of two in a block's shared memory, in place. Decimation in
// frequency forward leaves the order of bit reversal, decimation in time backward starts from it: a
// convolution needs no reordering.
#pragma once
#include "kernels/cuda/device.h"

namespace dropin::kernels::cuda {

template <class T>
struct Complex {
  T re, im;
};
template <class T>
__device__ __forceinline__ Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
__device__ __forceinline__ Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
__device__ __forceinline__ Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

#ifdef __CUDACC__
__device__ __forceinline__ void turn_pi(float t, float& s, float& c) { sincospif(t, &s, &c); }
__device__ __forceinline__ void turn_pi(double t, double& s, double& c) { sincospi(t, &s, &c); }
#else
inline void turn_pi(float t, float& s, float& c) {
  s = static_cast<float>(sin(M_PI * static_cast<double>(t))),
  c = static_cast<float>(cos(M_PI * static_cast<double>(t)));
}
inline void turn_pi(double t, double& s, double& c) { s = sin(M_PI * t), c = cos(M_PI * t); }
#endif
/// exp(i pi t)
template <class T>
__device__ __forceinline__ Complex<T> root_of(T t) {
  Complex<T> w;
  turn_pi(t, w.im, w.re);
  return w;
}
__device__ inline unsigned reversed(unsigned v, int bits) {
  unsigned r = 0;
  for (int i = 0; i < bits; ++i) r |= (v >> i & 1u) << (bits - 1 - i);
  return r;
}

/// `count` transforms side by side: value t of transform k at data[t * stride + k]. All threads of
/// the block; synchronised before and after by the caller. sign -1: natural to reversed order; this
/// is X[k] = sum x[t] exp(-2 pi i t k / n).
template <class T>
__device__ void transform_down(Complex<T>* data, int bits, int count, int stride, T sign) {
  const int n = 1 << bits, tid = threadIdx.x + threadIdx.y * blockDim.x,
            threads = blockDim.x * blockDim.y;
  for (int half = n / 2; half >= 1; half /= 2) {
    for (int u = tid; u < n / 2 * count; u += threads) {
      const int k = u % count, j = u / count, within = j & (half - 1),
                a = (j - within) * 2 + within;
      const Complex<T> p = data[a * stride + k], q = data[(a + half) * stride + k];
      data[a * stride + k] = p + q;
      data[(a + half) * stride + k] =
          (p - q) * root_of(sign * static_cast<T>(within) / static_cast<T>(half));
    }
    __syncthreads();
  }
}
/// Reversed to natural order.
template <class T>
__device__ void transform_up(Complex<T>* data, int bits, int count, int stride, T sign) {
  const int n = 1 << bits, tid = threadIdx.x + threadIdx.y * blockDim.x,
            threads = blockDim.x * blockDim.y;
  for (int half = 1; half <= n / 2; half *= 2) {
    for (int u = tid; u < n / 2 * count; u += threads) {
      const int k = u % count, j = u / count, within = j & (half - 1),
                a = (j - within) * 2 + within;
      const Complex<T> p = data[a * stride + k],
                       q = data[(a + half) * stride + k] *
                           root_of(sign * static_cast<T>(within) / static_cast<T>(half));
      data[a * stride + k] = p + q;
      data[(a + half) * stride + k] = p - q;
    }
    __syncthreads();
  }
}

}  // namespace dropin::kernels::cuda
