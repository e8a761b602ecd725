#include "dropin/projection/bitlinear.h"
#include "dropin/projection/linear.h"
#include "dropin/projection/mx_linear.h"
#include "registry/lists.h"

namespace dropin {

namespace {
struct PackWeightOptions {
  std::string variant = "b1";
  std::int64_t weight_groups = 1;
  static void fields(auto&& f) {
    f("variant", &PackWeightOptions::variant, "\"b1\" or \"b1.58\"");
    f("weight_groups", &PackWeightOptions::weight_groups, "groups of rows with a scale each");
  }
};
struct UnpackWeightOptions {
  std::string variant = "b1";
  std::int64_t weight_groups = 1, in_features = 0;
  static void fields(auto&& f) {
    using O = UnpackWeightOptions;
    f("variant", &O::variant, "\"b1\" or \"b1.58\"");
    f("weight_groups", &O::weight_groups, "groups of rows with a scale each");
    f("in_features", &O::in_features, "columns; 0: all that the bytes hold");
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
