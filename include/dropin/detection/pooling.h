// Pooling: the contract of heads that make one vector of a map.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// x [B, C, H, W] -> y [B, C]. Standard member: GlobalAvgPool2d.
class Pooling : public Unary<Pooling> {
 public:
  static constexpr const char* kFamily = "Pooling";
  static FamilyInfo family();
};

/// The mean over all places: torch's AdaptiveAvgPool2d(1) and flatten.
class GlobalAvgPool2d : public Component<GlobalAvgPool2d, NoOptions, Pooling> {
 public:
  static constexpr const char* kSummary = "the mean of each channel";
  explicit GlobalAvgPool2d(const NoOptions& o = {}) : Component(o) {}
  Tensor forward(const Tensor& x) override;
};

}  // namespace dropin
