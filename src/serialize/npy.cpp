#include "dropin/serialize/npy.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "dropin/serialize/atomic_file.h"
#include "dropin/serialize/safetensors.h"

namespace dropin {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::uint64_t kMaxHeader =
    1 << 20;  ///< ours need about 100 bytes; longer ones describe structured types

struct TypeName {
  DType type;
  char kind;
  int bytes;
};
constexpr TypeName kTypes[] = {{DType::Float32, 'f', 4}, {DType::Float64, 'f', 8},
                               {DType::Float16, 'f', 2}, {DType::Int8, 'i', 1},
                               {DType::UInt8, 'u', 1},   {DType::Int32, 'i', 4},
                               {DType::Int64, 'i', 8},   {DType::Boolean, 'b', 1}};

struct Header {
  DType dtype = DType::Float32;
  bool big_endian = false, fortran_order = false;
  Shape shape;
};

// The header: a Python dict of exactly descr (string), fortran_order (True or False) and shape
// (tuple of integers), in any order.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Header run() {
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
        d.size() == 3 && std::string_view("<>=|").find(d[0]) != std::string_view::npos;
    for (const TypeName& t : kTypes)
      if (order && d[1] == t.kind && d[2] == '0' + t.bytes) {
        header_.dtype = t.type;
        header_.big_endian = d[0] == '>';
        return;
      }
    bad({"dtype \"", d, "\" is not one of f2, f4, f8, i1, i4, i8, u1, b1"});
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
  Header header_;
};

void swap_bytes(void* data, int64_t count, int64_t width) {
  auto* p = static_cast<unsigned char*>(data);
  for (int64_t i = 0; i < count; ++i) std::reverse(p + i * width, p + (i + 1) * width);
}

}  // namespace

Tensor parse_npy(const void* data, std::size_t bytes, const std::string& file) {
  const auto* p = static_cast<const unsigned char*>(data);
  if (bytes < 10 || std::memcmp(p, kMagic.data(), kMagic.size()) != 0)
    fail<FileError>({file, ": does not begin with npy's magic"});
  const int version = p[6];
  if (version < 1 || version > 3 || p[7] != 0)
    fail<FileError>({file, ": npy version ", version, ".", static_cast<int>(p[7]),
                     "; 1.0, 2.0 and 3.0 can be read"});
  const std::uint64_t start = version == 1 ? 10 : 12;
  if (bytes < start) fail<FileError>({file, ": truncated in the length of its header"});
  std::uint64_t length = p[8] | p[9] << 8;
  if (version > 1)
    length |= static_cast<std::uint64_t>(p[10]) << 16 | static_cast<std::uint64_t>(p[11]) << 24;
  if (length > kMaxHeader)
    fail<FileError>(
        {file, ": an npy header of ", length, " bytes; at most ", kMaxHeader, " are allowed"});
  if (length > bytes - start)
    fail<FileError>({file, ": the npy header claims ", length, " bytes, the file has ",
                     bytes - start, " after its length (truncated?)"});
  const Header h =
      HeaderParser({reinterpret_cast<const char*>(p + start), static_cast<std::size_t>(length)},
                   file)
          .run();

  const int64_t width = item_size(h.dtype);
  int64_t need = width;
  bool nothing = false;
  for (const int64_t n : h.shape) {
    if (n == 0)
      nothing = true;
    else if (__builtin_mul_overflow(need, n, &need))
      fail<FileError>({file, ": shape ", h.shape, " has more bytes than can be counted"});
  }
  if (nothing) need = 0;
  const std::uint64_t have = bytes - start - length;
  if (have != static_cast<std::uint64_t>(need))
    fail<FileError>(
        {file, ": ", have, " bytes of data, shape ", h.shape, " of ", h.dtype, " needs ", need});
  const unsigned char* content = p + start + length;
  if (h.dtype == DType::Boolean)
    for (int64_t i = 0; i < need; ++i)
      if (content[i] > 1)
        fail<FileError>({file, ": a bool byte is ", static_cast<int>(content[i])});

  // Fortran order is C order of the transposed array.
  Shape sizes = h.shape, reversed;
  if (h.fortran_order) std::reverse(sizes.begin(), sizes.end());
  Tensor t = empty(sizes, h.dtype);
  if (need) std::memcpy(t.data_ptr(), content, static_cast<std::size_t>(need));
  if (h.big_endian && width > 1) swap_bytes(t.data_ptr(), t.numel(), width);
  if (!h.fortran_order) return t;
  for (int d = sizes.size() - 1; d >= 0; --d) reversed.push_back(d);
  return t.permute(reversed).contiguous();
}

Tensor load_npy(const std::string& path) {
  const std::string bytes = read_file(path);
  return parse_npy(bytes.data(), bytes.size(), path);
}

void save_npy(const std::string& path, const Tensor& tensor) {
  const Tensor t = tensor.detach().to(kCPU).contiguous();
  const TypeName* type = nullptr;
  for (const TypeName& k : kTypes)
    if (k.type == t.dtype()) type = &k;
  if (!type)
    fail<DTypeError>({path, ": npy has no ", t.dtype(), "; convert it first, .to(kFloat32)"});
  std::string shape;
  for (const int64_t n : t.sizes()) shape += join({shape.empty() ? "" : " ", n, ","});
  if (t.dim() > 1) shape.pop_back();
  std::string header =
      join({"{'descr': '", type->bytes == 1 ? "|" : "<", std::string(1, type->kind), type->bytes,
            "', 'fortran_order': False, 'shape': (", shape, "), }"});
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
