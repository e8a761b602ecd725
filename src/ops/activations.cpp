// Activation functions.
#include <cmath>
#include <limits>

#include "ops/pointwise.h"

namespace dropin {

using kernels::Unary;
using kernels::UnaryGrad;
using ops_detail::clamped;
using ops_detail::composed_unary;
using ops_detail::fused_unary;
using ops_detail::Keep;
using ops_detail::real;

Tensor sigmoid(const Tensor& x) {
  return fused_unary("sigmoid", Unary::Sigmoid, UnaryGrad::Sigmoid, Keep::Y, x,
                     [](const Tensor& g, const Tensor& y) { return g * y * (1.0 - y); });
}
Tensor logsigmoid(const Tensor& x) {
  return composed_unary("logsigmoid", Unary::LogSigmoid, x,
                        [](const Tensor& v) { return sigmoid(-v); });
}
Tensor softplus(const Tensor& x, double beta, double threshold) {
  if (beta != 1) return where(x * beta > threshold, x, softplus(x * beta, 1, threshold) / beta);
  if (threshold != 20) return where(x > threshold, x, softplus(x));
  return fused_unary("softplus", Unary::Softplus, UnaryGrad::Softplus, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g * sigmoid(v); });
}
Tensor relu(const Tensor& x) {
  if (!is_floating(x.dtype())) return clamped(x, 0, std::numeric_limits<double>::infinity());
  return fused_unary("relu", Unary::Relu, UnaryGrad::Relu, Keep::Y, x,
                     [](const Tensor& g, const Tensor& y) { return where(y <= 0, 0.0, g); });
}
Tensor hardtanh(const Tensor& x, double min_val, double max_val) {
  DROPIN_CHECK(min_val < max_val, OptionError, "hardtanh: min_val ", min_val,
               " is not below max_val ", max_val);
  return record("hardtanh", clamp(x.detach(), min_val, max_val), {x}, {x},
                [min_val, max_val](const Saved& s, const Tensor& g) -> Tensors {
                  return {where(logical_or(s[0] <= min_val, s[0] >= max_val), 0.0, g)};
                });
}
Tensor relu6(const Tensor& x) { return hardtanh(x, 0, 6); }
Tensor softshrink(const Tensor& x_, double lambda) {  // its result is 0 just where its slope is
  const Tensor x = real(x_);
  const Tensor v = item_size(x.dtype()) < 4 ? x.detach().to(kFloat32) : x.detach();
  const Tensor y = (v - clamp(v, -lambda, lambda)).to(x.dtype());
  return record("softshrink", y, {x}, {y}, [](const Saved& s, const Tensor& g) -> Tensors {
    return {where(s[0] == 0.0, 0.0, g)};
  });
}
Tensor leaky_relu(const Tensor& x, double slope) { return where(x > 0.0, x, x * slope); }
Tensor elu(const Tensor& x_, double alpha) {  // its slope at 0 is alpha
  const Tensor x = real(x_), v = x.detach();
  const double inf = std::numeric_limits<double>::infinity();
  return record("elu", where(v > 0, v, expm1(clamp(v, -inf, 0)) * alpha), {x}, {x},
                [alpha, inf](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor low = clamp(s[0], -inf, 0);  // so that exp stays finite
                  return {where(s[0] <= 0, g * (exp(low) * alpha), g)};
                });
}
Tensor celu(const Tensor& x_, double alpha) {  // its slope at 0 is 1
  const Tensor x = real(x_), v = x.detach();
  const double inf = std::numeric_limits<double>::infinity();
  return record("celu", where(v > 0, v, expm1(clamp(v, -inf, 0) / alpha) * alpha), {x}, {x},
                [alpha, inf](const Saved& s, const Tensor& g) -> Tensors {
                  return {where(s[0] <= 0, g * exp(clamp(s[0], -inf, 0) / alpha), g)};
                });
}
Tensor selu(const Tensor& x) {
  return elu(x, 1.6732632423543772848170429916717) * 1.0507009873554804934193349852946;
}
namespace {
Tensor silu_slope(const Tensor& v) {
  const Tensor s = sigmoid(v);
  return s * (v * (1.0 - s) + 1.0);
}
Tensor gelu_slope(const Tensor& v) {
  return (erf(v * std::sqrt(0.5)) + 1.0) * 0.5 +
         v * exp(square(v) * -0.5) * (1 / std::sqrt(2 * M_PI));
}
Tensor gelu_tanh_slope(const Tensor& v) {
  const double k = std::sqrt(2 / M_PI), c = 0.044715;
  const Tensor t = tanh((v + v * v * v * c) * k);
  return (t + 1.0) * 0.5 + v * (1.0 - square(t)) * (square(v) * (3 * c) + 1.0) * (0.5 * k);
}
}  // namespace
Tensor silu(const Tensor& x) {
  return fused_unary("silu", Unary::Silu, UnaryGrad::Silu, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g * silu_slope(v); });
}
Tensor gelu(const Tensor& x, std::string_view approximate) {
  if (approximate == "tanh")
    return fused_unary("gelu", Unary::GeluTanh, UnaryGrad::GeluTanh, Keep::X, x,
                       [](const Tensor& g, const Tensor& v) { return g * gelu_tanh_slope(v); });
  if (approximate != "none")
    fail<OptionError>({"gelu: approximate is \"", approximate, "\", expected none or tanh"});
  return fused_unary("gelu", Unary::Gelu, UnaryGrad::Gelu, Keep::X, x,
                     [](const Tensor& g, const Tensor& v) { return g * gelu_slope(v); });
}
Tensor softsign(const Tensor& x) { return x / (abs(x) + 1.0); }
Tensor hardsigmoid(const Tensor& x_) {
  const Tensor x = real(x_);
  return record("hardsigmoid", relu6(x.detach() + 3.0) / 6.0, {x}, {x},
                [](const Saved& s, const Tensor& g) -> Tensors {
                  return {where(logical_and(s[0] > -3, s[0] < 3), g / 6.0, 0.0)};
                });
}
Tensor hardswish(
    const Tensor& x) {  // by its slope: the product's would be 0 times infinity far below
  return record("hardswish", x.detach() * hardsigmoid(x.detach()), {x}, {x},
                [](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor inside = where(s[0] < 3, g * (s[0] / 3.0 + 0.5), g);
                  return {where(s[0] <= -3, 0.0, inside)};
                });
}

}  // namespace dropin
