#include "dropin/quantizer/binary_spherical.h"
#include "dropin/quantizer/transform_coder.h"
#include "dropin/quantizer/vector_quantizer.h"
#include "registry/lists.h"

namespace dropin {

namespace {

constexpr const char* kUnits = "Hsu et al. 2021, arXiv 2012.15454";
constexpr int64_t kCodes = 5;

int64_t frames_of(const SampleSpec& s) {
  static constexpr int64_t kFrames[] = {9, 64, 4096, 65536};
  return s.length >= 0 ? s.length : s.of(kFrames);
}

void register_functions(Registry& r) {
  r.add_family(
      {.name = "CodebookUpdate",
       .call = "x [N, D], indices [N], embedding, ema_cluster_size, ema_w -> the last three"});
  r.add(FunctionInfo<VqEmaUpdateOptions>{
      .name = "vq_ema_update",
      .family = "CodebookUpdate",
      .summary = "moves codes towards the frames that fell to them",
      .paper = kUnits,
      .call = [](const VqEmaUpdateOptions& o, const Arguments& in) -> NamedTensors {
        const VqEma r = vq_ema_update(in["x"], in["indices"],
                                      {in["embedding"], in["ema_cluster_size"], in["ema_w"]}, o);
        return {{"embedding", r.embedding},
                {"ema_cluster_size", r.ema_cluster_size},
                {"ema_w", r.ema_w}};
      },
      .inputs = [](const auto&, const SampleSpec& s) -> Sample {
        const int64_t n = frames_of(s), width = s.size ? 256 : 6;
        const Tensor table =
            SampleSpec{.dtype = s.dtype, .seed = s.seed + 1}.normal({kCodes, width});
        return {{{"x", s.normal({n, width})},
                 {"indices", s.integers(kCodes, {n})},
                 {"embedding", table},
                 {"ema_cluster_size", ones({kCodes}, s.dtype)},
                 {"ema_w", table}},
                {},
                n};
      }});
  r.add_family({.name = "UnitSequence", .call = "indices [B, T] int64 -> units, durations"});
  r.add(FunctionInfo<NoOptions>{
      .name = "run_length_collapse",
      .family = "UnitSequence",
      .summary = "drops repeats and keeps how long each unit lasts",
      .paper = kUnits,
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        const Units u = run_length_collapse(in["indices"], in.find("lengths"));
        return {{"units", u.units}, {"durations", u.durations}, {"unit_lengths", u.unit_lengths}};
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) -> Sample {
        const int64_t n = frames_of(s);
        return {{{"indices", s.integers(2, {2, n})},
                 {"lengths", tensor(std::vector<int64_t>{n, n / 2})}},
                {},
                n};
      }});
}

}  // namespace

void register_quantizer(Registry& r) {
  r.add<VectorQuantizer>();
  r.add<SegmentalUnitQuantizer>();
  r.add<BinarySphericalQuantizer>();
  r.add<BSQBottleneck>();
  r.add<DCT2d>();
  r.add<AdaptiveTransformCoder>();
  r.add_preset("DCTCoder", "AdaptiveTransformCoder",
               Json::parse(R"({"transform": "dct", "flat_steps": true, "context_dim": 0})"),
               "the fixed cosine transform with one step size");
  register_functions(r);
}

}  // namespace dropin
