#include "data/exif.h"

#include <cstdint>

#include "dropin/ops/shape.h"

namespace dropin::detail {

namespace {

constexpr std::string_view kExifName("Exif\0\0", 6);

// Numbers of a file; 0 past its end, so that a length from there ends every walk.
struct ExifBytes {
  std::string_view bytes;
  bool little = false;
  std::uint32_t number(std::size_t from, std::size_t size) const {
    if (from > bytes.size() || size > bytes.size() - from) return 0;
    std::uint32_t v = 0;
    for (std::size_t i = 0; i < size; ++i)
      v = v << 8 | static_cast<unsigned char>(bytes[from + (little ? size - 1 - i : i)]);
    return v;
  }
};

// Of a TIFF header and the list of tags that it points to.
int tiff_orientation(std::string_view tiff) {
  constexpr std::size_t kEntry = 12;
  ExifBytes t{tiff, tiff.substr(0, 2) == "II"};
  if ((!t.little && tiff.substr(0, 2) != "MM") || t.number(2, 2) != 42) return 1;
  const std::size_t list = t.number(4, 4), entries = t.number(list, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = list + 2 + i * kEntry;
    if (entry + kEntry > tiff.size()) break;
    if (t.number(entry, 2) != 0x112) continue;
    const bool wide = t.number(entry + 2, 2) == 4;  // a LONG, where others write a SHORT
    const std::uint32_t value = t.number(entry + 8, wide ? 4 : 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

int jpeg_orientation(std::string_view file) {
  const ExifBytes f{file};
  for (std::size_t at = 2; f.number(at, 1) == 0xFF;) {
    const std::uint32_t marker = f.number(at + 1, 1);
    if (marker == 0xFF) {  // filling
      ++at;
      continue;
    }
    if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) {  // of no length
      at += 2;
      continue;
    }
    const std::size_t length = f.number(at + 2, 2);
    if (marker == 0xDA || marker == 0xD9 || length < 2) break;
    const std::string_view body = file.substr(at + 4, length - 2);
    if (marker == 0xE1 && body.substr(0, kExifName.size()) == kExifName)
      return tiff_orientation(body.substr(kExifName.size()));
    at += 2 + length;
  }
  return 1;
}

int png_orientation(std::string_view file) {
  const ExifBytes f{file};
  for (std::size_t at = 8; at + 8 <= file.size();) {
    const std::size_t length = f.number(at, 4);
    const std::string_view type = file.substr(at + 4, 4);
    if (type == "eXIf") return tiff_orientation(file.substr(at + 8, length));
    if (type == "IDAT" || type == "IEND") break;
    at += 12 + length;
  }
  return 1;
}

}  // namespace

int exif_orientation(std::string_view file) {
  return file.substr(0, 2) == "\xFF\xD8" ? jpeg_orientation(file) : png_orientation(file);
}

Tensor upright(const Tensor& image, int orientation) {
  Tensor x = orientation >= 5 ? image.transpose(-2, -1) : image;
  if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7)
    x = flip(x, {-1});
  if (orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8)
    x = flip(x, {-2});
  return x.contiguous();
}

}  // namespace dropin::detail
