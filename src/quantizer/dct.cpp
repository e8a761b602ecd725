#include <cmath>
#include <numbers>

#include "dropin/quantizer/transform_coder.h"

namespace dropin {

FamilyInfo TransformCoder::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [B, n, n], rate [B] -> y [B, n, n], bits [B], loss []";
  f.options = [](int size) {
    Json o = json_of({{"block_size", size ? 8 : 3}}), l = Json::array();
    for (const double v : {0.5, 2.0, 8.0, 32.0}) l.push_back(v);
    o.set("lambdas", l);
    return o;
  };
  f.bad_inputs = bad_shape({2, 5, 4});
  return f;
}

NamedTensors TransformCoder::call(const NamedTensors& in) {
  const Coded c =
      forward(in.get("x", type()), {in.find("rate"), in.find("context"), in.find("noise")});
  NamedTensors out{{"y", c.y}, {"bits", c.bits}, {"loss", c.loss}};
  if (c.symbols.defined()) out.set("symbols", c.symbols);
  return out;
}

Sample DCT2d::sample(const Options& o, const SampleSpec& s) {
  const int64_t batch = s.batch >= 0 ? s.batch : s.size ? 4096 : 2;
  return {{{"x", s.normal({batch, o.block_size, o.block_size})}}};
}

Tensor DCT2d::matrix(int64_t n) {
  std::vector<double> c;
  const auto size = static_cast<double>(n);
  for (int64_t k = 0; k < n; ++k)
    for (int64_t i = 0; i < n; ++i)
      c.push_back(std::sqrt((k ? 2 : 1) / size) *
                  std::cos(std::numbers::pi * static_cast<double>((2 * i + 1) * k) / (2 * size)));
  return tensor(c, {n, n}, kFloat64);
}

DCT2d::DCT2d(const DCT2dOptions& o) : Component(o) {
  DROPIN_CHECK(o.block_size >= 1, OptionError, who(), ": block_size is ", o.block_size,
               ", expected at least 1");
}

Tensor DCT2d::forward(const Tensor& x) {
  const int64_t n = options_.block_size;
  DROPIN_CHECK(x.dim() >= 2 && x.size(-1) == n && x.size(-2) == n, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [*, ", n, ", ", n, "] because block_size = ", n);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  Tensor c = matrix(n).to(x.dtype(), x.device());
  if (options_.inverse) c = c.mT();
  return matmul(matmul(c, x), c.mT());
}

}  // namespace dropin
