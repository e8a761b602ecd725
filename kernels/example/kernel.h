// The skeleton of a kernel, y = a x + b z: what docs/pages/kernel.md walks through. Copy the folder
// to begin one.
// Cost: 2 reads and 1 write of 4 bytes per value, 2 FLOPs; memory decides from the caches on.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// x, z, y: f32 of one shape, contiguous. Field names are the op's own. tensors() lets dispatch
/// check every array's device.
struct ExampleInputs {
  abi::TensorIn x, z;
  double a = 1, b = 1;
  template <class F>
  void tensors(F&& f) const {
    f(x);
    f(z);
  }
};

/// y may be x or z itself: each value is read before it is written.
DROPIN_KERNEL(example_scaled_sum, const ExampleInputs& in, const abi::TensorOut& y);

}  // namespace dropin::kernels
