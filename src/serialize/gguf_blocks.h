// GGUF's tensor types: blocks of quantized values.
#pragma once
#include <cstdint>
#include <string_view>

#include "dropin/core/dtype.h"

namespace dropin::serialize_detail {

struct GgufType {
  std::uint32_t id;
  const char* name;
  int block;  ///< elements
  int bytes;  ///< of a block
  DType dtype;
  bool plain;      ///< numbers one by one, no blocks
  bool quantizes;  ///< whether quantize_gguf() knows it
};

/// By number or name; null for an unknown one.
const GgufType* find_gguf_type(std::uint32_t id);
const GgufType* find_gguf_type(std::string_view name);

/// The float32 values of whole blocks, as the gguf package (0.19.0) computes them. Not of plain
/// types.
void dequantize_gguf(const GgufType& type, const unsigned char* blocks, std::int64_t count,
                     float* out);
/// The blocks of float32 values, by the gguf package's rules; only where type.quantizes.
void quantize_gguf(const GgufType& type, const float* values, std::int64_t blocks,
                   unsigned char* out);

}  // namespace dropin::serialize_detail
