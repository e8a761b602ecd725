// Norm: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// Same shape in and out, statistics over features or the batch. Standard members: LayerNorm,
/// BatchNorm2d.
class Norm : public Unary<Norm> {
 public:
  static constexpr const char* kFamily = "Norm";
  static FamilyInfo family();
};

}  // namespace dropin
