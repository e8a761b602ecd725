#include "kernels/any_array.h"
#include "kernels/optim/kernel.h"

namespace dropin::test {
namespace {

struct Adam {
  double lr = 0.01, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 0;
  bool decoupled = false, maximize = false, amsgrad = false;
};

TEST(AdamStep, FollowsTheFormulaOverManySteps) {
  for (DType t : {kFloat32, kFloat64})
    for (int64_t n : {0, 1, 5, 37, 70000})
      for (const Adam& a : {Adam{}, Adam{.decay = 0.1}, Adam{.decay = 0.1, .decoupled = true},
                            Adam{.maximize = true, .amsgrad = true}, Adam{.beta1 = 0.3}}) {
        Array p(t, {n}), g(t, {n}), m(t, {n}), v(t, {n}), top(t, {n});
        p.random(-1, 1, 1);
        std::vector<double> rp, rm(n), rv(n), rtop(n);
        for (int64_t i = 0; i < n; ++i) rp.push_back(p[i]);
        for (int step = 1; step <= 4; ++step) {
          g.random(-1, 1, 10 + step);
          run<kernels::adam_step>(kCPU,
                                  kernels::AdamStep{a.lr, a.beta1, a.beta2, a.eps, a.decay,
                                                    a.decoupled, a.maximize, step},
                                  p.out(), g.in(), m.out(), v.out(),
                                  a.amsgrad ? top.out() : abi::TensorOut{});
          for (int64_t i = 0; i < n; ++i) {
            double e = a.maximize ? -g[i] : g[i];
            if (a.decoupled)
              rp[i] *= 1 - a.lr * a.decay;
            else
              e += a.decay * rp[i];
            rm[i] = a.beta1 * rm[i] + (1 - a.beta1) * e;
            rv[i] = a.beta2 * rv[i] + (1 - a.beta2) * e * e;
            rtop[i] = std::max(rtop[i], rv[i]);
            const double second = a.amsgrad ? rtop[i] : rv[i];
            rp[i] -= a.lr / (1 - std::pow(a.beta1, step)) * rm[i] /
                     (std::sqrt(second) / std::sqrt(1 - std::pow(a.beta2, step)) + a.eps);
          }
        }
        expect_close(
            p, [&](int64_t i) { return rp[i]; }, 8, 1, "p");
        expect_close(
            m, [&](int64_t i) { return rm[i]; }, 8, 0.3, "m");
        expect_close(
            v, [&](int64_t i) { return rv[i]; }, 12, 0, "v");
        if (a.amsgrad)
          expect_close(
              top, [&](int64_t i) { return rtop[i]; }, 12, 0, "vmax");
      }
}

TEST(SgdStep, FollowsTheFormulaOverManySteps) {
  for (DType t : {kFloat32, kFloat64})
    for (int64_t n : {0, 1, 5, 37, 70000})
      for (int variant = 0; variant < 24; ++variant) {
        const double momentum = variant & 1 ? 0.9 : 0, dampening = variant & 2 ? 0.2 : 0,
                     decay = variant & 4 ? 0.1 : 0, lr = 0.1;
        const bool nesterov = variant & 8 && momentum != 0, maximize = variant & 16;
        Array p(t, {n}), g(t, {n}), buf(t, {n});
        p.random(-1, 1, 1);
        std::vector<double> rp, rb(n);
        for (int64_t i = 0; i < n; ++i) rp.push_back(p[i]);
        for (int step = 0; step < 3; ++step) {
          g.random(-1, 1, 10 + step);
          run<kernels::sgd_step>(
              kCPU, kernels::SgdStep{lr, momentum, dampening, decay, nesterov, maximize, step == 0},
              p.out(), g.in(), momentum != 0 ? buf.out() : abi::TensorOut{});
          for (int64_t i = 0; i < n; ++i) {
            double e = (maximize ? -g[i] : g[i]) + decay * rp[i];
            if (momentum != 0) {
              rb[i] = step == 0 ? e : momentum * rb[i] + (1 - dampening) * e;
              e = nesterov ? e + momentum * rb[i] : rb[i];
            }
            rp[i] -= lr * e;
          }
        }
        expect_close(
            p, [&](int64_t i) { return rp[i]; }, 6, 1, "p");
      }
}

TEST(Steps, RefuseWhatDoesNotFit) {
  Array p(kFloat32, {4}), g(kFloat32, {5}), h(kFloat16, {4});
  EXPECT_THROW(run<kernels::sgd_step>(kCPU, kernels::SgdStep{.lr = 0.1, .first = true}, p.out(),
                                      g.in(), abi::TensorOut{}),
               Error);
  EXPECT_THROW(run<kernels::sgd_step>(kCPU, kernels::SgdStep{.lr = 0.1, .first = true}, h.out(),
                                      h.in(), abi::TensorOut{}),
               DTypeError);
}

}  // namespace
}  // namespace dropin::test
