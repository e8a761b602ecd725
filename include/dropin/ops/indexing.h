// Indexing by tensors: x[mask], x[rows, columns] and writing there.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

/// x[i_0, i_1, ...] of PyTorch, where each index is int64 (negative ones count from the end), bool
/// (it stands for as many dimensions as it has, whose true positions it names) or undefined (":",
/// the whole dimension). Index tensors broadcast together; their dimensions stand where the first
/// index stood, or in front when a ":" is between them. A copy. IndexError for a position that is
/// not there, ShapeError for a mask of another shape. tensor.h: x[mask], x.index({...}).
Tensor index(const Tensor& x, const Tensors& indices);
/// A copy of x with values, which broadcast, where index(x, indices) reads. accumulate adds them to
/// what is there, as often as a place is named; otherwise the last of several values for one place
/// stays. Values are converted within their kind; DTypeError for a float in an integer tensor.
Tensor index_put(const Tensor& x, const Tensors& indices, const Tensor& values,
                 bool accumulate = false);

}  // namespace dropin
