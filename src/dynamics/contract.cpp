#include "dropin/dynamics/contract.h"

#include "dropin/module/init.h"
#include "dropin/module/parameters.h"

namespace dropin {

namespace {
constexpr int64_t kWidths[] = {5, 16, 64, 256}, kRows[] = {2, 64, 256, 1024};
}  // namespace

FamilyInfo Dynamics::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [B, ...] -> y [B, ...]";
  f.options = [](int size) {
    const int64_t width = SampleSpec{.size = size}.of(kWidths);
    Json field = Json::object(), dims = Json::array();
    for (const int64_t d : {width, 2 * width, width}) dims.push_back(d);
    field.set("type", "TimeDependentMLP");
    field.set("dims", dims);
    Json o = Json::object();
    for (const char* name : {"func", "drift", "diffusion"}) o.set(name, field);
    o.set("dt", 0.25);
    return o;
  };
  f.inputs = [](const Json&, const SampleSpec& s) {
    const int64_t batch = s.batch >= 0 ? s.batch : s.of(kRows);
    return Sample{{{"x", s.normal({batch, s.of(kWidths)})}}};
  };
  f.bad_inputs = bad_shape({2, 4});
  f.label = [](const Shape& x) {
    return "B:" + std::to_string(x[0]) + " D:" + std::to_string(x[1]);
  };
  return f;
}

namespace {
Tensor activated(const std::string& name, const Tensor& x) {
  if (name == "tanh") return tanh(x);
  if (name == "relu") return relu(x);
  if (name == "gelu") return gelu(x);
  if (name == "silu") return silu(x);
  if (name == "softplus") return softplus(x);
  if (name == "sigmoid") return sigmoid(x);
  fail<OptionError>({"TimeDependentMLP: activation is \"", name,
                     "\", expected tanh, relu, gelu, silu, softplus or sigmoid"});
}
}  // namespace

TimeDependentMLP::TimeDependentMLP(const TimeDependentMLPOptions& o) : Component(o) {
  DROPIN_CHECK(o.dims.size() >= 2, OptionError, who(), ": dims has ", o.dims.size(),
               " widths, expected at least 2");
  for (const int64_t d : o.dims)
    DROPIN_CHECK(d > 0, OptionError, who(), ": a width of dims is ", d,
                 ", expected a positive number");
  activated(o.activation, zeros({1}));
  Parameters& layers = *child<Parameters>("layers").as();
  for (std::size_t i = 0; i + 1 < o.dims.size(); ++i) {
    Parameters& layer = layers.bundle(std::to_string(i));
    const int64_t in = o.dims[i] + o.time_dependent, out = o.dims[i + 1];
    weights_.push_back(&layer.add("weight", init::default_uniform({out, in}, in)));
    biases_.push_back(&layer.add("bias", init::default_uniform({out}, in)));
  }
}

Tensor TimeDependentMLP::forward(const Tensor& x, double t) {
  DROPIN_CHECK(x.dim() >= 1 && x.size(-1) == options_.dims.front(), ShapeError, who(), ": x is ",
               x.sizes(), ", expected [*, ", options_.dims.front(), "]");
  Tensor y = x;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (options_.time_dependent) {
      Shape one = y.sizes();
      one[one.size() - 1] = 1;
      y = concat({y, full(one, t, y.options())}, -1);
    }
    y = linear(y, *weights_[i], *biases_[i]);
    if (i + 1 < weights_.size()) y = activated(options_.activation, y);
  }
  return y;
}

Box<VectorField> detail::make_field(std::string_view who, const char* option, const Json& spec) {
  const Json* type = spec.is_object() ? spec.find("type") : nullptr;
  DROPIN_CHECK(type && type->is_string() && type->as_string() == "TimeDependentMLP", OptionError,
               who, ": option ", option, " is ", spec.dump(),
               ", expected an object of type TimeDependentMLP; other fields are given as modules");
  Json options = Json::object();
  for (const auto& [k, v] : spec.items())
    if (k != "type") options.set(k, v);
  return Box<VectorField>(new TimeDependentMLP(
      options_from_json<TimeDependentMLPOptions>(options, "TimeDependentMLP")));
}

}  // namespace dropin
