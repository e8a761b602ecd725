// A model in several safetensors files and the index that names them.
#include <unordered_map>
#include <unordered_set>

#include "serialize/safetensors_format.h"

namespace dropin {

using namespace serialize_detail;

bool serialize_detail::is_json_file(const ByteSource& in) {
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

namespace {

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
  if (const Json* m = j.find("metadata"); m && m->is_object()) r.metadata = *m;
  const std::size_t slash = path.rfind('/');
  if (slash != std::string::npos) r.folder = path.substr(0, slash + 1);
  return r;
}

}  // namespace

ShardIndex serialize_detail::read_shard_index(const ByteSource& in) {
  if (in.size() > kMaxJsonBytes)
    fail<FileError>(
        {in.label(), ": an index of ", in.size(), " bytes; at most 100000000 are allowed"});
  std::string text(in.size(), '\0');
  in.read(0, text.data(), text.size());
  return parse_index(in.label(), text);
}

void serialize_detail::read_shard_headers(
    const std::string& path, const ShardIndex& index,
    const std::function<void(std::shared_ptr<const ByteSource>, SafetensorsHeader&)>& visit) {
  std::unordered_map<std::string, std::string> from;  // tensor -> the shard that holds it
  for (const std::string& file : index.files) {
    std::shared_ptr<const ByteSource> in;
    SafetensorsHeader shard;
    try {
      in = std::make_shared<const ByteSource>(index.folder + file);
      shard = read_safetensors_header(*in);
    } catch (const FileError& e) {
      fail<FileError>({path, ": shard ", e.what()});
    }
    for (const SafetensorsEntry& e : shard.entries) {
      const auto [at, is_new] = from.emplace(e.name, file);
      if (!is_new)
        fail<FileError>(
            {path, ": tensor \"", e.name, "\" is in two shards, ", at->second, " and ", file});
      const auto said = index.file_of.find(e.name);
      if (said != index.file_of.end() && said->second != file)
        fail<FileError>({path, ": tensor \"", e.name, "\" is in shard ", file, ", the index says ",
                         said->second});
    }
    try {
      visit(in, shard);
    } catch (const FileError& e) {
      fail<FileError>({path, ": shard ", e.what()});
    }
  }
  for (const auto& [name, file] : index.file_of)
    if (!from.count(name))
      fail<FileError>({path, ": tensor \"", name, "\" is not in its shard ", file});
}

}  // namespace dropin
