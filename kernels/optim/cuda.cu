// Optimizer steps: one pass, four values a thread.
#include "kernels/cuda/device.h"
#include "kernels/optim/kernel.h"

namespace dropin::kernels::cuda {
namespace {

template <class T>
struct Sgd {
  T *p, *buf;
  const T* g;
  T lr, momentum, keep, decay;
  bool nesterov, first, maximize;
  __device__ void operator()(int64_t i) const {
    T v = maximize ? -g[i] : g[i];
    if (decay != T(0)) v = v + decay * p[i];
    if (buf) {
      const T b = first ? v : momentum * buf[i] + keep * v;
      buf[i] = b;
      v = nesterov ? v + momentum * b : b;
    }
    p[i] = p[i] - lr * v;
  }
};

template <class T>
struct Adam {
  T *p, *m, *v, *vmax;
  const T* g;
  T b1, b2, take1, take2, eps, decay, shrink, step, root;
  bool decoupled, maximize;
  __device__ void operator()(int64_t i) const {
    T x = p[i], gi = maximize ? -g[i] : g[i];
    if (decoupled)
      x = x * shrink;
    else if (decay != T(0))
      gi = gi + decay * x;
    // as PyTorch interpolates, from the nearer end
    const T mi = b1 > T(0.5) ? m[i] + take1 * (gi - m[i]) : gi - b1 * (gi - m[i]),
            vi = b2 * v[i] + take2 * gi * gi;
    m[i] = mi, v[i] = vi;
    T top = vi;
    if (vmax) {
      top = vmax[i] > vi ? vmax[i] : vi;
      vmax[i] = top;
    }
    p[i] = x - step * mi / (sqrt(top) / root + eps);
  }
};

template <class F>
__global__ void each_kernel(F f, int64_t n) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += 4 * stride) {
    DROPIN_UNROLL
    for (int k = 0; k < 4; ++k)
      if (i + k * stride < n) f(i + k * stride);
  }
}
template <class F>
Status each(const KernelContext& c, F f, int64_t n) {
  return launch(c, &each_kernel<F>, dim3(blocks_for(c, n, 1024)), dim3(256), 0, f, n);
}

Status sgd_cuda(const KernelContext& c, const SgdStep& a, const TensorOut& p, const TensorIn& g,
                const TensorOut& buf) {
  DROPIN_REQUIRE(p.contiguous() && g.contiguous() && g.dtype == p.dtype && g.numel() == p.numel() &&
                     (!buf.data || (buf.contiguous() && buf.dtype == p.dtype)),
                 "arrays do not fit");
  return visit_real(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return each(c,
                Sgd<T>{p.as<T>(), buf.as<T>(), g.as<T>(), static_cast<T>(a.lr),
                       static_cast<T>(a.momentum), static_cast<T>(1 - a.dampening),
                       static_cast<T>(a.weight_decay), a.nesterov, a.first, a.maximize},
                p.numel());
  });
}

Status adam_cuda(const KernelContext& c, const AdamStep& a, const TensorOut& p, const TensorIn& g,
                 const TensorOut& m, const TensorOut& v, const TensorOut& vmax) {
  DROPIN_REQUIRE(p.contiguous() && g.contiguous() && m.contiguous() && v.contiguous() &&
                     g.dtype == p.dtype && g.numel() == p.numel(),
                 "arrays do not fit");
  const double bc1 = 1 - pow(a.beta1, static_cast<double>(a.step)),
               bc2 = 1 - pow(a.beta2, static_cast<double>(a.step));
  return visit_real(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Adam<T> update{p.as<T>(),
                         m.as<T>(),
                         v.as<T>(),
                         vmax.as<T>(),
                         g.as<T>(),
                         static_cast<T>(a.beta1),
                         static_cast<T>(a.beta2),
                         static_cast<T>(1 - a.beta1),
                         static_cast<T>(1 - a.beta2),
                         static_cast<T>(a.eps),
                         static_cast<T>(a.weight_decay),
                         static_cast<T>(1 - a.lr * a.weight_decay),
                         static_cast<T>(a.lr / bc1),
                         static_cast<T>(sqrt(bc2)),
                         a.decoupled,
                         a.maximize};
    return each(c, update, p.numel());
  });
}

}  // namespace

void provide_optim(KernelTable& t) {
  provide<sgd_step, &sgd_cuda>(t);
  provide<adam_step, &adam_cuda>(t);
}

}  // namespace dropin::kernels::cuda
