// Matrix products.
#pragma once
#include <string_view>

#include "dropin/autograd/autograd.h"

namespace dropin {

/// torch.matmul: vectors, matrices, broadcast batches.
Tensor matmul(const Tensor& a, const Tensor& b);
/// Products of a batch: a [B, N, M], b [B, M, P] -> [B, N, P]; ShapeError on anything else.
Tensor bmm(const Tensor& a, const Tensor& b);
/// x [*, in] w^T + bias; w [out, in], bias [out] or undefined.
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias = {});
/// torch.einsum: "bhqd,bhkd->bhqk". Repeated letters within an operand and "..." are supported;
/// operands contract left to right.
Tensor einsum(std::string_view equation, const Tensors& operands);

}  // namespace dropin
