// How values are stored: the dtypes of safetensors and of PyTorch's archives, and their decoding.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "dropin/serialize/state_file.h"
#include "serialize/byte_source.h"

namespace dropin::serialize_detail {

struct StoredFormat {
  const char* name;  ///< safetensors' dtype; C128 besides
  int bits;          ///< of one element
  DType dtype;       ///< of the Tensor it becomes
  bool own;          ///< whether a Tensor stores it just so
  int parts = 1;     ///< 2: real and imaginary, a last axis of the Shape
};

/// Formats by name; null for an unknown one.
const StoredFormat* find_stored_format(std::string_view name);
/// The format of a Tensor's dtype.
const StoredFormat& stored_format_of(DType dtype);
std::span<const StoredFormat> stored_formats();

/// Bytes of a tensor of that many elements (of complex numbers: parts), which must fill whole ones.
inline std::uint64_t stored_bytes(const StoredFormat& f, std::uint64_t elements) {
  return (elements * static_cast<std::uint64_t>(f.bits / f.parts) + 7) / 8;
}

/// Turns the bytes of `elements` values (of complex numbers: parts) into those of f.dtype; in and
/// out may be the same memory only where `own`. F4: low nibble first; F6: code i at bit 6 i.
/// FileError naming `label` for a BOOL byte above 1 and a U64 beyond int64.
void decode_stored(const StoredFormat& f, const void* in, int64_t elements, void* out,
                   const std::string& label);
/// The tensor of contiguous bytes.
Tensor decode_stored(const StoredFormat& f, const std::string& bytes, const Shape& shape,
                     const std::string& label);

/// The content of a tensor that lies in one piece in a file: bytes from `begin` on.
std::shared_ptr<const TensorContent> content_of(std::shared_ptr<const ByteSource> file,
                                                const StoredFormat& format, Shape shape,
                                                std::uint64_t begin, std::string label);

}  // namespace dropin::serialize_detail
