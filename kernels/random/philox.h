// Philox4x32-10 (Salmon et al. 2011) and how its words become numbers; shared by the CPU and CUDA
// kernels, so that a stream is the same on both.
#pragma once
#include <cstdint>

#include "kernels/hd.h"

namespace dropin::kernels::philox {

struct Block {
  std::uint32_t w[4];
};

/// The block of (seed, counter): seed is the key, counter the lower half of the counter; the upper
/// half is 0 (or `stream`).
DROPIN_HD inline Block block(std::uint64_t seed, std::uint64_t counter, std::uint64_t stream = 0) {
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  std::uint32_t c0 = static_cast<std::uint32_t>(counter),
                c1 = static_cast<std::uint32_t>(counter >> 32),
                c2 = static_cast<std::uint32_t>(stream),
                c3 = static_cast<std::uint32_t>(stream >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0, p1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// In [0, 1): the upper 24 bits.
DROPIN_HD inline float unit_float(std::uint32_t w) {
  return static_cast<float>(w >> 8) * 5.9604644775390625e-08f;
}
/// In [0, 1): the upper 53 bits of (high, low).
DROPIN_HD inline double unit_double(std::uint32_t high, std::uint32_t low) {
  return static_cast<double>(((static_cast<std::uint64_t>(high) << 32) | low) >> 11) *
         1.1102230246251565e-16;
}
/// In (0, 1]: for logarithms.
DROPIN_HD inline float open_float(std::uint32_t w) {
  return static_cast<float>((w >> 8) + 1u) * 5.9604644775390625e-08f;
}
DROPIN_HD inline double open_double(std::uint32_t high, std::uint32_t low) {
  return static_cast<double>((((static_cast<std::uint64_t>(high) << 32) | low) >> 11) + 1u) *
         1.1102230246251565e-16;
}
/// The upper 64 bits of word * n: in 0..n-1, as even as 64 bits allow.
DROPIN_HD inline std::uint64_t below(std::uint32_t high, std::uint32_t low, std::uint64_t n) {
  const std::uint64_t a = (static_cast<std::uint64_t>(high) * (n >> 32)),
                      b = static_cast<std::uint64_t>(high) * (n & 0xffffffffu),
                      c = static_cast<std::uint64_t>(low) * (n >> 32),
                      d = static_cast<std::uint64_t>(low) * (n & 0xffffffffu);
  const std::uint64_t middle = (d >> 32) + (b & 0xffffffffu) + (c & 0xffffffffu);
  return a + (b >> 32) + (c >> 32) + (middle >> 32);
}

}  // namespace dropin::kernels::philox
