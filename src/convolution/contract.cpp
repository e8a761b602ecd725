#include "dropin/convolution/contract.h"

namespace dropin {

FamilyInfo ImageMixer::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [B, C, H, W] -> y [B, C', H', W']";
  f.options = picture_options;
  f.inputs = [](const Json& o, const SampleSpec& s) {
    const int64_t channels = picture_size(s.size).channels;
    return sample_pictures(s, option_or(o, {"in_channels", "channels"}, channels));
  };
  f.bad_inputs = bad_shape({2, 5});
  f.work = work_of_pictures;
  return f;
}

}  // namespace dropin
