#include "dropin/sequence/all_to_first_attention.h"
#include "dropin/sequence/causal_conv.h"
#include "dropin/sequence/combiner_attention.h"
#include "dropin/sequence/dcmh_attention.h"
#include "dropin/sequence/dilated_attention.h"
#include "dropin/sequence/hyena.h"
#include "dropin/sequence/latent_attention.h"
#include "dropin/sequence/longformer_attention.h"
#include "dropin/sequence/lookhere_attention.h"
#include "dropin/sequence/multihead_attention.h"
#include "dropin/sequence/relative_position_attention.h"
#include "dropin/sequence/rnn.h"
#include "dropin/sequence/scatterbrain_attention.h"
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
  r.add<LookHereAttention>();
  r.add<RelativePositionAttention>();
  r.add<AllToFirstAttention>();
  r.add<DCMHAttention>();
  r.add_alias("DynamicallyComposableAttention", "DCMHAttention");
  r.add<CombinerAttention>();
  r.add<ScatterbrainAttention>();
  r.add(FunctionInfo<LookHereBiasOptions>{
      .name = "lookhere_bias",
      .family = "Function",
      .summary = "the additive table of directed views of patches",
      .paper = LookHereAttention::kPaper,
      .call = [](const LookHereBiasOptions& o, const Arguments&) -> NamedTensors {
        return {{"y", lookhere_bias(o)}};
      },
      .inputs = [](const LookHereBiasOptions&, const SampleSpec&) { return Sample{}; },
      .sample = R"({"grid": [2, 3], "num_heads": 4})",
      .examples = {R"({"head_directions": "center", "distance": "square"})",
                   R"({"num_heads": 12, "head_directions": "LH-45", "round_bfloat16": true})"}});
  r.add<HyenaOperator>();
  r.add<CausalConv1d>();
  r.add<HyenaFilter>();
  r.add(FunctionInfo<FftConvOptions>{
      .name = "fft_conv",
      .family = "ImageMixer",
      .summary = "causal convolution as long as the sequence, with gates",
      .replaces = "Conv1d",
      .paper = "Poli et al. 2023, arXiv 2302.10866",
      .call = [](const FftConvOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", fft_conv(in["u"], in["k"], in.find("D"),
                               {.k_rev = in.find("k_rev"),
                                .pre_gate = in.find("pre_gate"),
                                .post_gate = in.find("post_gate"),
                                .keep_spectra = o.keep_spectra})}};
      },
      .inputs = [](const FftConvOptions&, const SampleSpec& s) -> Sample {
        static constexpr int64_t kLengths[] = {9, 16, 4096, 131072};
        const int64_t length = s.length >= 0 ? s.length : s.of(kLengths),
                      channels = s.size ? 64 : 4, batch = s.batch >= 0 ? s.batch : 1;
        return {{{"u", s.normal({batch, channels, length})},
                 {"k", s.normal({channels, length})},
                 {"D", s.normal({channels})}},
                {"k", "D"}};
      }});
}

}  // namespace dropin
