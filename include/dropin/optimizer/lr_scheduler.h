// Learning-rate schedules: torch.optim.lr_scheduler's names, options and numbers.
#pragma once
#include <functional>
#include <limits>
#include <vector>

#include "dropin/optimizer/optimizer.h"

namespace dropin {

/// Base of the schedules. A schedule sets every group's lr from the group's own initial_lr, so that
/// groups keep their ratios; the rate of epoch 0 stands once it is made, and each step(), called
/// after the optimizer's, goes to the next. The optimizer must outlive it. Rates are computed from
/// the epoch alone (torch's closed forms), never from the rate before.
class LRScheduler {
 public:
  explicit LRScheduler(Optimizer& optimizer) : optimizer_(&optimizer) {}
  virtual ~LRScheduler() = default;
  /// The next epoch's rates.
  void step() { go_to(last_epoch_ + 1); }
  int64_t last_epoch() const { return last_epoch_; }
  /// Each group's lr as the schedule set it last.
  std::vector<double> get_last_lr() const;
  Optimizer& optimizer() const { return *optimizer_; }
  /// What a checkpoint needs beside the optimizer's own state: "last_epoch" (int64) and, where a
  /// schedule has more, that.
  virtual NamedTensors state_dict() const;
  /// StateError when an entry is missing; nothing has changed then. Rates are those that the
  /// optimizer's own state brings back.
  virtual void load_state_dict(const NamedTensors& state);

 protected:
  /// The rate of a group that began at `initial`, at this epoch.
  virtual double rate(double initial, int64_t epoch, std::size_t group) const = 0;
  /// What else belongs to an epoch (OneCycleLR's momentum).
  virtual void apply_rest(int64_t /*epoch*/) {}
  void go_to(int64_t epoch);

 private:
  friend class SequentialLR;
  Optimizer* optimizer_;
  int64_t last_epoch_ = 0;
};

/// lr = initial_lr * f(epoch), one function for all groups or one each. OptionError on another
/// number of functions.
class LambdaLR : public LRScheduler {
 public:
  using Function = std::function<double(int64_t)>;
  LambdaLR(Optimizer& optimizer, std::vector<Function> lr_lambda);
  LambdaLR(Optimizer& optimizer, Function lr_lambda)
      : LambdaLR(optimizer, std::vector<Function>{std::move(lr_lambda)}) {}

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;

 private:
  std::vector<Function> functions_;
};

struct StepLROptions {
  int64_t step_size = 0;  ///< required: epochs between two decays
  double gamma = 0.1;
};
/// lr = initial_lr * gamma^(epoch / step_size), a whole quotient.
class StepLR : public LRScheduler {
 public:
  StepLR(Optimizer& optimizer, const StepLROptions& o);

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;

 private:
  StepLROptions options_;
};

struct MultiStepLROptions {
  std::vector<int64_t> milestones;  ///< epochs at which the rate decays, in rising order
  double gamma = 0.1;
};
class MultiStepLR : public LRScheduler {
 public:
  MultiStepLR(Optimizer& optimizer, const MultiStepLROptions& o);

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;

 private:
  MultiStepLROptions options_;
};

/// lr = initial_lr * gamma^epoch.
class ExponentialLR : public LRScheduler {
 public:
  ExponentialLR(Optimizer& optimizer, double gamma);

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;

 private:
  double gamma_;
};

struct LinearLROptions {
  double start_factor = 1.0 / 3, end_factor = 1;
  int64_t total_iters = 5;
};
/// A warm-up: the factor goes from start_factor to end_factor over total_iters epochs.
class LinearLR : public LRScheduler {
 public:
  LinearLR(Optimizer& optimizer, const LinearLROptions& o = {});

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;

 private:
  LinearLROptions options_;
};

struct ConstantLROptions {
  double factor = 1.0 / 3;
  int64_t total_iters = 5;
};
/// initial_lr * factor for total_iters epochs, then initial_lr.
class ConstantLR : public LRScheduler {
 public:
  ConstantLR(Optimizer& optimizer, const ConstantLROptions& o = {});

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;

 private:
  ConstantLROptions options_;
};

struct PolynomialLROptions {
  int64_t total_iters = 5;
  double power = 1;
};
/// lr = initial_lr * (1 - epoch / total_iters)^power, then 0.
class PolynomialLR : public LRScheduler {
 public:
  PolynomialLR(Optimizer& optimizer, const PolynomialLROptions& o = {});

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;

 private:
  PolynomialLROptions options_;
};

struct CosineAnnealingLROptions {
  int64_t T_max = 0;  ///< required: epochs of half a period
  double eta_min = 0;
};
/// lr = eta_min + (initial_lr - eta_min) (1 + cos(pi epoch / T_max)) / 2 (Loshchilov & Hutter 2017,
/// without restarts).
class CosineAnnealingLR : public LRScheduler {
 public:
  CosineAnnealingLR(Optimizer& optimizer, const CosineAnnealingLROptions& o);

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;

 private:
  CosineAnnealingLROptions options_;
};

struct CosineAnnealingWarmRestartsOptions {
  int64_t T_0 = 0;  ///< required: epochs until the first restart
  int64_t T_mult = 1;
  double eta_min = 0;
};
/// A cosine that starts anew after T_0, T_0 T_mult, ... epochs (Loshchilov & Hutter 2017, eq. 5).
class CosineAnnealingWarmRestarts : public LRScheduler {
 public:
  CosineAnnealingWarmRestarts(Optimizer& optimizer, const CosineAnnealingWarmRestartsOptions& o);

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;

 private:
  CosineAnnealingWarmRestartsOptions options_;
};

struct OneCycleLROptions {
  std::vector<double> max_lr;  ///< required: one for all groups, or one each
  int64_t total_steps = 0;     ///< required
  double pct_start = 0.3;
  std::string anneal_strategy = "cos";  ///< or "linear"
  bool cycle_momentum = true;
  double base_momentum = 0.85, max_momentum = 0.95;
  double div_factor = 25, final_div_factor = 1e4;
  bool three_phase = false;
};
/// Up from max_lr / div_factor to max_lr and down to that / final_div_factor, momentum (or beta1)
/// the other way round (Smith & Topin 2018). A group's initial_lr plays no part, as in torch. The
/// step after the last keeps the last rate (torch runs past it); StateError on one more;
/// OptionError when momentum is cycled and the optimizer has none.
class OneCycleLR : public LRScheduler {
 public:
  OneCycleLR(Optimizer& optimizer, const OneCycleLROptions& o);

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;
  void apply_rest(int64_t epoch) override;

 private:
  double between(int64_t epoch, const std::vector<double>& corners) const;
  OneCycleLROptions options_;
  std::vector<double> ends_;  ///< the epochs at which phases end
};

/// Schedules one after another: the i-th until epoch milestones[i], the next from its own epoch 0
/// there. All are of one optimizer and outlive this. OptionError when they do not fit.
class SequentialLR : public LRScheduler {
 public:
  SequentialLR(Optimizer& optimizer, std::vector<LRScheduler*> schedulers,
               std::vector<int64_t> milestones);

 protected:
  double rate(double initial, int64_t epoch, std::size_t group) const override;
  void apply_rest(int64_t epoch) override;

 private:
  std::pair<LRScheduler*, int64_t> at_epoch(int64_t epoch) const;
  std::vector<LRScheduler*> schedulers_;
  std::vector<int64_t> milestones_;
};

struct ReduceLROnPlateauOptions {
  std::string mode = "min";  ///< or "max"
  double factor = 0.1;
  int64_t patience = 10;
  double threshold = 1e-4;
  std::string threshold_mode = "rel";  ///< or "abs"
  int64_t cooldown = 0;
  double min_lr = 0, eps = 1e-8;
};
/// Multiplies each group's lr by `factor` once a measured value has not become better for more than
/// `patience` epochs. A NaN is never better.
class ReduceLROnPlateau {
 public:
  ReduceLROnPlateau(Optimizer& optimizer, const ReduceLROnPlateauOptions& o = {});
  void step(double metric);
  std::vector<double> get_last_lr() const;
  double best() const { return best_; }
  int64_t num_bad_epochs() const { return bad_; }
  NamedTensors state_dict() const;
  /// StateError when an entry is missing; nothing has changed then.
  void load_state_dict(const NamedTensors& state);

 private:
  Optimizer* optimizer_;
  ReduceLROnPlateauOptions options_;
  double best_;
  int64_t last_epoch_ = 0, bad_ = 0, cooling_ = 0;
};

struct EarlyStoppingOptions {
  int64_t patience = 10;
  double min_delta = 0;
  std::string mode = "min";  ///< or "max"
};
/// Tells when a measured value has not become better, by more than min_delta, for `patience`
/// measurements.
class EarlyStopping {
 public:
  explicit EarlyStopping(const EarlyStoppingOptions& o = {});
  /// Takes a measurement; true when training should stop. A NaN is never better.
  bool step(double metric);
  double best() const { return best_; }
  int64_t bad_steps() const { return bad_; }

 private:
  EarlyStoppingOptions options_;
  double best_;
  int64_t bad_ = 0;
};

}  // namespace dropin
