// y = a x + b z on the CPU. Threads take stretches of kGrain values; a stretch runs in whole
// vectors, two at a time to hide the latency of a multiply-add, then the few values at its end.
// Glossary: d: vector type; lanes: values in a vector.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/example/cpu.cpp"
#include "hwy/foreach_target.h"  // compiles what follows once per instruction set
//
#include <algorithm>

#include "dropin/core/parallel.h"
#include "kernels/example/kernel.h"
#include "kernels/simd-inl.h"
#include "kernels/strided.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

void scaled_sum(const float* x, const float* z, float a, float b, float* y, int64_t n) {
  const Tag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto va = hn::Set(d, a), vb = hn::Set(d, b);
  auto at = [&](int64_t i) HWY_ATTR {
    return hn::MulAdd(va, hn::LoadU(d, x + i), hn::Mul(vb, hn::LoadU(d, z + i)));
  };
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto first = at(i), second = at(i + lanes);
    hn::StoreU(first, d, y + i);
    hn::StoreU(second, d, y + i + lanes);
  }
  for (; i < n; i += lanes) {  // a whole vector, then what is left of one
    const auto rest = static_cast<std::size_t>(std::min(lanes, n - i));
    const auto v =
        hn::MulAdd(va, load_first(d, x + i, rest), hn::Mul(vb, load_first(d, z + i, rest)));
    store_first(v, d, y + i, rest);
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(scaled_sum);
namespace {

bool fits(const abi::TensorIn& t, const abi::TensorIn& y) {
  return t.dtype == DType::Float32 && t.contiguous() && t.numel() == y.numel();
}

abi::Status scaled_sum_cpu(const abi::KernelContext&, const ExampleInputs& in,
                           const abi::TensorOut& y) {
  if (!fits(in.x, y) || !fits(in.z, y) || !fits(y, y))
    return abi::unsupported("example_scaled_sum: x, z and y must be contiguous float32 and alike");
  const auto run = &HWY_DYNAMIC_DISPATCH(scaled_sum);  // chosen once, not per stretch
  parallel_for(y.numel(), kGrain, [&](int64_t begin, int64_t end) {
    run(in.x.as<float>() + begin, in.z.as<float>() + begin, static_cast<float>(in.a),
        static_cast<float>(in.b), y.as<float>() + begin, end - begin);
  });
  return abi::ok();
}

}  // namespace

void provide_example_cpu(abi::KernelTable& t) { t.provide<example_scaled_sum>(&scaled_sum_cpu); }

}  // namespace dropin::kernels
#endif
