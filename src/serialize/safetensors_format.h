// What the reader of one file, the reader of shards and the writer of safetensors share.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "dropin/serialize/safetensors.h"
#include "serialize/byte_source.h"
#include "serialize/stored_format.h"

namespace dropin::serialize_detail {

/// The greatest header, and the greatest index of shards.
constexpr std::uint64_t kMaxJsonBytes = 100'000'000;
/// A value as an error quotes it.
inline std::string quote(const Json& j) {
  std::string s = j.dump();
  if (s.size() > 100) s = s.substr(0, 100) + "...";
  return s;
}

/// One tensor of a header. The shape is the file's: of C64 without the axis of its parts.
struct SafetensorsEntry {
  std::string name;
  const StoredFormat* format = nullptr;
  Shape shape;
  std::uint64_t begin = 0, end = 0;  ///< in the file
};
/// A header whose every rule has been checked; entries in the order of their bytes.
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;
  std::vector<std::pair<std::string, std::string>> metadata;
};
SafetensorsHeader read_safetensors_header(const ByteSource& in);

/// An index of shards: which file holds which tensor, and what it says about the whole.
struct ShardIndex {
  std::string folder;              ///< that of the index, "" or with its slash
  std::vector<std::string> files;  ///< in the order in which they are named first
  std::unordered_map<std::string, std::string> file_of;
  Json metadata = Json::object();
};
/// Whether the file is JSON: an index, not safetensors.
bool is_json_file(const ByteSource& in);
ShardIndex read_shard_index(const ByteSource& in);
/// Calls visit(file, header) for each shard of an index, and checks that all of it is there, once.
void read_shard_headers(
    const std::string& path, const ShardIndex& index,
    const std::function<void(std::shared_ptr<const ByteSource>, SafetensorsHeader&)>& visit);

}  // namespace dropin::serialize_detail
