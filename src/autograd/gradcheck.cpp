#include "dropin/autograd/gradcheck.h"

#include <fmt/format.h>

#include <cmath>

#include "dropin/ops/elementwise.h"
#include "dropin/ops/reduce.h"

namespace dropin::detail {
namespace {

// sum_k <f_k(x), w_k> for fixed random weights w.
double weighted(Callable f, const Tensors& x, const Tensors& w) {
  no_grad guard;
  Tensors ys = f.call(f.self, x);
  double total = 0;
  for (std::size_t k = 0; k < ys.size(); ++k)
    if (w[k].defined()) total += sum(mul(ys[k], w[k])).item();
  return total;
}

/// Central differences of the weighted sum in one input, which is put back after each.
class Differences {
 public:
  Differences(Callable f, const Tensors& x, const Tensors& w, const Tensor& input,
              const GradcheckOptions& o)
      : options(o), t(input), f_(f), x_(x), w_(w), before_(input.to_vector()) {}

  double along(const std::vector<double>& direction) {
    const double up = at(direction, options.eps), down = at(direction, -options.eps);
    set(before_);
    return (up - down) / (2 * options.eps);
  }
  bool disagree(double a, double n) const {
    return !(std::abs(a - n) <= options.atol + options.rtol * std::max(std::abs(a), std::abs(n)));
  }
  /// The gradient that backward gave, zeros where it gave none.
  std::vector<double> values_of(const Tensor& gradient) const {
    return gradient.defined() ? gradient.to_vector() : std::vector<double>(before_.size());
  }

  const GradcheckOptions& options;
  Tensor t;

 private:
  double at(const std::vector<double>& direction, double step) {
    std::vector<double> moved(before_);
    for (std::size_t i = 0; i < moved.size(); ++i) moved[i] = before_[i] + step * direction[i];
    set(moved);
    return weighted(f_, x_, w_);
  }
  void set(const std::vector<double>& values) {
    no_grad guard;
    t.detach().copy_(tensor(values, t.sizes(), kFloat64));
    t.bump_version();
  }

  Callable f_;
  const Tensors &x_, &w_;
  std::vector<double> before_;
};

/// The whole Jacobian, against every element's difference; the first fault in words.
std::string every_element(Differences& differences, const Tensor& analytic, std::size_t which) {
  const std::vector<double> a = differences.values_of(analytic);
  std::vector<double> d(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::fill(d.begin(), d.end(), 0.0);
    d[i] = 1;
    const double numeric = differences.along(d);
    if (differences.disagree(a[i], numeric))
      return fmt::format("input {} element {}: backward gives {:.9g}, differences give {:.9g}",
                         which, i, a[i], numeric);
  }
  return "";
}

/// Directional derivatives, for inputs of any size.
std::string random_directions(Differences& differences, const Tensor& analytic, std::size_t which,
                              Generator& g) {
  const std::vector<double> a = differences.values_of(analytic);
  std::vector<double> d(a.size());
  const double scale = 1 / std::sqrt(static_cast<double>(a.size()));
  for (int r = 0; r < differences.options.directions; ++r) {
    const Tensor u = randn(differences.t.sizes(), kFloat64, &g);
    const double* up = u.data<double>();
    double got = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      d[i] = up[i] * scale;
      got += d[i] * a[i];
    }
    const double numeric = differences.along(d);
    if (differences.disagree(got, numeric))
      return fmt::format(
          "input {} along random direction {}: backward gives {:.9g}, differences give {:.9g}",
          which, r, got, numeric);
  }
  return "";
}

}  // namespace

std::string gradcheck(Callable f, const Tensors& inputs, const GradcheckOptions& o) {
  Tensors x, checked;
  std::vector<std::size_t> which;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    Tensor t = inputs[i];
    if (t.defined() && t.requires_grad()) {
      if (t.dtype() != kFloat64)
        fail<DTypeError>({"gradcheck: input ", i, " is ", t.dtype(), ", expected float64"});
      t = t.detach().clone();
      t.requires_grad_();
      checked.push_back(t);
      which.push_back(i);
    }
    x.push_back(t);
  }
  if (checked.empty()) fail<AutogradError>({"gradcheck: no input requires a gradient"});
  Generator g(o.seed);
  Tensors ys, w;
  {
    enable_grad on;
    ys = f.call(f.self, x);
  }
  Tensors outs, gs;
  for (const Tensor& y : ys) {
    const bool differentiable = y.defined() && is_floating(y.dtype()) && y.requires_grad();
    w.push_back(differentiable ? randn(y.sizes(), kFloat64, &g) : Tensor());
    if (!differentiable) continue;
    outs.push_back(y);
    gs.push_back(w.back());
  }
  if (outs.empty()) return "gradcheck: no output requires a gradient";
  Tensors analytic = grad(outs, checked, gs, false, false, true);
  for (std::size_t k = 0; k < checked.size(); ++k) {
    Differences d(f, x, w, checked[k], o);
    std::string fault = checked[k].numel() <= o.full_jacobian_below
                            ? every_element(d, analytic[k], which[k])
                            : random_directions(d, analytic[k], which[k], g);
    if (!fault.empty()) return fault;
  }
  return "";
}

}  // namespace dropin::detail
