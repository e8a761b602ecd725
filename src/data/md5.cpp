#include "data/md5.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace dropin::detail {
namespace {

struct Md5 {
  std::uint32_t state[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
  std::uint32_t sines[64];
  Md5() {
    for (int i = 0; i < 64; ++i)
      sines[i] = static_cast<std::uint32_t>(std::floor(std::abs(std::sin(i + 1.0)) * 4294967296.0));
  }
  void block(const unsigned char* p) {
    static constexpr int turns[4][4] = {
        {7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    std::uint32_t w[16];
    for (int i = 0; i < 16; ++i)
      w[i] = static_cast<std::uint32_t>(p[4 * i]) | static_cast<std::uint32_t>(p[4 * i + 1]) << 8 |
             static_cast<std::uint32_t>(p[4 * i + 2]) << 16 |
             static_cast<std::uint32_t>(p[4 * i + 3]) << 24;
    std::uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    for (int i = 0; i < 64; ++i) {
      std::uint32_t f;
      int k;
      switch (i / 16) {
        case 0:
          f = (b & c) | (~b & d);
          k = i;
          break;
        case 1:
          f = (d & b) | (~d & c);
          k = (5 * i + 1) % 16;
          break;
        case 2:
          f = b ^ c ^ d;
          k = (3 * i + 5) % 16;
          break;
        default:
          f = c ^ (b | ~d);
          k = 7 * i % 16;
      }
      const std::uint32_t next = b + std::rotl(a + f + sines[i] + w[k], turns[i / 16][i % 4]);
      a = d;
      d = c;
      c = b;
      b = next;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
  }
};

}  // namespace

std::string md5(const void* data, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  Md5 m;
  std::size_t at = 0;
  for (; at + 64 <= bytes; at += 64) m.block(p + at);
  unsigned char tail[128] = {};
  const std::size_t left = bytes - at, padded = left < 56 ? 64 : 128;
  if (left) std::memcpy(tail, p + at, left);
  tail[left] = 0x80;
  const std::uint64_t bits = static_cast<std::uint64_t>(bytes) * 8;
  for (std::size_t i = 0; i < 8; ++i)
    tail[padded - 8 + i] = static_cast<unsigned char>(bits >> (8 * i));
  for (std::size_t i = 0; i < padded; i += 64) m.block(tail + i);
  std::string s;
  for (std::uint32_t word : m.state)
    for (int i = 0; i < 4; ++i) {
      const unsigned byte = word >> (8 * i) & 255;
      s += "0123456789abcdef"[byte >> 4];
      s += "0123456789abcdef"[byte & 15];
    }
  return s;
}

}  // namespace dropin::detail
