// Masks of windows: threads take rows of the picture. A row of all prototypes stays in L1 while
// every mask whose window holds it takes its own columns of it.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/masks/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "dropin/core/parallel.h"
#include "kernels/masks/kernel.h"
#include "kernels/row-inl.h"
#include "kernels/strided.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

/// y[x] = sigmoid(sum_k c[k] p[k plane + x]) for `kVectors` vectors.
template <int kVectors>
HWY_INLINE void columns(const float* p, int64_t plane, const float* c, int64_t K, float* y) {
  const Tag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  VecOf<Tag<float>> sum[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sum[v] = hn::Zero(d);
  for (int64_t k = 0; k < K; ++k) {
    const auto by = hn::Set(d, c[k]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sum[v] = hn::MulAdd(by, hn::LoadU(d, p + k * plane + v * lanes), sum[v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) hn::StoreU(sigmoid(d, sum[v]), d, y + v * lanes);
}

void masks(const float* prototypes, const float* coefficients, const int64_t* windows, int64_t N,
           int64_t K, int64_t h, int64_t w, float* y) {
  // Zeros mask by mask, one after the other in memory; then the windows.
  parallel_for(N * h, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, w)),
               [&](int64_t begin, int64_t end) { std::fill(y + begin * w, y + end * w, 0.0f); });
  parallel_for(
      h, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, N * w)),
      [&](int64_t begin, int64_t end) HWY_ATTR {
        const Tag<float> d;
        const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
        for (int64_t r = begin; r < end; ++r)
          for (int64_t n = 0; n < N; ++n) {
            const int64_t* in = windows + 4 * n;
            if (r < in[0] || r >= in[1]) continue;
            const int64_t first = in[2], last = in[3];
            float* out = y + (n * h + r) * w;
            const float *p = prototypes + r * w, *c = coefficients + n * K;
            int64_t x = first;
            for (; x + 4 * lanes <= last; x += 4 * lanes) columns<4>(p + x, h * w, c, K, out + x);
            for (; x + 2 * lanes <= last; x += 2 * lanes) columns<2>(p + x, h * w, c, K, out + x);
            for (; x + lanes <= last; x += lanes) columns<1>(p + x, h * w, c, K, out + x);
            if (x < last &&
                last - first >= lanes) {  // the last vector moves back over some that are done
              columns<1>(p + last - lanes, h * w, c, K, out + last - lanes);
            } else if (x < last) {
              const auto rest = static_cast<std::size_t>(last - x);
              auto sum = hn::Zero(d);
              for (int64_t k = 0; k < K; ++k)
                sum = hn::MulAdd(hn::Set(d, c[k]), load_first(d, p + k * h * w + x, rest), sum);
              store_first(sigmoid(d, sum), d, out + x, rest);
            }
          }
      });
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(masks);
namespace {

using abi::TensorIn;

abi::Status window_masks_cpu(const abi::KernelContext&, const TensorIn& prototypes,
                             const TensorIn& coefficients, const TensorIn& windows,
                             const abi::TensorOut& y) {
  auto is = [](const TensorIn& t, DType dtype, int ndim) {
    return t.dtype == dtype && t.ndim == ndim && t.contiguous() && (t.data || t.numel() == 0);
  };
  if (!is(prototypes, DType::Float32, 3) || !is(coefficients, DType::Float32, 2) ||
      !is(windows, DType::Int64, 2) || !is(y, DType::Float32, 3))
    return abi::failed(
        "window_masks: prototypes, coefficients and y must be contiguous float32, windows int64");
  const int64_t N = coefficients.sizes[0], K = prototypes.sizes[0], h = prototypes.sizes[1],
                w = prototypes.sizes[2];
  if (coefficients.sizes[1] != K || windows.sizes[0] != N || windows.sizes[1] != 4 ||
      y.sizes[0] != N || y.sizes[1] != h || y.sizes[2] != w)
    return abi::failed("window_masks: arrays do not fit");
  const int64_t* in = windows.as<int64_t>();
  for (int64_t n = 0; n < N; ++n, in += 4)
    if (in[0] < 0 || in[1] > h || in[2] < 0 || in[3] > w || in[2] > in[3])
      return abi::failed("window_masks: a window leaves the picture");
  HWY_DYNAMIC_DISPATCH(masks)
  (prototypes.as<float>(), coefficients.as<float>(), windows.as<int64_t>(), N, K, h, w,
   y.as<float>());
  return abi::ok();
}

}  // namespace

void provide_masks_cpu(abi::KernelTable& t) { t.provide<window_masks>(&window_masks_cpu); }

}  // namespace dropin::kernels
#endif
