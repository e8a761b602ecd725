// AveragedModel: a copy of a model whose weights are the mean of those the model has had.
#pragma once
#include "dropin/module/module.h"

namespace dropin {

struct AveragedModelOptions {
  double decay = 0.999;  ///< share of the old mean that an update keeps, from 0 to below 1
  bool average = false;  ///< equal weights for all updates instead (stochastic weight averaging)
  bool use_buffers = false;  ///< floating-point buffers are averaged too; else they are copied
};
/// torch.optim.swa_utils.AveragedModel: an exponential moving mean of a model's parameters, or
/// their plain mean. Call update_parameters() after each optimizer step, and evaluate with
/// module().
class AveragedModel {
 public:
  /// Copies the model as it is. OptionError on a decay outside 0 to 1.
  explicit AveragedModel(const Module& model, const AveragedModelOptions& o = {});
  /// The first call copies the parameters, later ones move the mean by (1 - decay), or by
  /// 1 / (n + 1), of the difference. StateError, with nothing changed, when the model's parameters
  /// are no longer those of the copy (after a swap).
  void update_parameters(const Module& model);
  /// The copy that holds the means; its parameters take no gradients.
  Module& module() { return *module_; }
  const Module& module() const { return *module_; }
  /// Updates so far.
  int64_t n_averaged() const { return n_; }
  /// "module.<path>" of the copy, and "n_averaged" (int64): torch's names.
  StateDict state_dict() const;
  /// StateError as Module::load_state_dict gives it, or when n_averaged is missing.
  void load_state_dict(const StateDict& state);

 private:
  AveragedModelOptions options_;
  Box<Module> module_;
  int64_t n_ = 0;
};

}  // namespace dropin
