// The plainest search for a code.
#pragma once
#include "kernels/optim8/map.h"
#include "support.h"

namespace dropin {

/// The plainest search there is.
inline int nearest_by_distance(const kernels::DynamicMap& m, float x) {
  for (int c = 0; c < 255; ++c) {
    if (x < m.mid[c]) return c;
    if (x == m.mid[c]) return c % 2 == 0 ? c : c + 1;
  }
  return 255;
}

}  // namespace dropin
