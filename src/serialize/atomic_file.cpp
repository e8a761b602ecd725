#include "dropin/serialize/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "dropin/core/error.h"

namespace dropin {

namespace {
std::atomic<long long> write_budget{-1};
}
void fail_writes_after(long long bytes) { write_budget = bytes; }

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  if (path_.empty()) fail<FileError>({"the path of a file to write is empty"});
  struct stat old {};
  const bool exists = stat(path_.c_str(), &old) == 0;
  // Renaming over a device would replace the device.
  if (exists && !S_ISREG(old.st_mode))
    fail<FileError>({path_, ": is not a regular file; it cannot be replaced"});
  if (exists)
    if (char* real = realpath(path_.c_str(), nullptr)) {
      path_ = real;
      std::free(real);
    }
  static std::atomic<unsigned> count{0};
  do {
    temporary_ = join({path_, ".tmp-", static_cast<long>(getpid()), "-", count++});
    fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd_ < 0 && errno == EEXIST);  // left by a process that was killed
  if (fd_ < 0) fail<FileError>({path_, ": cannot be written: ", std::strerror(errno)});
  if (exists && fchmod(fd_, old.st_mode & 07777) != 0) give_up("keeping the permissions");
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
  fail<FileError>(
      {path_, ": ", what, " failed: ", std::strerror(e), "; the file is as it was before"});
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
  const std::string folder = slash == std::string::npos ? "."
                             : slash == 0               ? "/"
                                                        : path_.substr(0, slash);
  if (const int d = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); d >= 0) {
    fsync(d);
    close(d);
  }
}

}  // namespace dropin
