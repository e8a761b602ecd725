// Reads IDX files, plain or gzipped.
#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "dropin/data/fashion_mnist.h"
#include "dropin/ops/ops.h"
#include "dropin/serialize/safetensors.h"

namespace dropin {
namespace {

// Bytes of a plain or gzipped file, in order. Inflates as it goes, so that nothing beyond what the
// header promises is ever held.
class Source {
 public:
  Source(const unsigned char* data, std::size_t bytes, const std::string& label)
      : p_(data), left_(bytes), total_(bytes), label_(label) {
    gzip_ = bytes >= 2 && data[0] == 0x1f && data[1] == 0x8b;
    if (gzip_) start_member();
  }
  ~Source() {
    if (open_) inflateEnd(&z_);
  }
  // The most that can still be read: a plain file holds what it promises, a gzipped one cannot
  // expand more than 1032 times.
  std::uint64_t most() const { return gzip_ ? total_ * 1032 : left_; }
  // Reads up to n bytes; fewer only at the end.
  std::size_t read(void* out, std::size_t n) {
    auto* o = static_cast<unsigned char*>(out);
    if (!gzip_) {
      n = std::min(n, left_);
      if (n) std::memcpy(o, p_, n);
      p_ += n;
      left_ -= n;
      return n;
    }
    std::size_t got = 0;
    while (got < n && open_) {
      const auto room = static_cast<uInt>(std::min<std::size_t>(n - got, 1u << 30));
      const auto feed = static_cast<uInt>(std::min<std::size_t>(left_, 1u << 30));
      z_.next_out = o + got;
      z_.avail_out = room;
      z_.next_in = const_cast<unsigned char*>(p_);
      z_.avail_in = feed;
      const int status = inflate(&z_, Z_NO_FLUSH);
      p_ += feed - z_.avail_in;
      left_ -= feed - z_.avail_in;
      got += room - z_.avail_out;
      if (status == Z_STREAM_END) {
        inflateEnd(&z_);
        open_ = false;
        if (left_ >= 2 && p_[0] == 0x1f && p_[1] == 0x8b)
          start_member();
        else if (left_)
          fail<FileError>({label_, ": ", left_, " bytes after the gzip data"});
      } else if (status == Z_BUF_ERROR || (status == Z_OK && left_ == 0 && z_.avail_out)) {
        fail<FileError>({label_, ": the gzip data is truncated"});
      } else if (status != Z_OK) {
        fail<FileError>({label_, ": corrupt gzip data (", z_.msg ? z_.msg : "inflate failed", ")"});
      }
    }
    return got;
  }

 private:
  void start_member() {
    z_ = {};
    if (inflateInit2(&z_, 15 + 16) != Z_OK)
      fail<OutOfMemoryError>({label_, ": no memory to inflate"});
    open_ = true;
  }
  const unsigned char* p_;
  std::size_t left_, total_;
  const std::string& label_;
  bool gzip_ = false, open_ = false;
  z_stream z_{};
};

std::uint32_t big_endian(const unsigned char* p) {
  return static_cast<std::uint32_t>(p[0]) << 24 | static_cast<std::uint32_t>(p[1]) << 16 |
         static_cast<std::uint32_t>(p[2]) << 8 | p[3];
}

// Bytes of a value of an IDX type; FileError for a code that there is not.
int64_t idx_width(int code, const std::string& label) {
  switch (code) {
    case 0x08:
    case 0x09:
      return 1;
    case 0x0b:
      return 2;
    case 0x0c:
    case 0x0d:
      return 4;
    case 0x0e:
      return 8;
    default:
      fail<FileError>(
          {label, ": unknown IDX type code ", code, "; there are 8, 9, 11, 12, 13 and 14"});
  }
}

// The sizes of `rank` dimensions, at most 2^31 elements in all.
Shape idx_sizes(Source& in, int rank, const std::string& label) {
  if (rank > abi::kMaxDims)
    fail<FileError>({label, ": ", rank, " dimensions; at most 8 are supported"});
  Shape sizes;
  int64_t n = 1;
  for (int i = 0; i < rank; ++i) {
    unsigned char s[4];
    if (in.read(s, 4) != 4)
      fail<FileError>({label, ": truncated in the sizes of its ", rank, " dimensions"});
    sizes.push_back(big_endian(s));
    // Zeros apart: they would hide sizes whose strides overflow.
    if (sizes.back() != 0 &&
        (__builtin_mul_overflow(n, sizes.back(), &n) || n > (int64_t{1} << 31)))
      fail<FileError>({label, ": sizes ", sizes, " have more than 2^31 elements"});
  }
  return sizes;
}

// Value p of an IDX type other than unsigned bytes, as element i of t.
void put_idx_value(const unsigned char* p, int64_t width, const Tensor& t, int64_t i) {
  if (t.dtype() == kInt32) {
    std::int32_t v = 0;
    if (width == 1)
      v = static_cast<std::int8_t>(p[0]);
    else if (width == 2)
      v = static_cast<std::int16_t>(static_cast<std::uint16_t>(p[0] << 8 | p[1]));
    else
      v = static_cast<std::int32_t>(big_endian(p));
    t.data<std::int32_t>()[i] = v;
  } else if (width == 4) {
    const std::uint32_t u = big_endian(p);
    std::memcpy(t.data<float>() + i, &u, 4);
  } else {
    const std::uint64_t u = static_cast<std::uint64_t>(big_endian(p)) << 32 | big_endian(p + 4);
    double d;
    std::memcpy(&d, &u, 8);
    t.data<float>()[i] = static_cast<float>(d);
  }
}

}  // namespace

Tensor parse_idx(const void* data, std::size_t bytes, const std::string& label) {
  Source in(static_cast<const unsigned char*>(data), bytes, label);
  unsigned char magic[4];
  if (in.read(magic, 4) != 4)
    fail<FileError>({label, ": truncated: an IDX file begins with 4 bytes of magic"});
  if (magic[0] || magic[1])
    fail<FileError>({label, ": wrong magic: the first two bytes of an IDX file are 0, here ",
                     static_cast<int>(magic[0]), " and ", static_cast<int>(magic[1])});
  const int code = magic[2];
  const int64_t width = idx_width(code, label);
  const Shape sizes = idx_sizes(in, magic[3], label);
  const int64_t n = sizes.numel();
  if (static_cast<std::uint64_t>(n * width) > in.most())
    fail<FileError>({label, ": truncated: sizes ", sizes, " need ", n * width, " bytes"});
  Tensor t = empty(sizes, code == 0x08 ? kUInt8 : code <= 0x0c ? kInt32 : kFloat32);
  auto read = [&](void* to, int64_t at, int64_t count) {  // bytes
    const std::size_t got = in.read(to, static_cast<std::size_t>(count));
    if (got != static_cast<std::size_t>(count))
      fail<FileError>({label, ": truncated: ", at + static_cast<int64_t>(got), " of ", n * width,
                       " bytes of data"});
  };
  if (code == 0x08) {
    read(t.data_ptr(), 0, n);
  } else {
    std::vector<unsigned char> chunk(static_cast<std::size_t>(4096 * width));
    for (int64_t at = 0; at < n; at += 4096) {
      const int64_t k = std::min<int64_t>(4096, n - at);
      read(chunk.data(), at * width, k * width);
      for (int64_t i = 0; i < k; ++i) put_idx_value(chunk.data() + i * width, width, t, at + i);
    }
  }
  unsigned char extra;
  if (in.read(&extra, 1) != 0)
    fail<FileError>({label, ": more data than its sizes ", sizes, " say"});
  return t;
}

Tensor parse_idx(const Tensor& bytes) {
  if (bytes.dtype() != kUInt8 || bytes.dim() != 1)
    fail<DTypeError>(
        {"ParseIdx: bytes are ", bytes.sizes(), " ", bytes.dtype(), ", expected [n] uint8"});
  const Tensor b = bytes.to(kCPU).contiguous();
  return parse_idx(b.data_ptr(), static_cast<std::size_t>(b.numel()), "ParseIdx");
}

Tensor read_idx(const std::string& path) {
  const std::string bytes = read_file(path);
  return parse_idx(bytes.data(), bytes.size(), path);
}

Tensor normalize_images(const Tensor& images, double mean, double std) {
  if (images.dtype() != kUInt8 || images.dim() != 3)
    fail<ShapeError>({"NormalizeImages: images are ", images.sizes(), " ", images.dtype(),
                      ", expected [N, H, W] uint8"});
  if (!(std > 0))
    fail<OptionError>({"NormalizeImages: std is ", std, ", expected a positive number"});
  return affine(images.to(kFloat32), 1 / (255 * std), -mean / std).unsqueeze(1);
}

}  // namespace dropin
