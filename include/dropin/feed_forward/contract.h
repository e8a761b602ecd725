// FeedForward: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// [*, D] -> [*, D]. Standard members: MLP, GatedMLP.
class FeedForward : public Unary<FeedForward> {
 public:
  static constexpr const char* kFamily = "FeedForward";
  static FamilyInfo family();
};

}  // namespace dropin
