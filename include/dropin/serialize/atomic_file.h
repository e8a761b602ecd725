// AtomicFile: a file that appears whole or not at all.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace dropin {

/// Writes beside the target, then flushes, renames over it and flushes the folder. Until commit()
/// the old file stays as it was; without commit() the temporary is removed. A link is followed; an
/// old file's permissions are kept, a new one's follow the umask. FileError when something cannot
/// be written, or the target is a folder or a device.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  [[noreturn]] void give_up(const char* what);
  std::string path_, temporary_;
  int fd_ = -1;
};

/// For tests: the write that passes this many bytes fails as on a full disk; negative switches it
/// off.
void fail_writes_after(long long bytes);

}  // namespace dropin
