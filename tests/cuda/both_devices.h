// The same operation on the CPU and on CUDA: values and gradients beside each other. CUDA is a GPU
// where there is one, and else the host executor (DROPIN_CUDA_PLUGIN names its plugin), which
// checks arithmetic and indexing, not races or speed.
#pragma once
#include <sys/wait.h>
#include <unistd.h>
#include <functional>

#include "dropin/dispatch/devices.h"
#include "dropin/ops/ops.h"
#include "support.h"

namespace dropin {

using testing::max_difference;

class Cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_report().count == 0) GTEST_SKIP() << "no CUDA device: " << cuda_report().why;
  }
};

inline Tensor noise(const Shape& s, DType t = kFloat32, std::uint64_t seed = 1) {
  Generator g(seed);
  return randn(s, t, &g);
}

using Op = std::function<Tensor(const Tensors&)>;

/// f on both devices from the same inputs, and the gradients of sum(f * w): differences relative to
/// the largest value (of 0.01 at least: some gradients are 0), at most `tolerance`.
inline void agrees(const char* what, const Tensors& inputs, const Op& f, double tolerance = 2e-5) {
  SCOPED_TRACE(what);
  std::vector<Tensors> all(2);
  for (int i = 0; i < 2; ++i) {
    const Device d = i ? kCUDA : kCPU;
    Tensors x;
    for (const Tensor& t : inputs) {
      x.push_back(t.defined() ? t.to(d).clone() : t);
      if (t.defined() && is_floating(t.dtype())) x.back().requires_grad_();
    }
    const Tensor y = f(x);
    ASSERT_EQ(y.device().is_cuda(), i == 1);
    all[i].push_back(y.detach().to(kFloat64).to(kCPU));
    if (y.requires_grad()) {
      sum(y * noise(y.sizes(), kFloat32, 99).to(y.dtype()).to(d)).backward();
      for (const Tensor& t : x)
        if (t.defined() && t.grad().defined()) all[i].push_back(t.grad().to(kFloat64).to(kCPU));
    }
  }
  ASSERT_EQ(all[0].size(), all[1].size());
  for (std::size_t k = 0; k < all[0].size(); ++k) {
    double top = 1e-2;
    for (double v : all[0][k].to_vector())
      top = std::isfinite(v) ? std::max(top, std::abs(v)) : top;
    EXPECT_LE(max_difference(all[0][k], all[1][k]) / top, tolerance)
        << (k ? "gradient " : "value ") << k << " of shape " << all[0][k].sizes().str();
  }
}

}  // namespace dropin
