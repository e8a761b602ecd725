// One safetensors file: header, tensors, what does not fit.
#include "dropin/serialize/safetensors.h"

#include <algorithm>

#include "serialize/safetensors_format.h"

namespace dropin {

using namespace serialize_detail;

namespace {

SafetensorsEntry parse_entry(const std::string& file, const std::string& name, const Json& j,
                             std::uint64_t data_bytes) {
  auto bad = [&](std::initializer_list<Part> why) {
    fail<FileError>({file, ": tensor \"", name, "\": ", join(why)});
  };
  if (!j.is_object() || !j.find("dtype") || !j.find("shape") || !j.find("data_offsets"))
    bad({"expected dtype, shape and data_offsets"});
  SafetensorsEntry e;
  e.name = name;
  const Json& type = *j.find("dtype");
  if (type.is_string() && type.as_string() != "C128")
    e.format = find_stored_format(type.as_string());
  if (!e.format)
    bad({"dtype ", quote(type),
         " is not one of F32, F64, BF16, F16, I8, U8, I32, I64, BOOL, nor another of the "
         "format's"});
  const Json& shape = *j.find("shape");
  if (!shape.is_array() || shape.size() > abi::kMaxDims)
    bad({"shape ", quote(shape), " is not a list of at most 8 sizes"});
  int64_t bits = e.format->bits;
  bool empty = false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (!shape[i].is_int() || shape[i].as_int() < 0)
      bad({"shape ", quote(shape), " has an entry that is not a size"});
    const int64_t n = shape[i].as_int();
    e.shape.push_back(n);
    // Zeros apart: the strides of [0, 2^40, 2^40] overflow, though it holds nothing.
    if (n == 0)
      empty = true;
    else if (__builtin_mul_overflow(bits, n, &bits))
      bad({"shape ", quote(shape), " has more bytes than can be counted"});
  }
  if (!empty && bits % 8 != 0)
    bad({"shape ", quote(shape), " of ", quote(type), " does not fill whole bytes"});
  const int64_t bytes = empty ? 0 : bits / 8;
  const Json& range = *j.find("data_offsets");
  if (!range.is_array() || range.size() != 2 || !range[0].is_int() || !range[1].is_int() ||
      range[0].as_int() < 0 || range[1].as_int() < range[0].as_int())
    bad({"data_offsets ", quote(range), " are not a begin and an end"});
  e.begin = static_cast<std::uint64_t>(range[0].as_int());
  e.end = static_cast<std::uint64_t>(range[1].as_int());
  if (e.end > data_bytes)
    bad({"data_offsets ", quote(range), " reach beyond the file's ", data_bytes, " bytes of data"});
  if (e.end - e.begin != static_cast<std::uint64_t>(bytes))
    bad({"data_offsets ", quote(range), " hold ", e.end - e.begin, " bytes, shape and dtype need ",
         bytes});
  return e;
}

/// The header as text: its length comes first, as 8 bytes.
std::string read_header(const ByteSource& in) {
  const std::string& file = in.label();
  const std::uint64_t size = in.size();
  if (size < 8)
    fail<FileError>(
        {file, ": ", size, " bytes; a safetensors file begins with 8 bytes of header length"});
  unsigned char length[8];
  in.read(0, length, 8);
  std::uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | length[i];
  if (header > kMaxJsonBytes && length[0] == '{')  // as the length of a header, "{..." is absurd
    fail<FileError>({file,
                     ": is JSON, not safetensors; an index of shards is read from its file by "
                     "load_safetensors"});
  if (header > kMaxJsonBytes)
    fail<FileError>({file, ": the header claims ", static_cast<double>(header),
                     " bytes, at most 100000000 are allowed"});
  if (header > size - 8)
    fail<FileError>({file, ": the header claims ", header, " bytes, the file has ", size - 8,
                     " after its length (truncated?)"});
  std::string text(header, '\0');
  in.read(8, text.data(), header);
  if (const auto first = text.find_first_not_of(" \t\r\n");
      first == text.npos || text[first] != '{')
    fail<FileError>({file, ": the header is not a JSON object"});
  return text;
}

/// The entries of a header in the order of their bytes; its notes go to `metadata`.
std::vector<SafetensorsEntry> parse_header(
    const std::string& file, const std::string& text, std::uint64_t data_bytes,
    std::vector<std::pair<std::string, std::string>>& metadata) {
  Json j;
  try {
    j = Json::parse(text);
  } catch (const OptionError& e) {
    fail<FileError>({file, ": header: ", e.what()});
  }
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, value] : j.items()) {
    if (name == "__metadata__") {
      if (value.is_null()) continue;  // as MLX writes none
      if (!value.is_object()) fail<FileError>({file, ": __metadata__ is not an object"});
      for (const auto& [k, v] : value.items()) {
        if (!v.is_string()) fail<FileError>({file, ": __metadata__ \"", k, "\" is not a string"});
        metadata.emplace_back(k, v.as_string());
      }
      continue;
    }
    entries.push_back(parse_entry(file, name, value, data_bytes));
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
                     return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
                   });
  return entries;
}

/// The tensors follow each other and fill the file.
void check_gapless(const std::string& file, const std::vector<SafetensorsEntry>& entries,
                   std::uint64_t data_bytes) {
  std::uint64_t at = 0;
  for (const SafetensorsEntry& e : entries) {
    if (e.begin != at)
      fail<FileError>({file, ": tensor \"", e.name, "\" begins at byte ", e.begin, ", expected ",
                       at, e.begin < at ? " (overlap)" : " (gap)"});
    at = e.end;
  }
  if (at != data_bytes)
    fail<FileError>({file, ": ", data_bytes - at, " bytes after the last tensor"});
}

}  // namespace

SafetensorsHeader serialize_detail::read_safetensors_header(const ByteSource& in) {
  SafetensorsHeader r;
  const std::string header = read_header(in);
  const std::uint64_t data_begin = 8 + header.size(), data_bytes = in.size() - data_begin;
  r.entries = parse_header(in.label(), header, data_bytes, r.metadata);
  check_gapless(in.label(), r.entries, data_bytes);
  for (SafetensorsEntry& e : r.entries) {
    e.begin += data_begin;
    e.end += data_begin;
  }
  return r;
}

namespace {

/// What a Tensor can hold is read, the rest listed.
void read_entries(const ByteSource& in, const std::vector<SafetensorsEntry>& entries,
                  SafetensorsFile& to) {
  for (const SafetensorsEntry& e : entries) {
    if (!e.format->own || e.format->parts > 1) {
      to.unread.push_back({e.name, e.format->name, e.shape});
      continue;
    }
    Tensor t = empty(e.shape, e.format->dtype);
    read_by_threads(in, e.begin, t.data_ptr(), e.end - e.begin);
    if (e.format->dtype == DType::Boolean)
      decode_stored(*e.format, t.data_ptr(), t.numel(), t.data_ptr(),
                    join({in.label(), ": tensor \"", e.name, "\""}));
    to.tensors.emplace_back(e.name, t);
  }
}

SafetensorsFile read_one_file(const ByteSource& in) {
  SafetensorsFile r;
  r.label = in.label();
  SafetensorsHeader h = read_safetensors_header(in);
  r.metadata = std::move(h.metadata);
  read_entries(in, h.entries, r);
  return r;
}

}  // namespace

SafetensorsFile load_safetensors(const std::string& path) {
  const ByteSource in(path);
  if (!is_json_file(in)) return read_one_file(in);
  const ShardIndex index = read_shard_index(in);
  SafetensorsFile r;
  r.label = path;
  for (const auto& [k, v] : index.metadata.items())
    r.metadata.emplace_back(k, v.is_string() ? v.as_string() : v.dump());
  read_shard_headers(path, index, [&](const auto& shard, SafetensorsHeader& h) {
    read_entries(*shard, h.entries, r);
    for (auto& [k, v] : h.metadata)
      if (!r.find_metadata(k)) r.metadata.emplace_back(k, v);
  });
  return r;
}

Tensor SafetensorsFile::get(std::string_view name) const {
  for (const auto& [n, t] : tensors)
    if (n == name) return t;
  for (const UnreadTensor& u : unread)
    if (u.name == name)
      fail<FileError>({label, ": tensor \"", name, "\" ", u.shape, " has dtype ", u.dtype,
                       ", which no Tensor has; load_state() converts it"});
  fail<FileError>({label, ": no tensor \"", name, "\" among ", tensors.size()});
}

const std::string* SafetensorsFile::find_metadata(std::string_view key) const {
  for (const auto& [k, v] : metadata)
    if (k == key) return &v;
  return nullptr;
}

SafetensorsFile parse_safetensors(const void* data, std::size_t bytes, const std::string& label) {
  return read_one_file(ByteSource(data, bytes, label));
}

std::string read_file(const std::string& path) {
  ByteSource in(path);
  std::string s(in.size(), '\0');
  in.read(0, s.data(), s.size());
  return s;
}

}  // namespace dropin
