// What the reader of one file, the reader of shards and the writer of safetensors share.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "dropin/serialize/safetensors.h"

namespace dropin::serialize_detail {

/// The greatest header, and the greatest index of shards.
constexpr std::uint64_t kMaxJsonBytes = 100'000'000;
/// The format's name of a dtype.
struct TypeName {
  DType type;
  const char* name;
};
constexpr TypeName kSafetensorsTypes[] = {
    {DType::Float32, "F32"}, {DType::Float64, "F64"}, {DType::BFloat16, "BF16"},
    {DType::Float16, "F16"}, {DType::Int8, "I8"},     {DType::UInt8, "U8"},
    {DType::Int32, "I32"},   {DType::Int64, "I64"},   {DType::Boolean, "BOOL"}};

/// A value as an error quotes it.
inline std::string quote(const Json& j) {
  std::string s = j.dump();
  if (s.size() > 100) s = s.substr(0, 100) + "...";
  return s;
}

/// Bytes by position. Files are read, not mapped: a mapped file that shrinks or fails meanwhile
/// ends the program instead of throwing.
class ByteSource {
 public:
  explicit ByteSource(const std::string& path) : label_(path) {
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat s {};
    if (fd_ < 0 || fstat(fd_, &s) != 0) refuse("cannot be read", errno);
    if (!S_ISREG(s.st_mode)) refuse("is not a regular file", 0);
    size_ = static_cast<std::uint64_t>(s.st_size);
  }
  ByteSource(const void* data, std::size_t bytes, const std::string& label)
      : label_(label), data_(static_cast<const char*>(data)), size_(bytes) {}
  ~ByteSource() {
    if (fd_ >= 0) close(fd_);
  }
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

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

/// One file, its header checked whole before any tensor is read.
SafetensorsFile read_safetensors(ByteSource& in);

}  // namespace dropin::serialize_detail
