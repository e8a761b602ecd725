// Optimizer steps: one pass, bound by memory.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optim/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include "dropin/core/parallel.h"
#include "kernels/optim/kernel.h"
#include "kernels/row-inl.h"
#include "kernels/strided.h"

#ifndef DROPIN_OPTIM_ARGS_
#define DROPIN_OPTIM_ARGS_
namespace dropin::kernels {
/// 1 - beta1^t, sqrt(1 - beta2^t)
struct AdamCorrections {
  double first, root_second;
};
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

template <class D>
VecOf<D> constant(D d, double c) {
  return hn::Set(d, static_cast<hn::TFromD<D>>(c));
}

template <class T>
void sgd_all(const SgdStep& a, T* p, const T* g, T* buf, int64_t n) {
  const Tag<T> d;
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const auto lr = constant(d, -a.lr), momentum = constant(d, a.momentum),
               damp = constant(d, 1 - a.dampening), decay = constant(d, a.weight_decay);
    const auto sign = constant(d, a.maximize ? -1 : 1);
    each<T>(begin, end, [&](auto at) HWY_ATTR {
      const auto x = at.load(d, p);
      auto step = hn::Mul(at.load(d, g), sign);
      if (a.weight_decay != 0) step = hn::MulAdd(decay, x, step);
      if (buf) {
        const auto b = a.first ? step : hn::MulAdd(momentum, at.load(d, buf), hn::Mul(damp, step));
        at.store(d, b, buf);
        step = a.nesterov ? hn::MulAdd(momentum, b, step) : b;
      }
      at.store(d, hn::MulAdd(lr, step, x), p);
    });
  });
}

template <class T>
void adam_all(const AdamStep& a, const AdamCorrections& correction, T* p, const T* g, T* m, T* v,
              T* vmax, int64_t n) {
  const Tag<T> d;
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const auto keep1 = constant(d, a.beta1), take1 = constant(d, 1 - a.beta1),
               keep2 = constant(d, a.beta2), take2 = constant(d, 1 - a.beta2);
    const auto eps = constant(d, a.eps), sign = constant(d, a.maximize ? -1 : 1),
               decay = constant(d, a.decoupled ? 1 - a.lr * a.weight_decay : a.weight_decay);
    const auto rate = constant(d, -a.lr / correction.first),
               root = constant(
                   d, sizeof(T) == 8 ? correction.root_second : 1 / correction.root_second);
    each<T>(begin, end, [&](auto at) HWY_ATTR {
      auto x = at.load(d, p), grad = hn::Mul(at.load(d, g), sign);
      if (a.weight_decay != 0) {
        if (a.decoupled)
          x = hn::Mul(x, decay);
        else
          grad = hn::MulAdd(decay, x, grad);
      }
      const auto m0 = at.load(d, m);
      // PyTorch: m.lerp_(g, 1 - beta1), which it computes from the nearer end; v * beta2 + (1 -
      // beta2) g g
      const auto m1 = a.beta1 > 0.5 ? hn::MulAdd(take1, hn::Sub(grad, m0), m0)
                                    : hn::NegMulAdd(keep1, hn::Sub(grad, m0), grad);
      const auto v1 = hn::MulAdd(hn::Mul(take2, grad), grad, hn::Mul(keep2, at.load(d, v)));
      at.store(d, m1, m);
      at.store(d, v1, v);
      auto second = v1;
      if (vmax) {
        second = keep_nan<decltype(d)>(v1, hn::Max(v1, at.load(d, vmax)));
        at.store(d, second, vmax);
      }
      const auto scaled =
          sizeof(T) == 8 ? hn::Div(hn::Sqrt(second), root) : hn::Mul(hn::Sqrt(second), root);
      at.store(d, hn::Add(x, hn::Div(hn::Mul(rate, m1), hn::Add(scaled, eps))), p);
    });
  });
}

void sgd(DType t, const SgdStep& a, void* p, const void* g, void* buf, int64_t n) {
  if (t == DType::Float32)
    sgd_all(a, static_cast<float*>(p), static_cast<const float*>(g), static_cast<float*>(buf), n);
  else
    sgd_all(a, static_cast<double*>(p), static_cast<const double*>(g), static_cast<double*>(buf),
            n);
}
void adam(DType t, const AdamStep& a, const AdamCorrections& correction, void* p, const void* g,
          void* m, void* v, void* vmax, int64_t n) {
  if (t == DType::Float32)
    adam_all(a, correction, static_cast<float*>(p), static_cast<const float*>(g),
             static_cast<float*>(m), static_cast<float*>(v), static_cast<float*>(vmax), n);
  else
    adam_all(a, correction, static_cast<double*>(p), static_cast<const double*>(g),
             static_cast<double*>(m), static_cast<double*>(v), static_cast<double*>(vmax), n);
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(sgd);
HWY_EXPORT(adam);
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

bool fits(const TensorIn& p, std::initializer_list<const TensorIn*> others) {
  bool ok = p.contiguous();
  for (const TensorIn* t : others)
    ok = ok && (!t->data || (t->dtype == p.dtype && t->numel() == p.numel() && t->contiguous()));
  return ok;
}

Status sgd_cpu(const KernelContext&, const SgdStep& a, const TensorOut& p, const TensorIn& g,
               const TensorOut& buf) {
  if (p.dtype != DType::Float32 && p.dtype != DType::Float64)
    return abi::unsupported("needs float32 or float64");
  if (p.numel() == 0) return abi::ok();
  if (!fits(p, {&g, &buf}) || !g.data)
    return abi::failed("p, g and momentum_buffer must be contiguous and alike");
  HWY_DYNAMIC_DISPATCH(sgd)
  (p.dtype, a, p.as<void>(), g.data, buf.as<void>(), p.numel());
  return abi::ok();
}

Status adam_cpu(const KernelContext&, const AdamStep& a, const TensorOut& p, const TensorIn& g,
                const TensorOut& m, const TensorOut& v, const TensorOut& vmax) {
  if (p.dtype != DType::Float32 && p.dtype != DType::Float64)
    return abi::unsupported("needs float32 or float64");
  if (p.numel() == 0) return abi::ok();
  if (!fits(p, {&g, &m, &v, &vmax}) || !g.data || !m.data || !v.data)
    return abi::failed("p, g, exp_avg and exp_avg_sq must be contiguous and alike");
  const double t = static_cast<double>(a.step);
  const AdamCorrections correction{1 - std::pow(a.beta1, t), std::sqrt(1 - std::pow(a.beta2, t))};
  HWY_DYNAMIC_DISPATCH(adam)
  (p.dtype, a, correction, p.as<void>(), g.data, m.as<void>(), v.as<void>(), vmax.as<void>(),
   p.numel());
  return abi::ok();
}

}  // namespace

void provide_optim_cpu(abi::KernelTable& t) {
  t.provide<sgd_step>(&sgd_cpu);
  t.provide<adam_step>(&adam_cpu);
}

}  // namespace dropin::kernels
#endif
