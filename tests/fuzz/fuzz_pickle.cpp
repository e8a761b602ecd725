// A pickle from anywhere, as the data.pkl of an archive whose checksum fits and whose storages "0"
// and "1" have 64 bytes.
#include "dropin/serialize/state_file.h"
#include "fuzz.h"

namespace {

template <class T>
std::string little(T v) {
  return {reinterpret_cast<const char*>(&v), sizeof v};
}

std::string stored_zip(const std::pair<std::string, std::string> (&members)[3]) {
  using U16 = std::uint16_t;
  using U32 = std::uint32_t;
  std::string all, directory;
  for (const auto& [name, content] : members) {
    U32 crc = ~0u;
    for (const char c : content) {
      crc ^= static_cast<unsigned char>(c);
      for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    const auto size = static_cast<U32>(content.size());
    const std::string common = std::string("\x14\0\0\0\0\0\0\0\0\0", 10) + little(~crc) +
                               little(size) + little(size) + little(static_cast<U32>(name.size()));
    directory += std::string("PK\1\2\x14\0", 6) + common + std::string(10, '\0') +
                 little(static_cast<U32>(all.size())) + name;
    all += "PK\3\4" + common + name + content;
  }
  const auto at = static_cast<U32>(all.size()), bytes = static_cast<U32>(directory.size());
  return all + directory + std::string("PK\5\6\0\0\0\0", 8) + little(U16{3}) + little(U16{3}) +
         little(bytes) + little(at) + little(U16{0});
}

const std::string& archive_of(std::string_view pickle) {
  static const std::string storage(64, '\1');
  const std::string archive = stored_zip(
      {{"a/data.pkl", std::string(pickle)}, {"a/data/0", storage}, {"a/data/1", storage}});
  const std::string& path = dropin::fuzz::scratch_file(".pt");
  dropin::fuzz::write_file(path, reinterpret_cast<const std::uint8_t*>(archive.data()),
                           archive.size());
  return path;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  static const bool sound = load_state(archive_of("\x80\2K\7.")).metadata.size() == 1;
  fuzz::expect(sound, "the archive around the pickle is read");
  try {
    const StateFile f = load_state(archive_of(fuzz::text(data, size)));
    fuzz::expect(f.metadata.is_object(), "metadata are an object");
    f.metadata.dump();
    for (const StoredTensor& t : f.tensors) {
      if (t.bytes > 1 << 16) continue;
      const Tensor x = t.read();  // of ones: no bool of 2, no U64 beyond int64
      fuzz::expect(x.sizes() == t.shape && x.dtype() == t.dtype && x.is_contiguous(),
                   "a tensor is read as it was listed");
      fuzz::expect(t.raw().size() == t.bytes, "the stored form has the bytes that were listed");
    }
  } catch (const Error&) {
  }
  return 0;
}
