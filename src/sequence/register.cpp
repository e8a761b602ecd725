#include "dropin/ops/ssd_scan.h"
#include "dropin/sequence/all_to_first_attention.h"
#include "dropin/sequence/causal_conv.h"
#include "dropin/sequence/combiner_attention.h"
#include "dropin/sequence/dcmh_attention.h"
#include "dropin/sequence/dilated_attention.h"
#include "dropin/sequence/extractor.h"
#include "dropin/sequence/fast_forgetful_memory.h"
#include "dropin/sequence/hydra.h"
#include "dropin/sequence/hyena.h"
#include "dropin/sequence/latent_attention.h"
#include "dropin/sequence/longformer_attention.h"
#include "dropin/sequence/lookhere_attention.h"
#include "dropin/sequence/mamba2.h"
#include "dropin/sequence/matrix_mixer.h"
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

struct SsdScanOptions {
  int64_t chunk_size = 64;
  bool reverse = false;
  static void fields(auto&& f) {
    f("chunk_size", &SsdScanOptions::chunk_size,
      "tokens computed at once; only rounding depends on it");
    f("reverse", &SsdScanOptions::reverse, "from the last token to the first");
  }
};

Sample ssd_sample(const SampleSpec& s) {
  static constexpr int64_t kLengths[] = {9, 64, 1024, 4096};
  const int64_t l = s.length >= 0 ? s.length : s.of(kLengths), h = s.size ? 8 : 4,
                p = s.size ? 64 : 3, n = s.size ? 64 : 5, g = s.size ? 1 : 2,
                b = s.batch >= 0 ? s.batch : (s.size ? 1 : 2);
  return {{{"x", s.normal({b, l, h, p})},
           {"dt", softplus(s.normal({b, l, h}))},
           {"A", -exp(s.normal({h}))},
           {"B", s.normal({b, l, g, n})},
           {"C", s.normal({b, l, g, n})},
           {"D", s.normal({h})},
           {"initial_states", s.normal({b, h, p, n})}},
          {"A", "D"}};
}

void add_ssd_scan(Registry& r) {
  r.add(FunctionInfo<SsdScanOptions>{
      .name = "ssd_scan",
      .family = "Function",
      .summary = "the scan of state-space models, in chunks",
      .paper = Mamba2Mixer::kPaper,
      .call = [](const SsdScanOptions& o, const Arguments& in) -> NamedTensors {
        const SsdScanResult y = ssd_scan(in["x"], in["dt"], in["A"], in["B"], in["C"],
                                         {.D = in.find("D"),
                                          .initial_states = in.find("initial_states"),
                                          .seq_idx = in.find("seq_idx"),
                                          .chunk_size = o.chunk_size,
                                          .reverse = o.reverse});
        return {{"y", y.y}, {"final_state", y.final_state}};
      },
      .inputs = [](const SsdScanOptions&, const SampleSpec& s) { return ssd_sample(s); },
      .sample = R"({"chunk_size": 4})",
      .examples = {R"({"chunk_size": 64, "reverse": true})", R"({"chunk_size": 1})"}});
}

void add_extractors(Registry& r) {
  r.add<Extractor>();
  auto preset = [&](const char* name, const char* variant, const char* summary) {
    Json o = Json::object();
    o.set("variant", variant);
    r.add_preset(name, "Extractor", o, summary);
  };
  preset("SuperHighPerformanceExtractor", "she", "an Extractor with a matrix per lag");
  preset("HigherPerformanceExtractor", "he", "an Extractor with a vector per lag of a projection");
  preset("WorthwhileExtractor", "we", "an Extractor with a vector per lag");
  preset("MinimalistExtractor", "me", "an Extractor without matrices");
}

void add_fft_conv(Registry& r) {
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
  r.add<HydraMixer>();
  r.add<MatrixMixer>();
  r.add<Mamba2Mixer>();
  add_ssd_scan(r);
  r.add<FastForgetfulMemory>();
  r.add_alias("FFM", "FastForgetfulMemory");
  add_extractors(r);
  r.add<HyenaOperator>();
  r.add<CausalConv1d>();
  r.add<HyenaFilter>();
  add_fft_conv(r);
}

}  // namespace dropin
