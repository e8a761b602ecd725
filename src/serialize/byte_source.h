// Bytes of a file, or of memory, by position.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "dropin/core/error.h"
#include "dropin/core/parallel.h"

namespace dropin::serialize_detail {

/// Files are read, not mapped: a mapped file that shrinks or fails meanwhile ends the program
/// instead of throwing. read() may be called by several threads.
class ByteSource {
 public:
  explicit ByteSource(std::string path) : label_(std::move(path)) {
    fd_ = open(label_.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat s {};
    if (fd_ < 0 || fstat(fd_, &s) != 0) give_up("cannot be read", errno);
    if (!S_ISREG(s.st_mode)) give_up("is not a regular file", 0);
    size_ = static_cast<std::uint64_t>(s.st_size);
  }
  /// Of memory, which must outlive it; `label` stands for the file's name in messages.
  ByteSource(const void* data, std::size_t bytes, std::string label)
      : label_(std::move(label)), data_(static_cast<const char*>(data)), size_(bytes) {}
  ~ByteSource() {
    if (fd_ >= 0) close(fd_);
  }
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  const std::string& label() const { return label_; }
  std::uint64_t size() const { return size_; }
  /// The bytes [at, at + bytes), which must lie inside.
  void read(std::uint64_t at, void* to, std::uint64_t bytes) const {
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
  [[noreturn]] void refuse(const char* what, int error) const {
    if (error) fail<FileError>({label_, ": ", what, ": ", std::strerror(error)});
    fail<FileError>({label_, ": ", what});
  }
  [[noreturn]] void give_up(const char* what, int error) {
    if (fd_ >= 0) close(fd_);  // the destructor of an object that was not made does not run
    fd_ = -1;
    refuse(what, error);
  }
  std::string label_;
  int fd_ = -1;
  const char* data_ = nullptr;
  std::uint64_t size_ = 0;
};

/// ByteSource::read by all threads: one alone neither fills fresh pages nor copies as fast as the
/// memory takes it.
inline void read_by_threads(const ByteSource& in, std::uint64_t at, void* to, std::uint64_t bytes) {
  constexpr std::uint64_t kPiece = 1 << 22;
  const auto pieces = static_cast<int64_t>((bytes + kPiece - 1) / kPiece);
  parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
    const std::uint64_t begin = static_cast<std::uint64_t>(first) * kPiece,
                        end = std::min(bytes, static_cast<std::uint64_t>(last) * kPiece);
    in.read(at + begin, static_cast<char*>(to) + begin, end - begin);
  });
}

}  // namespace dropin::serialize_detail
