// One fuzz target: bytes in, no answer; it must return, whatever they are. A dropin::Error is an
// answer, anything else is a fault. Under libFuzzer (cmake -DDROPIN_BUILD_FUZZ=ON, clang) the
// engine calls it; in the test suite replay.cpp runs it over the kept corpus.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "dropin/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace dropin::fuzz {

/// A promise that did not hold: stops with its words, as the engine wants it.
[[noreturn]] inline void broken(std::string_view what) {
  std::fprintf(stderr, "broken: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}
inline void expect(bool holds, std::string_view what) {
  if (!holds) broken(what);
}
inline std::string_view text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// A file of this process in memory, for readers that take a path; gone with the process.
inline const std::string& scratch_file(const char* ending) {
  static const std::string path = [&] {
    std::string p = "/dev/shm/dropin-fuzz-XXXXXX";
    const int fd = mkstemp(p.data());
    if (fd < 0) broken("no scratch file");
    std::remove(p.c_str());
    static std::string kept = p + ending;
    std::atexit([] { std::remove(kept.c_str()); });
    return kept;
  }();
  return path;
}
inline void write_file(const std::string& path, const std::uint8_t* data, std::size_t size) {
  std::FILE* f = std::fopen(path.c_str(), "wb");
  if (!f || (size && std::fwrite(data, 1, size, f) != size) || std::fclose(f) != 0)
    broken("scratch file not written");
}

}  // namespace dropin::fuzz
