#include "dropin/activation/activation.h"
#include "dropin/activation/fewbit.h"
#include "registry/lists.h"

namespace dropin {

namespace {
struct TableOptions {
  std::string activation = "gelu";
  int64_t bits = 3;
  bool fold = false;
  double domain = 100;
  static void fields(auto&& f) {
    using O = TableOptions;
    f("activation", &O::activation,
      "gelu, silu, sigmoid, tanh, selu, elu, celu, softplus, logsigmoid, mish, hardswish, softsign "
      "or tanhshrink");
    f("bits", &O::bits, "2^bits levels");
    f("fold", &O::fold, "for |x|, where the derivative is even");
    f("domain", &O::domain, "half of the interval that the error is measured on");
  }
};
struct PackOptions {
  int64_t bits = 3;
  static void fields(auto&& f) { f("bits", &PackOptions::bits, "bits per code, 1 to 8"); }
};
struct UnpackOptions {
  int64_t bits = 3, size = 0;
  static void fields(auto&& f) {
    f("bits", &UnpackOptions::bits, "bits per code, 1 to 8");
    f("size", &UnpackOptions::size, "codes");
  }
};

// Codes below 2^bits.
Tensor codes(const SampleSpec& s, int64_t bits, int64_t count) {
  return s.integers(int64_t{1} << std::clamp<int64_t>(bits, 1, 8), {count}).to(kUInt8);
}

void register_standard(Registry& r) {
  r.add<GELU>();
  r.add<SiLU>();
  r.add<ReLU>();
  r.add<ReLU6>();
  r.add<LeakyReLU>();
  r.add<PReLU>();
  r.add<ELU>();
  r.add<SELU>();
  r.add<Sigmoid>();
  r.add<Tanh>();
  r.add<Softplus>();
  r.add<Softsign>();
  r.add<Hardswish>();
  r.add<CELU>();
  r.add<LogSigmoid>();
  r.add<Mish>();
  r.add<Tanhshrink>();
  r.add<Hardtanh>();
  r.add<Hardsigmoid>();
  r.add<Hardshrink>();
  r.add<Softshrink>();
  r.add<Threshold>();
}

void register_few_bit(Registry& r) {
  r.add<FewBitGELU>();
  r.add<FewBitSiLU>();
  r.add<FewBitSigmoid>();
  r.add<FewBitTanh>();
  r.add<FewBitSELU>();
  r.add<FewBitELU>();
  r.add<FewBitCELU>();
  r.add<FewBitSoftplus>();
  r.add<FewBitLogSigmoid>();
  r.add<FewBitMish>();
  r.add<FewBitHardswish>();
  r.add<FewBitSoftsign>();
  r.add<FewBitTanhshrink>();
  r.add<FewBitReLU>();
  r.add<FewBitReLU6>();
  r.add<FewBitLeakyReLU>();
  r.add<FewBitHardtanh>();
  r.add<FewBitHardsigmoid>();
  r.add<FewBitHardshrink>();
  r.add<FewBitSoftshrink>();
  r.add<FewBitThreshold>();
  r.add<FewBitStepwise>();
}

void register_tables(Registry& r) {
  const char* paper = "Novikov et al. 2022, arXiv 2202.00441";
  r.add_family({.name = "Function",
                .call = "named tensors -> named tensors",
                .inputs = [](const Json&, const SampleSpec& s) { return sample_values(s); }});
  r.add(FunctionInfo<TableOptions>{
      .name = "fewbit_table",
      .family = "Function",
      .summary = "the step function nearest to an activation's derivative",
      .paper = paper,
      .call = [](const TableOptions& o, const Arguments&) -> NamedTensors {
        const FewBitTable t = fewbit_table(o.activation, o.bits, o.fold, o.domain);
        return {{"borders", tensor(t.borders)}, {"levels", tensor(t.levels)}};
      },
      .inputs = [](const TableOptions&, const SampleSpec&) { return Sample{}; },
      .slow = [](const Json& o) { return option_or(o, {"bits"}, 3) > 4; }});  // solved anew
  r.add(FunctionInfo<PackOptions>{
      .name = "fewbit_pack",
      .family = "Function",
      .summary = "codes of a few bits as one bit stream",
      .paper = paper,
      .call = [](const PackOptions& o, const Arguments& in) -> NamedTensors {
        return {{"packed", fewbit_pack(in["codes"], o.bits)}};
      },
      .inputs = [](const PackOptions& o, const SampleSpec& s) -> Sample {
        return {{{"codes", codes(s, o.bits, sample_values(s).inputs.find("x").numel())}}};
      }});
  r.add(FunctionInfo<UnpackOptions>{
      .name = "fewbit_unpack",
      .family = "Function",
      .summary = "the inverse of fewbit_pack",
      .paper = paper,
      .call = [](const UnpackOptions& o, const Arguments& in) -> NamedTensors {
        return {{"codes", fewbit_unpack(in["packed"], o.bits, o.size)}};
      },
      .inputs = [](const UnpackOptions& o, const SampleSpec& s) -> Sample {
        return {{{"packed", fewbit_pack(codes(s, o.bits, o.size), o.bits)}}};
      },
      .sample = R"({"size": 5})"});
}

}  // namespace

void register_activation(Registry& r) {
  register_standard(r);
  register_few_bit(r);
  register_tables(r);
}

}  // namespace dropin
