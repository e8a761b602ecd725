#include "dropin/data/image.h"

#include <memory>
#include <vector>

#include "data/exif.h"
#include "data/image_format.h"
#include "dropin/serialize/atomic_file.h"
#include "dropin/serialize/safetensors.h"

namespace dropin {

namespace {

using detail::ImageReader;
using detail::Pixels;

constexpr int64_t kMostValues = int64_t{1} << 29;
constexpr int64_t kDeflateMost = 1032;  // bytes that one byte of a PNG can become, of 8 pixels
constexpr int64_t kBlockPixels = 64;    // of a JPEG's block, which takes a bit at least

const std::uint8_t* bytes_of(std::string_view s) {
  return reinterpret_cast<const std::uint8_t*>(s.data());
}
bool starts(std::string_view s, std::string_view with) { return s.substr(0, with.size()) == with; }

int channels_of(ImageReadMode mode, int in_file) {
  switch (mode) {
    case ImageReadMode::UNCHANGED:
      return in_file;
    case ImageReadMode::GRAY:
      return 1;
    case ImageReadMode::GRAY_ALPHA:
      return 2;
    case ImageReadMode::RGB:
      return 3;
    case ImageReadMode::RGB_ALPHA:
      return 4;
  }
  return in_file;
}

// One pixel in other channels; gray rounded down, as torchvision's of a PNG.
void convert(const std::uint8_t* from, int channels, int wanted, std::uint8_t (&to)[4]) {
  const bool color = channels >= 3;
  const std::uint8_t alpha = channels % 2 == 0 ? from[channels - 1] : 255;
  if (wanted >= 3) {
    for (int c = 0; c < 3; ++c) to[c] = from[color ? c : 0];
    to[3] = alpha;
  } else {
    to[0] =
        color
            ? static_cast<std::uint8_t>((19589 * from[0] + 38469 * from[1] + 7478 * from[2]) >> 16)
            : from[0];
    to[1] = alpha;
  }
}

Tensor planes(const std::vector<std::uint8_t>& rows, const Pixels& p, int wanted) {
  const int64_t area = p.width * p.height;
  Tensor image = empty({wanted, p.height, p.width}, kUInt8);
  auto* to = image.data<std::uint8_t>();
  for (int64_t i = 0; i < area; ++i) {
    const std::uint8_t* pixel = rows.data() + i * p.channels;
    std::uint8_t values[4];
    if (wanted == p.channels) {
      for (int c = 0; c < wanted; ++c) values[c] = pixel[c];
    } else {
      convert(pixel, p.channels, wanted, values);
    }
    for (int c = 0; c < wanted; ++c) to[c * area + i] = values[c];
  }
  return image;
}

std::vector<std::uint8_t> interleaved(const Tensor& image, const Pixels& p) {
  const Tensor planes = image.to(kCPU).contiguous();
  const int64_t area = p.width * p.height;
  std::vector<std::uint8_t> rows(static_cast<std::size_t>(area * p.channels));
  for (int64_t i = 0; i < area; ++i)
    for (int c = 0; c < p.channels; ++c)
      rows[static_cast<std::size_t>(i * p.channels + c)] =
          planes.data<std::uint8_t>()[c * area + i];
  return rows;
}

Pixels to_be_written(const char* who, const Tensor& image, bool alpha) {
  DROPIN_CHECK(image.dtype() == kUInt8, DTypeError, who, ": image is ", image.dtype(),
               ", expected uint8");
  const bool fits =
      image.dim() == 3 && image.size(1) > 0 && image.size(2) > 0 &&
      (alpha ? image.size(0) >= 1 && image.size(0) <= 4 : image.size(0) == 1 || image.size(0) == 3);
  DROPIN_CHECK(fits, ShapeError, who, ": image is ", image.sizes(), ", expected [",
               alpha ? "1 to 4" : "1 or 3", ", H, W]");
  return {image.size(2), image.size(1), static_cast<int>(image.size(0))};
}

}  // namespace

Tensor decode_image(std::string_view bytes, ImageReadMode mode, const std::string& label,
                    bool apply_exif_orientation) {
  const bool png = starts(bytes, "\x89PNG\r\n\x1a\n"), jpeg = starts(bytes, "\xff\xd8\xff");
  if (!png && !jpeg)
    fail<FileError>({label, ": neither PNG nor JPEG, by its first bytes; expected one of them"});
  const std::unique_ptr<ImageReader> reader(
      png ? detail::png_reader(bytes_of(bytes), bytes.size())
          : detail::jpeg_reader(bytes_of(bytes), bytes.size()));
  if (!reader) fail<StateError>({label, ": ", png ? detail::kNoPng : detail::kNoJpeg});
  reader->gray = mode == ImageReadMode::GRAY;
  Pixels p;
  auto broken = [&] {
    fail<FileError>({label, ": a broken ", png ? "PNG" : "JPEG", ": ", reader->reason});
  };
  if (!reader->header(p)) broken();
  DROPIN_CHECK(p.width > 0 && p.height > 0 && p.width <= kMostValues / 4 / p.height, FileError,
               label, ": ", p.width, " x ", p.height, " pixels, expected at most ",
               kMostValues / 4);
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t most = png ? kDeflateMost * 8 * size : kBlockPixels * 8 * size;
  DROPIN_CHECK(p.width * p.height <= most, FileError, label, ": ", p.width, " x ", p.height,
               " pixels cannot be in ", size, " bytes");
  std::vector<std::uint8_t> rows(static_cast<std::size_t>(p.width * p.height * p.channels));
  if (!reader->rows(rows.data())) broken();
  const Tensor image = planes(rows, p, channels_of(mode, p.channels));
  return apply_exif_orientation ? detail::upright(image, detail::exif_orientation(bytes)) : image;
}

Tensor read_image(const std::string& path, ImageReadMode mode, bool apply_exif_orientation) {
  return decode_image(read_file(path), mode, path, apply_exif_orientation);
}

std::string encode_png(const Tensor& image, int compression_level) {
  const Pixels p = to_be_written("encode_png", image, true);
  DROPIN_CHECK(compression_level >= 0 && compression_level <= 9, OptionError,
               "encode_png: compression_level is ", compression_level, ", expected 0 to 9");
  std::string out;
  char reason[detail::kReason] = "";
  if (!detail::png_write(p, interleaved(image, p).data(), compression_level, out, reason))
    fail<StateError>({"encode_png: ", *reason ? reason : detail::kNoPng});
  return out;
}

std::string encode_jpeg(const Tensor& image, int quality) {
  const Pixels p = to_be_written("encode_jpeg", image, false);
  DROPIN_CHECK(quality >= 1 && quality <= 100, OptionError, "encode_jpeg: quality is ", quality,
               ", expected 1 to 100");
  std::string out;
  char reason[detail::kReason] = "";
  if (!detail::jpeg_write(p, interleaved(image, p).data(), quality, out, reason))
    fail<StateError>({"encode_jpeg: ", *reason ? reason : detail::kNoJpeg});
  return out;
}

namespace {
void write_whole(const std::string& path, const std::string& bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}
}  // namespace

void write_png(const std::string& path, const Tensor& image, int compression_level) {
  write_whole(path, encode_png(image, compression_level));
}
void write_jpeg(const std::string& path, const Tensor& image, int quality) {
  write_whole(path, encode_jpeg(image, quality));
}

}  // namespace dropin
