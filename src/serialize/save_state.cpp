#include "dropin/serialize/save_state.h"

#include <algorithm>

#include "dropin/number_format/codes.h"
#include "dropin/ops/ops.h"
#include "serialize/safetensors_writer.h"
#include "serialize/save_state_gguf.h"

namespace dropin {

using namespace serialize_detail;

namespace {

constexpr std::uint64_t kCopyBytes = 1 << 24;

/// A Tensor in memory.
class TensorInMemory final : public TensorContent {
 public:
  explicit TensorInMemory(const Tensor& t) : tensor_(t.detach().to(kCPU).contiguous()) {}
  Tensor read() const override { return tensor_.clone(); }
  void raw(std::uint64_t begin, std::uint64_t count, void* out) const override {
    if (count) std::memcpy(out, static_cast<const char*>(tensor_.data_ptr()) + begin, count);
  }

 private:
  Tensor tensor_;
};

bool ends_in(const std::string& path, std::string_view end) { return path.ends_with(end); }

/// Floating-point, as far as a format of numbers is concerned (not: complex, bool, integers).
bool takes_format(const StoredTensor& t) {
  return is_floating(t.dtype) && !t.format.starts_with("C");
}

/// The codes of one format in their bytes.
std::string pack_codes(const Tensor& codes, int bits) {
  const auto* in = codes.data<std::uint8_t>();
  const auto n = static_cast<std::size_t>(codes.numel());
  std::string out((n * static_cast<std::size_t>(bits) + 7) / 8, '\0');
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t bit = i * static_cast<std::size_t>(bits);
    const unsigned v = static_cast<unsigned>(in[i]) << (bit % 8);
    out[bit / 8] = static_cast<char>(out[bit / 8] | (v & 255));
    if (v >> 8) out[bit / 8 + 1] = static_cast<char>(out[bit / 8 + 1] | v >> 8);
  }
  return out;
}

/// Writes one tensor's bytes in a format to a writer.
void write_safetensor(const StoredTensor& t, const SafetensorsItem& item,
                      const std::string& conversion, SafetensorsWriter& out) {
  if (t.format == item.format->name) {  // as it is
    std::string piece;
    for (std::uint64_t at = 0; at < t.bytes; at += piece.size()) {
      piece.resize(std::min(kCopyBytes, t.bytes - at));
      t.content->raw(at, piece.size(), piece.data());
      out.write(piece.data(), piece.size());
    }
    return;
  }
  if (item.format->own) {
    const Tensor v = t.read(item.format->dtype);
    if (item.bytes) out.write(v.data_ptr(), item.bytes);
    return;
  }
  const Tensor codes = encode_numbers(t.read(kFloat32), item.format->name, conversion);
  const std::string bytes = pack_codes(codes, item.format->bits);
  out.write(bytes.data(), bytes.size());
}

SafetensorsItem item_of(const StoredTensor& t, const std::string& path,
                        const SaveStateOptions& options, std::size_t number) {
  const std::string format = saved_format(t, path, options);
  SafetensorsItem r{t.name, find_stored_format(format), t.shape, 0, number};
  std::uint64_t n = 1;
  for (const int64_t d : t.shape) n *= static_cast<std::uint64_t>(d);
  r.bytes = stored_bytes(*r.format, n);
  if (n * static_cast<std::uint64_t>(r.format->bits / r.format->parts) % 8 != 0)
    fail<OptionError>({path, ": tensor \"", t.name, "\" ", t.shape, " of ", format,
                       " does not fill whole bytes"});
  if (r.format->parts > 1)
    r.shape = Shape(t.shape.begin(), static_cast<int64_t>(t.shape.size()) - 1);
  return r;
}

SafetensorsWriter::Notes texts_of(const Json& metadata) {
  SafetensorsWriter::Notes r;
  for (const auto& [k, v] : metadata.items())
    r.emplace_back(k, v.is_string() ? v.as_string() : v.dump());
  return r;
}

/// Tensors by shard, in order; each at most `limit` bytes, or one tensor.
std::vector<std::vector<SafetensorsItem>> shards_of(std::vector<SafetensorsItem> items,
                                                    std::int64_t limit) {
  std::vector<std::vector<SafetensorsItem>> r(1);
  std::uint64_t held = 0;
  for (SafetensorsItem& e : items) {
    if (limit > 0 && !r.back().empty() && held + e.bytes > static_cast<std::uint64_t>(limit)) {
      r.emplace_back();
      held = 0;
    }
    held += e.bytes;
    r.back().push_back(std::move(e));
  }
  return r;
}

std::string shard_name(const std::string& stem, std::size_t i, std::size_t of) {
  const auto five = [](std::size_t n) {
    const std::string s = std::to_string(n);
    return std::string(s.size() < 5 ? 5 - s.size() : 0, '0') + s;
  };
  return stem + "-" + five(i) + "-of-" + five(of) + ".safetensors";
}

/// The index beside shards, written last.
std::string write_index(const std::string& stem, const std::vector<std::string>& files,
                        const std::vector<std::vector<SafetensorsItem>>& shards) {
  Json index = Json::object(), metadata = Json::object(), map = Json::object();
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); ++i)
    for (const SafetensorsItem& e : shards[i]) {
      total += e.bytes;
      map.set(e.name, files[i].substr(files[i].rfind('/') + 1));
    }
  metadata.set("total_size", static_cast<int64_t>(total));
  index.set("metadata", metadata);
  index.set("weight_map", map);
  AtomicFile f(stem + ".safetensors.index.json");
  f.write(index.dump(2) + "\n");
  f.commit();
  return stem + ".safetensors.index.json";
}

std::vector<std::string> save_as_safetensors(const std::string& path,
                                             const std::vector<StoredTensor>& tensors,
                                             const SaveStateOptions& options) {
  std::vector<SafetensorsItem> items;
  for (const StoredTensor& t : tensors) items.push_back(item_of(t, path, options, items.size()));
  const auto shards = shards_of(std::move(items), options.shard_size);
  const std::string stem = path.substr(0, path.size() - std::string_view(".safetensors").size());
  std::vector<std::string> files;
  std::size_t done = 0;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    files.push_back(shards.size() == 1 ? path : shard_name(stem, i + 1, shards.size()));
    SafetensorsWriter out(files.back(), shards[i], texts_of(options.metadata));
    for (const SafetensorsItem& e : out.items()) {
      write_safetensor(tensors[e.source], e, options.conversion, out);
      bytes += e.bytes;
      if (options.progress) options.progress(++done, tensors.size(), bytes);
    }
    out.commit();
  }
  if (shards.size() > 1) files.push_back(write_index(stem, files, shards));
  return files;
}

}  // namespace

StoredTensor stored_tensor(std::string name, const Tensor& t) {
  if (!t.defined()) fail<StateError>({"stored_tensor: \"", name, "\" is undefined"});
  const StoredFormat& f = stored_format_of(t.dtype());
  StoredTensor r;
  r.name = std::move(name);
  r.format = f.name;
  r.shape = t.sizes();
  r.dtype = t.dtype();
  r.bytes = static_cast<std::uint64_t>(t.numel() * item_size(t.dtype()));
  r.content = std::make_shared<TensorInMemory>(t);
  return r;
}

std::string saved_format(const StoredTensor& t, const std::string& path,
                         const SaveStateOptions& options) {
  if (ends_in(path, ".gguf")) return saved_gguf_format(t, path, options);
  if (!ends_in(path, ".safetensors"))
    fail<OptionError>({path, ": expected a name that ends in .safetensors or .gguf"});
  if (!options.format.empty()) {
    const StoredFormat* f = find_stored_format(options.format);
    const bool floats = f && (f->own ? is_floating(f->dtype) && f->parts == 1
                                     : find_number_format(f->name) != nullptr);
    if (!floats)
      fail<OptionError>({path, ": format is \"", options.format,
                         "\", expected one of F64, F32, F16, BF16, F8_E4M3, F8_E5M2, F8_E4M3FNUZ, "
                         "F8_E5M2FNUZ, F8_E8M0, F6_E2M3, F6_E3M2, F4 for safetensors"});
    if (takes_format(t)) return f->name;
  }
  const StoredFormat* same = find_stored_format(t.format);
  return same && std::string_view(same->name) != "C128" ? same->name
                                                        : stored_format_of(t.dtype).name;
}

std::vector<std::string> save_state(const std::string& path,
                                    const std::vector<StoredTensor>& tensors,
                                    const SaveStateOptions& options) {
  conversion_from_name(options.conversion);
  DROPIN_CHECK(options.shard_size >= 0, OptionError, path, ": shard_size is ", options.shard_size,
               ", expected bytes, or 0 for one file");
  if (!ends_in(path, ".gguf")) return save_as_safetensors(path, tensors, options);
  DROPIN_CHECK(options.shard_size == 0, OptionError, path,
               ": shards are written as safetensors only");
  return {save_as_gguf(path, tensors, options)};
}

}  // namespace dropin
