#include "dropin/feed_forward/contract.h"

namespace dropin {

FamilyInfo FeedForward::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [*, D] -> y [*, D]";
  f.options = [](int size) {
    const int64_t width = size ? 256 : 8;
    return json_of({{"embed_dim", width},
                    {"d_model", width},
                    {"d_hidden", size ? 4 * width : 10},
                    {"d_ff", size ? width : 6},
                    {"num_experts", size ? 8 : 4}});
  };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    return sample_rows(s, option_or(o, {"embed_dim", "d_model", "in_features"}, 256));
  };
  f.bad_inputs = bad_shape({2, 5});
  return f;
}

}  // namespace dropin
