#include "dropin/serialize/npy.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "dropin/serialize/atomic_file.h"
#include "dropin/serialize/safetensors.h"
#include "serialize/npy_format.h"

namespace dropin {

using namespace serialize_detail;

namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
/// Kind and bytes of a dtype, and how we store it.
struct NpyType {
  const char* format;
  char kind;
  const char* bytes;
};
constexpr NpyType kTypes[] = {
    {"F32", 'f', "4"}, {"F64", 'f', "8"}, {"F16", 'f', "2"},  {"I8", 'i', "1"},   {"U8", 'u', "1"},
    {"I32", 'i', "4"}, {"I64", 'i', "8"}, {"BOOL", 'b', "1"}, {"I16", 'i', "2"},  {"U16", 'u', "2"},
    {"U32", 'u', "4"}, {"U64", 'u', "8"}, {"C64", 'c', "8"},  {"C128", 'c', "16"}};

// The header: a Python dict of exactly descr (string), fortran_order (True or False) and shape
// (tuple of integers), in any order.
class NpyHeaderParser {
 public:
  NpyHeaderParser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  NpyHeader run() {
    bool descr = false, order = false, shape = false;
    expect('{');
    while (!take('}')) {
      const std::string_view key = string();
      expect(':');
      bool* seen = key == "descr"           ? &descr
                   : key == "fortran_order" ? &order
                   : key == "shape"         ? &shape
                                            : nullptr;
      if (!seen) bad({"unknown key \"", key, "\""});
      if (*seen) bad({"the key \"", key, "\" is given twice"});
      *seen = true;
      if (seen == &descr)
        read_descr();
      else if (seen == &order)
        read_order();
      else
        read_shape();
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    blanks();
    if (at_ != text_.size()) bad({"more text after the dict, at byte ", at_});
    if (!descr || !order || !shape) bad({"expected descr, fortran_order and shape"});
    return header_;
  }

 private:
  [[noreturn]] void bad(std::initializer_list<Part> why) {
    fail<FileError>({file_, ": npy header: ", join(why)});
  }
  void blanks() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }
  bool take(char c) {
    blanks();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) bad({"expected ", std::string(1, c), " at byte ", at_});
  }
  std::string_view string() {
    blanks();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') bad({"expected a string at byte ", at_});
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == text_.npos || end - at_ > 40) bad({"expected a short string at byte ", at_});
    const std::string_view s = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return s;
  }
  void read_descr() {
    if (take('[')) bad({"structured dtypes are not supported"});
    const std::string_view d = string();
    const bool order =
        d.size() >= 3 && std::string_view("<>=|").find(d[0]) != std::string_view::npos;
    header_.descr = std::string(d);
    for (const NpyType& t : kTypes)
      if (order && d[1] == t.kind && d.substr(2) == t.bytes) {
        header_.format = find_stored_format(t.format);
        header_.big_endian = d[0] == '>';
      }
  }
  void read_order() {
    blanks();
    for (const std::string_view word : {std::string_view("True"), std::string_view("False")})
      if (text_.substr(at_, word.size()) == word) {
        header_.fortran_order = word == "True";
        at_ += word.size();
        return;
      }
    bad({"fortran_order is neither True nor False, at byte ", at_});
  }
  void read_shape() {
    expect('(');
    bool comma = true;
    while (!take(')')) {
      if (!comma) bad({"expected , or ) at byte ", at_});
      blanks();
      int64_t n = 0;
      const std::size_t first = at_;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, text_[at_] - '0', &n))
          bad({"a size has more digits than can be counted, at byte ", first});
      if (at_ == first) bad({"expected a size at byte ", at_});
      if (header_.shape.size() == abi::kMaxDims) bad({"more than ", abi::kMaxDims, " dimensions"});
      header_.shape.push_back(n);
      comma = take(',');
    }
    if (header_.shape.size() == 1 && !comma)
      bad({"shape is a number in brackets, expected a tuple"});
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
  NpyHeader header_;
};

void swap_bytes(void* data, int64_t count, int64_t width) {
  auto* p = static_cast<unsigned char*>(data);
  for (int64_t i = 0; i < count; ++i) std::reverse(p + i * width, p + (i + 1) * width);
}

}  // namespace

NpyHeader serialize_detail::parse_npy_header(std::string_view begin, std::uint64_t bytes,
                                             const std::string& file) {
  const auto* p = reinterpret_cast<const unsigned char*>(begin.data());
  if (begin.size() < 10 || std::memcmp(p, kMagic.data(), kMagic.size()) != 0)
    fail<FileError>({file, ": does not begin with npy's magic"});
  const int version = p[6];
  if (version < 1 || version > 3 || p[7] != 0)
    fail<FileError>({file, ": npy version ", version, ".", static_cast<int>(p[7]),
                     "; 1.0, 2.0 and 3.0 can be read"});
  const std::uint64_t start = version == 1 ? 10 : 12;
  if (begin.size() < start) fail<FileError>({file, ": truncated in the length of its header"});
  std::uint64_t length = p[8] | p[9] << 8;
  if (version > 1)
    length |= static_cast<std::uint64_t>(p[10]) << 16 | static_cast<std::uint64_t>(p[11]) << 24;
  if (length > kMaxNpyHeader)
    fail<FileError>(
        {file, ": an npy header of ", length, " bytes; at most ", kMaxNpyHeader, " are allowed"});
  if (length > bytes - start)
    fail<FileError>({file, ": the npy header claims ", length, " bytes, the file has ",
                     bytes - start, " after its length (truncated?)"});
  NpyHeader h = NpyHeaderParser(begin.substr(start, length), file).run();
  h.begin = start + length;
  return h;
}

void serialize_detail::check_npy_size(const NpyHeader& h, std::uint64_t bytes,
                                      const std::string& file) {
  int64_t need = h.format->bits / 8;
  bool nothing = false;
  for (const int64_t n : h.shape) {
    if (n == 0)
      nothing = true;
    else if (__builtin_mul_overflow(need, n, &need))
      fail<FileError>({file, ": shape ", h.shape, " has more bytes than can be counted"});
  }
  if (nothing) need = 0;
  const std::uint64_t have = bytes - h.begin;
  if (have != static_cast<std::uint64_t>(need))
    fail<FileError>(
        {file, ": ", have, " bytes of data, shape ", h.shape, " of ",
         h.format->own && h.format->parts == 1 ? name(h.format->dtype) : h.descr.c_str(), " needs ",
         need});
}

std::string serialize_detail::npy_values(const NpyHeader& h, std::string content) {
  const int64_t width = h.format->bits / 8;
  if (h.big_endian && width > 1)
    swap_bytes(content.data(), static_cast<int64_t>(content.size()) / width * h.format->parts,
               width / h.format->parts);
  if (!h.fortran_order || h.shape.size() < 2 || content.empty()) return content;
  // Fortran order is C order of the transposed array: element by element to its place.
  std::string r(content.size(), '\0');
  const int last = static_cast<int>(h.shape.size());
  std::vector<int64_t> at(h.shape.size(), 0);
  const int64_t count = static_cast<int64_t>(content.size()) / width;
  for (int64_t i = 0; i < count; ++i) {
    int64_t from = 0;
    for (int d = last; d-- > 0;) from = from * h.shape[d] + at[static_cast<std::size_t>(d)];
    std::memcpy(r.data() + i * width, content.data() + from * width,
                static_cast<std::size_t>(width));
    for (int d = last; d-- > 0;) {
      if (++at[static_cast<std::size_t>(d)] < h.shape[d]) break;
      at[static_cast<std::size_t>(d)] = 0;
    }
  }
  return r;
}

Tensor parse_npy(const void* data, std::size_t bytes, const std::string& file) {
  const NpyHeader h = parse_npy_header({static_cast<const char*>(data), bytes}, bytes, file);
  if (!h.format || !h.format->own || h.format->parts > 1)
    fail<FileError>({file, ": npy header: dtype \"", h.descr,
                     "\" is not one of f2, f4, f8, i1, i4, i8, u1, b1"});
  check_npy_size(h, bytes, file);
  const auto* content = static_cast<const char*>(data) + h.begin;
  const std::string values = npy_values(h, std::string(content, bytes - h.begin));
  if (h.format->dtype == DType::Boolean)
    for (const char c : values)
      if (static_cast<unsigned char>(c) > 1)
        fail<FileError>(
            {file, ": a bool byte is ", static_cast<int>(static_cast<unsigned char>(c))});
  Tensor t = empty(h.shape, h.format->dtype);
  if (!values.empty()) std::memcpy(t.data_ptr(), values.data(), values.size());
  return t;
}

Tensor load_npy(const std::string& path) {
  const std::string bytes = read_file(path);
  return parse_npy(bytes.data(), bytes.size(), path);
}

void save_npy(const std::string& path, const Tensor& tensor) {
  const Tensor t = tensor.detach().to(kCPU).contiguous();
  const std::string_view format = stored_format_of(t.dtype()).name;
  const NpyType* type = nullptr;
  for (const NpyType& k : kTypes)
    if (format == k.format) type = &k;
  if (!type)
    fail<DTypeError>({path, ": npy has no ", t.dtype(), "; convert it first, .to(kFloat32)"});
  std::string shape;
  for (const int64_t n : t.sizes()) shape += join({shape.empty() ? "" : " ", n, ","});
  if (t.dim() > 1) shape.pop_back();
  std::string header =
      join({"{'descr': '", type->bytes[0] == '1' ? "|" : "<", std::string(1, type->kind),
            type->bytes, "', 'fortran_order': False, 'shape': (", shape, "), }"});
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10 - 1,
                ' ');  // the data begin at a multiple of 64
  header += '\n';
  AtomicFile f(path);
  f.write(kMagic);
  const char start[4] = {1, 0, static_cast<char>(header.size() & 255),
                         static_cast<char>(header.size() >> 8)};
  f.write(start, 4);
  f.write(header);
  if (t.numel()) f.write(t.data_ptr(), static_cast<std::size_t>(t.numel() * item_size(t.dtype())));
  f.commit();
}

}  // namespace dropin
