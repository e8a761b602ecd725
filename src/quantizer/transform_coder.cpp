#include "dropin/quantizer/transform_coder.h"

#include <cmath>
#include <numbers>

#include "dropin/module/parameters.h"
#include "kernels/hd.h"

namespace dropin {

std::vector<std::string> AdaptiveTransformCoder::examples() {
  return {R"({"transform": "linear", "distribution": "logistic", "context_dim": 2})",
          R"({"transform": "mlp", "distribution": "gaussian", "hidden": 5})",
          R"({"flat_steps": true, "lambdas": [1]})"};
}

Sample AdaptiveTransformCoder::sample(const Options& o, const SampleSpec& s) {
  const int64_t batch = s.batch >= 0 ? s.batch : s.size ? 4096 : 2, n = o.block_size;
  const double last = static_cast<double>(o.lambdas.size()) - 1;
  SampleSpec other = s;
  other.seed += 1;
  Sample r{{{"x", s.normal({batch, n, n}) * 4.0}, {"rate", sigmoid(other.normal({batch})) * last}}};
  if (o.context_dim > 0) r.inputs.set("context", other.normal({batch, o.context_dim}));
  return r;
}

AdaptiveTransformCoder::AdaptiveTransformCoder(const AdaptiveTransformCoderOptions& o)
    : Component(o) {
  DROPIN_CHECK(o.block_size >= 1, OptionError, who(), ": block_size is ", o.block_size,
               ", expected at least 1");
  DROPIN_CHECK(!o.lambdas.empty(), OptionError, who(), ": lambdas is empty, expected a rate");
  double last = 0;
  for (const double l : o.lambdas) {
    DROPIN_CHECK(l > last && std::isfinite(l), OptionError, who(), ": lambdas has ", l, " after ",
                 last, ", expected positive numbers that grow");
    last = l;
  }
  DROPIN_CHECK(o.transform == "dct" || o.transform == "linear" || o.transform == "mlp", OptionError,
               who(), ": transform is \"", o.transform, "\", expected dct, linear or mlp");
  DROPIN_CHECK(
      o.distribution == "laplace" || o.distribution == "logistic" || o.distribution == "gaussian",
      OptionError, who(), ": distribution is \"", o.distribution,
      "\", expected laplace, logistic or gaussian");
  DROPIN_CHECK(o.context_dim >= 0 && o.hidden >= 0, OptionError, who(), ": context_dim ",
               o.context_dim, " and hidden ", o.hidden, ", expected at least 0");
  const int64_t n = size(), r = rates();
  Tensor steps = empty({r, o.flat_steps ? 1 : n});
  for (int64_t i = 0; i < r; ++i)  // the best at high rates
    steps[i].fill_(std::log(6 / (o.lambdas[dropin::at(i)] * std::numbers::ln2)) / 2);
  log_step_ = &parameter("log_step", steps);
  raw_scale_ = &parameter("raw_scale", zeros({r, n}));
  no_grad guard;
  auto plain = [&](const char* name, int64_t in) {
    return child<Linear>(name, {.in_features = in, .out_features = n, .bias = false});
  };
  if (o.context_dim > 0) {
    context_proj_ = plain("context_proj", o.context_dim);
    context_proj_.as()->weight().zero_();
  }
  if (o.transform == "dct") return;
  const Tensor c = DCT2d::matrix(o.block_size);
  const Tensor both = einsum("ki,lj->klij", {c, c}).reshape({n, n});
  analysis_ = plain("analysis", n);
  analysis_.as()->weight().copy_(both);
  synthesis_ = plain("synthesis", n);
  synthesis_.as()->weight().copy_(both.mT());
  if (o.transform == "linear") return;
  const int64_t hidden = o.hidden ? o.hidden : n;
  auto mlp = [&](const char* name, Child<Linear>& first, Child<Linear>& second) {
    Parameters& p = *child<Parameters>(name).as();
    first = p.child<Linear>("fc1", {.in_features = n, .out_features = hidden});
    auto last_layer = p.child<Linear>("fc2", {.in_features = hidden, .out_features = n});
    last_layer.as()->weight().zero_();
    last_layer.as()->bias().zero_();
    second = last_layer;
  };
  mlp("analysis_mlp", analysis_fc1_, analysis_fc2_);
  mlp("synthesis_mlp", synthesis_fc1_, synthesis_fc2_);
}

void AdaptiveTransformCoder::check_inputs(const Tensor& x, const CoderArgs& args) const {
  const auto& o = options_;
  const int64_t b = x.size(0);
  if (args.rate.defined()) {
    DROPIN_CHECK(args.rate.sizes() == Shape{b} && is_floating(args.rate.dtype()), ShapeError, who(),
                 ": rate is ", args.rate.dtype(), " ", args.rate.sizes(), ", expected floats [", b,
                 "]");
    const double last = static_cast<double>(rates()) - 1;
    DROPIN_CHECK(all(logical_and(args.rate >= 0.0, args.rate <= last)).item<bool>(), OptionError,
                 who(), ": rate holds a number outside [0, ", last, "], expected it within");
  }
  DROPIN_CHECK(o.context_dim == 0 || args.context.defined(), StateError, who(),
               ": no context given, expected [", b, ", ", o.context_dim, "]");
  if (args.context.defined())
    DROPIN_CHECK(o.context_dim > 0 && args.context.sizes() == (Shape{b, o.context_dim}), ShapeError,
                 who(), ": context is ", args.context.sizes(), ", expected [", b, ", ",
                 o.context_dim, "]", o.context_dim ? "" : ", none, because context_dim = 0");
  if (args.noise.defined())
    DROPIN_CHECK(args.noise.sizes() == (Shape{b, size()}), ShapeError, who(), ": noise is ",
                 args.noise.sizes(), ", expected [", b, ", ", size(), "]");
}

AdaptiveTransformCoder::Places AdaptiveTransformCoder::places(const Tensor& rate, int64_t batch,
                                                              const TensorOptions& like) const {
  if (rates() == 1 || !rate.defined()) {
    const Tensor first = zeros({batch}, {kInt64, like.device});
    return {first, first, zeros({batch, 1}, like)};
  }
  const Tensor low = clamp(floor(rate.detach().to(kFloat64)), 0, static_cast<double>(rates() - 2));
  return {low.to(kInt64), low.to(kInt64) + 1,
          (rate.detach().to(kFloat64) - low).to(like.dtype).unsqueeze(1)};
}
Tensor AdaptiveTransformCoder::row(const Tensor& table, const Places& p) const {
  const Tensor low = index_select(table, 0, p.low);
  if (rates() == 1) return low;
  return low * (1 - p.share) + index_select(table, 0, p.high) * p.share;
}
Tensor AdaptiveTransformCoder::lambdas(const Places& p, const TensorOptions& like) const {
  const Tensor logs = log(tensor(options_.lambdas, {rates(), 1}, kFloat64));
  return exp(row(logs.to(like.dtype, like.device), p)).squeeze(1);
}

Tensor AdaptiveTransformCoder::analysed(const Tensor& v) const {
  if (options_.transform == "dct") {
    const int64_t n = options_.block_size;
    const Tensor c = DCT2d::matrix(n).to(v.dtype(), v.device());
    return matmul(matmul(c, v.reshape({v.size(0), n, n})), c.mT()).reshape(v.sizes());
  }
  const Tensor a = analysis_(v);
  return analysis_fc1_ ? a + analysis_fc2_(gelu(analysis_fc1_(v))) : a;
}
Tensor AdaptiveTransformCoder::synthesised(const Tensor& w) const {
  if (options_.transform == "dct") {
    const int64_t n = options_.block_size;
    const Tensor c = DCT2d::matrix(n).to(w.dtype(), w.device());
    return matmul(matmul(c.mT(), w.reshape({w.size(0), n, n})), c).reshape(w.sizes());
  }
  const Tensor r = synthesis_(w);
  return synthesis_fc1_ ? r + synthesis_fc2_(gelu(synthesis_fc1_(w))) : r;
}

namespace {

// Of a symmetric law around 0; probabilities below the floor do not matter, so that float64 holds
// the Gaussian's tail.
Tensor distribution(const std::string& name, const Tensor& t) {
  if (name == "logistic") return sigmoid(t);
  if (name == "gaussian") return (erf(t * std::numbers::sqrt2 * 0.5) + 1) * 0.5;
  const Tensor tail = exp(-abs(t)) * 0.5;
  return where(t < 0.0, tail, 1 - tail);
}
// Half to even, the gradient straight through.
Tensor rounded(const Tensor& u) {
  Tensor q;
  {
    no_grad guard;
    q = round(u);
  }
  return record("round_through", q, {u}, {},
                [](const Saved&, const Tensor& g) -> Tensors { return {g}; });
}
Tensor as_symbols(const Tensor& q) {
  constexpr double kMost = 9007199254740992.0;  // 2^53
  return clamp(masked_fill(q.detach(), isnan(q.detach()), 0).to(kFloat64), -kMost, kMost)
      .to(kInt64);
}

}  // namespace

Tensor AdaptiveTransformCoder::bits_of(const Tensor& q, const Places& p,
                                       const Tensor& context) const {
  Tensor raw = row(*raw_scale_, p);
  if (context_proj_) raw = raw + context_proj_(context.to(raw.dtype()));
  Tensor b = softplus(raw) + 1e-4, d = abs(q);
  const std::string& law = options_.distribution;
  if (law == "gaussian") b = b.to(kFloat64), d = d.to(kFloat64);
  const Tensor chance = distribution(law, (0.5 - d) / b) - distribution(law, (-0.5 - d) / b);
  return sum(-log2(clamp(chance, 1e-9, kernels::kInf<double>)), {1}).to(q.dtype());
}

Coded AdaptiveTransformCoder::forward(const Tensor& x, const CoderArgs& args) {
  const int64_t n = options_.block_size;
  DROPIN_CHECK(x.dim() == 3 && x.size(1) == n && x.size(2) == n, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [B, ", n, ", ", n, "] because block_size = ", n);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  check_inputs(x, args);
  const int64_t b = x.size(0);
  const Tensor v = x.reshape({b, size()});
  const Places p = places(args.rate, b, x.options());
  const Tensor step = exp(row(*log_step_, p)), u = analysed(v) / step;
  Coded r;
  Tensor q;
  if (is_training()) {
    q = u + (args.noise.defined() ? args.noise.to(u.dtype()) : rand(u.sizes(), u.options()) - 0.5);
  } else {
    q = rounded(u);
    r.symbols = as_symbols(q);
  }
  const Tensor y = synthesised(q * step);
  r.y = y.reshape(x.sizes());
  r.bits = bits_of(q, p, args.context);
  const Tensor error = mean(square(v - y), {1}),
               each = r.bits * (1 / static_cast<double>(size())) + lambdas(p, x.options()) * error;
  r.loss = b ? mean(each) : sum(each);
  return r;
}

Tensor AdaptiveTransformCoder::encode(const Tensor& x, const CoderArgs& args) {
  no_grad guard;
  DROPIN_CHECK(x.dim() == 3 && x.size(1) == options_.block_size && x.size(2) == options_.block_size,
               ShapeError, who(), ": encode: x is ", x.sizes(), ", expected [B, ",
               options_.block_size, ", ", options_.block_size, "]");
  check_inputs(x, args);
  const Places p = places(args.rate, x.size(0), x.options());
  const Tensor u = analysed(x.reshape({x.size(0), size()})) / exp(row(*log_step_, p));
  DROPIN_CHECK(all(abs(u) <= 9007199254740992.0).item<bool>(), OptionError, who(),
               ": encode: a coefficient is not finite or beyond 2^53 steps, expected less");
  return as_symbols(round(u));
}

Tensor AdaptiveTransformCoder::decode(const Tensor& symbols, const CoderArgs& args) {
  no_grad guard;
  DROPIN_CHECK(symbols.dtype() == kInt64, DTypeError, who(), ": decode: symbols are ",
               symbols.dtype(), ", expected int64");
  DROPIN_CHECK(symbols.dim() == 2 && symbols.size(1) == size(), ShapeError, who(),
               ": decode: symbols are ", symbols.sizes(), ", expected [B, ", size(), "]");
  const Tensor q = symbols.to(log_step_->dtype());
  const int64_t n = options_.block_size;
  check_inputs(q.reshape({q.size(0), n, n}), args);
  const Places p = places(args.rate, q.size(0), q.options());
  return synthesised(q * exp(row(*log_step_, p))).reshape({q.size(0), n, n});
}

Box<AdaptiveTransformCoder> AdaptiveTransformCoder::at(double rate) const {
  DROPIN_CHECK(rate >= 0 && rate <= static_cast<double>(rates() - 1), OptionError, who(),
               ": at: rate is ", rate, ", expected 0 to ", rates() - 1);
  no_grad guard;
  const Places p = places(tensor({rate}, kFloat64), 1, {kFloat64, kCPU});
  AdaptiveTransformCoderOptions o = options_;
  o.lambdas = {lambdas(p, {kFloat64, kCPU}).item()};
  Box<AdaptiveTransformCoder> r(new AdaptiveTransformCoder(o));
  r->to(log_step_->dtype());
  r->to(log_step_->device());
  StateDict state;
  const Places here =
      places(tensor({rate}, kFloat64).to(log_step_->device()), 1, log_step_->options());
  for (const auto& [name, t] : state_dict())
    state.set(name, name == "log_step" || name == "raw_scale" ? row(t, here) : t);
  r->load_state_dict(state);
  return r;
}

}  // namespace dropin
