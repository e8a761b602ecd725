// Writes safetensors: the widest dtypes first, so that every tensor lies aligned.
#include <algorithm>

#include "dropin/serialize/atomic_file.h"
#include "serialize/safetensors_format.h"

namespace dropin {

using namespace serialize_detail;

namespace {

using NamedList = std::vector<std::pair<std::string, Tensor>>;
using Notes = std::vector<std::pair<std::string, std::string>>;

/// Names once each, in UTF-8.
void check_names(const std::string& path, const char* what, const auto& pairs) {
  std::vector<std::string_view> names;
  for (const auto& p : pairs) names.push_back(p.first);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    fail<OptionError>({path, ": the ", what, " \"", *twice, "\" is given twice"});
  for (const std::string_view n : names)
    if (!is_utf8(n)) fail<OptionError>({path, ": the ", what, " \"", n, "\" is not UTF-8"});
}

/// The JSON header of tensors in this order, padded to whole words.
std::string header_of(const std::string& path, const NamedList& sorted, const Notes& metadata) {
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
  int64_t at = 0;
  for (const auto& [n, t] : sorted) {
    const char* type = stored_format_of(t.dtype()).name;
    Json shape = Json::array();
    for (int64_t s : t.sizes()) shape.push_back(Json(s));
    const int64_t end = at + t.numel() * item_size(t.dtype());
    key(n);
    header += join({"{\"dtype\":\"", type, "\",\"shape\":", shape.dump(), ",\"data_offsets\":[", at,
                    ",", end, "]}"});
    at = end;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > kMaxJsonBytes)
    fail<OptionError>(
        {path, ": a header of ", header.size(), " bytes; at most 100000000 are allowed"});
  return header;
}

}  // namespace

void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::vector<std::pair<std::string, std::string>>& metadata) {
  check_names(path, "tensor name", tensors);
  check_names(path, "metadata key", metadata);
  std::vector<std::pair<std::string, Tensor>> sorted;
  for (const auto& [n, t] : tensors) {
    if (n == "__metadata__") fail<OptionError>({path, ": the tensor name \"", n, "\" is reserved"});
    sorted.emplace_back(n, t.detach().to(kCPU).contiguous());
  }
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    const int64_t x = item_size(a.second.dtype()), y = item_size(b.second.dtype());
    return x != y ? x > y : a.first < b.first;
  });
  const std::string header = header_of(path, sorted, metadata);
  unsigned char length[8];
  for (int i = 0; i < 8; ++i)
    length[i] = static_cast<unsigned char>(static_cast<std::uint64_t>(header.size()) >> (8 * i));
  AtomicFile f(path);
  f.write(length, 8);
  f.write(header);
  for (const auto& [n, t] : sorted)
    if (t.numel())
      f.write(t.data_ptr(), static_cast<std::size_t>(t.numel() * item_size(t.dtype())));
  f.commit();
}

}  // namespace dropin
