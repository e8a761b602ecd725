#include "dropin/activation/contract.h"

namespace dropin {

FamilyInfo Activation::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x of any shape -> y of the same";
  f.inputs = [](const Json&, const SampleSpec& s) { return sample_values(s); };
  f.traits.any_shape = true;
  f.traits.promotes_integers = true;
  return f;
}

}  // namespace dropin
