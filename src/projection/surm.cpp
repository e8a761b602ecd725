#include "dropin/projection/surm.h"

#include <cmath>

namespace dropin {

namespace {

void check_structure(std::string_view who, const detail::StructureOptions& o, int64_t in,
                     int64_t out) {
  DROPIN_CHECK(in > 0 && out > 0, OptionError, who, ": sizes ", in, " and ", out,
               " must be positive");
  DROPIN_CHECK(o.structure == "circulant" || o.structure == "toeplitz" ||
                   o.structure == "kronecker" || o.structure == "ldr",
               OptionError, who, ": structure is \"", o.structure,
               "\", expected circulant, toeplitz, kronecker or ldr");
  DROPIN_CHECK(o.toeplitz_product == "matrix" || o.toeplitz_product == "vector", OptionError, who,
               ": toeplitz_product is \"", o.toeplitz_product, "\", expected matrix or vector");
  DROPIN_CHECK(o.structure == "kronecker" || in == out, OptionError, who, ": in ", in, " and out ",
               out, " differ, expected equal sizes with structure ", o.structure);
  DROPIN_CHECK(o.num_terms >= 1, OptionError, who, ": num_terms is ", o.num_terms,
               ", expected at least 1");
  DROPIN_CHECK(o.init_std >= 0, OptionError, who, ": init_std is ", o.init_std,
               ", expected 0 or more");
  const auto& k = o.kron_shape;
  DROPIN_CHECK(k.empty() ||
                   (k.size() == 2 && k[0] > 0 && k[1] > 0 && out % k[0] == 0 && in % k[1] == 0) ||
                   o.structure != "kronecker",
               OptionError, who, ": kron_shape must be divisors of [", out, ", ", in, "]");
}

// The divisor nearest to the square root, the smaller of two.
int64_t middle_divisor(int64_t n) {
  const double root = std::sqrt(static_cast<double>(n));
  int64_t best = 1;
  for (int64_t d = 1; d <= n; ++d)
    if (n % d == 0 &&
        std::abs(static_cast<double>(d) - root) < std::abs(static_cast<double>(best) - root))
      best = d;
  return best;
}

// Entries v[index_ij] of a matrix, or with `signs` minus them above the diagonal.
Tensor by_index(const Tensor& v, const Tensor& index, bool signs = false) {
  const int64_t n = v.size(0);
  const Tensor m = index_select(v, 0, index.to(v.device()).reshape({-1})).reshape({n, n});
  return signs ? tril(m) - triu(m, 1) : m;
}
Tensor difference(int64_t n) { return arange(n).unsqueeze(1) - arange(n).unsqueeze(0); }
Tensor circulant(const Tensor& c) {
  return by_index(c, remainder(difference(c.size(0)), c.size(0)));
}
Tensor skew_circulant(const Tensor& h) {
  return by_index(h, remainder(difference(h.size(0)), h.size(0)), true);
}
Tensor symmetric(const Tensor& t) { return by_index(t, abs(difference(t.size(0)))); }

}  // namespace

detail::StructuredMatrix::StructuredMatrix(std::string_view who, const StructureOptions& o,
                                           int64_t in, int64_t out, Parameters& into)
    : in_(in), out_(out) {
  check_structure(who, o, in, out);
  if (o.structure == "ldr") {
    kind_ = Kind::Ldr;
    b_ = &into.add("G", zeros({o.num_terms, in}));
    a_ = &into.add("H", init::normal({o.num_terms, in}, o.init_std));
  } else if (o.structure == "kronecker") {
    kind_ = Kind::Kronecker;
    const int64_t rows = o.kron_shape.empty() ? middle_divisor(out) : o.kron_shape[0],
                  columns = o.kron_shape.empty() ? middle_divisor(in) : o.kron_shape[1];
    a_ = &into.add("A", init::normal({rows, columns}, o.init_std));
    b_ = &into.add("B", zeros({out / rows, in / columns}));
  } else {
    kind_ = o.structure == "toeplitz" ? Kind::Toeplitz : Kind::Circulant;
    two_ = kind_ == Kind::Toeplitz && o.use_prod && o.toeplitz_product == "matrix";
    a_ = &into.add("A", o.use_prod ? init::normal({in}, o.init_std) : zeros({in}));
    if (o.use_prod) b_ = &into.add("B", zeros({in}));
  }
}

Tensor detail::StructuredMatrix::apply(const Tensor& x) const {
  if (kind_ == Kind::Circulant) return linear(x, circulant(b_ ? *a_ * *b_ : *a_));
  if (kind_ == Kind::Toeplitz) {
    if (two_) return linear(linear(x, symmetric(*a_)), symmetric(*b_));
    return linear(x, symmetric(b_ ? *a_ * *b_ : *a_));
  }
  if (kind_ == Kind::Kronecker) {  // flatten(B X A^T)
    const Tensor rows = x.reshape({-1, in_ / a_->size(1), a_->size(1)});
    Shape sizes = x.sizes();
    sizes[static_cast<int>(x.dim()) - 1] = out_;
    return matmul(matmul(*b_, rows), a_->mT()).reshape(sizes);
  }
  Tensor y;
  for (int64_t k = 0; k < a_->size(0); ++k) {
    const Tensor term =
        linear(linear(x, skew_circulant(a_->select(0, k))), circulant(b_->select(0, k)));
    y = y.defined() ? y + term : term;
  }
  return y;
}

Tensor detail::StructuredMatrix::dense() const { return apply(eye(in_, in_, a_->options())).mT(); }

// --- SURMLinear

std::vector<std::string> SURMLinear::examples() {
  return {
      R"({"structure": "toeplitz", "trainable_alpha": true})",
      R"({"structure": "toeplitz", "toeplitz_product": "vector", "in_features": 7, "out_features": 7})",
      R"({"structure": "kronecker", "out_features": 6, "bias": false})",
      R"({"structure": "ldr", "num_terms": 2, "in_features": 7, "out_features": 7})",
      R"({"use_prod": false, "in_features": 1, "out_features": 1, "alpha": 0.5})"};
}

Json SURMLinear::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  for (const char* same : {"in_features", "out_features", "bias", "dropout"})
    if (const Json* v = options.find(same)) r.set(same, *v);
  return r;
}

SURMLinear::SURMLinear(const SURMLinearOptions& o) : Component(o) {
  create(o.in_features, o.out_features, o.bias, o.dropout);
  matrix_ = detail::StructuredMatrix(who(), o, o.in_features, o.out_features,
                                     *child<Parameters>("surm").as());
  if (o.trainable_alpha) scale_ = &parameter("scale", zeros({1}));
}

Box<SURMLinear> SURMLinear::from_linear(const Linear& layer, SURMLinearOptions o) {
  o.in_features = layer.options().in_features;
  o.out_features = layer.options().out_features;
  o.bias = layer.options().bias;
  auto m = Box<SURMLinear>(new SURMLinear(o));
  m->to(layer.weight().dtype());
  m->to(layer.weight().device());
  m->load_state_dict(layer.state_dict(), false);
  return m;
}

// --- SURMAdapter

std::vector<std::string> SURMAdapter::examples() {
  return {R"({"structure": "kronecker", "kron_shape": [4, 2], "ln_before": true})",
          R"({"structure": "toeplitz", "ln_after": true, "activation": "tanh"})",
          R"({"structure": "ldr", "activation": "linear"})"};
}

Json SURMAdapter::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  if (const int64_t width = option_or(options, {"embed_dim", "features"}, 0))
    r.set("features", width);
  for (const char* same : {"activation", "dropout"})
    if (const Json* v = options.find(same)) r.set(same, *v);
  return r;
}

SURMAdapter::SURMAdapter(const SURMAdapterOptions& o) : Component(o) {
  detail::check_activation(who(), "activation", o.activation);
  detail::check_dropout(who(), o.dropout);
  DROPIN_CHECK(o.features > 0, OptionError, who(), ": features is ", o.features,
               ", expected a positive number");
  Parameters& surm = *child<Parameters>("surm").as();
  matrix_ = detail::StructuredMatrix(who(), o, o.features, o.features, surm);
  bias_ = &surm.add("bias", zeros({o.features}));
  if (o.ln_before)
    norm_before_ = child<LayerNorm>("norm_before", {.normalized_shape = {o.features}});
  if (o.ln_after) norm_after_ = child<LayerNorm>("norm_after", {.normalized_shape = {o.features}});
}

Tensor SURMAdapter::edit(const Tensor& x) {
  const Tensor in = dropout(norm_before_ ? norm_before_(x) : x, options_.dropout, is_training());
  const Tensor y = x + detail::activated(who(), options_.activation, matrix_.apply(in)) + *bias_;
  return norm_after_ ? norm_after_(y) : y;
}

}  // namespace dropin
