// Projection: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// [*, in] -> [*, out]. Standard member: Linear.
class Projection : public Unary<Projection> {
 public:
  static constexpr const char* kFamily = "Projection";
  static constexpr const char* kCall = "x [*, in] -> y [*, out]";
};

}  // namespace dropin
