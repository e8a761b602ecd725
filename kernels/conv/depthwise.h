// Mixed depthwise convolution on the CPU, shared by its kernels and the general convolution's.
#pragma once
#include "kernels/conv/kernel.h"

namespace dropin::kernels {

abi::Status depthwise_forward(const abi::TensorIn& x, const DepthwiseRuns& runs,
                              const abi::TensorOut& y);
abi::Status depthwise_backward(const abi::TensorIn& gy, const abi::TensorIn& x,
                               const DepthwiseRuns& runs, const abi::TensorOut& gx);

}  // namespace dropin::kernels
