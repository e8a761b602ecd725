#include "dropin/nn/conv.h"
#include "dropin/nn/hyena.h"
#include "dropin/nn/microscaling.h"
#include "dropin/vision/deform_conv.h"
#include "dropin/vision/mixnet.h"
#include "registry/lists.h"

namespace dropin {

namespace {
struct FftConvOptions {
  bool keep_spectra = false;
  static void fields(auto&& f) { f("keep_spectra", &FftConvOptions::keep_spectra, "keeps the spectrum of u for backward instead of computing it again"); }
};
}  // namespace

void register_image_mixers(Registry& r) {
  r.add<Conv2d>();
  r.add<DepthwiseConv2d>();
  r.add<SeparableConv2d>();
  r.add<MixConv2d>();
  r.add<MixNetBlock>();
  r.add<DeformConv2d>();
  r.add<ModulatedDeformConv2d>();
  r.add<MXConv2d>();
  r.add<Conv1d>();
  r.add<MaxPool2d>();
  r.add<AvgPool2d>();
  r.add<AdaptiveAvgPool2d>();
  r.add<HyenaFilter>();
  r.add_function<FftConvOptions>(
      "fft_conv", "ImageMixer", "causal convolution as long as the sequence, with gates",
      [](const FftConvOptions& o, const NamedTensors& in) -> NamedTensors {
        return {{"y", fft_conv(in.get("u", "fft_conv"), in.get("k", "fft_conv"), in.find("D"),
                               {.k_rev = in.find("k_rev"), .pre_gate = in.find("pre_gate"), .post_gate = in.find("post_gate"), .keep_spectra = o.keep_spectra})}};
      },
      "Conv1d", "Poli et al. 2023, arXiv 2302.10866", [](std::int64_t n) -> NamedTensors { return {{"u", randn({1, 64, (n + 63) / 64})}, {"k", randn({64, (n + 63) / 64})}, {"D", randn({64})}}; });
}

}  // namespace dropin
