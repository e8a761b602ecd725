#include "dropin/feed_forward/bilinear_mlp.h"

#include <cmath>

namespace dropin {

std::vector<std::string> BilinearMLP::examples() {
  return {R"({"gate": "relu", "bias": true, "d_out": 5})", R"({"noise": 0.3})"};
}

Json BilinearMLP::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  const int64_t width = option_or(options, {"embed_dim", "d_model"}, 0);
  if (width == 0) return r;
  r.set("d_model", width);
  r.set("d_hidden", option_or(options, {"hidden_dim", "d_hidden"}, 4 * width));
  if (const Json* bias = options.find("bias")) r.set("bias", *bias);
  return r;
}

BilinearMLP::BilinearMLP(const BilinearMLPOptions& o) : Component(o) {
  DROPIN_CHECK(o.d_model > 0 && o.d_hidden > 0 && o.d_out >= 0, OptionError, who(), ": d_model ",
               o.d_model, " and d_hidden ", o.d_hidden, " must be positive and d_out ", o.d_out,
               " not negative");
  DROPIN_CHECK(o.gate == "none" || o.gate == "relu", OptionError, who(), ": gate is \"", o.gate,
               "\", expected none or relu");
  DROPIN_CHECK(o.noise >= 0 && std::isfinite(o.noise), OptionError, who(), ": noise is ", o.noise,
               ", expected 0 or a positive scale");
  w_ = child<Linear>("w",
                     {.in_features = o.d_model, .out_features = 2 * o.d_hidden, .bias = o.bias});
  o_ = child<Linear>(
      "o",
      {.in_features = o.d_hidden, .out_features = o.d_out ? o.d_out : o.d_model, .bias = o.bias});
}

Box<BilinearMLP> BilinearMLP::from_swiglu(const GatedMLP& gated) {
  const MLPOptions& g = gated.options();
  auto m =
      Box<BilinearMLP>(new BilinearMLP({.d_model = g.embed_dim,
                                        .d_hidden = g.hidden_dim ? g.hidden_dim : 4 * g.embed_dim,
                                        .bias = g.bias}));
  StateDict mine;
  const StateDict theirs = gated.state_dict();
  for (const char* kind : {"weight", "bias"}) {
    const Tensor gate = theirs.find(std::string("gate.") + kind);
    if (!gate.defined()) continue;
    mine.set(std::string("w.") + kind,
             concat({gate.detach(), theirs.find(std::string("up.") + kind).detach()}, 0));
    mine.set(std::string("o.") + kind, theirs.find(std::string("down.") + kind));
  }
  m->load_state_dict(mine);
  return m;
}

Tensor BilinearMLP::forward(const Tensor& x_in) {
  const auto& o = options_;
  DROPIN_CHECK(x_in.dim() > 0 && x_in.size(-1) == o.d_model, ShapeError, who(), ": x is ",
               x_in.sizes(), ", expected [*, ", o.d_model, "] because d_model = ", o.d_model);
  DROPIN_CHECK(is_floating(x_in.dtype()), DTypeError, who(), ": x is ", x_in.dtype(),
               ", expected a floating-point tensor");
  Tensor x = x_in;
  if (o.noise > 0 && is_training() && x.numel() > 1)
    x = x + std_dev(x) * o.noise * randn(x.sizes(), x.options());
  const Tensor both = w_(x);
  const Tensor left = both.narrow(-1, 0, o.d_hidden),
               right = both.narrow(-1, o.d_hidden, o.d_hidden);
  return o_((o.gate == "relu" ? relu(left) : left) * right);
}

namespace {

void check_weights(std::string_view who, const Tensor& w, const Tensor& o, const Tensor& u,
                   const Tensor& x, const Tensor& bias) {
  DROPIN_CHECK(w.dim() == 2 && w.size(0) % 2 == 0 && is_floating(w.dtype()), ShapeError, who,
               ": w_weight is ", w.sizes(), " ", w.dtype(), ", expected [2 h, d] of floats");
  DROPIN_CHECK(o.dim() == 2 && o.size(1) == w.size(0) / 2, ShapeError, who, ": o_weight is ",
               o.sizes(), ", expected [o, ", w.size(0) / 2, "]");
  DROPIN_CHECK(u.dim() == 2 && u.size(1) == o.size(0), ShapeError, who, ": directions are ",
               u.sizes(), ", expected [K, ", o.size(0), "]");
  DROPIN_CHECK(!x.defined() || (x.dim() == 2 && x.size(1) == w.size(1)), ShapeError, who, ": x is ",
               x.defined() ? x.sizes() : Shape{}, ", expected [N, ", w.size(1), "]");
  DROPIN_CHECK(!bias.defined() || (bias.dim() == 1 && bias.size(0) == w.size(0)), ShapeError, who,
               ": w_bias is ", bias.defined() ? bias.sizes() : Shape{}, ", expected [", w.size(0),
               "]");
}

// [n, d] float64, with a column of the bias, or of ones.
Tensor wide(const Tensor& x, const Tensor& last) {
  const Tensor y = x.detach().to(kFloat64);
  return last.defined() ? concat({y, last.detach().to(kFloat64).unsqueeze(1)}, 1) : y;
}

// Rows whose entry of largest magnitude is positive.
Tensor with_signs(const Tensor& rows) {
  const Tensor top = argmax(abs(rows), -1, true), at_top = gather(rows, -1, top);
  return rows * where(at_top < 0.0, full({1}, -1.0, rows.options()), 1.0);
}

// The analysis in float64, on the CPU, where decompositions run.
BilinearEigen analysed(std::string_view who, const Tensor& w_given, const Tensor& o_given,
                       const Tensor& u_given, const Tensor& x_given, const Tensor& bias_given) {
  check_weights(who, w_given, o_given, u_given, x_given, bias_given);
  no_grad guard;
  auto here = [](const Tensor& t) { return t.defined() ? t.detach().to(kCPU) : t; };
  const Tensor w = here(w_given), o = here(o_given), u = here(u_given), x = here(x_given),
               bias = here(bias_given);
  const int64_t h = w.size(0) / 2;
  const Tensor all = wide(w, bias), left = all.narrow(0, 0, h), right = all.narrow(0, h, h),
               weights = matmul(u.detach().to(kFloat64), o.detach().to(kFloat64));
  BilinearEigen r;
  const Tensor q = matmul((left.unsqueeze(0) * weights.unsqueeze(-1)).mT(), right);
  r.interaction = (q + q.mT()) * 0.5;
  if (!dropin::all(isfinite(r.interaction)).item<bool>())
    fail<Error>({who, ": the weights or directions are not finite, expected finite ones"});
  const Eigh e = eigh(r.interaction);
  r.eigenvalues = e.values;
  r.eigenvectors = with_signs(e.vectors.mT());
  if (!x.defined()) return r;
  const Tensor input = wide(x, bias.defined() ? ones({x.size(0)}, x.options()) : Tensor());
  const Tensor along = matmul(input.unsqueeze(0), r.eigenvectors.mT());  // [K, N, D]
  r.contributions = (square(along) * r.eigenvalues.unsqueeze(1)).transpose(0, 1);
  return r;
}

}  // namespace

BilinearEigen bilinear_eigen(const Tensor& w, const Tensor& o, const Tensor& u, const Tensor& x,
                             const Tensor& bias) {
  const BilinearEigen r = analysed("bilinear_eigen", w, o, u, x, bias);
  const DType type = w.dtype();
  auto back = [&](const Tensor& t) { return t.to(type).to(w.device()); };
  Tensors out{back(r.interaction), back(r.eigenvalues), back(r.eigenvectors)};
  if (r.contributions.defined()) out.push_back(back(r.contributions.contiguous()));
  Tensors in{w, o, u};
  if (x.defined()) in.push_back(x);
  if (bias.defined()) in.push_back(bias);
  out = record_many("bilinear_eigen", out, in, {}, [](const Saved&, const Tensors&) -> Tensors {
    fail<AutogradError>({"bilinear_eigen: the analysis has no gradient"});
  });
  return {out[0], out[1], out[2], out.size() > 3 ? out[3] : Tensor()};
}

void BilinearMLP::check_bilinear(const char* what) const {
  DROPIN_CHECK(options_.gate == "none", OptionError, who(), ": ", what,
               " needs gate = \"none\"; with \"", options_.gate, "\" it is no quadratic form");
}

Tensor BilinearMLP::interaction(const Tensor& u) const {
  check_bilinear("interaction()");
  const Linear &w = *w_.as(), &o = *o_.as();
  return analysed(who(), w.weight(), o.weight(), u, {}, w.bias())
      .interaction.to(w.weight().dtype());
}

BilinearMLP::Eigen BilinearMLP::eigen(const Tensor& u) const {
  check_bilinear("eigen()");
  const Linear &w = *w_.as(), &o = *o_.as();
  const BilinearEigen r = analysed(who(), w.weight(), o.weight(), u, {}, w.bias());
  return {r.eigenvalues.to(w.weight().dtype()), r.eigenvectors.to(w.weight().dtype())};
}

Tensor BilinearMLP::truncated(const Tensor& u, int64_t k, const Tensor& x, KeptPairs keep) const {
  check_bilinear("truncated()");
  const Linear &w = *w_.as(), &o = *o_.as();
  const BilinearEigen r = analysed(who(), w.weight(), o.weight(), u, x, w.bias());
  DROPIN_CHECK(r.contributions.defined(), StateError, who(), ": truncated() needs x");
  const Tensor values = r.eigenvalues;
  const int64_t width = values.size(1);
  DROPIN_CHECK(k >= 0 && k <= width, OptionError, who(), ": truncated: k is ", k,
               ", expected 0 to ", width);
  no_grad guard;
  Tensor kept = zeros_like(values);
  const Tensor one = ones_like(values);
  auto take = [&](const Tensor& score, int64_t n) {
    const Tensor best = argsort(score, -1, true).narrow(-1, 0, n);
    kept = scatter(kept, -1, best, one.narrow(-1, 0, n));
  };
  if (keep == KeptPairs::Largest) {
    take(abs(values), k);
  } else {
    take(values, k / 2);
    take(-values, k / 2);
  }
  Tensor y = sum(r.contributions * kept, {-1});
  if (o.bias().defined()) y = y + matmul(u.detach().to(kFloat64), o.bias().detach().to(kFloat64));
  return y.to(w.weight().dtype());
}

BilinearMLP::Directions BilinearMLP::hosvd(int64_t k) const {
  check_bilinear("hosvd()");
  const Linear &w = *w_.as(), &o = *o_.as();
  const int64_t h = options_.d_hidden, width = o.weight().size(0);
  DROPIN_CHECK(k >= 1 && k <= width, OptionError, who(), ": hosvd: k is ", k, ", expected 1 to ",
               width);
  no_grad guard;
  const Tensor all = wide(w.weight(), w.bias()), left = all.narrow(0, 0, h),
               right = all.narrow(0, h, h), out = o.weight().detach().to(kFloat64);
  const Tensor cross = matmul(left, right.mT());
  const Tensor inner =
      (matmul(left, left.mT()) * matmul(right, right.mT()) + cross * cross.mT()) * 0.5;
  const Tensor gram = matmul(matmul(out, inner), out.mT());
  if (!dropin::all(isfinite(gram)).item<bool>())
    fail<Error>({who(), ": hosvd: the weights are not finite, expected finite ones"});
  const Eigh e = eigh(gram);
  const Tensor values = flip(e.values, {0}).narrow(0, 0, k),
               directions = with_signs(flip(e.vectors.mT(), {0}).narrow(0, 0, k));
  const Tensor sizes = sqrt(where(values < 0.0, 0.0, values));
  const Tensor forms =
      analysed(who(), w.weight(), o.weight(), directions, {}, w.bias()).interaction;
  const DType type = w.weight().dtype();
  return {sizes.to(type), directions.to(type),
          where(sizes.reshape({k, 1, 1}) > 0.0, forms / sizes.reshape({k, 1, 1}), 0.0).to(type)};
}

}  // namespace dropin
