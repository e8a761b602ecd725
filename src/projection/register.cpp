#include "dropin/projection/adapter.h"
#include "dropin/projection/bitlinear.h"
#include "dropin/projection/linear.h"
#include "dropin/projection/lora.h"
#include "dropin/projection/mx_linear.h"
#include "dropin/projection/reft.h"
#include "dropin/projection/sparse_ift.h"
#include "dropin/projection/surm.h"
#include "dropin/projection/tunable.h"
#include "registry/lists.h"

namespace dropin {

namespace {
struct PackWeightOptions {
  std::string variant = "b1";
  int64_t weight_groups = 1;
  static void fields(auto&& f) {
    f("variant", &PackWeightOptions::variant, "\"b1\" or \"b1.58\"");
    f("weight_groups", &PackWeightOptions::weight_groups, "groups of rows with a scale each");
  }
};
struct UnpackWeightOptions {
  std::string variant = "b1";
  int64_t weight_groups = 1, in_features = 0;
  static void fields(auto&& f) {
    using O = UnpackWeightOptions;
    f("variant", &O::variant, "\"b1\" or \"b1.58\"");
    f("weight_groups", &O::weight_groups, "groups of rows with a scale each");
    f("in_features", &O::in_features, "columns; 0: all that the bytes hold");
  }
};

struct ReftPositionsOptions {
  std::string positions = "f1+l1";
  static void fields(auto&& f) {
    f("positions", &ReftPositionsOptions::positions, "f<p>+l<s>, f<p> or l<s>");
  }
};

Tensor weight(const SampleSpec& s) {
  const Tensor x = sample_values(s).inputs.find("x");
  return x.reshape({-1, x.size(-1)});
}

}  // namespace

void register_projection(Registry& r) {
  r.add<Linear>();
  r.add<BitLinear>();
  r.add<MXLinear>();
  r.add<MXMatmul>();
  r.add<LoRALinear>();
  r.add<DoRALinear>();
  r.add<SURMLinear>();
  r.add<TunableLinear>();
  r.add<SparseIFTLinear>();
  r.add<Adapter>();
  r.add<SURMAdapter>();
  r.add<LoReFT>();
  r.add<DiReFT>();
  r.add(FunctionInfo<ReftPositionsOptions>{
      .name = "reft_positions",
      .family = "Function",
      .summary = "the first and last places of prompts, to be edited",
      .paper = LoReFT::kPaper,
      .call = [](const ReftPositionsOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", reft_positions(in["lengths"], o.positions)}};
      },
      .inputs = [](const ReftPositionsOptions&, const SampleSpec& s) -> Sample {
        return {{{"lengths", s.integers(12, {s.length >= 0 ? s.length : 5})}}};
      },
      .examples = {R"({"positions": "f3+l4"})", R"({"positions": "l2"})"}});
  r.add(FunctionInfo<PackWeightOptions>{
      .name = "bitlinear_pack_weight",
      .family = "Function",
      .summary = "weights of one bit or three values, packed",
      .paper = BitLinear::kPaper,
      .call = [](const PackWeightOptions& o, const Arguments& in) -> NamedTensors {
        const BitPackedWeight p = bitlinear_pack_weight(in["weight"], o.variant, o.weight_groups);
        return {{"packed", p.packed}, {"scale", p.scale}};
      },
      .inputs = [](const PackWeightOptions&, const SampleSpec& s) -> Sample {
        return {{{"weight", weight(s)}}};
      }});
  r.add(FunctionInfo<UnpackWeightOptions>{
      .name = "bitlinear_unpack_weight",
      .family = "Function",
      .summary = "the inverse of bitlinear_pack_weight",
      .paper = BitLinear::kPaper,
      .call = [](const UnpackWeightOptions& o, const Arguments& in) -> NamedTensors {
        const Tensor scale = in["scale"];
        DROPIN_CHECK(scale.numel() == o.weight_groups, ShapeError,
                     "bitlinear_unpack_weight: scale is ", scale.sizes(), ", expected [",
                     o.weight_groups, "] because weight_groups = ", o.weight_groups);
        return {{"weight", bitlinear_unpack_weight(in["packed"], scale, o.variant, o.in_features)}};
      },
      .inputs = [](const UnpackWeightOptions& o, const SampleSpec& s) -> Sample {
        const BitPackedWeight p = bitlinear_pack_weight(weight(s), o.variant, o.weight_groups);
        return {{{"packed", p.packed}, {"scale", p.scale}}};
      }});
}

}  // namespace dropin
