// Numbers drawn by given weights.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

/// Indices [*, num_samples] int64 drawn by weights x [n] or [rows, n], which need not sum to 1; a
/// weight of 0 is never drawn. Without replacement no index comes twice. OptionError for weights
/// that are negative, not finite or all 0, and where too few are above 0. torch.multinomial; the
/// numbers are this library's own. Drawn on the CPU.
Tensor multinomial(const Tensor& x, int64_t num_samples, bool replacement = false,
                   Generator* g = nullptr);
/// 1 with probability x, else 0, in x's dtype. OptionError for probabilities outside 0 to 1.
Tensor bernoulli(const Tensor& x, Generator* g = nullptr);

}  // namespace dropin
