// Pickles, read by a machine that can build nothing but values.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dropin/core/error.h"
#include "serialize/stored_format.h"

namespace dropin::serialize_detail {

/// Where the bytes of tensors lie: one storage of an archive.
struct PickledStorage {
  std::string key;
  const StoredFormat* format = nullptr;  ///< null: bytes, whose tensors say their dtype
  std::uint64_t count = 0;               ///< elements; bytes when untyped
  std::uint64_t offset = 0;              ///< of a view into the storage `key`: elements
};

struct PickledTensor {
  std::size_t storage = 0;
  const StoredFormat* format = nullptr;
  std::uint64_t offset = 0;  ///< elements
  std::vector<std::int64_t> sizes, strides;
};

struct PickleNode {
  enum Kind : std::uint8_t {
    None,
    Bool,
    Int,
    BigInt,  ///< digits in text
    Float,
    Text,
    Bytes,
    List,     ///< list, set
    Tuple,    ///< tuple, torch.Size
    Dict,     ///< items: key, value, key, value, ...
    Complex,  ///< items: two floats
    DType,    ///< torch.bfloat16
    Device,
    Global,   ///< a callable or type of the allowed list: module.name in text
    Storage,  ///< integer: number in storages
    Tensor    ///< integer: number in tensors
  };
  Kind kind = None;
  std::int64_t integer = 0;
  double real = 0;
  std::string text;
  std::vector<std::uint32_t> items;
};

/// What a pickle says. Nodes refer to each other by number; several may refer to one.
struct Pickled {
  std::vector<PickleNode> nodes;
  std::vector<PickledStorage> storages;
  std::vector<PickledTensor> tensors;
  std::uint32_t root = 0;
  std::uint64_t bytes = 0;  ///< how many were read
};

/// Reads one pickle (protocols 2 to 5) that begins at data[0]. Dicts, lists, tuples, sets, numbers,
/// texts, bytes, and what torch.save makes of tensors are built; any other class or function that
/// it asks for is a FileError naming that, and nothing is ever called. FileError too for what is
/// malformed, with the place.
Pickled read_pickle(const std::string& label, std::string_view data);

}  // namespace dropin::serialize_detail
