// Files: loading safetensors beside a plain read of the same bytes, and GGUF's blocks.
//   bench_files FILE.safetensors [--rounds N]   gigabytes a second of load_safetensors, of
//                                               load_state().state_dict() and of read(2), in turn
//   bench_files --blocks [--rounds N]           values a second of dequantization, by type
// Limit of loading: what the file's cache gives to a copy. Limit of blocks: 4 bytes written a
// value.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "dropin/ops/ops.h"
#include "dropin/serialize/safetensors.h"
#include "dropin/serialize/state_file.h"
#include "serialize/gguf_blocks.h"

namespace {

using namespace dropin;

template <class F>
double seconds(F&& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// The file's bytes into fresh memory, as the loaders need it.
double plain_read(const std::string& path, double* bytes) {
  return seconds([&] {
    const int fd = open(path.c_str(), O_RDONLY);
    if (fd < 0) std::exit((std::perror(path.c_str()), 2));
    const off_t size = lseek(fd, 0, SEEK_END);
    const Tensor t = empty({static_cast<int64_t>(size)}, kUInt8);
    for (off_t at = 0; at < size;) {
      const ssize_t n = pread(fd, static_cast<char*>(t.data_ptr()) + at,
                              static_cast<std::size_t>(std::min<off_t>(size - at, 1 << 30)), at);
      if (n <= 0) std::exit((std::perror(path.c_str()), 2));
      at += n;
    }
    close(fd);
    *bytes = static_cast<double>(size);
  });
}

void loading(const std::string& path, int rounds) {
  for (int r = 0; r < rounds; ++r) {
    double bytes = 0;
    const double plain = plain_read(path, &bytes);
    const double eager = seconds([&] { load_safetensors(path); });
    const double lazy = seconds([&] { load_state(path).state_dict(); });
    std::printf(
        "read %.3f GB/s, load_safetensors %.3f GB/s, load_state %.3f GB/s, ratio %.2f %.2f\n",
        bytes / plain / 1e9, bytes / eager / 1e9, bytes / lazy / 1e9, plain / eager, plain / lazy);
  }
}

void blocks(int rounds) {
  for (const char* name : {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
                           "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"}) {
    const auto& t = *serialize_detail::find_gguf_type(name);
    const int64_t n = (int64_t{16} << 20) / t.block;
    std::vector<unsigned char> in(static_cast<std::size_t>(n * t.bytes));
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<unsigned char>(i * 37 & 63);
    std::vector<float> out(static_cast<std::size_t>(n * t.block));
    double best = 1e9;
    for (int r = 0; r < rounds; ++r)
      best = std::min(
          best, seconds([&] { serialize_detail::dequantize_gguf(t, in.data(), n, out.data()); }));
    std::printf("%s %.3f\n", name, static_cast<double>(out.size()) / best / 1e9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string file;
  int rounds = 5;
  bool of_blocks = false;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--blocks")
      of_blocks = true;
    else if (a == "--rounds" && i + 1 < argc)
      rounds = std::atoi(argv[++i]);
    else
      file = a;
  }
  if (file.empty() && !of_blocks) {
    std::fprintf(stderr, "usage: bench_files FILE.safetensors | --blocks [--rounds N]\n");
    return 2;
  }
  try {
    of_blocks ? blocks(rounds) : loading(file, rounds);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
