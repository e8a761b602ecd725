#include "serialize/zip.h"

#include <zlib.h>

#include <algorithm>

#include "dropin/core/json.h"

namespace dropin::serialize_detail {

namespace {

constexpr std::uint64_t kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20, kEntryBytes = 46,
                        kLocalBytes = 30, kMaxComment = 65535;
constexpr std::uint32_t kEndMark = 0x06054b50, kEnd64Mark = 0x06064b50, kLocator64Mark = 0x07064b50,
                        kEntryMark = 0x02014b50, kLocalMark = 0x04034b50;
constexpr std::uint64_t kMostExpansion = 1032;  ///< of deflate

template <class T>
T little(const char* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

}  // namespace

void ZipArchive::bad(std::initializer_list<Part> why) const {
  fail<FileError>({file_->label(), ": ", join(why)});
}

/// The zip64 record whose locator ends at byte `end`; returns where the record begins.
std::uint64_t ZipArchive::find_wide_directory(std::uint64_t end, Directory& d) const {
  char locator[kLocator64Bytes], record[kEnd64Bytes];
  if (end < kLocator64Bytes) bad({"its zip64 directory has no locator"});
  end -= kLocator64Bytes;
  file_->read(end, locator, sizeof locator);
  const auto at = little<std::uint64_t>(locator + 8);
  if (little<std::uint32_t>(locator) != kLocator64Mark || end < kEnd64Bytes ||
      at > end - kEnd64Bytes)
    bad({"its zip64 directory is not where its locator says"});
  file_->read(at, record, sizeof record);
  if (little<std::uint32_t>(record) != kEnd64Mark)
    bad({"its zip64 directory is not where its locator says"});
  if (little<std::uint32_t>(record + 16) != 0 || little<std::uint32_t>(record + 20) != 0)
    bad({"is a part of an archive on several disks"});
  d.entries = little<std::uint64_t>(record + 32);
  d.size = little<std::uint64_t>(record + 40);
  d.begin = little<std::uint64_t>(record + 48);
  return at;
}

ZipArchive::Directory ZipArchive::find_directory() const {
  const std::uint64_t size = file_->size();
  if (size < kEndBytes) bad({size, " bytes are no zip archive"});
  std::string tail(std::min(size, kEndBytes + kMaxComment), '\0');
  const std::uint64_t tail_at = size - tail.size();
  file_->read(tail_at, tail.data(), tail.size());
  std::size_t at = tail.size() - kEndBytes + 1;
  do {
    if (at == 0) bad({"no end of a zip archive's directory is found (truncated?)"});
    --at;
  } while (little<std::uint32_t>(&tail[at]) != kEndMark ||
           little<std::uint16_t>(&tail[at + 20]) != tail.size() - at - kEndBytes);
  const char* e = &tail[at];
  Directory d;
  d.entries = little<std::uint16_t>(e + 10);
  d.size = little<std::uint32_t>(e + 12);
  d.begin = little<std::uint32_t>(e + 16);
  std::uint64_t end = tail_at + at;
  const bool wide = d.entries == 0xffff || d.size == 0xffffffff || d.begin == 0xffffffff;
  if (wide)
    end = find_wide_directory(end, d);
  else if (little<std::uint16_t>(e + 4) != 0 || little<std::uint16_t>(e + 6) != 0)
    bad({"is a part of an archive on several disks"});
  if (d.begin > end || d.size > end - d.begin)
    bad({"its directory of ", d.size, " bytes at ", d.begin, " does not lie before byte ", end});
  if (d.entries > d.size / kEntryBytes)
    bad({"claims ", d.entries, " members in a directory of ", d.size, " bytes"});
  return d;
}

ZipMember ZipArchive::parse_entry(const std::string& directory, std::size_t& at) const {
  if (directory.size() - at < kEntryBytes) bad({"its directory ends within an entry"});
  const char* e = &directory[at];
  if (little<std::uint32_t>(e) != kEntryMark)
    bad({"its directory has no entry at byte ", static_cast<int64_t>(at)});
  const std::size_t name = little<std::uint16_t>(e + 28), extra = little<std::uint16_t>(e + 30),
                    comment = little<std::uint16_t>(e + 32);
  if (directory.size() - at - kEntryBytes < name + extra + comment)
    bad({"its directory ends within an entry"});
  ZipMember m;
  m.name.assign(e + kEntryBytes, name);
  if (!is_utf8(m.name)) bad({"a member's name is not UTF-8"});
  const auto flags = little<std::uint16_t>(e + 8), method = little<std::uint16_t>(e + 10);
  if (flags & 1) bad({"member \"", m.name, "\" is encrypted"});
  if (method != 0 && method != 8)
    bad({"member \"", m.name, "\" is packed by method ", static_cast<int>(method),
         ", expected 0 (stored) or 8 (deflate)"});
  m.deflated = method == 8;
  m.crc = little<std::uint32_t>(e + 16);
  m.packed = little<std::uint32_t>(e + 20);
  m.size = little<std::uint32_t>(e + 24);
  m.header = little<std::uint32_t>(e + 42);
  const char *x = e + kEntryBytes + name, *x_end = x + extra;
  while (x_end - x >= 4) {
    const auto id = little<std::uint16_t>(x), bytes = little<std::uint16_t>(x + 2);
    if (bytes > x_end - x - 4) bad({"member \"", m.name, "\": its extra field is cut off"});
    const char *value = x + 4, *value_end = value + bytes;
    x = value_end;
    if (id != 1) continue;
    for (std::uint64_t* wide : {&m.size, &m.packed, &m.header})
      if (*wide == 0xffffffff) {
        if (value_end - value < 8) bad({"member \"", m.name, "\": its zip64 sizes are cut off"});
        *wide = little<std::uint64_t>(value);
        value += 8;
      }
  }
  if (!m.deflated && m.packed != m.size)
    bad({"member \"", m.name, "\" is stored as ", m.packed, " bytes and has ", m.size});
  if (m.deflated && m.size / kMostExpansion > m.packed)
    bad({"member \"", m.name, "\" claims ", m.size, " bytes from ", m.packed,
         ", more than deflate can pack"});
  at += kEntryBytes + name + extra + comment;
  return m;
}

void ZipArchive::check_overlaps(const Directory& d) {
  std::vector<ZipMember*> order;
  for (ZipMember& m : members_) order.push_back(&m);
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->header < b->header; });
  for (std::size_t i = 0; i < order.size(); ++i) {
    ZipMember& m = *order[i];
    m.limit = i + 1 < order.size() ? order[i + 1]->header : d.begin;
    if (m.header > m.limit || m.limit - m.header < kLocalBytes ||
        m.packed > m.limit - m.header - kLocalBytes)
      bad({"member \"", m.name, "\" of ", m.packed, " bytes at ", m.header,
           " reaches into what follows at ", m.limit});
  }
}

ZipArchive::ZipArchive(std::shared_ptr<const ByteSource> file) : file_(std::move(file)) {
  const Directory d = find_directory();
  std::string directory(d.size, '\0');
  file_->read(d.begin, directory.data(), directory.size());
  members_.reserve(d.entries);
  std::size_t at = 0;
  for (std::uint64_t i = 0; i < d.entries; ++i) members_.push_back(parse_entry(directory, at));
  if (at != directory.size())
    bad({"its directory has ", d.size, " bytes, its ", d.entries, " members fill ",
         static_cast<int64_t>(at)});
  for (std::size_t i = 0; i < members_.size(); ++i)
    if (!by_name_.emplace(members_[i].name, i).second)
      bad({"member \"", members_[i].name, "\" is there twice"});
  check_overlaps(d);
}

const ZipMember* ZipArchive::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &members_[at->second];
}

std::uint64_t ZipArchive::content_of(const ZipMember& m) const {
  // The local header has its own name and extra field, whose lengths may differ from the
  // directory's.
  char local[kLocalBytes];
  file_->read(m.header, local, sizeof local);
  if (little<std::uint32_t>(local) != kLocalMark)
    bad({"member \"", m.name, "\" has no header at byte ", m.header});
  const std::uint64_t begin = m.header + kLocalBytes + little<std::uint16_t>(local + 26) +
                              little<std::uint16_t>(local + 28);
  if (begin > m.limit || m.packed > m.limit - begin)
    bad({"member \"", m.name, "\" of ", m.packed, " bytes at ", begin,
         " reaches into what follows at ", m.limit});
  return begin;
}

/// The first n bytes of a deflated member; all of them must be there, and nothing after the last.
std::string ZipArchive::inflated(const ZipMember& m, std::uint64_t n) const {
  const std::uint64_t begin = content_of(m);
  std::string out(n, '\0'), piece(std::min<std::uint64_t>(m.packed, 1 << 20), '\0');
  z_stream z{};
  if (inflateInit2(&z, -MAX_WBITS) != Z_OK) bad({"zlib cannot be started"});
  const std::unique_ptr<z_stream, int (*)(z_stream*)> freed(&z, inflateEnd);
  std::uint64_t in = 0, done = 0;
  int status = Z_OK;
  while (status == Z_OK && (done < n || n == m.size)) {
    if (z.avail_in == 0 && in < m.packed) {
      const std::uint64_t some = std::min<std::uint64_t>(piece.size(), m.packed - in);
      file_->read(begin + in, piece.data(), some);
      in += some;
      z.next_in = reinterpret_cast<Bytef*>(piece.data());
      z.avail_in = static_cast<uInt>(some);
    }
    Bytef beyond;
    const std::uint64_t room = std::min<std::uint64_t>(n - done, 1u << 30);
    z.next_out = room ? reinterpret_cast<Bytef*>(out.data() + done) : &beyond;
    z.avail_out = room ? static_cast<uInt>(room) : 1;
    const uInt had = z.avail_out;
    status = inflate(&z, Z_NO_FLUSH);
    if (room == 0 && z.avail_out == 0) status = Z_DATA_ERROR;  // more than the directory says
    done += room ? had - z.avail_out : 0;
  }
  const bool whole = status == Z_STREAM_END && z.avail_in == 0 && in == m.packed;
  if (done != n || (n == m.size && !whole))
    bad({"member \"", m.name, "\": its deflated data do not give ", m.size, " bytes"});
  return out;
}

std::string ZipArchive::begin_of(const ZipMember& m, std::uint64_t n) const {
  n = std::min(n, m.size);
  if (m.deflated) return inflated(m, n);
  std::string r(n, '\0');
  file_->read(content_of(m), r.data(), n);
  return r;
}

std::string ZipArchive::read(const ZipMember& m, std::uint64_t most) const {
  if (m.size > most)
    bad({"member \"", m.name, "\" has ", m.size, " bytes, at most ", most, " are allowed"});
  const std::string r = begin_of(m, m.size);
  uLong crc = crc32(0, nullptr, 0);
  for (std::size_t at = 0; at < r.size(); at += 1u << 30)
    crc = crc32(crc, reinterpret_cast<const Bytef*>(r.data() + at),
                static_cast<uInt>(std::min<std::size_t>(1u << 30, r.size() - at)));
  if (crc != m.crc) bad({"member \"", m.name, "\": its checksum does not match"});
  return r;
}

}  // namespace dropin::serialize_detail
