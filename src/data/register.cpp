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

// An IDX file of n unsigned bytes.
Tensor idx_bytes(int64_t n) {
  Tensor bytes = zeros({8 + n}, kUInt8);
  bytes[2].fill_(8);  // unsigned bytes
  bytes[3].fill_(1);  // one dimension
  for (int i = 0; i < 4; ++i) bytes[4 + i].fill_(static_cast<double>(n >> (24 - 8 * i) & 255));
  return bytes;
}

}  // namespace

void register_data(Registry& r) {
  r.add_family({.name = "Data", .call = "bytes or pictures -> tensors"});
  r.add(FunctionInfo<NoOptions>{.name = "ParseIdx",
                                .family = "Data",
                                .summary = "the array of an IDX file, gzipped or not",
                                .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
                                  return {{"data", parse_idx(in["bytes"])}};
                                },
                                .inputs = [](const NoOptions&, const SampleSpec& s) -> Sample {
                                  return {{{"bytes", idx_bytes(s.size ? 1 << 16 : 6)}}};
                                }});
  r.add(FunctionInfo<NormalizeImagesOptions>{
      .name = "NormalizeImages",
      .family = "Data",
      .summary = "pixels to mean 0 and standard deviation 1",
      .call = [](const NormalizeImagesOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", normalize_images(in["images"], o.mean, o.std)}};
      },
      .inputs = [](const NormalizeImagesOptions&, const SampleSpec& s) -> Sample {
        static constexpr int64_t kPictures[] = {2, 2, 335, 10700};
        const int64_t n = s.length >= 0 ? s.length : s.of(kPictures);
        return {{{"images", s.integers(256, {n, 28, 28}).to(kUInt8)}}};
      }});
}

}  // namespace dropin
