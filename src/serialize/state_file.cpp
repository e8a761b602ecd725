#include "dropin/serialize/state_file.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "dropin/ops/ops.h"
#include "serialize/containers.h"
#include "serialize/packed_layouts.h"
#include "serialize/safetensors_format.h"

namespace dropin {

using namespace serialize_detail;

Tensor StoredTensor::read() const { return content->read(); }

Tensor StoredTensor::read(DType wanted) const {
  const Tensor t = content->read();
  return t.dtype() == wanted ? t : t.to(wanted);
}

std::string StoredTensor::raw() const {
  std::string r(bytes, '\0');
  content->raw(0, bytes, r.data());
  return r;
}

const StoredTensor* StateFile::find(std::string_view name) const {
  for (const StoredTensor& t : tensors)
    if (t.name == name) return &t;
  for (const auto& [other, kept] : aliases)
    if (other == name)
      for (const StoredTensor& t : tensors)
        if (t.name == kept) return &t;
  return nullptr;
}

const StoredTensor& StateFile::at(std::string_view name) const {
  if (const StoredTensor* t = find(name)) return *t;
  std::vector<std::string> have;
  for (const StoredTensor& t : tensors) have.push_back(t.name);
  fail<FileError>({path, ": no tensor \"", name, "\" among ", tensors.size(),
                   have.empty() ? "" : "; the nearest is ",
                   nearest_name(name, have.data(), have.size())});
}

namespace {

StateDict read_all(const StateFile& f, const DType* floating) {
  StateDict r;
  r.reserve(f.tensors.size() + f.aliases.size());
  for (const StoredTensor& t : f.tensors)
    r.set(t.name, floating && is_floating(t.dtype) ? t.read(*floating) : t.read());
  for (const auto& [name, kept] : f.aliases)
    if (!r.contains(name))
      if (const Tensor t = r.find(kept); t.defined()) r.set(name, t);
  return r;
}

void enter_header(const std::shared_ptr<const ByteSource>& in, SafetensorsHeader& header,
                  StateFile& to) {
  for (SafetensorsEntry& e : header.entries) {
    StoredTensor t;
    t.name = e.name;
    t.format = e.format->name;
    t.dtype = e.format->dtype;
    t.shape = e.shape;
    if (e.format->parts > 1) {
      if (e.shape.size() >= abi::kMaxDims)
        fail<FileError>({in->label(), ": tensor \"", e.name, "\": a complex tensor of ",
                         e.shape.size(),
                         " dimensions; with the axis of its parts at most 8 are "
                         "allowed"});
      t.shape.push_back(e.format->parts);
    }
    t.bytes = e.end - e.begin;
    t.content = content_of(in, *e.format, t.shape, e.begin,
                           join({in->label(), ": tensor \"", e.name, "\""}));
    to.tensors.push_back(std::move(t));
  }
  for (auto& [k, v] : header.metadata)
    if (!to.metadata.find(k)) to.metadata.set(k, v);
}

StateFile read_safetensors_state(const Source& in) {
  StateFile r;
  r.container = "safetensors";
  if (is_json_file(*in)) {
    const ShardIndex index = read_shard_index(*in);
    r.metadata = index.metadata;
    read_shard_headers(in->label(), index,
                       [&](const auto& shard, SafetensorsHeader& h) { enter_header(shard, h, r); });
  } else {
    SafetensorsHeader h = read_safetensors_header(*in);
    enter_header(in, h, r);
  }
  return r;
}

StateFile read_container(const Source& in) {
  unsigned char magic[9] = {};  // of safetensors a length and the first of the header
  in->read(0, magic, std::min<std::uint64_t>(sizeof magic, in->size()));
  const auto begins = [&](std::string_view with) {
    return std::memcmp(magic, with.data(), with.size()) == 0;
  };
  if (begins("GGUF")) return read_gguf(in);
  if (begins("PK\3\4") || begins("PK\5\6")) return read_zip_state(in);
  if (begins("\x93NUMPY")) return read_npy_state(in);
  // Pickles begin with 80 and their protocol; so does safetensors with a header of such a length.
  if (magic[0] == 0x80 && magic[1] >= 2 && magic[1] <= 5 && !std::memchr("{ \t\r\n", magic[8], 5))
    return read_legacy_torch(in);
  // Safetensors begins with a length of at most 100 MB, and then its header.
  const bool may_be =
      std::memchr("{ \t\r\n[", magic[8], 6) && !(magic[4] | magic[5] | magic[6] | magic[7]);
  if (in->size() > 8 && !may_be && !is_json_file(*in))
    fail<FileError>({in->label(),
                     ": begins as none of safetensors, an index of its shards, GGUF, an "
                     "archive of torch.save, npz or npy"});
  return read_safetensors_state(in);
}

/// Of a folder the checkpoint that transformers puts into it.
std::string file_in(const std::string& path) {
  std::error_code none;
  if (!std::filesystem::is_directory(path, none)) return path;
  for (const char* name :
       {"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin"}) {
    const std::string file = path + (path.ends_with('/') ? "" : "/") + name;
    if (std::filesystem::is_regular_file(file, none)) return file;
  }
  fail<FileError>({path,
                   ": is a folder without model.safetensors.index.json, model.safetensors or "
                   "pytorch_model.bin; expected one of them there, or a file"});
}

}  // namespace

StateDict StateFile::state_dict() const { return read_all(*this, nullptr); }

StateDict StateFile::state_dict(DType floating) const {
  if (!is_floating(floating))
    fail<DTypeError>({path, ": state_dict of ", floating, ", expected a floating-point type"});
  return read_all(*this, &floating);
}

StateFile load_state(const std::string& given, const LoadStateOptions& options) {
  const std::string path = file_in(given);
  const auto in = std::make_shared<const ByteSource>(path);
  StateFile r = read_container(in);
  r.path = path;
  const ModelConfig config = read_model_config(path);
  r.model_type = config.text({"model_type"});
  if (options.unpack || options.for_bitlinear) unpack_layouts(r, config, options);
  find_aliases(r, config);
  return r;
}

}  // namespace dropin
