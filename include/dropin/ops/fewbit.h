// Activation functions whose backward keeps a few bits per element instead of the input (Novikov et
// al. 2022, arXiv 2202.00441).
#pragma once
#include <string>
#include <string_view>

#include "dropin/autograd/autograd.h"

namespace dropin {

/// A step function for a derivative: levels[number of borders below x].
struct FewBitTable {
  std::vector<double> borders, levels;
};

/// A function and how its derivative is approximated. Names are those of fewbit_table, and relu,
/// relu6, leaky_relu, hardtanh, hardsigmoid, hardshrink, softshrink, threshold, whose derivative
/// has two values and is exact.
struct FewBitFunctionSpec {
  std::string function = "gelu";
  double a = 1,
         b = 0;  ///< elu, celu: alpha; softplus: beta, threshold; leaky_relu: slope; hardtanh: min,
                 ///< max; hardshrink, softshrink: lambda; threshold: threshold, value
  int64_t bits = 3;
  bool fold = false;  ///< the table is for |x|
};

/// y = f(x) exactly; backward multiplies by levels[code(x)]. Kept for backward: the codes, ceil(n /
/// 8) * bits bytes, and the levels; neither x nor y. Codes are made only when a gradient will be
/// asked for. x any shape; f64 in f64, others in f32. borders and levels: tensors [<= 2^bits - 1]
/// and one more (undefined for the exact functions). in_place: y takes x's memory (contiguous f32
/// or f64); go on with the result, not with x. DTypeError for integers. Not differentiable twice
/// (AutogradError).
Tensor fewbit_activation(const Tensor& x, const FewBitFunctionSpec& f, const Tensor& borders = {},
                         const Tensor& levels = {}, bool in_place = false);

/// Codes U8 below 2^bits, in row-major order -> U8 [ceil(n / 8) * bits]: one little-endian bit
/// stream per 8 codes, the last group filled with zeros. OptionError unless bits is 1..8;
/// ShapeError or Error when codes do not fit.
Tensor fewbit_pack(const Tensor& codes, int64_t bits);
/// The first `size` codes.
Tensor fewbit_unpack(const Tensor& packed, int64_t bits, int64_t size);

/// The step function of 2^bits levels nearest to the derivative of `activation` in the integral of
/// the squared error over [-domain, domain]: dynamic programming on a grid, then polished to 1e-11.
/// fold: over [0, domain], for even derivatives. Activations: gelu, silu, sigmoid, tanh, selu, elu,
/// celu, softplus, logsigmoid, mish, hardswish, softsign, tanhshrink. For domain 100 and 1..4 bits
/// the stored result of solve_fewbit_table. OptionError.
FewBitTable fewbit_table(std::string_view activation, int64_t bits, bool fold = false,
                         double domain = 100);
/// The same, always computed.
FewBitTable solve_fewbit_table(std::string_view activation, int64_t bits, bool fold = false,
                               double domain = 100);
/// The integral of (f' - q)^2 that the table leaves (over [0, domain] when folded).
double fewbit_error(std::string_view activation, const FewBitTable& table, bool fold = false,
                    double domain = 100);
/// True when the derivative is even, so that a table may be folded. OptionError for an unknown
/// activation.
bool fewbit_even(std::string_view activation);

}  // namespace dropin
