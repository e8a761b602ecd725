#include "dropin/sequence/causal_conv.h"
#include "dropin/sequence/dilated_attention.h"
#include "dropin/sequence/hyena.h"
#include "dropin/sequence/latent_attention.h"
#include "dropin/sequence/longformer_attention.h"
#include "dropin/sequence/multihead_attention.h"
#include "dropin/sequence/rnn.h"
#include "dropin/sequence/sigmoid_attention.h"
#include "registry/lists.h"

namespace dropin {

namespace {
struct FftConvOptions {
  bool keep_spectra = false;
  static void fields(auto&& f) {
    f("keep_spectra", &FftConvOptions::keep_spectra,
      "keeps the spectrum of u for backward instead of computing it again");
  }
};
}  // namespace

void register_sequence(Registry& r) {
  r.add<MultiheadAttention>();
  r.add<LSTM>();
  r.add<GRU>();
  r.add<LongformerAttention>();
  r.add<DilatedAttention>();
  r.add<SigmoidAttention>();
  r.add<LatentAttention>();
  r.add_alias("LatteAttention", "LatentAttention");
  r.add<HyenaOperator>();
  r.add<CausalConv1d>();
  r.add<HyenaFilter>();
  r.add_function<FftConvOptions>(
      "fft_conv", "ImageMixer", "causal convolution as long as the sequence, with gates",
      [](const FftConvOptions& o, const NamedTensors& in) -> NamedTensors {
        return {{"y", fft_conv(in.get("u", "fft_conv"), in.get("k", "fft_conv"), in.find("D"),
                               {.k_rev = in.find("k_rev"),
                                .pre_gate = in.find("pre_gate"),
                                .post_gate = in.find("post_gate"),
                                .keep_spectra = o.keep_spectra})}};
      },
      "Conv1d", "Poli et al. 2023, arXiv 2302.10866",
      [](std::int64_t n) -> NamedTensors {
        return {{"u", randn({1, 64, (n + 63) / 64})},
                {"k", randn({64, (n + 63) / 64})},
                {"D", randn({64})}};
      });
}

}  // namespace dropin
