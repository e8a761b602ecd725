#include "dropin/serialize/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "dropin/core/error.h"

namespace dropin {

namespace {
std::atomic<long long> write_budget{-1};
}
void fail_writes_after(long long bytes) { write_budget = bytes; }

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  temporary_ = path_ + ".tmp-XXXXXX";
  fd_ = mkostemp(temporary_.data(), O_CLOEXEC);
  if (fd_ < 0) fail<FileError>({path_, ": cannot be written: ", std::strerror(errno)});
  fchmod(fd_, 0644);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

void AtomicFile::give_up(const char* what) {
  const int e = errno;
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
  unlink(temporary_.c_str());
  fail<FileError>({path_, ": ", what, " failed: ", std::strerror(e), "; the file is as it was before"});
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  const char* p = static_cast<const char*>(data);
  if (const long long left = write_budget.load(); left >= 0) {
    write_budget -= static_cast<long long>(bytes);
    if (static_cast<long long>(bytes) > left) {
      write_budget = 0;
      errno = ENOSPC;
      give_up("writing");
    }
  }
  while (bytes) {
    const ssize_t n = ::write(fd_, p, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) give_up("writing");
    p += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

void AtomicFile::commit() {
  if (fsync(fd_) != 0) give_up("flushing");
  if (close(fd_) != 0) {
    fd_ = -1;
    give_up("closing");
  }
  fd_ = -1;
  if (rename(temporary_.c_str(), path_.c_str()) != 0) give_up("renaming");
  const std::size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path_.substr(0, slash);
  if (const int d = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); d >= 0) {
    fsync(d);
    close(d);
  }
}

}  // namespace dropin
