// Runs a target over files and folders given on the command line, and over every prefix and
// single-byte change of short ones.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "fuzz.h"

namespace {

using Bytes = std::vector<std::uint8_t>;
void one(const Bytes& b) {
  const Bytes exact(b);  // of exactly its size, so that a sanitizer sees the first byte behind it
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path start = std::filesystem::current_path();
  std::size_t files = 0, runs = 0;
  for (int i = 1; i < argc; ++i) {
    std::vector<std::filesystem::path> paths;
    const std::filesystem::path given = start / argv[i];  // a target may go to a folder of its own
    if (std::filesystem::is_directory(given))
      for (const auto& e : std::filesystem::recursive_directory_iterator(given))
        paths.push_back(e.path());
    else
      paths.push_back(given);
    for (const auto& p : paths) {
      if (!std::filesystem::is_regular_file(p)) continue;
      std::ifstream in(p, std::ios::binary);
      const Bytes b{std::istreambuf_iterator<char>(in), {}};
      one(b);
      ++files, ++runs;
      const std::size_t stride = b.size() / 64 + 1;
      for (std::size_t k = 0; k < b.size(); k += stride) {
        one(Bytes(b.begin(), b.begin() + static_cast<std::ptrdiff_t>(k)));
        Bytes changed = b;
        changed[k] ^= static_cast<std::uint8_t>(1u << (k % 8));
        one(changed);
        changed[k] = 0xff;
        one(changed);
        runs += 3;
      }
    }
  }
  std::printf("%zu files, %zu inputs\n", files, runs);
  return files ? 0 : 1;
}
