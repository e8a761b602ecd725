#include "dropin/data/fashion_mnist.h"
#include "registry/lists.h"

namespace dropin {

namespace {
struct NormalizeImagesOptions {
  double mean = 0.2860, std = 0.3530;
  static void fields(auto&& f) {
    f("mean", &NormalizeImagesOptions::mean, "of pixels / 255");
    f("std", &NormalizeImagesOptions::std, "of pixels / 255");
  }
};
}  // namespace

void register_data(Registry& r) {
  r.add_function<NoOptions>("ParseIdx", "Data", "the array of an IDX file, gzipped or not",
                            [](const NoOptions&, const NamedTensors& in) -> NamedTensors {
                              return {{"data", parse_idx(in.get("bytes", "ParseIdx"))}};
                            });
  r.add_function<NormalizeImagesOptions>(
      "NormalizeImages", "Data", "pixels to mean 0 and standard deviation 1",
      [](const NormalizeImagesOptions& o, const NamedTensors& in) -> NamedTensors {
        return {{"y", normalize_images(in.get("images", "NormalizeImages"), o.mean, o.std)}};
      },
      "", "",
      [](std::int64_t n) -> NamedTensors {
        return {{"images", randint(0, 256, {(n + 783) / 784, 28, 28}, kInt64).to(kUInt8)}};
      });
}

}  // namespace dropin
