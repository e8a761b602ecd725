// Random numbers: the CPU's, to the last bit. Products and sums are never fused here (compiled
// without contraction), and logarithm, cosine and sine are the CPU kernel's series.
#include "kernels/cuda/device.h"
#include "kernels/random/kernel.h"
#include "kernels/random/philox.h"

namespace dropin::kernels::cuda {
namespace {

#ifdef __CUDACC__
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float divide(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ float root(float a) { return __fsqrt_rn(a); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double sub(double a, double b) { return __dsub_rn(a, b); }
__device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double divide(double a, double b) { return __ddiv_rn(a, b); }
__device__ __forceinline__ double root(double a) { return __dsqrt_rn(a); }
#else
template <class T>
T add(T a, T b) {
  return a + b;
}
template <class T>
T sub(T a, T b) {
  return a - b;
}
template <class T>
T mul(T a, T b) {
  return a * b;
}
template <class T>
T divide(T a, T b) {
  return a / b;
}
template <class T>
T root(T a) {
  return sqrt(a);
}
#endif

template <class T>
using WordOf = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
template <class T>
__device__ WordOf<T> word_of(const std::uint32_t* w) {
  if constexpr (sizeof(T) == 8)
    return static_cast<std::uint64_t>(w[0]) << 32 | w[1];
  else
    return w[0];
}
template <class T>
__device__ T as_real(WordOf<T> bits) {
  if constexpr (sizeof(T) == 8)
    return bits_double(static_cast<long long>(bits));
  else
    return bits_float(static_cast<int>(bits));
}
__device__ inline std::uint32_t as_bits(float v) {
  return static_cast<std::uint32_t>(float_bits(v));
}
__device__ inline std::uint64_t as_bits(double v) {
  return static_cast<std::uint64_t>(double_bits(v));
}

// sqrt(-2 log(k / 2^24)), k in 1..2^24 (f64: 2^53); see kernels/random/cpu.cpp
template <class T>
__device__ T radius(WordOf<T> k) {
  constexpr bool f32 = sizeof(T) == 4;
  constexpr int kMantissa = f32 ? 23 : 52;
  const WordOf<T> bits = as_bits(static_cast<T>(k));
  const WordOf<T> e = static_cast<WordOf<T>>(bits - as_bits(T(0.70710678118654752))) >> kMantissa;
  const T m = as_real<T>(bits - (e << kMantissa)),
          power = sub(static_cast<T>(e), f32 ? T(24) : T(53));
  const T s = divide(sub(m, T(1)), add(m, T(1))), s2 = mul(s, s);
  constexpr int kTerms = f32 ? 5 : 11;
  T sum = static_cast<T>(1.0 / (2 * kTerms - 1));
  for (int i = kTerms - 1; i-- > 0;) sum = add(mul(sum, s2), static_cast<T>(1.0 / (2 * i + 1)));
  const T log_m = mul(add(s, s), sum);
  const T high = mul(power, f32 ? T(0.693145751953125) : T(6.93147180369123816490e-01));
  const T low = mul(power, f32 ? T(1.428606765330187045e-6) : T(1.90821492927058770002e-10));
  return root(mul(add(high, add(low, log_m)), T(-2)));
}
template <class T>
__device__ void turn(WordOf<T> k, T& cosine, T& sine) {
  constexpr bool f32 = sizeof(T) == 4;
  constexpr int kQuarter = f32 ? 22 : 51;
  constexpr WordOf<T> half = WordOf<T>{1} << (kQuarter - 1);
  const WordOf<T> q = (k + half) >> kQuarter;
  const T rest =
      sub(static_cast<T>(static_cast<WordOf<T>>(k + half - (q << kQuarter))), static_cast<T>(half));
  const T x = mul(rest, static_cast<T>(1.57079632679489661923 /
                                       static_cast<double>(int64_t{1} << kQuarter))),
          x2 = mul(x, x);
  T s, c;
  if constexpr (f32) {
    s = add(mul(add(mul(add(mul(1.f / 362880, x2), -1.f / 5040), x2), 1.f / 120), x2), -1.f / 6);
    c = add(mul(add(mul(add(mul(-1.f / 3628800, x2), 1.f / 40320), x2), -1.f / 720), x2), 1.f / 24);
  } else {
    const double a[] = {
        -1. / 6,        1. / 120,         -1. / 5040,           1. / 362880,
        -1. / 39916800, 1. / 6227020800., -1. / 1307674368000., 1. / 355687428096000.};
    const double b[] = {1. / 24,        -1. / 720,          1. / 40320,          -1. / 3628800,
                        1. / 479001600, -1. / 87178291200., 1. / 20922789888000.};
    s = a[7], c = b[6];
    for (int i = 7; i-- > 0;) s = add(mul(s, x2), a[i]);
    for (int i = 6; i-- > 0;) c = add(mul(c, x2), b[i]);
  }
  s = add(x, mul(mul(x, x2), s));
  c = add(T(1), mul(x2, add(T(-0.5), mul(x2, c))));
  const bool swapped = q & 1;
  cosine = swapped ? s : c;
  sine = swapped ? c : s;
  if ((q + 1) & 2) cosine = -cosine;
  if (q & 2) sine = -sine;
}

struct Fill {
  Distribution d;
  double a, b;
  std::uint64_t seed, offset;
  int64_t n;
  std::uint32_t limit;  // Bernoulli by a word
};

// The four (f64: two) reals of a block, in the computed type.
template <class T>
__device__ void reals(const Fill& f, const philox::Block& w, T top, T (&r)[16 / sizeof(T)]) {
  constexpr int kEach = 16 / sizeof(T), kWords = sizeof(T) / 4, kDrop = sizeof(T) == 8 ? 11 : 8;
  constexpr T kUnit = sizeof(T) == 8 ? T(1.1102230246251565e-16) : T(5.9604644775390625e-08);
  const T a = static_cast<T>(f.a), b = static_cast<T>(f.b);
  if (f.d == Distribution::Normal) {
    for (int j = 0; j < kEach; j += 2) {
      const T length =
          radius<T>(static_cast<WordOf<T>>((word_of<T>(w.w + j * kWords) >> kDrop) + 1));
      T c, s;
      turn<T>(word_of<T>(w.w + (j + 1) * kWords) >> kDrop, c, s);
      r[j] = add(a, mul(b, mul(length, c)));
      r[j + 1] = add(a, mul(b, mul(length, s)));
    }
    return;
  }
  for (int j = 0; j < kEach; ++j) {
    const T u = mul(static_cast<T>(word_of<T>(w.w + j * kWords) >> kDrop), kUnit);
    if (f.d == Distribution::Uniform) {
      const T v = add(a, mul(sub(b, a), u));
      r[j] = v < top ? v : top;
    } else {
      r[j] = u < a ? T(1) : T(0);
    }
  }
}

template <class T>
__global__ void fill_kernel(Fill f, T* y, ComputeOf<T> top, T top16, bool cut) {
  constexpr bool real = std::is_floating_point_v<ComputeOf<T>>;
  const bool integers = f.d == Distribution::Integer;
  const int each = integers || std::is_same_v<T, double> ? 2 : 4;
  const int64_t blocks = ceil_div(f.n, each);
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < blocks;
       k += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const philox::Block w = philox::block(f.seed, f.offset + static_cast<std::uint64_t>(k));
    T out[4];
    if (integers) {
      const int64_t low = static_cast<int64_t>(f.a);
      const std::uint64_t last = f.b >= 9223372036854775808.0
                                     ? std::uint64_t{1} << 63
                                     : static_cast<std::uint64_t>(static_cast<int64_t>(f.b));
      for (int j = 0; j < 2; ++j) {
        const auto v = static_cast<int64_t>(
            static_cast<std::uint64_t>(low) +
            philox::below(w.w[2 * j], w.w[2 * j + 1], last - static_cast<std::uint64_t>(low)));
        if constexpr (std::is_same_v<T, bool>)
          out[j] = v != 0;
        else
          out[j] = narrow<T>(static_cast<ComputeOf<T>>(v));
      }
    } else if constexpr (real) {
      ComputeOf<T> r[16 / sizeof(ComputeOf<T>)];
      reals(f, w, top, r);
      for (int j = 0; j < each; ++j) {
        out[j] = narrow<T>(r[j]);
        if (cut && !(wide<T>(out[j]) < static_cast<ComputeOf<T>>(f.b))) out[j] = top16;
      }
    } else {
      for (int j = 0; j < 4; ++j) out[j] = static_cast<T>((w.w[j] >> 8) < f.limit);
    }
    for (int j = 0; j < each; ++j)
      if (k * each + j < f.n) y[k * each + j] = out[j];
  }
}

std::uint32_t threshold(float p) {
  return p > 0 ? static_cast<std::uint32_t>(ceilf((p < 1.0f ? p : 1.0f) * 16777216.0f)) : 0;
}

// The largest number of a 16-bit type below b, in its bits: exponent bits 8 (bf16) or 5 (f16).
float decode16(std::uint16_t h, bool brain) {
  if (brain) {
    const std::uint32_t u = static_cast<std::uint32_t>(h) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
  const int e = h >> 10 & 31, m = h & 1023;
  const float v = e == 31 ? (m ? NAN : INFINITY)
                  : e     ? ldexpf(static_cast<float>(m + 1024), e - 25)
                          : ldexpf(static_cast<float>(m), -24);
  return h & 0x8000 ? -v : v;
}
std::uint16_t below16(float b, bool brain) {
  // ordered integers: negative numbers run downwards
  auto bits = [](int k) { return static_cast<std::uint16_t>(k >= 0 ? k : 0x8000 - k); };
  int lo = -0x7c00, hi = 0x7c00;
  if (brain) lo = -0x7f80, hi = 0x7f80;
  while (lo + 1 < hi) {
    const int mid = lo + (hi - lo) / 2;
    (decode16(bits(mid), brain) < b ? lo : hi) = mid;
  }
  return lo == 0 ? std::uint16_t{0} : bits(lo);
}

Status fill_cuda(const KernelContext& c, Distribution d, double a, double b, std::uint64_t seed,
                 std::uint64_t offset, const TensorOut& y) {
  if (!y.contiguous()) return abi::unsupported("random_fill: the array must be contiguous");
  constexpr double kLimit = 9223372036854775808.0;
  if (d == Distribution::Integer && (!(a < b) || a < -kLimit || b > kLimit))
    return abi::failed("random_fill: the range of integers is empty or too large");
  if ((d == Distribution::Uniform || d == Distribution::Normal) && !floating(y.dtype))
    return abi::unsupported("random_fill: this distribution needs a floating dtype");
  const Fill f{d, a, b, seed, offset, y.numel(), threshold(static_cast<float>(a))};
  return visit_any(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = ComputeOf<T>;
    C top = 0;
    T top16{};
    bool cut = false;
    if constexpr (std::is_floating_point_v<C>) {
      const C low = static_cast<C>(a), high = static_cast<C>(b);
      top = low < high ? nextafter(high, low) : C(INFINITY);
      if constexpr (sizeof(T) == 2) {
        cut = d == Distribution::Uniform && a < b && isfinite(a) && isfinite(b);
        if (cut) top16.bits = below16(static_cast<float>(b), std::is_same_v<T, bf16>);
      }
    }
    return launch(c, &fill_kernel<T>, dim3(blocks_for(c, (f.n + 1) / 2, 256)), dim3(256), 0, f,
                  y.as<T>(), top, top16, cut);
  });
}

template <class T>
__global__ void dropout_kernel(const T* x, T* y, bool* mask, int64_t n, std::uint64_t seed,
                               std::uint64_t offset, std::uint32_t limit, ComputeOf<T> scale) {
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; 4 * k < n;
       k += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const philox::Block w = philox::block(seed, offset + static_cast<std::uint64_t>(k));
    for (int j = 0; j < 4 && 4 * k + j < n; ++j) {
      const bool keep = (w.w[j] >> 8) < limit;
      mask[4 * k + j] = keep;
      y[4 * k + j] = narrow<T>(keep ? mul(wide<T>(x[4 * k + j]), scale) : ComputeOf<T>(0));
    }
  }
}
Status dropout_cuda(const KernelContext& c, const TensorIn& x, double p, std::uint64_t seed,
                    std::uint64_t offset, const TensorOut& y, const TensorOut& mask) {
  if (x.dtype != y.dtype || mask.dtype != DType::Boolean || x.numel() != y.numel() ||
      x.numel() != mask.numel())
    return abi::failed("dropout: arrays do not fit");
  if (!x.contiguous() || !y.contiguous() || !mask.contiguous())
    return abi::unsupported("dropout: arrays must be contiguous");
  if (!(p >= 0 && p <= 1)) return abi::failed("dropout: p is not in 0..1");
  return visit_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &dropout_kernel<T>, dim3(blocks_for(c, x.numel(), 1024)), dim3(256), 0,
                  x.as<T>(), y.as<T>(), mask.as<bool>(), x.numel(), seed, offset,
                  threshold(static_cast<float>(1 - p)),
                  static_cast<ComputeOf<T>>(p < 1 ? 1 / (1 - p) : 0));
  });
}

}  // namespace

void provide_random(KernelTable& t) {
  provide<random_fill, &fill_cuda>(t);
  provide<dropout, &dropout_cuda>(t);
}

}  // namespace dropin::kernels::cuda
