// Weight gradients of depthwise convolutions. The image's rows are copied once with their padding, columns split by their remainder modulo the
// stride, so that every tap of every stride is a contiguous load; the taps of a kernel row share each vector of gy.
#include <algorithm>
#include <utility>

#include "kernels/conv/plane.h"
#include "src/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv/cpu_plane.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

// A lambda that must be inlined: one that is not would take the address of what it captures and force vectors into memory.
#ifndef DROPIN_LAMBDA
#define DROPIN_LAMBDA HWY_ATTR __attribute__((always_inline))
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class F, int... I>
HWY_INLINE void each(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
HWY_INLINE void each(F&& f) {
  each(std::make_integer_sequence<int, N>{}, f);
}

/// sums[t] += over `rows` rows of n of gy times x + at[t]; consecutive rows of x are x_row apart.
template <int J, class T>
HWY_INLINE void taps(const T* gy, std::int64_t gy_row, const T* x, std::int64_t x_row, std::int64_t rows, std::int64_t n, const std::int64_t* at,
                     T* sums) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const std::int64_t L = static_cast<std::int64_t>(hn::Lanes(d));
  V s[J];
  const T* from[J];
  each<J>([&](auto j) DROPIN_LAMBDA { s[j] = hn::Zero(d), from[j] = x + at[j]; });
  const auto tail = hn::FirstN(d, static_cast<std::size_t>(n % L));
  for (std::int64_t r = 0; r < rows; ++r, gy += gy_row) {
    std::int64_t q = 0;
    for (; q + L <= n; q += L) {
      const V g = hn::LoadU(d, gy + q);
      each<J>([&](auto j) DROPIN_LAMBDA { s[j] = hn::MulAdd(g, hn::LoadU(d, from[j] + q), s[j]); });
    }
    if (q < n) {  // both sides masked: what lies beyond the row may be infinite. Both arrays can be read a vector too far.
      const V g = hn::IfThenElseZero(tail, hn::LoadU(d, gy + q));
      each<J>([&](auto j) DROPIN_LAMBDA { s[j] = hn::MulAdd(g, hn::IfThenElseZero(tail, hn::LoadU(d, from[j] + q)), s[j]); });
    }
    each<J>([&](auto j) DROPIN_LAMBDA { from[j] += x_row; });
  }
  each<J>([&](auto j) DROPIN_LAMBDA { sums[j] += hn::GetLane(hn::SumOfLanes(d, s[j])); });
}

template <class T>
void weight_gradient(const PlaneConv& c, std::int64_t images, const T* gy, std::int64_t gy_stride, const T* x, std::int64_t x_stride, T* gw) {
  const auto [H, W] = c.size;
  const auto [P, Q] = c.out_size;
  const auto [kh, kw] = c.kernel;
  const std::int64_t st = c.stride[1], sh = c.stride[0];
  const std::int64_t phase = Q + (kw - 1) * c.dilation[1] / st + 1, row = phase * std::min(st, (kw - 1) * c.dilation[1] + 1);
  const std::int64_t slack = static_cast<std::int64_t>(hn::Lanes(hn::ScalableTag<T>()));  // for reading whole vectors at the end of a row
  Scratch<T> padded(H * row + slack), gy_room(P * Q + slack);
  std::fill_n(padded.data(), H * row + slack, T(0));
  std::fill_n(gy_room.data() + P * Q, slack, T(0));
  Scratch<std::int64_t> at(kw);
  for (std::int64_t j = 0; j < kw; ++j) at[j] = j * c.dilation[1] % st * phase + j * c.dilation[1] / st;
  std::fill_n(gw, kh * kw, T(0));
  for (std::int64_t b = 0; b < images; ++b, gy += gy_stride, x += x_stride) {
    for (std::int64_t h = 0; h < H; ++h)
      for (std::int64_t f = 0; f * phase < row; ++f) {
        // Column k of phase f is the image's column k * st + f - pad.
        const std::int64_t dx = f - c.pad_begin[1], first = dx < 0 ? (-dx + st - 1) / st : 0,
                           last = W > dx ? std::min(phase, (W - 1 - dx) / st + 1) : 0;
        T* to = padded.data() + h * row + f * phase;
        const T* from = x + h * W + dx;
        if (st == 1)
          std::copy(from + first, from + std::max(first, last), to + first);
        else
          for (std::int64_t k = first; k < last; ++k) to[k] = from[k * st];
      }
    const T* grad = gy;
    if (Q % slack) grad = gy_room.data(), std::copy_n(gy, P * Q, gy_room.data());
    for (std::int64_t i = 0; i < kh; ++i) {
      const std::int64_t dy = i * c.dilation[0] - c.pad_begin[0];
      const std::int64_t p0 = dy < 0 ? std::min(P, (-dy + sh - 1) / sh) : 0, p1 = H > dy ? std::min(P, (H - 1 - dy) / sh + 1) : 0;
      if (p0 >= p1) continue;
      const T *g = grad + p0 * Q, *top = padded.data() + (p0 * sh + dy) * row;
      auto run = [&]<int J>(std::int64_t j) HWY_ATTR { taps<J, T>(g, Q, top, sh * row, p1 - p0, Q, at.data() + j, gw + i * kw + j); };
      std::int64_t j = 0;
      for (; kw - j >= 7; j += 7) run.template operator()<7>(j);
      if (kw - j >= 5) run.template operator()<5>(j), j += 5;
      if (kw - j >= 3) run.template operator()<3>(j), j += 3;
      for (; j < kw; ++j) run.template operator()<1>(j);
    }
  }
}

void GradientF32(const PlaneConv& c, std::int64_t n, const float* gy, std::int64_t gs, const float* x, std::int64_t xs, float* gw) {
  weight_gradient(c, n, gy, gs, x, xs, gw);
}
void GradientF64(const PlaneConv& c, std::int64_t n, const double* gy, std::int64_t gs, const double* x, std::int64_t xs, double* gw) {
  weight_gradient(c, n, gy, gs, x, xs, gw);
}

}  // namespace HWY_NAMESPACE
}  // namespace dropin::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::cpu {
HWY_EXPORT(GradientF32);
HWY_EXPORT(GradientF64);
template <>
void plane_weight_gradient<float>(const PlaneConv& c, std::int64_t n, const float* gy, std::int64_t gs, const float* x, std::int64_t xs, float* gw) {
  HWY_DYNAMIC_DISPATCH(GradientF32)(c, n, gy, gs, x, xs, gw);
}
template <>
void plane_weight_gradient<double>(const PlaneConv& c, std::int64_t n, const double* gy, std::int64_t gs, const double* x, std::int64_t xs,
                                   double* gw) {
  HWY_DYNAMIC_DISPATCH(GradientF64)(c, n, gy, gs, x, xs, gw);
}
}  // namespace dropin::cpu
#endif
