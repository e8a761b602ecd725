// Activation: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// Elementwise. Standard members: GELU, SiLU, ReLU, ...
class Activation : public Unary<Activation> {
 public:
  static constexpr const char* kFamily = "Activation";
  static FamilyInfo family();
};

}  // namespace dropin
