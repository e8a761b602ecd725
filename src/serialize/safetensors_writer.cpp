// Writes safetensors: the widest dtypes first, so that every tensor lies aligned.
#include <algorithm>

#include "serialize/safetensors_format.h"
#include "serialize/safetensors_writer.h"

namespace dropin {

using namespace serialize_detail;

namespace {

using Items = std::vector<SafetensorsItem>;
using Notes = SafetensorsWriter::Notes;

/// Names once each, in UTF-8.
void check_names(const std::string& path, const char* what, const auto& pairs) {
  std::vector<std::string_view> names;
  for (const auto& p : pairs) {
    if constexpr (requires { p.name; })
      names.push_back(p.name);
    else
      names.push_back(p.first);
  }
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    fail<OptionError>({path, ": the ", what, " \"", *twice, "\" is given twice"});
  for (const std::string_view n : names)
    if (!is_utf8(n)) fail<OptionError>({path, ": the ", what, " \"", n, "\" is not UTF-8"});
}

/// The JSON header of tensors in this order, padded to whole words.
std::string header_of(const std::string& path, const Items& sorted, const Notes& metadata) {
  check_names(path, "metadata key", metadata);
  std::string header = "{";
  const auto key = [&](const std::string& k) {
    if (header.back() != '{') header += ',';
    header += Json(k).dump() += ':';
  };
  if (!metadata.empty()) {
    key("__metadata__");
    header += '{';
    for (const auto& [k, v] : metadata) {
      if (!is_utf8(v))
        fail<OptionError>({path, ": the metadata value of \"", k, "\" is not UTF-8"});
      key(k);
      header += Json(v).dump();
    }
    header += '}';
  }
  std::uint64_t at = 0;
  for (const SafetensorsItem& e : sorted) {
    Json shape = Json::array();
    for (int64_t n : e.shape) shape.push_back(Json(n));
    key(e.name);
    header += join({"{\"dtype\":\"", e.format->name, "\",\"shape\":", shape.dump(),
                    ",\"data_offsets\":[", at, ",", at + e.bytes, "]}"});
    at += e.bytes;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > kMaxJsonBytes)
    fail<OptionError>(
        {path, ": a header of ", header.size(), " bytes; at most 100000000 are allowed"});
  return header;
}

Items sorted_items(const std::string& path, Items items) {
  check_names(path, "tensor name", items);
  for (const SafetensorsItem& e : items)
    if (e.name == "__metadata__")
      fail<OptionError>({path, ": the tensor name \"", e.name, "\" is reserved"});
  std::sort(items.begin(), items.end(), [](const auto& a, const auto& b) {
    const int x = a.format->bits, y = b.format->bits;
    return x != y ? x > y : a.name < b.name;
  });
  return items;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<SafetensorsItem> items,
                                     const Notes& metadata)
    : path_(path),
      items_(sorted_items(path, std::move(items))),
      header_(header_of(path, items_, metadata)),
      file_(path) {
  unsigned char length[8];
  for (int i = 0; i < 8; ++i)
    length[i] = static_cast<unsigned char>(static_cast<std::uint64_t>(header_.size()) >> (8 * i));
  file_.write(length, 8);
  file_.write(header_);
}

void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::vector<std::pair<std::string, std::string>>& metadata) {
  Items items;
  for (const auto& [name, t] : tensors) {
    const StoredFormat& f = stored_format_of(t.dtype());
    items.push_back({name, &f, t.sizes(),
                     static_cast<std::uint64_t>(t.numel() * item_size(t.dtype())), items.size()});
  }
  SafetensorsWriter out(path, std::move(items), metadata);
  for (const SafetensorsItem& e : out.items()) {
    const Tensor t = tensors[e.source].second.detach().to(kCPU).contiguous();
    if (e.bytes) out.write(t.data_ptr(), e.bytes);
  }
  out.commit();
}

}  // namespace dropin
