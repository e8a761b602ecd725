// Reads GGUF headers; values come block by block when they are asked for.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include "dropin/ops/ops.h"
#include "serialize/containers.h"
#include "serialize/gguf_blocks.h"

namespace dropin::serialize_detail {

namespace {

constexpr std::size_t kMaxGgufKeys = 10'000, kMaxGgufValues = 4'000'000;
constexpr int kMaxGgufDepth = 8;
constexpr std::uint64_t kLeastTensorInfo = 8 + 4 + 4 + 8, kLeastMetadata = 8 + 4 + 1;

/// Where reading stands in a header; every length is held against the bytes that are left.
class GgufCursor {
 public:
  explicit GgufCursor(const ByteSource& in) : in_(in), label_(in.label()) {}
  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return in_.size() - at_; }
  bool big_endian = false;

  [[noreturn]] void bad(std::initializer_list<Part> why) const {
    fail<FileError>({label_, ": ", join(why)});
  }
  void take(void* out, std::uint64_t n, const char* what) {
    if (n > left())
      bad({"ends in ", what, ": it needs ", n, " bytes at ", at_, ", ", left(), " are left"});
    auto* to = static_cast<char*>(out);
    while (n > 0) {
      if (at_ < from_ || at_ >= from_ + buffer_.size()) fill();
      const std::uint64_t here = at_ - from_, piece = std::min(n, buffer_.size() - here);
      std::memcpy(to, buffer_.data() + here, piece);
      to += piece;
      at_ += piece;
      n -= piece;
    }
  }
  template <class T>
  T number(const char* what) {
    unsigned char b[sizeof(T)];
    take(b, sizeof b, what);
    if (big_endian) std::reverse(b, b + sizeof b);
    T v;
    std::memcpy(&v, b, sizeof v);
    return v;
  }
  std::string text(const char* what) {
    const auto n = number<std::uint64_t>(what);
    if (n > left()) bad({what, " claims ", n, " bytes at ", at_, ", ", left(), " are left"});
    std::string s(n, '\0');
    take(s.data(), n, what);
    if (!is_utf8(s)) bad({what, " at ", at_ - n, " is not UTF-8"});
    return s;
  }

 private:
  void fill() {
    buffer_.resize(std::min<std::uint64_t>(1 << 16, in_.size() - at_));
    in_.read(at_, buffer_.data(), buffer_.size());
    from_ = at_;
  }
  const ByteSource& in_;
  const std::string& label_;
  std::uint64_t at_ = 0, from_ = 0;
  std::string buffer_;
};

Json real_json(double v) {
  if (std::isnan(v)) return Json("nan");
  if (std::isinf(v)) return Json(v > 0 ? "inf" : "-inf");
  return Json(v);
}

/// Bytes of a value of a type; at least, of strings and arrays. 0 for an unknown type.
int least_bytes(std::uint32_t type) {
  constexpr int kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return type < 13 ? kBytes[type] : 0;
}

Json gguf_value(GgufCursor& c, std::uint32_t type, const std::string& key, std::size_t& budget,
                int depth) {
  if (budget-- == 0)
    c.bad({"more than ", static_cast<int64_t>(kMaxGgufValues), " metadata values"});
  switch (type) {
    case 0:
      return Json(static_cast<int>(c.number<std::uint8_t>("a value")));
    case 1:
      return Json(static_cast<int>(c.number<std::int8_t>("a value")));
    case 2:
      return Json(static_cast<int>(c.number<std::uint16_t>("a value")));
    case 3:
      return Json(static_cast<int>(c.number<std::int16_t>("a value")));
    case 4:
      return Json(static_cast<long>(c.number<std::uint32_t>("a value")));
    case 5:
      return Json(c.number<std::int32_t>("a value"));
    case 6:
      return real_json(c.number<float>("a value"));
    case 7: {
      const auto v = c.number<std::uint8_t>("a value");
      if (v > 1) c.bad({"metadata \"", key, "\": a bool is ", static_cast<int>(v)});
      return Json(v == 1);
    }
    case 8:
      return Json(c.text("a string"));
    case 10: {
      const auto v = c.number<std::uint64_t>("a value");
      return v >> 63 ? Json::big_integer(std::to_string(v)) : Json(static_cast<long>(v));
    }
    case 11:
      return Json(static_cast<long>(c.number<std::int64_t>("a value")));
    case 12:
      return real_json(c.number<double>("a value"));
    default:
      break;
  }
  if (type != 9) c.bad({"metadata \"", key, "\" has type ", type, ", expected 0 to 12"});
  if (depth >= kMaxGgufDepth) c.bad({"metadata \"", key, "\" is nested too deeply"});
  const auto item = c.number<std::uint32_t>("an array's type");
  const auto count = c.number<std::uint64_t>("an array's length");
  const int least = least_bytes(item);
  if (least == 0)
    c.bad({"metadata \"", key, "\" is an array of type ", item, ", expected 0 to 12"});
  if (count > c.left() / static_cast<std::uint64_t>(least))
    c.bad({"metadata \"", key, "\" claims ", count, " entries, ", c.left(), " bytes are left"});
  Json r = Json::array();
  for (std::uint64_t i = 0; i < count; ++i)
    r.push_back(gguf_value(c, item, key, budget, depth + 1));
  return r;
}

struct GgufTensorInfo {
  std::string name;
  Shape shape;
  std::uint32_t type = 0;
  std::uint64_t offset = 0, bytes = 0;
};

class GgufContent final : public TensorContent {
 public:
  GgufContent(Source file, const GgufTensorInfo& info, std::uint64_t begin, bool swap)
      : file_(std::move(file)), info_(info), begin_(begin), swap_(swap) {}
  Tensor read() const override {
    const GgufType* t = find_gguf_type(info_.type);
    if (!t)
      fail<FileError>({file_->label(), ": tensor \"", info_.name, "\" has type ", info_.type,
                       ", which is not known; raw() gives its bytes"});
    if (swap_ && !t->plain)
      fail<FileError>({file_->label(), ": tensor \"", info_.name, "\" is ", t->name,
                       " in a big-endian file, of which only plain numbers can be read"});
    Tensor y = empty(info_.shape, t->dtype);
    if (t->plain && std::string_view(t->name) != "I16") {
      file_->read(begin_, y.data_ptr(), info_.bytes);
      if (swap_) swap(static_cast<unsigned char*>(y.data_ptr()), t->bytes);
      return y;
    }
    std::string blocks(info_.bytes, '\0');
    file_->read(begin_, blocks.data(), blocks.size());
    auto* p = reinterpret_cast<unsigned char*>(blocks.data());
    if (t->plain) {
      if (swap_) swap(p, 2);
      for (int64_t i = 0; i < y.numel(); ++i) {
        std::int16_t v;
        std::memcpy(&v, p + 2 * i, 2);
        y.data<std::int32_t>()[i] = v;
      }
    } else {
      dequantize_gguf(*t, p, y.numel() / t->block, y.data<float>());
    }
    return y;
  }
  void raw(std::uint64_t begin, std::uint64_t count, void* out) const override {
    const GgufType* t = find_gguf_type(info_.type);
    if (!swap_ || (t && t->bytes == 1)) return file_->read(begin_ + begin, out, count);
    if (!t || !t->plain)
      fail<FileError>({file_->label(), ": tensor \"", info_.name,
                       "\" lies in a big-endian file, of which only plain numbers can be read"});
    std::string whole(info_.bytes, '\0');
    file_->read(begin_, whole.data(), whole.size());
    swap(reinterpret_cast<unsigned char*>(whole.data()), t->bytes);
    std::memcpy(out, whole.data() + begin, count);
  }

 private:
  void swap(unsigned char* p, int width) const {
    for (std::uint64_t i = 0; i + static_cast<std::uint64_t>(width) <= info_.bytes;
         i += static_cast<std::uint64_t>(width))
      std::reverse(p + i, p + i + width);
  }
  Source file_;
  GgufTensorInfo info_;
  std::uint64_t begin_;
  bool swap_;
};

GgufTensorInfo gguf_tensor_info(GgufCursor& c) {
  GgufTensorInfo r;
  r.name = c.text("a tensor's name");
  const auto rank = c.number<std::uint32_t>("a tensor's rank");
  if (rank > abi::kMaxDims)
    c.bad({"tensor \"", r.name, "\" has ", rank, " dimensions; at most 8 are allowed"});
  std::vector<int64_t> dims;
  std::uint64_t count = 1;
  for (std::uint32_t i = 0; i < rank; ++i) {
    const auto n = c.number<std::uint64_t>("a tensor's size");
    if (n >> 62 || __builtin_mul_overflow(count, std::max<std::uint64_t>(n, 1), &count) ||
        count >> 60)
      c.bad({"tensor \"", r.name, "\" has more elements than can be counted"});
    dims.push_back(static_cast<int64_t>(n));
  }
  std::reverse(dims.begin(), dims.end());
  r.shape = Shape(dims);
  for (const int64_t n : dims) count = n == 0 ? 0 : count;
  r.type = c.number<std::uint32_t>("a tensor's type");
  r.offset = c.number<std::uint64_t>("a tensor's offset");
  if (const GgufType* t = find_gguf_type(r.type)) {
    const int64_t width = dims.empty() ? 1 : dims.back();
    if (width % t->block != 0)
      c.bad({"tensor \"", r.name, "\" ", r.shape, " of ", t->name, ": rows of ", width,
             " are no whole blocks of ", t->block});
    r.bytes = count / static_cast<std::uint64_t>(t->block) * static_cast<std::uint64_t>(t->bytes);
  }
  return r;
}

/// Places checked against the file and each other; of unknown types the bytes reach to the next.
void place_gguf_tensors(const GgufCursor& c, std::vector<GgufTensorInfo>& infos,
                        std::uint64_t alignment, std::uint64_t data_bytes) {
  std::vector<GgufTensorInfo*> order;
  for (GgufTensorInfo& i : infos) order.push_back(&i);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return a->offset < b->offset; });
  std::uint64_t end = 0;
  for (std::size_t k = 0; k < order.size(); ++k) {
    GgufTensorInfo& i = *order[k];
    if (i.offset % alignment != 0)
      c.bad({"tensor \"", i.name, "\" begins at ", i.offset, ", no multiple of ", alignment});
    if (i.offset < end)
      c.bad({"tensor \"", i.name, "\" begins at ", i.offset,
             " inside the one before, which ends at ", end});
    if (i.offset > data_bytes || i.bytes > data_bytes - i.offset)
      c.bad({"tensor \"", i.name, "\" needs ", i.bytes, " bytes at ", i.offset, ", the file has ",
             data_bytes, " bytes of data (truncated?)"});
    if (!find_gguf_type(i.type))
      i.bytes = (k + 1 < order.size() ? std::min(data_bytes, order[k + 1]->offset) : data_bytes) -
                i.offset;
    end = i.offset + i.bytes;
  }
}

std::uint64_t gguf_alignment(const GgufCursor& c, std::uint32_t type, const Json& value) {
  if (type != 4 || value.as_int() < 1 || (value.as_int() & (value.as_int() - 1)) != 0)
    c.bad({"general.alignment is ", value.dump(), " of type ", type,
           ", expected a power of two as u32"});
  return static_cast<std::uint64_t>(value.as_int());
}

void read_gguf_version(GgufCursor& c) {
  char magic[4];
  c.take(magic, 4, "the magic");
  if (std::memcmp(magic, "GGUF", 4) != 0) c.bad({"does not begin with GGUF"});
  auto version = c.number<std::uint32_t>("the version");
  if ((version & 0xffff) == 0) {
    c.big_endian = true;
    version = __builtin_bswap32(version);
  }
  if (version != 2 && version != 3) c.bad({"GGUF version ", version, "; 2 and 3 can be read"});
}

StateFile read_one_gguf(const Source& file) {
  GgufCursor c(*file);
  read_gguf_version(c);
  const auto tensors = c.number<std::uint64_t>("the number of tensors"),
             keys = c.number<std::uint64_t>("the number of metadata");
  if (keys > kMaxGgufKeys || keys > c.left() / kLeastMetadata)
    c.bad({"claims ", keys, " metadata, ", c.left(), " bytes are left and at most ",
           static_cast<int64_t>(kMaxGgufKeys), " are allowed"});
  StateFile r;
  r.path = file->label();
  r.container = "gguf";
  std::uint64_t alignment = 32;
  std::size_t budget = kMaxGgufValues;
  for (std::uint64_t i = 0; i < keys; ++i) {
    const std::string key = c.text("a metadata key");
    if (r.metadata.find(key)) c.bad({"metadata \"", key, "\" is given twice"});
    const auto type = c.number<std::uint32_t>("a metadata type");
    Json value = gguf_value(c, type, key, budget, 0);
    if (key == "general.alignment") alignment = gguf_alignment(c, type, value);
    r.metadata.set(key, std::move(value));
  }
  if (tensors > c.left() / kLeastTensorInfo)
    c.bad({"claims ", tensors, " tensors, ", c.left(), " bytes are left"});
  std::vector<GgufTensorInfo> infos;
  std::unordered_set<std::string> names;
  for (std::uint64_t i = 0; i < tensors; ++i) {
    infos.push_back(gguf_tensor_info(c));
    if (!names.insert(infos.back().name).second)
      c.bad({"tensor \"", infos.back().name, "\" is given twice"});
  }
  std::uint64_t data = c.at();
  if (data % alignment != 0) data += alignment - data % alignment;
  data = std::min(data, file->size());
  place_gguf_tensors(c, infos, alignment, file->size() - data);
  for (const GgufTensorInfo& i : infos) {
    const GgufType* t = find_gguf_type(i.type);
    StoredTensor s;
    s.name = i.name;
    s.format = t ? t->name : join({"type ", i.type});
    s.shape = i.shape;
    s.dtype = t ? t->dtype : kFloat32;
    s.bytes = i.bytes;
    s.content = std::make_shared<GgufContent>(file, i, data + i.offset, c.big_endian);
    r.tensors.push_back(std::move(s));
  }
  return r;
}

int64_t split_note(const StateFile& f, const char* key) {
  const Json* v = f.metadata.find(key);
  if (!v || !v->is_int())
    fail<FileError>({f.path, ": is one part of several without an integer ", key});
  return v->as_int();
}

/// NAME-00001-of-00003.gguf: the part before the number, or empty when the name is no such.
std::string split_stem(const std::string& path, int64_t count) {
  const std::string five = std::to_string(100000 + count).substr(1), tail = "-of-" + five + ".gguf";
  if (count > 99999 || !path.ends_with(tail) || path.size() < tail.size() + 6) return "";
  const std::size_t number = path.size() - tail.size() - 5;
  for (std::size_t i = number; i < number + 5; ++i)
    if (path[i] < '0' || path[i] > '9') return "";
  return path[number - 1] == '-' ? path.substr(0, number) : "";
}

StateFile read_split_gguf(StateFile first_seen, int64_t count) {
  const std::string stem = split_stem(first_seen.path, count);
  if (stem.empty())
    fail<FileError>({first_seen.path, ": is part of ", count,
                     " files, expected a name like model-00001-of-",
                     std::to_string(100000 + count).substr(1), ".gguf"});
  StateFile r;
  r.container = "gguf";
  std::unordered_map<std::string, std::string> from;
  for (int64_t i = 0; i < count; ++i) {
    const std::string path = stem + std::to_string(100001 + i).substr(1) + "-of-" +
                             std::to_string(100000 + count).substr(1) + ".gguf";
    StateFile part = path == first_seen.path
                         ? first_seen
                         : read_one_gguf(std::make_shared<const ByteSource>(path));
    if (split_note(part, "split.count") != count || split_note(part, "split.no") != i)
      fail<FileError>({path, ": says it is part ", split_note(part, "split.no"), " of ",
                       split_note(part, "split.count"), ", expected ", i, " of ", count});
    if (i == 0) r.metadata = part.metadata;
    for (StoredTensor& t : part.tensors) {
      const auto [at, is_new] = from.emplace(t.name, path);
      if (!is_new) fail<FileError>({path, ": tensor \"", t.name, "\" is in ", at->second, " too"});
      r.tensors.push_back(std::move(t));
    }
  }
  if (const Json* all = r.metadata.find("split.tensors.count"))
    if (!all->is_int() || all->as_int() != static_cast<int64_t>(r.tensors.size()))
      fail<FileError>({first_seen.path, ": the parts hold ", static_cast<int64_t>(r.tensors.size()),
                       " tensors, split.tensors.count is ", all->dump()});
  return r;
}

}  // namespace

StateFile read_gguf(const Source& file) {
  StateFile r = read_one_gguf(file);
  if (const Json* count = r.metadata.find("split.count");
      count && count->is_int() && count->as_int() > 1)
    return read_split_gguf(std::move(r), count->as_int());
  return r;
}

}  // namespace dropin::serialize_detail
