// PNG and JPEG pictures as tensors (torchvision.io).
#pragma once
#include <string>
#include <string_view>

#include "dropin/tensor/tensor.h"

namespace dropin {

/// The channels that are wanted, whatever the file has.
enum class ImageReadMode {
  UNCHANGED,  ///< 1 to 4, as the file has; a palette becomes RGB, or RGBA where it has transparency
  GRAY,       ///< 0.2989 R + 0.587 G + 0.1141 B, rounded down; of a JPEG its own luma
  GRAY_ALPHA,  ///< alpha is 255 where the file has none
  RGB,
  RGB_ALPHA
};

/// A PNG or JPEG file -> uint8 [C, H, W]. 16 bits become 8 (the upper ones).
/// apply_exif_orientation turns upright what the camera says it held otherwise. FileError naming
/// the file and the reason, before anything large is allocated: no such format, a size above 2^29
/// values or larger than the file can hold, a broken or short stream, CMYK; StateError where this
/// build has no libpng (libjpeg).
Tensor read_image(const std::string& path, ImageReadMode mode = ImageReadMode::UNCHANGED,
                  bool apply_exif_orientation = false);
/// The same from memory; `label` stands for the file's name in messages.
Tensor decode_image(std::string_view bytes, ImageReadMode mode = ImageReadMode::UNCHANGED,
                    const std::string& label = "image", bool apply_exif_orientation = false);

/// uint8 [C, H, W] with 1 to 4 channels as PNG. ShapeError, DTypeError; StateError without libpng.
std::string encode_png(const Tensor& image, int compression_level = 6);
/// uint8 [1 or 3, H, W] as JPEG, quality 1 to 100. Errors as above.
std::string encode_jpeg(const Tensor& image, int quality = 75);
/// Written whole or not at all. FileError as well.
void write_png(const std::string& path, const Tensor& image, int compression_level = 6);
void write_jpeg(const std::string& path, const Tensor& image, int quality = 75);

}  // namespace dropin
