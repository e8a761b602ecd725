// A model in several safetensors files and the index that names them.
#include <unordered_map>
#include <unordered_set>

#include "serialize/safetensors_format.h"

namespace dropin {

using namespace serialize_detail;

namespace {

/// An index: which file holds which tensor, and what it says about the whole.
struct ShardIndex {
  std::vector<std::string> files;  ///< in the order in which they are named first
  std::unordered_map<std::string, std::string> file_of;
  std::vector<std::pair<std::string, std::string>> metadata;
};

bool is_json_file(ByteSource& in) {
  char first = 0;
  for (std::uint64_t at = 0; at < in.size() && at < 64; ++at) {
    in.read(at, &first, 1);
    if (first != ' ' && first != '\n' && first != '\t' && first != '\r') break;
  }
  unsigned char length[8] = {};
  in.read(0, length, std::min<std::uint64_t>(8, in.size()));
  // A header of up to 100 MB has a length whose last bytes are 0; text has none.
  return first == '{' && in.size() > 1 && length[std::min<std::uint64_t>(in.size(), 8) - 1] != 0;
}

ShardIndex parse_index(const std::string& path, const std::string& text) {
  auto bad = [&](std::initializer_list<Part> why) {
    fail<FileError>({path, ": index of shards: ", join(why)});
  };
  Json j;
  try {
    j = Json::parse(text);
  } catch (const OptionError& e) {
    bad({e.what()});
  }
  const Json* map = j.is_object() ? j.find("weight_map") : nullptr;
  if (!map || !map->is_object())
    fail<FileError>({path, ": is JSON without a weight_map, neither safetensors nor an index"});
  ShardIndex r;
  std::unordered_set<std::string> seen;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || file.as_string().empty())
      bad({"tensor \"", name, "\": ", quote(file), " is not a file name"});
    const std::string& f = file.as_string();
    if (f.find('/') != std::string::npos || f == "..")
      bad({"tensor \"", name, "\": ", quote(file), " is not a file beside the index"});
    if (seen.insert(f).second) r.files.push_back(f);
    r.file_of.emplace(name, f);
  }
  if (const Json* m = j.find("metadata"); m && m->is_object())
    for (const auto& [k, v] : m->items())
      r.metadata.emplace_back(k, v.is_string() ? v.as_string() : v.dump());
  return r;
}

SafetensorsFile read_shards(const std::string& path, const std::string& text) {
  const ShardIndex index = parse_index(path, text);
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  SafetensorsFile r;
  r.label = path;
  r.metadata = index.metadata;
  std::unordered_map<std::string, std::string> from;  // tensor -> the shard that holds it
  for (const std::string& file : index.files) {
    SafetensorsFile shard;
    try {
      const std::string shard_path = folder + file;
      ByteSource in(shard_path);
      shard = read_safetensors(in);
    } catch (const FileError& e) {
      fail<FileError>({path, ": shard ", e.what()});
    }
    auto enter = [&](const std::string& name) {
      const auto [at, is_new] = from.emplace(name, file);
      if (!is_new)
        fail<FileError>(
            {path, ": tensor \"", name, "\" is in two shards, ", at->second, " and ", file});
      const auto said = index.file_of.find(name);
      if (said != index.file_of.end() && said->second != file)
        fail<FileError>({path, ": tensor \"", name, "\" is in shard ", file, ", the index says ",
                         said->second});
    };
    for (auto& [n, t] : shard.tensors) {
      enter(n);
      r.tensors.emplace_back(n, t);
    }
    for (UnreadTensor& u : shard.unread) {
      enter(u.name);
      r.unread.push_back(std::move(u));
    }
    for (auto& [k, v] : shard.metadata)
      if (!r.find_metadata(k)) r.metadata.emplace_back(k, v);
  }
  for (const auto& [name, file] : index.file_of)
    if (!from.count(name))
      fail<FileError>({path, ": tensor \"", name, "\" is not in its shard ", file});
  return r;
}

}  // namespace

SafetensorsFile load_safetensors(const std::string& path) {
  ByteSource in(path);
  if (!is_json_file(in)) return read_safetensors(in);
  if (in.size() > kMaxJsonBytes)
    fail<FileError>({path, ": an index of ", in.size(), " bytes; at most 100000000 are allowed"});
  std::string text(in.size(), '\0');
  in.read(0, text.data(), text.size());
  return read_shards(path, text);
}

}  // namespace dropin
