#include "serialize/stored_format.h"

#include <array>
#include <limits>

#include "dropin/core/parallel.h"
#include "dropin/number_format/codes.h"
#include "dropin/ops/ops.h"

namespace dropin::serialize_detail {

namespace {

constexpr StoredFormat kStoredFormats[] = {{"F32", 32, DType::Float32, true},
                                           {"F64", 64, DType::Float64, true},
                                           {"BF16", 16, DType::BFloat16, true},
                                           {"F16", 16, DType::Float16, true},
                                           {"I8", 8, DType::Int8, true},
                                           {"U8", 8, DType::UInt8, true},
                                           {"I32", 32, DType::Int32, true},
                                           {"I64", 64, DType::Int64, true},
                                           {"BOOL", 8, DType::Boolean, true},
                                           {"I16", 16, DType::Int32, false},
                                           {"U16", 16, DType::Int32, false},
                                           {"U32", 32, DType::Int64, false},
                                           {"U64", 64, DType::Int64, false},
                                           {"C64", 64, DType::Float32, true, 2},
                                           {"C128", 128, DType::Float64, true, 2},
                                           {"F8_E4M3", 8, DType::Float32, false},
                                           {"F8_E5M2", 8, DType::Float32, false},
                                           {"F8_E4M3FNUZ", 8, DType::Float32, false},
                                           {"F8_E5M2FNUZ", 8, DType::Float32, false},
                                           {"F8_E8M0", 8, DType::Float32, false},
                                           {"F6_E2M3", 6, DType::Float32, false},
                                           {"F6_E3M2", 6, DType::Float32, false},
                                           {"F4", 4, DType::Float32, false}};

/// Elements decoded at a time: a multiple of 4, so that 6-bit codes begin at whole bytes.
constexpr int64_t kElementsAtOnce = 1 << 16;

template <class From, class To>
void widen_stored(const void* in, int64_t n, void* out) {
  const auto* p = static_cast<const unsigned char*>(in);
  auto* o = static_cast<To*>(out);
  parallel_for(n, kElementsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      From v;
      std::memcpy(&v, p + i * int64_t{sizeof(From)}, sizeof v);
      o[i] = static_cast<To>(v);
    }
  });
}

void check_stored_bools(const void* in, int64_t n, const std::string& label) {
  const auto* p = static_cast<const unsigned char*>(in);
  for (int64_t i = 0; i < n; ++i)  // as bool, another value would be undefined
    if (p[i] > 1) fail<FileError>({label, ": a BOOL byte is ", static_cast<int>(p[i])});
}

void widen_u64(const void* in, int64_t n, void* out, const std::string& label) {
  std::memcpy(out, in, static_cast<std::size_t>(n) * 8);
  const auto* o = static_cast<const int64_t*>(out);
  for (int64_t i = 0; i < n; ++i)
    if (o[i] < 0)
      fail<FileError>({label, ": the U64 value at ", i,
                       " is beyond int64, which is the widest integer that a Tensor has; raw() "
                       "gives its bits"});
}

/// Codes of 8, 6 or 4 bits.
void decode_codes(const NumberFormat& f, const void* in, int64_t n, void* out) {
  const auto* p = static_cast<const unsigned char*>(in);
  auto* o = static_cast<float*>(out);
  std::array<float, 256> value;
  for (std::size_t c = 0; c < 256; ++c) value[c] = decode_number(f, static_cast<std::uint8_t>(c));
  const int64_t blocks = (n + kElementsAtOnce - 1) / kElementsAtOnce;
  parallel_for(blocks, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kElementsAtOnce, end = std::min(n, last * kElementsAtOnce);
    if (f.bits == 8)
      for (int64_t i = begin; i < end; ++i) o[i] = value[p[i]];
    else if (f.bits == 4)
      for (int64_t i = begin; i < end; ++i) o[i] = value[p[i / 2] >> (i % 2 * 4) & 15];
    else
      for (int64_t i = begin; i < end; ++i) {
        const int64_t bit = 6 * i, at = bit / 8;
        const int shift = static_cast<int>(bit % 8);
        const int two = p[at] | (shift > 2 ? p[at + 1] << 8 : 0);
        o[i] = value[static_cast<std::size_t>(two >> shift & 63)];
      }
  });
}

/// A tensor in one piece of a file.
class PlainContent final : public TensorContent {
 public:
  PlainContent(std::shared_ptr<const ByteSource> file, const StoredFormat& format, Shape shape,
               std::uint64_t begin, std::string label)
      : file_(std::move(file)),
        format_(format),
        shape_(std::move(shape)),
        begin_(begin),
        label_(std::move(label)) {}
  Tensor read() const override {
    Tensor t = empty(shape_, format_.dtype);
    const auto bytes = stored_bytes(format_, static_cast<std::uint64_t>(t.numel()));
    if (format_.own) {
      read_by_threads(*file_, begin_, t.data_ptr(), bytes);
      if (format_.dtype == DType::Boolean) check_stored_bools(t.data_ptr(), t.numel(), label_);
      return t;
    }
    std::string stored(bytes, '\0');
    file_->read(begin_, stored.data(), bytes);
    decode_stored(format_, stored.data(), t.numel(), t.data_ptr(), label_);
    return t;
  }
  void raw(std::uint64_t begin, std::uint64_t count, void* out) const override {
    file_->read(begin_ + begin, out, count);
  }

 private:
  std::shared_ptr<const ByteSource> file_;
  const StoredFormat& format_;
  Shape shape_;
  std::uint64_t begin_;
  std::string label_;
};

}  // namespace

std::span<const StoredFormat> stored_formats() { return kStoredFormats; }

const StoredFormat* find_stored_format(std::string_view name) {
  for (const StoredFormat& f : kStoredFormats)
    if (name == f.name) return &f;
  return nullptr;
}

const StoredFormat& stored_format_of(DType dtype) {
  for (const StoredFormat& f : kStoredFormats)
    if (f.dtype == dtype && f.own && f.parts == 1) return f;
  fail<DTypeError>({"no stored format of ", dtype});
}

void decode_stored(const StoredFormat& f, const void* in, int64_t n, void* out,
                   const std::string& label) {
  if (n == 0) return;
  const std::string_view name = f.name;
  if (f.own) {
    if (f.dtype == DType::Boolean) check_stored_bools(in, n, label);
    if (in != out)
      std::memcpy(out, in,
                  static_cast<std::size_t>(stored_bytes(f, static_cast<std::uint64_t>(n))));
  } else if (name == "I16") {
    widen_stored<std::int16_t, std::int32_t>(in, n, out);
  } else if (name == "U16") {
    widen_stored<std::uint16_t, std::int32_t>(in, n, out);
  } else if (name == "U32") {
    widen_stored<std::uint32_t, std::int64_t>(in, n, out);
  } else if (name == "U64") {
    widen_u64(in, n, out, label);
  } else {
    decode_codes(number_format(name), in, n, out);
  }
}

Tensor decode_stored(const StoredFormat& f, const std::string& bytes, const Shape& shape,
                     const std::string& label) {
  Tensor t = empty(shape, f.dtype);
  const auto need = stored_bytes(f, static_cast<std::uint64_t>(t.numel()));
  if (bytes.size() != need)
    fail<FileError>(
        {label, ": ", bytes.size(), " bytes, ", shape, " of ", f.name, " needs ", need});
  decode_stored(f, bytes.data(), t.numel(), t.data_ptr(), label);
  return t;
}

std::shared_ptr<const TensorContent> content_of(std::shared_ptr<const ByteSource> file,
                                                const StoredFormat& format, Shape shape,
                                                std::uint64_t begin, std::string label) {
  return std::make_shared<PlainContent>(std::move(file), format, std::move(shape), begin,
                                        std::move(label));
}

}  // namespace dropin::serialize_detail
