// Zip archives and pickles in memory, byte by byte.
#pragma once
#include <cstring>
#include <vector>

#include "dropin/serialize/state_file.h"
#include "files/temporary.h"

namespace dropin::testing {

template <class T>
std::string little(T v) {
  return {reinterpret_cast<const char*>(&v), sizeof v};
}
template <class T>
std::string bytes_of(const std::vector<T>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T)};
}
inline std::string from_hex(std::string_view digits) {
  std::string s;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    s += static_cast<char>(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16));
  return s;
}
inline std::string patched(std::string bytes, std::size_t at, const std::string& with) {
  return bytes.replace(at, with.size(), with);
}

/// Opens the bytes as a file; only what was opened keeps it.
inline StateFile load(const std::string& bytes) {
  static const TemporaryFolder dir;
  // A file of its own each time: to write one anew waits for the disk.
  std::filesystem::remove(dir / "file");
  write(dir / "file", bytes);
  return load_state(dir / "file");
}
/// Opens the bytes and reads every tensor.
inline void load_all(const std::string& bytes) {
  const StateFile f = load(bytes);
  for (const StoredTensor& t : f.tensors) t.read();
}

inline std::uint32_t crc_of(const std::string& s) {
  std::uint32_t crc = ~0u;
  for (const char c : s) {
    crc ^= static_cast<unsigned char>(c);
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return ~crc;
}
/// Deflate's form of bytes that it does not pack (at most 65535).
inline std::string deflate_stored(const std::string& s) {
  const auto n = static_cast<std::uint16_t>(s.size());
  return "\1" + little(n) + little(static_cast<std::uint16_t>(~n)) + s;
}

struct ZipEntry {
  std::string name, content;
  std::string packed = {};       ///< deflated, when it is not empty
  bool descriptor = false;       ///< sizes only after the content, and in the directory
  bool wide = false;             ///< sizes of 64 bits
  std::string local_extra = {};  ///< of the local header alone
};
struct Zip {
  std::string bytes;
  std::vector<std::size_t> local, entry;  ///< where the headers lie
  std::size_t directory = 0, end = 0;
};
/// An archive; `wide` adds the end record of zip64 and makes the plain one refer to it.
inline Zip zip(const std::vector<ZipEntry>& entries, bool wide = false,
               const std::string& comment = "") {
  using U16 = std::uint16_t;
  using U32 = std::uint32_t;
  using U64 = std::uint64_t;
  Zip z;
  std::string directory;
  for (const ZipEntry& e : entries) {
    const bool deflated = !e.packed.empty();
    const std::string& data = deflated ? e.packed : e.content;
    const U32 crc = crc_of(e.content);
    const auto packed = static_cast<U32>(data.size()), size = static_cast<U32>(e.content.size());
    const std::string start = little(U16{20}) + little(U16(e.descriptor ? 8 : 0)) +
                              little(U16(deflated ? 8 : 0)) + little(U32{0});
    const std::string sizes = little(crc) + little(packed) + little(size);
    z.local.push_back(z.bytes.size());
    z.entry.push_back(directory.size());
    std::string extra;
    if (e.wide)
      extra = little(U16{1}) + little(U16{24}) + little(U64{size}) + little(U64{packed}) +
              little(U64{z.bytes.size()});
    directory += "PK\1\2" + little(U16{20}) + start +
                 (e.wide ? little(crc) + std::string(8, '\xff') : sizes) +
                 little(static_cast<U16>(e.name.size())) + little(static_cast<U16>(extra.size())) +
                 std::string(10, '\0') +
                 (e.wide ? std::string(4, '\xff') : little(static_cast<U32>(z.bytes.size()))) +
                 e.name + extra;
    z.bytes += "PK\3\4" + start + (e.descriptor ? std::string(12, '\0') : sizes) +
               little(static_cast<U16>(e.name.size())) +
               little(static_cast<U16>(e.local_extra.size())) + e.name + e.local_extra + data;
    if (e.descriptor) z.bytes += "PK\7\x8" + sizes;
  }
  z.directory = z.bytes.size();
  for (std::size_t& at : z.entry) at += z.directory;
  z.bytes += directory;
  const U64 count = entries.size(), wide_at = z.bytes.size();
  if (wide)
    z.bytes += "PK\6\6" + little(U64{44}) + little(U32{0x2d002d}) + std::string(8, '\0') +
               little(count) + little(count) + little(U64{directory.size()}) +
               little(U64{z.directory}) + "PK\6\7" + little(U32{0}) + little(wide_at) +
               little(U32{1});
  z.end = z.bytes.size();
  z.bytes += "PK\5\6" + std::string(4, '\0') +
             (wide ? std::string(12, '\xff')
                   : little(static_cast<U16>(count)) + little(static_cast<U16>(count)) +
                         little(static_cast<U32>(directory.size())) +
                         little(static_cast<U32>(z.directory))) +
             little(static_cast<U16>(comment.size())) + comment;
  return z;
}

/// An array of NumPy's format: dtype as it names it, sizes as in "2, 3".
inline std::string npy_bytes(const std::string& descr, const std::string& shape,
                             const std::string& data, bool fortran = false) {
  const std::string header =
      (descr[0] == '[' ? "{'descr': " + descr : "{'descr': '" + descr + "'") +
      ", 'fortran_order': " + (fortran ? "True" : "False") + ", 'shape': (" + shape + "), }\n";
  return std::string("\x93NUMPY\1\0", 8) + little(static_cast<std::uint16_t>(header.size())) +
         header + data;
}

// Pickles of protocol 2: each function gives the opcodes that leave one value.
namespace pickled {

inline std::string text(const std::string& s) {
  return "X" + little(static_cast<std::uint32_t>(s.size())) + s;
}
inline std::string number(std::int64_t v) {
  if (v >= 0 && v < 256) return std::string("K") + static_cast<char>(v);
  if (v == static_cast<std::int32_t>(v)) return "J" + little(static_cast<std::int32_t>(v));
  return "\x8a\x8" + little(v);
}
inline std::string together(const std::vector<std::string>& parts) {
  std::string s;
  for (const std::string& p : parts) s += p;
  return s;
}
inline std::string tuple(const std::vector<std::string>& items) {
  return "(" + together(items) + "t";
}
inline std::string list(const std::vector<std::string>& items) {
  return "](" + together(items) + "e";
}
/// Key, value, key, value, ...
inline std::string dict(const std::vector<std::string>& entries) {
  return "}(" + together(entries) + "u";
}
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string call(const std::string& callee, const std::vector<std::string>& arguments) {
  return callee + tuple(arguments) + "R";
}
inline std::string numbers(const std::vector<std::int64_t>& v) {
  std::string s = "(";
  for (const std::int64_t n : v) s += number(n);
  return s + "t";
}
inline std::string storage(const std::string& type, const std::string& key, std::int64_t count) {
  const std::string module = type == "UntypedStorage" ? "torch.storage" : "torch";
  return tuple({text("storage"), global(module, type), text(key), text("cpu"), number(count)}) +
         "Q";
}
inline std::string ordered_dict() { return call(global("collections", "OrderedDict"), {}); }
inline std::string tensor(const std::string& stored, std::int64_t offset,
                          const std::vector<std::int64_t>& sizes,
                          const std::vector<std::int64_t>& strides) {
  return call(global("torch._utils", "_rebuild_tensor_v2"),
              {stored, number(offset), numbers(sizes), numbers(strides), "\x89", ordered_dict()});
}
inline std::string tensor_v3(const std::string& stored, std::int64_t offset,
                             const std::vector<std::int64_t>& sizes,
                             const std::vector<std::int64_t>& strides, const std::string& dtype) {
  return call(global("torch._utils", "_rebuild_tensor_v3"),
              {stored, number(offset), numbers(sizes), numbers(strides), "\x89", ordered_dict(),
               global("torch", dtype)});
}
inline std::string whole(const std::string& value) { return "\x80\2" + value + "."; }

}  // namespace pickled

/// What torch.save writes of a pickle and its storages "0", "1", ...: sizes after the content,
/// storages at multiples of 64.
inline Zip torch_archive(const std::string& pickle, const std::vector<std::string>& storages = {},
                         const std::string& order = "little", const std::string& stem = "archive") {
  std::vector<ZipEntry> entries = {{stem + "/data.pkl", pickle, "", true}};
  if (!order.empty()) entries.push_back({stem + "/byteorder", order, "", true});
  for (std::size_t i = 0; i < storages.size(); ++i)
    entries.push_back({stem + "/data/" + std::to_string(i), storages[i], "", true, false,
                       "FB" + little(static_cast<std::uint16_t>(12)) + std::string(12, 'Z')});
  entries.push_back({stem + "/version", "3\n", "", true});
  return zip(entries, true);
}

}  // namespace dropin::testing
