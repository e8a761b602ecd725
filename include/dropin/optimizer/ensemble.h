// Trainers of ensembles: members of the martingale posterior with mixed data, or of seeds alone.
#pragma once
#include <functional>
#include <utility>
#include <vector>

#include "dropin/optimizer/optimizer.h"

namespace dropin {

struct MixupMPOptions {
  int64_t members = 4, seed = 0;
  double pseudo_weight = 1, pseudo_prop = 1, alpha = 1;
  bool binary = false;
  static void fields(auto&& f) {
    using O = MixupMPOptions;
    f("members", &O::members, "networks");
    f("seed", &O::seed, "member b is made, shuffled and mixed by seed + b");
    f("pseudo_weight", &O::pseudo_weight, "r, weight of mixed rows");
    f("pseudo_prop", &O::pseudo_prop, "mixed rows per real one, 0 to 1");
    f("alpha", &O::alpha, "shares are Beta(alpha, alpha); 0 or less: 1");
    f("binary", &O::binary, "networks give one logit");
  }
};

/// Networks that call() takes "x" and gives logits "y" [N, C], each trained on every batch and as
/// many rows mixed from it, mixed by its own seed (Wu & Williamson 2024, section 4); probabilities
/// are averaged. Members do not depend on each other.
class MixupMP {
 public:
  using Factory = std::function<Box<Module>(std::uint64_t seed)>;
  using OptimizerFactory = std::function<Box<Optimizer>(const Tensors& params)>;
  /// An epoch's batches of x and target, shuffled by `random`.
  using Loader = std::function<std::vector<std::pair<Tensor, Tensor>>(Generator& random)>;
  /// The learning rate of a step, of `total` in all.
  using Schedule = std::function<double(int64_t step, int64_t total)>;
  /// Makes the members, each with a default generator of its own; the caller's goes on as it was.
  MixupMP(const Factory& factory, const MixupMPOptions& o = {});
  const MixupMPOptions& options() const { return options_; }
  int64_t size() const { return static_cast<int64_t>(members_.size()); }
  Module& member(int64_t b) const;
  /// One step of member b; returns the loss.
  Tensor train_step(int64_t b, const Tensor& x, const Tensor& target, Optimizer& optimizer);
  /// Trains every member for some epochs, each with an optimizer of its own, several at once: the
  /// functions are called from several threads. Results do not depend on how many there are.
  void fit(const Loader& loader, int64_t epochs, const OptimizerFactory& optimizer,
           const Schedule& schedule = nullptr);
  /// Mean probabilities [N, C] of all members, in eval mode.
  Tensor predict(const Tensor& x) const;
  /// [M, N, C].
  Tensor member_logits(const Tensor& x) const;

 private:
  Tensor logits(int64_t b, const Tensor& x) const;
  MixupMPOptions options_;
  std::vector<Box<Module>> members_;
  std::vector<Generator> random_;  ///< of each member's mixing and shuffling
  std::vector<Generator> noise_;   ///< of its initial values, dropout, ...
};

struct DeepEnsembleOptions {
  int64_t members = 4, seed = 0;
  bool binary = false;
  static void fields(auto&& f) {
    using O = DeepEnsembleOptions;
    f("members", &O::members, "networks");
    f("seed", &O::seed, "member b is made and shuffled by seed + b");
    f("binary", &O::binary, "networks give one logit");
  }
};
/// MixupMP without mixed rows (Lakshminarayanan et al. 2017).
class DeepEnsemble : public MixupMP {
 public:
  DeepEnsemble(const Factory& factory, const DeepEnsembleOptions& o = {})
      : MixupMP(factory,
                {.members = o.members, .seed = o.seed, .pseudo_prop = 0, .binary = o.binary}) {}
};

}  // namespace dropin
