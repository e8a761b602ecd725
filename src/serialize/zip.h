// Zip archives, read by their central directory.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "serialize/byte_source.h"

namespace dropin::serialize_detail {

struct ZipMember {
  std::string name;
  std::uint64_t packed = 0, size = 0;  ///< bytes in the archive, and of the content
  std::uint64_t header = 0;            ///< where its local header begins
  std::uint64_t limit = 0;             ///< where what follows it begins
  std::uint32_t crc = 0;
  bool deflated = false;
};

/// Members are stored or deflated; zip64 is read. FileError for what is no archive, is cut off,
/// encrypted, spread over disks, packed otherwise, for a name that is not UTF-8 or given twice,
/// and for members that lie over each other or reach into the directory.
class ZipArchive {
 public:
  explicit ZipArchive(std::shared_ptr<const ByteSource> file);
  ZipArchive(const ZipArchive&) = delete;
  ZipArchive& operator=(const ZipArchive&) = delete;
  const std::vector<ZipMember>& members() const { return members_; }
  /// Null if there is none of that name.
  const ZipMember* find(std::string_view name) const;
  /// The whole content, its checksum compared; FileError above `most` bytes.
  std::string read(const ZipMember& m, std::uint64_t most) const;
  /// The first bytes of the content, at most n.
  std::string begin_of(const ZipMember& m, std::uint64_t n) const;
  /// Where a stored member's content begins in the file.
  std::uint64_t content_of(const ZipMember& m) const;
  const std::shared_ptr<const ByteSource>& file() const { return file_; }

 private:
  [[noreturn]] void bad(std::initializer_list<Part> why) const;
  struct Directory {
    std::uint64_t entries = 0, size = 0, begin = 0;
  };
  Directory find_directory() const;
  std::uint64_t find_wide_directory(std::uint64_t end, Directory& d) const;
  ZipMember parse_entry(const std::string& directory, std::size_t& at) const;
  void check_overlaps(const Directory& d);
  std::string inflated(const ZipMember& m, std::uint64_t n) const;
  std::shared_ptr<const ByteSource> file_;
  std::vector<ZipMember> members_;
  std::unordered_map<std::string_view, std::size_t> by_name_;
};

}  // namespace dropin::serialize_detail
