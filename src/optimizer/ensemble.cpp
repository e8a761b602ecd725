#include "dropin/optimizer/ensemble.h"

#include <cmath>

#include "dropin/core/parallel.h"
#include "dropin/loss/mixup.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

// Gamma(a, 1) by squeezing (Marsaglia & Tsang 2000), a > 0.
double gamma(double a, Generator& g) {
  auto uniform = [&] { return 1 - rand({1}, kFloat64, &g).item(); };  // above 0
  if (a < 1) return gamma(a + 1, g) * std::pow(uniform(), 1 / a);
  const double d = a - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = randn({1}, kFloat64, &g).item(), v = std::pow(1 + c * x, 3);
    if (v > 0 && std::log(uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}
Tensor beta_shares(double alpha, int64_t m, Generator& g) {
  std::vector<double> r;
  for (int64_t i = 0; i < m; ++i) {
    if (alpha <= 0) {
      r.push_back(1);
      continue;
    }
    const double a = gamma(alpha, g), b = gamma(alpha, g);
    r.push_back(a + b > 0 ? a / (a + b) : 0.5);
  }
  return tensor(r, {m});
}
// Lends the calling thread's default generator the state of another, for a scope.
class Drawing {
 public:
  explicit Drawing(Generator& from) : from_(from), before_(default_generator()) {
    default_generator() = from_;
  }
  ~Drawing() {
    from_ = default_generator();
    default_generator() = before_;
  }
  Drawing(const Drawing&) = delete;
  Drawing& operator=(const Drawing&) = delete;

 private:
  Generator& from_;
  Generator before_;
};
Tensor permutation(int64_t n, Generator& g) { return argsort(rand({n}, kFloat64, &g)); }

}  // namespace

MixupMP::MixupMP(const Factory& factory, const MixupMPOptions& o) : options_(o) {
  DROPIN_CHECK(factory, OptionError, "MixupMP: the factory is empty");
  DROPIN_CHECK(o.members >= 1, OptionError, "MixupMP: members is ", o.members,
               ", expected at least 1");
  DROPIN_CHECK(o.pseudo_weight >= 0, OptionError, "MixupMP: pseudo_weight is ", o.pseudo_weight,
               ", expected at least 0");
  DROPIN_CHECK(o.pseudo_prop >= 0 && o.pseudo_prop <= 1, OptionError, "MixupMP: pseudo_prop is ",
               o.pseudo_prop, ", expected 0 to 1");
  for (int64_t b = 0; b < o.members; ++b) {
    const auto seed = static_cast<std::uint64_t>(o.seed + b);
    noise_.emplace_back(seed);
    const Drawing own(noise_.back());
    members_.push_back(factory(seed));
    DROPIN_CHECK(members_.back(), OptionError, "MixupMP: the factory gave no network");
    random_.emplace_back(seed);
  }
}

Module& MixupMP::member(int64_t b) const {
  DROPIN_CHECK(b >= 0 && b < size(), IndexError, "MixupMP: member ", b, ", expected 0 to ",
               size() - 1);
  return *members_[at(b)];
}

Tensor MixupMP::logits(int64_t b, const Tensor& x) const {
  return member(b).call({{"x", x}}).get("y", "MixupMP");
}

Tensor MixupMP::train_step(int64_t b, const Tensor& x, const Tensor& target, Optimizer& optimizer) {
  member(b).train();
  const Drawing own(noise_[at(b)]);
  DROPIN_CHECK(x.dim() >= 1 && x.size(0) > 0, ShapeError, "MixupMP: x is ", x.sizes(),
               ", expected a row at least");
  const int64_t n = x.size(0),
                m = static_cast<int64_t>(std::floor(static_cast<double>(n) * options_.pseudo_prop));
  MixupTargets mixed;
  Tensor all = x;
  if (m > 0) {
    Generator& g = random_[at(b)];
    const Tensor pick = permutation(n, g).narrow(0, 0, m).to(x.device()),
                 partner = permutation(m, g).to(x.device());
    mixed.lam = beta_shares(options_.alpha, m, g).to(x.dtype(), x.device());
    const MixupRows rows = mixup_batch(x, target, pick, partner, mixed.lam);
    all = rows.x;
    mixed.target_a = rows.target_a;
    mixed.target_b = rows.target_b;
  }
  optimizer.zero_grad();
  const Tensor loss =
      mixup_mp_loss(logits(b, all), target, mixed,
                    {.pseudo_weight = options_.pseudo_weight, .binary = options_.binary});
  loss.backward();
  optimizer.step();
  return loss.detach();
}

void MixupMP::fit(const Loader& loader, int64_t epochs, const OptimizerFactory& make,
                  const Schedule& schedule) {
  DROPIN_CHECK(loader && make, OptionError, "MixupMP: fit: expected a loader and an optimizer");
  auto train = [&](int64_t b) {
    Box<Optimizer> optimizer = make(member(b).parameters());
    int64_t step = 0;
    for (int64_t e = 0; e < epochs; ++e) {
      const auto batches = loader(random_[at(b)]);
      const int64_t total = epochs * static_cast<int64_t>(batches.size());
      for (const auto& [x, target] : batches) {
        if (schedule) optimizer->set_lr(schedule(step, total));
        train_step(b, x, target, *optimizer);
        ++step;
      }
    }
  };
  parallel_for(size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) train(b);
  });
}

Tensor MixupMP::predict(const Tensor& x) const {
  no_grad guard;
  Tensor mean;
  for (int64_t b = 0; b < size(); ++b) {
    member(b).eval();
    Tensor p = logits(b, x);
    if (options_.binary) {
      const Tensor s = sigmoid(p.reshape({x.size(0)}));
      p = stack({1 - s, s}, 1);
    } else {
      p = softmax(p, 1);
    }
    mean = mean.defined() ? mean + (p - mean) * (1 / static_cast<double>(b + 1)) : p;
  }
  return mean;
}

Tensor MixupMP::member_logits(const Tensor& x) const {
  no_grad guard;
  Tensors all;
  for (int64_t b = 0; b < size(); ++b) {
    member(b).eval();
    all.push_back(logits(b, x));
  }
  return stack(all);
}

}  // namespace dropin
