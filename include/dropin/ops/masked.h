// The steps of attention for members whose scores stand in memory.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

/// softmax over the last dimension of the scores that `forbidden` (bool, broadcasts; undefined:
/// none) leaves; the others, and rows of which nothing is left, give 0.
Tensor masked_softmax(const Tensor& scores, const Tensor& forbidden);
/// weights [*, Lq, Lk] times v [*, Lk, D]. masked: what is not finite in v counts only where its
/// weight is not 0.
Tensor weighted_values(const Tensor& weights, const Tensor& v, bool masked);

}  // namespace dropin
