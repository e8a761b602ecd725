// npy: NumPy's format of one array.
#pragma once
#include <string>

#include "dropin/tensor/tensor.h"

namespace dropin {

/// Reads a .npy file of version 1, 2 or 3: float16/32/64, int8/32/64, uint8 or bool, little or big
/// endian, C or Fortran order (the result is contiguous). FileError naming the file and the rule it
/// breaks, before anything is allocated: magic, version, header length and syntax, another dtype,
/// more than 8 dimensions, sizes that do not agree with the bytes that follow.
Tensor load_npy(const std::string& path);
/// The same from memory; `label` stands for the file's name in messages.
Tensor parse_npy(const void* data, std::size_t bytes, const std::string& label);
/// Writes a tensor (any strides and device) as version 1, atomically. DTypeError for bfloat16,
/// which NumPy does not have; FileError.
void save_npy(const std::string& path, const Tensor& t);

}  // namespace dropin
