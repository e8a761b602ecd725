// Random numbers. Blocks are made many at a time, word by word in separate rows, so that the ten rounds become vector code.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "dropin/core/dtype.h"
#include "dropin/core/parallel.h"
#include "kernels/random/kernel.h"
#include "kernels/random/philox.h"

namespace dropin::kernels {
namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;
using std::int64_t;

constexpr int kBatch = 64;       // blocks made together
constexpr int64_t kGrain = 256;  // batches of a range: some 50 us

/// kBatch blocks from `counter` on; w[j][i] is word j of block i.
struct Batch {
  alignas(64) std::uint32_t w[4][kBatch];
  Batch(std::uint64_t seed, std::uint64_t counter) {
    for (int i = 0; i < kBatch; ++i) {
      const philox::Block b = philox::block(seed, counter + static_cast<std::uint64_t>(i));
      for (int j = 0; j < 4; ++j) w[j][i] = b.w[j];
    }
  }
};

/// f(first element, count, values): the values of a batch are made by `make(batch, values)`, kPer elements a block.
template <class T, int kPer, class Make>
void fill(int64_t n, std::uint64_t seed, std::uint64_t offset, T* y, Make&& make) {
  constexpr int64_t kSize = kBatch * kPer;
  const int64_t batches = (n + kSize - 1) / kSize;
  parallel_for(batches, kGrain, [&](int64_t u, int64_t end) {
    for (; u < end; ++u) {
      const Batch b(seed, offset + static_cast<std::uint64_t>(u) * kBatch);
      if ((u + 1) * kSize <= n) {
        make(b, y + u * kSize);
      } else {
        T rest[kSize];
        make(b, rest);
        std::copy_n(rest, n - u * kSize, y + u * kSize);
      }
    }
  });
}

/// Every word is one element.
template <class T, class F>
void fill_words(int64_t n, std::uint64_t seed, std::uint64_t offset, T* y, F&& f) {
  fill<T, 4>(n, seed, offset, y, [&](const Batch& b, T* out) {
    for (int i = 0; i < kBatch; ++i)
      for (int j = 0; j < 4; ++j) out[4 * i + j] = f(b.w[j][i]);
  });
}

/// Every two words (high, low) are one element.
template <class T, class F>
void fill_pairs(int64_t n, std::uint64_t seed, std::uint64_t offset, T* y, F&& f) {
  fill<T, 2>(n, seed, offset, y, [&](const Batch& b, T* out) {
    for (int i = 0; i < kBatch; ++i)
      for (int j = 0; j < 2; ++j) out[2 * i + j] = f(b.w[2 * j][i], b.w[2 * j + 1][i]);
  });
}

/// Uniform numbers below b: rounding must not reach it.
template <class R>
R uniform(R u, R a, R b) {
  const R v = a + (b - a) * u;
  return v < b || !(a < b) ? v : std::nextafter(b, a);
}

/// v in 16 bits; the rounding must not reach b either.
template <class T>
T uniform16(float v, float a, float b) {
  T t = v;
  if (static_cast<float>(t) >= b && a < b) {
    T top = b;
    while (static_cast<float>(top) >= b)
      top.bits = static_cast<std::uint16_t>((top.bits & 0x7fff) == 0 ? 0x8001 : top.bits & 0x8000 ? top.bits + 1 : top.bits - 1);
    t = top;
  }
  return t;
}

/// Box-Muller on two words: the cosine and the sine are two elements.
void normal_pair(std::uint32_t w0, std::uint32_t w1, float mean, float std, float* out) {
  const float r = std::sqrt(-2.0f * std::log(philox::open_float(w0))), angle = 6.283185307179586f * philox::unit_float(w1);
  out[0] = mean + std * (r * std::cos(angle));
  out[1] = mean + std * (r * std::sin(angle));
}

template <class T>
void fill_real(Distribution d, double a, double b, std::uint64_t seed, std::uint64_t offset, int64_t n, T* y) {
  if constexpr (std::is_same_v<T, double>) {
    if (d == Distribution::Uniform)
      fill_pairs(n, seed, offset, y, [=](auto h, auto l) { return uniform(philox::unit_double(h, l), a, b); });
    else if (d == Distribution::Bernoulli)
      fill_pairs(n, seed, offset, y, [=](auto h, auto l) { return philox::unit_double(h, l) < a ? 1.0 : 0.0; });
    else
      fill<double, 2>(n, seed, offset, y, [=](const Batch& w, double* out) {
        for (int i = 0; i < kBatch; ++i) {
          const double r = std::sqrt(-2.0 * std::log(philox::open_double(w.w[0][i], w.w[1][i]))),
                       angle = 6.283185307179586 * philox::unit_double(w.w[2][i], w.w[3][i]);
          out[2 * i] = a + b * (r * std::cos(angle));
          out[2 * i + 1] = a + b * (r * std::sin(angle));
        }
      });
  } else {
    const float fa = static_cast<float>(a), fb = static_cast<float>(b);
    if (d == Distribution::Uniform)
      fill_words(n, seed, offset, y, [=](auto w) {
        const float v = uniform(philox::unit_float(w), fa, fb);
        if constexpr (std::is_same_v<T, float>)
          return v;
        else
          return uniform16<T>(v, fa, fb);
      });
    else if (d == Distribution::Bernoulli)
      fill_words(n, seed, offset, y, [=](auto w) { return static_cast<T>(philox::unit_float(w) < fa ? 1.0f : 0.0f); });
    else
      fill<T, 4>(n, seed, offset, y, [=](const Batch& w, T* out) {
        for (int i = 0; i < kBatch; ++i) {
          float z[4];
          normal_pair(w.w[0][i], w.w[1][i], fa, fb, z);
          normal_pair(w.w[2][i], w.w[3][i], fa, fb, z + 2);
          for (int j = 0; j < 4; ++j) out[4 * i + j] = static_cast<T>(z[j]);
        }
      });
  }
}

Status random_fill_cpu(const abi::KernelContext&, Distribution d, double a, double b, std::uint64_t seed, std::uint64_t offset, const TensorOut& y) {
  if (!y.contiguous()) return abi::unsupported("random_fill: the array must be contiguous");
  const int64_t n = y.numel();
  if (d == Distribution::Integer) {
    const double limit = 9223372036854775808.0;
    if (!(a < b) || a < -limit || b > limit) return abi::failed("random_fill: the range of integers is empty or too large");
    const int64_t low = static_cast<int64_t>(a);
    const std::uint64_t count =
        (b >= limit ? std::uint64_t{1} << 63 : static_cast<std::uint64_t>(static_cast<int64_t>(b))) - static_cast<std::uint64_t>(low);
    auto value = [=](std::uint32_t h, std::uint32_t l) { return static_cast<int64_t>(static_cast<std::uint64_t>(low) + philox::below(h, l, count)); };
    visit_dtype(y.dtype, [&](auto v) {
      using T = decltype(v);
      fill_pairs(n, seed, offset, y.as<T>(), [=](auto h, auto l) {
        if constexpr (std::is_same_v<T, bool>)
          return value(h, l) != 0;
        else if constexpr (std::is_arithmetic_v<T>)
          return static_cast<T>(value(h, l));
        else
          return static_cast<T>(static_cast<float>(value(h, l)));
      });
    });
    return abi::ok();
  }
  switch (y.dtype) {
    case DType::Float32: fill_real(d, a, b, seed, offset, n, y.as<float>()); break;
    case DType::Float64: fill_real(d, a, b, seed, offset, n, y.as<double>()); break;
    case DType::BFloat16: fill_real(d, a, b, seed, offset, n, y.as<bfloat16>()); break;
    case DType::Float16: fill_real(d, a, b, seed, offset, n, y.as<float16>()); break;
    default: {
      if (d != Distribution::Bernoulli) return abi::unsupported("random_fill: this distribution needs a floating dtype");
      const float p = static_cast<float>(a);
      visit_dtype(y.dtype, [&](auto v) {
        using T = decltype(v);
        fill_words(n, seed, offset, y.as<T>(), [=](auto w) { return static_cast<T>(philox::unit_float(w) < p); });
      });
    }
  }
  return abi::ok();
}

template <class T>
void dropout_values(const TensorIn& x, double p, std::uint64_t seed, std::uint64_t offset, const TensorOut& y, const TensorOut& mask) {
  using R = std::conditional_t<std::is_same_v<T, double>, double, float>;
  constexpr int64_t kSize = 4 * kBatch;
  const int64_t n = x.numel(), batches = (n + kSize - 1) / kSize;
  const float keep = static_cast<float>(1 - p);
  const R scale = static_cast<R>(p < 1 ? 1 / (1 - p) : 0);
  parallel_for(batches, kGrain, [&](int64_t u, int64_t end) {
    for (; u < end; ++u) {
      const Batch b(seed, offset + static_cast<std::uint64_t>(u) * kBatch);
      std::uint8_t kept[kSize];
      for (int i = 0; i < kBatch; ++i)
        for (int j = 0; j < 4; ++j) kept[4 * i + j] = philox::unit_float(b.w[j][i]) < keep;
      const int64_t at = u * kSize, count = std::min(kSize, n - at);
      const T* from = x.as<T>() + at;
      T* to = y.as<T>() + at;
      std::uint8_t* m = mask.as<std::uint8_t>() + at;
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(kept[i] ? static_cast<R>(from[i]) * scale : R(0));
      std::copy_n(kept, count, m);
    }
  });
}

Status dropout_cpu(const abi::KernelContext&, const TensorIn& x, double p, std::uint64_t seed, std::uint64_t offset, const TensorOut& y,
                   const TensorOut& mask) {
  if (x.dtype != y.dtype || mask.dtype != DType::Bool || x.numel() != y.numel() || x.numel() != mask.numel())
    return abi::failed("dropout: arrays do not fit");
  if (!x.contiguous() || !y.contiguous() || !mask.contiguous()) return abi::unsupported("dropout: arrays must be contiguous");
  if (!(p >= 0 && p <= 1)) return abi::failed("dropout: p is not in 0..1");
  switch (x.dtype) {
    case DType::Float32: dropout_values<float>(x, p, seed, offset, y, mask); break;
    case DType::Float64: dropout_values<double>(x, p, seed, offset, y, mask); break;
    case DType::BFloat16: dropout_values<bfloat16>(x, p, seed, offset, y, mask); break;
    case DType::Float16: dropout_values<float16>(x, p, seed, offset, y, mask); break;
    default: return abi::unsupported("dropout: needs a floating dtype");
  }
  return abi::ok();
}

}  // namespace

void provide_random_cpu(abi::KernelTable& t) {
  t.provide<random_fill>(&random_fill_cpu);
  t.provide<dropout>(&dropout_cpu);
}

}  // namespace dropin::kernels
