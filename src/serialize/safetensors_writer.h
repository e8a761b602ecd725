// Writes one safetensors file tensor by tensor: the header first, then the data in its order.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dropin/serialize/atomic_file.h"
#include "serialize/stored_format.h"

namespace dropin::serialize_detail {

/// What a header says of a tensor. The shape is the file's (of C64 without the axis of parts).
struct SafetensorsItem {
  std::string name;
  const StoredFormat* format = nullptr;
  Shape shape;
  std::uint64_t bytes = 0;
  std::size_t source = 0;  ///< the caller's number of it
};

class SafetensorsWriter {
 public:
  using Notes = std::vector<std::pair<std::string, std::string>>;
  /// Sorts the items (widest elements first, then by name), checks names and writes the header.
  /// OptionError, FileError.
  SafetensorsWriter(const std::string& path, std::vector<SafetensorsItem> items,
                    const Notes& metadata);
  /// In the order in which their bytes are to be written.
  const std::vector<SafetensorsItem>& items() const { return items_; }
  void write(const void* data, std::size_t bytes) { file_.write(data, bytes); }
  void commit() { file_.commit(); }

 private:
  std::string path_;
  std::vector<SafetensorsItem> items_;
  std::string header_;
  AtomicFile file_;
};

}  // namespace dropin::serialize_detail
