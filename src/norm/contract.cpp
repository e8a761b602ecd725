#include "dropin/norm/contract.h"

#include "dropin/norm/norm.h"

namespace dropin {

Sample detail::sample_normalized(const SampleSpec& s, const OneOrMany& normalized_shape) {
  const Sample rows = sample_rows(s, 1);  // the sizes before the normalised ones
  Shape sizes;
  const Shape all = rows.inputs.begin()->second.sizes();
  for (int i = 0; i + 1 < static_cast<int>(all.size()); ++i) sizes.push_back(all[i]);
  for (const int64_t n : normalized_shape.values) sizes.push_back(n);
  return {{{"x", s.normal(sizes)}}};
}

Sample detail::sample_channels(const SampleSpec& s, int64_t channels) {
  const int64_t side = picture_size(s.size).side;
  return sample_signals(s, channels, side * side);
}

FamilyInfo Norm::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x -> y of the same shape";
  f.options = [](int size) {
    Json o = picture_options(size);
    o.set("normalized_shape", Json::parse(size ? "[512]" : "[8]"));
    o.set("num_groups", size ? 8 : 2);
    return o;
  };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    const int64_t channels = picture_size(s.size).channels;
    return sample_pictures(s, option_or(o, {"num_features", "num_channels"}, channels));
  };
  f.bad_inputs = bad_shape({2, 5});
  return f;
}

}  // namespace dropin
