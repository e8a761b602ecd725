// The gradient of every registered module against differences.
#include "properties/members.h"

namespace dropin::testing {
namespace {

/// A module with its inputs; the gradients of a weighted sum of its result, and the sum as a
/// function of inputs and parameters.
class Probe {
 public:
  Probe(Box<Module> module, const Inputs& inputs) : m_(std::move(module)) {
    for (const auto& [name, t] : inputs.all) {
      leaves.push_back(is_floating(t.dtype()) ? t.clone().requires_grad_() : t);
      names.push_back(name);
    }
    count_ = leaves.size();
    parameters_ = m_->named_parameters();
    for (auto& [n, p] : parameters_) {
      names.push_back(n);
      leaves.push_back(p);
    }
    for (auto& [n, t] : m_->named_buffers()) buffers_.set(n, t.clone());
  }
  bool has_gradients() const {
    return std::any_of(leaves.begin(), leaves.end(),
                       [](const Tensor& t) { return t.requires_grad(); });
  }
  /// False where the result has none.
  bool differentiate() {
    const Tensor y = run(*m_, named(leaves));
    if (!y.requires_grad()) return false;
    weight_ = random(y.sizes(), kFloat64, 9);
    Tensors wanted;
    for (const Tensor& t : leaves)
      if (t.requires_grad()) wanted.push_back(t);
    Tensors g = grad({sum(y * weight_)}, wanted, {}, false, false, true);
    std::size_t k = 0;
    for (const Tensor& t : leaves) {
      if (!t.requires_grad()) {
        gradients.push_back({});
        continue;
      }
      gradients.push_back(g[k].defined() ? g[k] : zeros_like(t));
      ++k;
    }
    return true;
  }
  /// The weighted sum with another value of leaf i.
  double with(std::size_t i, const Tensor& value) {
    no_grad guard;
    Tensors v;
    for (const Tensor& t : leaves) v.push_back(t.detach());
    v[i] = value;
    for (std::size_t p = 0; p < parameters_.size(); ++p)
      parameters_[p].second.set_data(v[count_ + p].detach());
    for (auto& [n, t] : m_->named_buffers()) t.copy_(buffers_.find(n));
    return sum(run(*m_, named(v)) * weight_).item();
  }

  Tensors leaves, gradients;
  std::vector<std::string> names;

 private:
  NamedTensors named(const Tensors& v) const {
    NamedTensors r;
    for (std::size_t i = 0; i < count_; ++i) r.set(names[i], v[i]);
    return r;
  }

  Box<Module> m_;
  std::size_t count_ = 0;  // inputs; parameters follow
  std::vector<std::pair<std::string, Tensor>> parameters_;
  StateDict buffers_;
  Tensor weight_;
};

/// Along a random direction of each input and parameter.
void expect_gradients(Probe& probe, bool training) {
  for (std::size_t i = 0; i < probe.leaves.size(); ++i) {
    if (!probe.leaves[i].requires_grad()) continue;
    const Tensor base = probe.leaves[i].detach().clone(),
                 u = random(base.sizes(), kFloat64, 30 + i);
    const double h = 1e-6,
                 numeric = (probe.with(i, base + u * h) - probe.with(i, base + u * -h)) / (2 * h),
                 got = sum(probe.gradients[i] * u).item();
    EXPECT_NEAR(got, numeric, 1e-5 * std::max(1.0, std::abs(numeric)))
        << probe.names[i] << (training ? " (train)" : " (eval)");
    probe.with(i, base);
  }
}

TEST_P(EveryMember, GradientsAgreeWithDifferences) {
  const Traits traits = GetParam().traits();
  if (traits.surrogate_gradient)
    GTEST_SKIP() << "its gradient is not the derivative by design; the goldens check it";
  if (traits.kinks_everywhere)
    GTEST_SKIP() << "of so many rectifiers some always pass 0 within the step; its parts are "
                    "checked one by one";
  for (const bool training : {true, false}) {
    if (traits.random_in_training && training) continue;
    Box<Module> m = made(GetParam());
    m->train(training);
    {
      no_grad guard;  // away from the zeros that initial values and rectifiers share
      std::uint64_t seed = 50;
      for (auto& [n, p] : m->named_parameters()) p.add_(random(p.sizes(), kFloat64, ++seed), 0.1);
    }
    Probe probe(std::move(m), inputs_for(GetParam(), 2, kFloat64, 5, traits.fixed_length ? -1 : 5));
    if (!probe.has_gradients()) continue;
    if (!probe.differentiate()) GTEST_SKIP() << "it has no gradient";
    expect_gradients(probe, training);
  }
}

}  // namespace
}  // namespace dropin::testing
