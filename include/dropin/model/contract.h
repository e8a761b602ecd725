// Model: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// A whole network: pictures [B, C, H, W] or ids [B, L] -> logits or a map. Standard member:
/// Transformer.
class Model : public Unary<Model> {
 public:
  static constexpr const char* kFamily = "Model";
  static FamilyInfo family();
};

/// x [batch, channels, H, W]: of the family's sizes, and h by w for tests.
Sample sample_maps(const SampleSpec& s, int64_t channels, int64_t h, int64_t w);

}  // namespace dropin
