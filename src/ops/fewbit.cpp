#include "dropin/ops/fewbit.h"

#include "kernels/fewbit/kernel.h"
#include "ops/common.h"

namespace dropin {

namespace {

using kernels::FewBitFunction;
using kernels::FewBitSplit;

struct Known {
  const char* name;
  FewBitFunction function;
};
const Known kKnown[] = {{"gelu", FewBitFunction::Gelu},
                        {"silu", FewBitFunction::Silu},
                        {"sigmoid", FewBitFunction::Sigmoid},
                        {"tanh", FewBitFunction::Tanh},
                        {"selu", FewBitFunction::Selu},
                        {"elu", FewBitFunction::Elu},
                        {"celu", FewBitFunction::Celu},
                        {"softplus", FewBitFunction::Softplus},
                        {"logsigmoid", FewBitFunction::LogSigmoid},
                        {"mish", FewBitFunction::Mish},
                        {"hardswish", FewBitFunction::Hardswish},
                        {"softsign", FewBitFunction::Softsign},
                        {"tanhshrink", FewBitFunction::Tanhshrink},
                        {"relu", FewBitFunction::Relu},
                        {"relu6", FewBitFunction::Relu6},
                        {"leaky_relu", FewBitFunction::LeakyRelu},
                        {"hardtanh", FewBitFunction::Hardtanh},
                        {"hardsigmoid", FewBitFunction::Hardsigmoid},
                        {"hardshrink", FewBitFunction::Hardshrink},
                        {"softshrink", FewBitFunction::Softshrink},
                        {"threshold", FewBitFunction::Threshold}};

FewBitFunction find_function(const std::string& name) {
  std::string all;
  for (const Known& k : kKnown) {
    if (name == k.name) return k.function;
    all += (all.empty() ? "" : ", ") + std::string(k.name);
  }
  fail<OptionError>({"fewbit: function is \"", name, "\", expected one of ", all});
}

// The exact functions: where their one bit changes, and the two slopes.
bool exact_split(const FewBitFunctionSpec& f, kernels::FewBitForward& k,
                 std::vector<double>& slopes) {
  slopes = {0, 1};
  switch (k.function) {
    case FewBitFunction::Relu:
      k.split = FewBitSplit::Above, k.lo = 0;
      return true;
    case FewBitFunction::Threshold:
      k.split = FewBitSplit::Above, k.lo = f.a;
      return true;
    case FewBitFunction::LeakyRelu:
      k.split = FewBitSplit::AtLeast, k.lo = 0, slopes[0] = f.a;
      return true;
    case FewBitFunction::Relu6:
      k.split = FewBitSplit::Between, k.lo = 0, k.hi = 6;
      return true;
    case FewBitFunction::Hardtanh:
      k.split = FewBitSplit::Between, k.lo = f.a, k.hi = f.b;
      return true;
    case FewBitFunction::Hardsigmoid:
      k.split = FewBitSplit::Between, k.lo = -3, k.hi = 3, slopes[1] = 1.0 / 6;
      return true;
    case FewBitFunction::Hardshrink:
    case FewBitFunction::Softshrink:
      k.split = FewBitSplit::Outside, k.lo = f.a;
      return true;
    default:
      return false;
  }
}

void check_table(const FewBitFunctionSpec& f, const Tensor& borders, const Tensor& levels) {
  DROPIN_CHECK(f.bits >= 1 && f.bits <= 8, OptionError, "fewbit ", f.function, ": bits is ", f.bits,
               ", expected 1 to 8");
  DROPIN_CHECK(levels.defined() && levels.dim() == 1 && levels.size(0) >= 1 &&
                   levels.size(0) <= (1 << f.bits),
               ShapeError, "fewbit ", f.function, ": levels is ",
               levels.defined() ? levels.sizes() : Shape{}, ", expected 1 to ", 1 << f.bits,
               " values");
  DROPIN_CHECK(borders.defined() && borders.dim() == 1 && borders.size(0) == levels.size(0) - 1,
               ShapeError, "fewbit ", f.function, ": borders is ",
               borders.defined() ? borders.sizes() : Shape{}, ", expected [", levels.size(0) - 1,
               "] for ", levels.size(0), " levels");
}

int64_t packed_size(int64_t n, int64_t bits) { return (n + 7) / 8 * bits; }

}  // namespace

Tensor fewbit_activation(const Tensor& x_, const FewBitFunctionSpec& f, const Tensor& borders_,
                         const Tensor& levels_, bool in_place) {
  DROPIN_CHECK(is_floating(x_.dtype()), DTypeError, "fewbit ", f.function,
               ": expected a floating-point tensor, got ", x_.dtype());
  kernels::FewBitForward k{find_function(f.function), f.a, f.b,
                           f.fold ? FewBitSplit::Folded : FewBitSplit::Borders,
                           static_cast<std::int32_t>(f.bits)};
  std::vector<double> slopes;
  const bool exact = !levels_.defined() && exact_split(f, k, slopes),
             keep = detail::any_requires_grad(&x_, 1);
  const DType compute = ops_detail::compute_type(x_.dtype());
  Tensor borders, levels;
  if (exact) {
    k.bits = 1;
    if (keep) levels = tensor(slopes, {compute, x_.device()});
  } else {
    check_table(f, borders_, levels_);
    if (k.function == FewBitFunction::Softplus) k.scale = f.a;
    if (keep)
      borders = borders_.detach().to(compute).contiguous(),
      levels = levels_.detach().to(compute).contiguous();
  }
  Tensor x = ops_detail::prepared(x_), y;
  if (in_place) {
    DROPIN_CHECK(!(keep && x_.is_leaf()), AutogradError, "fewbit ", f.function,
                 ": a leaf that requires a gradient cannot be changed in place");
    DROPIN_CHECK(x_.is_contiguous() && x.dtype() == x_.dtype(), DTypeError, "fewbit ", f.function,
                 ": in place needs a contiguous float32 or float64 tensor");
    y = x_.detach();
  } else {
    y = empty(x.sizes(), x.options());
  }
  Tensor packed = keep ? empty({packed_size(x.numel(), k.bits)}, {kUInt8, x.device()}) : Tensor();
  run<kernels::fewbit_forward>(x.device(), k, x.in(),
                               borders.defined() ? borders.in() : abi::TensorIn{}, y.out(),
                               packed.defined() ? packed.out() : abi::TensorOut{});
  if (in_place) y.bump_version();
  const DType wanted = x_.dtype();
  x = {};
  return record(
      "fewbit", y.to(wanted), {x_}, {packed, levels},
      [bits = k.bits, compute](const Saved& s, const Tensor& g_) -> Tensors {
        if (grad_enabled())
          fail<AutogradError>(
              {"fewbit: its gradient is a step function and cannot be differentiated again"});
        const Tensor g = g_.to(compute).contiguous();
        Tensor gx = empty_like(g);
        run<kernels::fewbit_backward>(g.device(), bits, s[0].in(), s[1].in(), g.in(), gx.out());
        return {gx.to(g_.dtype())};
      });
}

Tensor fewbit_pack(const Tensor& codes_, int64_t bits) {
  DROPIN_CHECK(bits >= 1 && bits <= 8, OptionError, "fewbit_pack: bits is ", bits,
               ", expected 1 to 8");
  DROPIN_CHECK(codes_.dtype() == kUInt8, DTypeError, "fewbit_pack: codes are ", codes_.dtype(),
               ", expected uint8");
  const Tensor codes = codes_.contiguous();
  Tensor packed = empty({packed_size(codes.numel(), bits)}, codes.options());
  run<kernels::fewbit_pack>(codes.device(), codes.in(), static_cast<std::int32_t>(bits),
                            packed.out());
  return packed;
}

Tensor fewbit_unpack(const Tensor& packed_, int64_t bits, int64_t size) {
  DROPIN_CHECK(bits >= 1 && bits <= 8, OptionError, "fewbit_unpack: bits is ", bits,
               ", expected 1 to 8");
  DROPIN_CHECK(size >= 0, OptionError, "fewbit_unpack: size is ", size, ", expected at least 0");
  DROPIN_CHECK(packed_.dtype() == kUInt8, DTypeError, "fewbit_unpack: packed is ", packed_.dtype(),
               ", expected uint8");
  DROPIN_CHECK(packed_.numel() == packed_size(size, bits), ShapeError, "fewbit_unpack: packed has ",
               packed_.numel(), " bytes, expected ", packed_size(size, bits), " for ", size,
               " codes of ", bits, " bits");
  const Tensor packed = packed_.contiguous();
  Tensor codes = empty({size}, packed.options());
  run<kernels::fewbit_unpack>(packed.device(), packed.in(), static_cast<std::int32_t>(bits),
                              codes.out());
  return codes;
}

}  // namespace dropin
