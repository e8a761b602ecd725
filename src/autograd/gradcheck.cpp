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
  auto disagree = [&](double a, double n) {
    return !(std::abs(a - n) <= o.atol + o.rtol * std::max(std::abs(a), std::abs(n)));
  };
  for (std::size_t k = 0; k < checked.size(); ++k) {
    Tensor& t = checked[k];
    const int64_t n = t.numel();
    const std::vector<double> before = t.to_vector(),
                              a = analytic[k].defined()
                                      ? analytic[k].to_vector()
                                      : std::vector<double>(static_cast<std::size_t>(n));
    auto set = [&](const std::vector<double>& values) {
      no_grad guard;
      t.detach().copy_(tensor(values, t.sizes(), kFloat64));
      t.bump_version();
    };
    auto difference = [&](const std::vector<double>& direction) {
      std::vector<double> moved(before);
      auto at = [&](double step) {
        for (std::size_t i = 0; i < moved.size(); ++i) moved[i] = before[i] + step * direction[i];
        set(moved);
        return weighted(f, x, w);
      };
      const double up = at(o.eps), down = at(-o.eps);
      set(before);
      return (up - down) / (2 * o.eps);
    };
    std::vector<double> d(static_cast<std::size_t>(n));
    if (n <= o.full_jacobian_below) {
      for (int64_t i = 0; i < n; ++i) {
        std::fill(d.begin(), d.end(), 0.0);
        d[static_cast<std::size_t>(i)] = 1;
        const double numeric = difference(d), got = a[static_cast<std::size_t>(i)];
        if (disagree(got, numeric))
          return fmt::format("input {} element {}: backward gives {:.9g}, differences give {:.9g}",
                             which[k], i, got, numeric);
      }
    } else {
      for (int r = 0; r < o.directions; ++r) {
        Tensor u = randn(t.sizes(), kFloat64, &g);
        const double* up = u.data<double>();
        const double scale = 1 / std::sqrt(static_cast<double>(n));
        double got = 0;
        for (int64_t i = 0; i < n; ++i) {
          d[static_cast<std::size_t>(i)] = up[i] * scale;
          got += d[static_cast<std::size_t>(i)] * a[static_cast<std::size_t>(i)];
        }
        const double numeric = difference(d);
        if (disagree(got, numeric))
          return fmt::format(
              "input {} along random direction {}: backward gives {:.9g}, differences give {:.9g}",
              which[k], r, got, numeric);
      }
    }
  }
  return "";
}

}  // namespace dropin::detail
