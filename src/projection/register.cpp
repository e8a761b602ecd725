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
}  // namespace

void register_projection(Registry& r) {
  r.add<Linear>();
  r.add<BitLinear>();
  r.add<MXLinear>();
  r.add<MXMatmul>();
  r.add_function<PackWeightOptions>(
      "bitlinear_pack_weight", "Function", "weights of one bit or three values, packed",
      [](const PackWeightOptions& o, const NamedTensors& in) -> NamedTensors {
        const BitPackedWeight w = bitlinear_pack_weight(in.get("weight", "bitlinear_pack_weight"),
                                                        o.variant, o.weight_groups);
        return {{"packed", w.packed}, {"scale", w.scale}};
      },
      "", BitLinear::kPaper,
      [](std::int64_t n) -> NamedTensors {
        return {{"weight", randn({(n + 1023) / 1024, 1024})}};
      });
  r.add_function<UnpackWeightOptions>(
      "bitlinear_unpack_weight", "Function", "the inverse of bitlinear_pack_weight",
      [](const UnpackWeightOptions& o, const NamedTensors& in) -> NamedTensors {
        const Tensor scale = in.get("scale", "bitlinear_unpack_weight");
        DROPIN_CHECK(scale.numel() == o.weight_groups, ShapeError,
                     "bitlinear_unpack_weight: scale is ", scale.sizes(), ", expected [",
                     o.weight_groups, "] because weight_groups = ", o.weight_groups);
        return {{"weight", bitlinear_unpack_weight(in.get("packed", "bitlinear_unpack_weight"),
                                                   scale, o.variant, o.in_features)}};
      },
      "", BitLinear::kPaper,
      [](std::int64_t n) -> NamedTensors {
        const BitPackedWeight w = bitlinear_pack_weight(randn({(n + 1023) / 1024, 1024}), "b1", 1);
        return {{"packed", w.packed}, {"scale", w.scale}};
      });
}

}  // namespace dropin
