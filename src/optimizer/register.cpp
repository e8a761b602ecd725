#include "dropin/optimizer/adaptive.h"
#include "dropin/optimizer/complex_momentum.h"
#include "dropin/optimizer/galore.h"
#include "dropin/optimizer/game.h"
#include "dropin/optimizer/optimizer8bit.h"
#include "dropin/optimizer/rigl.h"
#include "dropin/optimizer/runge_kutta.h"
#include "registry/lists.h"

namespace dropin {

namespace {
struct MapOptions {
  bool is_signed = true;
  static void fields(auto&& f) {
    f("signed", &MapOptions::is_signed, "the map of [-1, 1], or of [0, 1]");
  }
};
struct BlockwiseOptions {
  bool is_signed = true;
  int64_t block_size = 256;
  static void fields(auto&& f) {
    f("signed", &BlockwiseOptions::is_signed, "the map of [-1, 1], or of [0, 1]");
    f("block_size", &BlockwiseOptions::block_size, "values that share a scale");
  }
};

// An optimizer by the object that names it and its options.
Box<Optimizer> named_optimizer(const Tensors& params, const Json& spec) {
  const Json* name = spec.find("name");
  DROPIN_CHECK(spec.is_object() && name && name->is_string(), OptionError,
               "LinearGameRollout: optimizer is ", spec.dump(),
               ", expected an object with a name and options");
  Json options = Json::object();
  for (const auto& [k, v] : spec.items())
    if (k != "name") options.set(k, v);
  return make_optimizer(name->as_string(), params, options);
}

void add_linear_game(Registry& r) {
  r.add(FunctionInfo<LinearGameOptions>{
      .name = "LinearGameRollout",
      .family = "Function",
      .summary = "players with linear gradients, round after round",
      .paper = ComplexMomentum::kPaper,
      .call = [](const LinearGameOptions& o, const Arguments& in) -> NamedTensors {
        const LinearGameResult y =
            linear_game_rollout(in["M"], in["b"], in["w"], o, named_optimizer);
        return {{"y", y.y}, {"distance", y.distance}};
      },
      .inputs = [](const LinearGameOptions&, const SampleSpec& s) -> Sample {
        SampleSpec other = s;
        other.seed = s.seed + 1;
        return {{{"M", s.normal({5, 5})}, {"b", s.normal({5})}, {"w", other.normal({5})}},
                {"M", "b", "w"}};
      },
      .sample = R"({"players": [3, 2], "steps": 4})",
      .examples =
          {R"({"mode": "alternating", "optimizer": {"name": "ComplexMomentum", "lr": 0.1}})",
           R"({"optimizer": {"name": "RungeKuttaOptimizer", "lr": 0.1, "method": "rk4"}})"}});
}

void add_rigl(Registry& r) {
  r.add(FunctionInfo<RiglUpdateOptions>{
      .name = "rigl_update",
      .family = "Function",
      .summary = "drops small weights of a sparse layer and grows where the gradient is large",
      .paper = "Evci et al. 2020 (RigL), arXiv 1911.11134",
      .call = [](const RiglUpdateOptions& o, const Arguments& in) -> NamedTensors {
        const RiglMasks m = rigl_update(in["weight"], in["mask"], in["dense_grad"], o);
        return {{"mask", m.mask}, {"grown", m.grown}};
      },
      .inputs = [](const RiglUpdateOptions&, const SampleSpec& s) -> Sample {
        const Shape sizes{s.length >= 0 ? s.length : 7, s.size ? 512 : 6};
        SampleSpec other = s;
        other.seed = s.seed + 1;
        return {{{"weight", s.normal(sizes)},
                 {"mask", s.integers(2, sizes).to(kBool)},
                 {"dense_grad", other.normal(sizes)}}};
      }});
}

void add_blockwise(Registry& r) {
  const char* paper = "Dettmers et al. 2022, arXiv 2110.02861";
  r.add(FunctionInfo<MapOptions>{
      .name = "create_dynamic_map",
      .family = "NumberFormat",
      .summary = "the 256 values of the dynamic map",
      .paper = paper,
      .call = [](const MapOptions& o, const Arguments&) -> NamedTensors {
        return {{"y", create_dynamic_map(o.is_signed)}};
      },
      .inputs = [](const MapOptions&, const SampleSpec&) { return Sample{}; }});
  r.add(FunctionInfo<BlockwiseOptions>{
      .name = "quantize_blockwise",
      .family = "NumberFormat",
      .summary = "one byte per value by the dynamic map, one scale per block",
      .paper = paper,
      .call = [](const BlockwiseOptions& o, const Arguments& in) -> NamedTensors {
        const Blockwise q = quantize_blockwise(in["x"], o.is_signed, o.block_size);
        return {{"codes", q.codes}, {"absmax", q.absmax}};
      }});
  r.add(FunctionInfo<BlockwiseOptions>{
      .name = "dequantize_blockwise",
      .family = "NumberFormat",
      .summary = "the inverse of quantize_blockwise",
      .paper = paper,
      .call = [](const BlockwiseOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", dequantize_blockwise(in["codes"], in["absmax"], o.is_signed, o.block_size)}};
      },
      .inputs = [](const BlockwiseOptions& o, const SampleSpec& s) -> Sample {
        const Tensor x = sample_values(s).inputs.find("x").reshape({-1});
        const Blockwise q = quantize_blockwise(x, o.is_signed, o.block_size);
        return {{{"codes", q.codes}, {"absmax", q.absmax}}};
      }});
}
}  // namespace

void register_optimizer(Registry& r) {
  r.add<SGD>();
  r.add<Adam>();
  r.add<AdamW>();
  r.add<RMSprop>();
  r.add<Adagrad>();
  r.add<Lion>();
  r.add<Muon>();
  r.add<Adafactor>();
  r.add<ComplexMomentum>();
  r.add<ComplexAdam>();
  r.add<GaLoreAdamW>();
  r.add<NaturalGaLore>();
  r.add<RungeKuttaOptimizer>();
  r.add<GradientReversal>();
  add_linear_game(r);
  r.add<SGD8bit>();
  r.add<Adam8bit>();
  r.add<AdamW8bit>();
  r.add<Lion8bit>();
  r.add<RMSprop8bit>();
  r.add<Adagrad8bit>();
  add_rigl(r);
  add_blockwise(r);
}

}  // namespace dropin
