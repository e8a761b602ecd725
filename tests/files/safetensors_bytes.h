// Safetensors files in memory.
#pragma once
#include "files/temporary.h"

namespace dropin {

/// A file of this header (length and all) and data.
inline std::string file(const std::string& header, const std::string& data = "") {
  std::string s;
  for (int i = 0; i < 8; ++i)
    s += static_cast<char>(static_cast<std::uint64_t>(header.size()) >> (8 * i));
  return s + header + data;
}

}  // namespace dropin
