// What the kernels of attentions ask of queries, keys and values.
#pragma once
#include <initializer_list>

#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// Whether all are float32 [B, H, L, D] with a contiguous last dimension.
inline bool are_heads(std::initializer_list<const abi::TensorIn*> all) {
  for (const abi::TensorIn* t : all)
    if (t->dtype != DType::Float32 || t->ndim != 4 || (t->strides[3] != 1 && t->sizes[3] > 1))
      return false;
  return true;
}
inline constexpr const char* kHeads = "float32 [B, H, L, D] with a contiguous last dimension";

}  // namespace dropin::kernels
