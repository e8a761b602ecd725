#include "dropin/serialize/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "dropin/serialize/atomic_file.h"

namespace dropin {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;
struct TypeName {
  DType type;
  const char* name;
};
constexpr TypeName kTypes[] = {{DType::Float32, "F32"}, {DType::Float64, "F64"}, {DType::BFloat16, "BF16"}, {DType::Float16, "F16"}, {DType::Int8, "I8"},
                               {DType::UInt8, "U8"},    {DType::Int32, "I32"},   {DType::Int64, "I64"},     {DType::Bool, "BOOL"}};

struct Entry {
  std::string name;
  DType dtype = DType::Float32;
  Shape shape;
  std::uint64_t begin = 0, end = 0;
};

Entry parse_entry(const std::string& file, const std::string& name, const Json& j, std::uint64_t data_bytes) {
  auto bad = [&](std::initializer_list<Part> why) { fail<FileError>({file, ": tensor \"", name, "\": ", join(why)}); };
  if (!j.is_object() || j.size() != 3 || !j.find("dtype") || !j.find("shape") || !j.find("data_offsets")) bad({"expected exactly dtype, shape and data_offsets"});
  Entry e;
  e.name = name;
  const Json& type = *j.find("dtype");
  const TypeName* known = nullptr;
  if (type.is_string())
    for (const TypeName& t : kTypes)
      if (type.as_string() == t.name) known = &t;
  if (!known) bad({"dtype ", type.dump(), " is not one of F32, F64, BF16, F16, I8, U8, I32, I64, BOOL"});
  e.dtype = known->type;
  const Json& shape = *j.find("shape");
  if (!shape.is_array() || shape.size() > abi::kMaxDims) bad({"shape ", shape.dump(), " is not a list of at most 8 sizes"});
  std::int64_t bytes = item_size(e.dtype);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (!shape[i].is_int() || shape[i].as_int() < 0) bad({"shape ", shape.dump(), " has an entry that is not a size"});
    const std::int64_t n = shape[i].as_int();
    e.shape.push_back(n);
    if (__builtin_mul_overflow(bytes, n, &bytes)) bad({"shape ", shape.dump(), " has more bytes than can be counted"});
  }
  const Json& range = *j.find("data_offsets");
  if (!range.is_array() || range.size() != 2 || !range[0].is_int() || !range[1].is_int() || range[0].as_int() < 0 || range[1].as_int() < range[0].as_int())
    bad({"data_offsets ", range.dump(), " are not a begin and an end"});
  e.begin = static_cast<std::uint64_t>(range[0].as_int());
  e.end = static_cast<std::uint64_t>(range[1].as_int());
  if (e.end > data_bytes) bad({"data_offsets ", range.dump(), " reach beyond the file's ", static_cast<std::int64_t>(data_bytes), " bytes of data"});
  if (e.end - e.begin != static_cast<std::uint64_t>(bytes)) bad({"data_offsets ", range.dump(), " hold ", static_cast<std::int64_t>(e.end - e.begin), " bytes, shape and dtype need ", bytes});
  return e;
}

struct Mapping {
  int fd = -1;
  void* data = MAP_FAILED;
  std::size_t bytes = 0;
  explicit Mapping(const std::string& path) {
    fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat s {};
    if (fd < 0 || fstat(fd, &s) != 0) {
      const int e = errno;
      if (fd >= 0) close(fd);
      fail<FileError>({path, ": cannot be read: ", std::strerror(e)});
    }
    if (!S_ISREG(s.st_mode)) {
      close(fd);
      fail<FileError>({path, ": is not a regular file"});
    }
    bytes = static_cast<std::size_t>(s.st_size);
    if (bytes) data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes && data == MAP_FAILED) {
      close(fd);
      fail<FileError>({path, ": cannot be mapped: ", std::strerror(errno)});
    }
  }
  ~Mapping() {
    if (data != MAP_FAILED) munmap(data, bytes);
    close(fd);
  }
};

}  // namespace

const std::string* SafetensorsFile::find_metadata(std::string_view key) const {
  for (const auto& [k, v] : metadata)
    if (k == key) return &v;
  return nullptr;
}

SafetensorsFile parse_safetensors(const void* data, std::size_t bytes, const std::string& file) {
  const auto* p = static_cast<const unsigned char*>(data);
  if (bytes < 8) fail<FileError>({file, ": ", bytes, " bytes; a safetensors file begins with 8 bytes of header length"});
  std::uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | p[i];
  if (header > kMaxHeader) fail<FileError>({file, ": the header claims ", static_cast<double>(header), " bytes, at most 100000000 are allowed"});
  if (header > bytes - 8) fail<FileError>({file, ": the header claims ", static_cast<std::int64_t>(header), " bytes, the file has ", bytes - 8, " after its length (truncated?)"});
  if (header == 0 || p[8] != '{') fail<FileError>({file, ": the header is not a JSON object"});
  const std::uint64_t data_bytes = bytes - 8 - header;
  Json j;
  try {
    j = Json::parse({reinterpret_cast<const char*>(p + 8), static_cast<std::size_t>(header)});
  } catch (const OptionError& e) {
    fail<FileError>({file, ": header: ", e.what()});
  }
  SafetensorsFile r;
  std::vector<Entry> entries;
  for (const auto& [name, value] : j.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) fail<FileError>({file, ": __metadata__ is not an object"});
      for (const auto& [k, v] : value.items()) {
        if (!v.is_string()) fail<FileError>({file, ": __metadata__ \"", k, "\" is not a string"});
        r.metadata.emplace_back(k, v.as_string());
      }
      continue;
    }
    entries.push_back(parse_entry(file, name, value, data_bytes));
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  std::uint64_t at = 0;
  for (const Entry& e : entries) {
    if (e.begin != at) fail<FileError>({file, ": tensor \"", e.name, "\" begins at byte ", static_cast<std::int64_t>(e.begin), ", expected ", static_cast<std::int64_t>(at), e.begin < at ? " (overlap)" : " (gap)"});
    at = e.end;
  }
  if (at != data_bytes) fail<FileError>({file, ": ", static_cast<std::int64_t>(data_bytes - at), " bytes after the last tensor"});
  const unsigned char* base = p + 8 + header;
  for (const Entry& e : entries)
    if (e.dtype == DType::Bool)
      for (std::uint64_t i = e.begin; i < e.end; ++i)
        if (base[i] > 1) fail<FileError>({file, ": tensor \"", e.name, "\": a BOOL byte is ", static_cast<int>(base[i])});
  for (const Entry& e : entries) {
    Tensor t = empty(e.shape, e.dtype);
    if (e.end > e.begin) std::memcpy(t.data_ptr(), base + e.begin, e.end - e.begin);
    r.tensors.emplace_back(e.name, t);
  }
  return r;
}

SafetensorsFile load_safetensors(const std::string& path) {
  const Mapping m(path);
  return parse_safetensors(m.data, m.bytes, path);
}

void save_safetensors(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& tensors, const std::vector<std::pair<std::string, std::string>>& metadata) {
  std::vector<std::pair<std::string, Tensor>> sorted;
  for (const auto& [n, t] : tensors) sorted.emplace_back(n, t.detach().to(kCPU).contiguous());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    const std::int64_t x = item_size(a.second.dtype()), y = item_size(b.second.dtype());
    return x != y ? x > y : a.first < b.first;
  });
  Json header = Json::object();
  if (!metadata.empty()) {
    Json m = Json::object();
    for (const auto& [k, v] : metadata) {
      if (m.find(k)) fail<OptionError>({path, ": the metadata key \"", k, "\" is given twice"});
      m.set(k, Json(v));
    }
    header.set("__metadata__", m);
  }
  std::int64_t at = 0;
  for (const auto& [n, t] : sorted) {
    if (header.find(n) || n == "__metadata__") fail<OptionError>({path, ": the tensor name \"", n, "\" is given twice or reserved"});
    Json e = Json::object(), shape = Json::array(), range = Json::array();
    for (const TypeName& k : kTypes)
      if (k.type == t.dtype()) e.set("dtype", Json(k.name));
    for (std::int64_t s : t.sizes()) shape.push_back(Json(s));
    range.push_back(Json(at));
    at += t.numel() * item_size(t.dtype());
    range.push_back(Json(at));
    e.set("shape", shape);
    e.set("data_offsets", range);
    header.set(n, e);
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  unsigned char length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(static_cast<std::uint64_t>(text.size()) >> (8 * i));
  AtomicFile f(path);
  f.write(length, 8);
  f.write(text);
  for (const auto& [n, t] : sorted)
    if (t.numel()) f.write(t.data_ptr(), static_cast<std::size_t>(t.numel() * item_size(t.dtype())));
  f.commit();
}

std::string read_file(const std::string& path) {
  const Mapping m(path);
  return m.bytes ? std::string(static_cast<const char*>(m.data), m.bytes) : std::string();
}

}  // namespace dropin
