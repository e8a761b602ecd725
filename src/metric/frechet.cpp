#include <cmath>

#include "dropin/metric/generative.h"

namespace dropin {

namespace {

constexpr const char* kWho = "frechet_distance";

Tensor checked(const char* name, const Tensor& x, int64_t dims) {
  DROPIN_CHECK(x.dim() == dims, ShapeError, kWho, ": ", name, " is ", x.sizes(), ", expected ",
               dims == 1 ? "[D]" : "two dimensions");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, kWho, ": ", name, " is ", x.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(x.numel() == 0 || all(isfinite(x.detach())).item<bool>(), Error, kWho, ": ", name,
               " holds NaN or infinity, expected finite numbers");
  return x.to(kCPU).to(kFloat64);
}

// A distribution with a factor B [r, D] of its covariance, C = B' B.
struct Side {
  Tensor rows;  ///< centred samples over sqrt(N - 1); undefined: given by its statistics
  Tensor mean, factor;
  double trace = 0;
  int64_t count = 0;
};

Tensor symmetric_factor(const Tensor& cov) {
  const Eigh e = eigh(cov);
  return sqrt(relu(e.values)).unsqueeze(1) * e.vectors.mT();
}

Side side_of(const char* name, const FeatureSide& given) {
  no_grad guard;
  const std::string prefix = name;
  const bool stats = given.mean.defined() || given.cov.defined();
  DROPIN_CHECK(given.features.defined() != stats && given.mean.defined() == given.cov.defined(),
               StateError, kWho, ": expected either ", name, " or its mean and cov");
  Side s;
  if (stats) {
    s.mean = checked((prefix + " mean").c_str(), given.mean, 1);
    const Tensor cov = checked((prefix + " cov").c_str(), given.cov, 2);
    const int64_t d = s.mean.size(0);
    DROPIN_CHECK(d > 0 && cov.sizes() == (Shape{d, d}), ShapeError, kWho, ": the ", name,
                 " cov is ", cov.sizes(), ", expected [", d, ", ", d, "]");
    DROPIN_CHECK(amax(abs(cov - cov.mT())).item() <= 1e-4 * amax(abs(cov)).item(), Error, kWho,
                 ": the ", name, " cov is not symmetric, expected it within 1e-4");
    s.factor = symmetric_factor((cov + cov.mT()) * 0.5);
    s.trace = sum(cov.diagonal()).item();
    return s;
  }
  const Tensor x = checked(name, given.features, 2);
  DROPIN_CHECK(x.size(0) >= 2 && x.size(1) > 0, ShapeError, kWho, ": ", name, " is ", x.sizes(),
               ", expected [N >= 2, D >= 1]");
  s.count = x.size(0);
  s.mean = mean(x, {0});
  s.rows = (x - s.mean) * (1 / std::sqrt(static_cast<double>(s.count - 1)));
  s.trace = sum(square(s.rows)).item();
  s.factor = s.count <= x.size(1) ? s.rows : symmetric_factor(matmul(s.rows.mT(), s.rows));
  return s;
}

// d distance / d samples of `s`, beside the factor of the other side.
Tensor samples_gradient(const Side& s, const Side& other) {
  const SVD d = svd(matmul(s.rows, other.factor.mT()));
  const std::vector<double> sizes = d.S.to_vector();
  const auto most = static_cast<double>(std::max(s.count, other.factor.size(0)));
  int64_t kept = 0;
  for (const double v : sizes) kept += v > most * 0x1p-52 * sizes[0];
  Tensor g = s.rows * 2.0;
  if (kept > 0)
    g = g - matmul(matmul(d.U.narrow(1, 0, kept), d.Vh.narrow(0, 0, kept)), other.factor) * 2.0;
  return (g - mean(g, {0}, true)) * (1 / std::sqrt(static_cast<double>(s.count - 1))) +
         (s.mean - other.mean) * (2 / static_cast<double>(s.count));
}

}  // namespace

Tensor frechet_distance(const FeatureSide& side, const FeatureSide& reference) {
  const Side a = side_of("features", side), b = side_of("reference", reference);
  DROPIN_CHECK(a.mean.sizes() == b.mean.sizes(), ShapeError, kWho, ": features have width ",
               a.mean.size(0), ", the reference ", b.mean.size(0), ", expected one width");
  const double cross = [&] {
    no_grad guard;
    return sum(svd(matmul(a.factor, b.factor.mT())).S).item();
  }();
  const double apart = sum(square(a.mean - b.mean)).item();
  const Tensor& like = side.features.defined() ? side.features : side.mean;
  const Tensor x = side.features.defined() ? side.features : Tensor(),
               y = reference.features.defined() ? reference.features : Tensor();
  Tensors inputs;
  for (const Tensor& t : {x, y})
    if (t.defined()) inputs.push_back(t);
  const Tensor value = scalar(std::max(0.0, apart + a.trace + b.trace - 2 * cross), like.options());
  if (inputs.empty()) return value;
  return record_many(
      kWho, {value}, inputs, {},
      [a, b, x = x.defined(), y = y.defined(),
       inputs_of = std::vector<TensorOptions>{inputs[0].options(), inputs.back().options()}](
          const Saved& s, const Tensors& g) -> Tensors {
        if (grad_enabled()) fail<AutogradError>({kWho, ": second derivatives are not implemented"});
        const double dy = g[0].item();
        Tensors r;
        auto add = [&](const Side& own, const Side& other, std::size_t at) {
          const auto i = static_cast<int>(r.size());
          r.push_back(s.needs(i) ? (samples_gradient(own, other) * dy)
                                       .to(inputs_of[at].dtype)
                                       .to(inputs_of[at].device)
                                 : Tensor());
        };
        if (x) add(a, b, 0);
        if (y) add(b, a, 1);
        return r;
      })[0];
}

void FrechetAccumulator::update(const Tensor& features) {
  no_grad guard;
  const Tensor x = checked("features", features, 2);
  DROPIN_CHECK(count_ == 0 || x.size(1) == mean_.size(0), ShapeError, "FrechetAccumulator",
               ": features are ", x.sizes(), ", expected [n, ", mean_.size(0), "]");
  if (x.size(0) == 0) return;
  FrechetAccumulator one;
  one.count_ = x.size(0);
  one.mean_ = mean(x, {0});
  const Tensor centred = x - one.mean_;
  one.moment_ = matmul(centred.mT(), centred);
  merge(one);
}

void FrechetAccumulator::merge(const FrechetAccumulator& other) {
  no_grad guard;
  if (other.count_ == 0) return;
  if (count_ == 0) {
    *this = other;
    return;
  }
  DROPIN_CHECK(mean_.sizes() == other.mean_.sizes(), ShapeError, "FrechetAccumulator: widths ",
               mean_.size(0), " and ", other.mean_.size(0), ", expected one width");
  // Chan et al. 1983
  const auto n = static_cast<double>(count_), m = static_cast<double>(other.count_);
  const Tensor far = other.mean_ - mean_;
  moment_ = moment_ + other.moment_ + far.unsqueeze(1) * far.unsqueeze(0) * (n * m / (n + m));
  mean_ = mean_ + far * (m / (n + m));
  count_ += other.count_;
}

FeatureSide FrechetAccumulator::compute() const {
  DROPIN_CHECK(count_ >= 2, StateError, "FrechetAccumulator: ", count_,
               " samples, expected 2 or more");
  FeatureSide s;
  s.mean = mean_;
  s.cov = moment_ * (1 / static_cast<double>(count_ - 1));
  return s;
}

}  // namespace dropin
