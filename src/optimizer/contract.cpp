#include "dropin/optimizer/optimizer.h"

namespace dropin {

FamilyInfo Optimizer::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "parameters and their gradients -> new parameters, by step()";
  f.inputs = [](const Json&, const SampleSpec& s) {  // one parameter
    static constexpr int64_t kValues[] = {15, 4096, 1 << 18, 1 << 24};
    return Sample{{{"x", s.normal({s.of(kValues)})}}};
  };
  f.label = [](const Shape& x) { return "n:" + std::to_string(x[0]); };
  return f;
}

}  // namespace dropin
