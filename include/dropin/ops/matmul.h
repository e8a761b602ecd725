// Matrix products.
#pragma once
#include <string_view>

#include "dropin/autograd/autograd.h"

namespace dropin {

/// torch.matmul: vectors, matrices, broadcast batches.
Tensor matmul(const Tensor& a, const Tensor& b);
/// Products of a batch: a [B, N, M], b [B, M, P] -> [B, N, P]; ShapeError on anything else.
Tensor bmm(const Tensor& a, const Tensor& b);
/// Products of two matrices, of a matrix and a vector, of two vectors; ShapeError on anything else.
Tensor mm(const Tensor& a, const Tensor& b);
Tensor mv(const Tensor& a, const Tensor& b);
Tensor dot(const Tensor& a, const Tensor& b);
/// a_i b_j of two vectors.
Tensor outer(const Tensor& a, const Tensor& b);
/// beta x + alpha a b of matrices (a batch of them); x broadcasts. beta 0 leaves x out, NaN too.
Tensor addmm(const Tensor& x, const Tensor& a, const Tensor& b, const Scalar& beta = 1,
             const Scalar& alpha = 1);
Tensor baddbmm(const Tensor& x, const Tensor& a, const Tensor& b, const Scalar& beta = 1,
               const Scalar& alpha = 1);
/// x [*, in] w^T + bias; w [out, in], bias [out] or undefined.
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias = {});
/// torch.einsum: "bhqd,bhkd->bhqk". Repeated letters within an operand and "..." are supported;
/// operands contract left to right.
Tensor einsum(std::string_view equation, const Tensors& operands);

}  // namespace dropin
