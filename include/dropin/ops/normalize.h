// Rows of length 1.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

/// x / max(|x|, eps) along dim (torch.nn.functional.normalize). A vector that is not longer than
/// eps has no direction and gets no gradient.
Tensor normalize(const Tensor& x, int64_t dim = -1, double eps = 1e-12);
/// Sums along the last dimension of normalize(a) * normalize(b).
Tensor cosine_similarity(const Tensor& a, const Tensor& b, double eps = 1e-12);

}  // namespace dropin
