// How a camera was held, out of a picture's file.
#pragma once
#include <string_view>

#include "dropin/tensor/tensor.h"

namespace dropin::detail {

/// The orientation of 1 to 8 in the EXIF part of a PNG or JPEG (tag 0x112; before the pixels); 1,
/// upright, where there is none or it is broken. Time in proportion to the file at most.
int exif_orientation(std::string_view file);
/// [C, H, W] of that orientation -> upright: flipped, turned, or both.
Tensor upright(const Tensor& image, int orientation);

}  // namespace dropin::detail
