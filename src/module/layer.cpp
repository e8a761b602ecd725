#include "dropin/module/unary.h"

namespace dropin {

FamilyInfo Layer::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x -> y";
  f.options = [](int size) {
    Json o = picture_options(size).with(json_of({{"block_size", 8}}));
    o.set("scale_factor", Json::parse("[2]"));
    return o;
  };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    return sample_pictures(s, option_or(o, {"in_channels"}, picture_size(s.size).channels));
  };
  f.bad_inputs = bad_shape({2, 5});
  return f;
}

}  // namespace dropin
