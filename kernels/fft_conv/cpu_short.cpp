// Causal depthwise convolution of a few taps on [B, L, C]: rows are read once from memory and K
// times from cache. Gradients of the taps are gathered per chunk of rows (chunks depend on the
// sizes alone) and added up in a fixed order.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fft_conv/cpu_short.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <vector>

#include "cpu/scratch.h"
#include "dropin/core/parallel.h"
#include "hwy/highway.h"
#include "kernels/fft_conv/kernel.h"

#ifndef DROPIN_SHORT_CONV_SHARED_
#define DROPIN_SHORT_CONV_SHARED_
namespace dropin::kernels {
struct ShortConv {
  int64_t batch, length, channels, taps;
  abi::TensorIn x, g, w, bias;
  abi::TensorOut y, gx, gw, gb;
};
constexpr int64_t kRowGrain = 16384;  // numbers a thread takes at least
constexpr int64_t kRowBlock = 16;  // rows whose share in the taps' gradients is summed in registers
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

const float* row(const abi::TensorIn& t, int64_t b, int64_t i) {
  return t.as<float>() + b * t.strides[0] + i * t.strides[1];
}
float* row(const abi::TensorOut& t, int64_t b, int64_t i) {
  return t.as<float>() + b * t.strides[0] + i * t.strides[1];
}

// y = start + sum over j < count of w[j] x[j], rows of n channels; start may be null
void combine(int64_t n, const float* start, const float* const* w, const float* const* x,
             int64_t count, float* y) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= n; c += lanes) {
    auto sum = start ? hn::LoadU(d, start + c) : hn::Zero(d);
    for (int64_t j = 0; j < count; ++j)
      sum = hn::MulAdd(hn::LoadU(d, w[j] + c), hn::LoadU(d, x[j] + c), sum);
    hn::StoreU(sum, d, y + c);
  }
  for (; c < n; ++c) {
    float sum = start ? start[c] : 0;
    for (int64_t j = 0; j < count; ++j) sum += w[j][c] * x[j][c];
    y[c] = sum;
  }
}
// w [C, K] as rows of taps [K, C]
void by_tap(const ShortConv& s, float* out) {
  for (int64_t c = 0; c < s.channels; ++c)
    for (int64_t j = 0; j < s.taps; ++j) out[j * s.channels + c] = s.w.as<float>()[c * s.taps + j];
}

void Forward(const ShortConv& s) {
  cpu::Scratch<float> taps(s.taps * s.channels);
  by_tap(s, taps.data());
  parallel_for(
      s.batch * s.length, std::max<int64_t>(1, kRowGrain / std::max<int64_t>(1, s.channels)),
      [&](int64_t begin, int64_t end) {
        std::vector<const float*> w(static_cast<std::size_t>(s.taps)), x(w.size());
        for (int64_t at = begin; at < end; ++at) {
          const int64_t b = at / s.length, t = at % s.length;
          int64_t count = 0;
          for (int64_t j = std::max<int64_t>(0, s.taps - 1 - t); j < s.taps; ++j, ++count) {
            w[static_cast<std::size_t>(count)] = taps.data() + j * s.channels;
            x[static_cast<std::size_t>(count)] = row(s.x, b, t - (s.taps - 1) + j);
          }
          combine(s.channels, s.bias.as<float>(), w.data(), x.data(), count, row(s.y, b, t));
        }
      });
}

void add_products(int64_t n, const std::vector<const float*>& g, const std::vector<const float*>& x,
                  float* sum) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= n; c += lanes) {
    auto a = hn::LoadU(d, sum + c);
    for (std::size_t i = 0; i < g.size(); ++i)
      a = hn::MulAdd(hn::LoadU(d, g[i] + c), hn::LoadU(d, x[i] + c), a);
    hn::StoreU(a, d, sum + c);
  }
  for (; c < n; ++c)
    for (std::size_t i = 0; i < g.size(); ++i) sum[c] += g[i][c] * x[i][c];
}

void Backward(const ShortConv& s) {
  const int64_t rows = s.batch * s.length, n = s.channels,
                chunks = std::clamp<int64_t>(rows / 256, 1, 64);
  cpu::Scratch<float> taps(s.taps * n), sums(chunks * (s.taps + 1) * n);
  by_tap(s, taps.data());
  std::fill_n(sums.data(), chunks * (s.taps + 1) * n, 0.0f);
  const std::vector<float> ones(static_cast<std::size_t>(n), 1.0f);
  parallel_for(chunks, 1, [&](int64_t first, int64_t last) {
    std::vector<const float*> w(static_cast<std::size_t>(s.taps)), x(w.size()), gs, xs;
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = rows * chunk / chunks, end = rows * (chunk + 1) / chunks;
      float* sum = sums.data() + chunk * (s.taps + 1) * n;
      for (int64_t at = begin; at < end && s.gx.data; ++at) {
        const int64_t b = at / s.length, t = at % s.length;
        int64_t count = 0;
        for (int64_t j = s.taps - 1; j >= 0 && t + s.taps - 1 - j < s.length; --j, ++count) {
          w[static_cast<std::size_t>(count)] = taps.data() + j * n;
          x[static_cast<std::size_t>(count)] = row(s.g, b, t + s.taps - 1 - j);
        }
        combine(n, nullptr, w.data(), x.data(), count, row(s.gx, b, t));
      }
      for (int64_t block = begin; block < end; block += kRowBlock) {
        const int64_t stop = std::min(end, block + kRowBlock);
        for (int64_t j = 0; j <= s.taps; ++j) {  // the last one is the bias
          gs.clear(), xs.clear();
          for (int64_t at = block; at < stop; ++at) {
            const int64_t b = at / s.length, t = at % s.length, source = t - (s.taps - 1) + j;
            if (j < s.taps && source < 0) continue;
            gs.push_back(row(s.g, b, t));
            xs.push_back(j < s.taps ? row(s.x, b, source) : ones.data());
          }
          add_products(n, gs, xs, sum + j * n);
        }
      }
    }
  });
  for (int64_t j = 0; j <= s.taps; ++j)
    for (int64_t c = 0; c < n; ++c) {
      double total = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk)
        total += static_cast<double>(sums[(chunk * (s.taps + 1) + j) * n + c]);
      if (j < s.taps && s.gw.data) s.gw.as<float>()[c * s.taps + j] = static_cast<float>(total);
      if (j == s.taps && s.gb.data) s.gb.as<float>()[c] = static_cast<float>(total);
    }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
namespace {

HWY_EXPORT(Forward);
HWY_EXPORT(Backward);

bool fits(const abi::TensorIn& t) {
  return !t.data ||
         (t.dtype == DType::Float32 && (t.ndim != 3 || t.strides[2] == 1 || t.sizes[2] <= 1));
}
constexpr const char* kNeeds = "float32 [B, L, C] with contiguous channels";

abi::Status forward(const abi::KernelContext&, const abi::TensorIn& x, const abi::TensorIn& w,
                    const abi::TensorIn& bias, const abi::TensorOut& y) {
  if (!fits(x) || !fits(w) || !fits(bias) || !fits(y)) return abi::unsupported(kNeeds);
  ShortConv s{x.sizes[0], x.sizes[1], x.sizes[2], w.sizes[1]};
  s.x = x, s.w = w, s.bias = bias, s.y = y;
  HWY_DYNAMIC_DISPATCH(Forward)(s);
  return abi::ok();
}
abi::Status backward(const abi::KernelContext&, const abi::TensorIn& g, const abi::TensorIn& x,
                     const abi::TensorIn& w, const abi::TensorOut& gx, const abi::TensorOut& gw,
                     const abi::TensorOut& gb) {
  if (!fits(g) || !fits(x) || !fits(w) || !fits(gx) || !fits(gw) || !fits(gb))
    return abi::unsupported(kNeeds);
  ShortConv s{x.sizes[0], x.sizes[1], x.sizes[2], w.sizes[1]};
  s.g = g, s.x = x, s.w = w, s.gx = gx, s.gw = gw, s.gb = gb;
  HWY_DYNAMIC_DISPATCH(Backward)(s);
  return abi::ok();
}

}  // namespace

void provide_short_conv_cpu(abi::KernelTable& t) {
  t.provide<short_conv_forward>(&forward);
  t.provide<short_conv_backward>(&backward);
}

}  // namespace dropin::kernels
#endif  // HWY_ONCE
