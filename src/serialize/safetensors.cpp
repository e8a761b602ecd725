#include "dropin/serialize/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "dropin/serialize/atomic_file.h"

namespace dropin {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;
struct TypeName {
  DType type;
  const char* name;
};
constexpr TypeName kTypes[] = {
    {DType::Float32, "F32"}, {DType::Float64, "F64"}, {DType::BFloat16, "BF16"},
    {DType::Float16, "F16"}, {DType::Int8, "I8"},     {DType::UInt8, "U8"},
    {DType::Int32, "I32"},   {DType::Int64, "I64"},   {DType::Boolean, "BOOL"}};

/// The format's other dtypes, which no Tensor has.
struct ForeignType {
  const char* name;
  int bits;
};
constexpr ForeignType kForeign[] = {
    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F8_E8M0", 8}, {"I16", 16},    {"U16", 16},
    {"U32", 32},        {"U64", 64},        {"C64", 64}};

struct Entry {
  std::string name;
  DType dtype = DType::Float32;
  const ForeignType* foreign = nullptr;  ///< set when no Tensor has the dtype
  Shape shape;
  std::uint64_t begin = 0, end = 0;
};

// A value as an error quotes it.
std::string quote(const Json& j) {
  std::string s = j.dump();
  if (s.size() > 100) s = s.substr(0, 100) + "...";
  return s;
}

Entry parse_entry(const std::string& file, const std::string& name, const Json& j,
                  std::uint64_t data_bytes) {
  auto bad = [&](std::initializer_list<Part> why) {
    fail<FileError>({file, ": tensor \"", name, "\": ", join(why)});
  };
  if (!j.is_object() || j.size() != 3 || !j.find("dtype") || !j.find("shape") ||
      !j.find("data_offsets"))
    bad({"expected exactly dtype, shape and data_offsets"});
  Entry e;
  e.name = name;
  const Json& type = *j.find("dtype");
  const TypeName* known = nullptr;
  if (type.is_string()) {
    for (const TypeName& t : kTypes)
      if (type.as_string() == t.name) known = &t;
    for (const ForeignType& t : kForeign)
      if (type.as_string() == t.name) e.foreign = &t;
  }
  if (!known && !e.foreign)
    bad({"dtype ", quote(type),
         " is not one of F32, F64, BF16, F16, I8, U8, I32, I64, BOOL, nor another of the "
         "format's"});
  if (known) e.dtype = known->type;
  const Json& shape = *j.find("shape");
  if (!shape.is_array() || shape.size() > abi::kMaxDims)
    bad({"shape ", quote(shape), " is not a list of at most 8 sizes"});
  int64_t bits = e.foreign ? e.foreign->bits : 8 * item_size(e.dtype);
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

// Bytes by position. Files are read, not mapped: a mapped file that shrinks or fails meanwhile ends
// the program instead of throwing.
class Source {
 public:
  explicit Source(const std::string& path) : label_(path) {
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat s {};
    if (fd_ < 0 || fstat(fd_, &s) != 0) refuse("cannot be read", errno);
    if (!S_ISREG(s.st_mode)) refuse("is not a regular file", 0);
    size_ = static_cast<std::uint64_t>(s.st_size);
  }
  Source(const void* data, std::size_t bytes, const std::string& label)
      : label_(label), data_(static_cast<const char*>(data)), size_(bytes) {}
  ~Source() {
    if (fd_ >= 0) close(fd_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  const std::string& label() const { return label_; }
  std::uint64_t size() const { return size_; }
  void read(std::uint64_t at, void* to, std::uint64_t bytes) {
    char* out = static_cast<char*>(to);
    if (fd_ < 0) {
      if (bytes) std::memcpy(out, data_ + at, bytes);
      return;
    }
    while (bytes) {
      const ssize_t n =
          pread(fd_, out, std::min<std::uint64_t>(bytes, 1u << 30), static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) refuse("cannot be read", errno);
      if (n == 0) refuse("became shorter while it was read", 0);
      out += n;
      at += static_cast<std::uint64_t>(n);
      bytes -= static_cast<std::uint64_t>(n);
    }
  }

 private:
  [[noreturn]] void refuse(const char* what, int error) {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
    if (error) fail<FileError>({label_, ": ", what, ": ", std::strerror(error)});
    fail<FileError>({label_, ": ", what});
  }
  const std::string& label_;
  int fd_ = -1;
  const char* data_ = nullptr;
  std::uint64_t size_ = 0;
};

SafetensorsFile read_all(Source& in) {
  const std::string& file = in.label();
  const std::uint64_t size = in.size();
  if (size < 8)
    fail<FileError>(
        {file, ": ", size, " bytes; a safetensors file begins with 8 bytes of header length"});
  unsigned char length[8];
  in.read(0, length, 8);
  std::uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | length[i];
  if (header > kMaxHeader && length[0] == '{')  // as the length of a header, "{..." is absurd
    fail<FileError>({file,
                     ": is JSON, not safetensors; an index of shards is read from its file by "
                     "load_safetensors"});
  if (header > kMaxHeader)
    fail<FileError>({file, ": the header claims ", static_cast<double>(header),
                     " bytes, at most 100000000 are allowed"});
  if (header > size - 8)
    fail<FileError>({file, ": the header claims ", header, " bytes, the file has ", size - 8,
                     " after its length (truncated?)"});
  std::string text(header, '\0');
  in.read(8, text.data(), header);
  if (text.empty() || text[0] != '{') fail<FileError>({file, ": the header is not a JSON object"});
  const std::uint64_t data_bytes = size - 8 - header;
  Json j;
  try {
    j = Json::parse(text);
  } catch (const OptionError& e) {
    fail<FileError>({file, ": header: ", e.what()});
  }
  SafetensorsFile r;
  r.label = file;
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
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::uint64_t at = 0;
  for (const Entry& e : entries) {
    if (e.begin != at)
      fail<FileError>({file, ": tensor \"", e.name, "\" begins at byte ", e.begin, ", expected ",
                       at, e.begin < at ? " (overlap)" : " (gap)"});
    at = e.end;
  }
  if (at != data_bytes)
    fail<FileError>({file, ": ", data_bytes - at, " bytes after the last tensor"});
  for (const Entry& e : entries) {
    if (e.foreign) {
      r.unread.push_back({e.name, e.foreign->name, e.shape});
      continue;
    }
    Tensor t = empty(e.shape, e.dtype);
    in.read(8 + header + e.begin, t.data_ptr(), e.end - e.begin);
    if (e.dtype == DType::Boolean) {
      const auto* byte = static_cast<const unsigned char*>(
          t.data_ptr());  // as bool, another value would be undefined
      for (int64_t i = 0; i < t.numel(); ++i)
        if (byte[i] > 1)
          fail<FileError>(
              {file, ": tensor \"", e.name, "\": a BOOL byte is ", static_cast<int>(byte[i])});
    }
    r.tensors.emplace_back(e.name, t);
  }
  return r;
}

// --- shards

/// An index: which file holds which tensor, and what it says about the whole.
struct ShardIndex {
  std::vector<std::string> files;  ///< in the order in which they are named first
  std::unordered_map<std::string, std::string> file_of;
  std::vector<std::pair<std::string, std::string>> metadata;
};

bool is_json_file(Source& in) {
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
      Source in(shard_path);
      shard = read_all(in);
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

Tensor SafetensorsFile::get(std::string_view name) const {
  for (const auto& [n, t] : tensors)
    if (n == name) return t;
  for (const UnreadTensor& u : unread)
    if (u.name == name)
      fail<FileError>({label, ": tensor \"", name, "\" ", u.shape, " has dtype ", u.dtype,
                       ", which no Tensor has; convert it before it is saved"});
  fail<FileError>({label, ": no tensor \"", name, "\" among ", tensors.size()});
}

const std::string* SafetensorsFile::find_metadata(std::string_view key) const {
  for (const auto& [k, v] : metadata)
    if (k == key) return &v;
  return nullptr;
}

SafetensorsFile parse_safetensors(const void* data, std::size_t bytes, const std::string& label) {
  Source in(data, bytes, label);
  return read_all(in);
}

SafetensorsFile load_safetensors(const std::string& path) {
  Source in(path);
  if (!is_json_file(in)) return read_all(in);
  if (in.size() > kMaxHeader)
    fail<FileError>({path, ": an index of ", in.size(), " bytes; at most 100000000 are allowed"});
  std::string text(in.size(), '\0');
  in.read(0, text.data(), text.size());
  return read_shards(path, text);
}

void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::vector<std::pair<std::string, std::string>>& metadata) {
  const auto check_names = [&](const char* what, const auto& pairs) {
    std::vector<std::string_view> names;
    for (const auto& p : pairs) names.push_back(p.first);
    std::sort(names.begin(), names.end());
    if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
      fail<OptionError>({path, ": the ", what, " \"", *twice, "\" is given twice"});
    for (const std::string_view n : names)
      if (!is_utf8(n)) fail<OptionError>({path, ": the ", what, " \"", n, "\" is not UTF-8"});
  };
  check_names("tensor name", tensors);
  check_names("metadata key", metadata);
  std::vector<std::pair<std::string, Tensor>> sorted;
  for (const auto& [n, t] : tensors) {
    if (n == "__metadata__") fail<OptionError>({path, ": the tensor name \"", n, "\" is reserved"});
    sorted.emplace_back(n, t.detach().to(kCPU).contiguous());
  }
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    const int64_t x = item_size(a.second.dtype()), y = item_size(b.second.dtype());
    return x != y ? x > y : a.first < b.first;
  });
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
    const char* type = "";
    for (const TypeName& k : kTypes)
      if (k.type == t.dtype()) type = k.name;
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
  if (header.size() > kMaxHeader)
    fail<OptionError>(
        {path, ": a header of ", header.size(), " bytes; at most 100000000 are allowed"});
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

std::string read_file(const std::string& path) {
  Source in(path);
  std::string s(in.size(), '\0');
  in.read(0, s.data(), s.size());
  return s;
}

}  // namespace dropin
