#include "dropin/projection/sparse_ift.h"

#include <cmath>

namespace dropin {

namespace {

double real(int64_t n) { return static_cast<double>(n); }

void check_sparse(std::string_view who, const detail::SparseIFTOptions& o) {
  DROPIN_CHECK(o.sparsity > 0 && o.sparsity < 1, OptionError, who, ": sparsity is ", o.sparsity,
               ", expected between 0 and 1");
  DROPIN_CHECK(!o.density || (*o.density >= 0 && *o.density <= 1), OptionError, who,
               ": density is ", o.density.value_or(0), ", expected 0 to 1 or null");
  DROPIN_CHECK(o.transform == "wide" || o.transform == "parallel" || o.transform == "factorized" ||
                   o.transform == "doped",
               OptionError, who, ": transform is \"", o.transform,
               "\", expected wide, parallel, factorized or doped");
  DROPIN_CHECK(o.norm == "none" || o.norm == "batchnorm", OptionError, who, ": norm is \"", o.norm,
               "\", expected none or batchnorm");
  DROPIN_CHECK(o.activation == "none" || o.activation == "relu", OptionError, who,
               ": activation is \"", o.activation, "\", expected none or relu");
  DROPIN_CHECK(o.mask_init == "exact" || o.mask_init == "random" || o.mask_init == "topk" ||
                   o.mask_init == "dense",
               OptionError, who, ": mask_init is \"", o.mask_init,
               "\", expected exact, random, topk or dense");
}

Tensor start_mask(const Tensor& w, const detail::SparseIFTOptions& o) {
  const double density = o.density.value_or(1 - o.sparsity),
               none = o.density ? 1 - *o.density : o.sparsity;
  const int64_t n = w.numel();
  if (o.mask_init == "dense") return ones(w.sizes(), kBool);
  if (o.mask_init == "random") return rand(w.sizes()) < density;
  const bool largest = o.mask_init == "topk";
  const int64_t active =
      largest ? n - static_cast<int64_t>(none * real(n)) : static_cast<int64_t>(density * real(n));
  const Tensor order = largest ? argsort(abs(w.detach()).reshape({-1}), -1, true) : randperm(n);
  const Tensor at = order.narrow(0, 0, active);
  return (scatter(zeros({n}), 0, at, ones({active})) > 0.0).reshape(w.sizes());
}

// The masked weight; its gradient is masked, or not where the dense one is wanted.
Tensor times_mask(const Tensor& w, const Tensor& mask, bool dense_grad) {
  const Tensor y = masked_fill(dense_grad ? w.detach() : w, logical_not(mask), 0);
  if (!dense_grad) return y;
  return record("masked_weight", y, {w}, {},
                [](const Saved&, const Tensor& g) -> Tensors { return {g}; });
}

}  // namespace

// Creates weights of one layer under names.
struct detail::SparseIFT::Builder {
  const SparseIFTOptions& o;
  Shape kernel;  // empty: matrices

  Shape sizes(int64_t rows, int64_t columns, bool first) const {
    if (kernel.size() == 0) return {rows, columns};
    return first ? Shape{rows, columns, kernel[0], kernel[1]} : Shape{rows, columns, 1, 1};
  }
  Weight weight(const Host& host, const Shape& z, bool factor, bool sparse) const {
    const double shrink = o.rescale_init ? std::sqrt(1 - o.sparsity) : 1;
    const int64_t fan_out = z[0] * (z.size() == 4 ? z[2] * z[3] : 1);
    const Tensor start = z.size() == 4 || factor
                             ? init::normal(z, std::sqrt(2 / real(fan_out)) / shrink)
                             : init::default_uniform(z, z[1]) / shrink;
    Weight w{&host.parameter("weight", start), nullptr};
    if (sparse) w.mask = &host.buffer("weight_mask", start_mask(start, o));
    return w;
  }
  static Host within(Parameters& p) {
    Host h;
    h.parameter = [&p](const std::string& n, const Tensor& t) -> Tensor& { return p.add(n, t); };
    h.buffer = [&p](const std::string& n, const Tensor& t) -> Tensor& {
      return p.add_buffer(n, t);
    };
    h.bundle = [&p](const std::string& n) -> Parameters& { return p.bundle(n); };
    h.norm = [&p](const std::string& n, int64_t width) {
      return p.child<BatchNorm2d>(n, {.num_features = width});
    };
    return h;
  }
};

void detail::SparseIFT::create(std::string_view who, const SparseIFTOptions& o, int64_t in,
                               int64_t out, const Shape& kernel, const Host& host) {
  DROPIN_CHECK(in > 0 && out > 0, OptionError, who, ": sizes ", in, " and ", out,
               " must be positive");
  check_sparse(who, o);
  who_ = std::string(who);
  transform_ = o.transform;
  activation_ = o.activation;
  in_ = in;
  out_ = out;
  const Builder b{o, kernel};
  const double s = o.sparsity;
  const int64_t area = kernel.size() ? kernel[0] * kernel[1] : 1;
  if (o.transform == "wide") {
    const double k = std::sqrt(1 / (1 - s));
    if (o.widen_in) in_ = static_cast<int64_t>(std::floor(k * real(in) + 1e-6));
    if (o.widen_out) out_ = static_cast<int64_t>(std::floor(k * real(out) + 1e-6));
    first_.push_back(b.weight(host, b.sizes(out_, in_, true), false, true));
  } else if (o.transform == "parallel") {
    const auto n = static_cast<int64_t>(std::max(1.0, std::nearbyint(1 / (1 - s))));
    Parameters& all = host.bundle("branches");
    for (int64_t j = 0; j < n; ++j) {
      const Host branch = Builder::within(all.bundle(std::to_string(j)));
      first_.push_back(b.weight(branch, b.sizes(out, in, true), false, true));
      if (o.norm == "batchnorm") norms_.push_back(branch.norm("norm", out));
    }
  } else {
    const bool doped = o.transform == "doped";
    const double from = real(area * in), to = real(out);
    const auto rank = static_cast<int64_t>(
        doped ? std::floor(s * from * to / (from + to))
              : std::ceil(from * to /
                          (o.sparse_u_only ? (1 - s) * from + to : (1 - s) * (from + to))));
    if (doped)
      first_.push_back(
          b.weight(Builder::within(host.bundle("sparse")), b.sizes(out, in, true), false, true));
    if (rank > 0) {
      u_ = b.weight(Builder::within(host.bundle("U")), b.sizes(rank, in, true), true, !doped);
      if (!doped && o.norm == "batchnorm") norms_.push_back(host.norm("norm", rank));
      v_ = b.weight(Builder::within(host.bundle("V")), b.sizes(out, rank, false), true,
                    !doped && !o.sparse_u_only);
    }
  }
  if (o.bias) bias_ = &host.parameter("bias", init::default_uniform({out_}, area * in_));
}

Tensor detail::SparseIFT::masked(const Weight& w) const {
  return w.mask ? times_mask(*w.weight, *w.mask, dense_grad_) : *w.weight;
}

Tensor detail::SparseIFT::forward(const Tensor& x, const Apply& apply) const {
  auto normed = [&](std::size_t i, const Tensor& y) {  // rows [*, C] as pictures of one point
    if (norms_.empty()) return y;
    if (y.dim() == 4) return norms_[i](y);
    return norms_[i](y.reshape({y.numel() / y.size(-1), y.size(-1), 1, 1})).reshape(y.sizes());
  };
  Tensor y;
  for (std::size_t i = 0; i < first_.size(); ++i) {
    const Tensor branch = apply(x, masked(first_[i]), true),
                 z = transform_ == "parallel" ? normed(i, branch) : branch;
    y = y.defined() ? y + z : z;
  }
  if (!u_.weight) return y;
  Tensor h = apply(x, masked(u_), true);
  if (transform_ == "factorized") {
    h = normed(0, h);
    if (activation_ == "relu") h = relu(h);
  }
  const Tensor low = apply(h, masked(v_), false);
  return y.defined() ? y + low : low;
}

std::vector<detail::SparseIFT::Weight> detail::SparseIFT::sparse_weights() const {
  std::vector<Weight> r = first_;
  for (const Weight& w : {u_, v_})
    if (w.mask) r.push_back(w);
  return r;
}

void detail::SparseIFT::fold() {
  no_grad guard;
  for (const Weight& w : sparse_weights()) w.weight->masked_fill_(logical_not(*w.mask), 0);
}

Tensor detail::SparseIFT::folded_weight_norm() const {
  DROPIN_CHECK(transform_ == "factorized" || transform_ == "doped", OptionError, who_,
               ": folded_weight_norm() is of factorized and doped, not of ", transform_);
  if (!u_.weight) return zeros({}, first_[0].weight->options());
  return sum(square(matmul(masked(v_).flatten(1), masked(u_).flatten(1))));
}

// --- SparseIFTLinear

std::vector<std::string> SparseIFTLinear::examples() {
  return {R"({"transform": "parallel", "norm": "batchnorm", "sparsity": 0.6})",
          R"({"transform": "factorized", "norm": "batchnorm", "sparse_u_only": true})",
          R"({"transform": "doped", "bias": false, "mask_init": "topk"})",
          R"({"widen_in": false, "density": 0.7, "mask_init": "random"})"};
}

Sample SparseIFTLinear::sample(const Options& o, const SampleSpec& s) {
  return sample_rows(s, SparseIFTLinear(o).core().in());
}

SparseIFTLinear::SparseIFTLinear(const SparseIFTLinearOptions& o) : SparseIFTLayer(o) {
  create(o.in_features, o.out_features, {});
}

Tensor SparseIFTLinear::forward(const Tensor& x) {
  DROPIN_CHECK(x.dim() > 0 && x.size(-1) == core_.in(), ShapeError, who(), ": x is ", x.sizes(),
               ", expected [*, ", core_.in(), "] because in_features = ", options_.in_features,
               " and transform = ", options_.transform);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  const Tensor y =
      core_.forward(x, [](const Tensor& in, const Tensor& w, bool) { return linear(in, w); });
  return core_.bias().defined() ? y + core_.bias() : y;
}

}  // namespace dropin
