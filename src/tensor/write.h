// Writes of whole tensors, off the tape: what factories and in-place operations share.
#pragma once
#include "dropin/tensor/tensor.h"
#include "kernels/random/kernel.h"

namespace dropin::detail {

/// Every element of t becomes the value, converted; integers exactly.
void fill(const Tensor& t, const Scalar& value);
/// Every element of t becomes a number of the distribution; null: the default generator.
void random_into(const Tensor& t, kernels::Distribution d, double a, double b, Generator* g);

}  // namespace dropin::detail
