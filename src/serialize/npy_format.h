// NumPy's format of one array, in pieces: for .npy files and the members of .npz.
#pragma once
#include <string>
#include <string_view>

#include "serialize/stored_format.h"

namespace dropin::serialize_detail {

constexpr std::uint64_t kMaxNpyHeader =
    1 << 20;  ///< ours need about 100 bytes; longer ones describe structured types

struct NpyHeader {
  std::string descr;
  const StoredFormat* format = nullptr;  ///< null: a dtype that is not read (texts, objects)
  bool big_endian = false, fortran_order = false;
  Shape shape;
  std::uint64_t begin = 0;  ///< of the values
};

/// The header of an array of `bytes` bytes, of which `begin` holds the first (enough for the
/// header). FileError naming the rule that it breaks.
NpyHeader parse_npy_header(std::string_view begin, std::uint64_t bytes, const std::string& label);
/// Of numbers: FileError when sizes and dtype do not agree with the bytes after the header.
void check_npy_size(const NpyHeader& h, std::uint64_t bytes, const std::string& label);
/// The values as little-endian numbers in row-major order.
std::string npy_values(const NpyHeader& h, std::string content);

}  // namespace dropin::serialize_detail
