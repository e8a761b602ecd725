// bfloat16 and float16 to float and back. AVX2 and AVX-512 have the instructions; the baseline
// converts one by one.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise/cpu_half.cpp"
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"
#include "kernels/strided.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
template <class F>
HWY_INLINE void in_vectors(int64_t n, F&& f, int64_t& done) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  for (done = 0; done + lanes <= n; done += lanes) f(done);
}
#endif

void widen_row(DType from, const void* x, float* y, int64_t n) {
  int64_t i = 0;
  if (from == DType::BFloat16) {
    const auto* p = static_cast<const std::uint16_t*>(x);
    const hn::ScalableTag<std::uint32_t> du;
    const hn::Rebind<std::uint16_t, decltype(du)> d16;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(du));
    for (; i + lanes <= n; i += lanes)
      hn::StoreU(hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, p + i))), du,
                 reinterpret_cast<std::uint32_t*>(y) + i);
    for (; i < n; ++i) y[i] = static_cast<const bfloat16*>(x)[i];
    return;
  }
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> d16;
  in_vectors(
      n,
      [&](int64_t k) {
        hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, static_cast<const hwy::float16_t*>(x) + k)), d,
                   y + k);
      },
      i);
#endif
  for (; i < n; ++i) y[i] = static_cast<const float16*>(x)[i];
}

void narrow_row(DType to, const float* x, void* y, int64_t n) {
  int64_t i = 0;
  if (to == DType::BFloat16) {  // simple enough for the compiler to vectorise
    auto* q = static_cast<std::uint16_t*>(y);
    const auto* p = reinterpret_cast<const std::uint32_t*>(x);
    for (; i < n; ++i) {
      std::uint32_t u;
      __builtin_memcpy(&u, p + i, 4);
      const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16, nan = (u >> 16) | 0x40;
      q[i] = static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
    }
    return;
  }
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> d16;
  in_vectors(
      n,
      [&](int64_t k) {
        hn::StoreU(hn::DemoteTo(d16, hn::LoadU(d, x + k)), d16,
                   static_cast<hwy::float16_t*>(y) + k);
      },
      i);
#endif
  for (; i < n; ++i) static_cast<float16*>(y)[i] = float16(x[i]);
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(widen_row);
HWY_EXPORT(narrow_row);

void widen(DType from, const void* x, float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(widen_row)(from, x, y, n);
}
void narrow(DType to, const float* x, void* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(narrow_row)(to, x, y, n);
}

}  // namespace dropin::kernels
#endif
