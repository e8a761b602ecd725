// A mark on parameters for optimizers that compress their state.
#pragma once
#include "dropin/tensor/tensor.h"

namespace dropin {

/// Asks every 8-bit optimizer to keep 32-bit state for this parameter (StableEmbedding does).
/// Copies of the handle share the mark; clones do not.
void keep_full_state(const Tensor& parameter);
bool keeps_full_state(const Tensor& parameter);

}  // namespace dropin
