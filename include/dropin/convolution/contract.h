// ImageMixer: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// [B, C, H, W] -> [B, C', H', W'] (or [B, C, L]). Standard members: Conv2d, DepthwiseConv2d.
class ImageMixer : public Unary<ImageMixer> {
 public:
  static constexpr const char* kFamily = "ImageMixer";
  static FamilyInfo family();
};

}  // namespace dropin
