// Targets as tensors.
#pragma once
#include "dropin/loss/sequence_loss.h"
#include "support.h"

namespace dropin::testing {

using Options = EditInvariantSequenceLossOptions;

inline Tensor ids(const std::vector<int64_t>& v, const Shape& sizes) { return tensor(v, sizes); }

}  // namespace dropin::testing
