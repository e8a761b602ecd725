#include "dropin/feed_forward/contract.h"

namespace dropin {

FamilyInfo FeedForward::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [*, D] -> y [*, D]";
  f.options = [](int size) { return json_of({{"embed_dim", size ? 256 : 8}}); };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    return sample_rows(s, option_or(o, {"embed_dim", "in_features"}, 256));
  };
  f.bad_inputs = bad_shape({2, 5});
  return f;
}

}  // namespace dropin
