// Joining, splitting, padding, indexing.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

Tensor concat(const Tensors& xs, int64_t dim = 0);
inline Tensor cat(const Tensors& xs, int64_t dim = 0) { return concat(xs, dim); }
Tensor stack(const Tensors& xs, int64_t dim = 0);
/// Views of `size` along dim (the last may be shorter).
Tensors split(const Tensor& x, int64_t size, int64_t dim = 0);
Tensors split(const Tensor& x, const Shape& sizes, int64_t dim = 0);
Tensors chunk(const Tensor& x, int64_t chunks, int64_t dim = 0);
/// torch.nn.functional.pad, constant mode: {left, right} of the last dimension, then of the one
/// before, ... Negative pads crop.
Tensor pad(const Tensor& x, const Shape& pads, double value = 0);
/// The slices of x along dim, views.
Tensors unbind(const Tensor& x, int64_t dim = 0);
/// One dimension taken out and put in at another place.
Tensor movedim(const Tensor& x, int64_t from, int64_t to);
Tensor flip(const Tensor& x, const Shape& dims);
Tensor roll(const Tensor& x, int64_t shift, int64_t dim);
Tensor repeat(const Tensor& x, const Shape& repeats);
Tensor repeat_interleave(const Tensor& x, int64_t repeats, int64_t dim);
/// The diagonal of a matrix, or a matrix with a vector on its diagonal.
Tensor diag(const Tensor& x, int64_t diagonal = 0);
Tensor tril(const Tensor& x, int64_t diagonal = 0);
Tensor triu(const Tensor& x, int64_t diagonal = 0);
Tensor one_hot(const Tensor& index, int64_t classes);  ///< int64
/// x[..index..] along dim; index int64, of the result's shape.
Tensor gather(const Tensor& x, int64_t dim, const Tensor& index);
/// x with src written (added) at index along dim.
Tensor scatter(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src);
Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src);
Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index);
Tensor index_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src);
/// Elements where mask (of x's shape) is true, in order, 1-d.
Tensor masked_select(const Tensor& x, const Tensor& mask);
/// Positions of true (non-zero) elements, [n, dim].
Tensor nonzero(const Tensor& x);
/// weight[ids]: [*] int64 -> [*, D]. Rows equal to padding_idx receive no gradient.
Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding_idx = -1);

}  // namespace dropin
