// Codes of 1 to 8 bits as one little-endian bit stream: eight codes are `B` bytes.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace dropin::kernels {

static_assert(std::endian::native == std::endian::little);
/// The low `B` bits of the eight bytes of w side by side, and back: neighbours are joined (parted)
/// three times.
template <int B>
inline std::uint64_t join_codes(std::uint64_t w) {
  constexpr std::uint64_t bytes = 0x0001000100010001u, words = 0x0000000100000001u,
                          one = (1u << B) - 1, two = (1u << 2 * B) - 1;
  w = (w & one * bytes) | (w >> (8 - B) & (one << B) * bytes);
  w = (w & two * words) | (w >> (16 - 2 * B) & (two << 2 * B) * words);
  return (w & 0xffffffffu) | (w >> 32 << 4 * B);
}
template <int B>
inline std::uint64_t part_codes(std::uint64_t w) {
  constexpr std::uint64_t bytes = 0x0001000100010001u, words = 0x0000000100000001u,
                          one = (1u << B) - 1, two = (1u << 2 * B) - 1,
                          four = (std::uint64_t{1} << 4 * B) - 1;
  w = (w & four) | (w >> 4 * B << 32);
  w = (w & two * words) | (w & (two << 2 * B) * words) << (16 - 2 * B);
  return (w & one * bytes) | (w & (one << B) * bytes) << (8 - B);
}
template <int B>
inline void pack_codes(const std::uint8_t* codes, int64_t n, std::uint8_t* packed) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8, packed += B) {
    std::uint64_t w;
    std::memcpy(&w, codes + i, 8);
    w = join_codes<B>(w);
    std::memcpy(packed, &w, B);
  }
  if (i == n) return;
  std::uint64_t w = 0;
  std::memcpy(&w, codes + i, static_cast<std::size_t>(n - i));
  w = join_codes<B>(w);
  std::memcpy(packed, &w, B);
}
/// Writes whole groups: `codes` has room for n rounded up to 8.
template <int B>
inline void unpack_codes(const std::uint8_t* packed, int64_t n, std::uint8_t* codes) {
  for (int64_t i = 0; i < n; i += 8, packed += B) {
    std::uint64_t w = 0;
    std::memcpy(&w, packed, B);
    w = part_codes<B>(w);
    std::memcpy(codes + i, &w, 8);
  }
}

}  // namespace dropin::kernels
