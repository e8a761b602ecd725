// A picture that is painted pixel by pixel.
#pragma once
#include <cstdint>
#include <vector>

#include "dropin/tensor/tensor.h"

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

/// uint8 [3, height, width].
inline dropin::Tensor as_tensor(const Picture& p) {
  dropin::Tensor t = dropin::empty({3, p.height, p.width}, dropin::kUInt8);
  auto* to = t.data<std::uint8_t>();
  const std::size_t area = p.pixels.size();
  for (std::size_t i = 0; i < area; ++i) {
    to[i] = p.pixels[i].r;
    to[area + i] = p.pixels[i].g;
    to[2 * area + i] = p.pixels[i].b;
  }
  return t;
}

}  // namespace example
