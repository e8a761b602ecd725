#include "dropin/optimizer/rigl.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace dropin {

namespace {
using Flags = std::vector<bool>;

// The `count` largest of those that may be chosen, lower indices first; NaN is smallest.
Flags largest(const std::vector<double>& value, const Flags& may, int64_t count) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < value.size(); ++i)
    if (may[i]) order.push_back(i);
  auto size = [&](std::size_t i) { return std::isnan(value[i]) ? -1.0 : std::abs(value[i]); };
  const std::size_t n = std::min(order.size(), static_cast<std::size_t>(count));
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(n);
  std::partial_sort(order.begin(), end, order.end(), [&](std::size_t a, std::size_t b) {
    return size(a) != size(b) ? size(a) > size(b) : a < b;
  });
  Flags r(value.size(), false);
  for (std::size_t k = 0; k < n; ++k) r[order[k]] = true;
  return r;
}

Tensor as_tensor(const Flags& flags, const Tensor& like) {
  Tensor t = empty(like.sizes(), kBool);
  std::copy(flags.begin(), flags.end(), t.data<bool>());
  return t.to(like.device());
}
}  // namespace

RiglMasks rigl_update(const Tensor& weight, const Tensor& mask, const Tensor& dense_grad,
                      const RiglUpdateOptions& o) {
  const char* who = "rigl_update";
  DROPIN_CHECK(o.sparsity > 0 && o.sparsity < 1, OptionError, who, ": sparsity is ", o.sparsity,
               ", expected between 0 and 1");
  DROPIN_CHECK(o.drop_fraction >= 0 && o.drop_fraction < 1, OptionError, who, ": drop_fraction is ",
               o.drop_fraction, ", expected 0 to below 1");
  DROPIN_CHECK(is_floating(weight.dtype()) && is_floating(dense_grad.dtype()), DTypeError, who,
               ": weight is ", weight.dtype(), " and dense_grad ", dense_grad.dtype(),
               ", expected floating-point tensors");
  DROPIN_CHECK(mask.dtype() == kBool, DTypeError, who, ": mask is ", mask.dtype(),
               ", expected bool");
  DROPIN_CHECK(mask.sizes() == weight.sizes() && dense_grad.sizes() == weight.sizes(), ShapeError,
               who, ": weight is ", weight.sizes(), ", mask ", mask.sizes(), " and dense_grad ",
               dense_grad.sizes(), ", expected one shape");
  no_grad guard;
  const std::vector<double> w = weight.to_vector(), g = dense_grad.to_vector();
  Flags active;
  for (const double m : mask.to_vector()) active.push_back(m != 0);
  const auto ones = static_cast<int64_t>(std::count(active.begin(), active.end(), true)),
             all = static_cast<int64_t>(w.size());
  if (std::any_of(w.begin(), w.end(), [](double x) { return std::isnan(x); }) ||
      std::any_of(g.begin(), g.end(), [](double x) { return std::isnan(x); }))
    warn_once("rigl_update: weights or gradients hold NaN, which counts as smallest");
  const auto pruned = static_cast<int64_t>(o.drop_fraction * static_cast<double>(ones));
  const Flags kept = largest(w, active, ones - pruned);
  const int64_t left = ones - pruned,
                wanted = static_cast<int64_t>((1 - o.sparsity) * static_cast<double>(all) -
                                              static_cast<double>(left));
  Flags rest;
  for (const bool k : kept) rest.push_back(!k);
  const Flags grown = largest(g, rest, std::max<int64_t>(wanted, 0));
  Flags next = kept;
  for (std::size_t i = 0; i < next.size(); ++i) next[i] = next[i] || grown[i];
  return {as_tensor(next, mask), as_tensor(grown, mask)};
}

RigLSparsifier::RigLSparsifier(Optimizer& optimizer, std::vector<MaskedParameter> params,
                               const RigLOptions& o)
    : optimizer_(optimizer), params_(std::move(params)), options_(o) {
  const char* who = "RigLSparsifier";
  end_ = o.end ? o.end : static_cast<int64_t>(0.75 * static_cast<double>(o.total_steps));
  DROPIN_CHECK(o.method == "rigl" || o.method == "set" || o.method == "static", OptionError, who,
               ": method is \"", o.method, "\", expected rigl, set or static");
  DROPIN_CHECK(o.schedule == "cosine" || o.schedule == "constant" || o.schedule == "exponential",
               OptionError, who, ": schedule is \"", o.schedule,
               "\", expected cosine, constant or exponential");
  DROPIN_CHECK(o.method == "static" || (o.begin >= 0 && o.begin < end_), OptionError, who,
               ": begin is ", o.begin, " and end ", end_, ", expected 0 <= begin < end");
  DROPIN_CHECK(o.frequency >= 1, OptionError, who, ": frequency is ", o.frequency,
               ", expected at least 1");
  DROPIN_CHECK(o.sparsity > 0 && o.sparsity < 1, OptionError, who, ": sparsity is ", o.sparsity,
               ", expected between 0 and 1");
  DROPIN_CHECK(o.drop_fraction >= 0 && o.drop_fraction < 1, OptionError, who, ": drop_fraction is ",
               o.drop_fraction, ", expected 0 to below 1");
  for (const MaskedParameter& p : params_)
    DROPIN_CHECK(p.mask.dtype() == kBool && p.mask.sizes() == p.weight.sizes(), ShapeError, who,
                 ": mask is ", p.mask.dtype(), " ", p.mask.sizes(), ", expected bool ",
                 p.weight.sizes());
  for (const MaskedParameter& p : params_)
    if (p.want_dense_grad) p.want_dense_grad(changes_at(1));
}

bool RigLSparsifier::changes_at(int64_t t) const {
  return options_.method != "static" && options_.begin < t && t < end_ &&
         t % options_.frequency == 0;
}

double RigLSparsifier::drop_fraction_at(int64_t t) const {
  const double part = static_cast<double>(t - options_.begin) /
                      static_cast<double>(std::max<int64_t>(end_ - options_.begin, 1));
  if (options_.schedule == "constant") return options_.drop_fraction;
  return options_.drop_fraction * (options_.schedule == "cosine"
                                       ? 0.5 + 0.5 * std::cos(M_PI * part)
                                       : std::exp(-options_.exponent * part));
}

void RigLSparsifier::step() {
  const bool due = changes_at(steps_ + 1);
  Tensors gradients;
  for (const MaskedParameter& p : params_) {
    const Tensor g = p.weight.grad();
    DROPIN_CHECK(!due || g.defined() || options_.method == "set", StateError,
                 "RigLSparsifier: step(): masks change now, and a weight of ", p.weight.sizes(),
                 " has no gradient, expected a backward() before");
    gradients.push_back(g);
    if (g.defined()) p.weight.set_grad(masked_fill(g.detach(), logical_not(p.mask), 0));
  }
  optimizer_.step();
  ++steps_;
  if (due) change_masks(gradients);
  no_grad guard;
  for (const MaskedParameter& p : params_) {
    Tensor w = p.weight;
    w.masked_fill_(logical_not(p.mask), 0);
    if (p.want_dense_grad) p.want_dense_grad(changes_at(steps_ + 1));
  }
}

void RigLSparsifier::change_masks(const Tensors& gradients) {
  no_grad guard;
  const RiglUpdateOptions o{.sparsity = options_.sparsity,
                            .drop_fraction = drop_fraction_at(steps_)};
  Tensors kept;
  for (std::size_t i = 0; i < params_.size(); ++i) {
    const MaskedParameter& p = params_[i];
    const Tensor by = options_.method == "set" ? rand(p.weight.sizes()) : gradients[i];
    const RiglMasks m = rigl_update(p.weight.detach(), p.mask, by, o);
    Tensor mask = p.mask, w = p.weight;
    mask.copy_(m.mask);
    w.masked_fill_(m.grown, 0);
    const Tensor stays = logical_and(m.mask, logical_not(m.grown));
    kept.push_back(stays);
    if (p.weight.grad().defined())
      p.weight.set_grad(masked_fill(p.weight.grad(), logical_not(stays), 0));
  }
  clear_states(kept);
}

void RigLSparsifier::clear_states(const Tensors& stays) const {
  StateDict state = optimizer_.state_dict();
  std::size_t number = 0;
  for (const ParamGroup& group : optimizer_.param_groups())
    for (const Tensor& held : group.params) {
      const std::string prefix = "state." + std::to_string(number++) + ".";
      for (std::size_t i = 0; i < params_.size(); ++i) {
        if (!params_[i].weight.is_same(held)) continue;
        const StateDict now = state;
        for (const auto& [name, t] : now)
          if (name.rfind(prefix, 0) == 0 && t.sizes() == held.sizes() && is_floating(t.dtype()))
            state.set(name, masked_fill(t, logical_not(stays[i]), 0));
      }
    }
  optimizer_.load_state_dict(state);
}

std::vector<double> erk_densities(const std::vector<Shape>& shapes, double sparsity) {
  DROPIN_CHECK(sparsity > 0 && sparsity < 1, OptionError, "erk_densities: sparsity is ", sparsity,
               ", expected between 0 and 1");
  std::vector<double> size, raw, density(shapes.size(), 0);
  for (const Shape& s : shapes) {
    double product = 1, total = 0;
    for (const int64_t n : s) {
      product *= static_cast<double>(n);
      total += static_cast<double>(n);
    }
    size.push_back(product);
    raw.push_back(product > 0 ? total / product : 0);
  }
  Flags dense(shapes.size(), false);
  for (bool again = true; again;) {
    again = false;
    double active = 0, weight = 0;  // what the others share, and by which weights
    for (std::size_t i = 0; i < size.size(); ++i) {
      active += (1 - sparsity) * size[i] - (dense[i] ? size[i] : 0);
      weight += dense[i] ? 0 : raw[i] * size[i];
    }
    for (std::size_t i = 0; i < size.size(); ++i) {
      density[i] = dense[i] ? 1 : weight > 0 ? std::max(active, 0.0) / weight * raw[i] : 0;
      if (!dense[i] && density[i] > 1) dense[i] = again = true;
    }
  }
  return density;
}

}  // namespace dropin
