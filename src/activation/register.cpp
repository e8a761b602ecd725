#include "dropin/activation/activation.h"
#include "dropin/activation/fewbit.h"
#include "registry/lists.h"

namespace dropin {

namespace {
struct TableOptions {
  std::string activation = "gelu";
  std::int64_t bits = 3;
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
  std::int64_t bits = 3;
  static void fields(auto&& f) { f("bits", &PackOptions::bits, "bits per code, 1 to 8"); }
};
struct UnpackOptions {
  std::int64_t bits = 3, size = 0;
  static void fields(auto&& f) {
    f("bits", &UnpackOptions::bits, "bits per code, 1 to 8");
    f("size", &UnpackOptions::size, "codes");
  }
};
}  // namespace

void register_activation(Registry& r) {
  r.add<GELU>();
  r.add<SiLU>();
  r.add<ReLU>();
  r.add<ReLU6>();
  r.add<LeakyReLU>();
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
  const char* paper = "Novikov et al. 2022, arXiv 2202.00441";
  r.add_function<TableOptions>(
      "fewbit_table", "Function", "the step function nearest to an activation's derivative",
      [](const TableOptions& o, const NamedTensors&) -> NamedTensors {
        const FewBitTable t = fewbit_table(o.activation, o.bits, o.fold, o.domain);
        return {{"borders", tensor(t.borders)}, {"levels", tensor(t.levels)}};
      },
      "", paper, [](std::int64_t) { return NamedTensors(); });
  r.add_function<PackOptions>(
      "fewbit_pack", "Function", "codes of a few bits as one bit stream",
      [](const PackOptions& o, const NamedTensors& in) -> NamedTensors {
        return {{"packed", fewbit_pack(in.get("codes", "fewbit_pack"), o.bits)}};
      },
      "", paper,
      [](std::int64_t n) -> NamedTensors {
        return {{"codes", randint(0, 8, {n}, kInt64).to(kUInt8)}};
      });
  r.add_function<UnpackOptions>(
      "fewbit_unpack", "Function", "the inverse of fewbit_pack",
      [](const UnpackOptions& o, const NamedTensors& in) -> NamedTensors {
        return {{"codes", fewbit_unpack(in.get("packed", "fewbit_unpack"), o.bits, o.size)}};
      },
      "", paper);
}

}  // namespace dropin
