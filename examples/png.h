// Writes a picture as PNG: 8-bit RGB, no filter, zlib's compression.
#pragma once
#include <zlib.h>

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

struct Color {
  std::uint8_t r, g, b;
};

/// A picture of colors, row by row.
struct Picture {
  int width, height;
  std::vector<Color> pixels;
  Picture(int w, int h, Color c = {255, 255, 255})
      : width(w), height(h), pixels(static_cast<std::size_t>(w) * static_cast<std::size_t>(h), c) {}
  Color& at(int x, int y) {
    return pixels[static_cast<std::size_t>(y) * static_cast<std::size_t>(width) +
                  static_cast<std::size_t>(x)];
  }
  bool contains(int x, int y) const { return x >= 0 && y >= 0 && x < width && y < height; }
  /// Mixes c into a pixel: share 0 leaves it, 1 replaces it. Outside the picture nothing happens.
  void blend(int x, int y, Color c, double share) {
    if (!contains(x, y)) return;
    Color& p = at(x, y);
    auto mix = [share](std::uint8_t a, std::uint8_t b) {
      return static_cast<std::uint8_t>(a + (b - a) * share + 0.5);
    };
    p = {mix(p.r, c.r), mix(p.g, c.g), mix(p.b, c.b)};
  }
  /// The outline of a rectangle, `thick` pixels inwards; corners included.
  void outline(int x1, int y1, int x2, int y2, Color c, int thick, double share = 1) {
    for (int y = y1; y <= y2; ++y)
      for (int x = x1; x <= x2; ++x)
        if (x < x1 + thick || x > x2 - thick || y < y1 + thick || y > y2 - thick)
          blend(x, y, c, share);
  }
};

/// std::runtime_error when the file can not be written.
inline void write_png(const std::string& path, const Picture& p) {
  std::vector<std::uint8_t> rows;
  for (int y = 0; y < p.height; ++y) {
    rows.push_back(0);  // filter: none
    for (int x = 0; x < p.width; ++x) {
      const Color& c = p.pixels[static_cast<std::size_t>(y) * static_cast<std::size_t>(p.width) +
                                static_cast<std::size_t>(x)];
      rows.insert(rows.end(), {c.r, c.g, c.b});
    }
  }
  uLongf size = compressBound(static_cast<uLong>(rows.size()));
  std::vector<std::uint8_t> packed(size);
  if (compress2(packed.data(), &size, rows.data(), static_cast<uLong>(rows.size()), 9) != Z_OK)
    throw std::runtime_error("png: compression failed");
  packed.resize(size);

  std::vector<std::uint8_t> file{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  auto number = [](std::vector<std::uint8_t>& to, std::uint32_t v) {
    to.insert(to.end(), {std::uint8_t(v >> 24), std::uint8_t(v >> 16), std::uint8_t(v >> 8),
                         std::uint8_t(v)});
  };
  auto chunk = [&](const char* type, const std::vector<std::uint8_t>& data) {
    number(file, static_cast<std::uint32_t>(data.size()));
    const std::size_t from = file.size();
    file.insert(file.end(), type, type + 4);
    file.insert(file.end(), data.begin(), data.end());
    number(file, static_cast<std::uint32_t>(
                     crc32(0, file.data() + from, static_cast<uInt>(file.size() - from))));
  };
  std::vector<std::uint8_t> header;
  number(header, static_cast<std::uint32_t>(p.width));
  number(header, static_cast<std::uint32_t>(p.height));
  header.insert(header.end(),
                {8, 2, 0, 0, 0});  // bits, RGB, deflate, adaptive filters, not interlaced
  chunk("IHDR", header);
  chunk("IDAT", packed);
  chunk("IEND", {});

  std::FILE* f = std::fopen(path.c_str(), "wb");
  if (!f) throw std::runtime_error(path + ": cannot be written");
  const bool written = std::fwrite(file.data(), 1, file.size(), f) == file.size();
  if (std::fclose(f) != 0 || !written) throw std::runtime_error(path + ": not written in full");
}

}  // namespace example
