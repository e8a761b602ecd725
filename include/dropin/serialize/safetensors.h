// safetensors: 8 bytes of header length, a JSON header, raw little-endian tensors. Every rule of
// the format is checked before anything is allocated.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "dropin/core/json.h"
#include "dropin/tensor/tensor.h"

namespace dropin {

/// A tensor of a file whose dtype no Tensor has (F8_E4M3, I16, U64, ...).
struct UnreadTensor {
  std::string name, dtype;
  Shape shape;
};

/// A parsed file: tensors in the order of their data, and the header's __metadata__.
struct SafetensorsFile {
  std::vector<std::pair<std::string, Tensor>> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<UnreadTensor> unread;  ///< what is in the file beside `tensors`
  std::string label;                 ///< the file's name in messages
  /// The tensor of that name; FileError naming its dtype when it could not be read, or what there
  /// is when there is none. It walks the list: for many names make a StateDict of `tensors`.
  Tensor get(std::string_view name) const;
  /// The metadata value of that key, or null.
  const std::string* find_metadata(std::string_view key) const;
};

/// Reads a file, or all shards of an index (model.safetensors.index.json: metadata, and weight_map
/// from tensor names to files beside it). Tensors of the format's dtypes that no Tensor has are
/// listed in `unread`. FileError naming the file, the tensor and the rule it breaks: header size
/// (at most 100 MB, inside the file), JSON with unique keys, dtypes of the format, sizes that agree
/// with the data, ranges that cover the data without gap or overlap, BOOL bytes of 0 or 1; of an
/// index also: shards that are there, hold what the index says, and no tensor twice. The tensors
/// own their memory.
SafetensorsFile load_safetensors(const std::string& path);
/// The same from memory, without an index; `label` stands for the file's name in messages.
SafetensorsFile parse_safetensors(const void* data, std::size_t bytes, const std::string& label);
/// Writes tensors (any strides and device) atomically; the header is padded to 8 bytes, data
/// ordered by item size, then by name. FileError when it cannot be written; OptionError on a name
/// or key that is repeated, reserved or not UTF-8, or a header beyond 100 MB.
void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::vector<std::pair<std::string, std::string>>& metadata = {});

/// The whole file; FileError when it cannot be read.
std::string read_file(const std::string& path);

}  // namespace dropin
