// The greatest difference of two tensors of torch.
#pragma once
#include <gtest/gtest.h>

#include "dropin/interop/torch.h"
#include "support.h"

namespace dropin {

inline double worst(const torch::Tensor& a, const torch::Tensor& b) {
  return (a.to(torch::kFloat64) - b.to(torch::kFloat64)).abs().max().item<double>();
}

}  // namespace dropin
