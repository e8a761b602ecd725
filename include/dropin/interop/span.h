// Raw memory: tensors as spans of their elements, and tensors over vectors.
#pragma once
#include <span>

#include "dropin/tensor/tensor.h"

namespace dropin {

/// The elements of a contiguous cpu tensor, in order. Error when it is not contiguous or not on the
/// cpu, DTypeError when T is not its dtype.
template <class T>
std::span<T> as_span(const Tensor& t) {
  if (!t.device().is_cpu() || !t.is_contiguous())
    fail<Error>({"as_span: expected a contiguous cpu tensor, got ", t.sizes(), " with strides ",
                 t.strides(), " on ", t.device()});
  return {t.data<T>(), static_cast<std::size_t>(t.numel())};
}

/// A tensor over memory that the caller keeps alive. ShapeError when there are not as many elements
/// as the sizes say.
template <class T>
Tensor from_span(std::span<T> values, const Shape& sizes) {
  if (sizes.numel() != static_cast<int64_t>(values.size()))
    fail<ShapeError>({"from_span: ", values.size(), " elements for the shape ", sizes});
  return from_blob(values.data(), sizes, dtype_of<T>::value);
}

}  // namespace dropin
