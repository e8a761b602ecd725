// dropin's optimizers on torch parameters. Included by dropin/interop/torch.h.
#pragma once
#include "dropin/interop/torch_tensor.h"
#include "dropin/registry/registry.h"

namespace dropin::interop {

/// A group's learning rate, where torch's schedulers look for it; all other options are in the JSON
/// that the optimizer was made with.
struct TorchOptimizerOptions : torch::optim::OptimizerCloneableOptions<TorchOptimizerOptions> {
  explicit TorchOptimizerOptions(double lr = 0) : lr_(lr) {}
  double get_lr() const override { return lr_; }
  void set_lr(const double lr) override { lr_ = lr; }

 private:
  double lr_;
};

/// A dropin optimizer as a torch::optim::Optimizer over torch parameters: values are updated in
/// place, in torch's memory, from torch's grad(). torch's learning-rate schedulers take it.
class TorchOptimizer : public torch::optim::Optimizer {
 public:
  /// By registry name, e.g. "AdamW8bit", and JSON options. OptionError as make_optimizer().
  TorchOptimizer(const std::string& name, std::vector<torch::Tensor> params,
                 const std::string& options = "{}")
      : torch::optim::Optimizer(params, std::make_unique<TorchOptimizerOptions>()) {
    const Tensors inside = take(params);
    optimizer_ = make_optimizer(name, inside, Json::parse(options));
    param_groups()[0].set_options(std::make_unique<TorchOptimizerOptions>(optimizer_->lr()));
  }
  /// More parameters, with some options changed: add_group(params, R"({"lr": 0.1})"). A parameter
  /// that a group holds already: OptionError, and nothing is added.
  void add_group(const std::vector<torch::Tensor>& params, const std::string& changes = "{}") {
    const std::size_t before = inside_.size();
    for (const torch::Tensor& p : params)
      for (const torch::Tensor& held : outside_)
        if (p.is_same(held))
          fail<OptionError>({"TorchOptimizer: add_group: a parameter is already in a group"});
    try {
      const Tensors inside = take(params);
      optimizer_->add_param_group(inside, Json::parse(changes));
    } catch (...) {
      inside_.resize(before);
      outside_.resize(before);
      throw;
    }
    add_param_group(torch::optim::OptimizerParamGroup(params));
    // set afterwards: LibTorch of late mends given options with its defaults
    param_groups().back().set_options(std::make_unique<TorchOptimizerOptions>(
        optimizer_->lr(optimizer_->param_groups().size() - 1)));
  }

  /// One update; parameters without a gradient stay as they are. closure: computes the loss and its
  /// gradients, as in torch.
  torch::Tensor step(LossClosure closure = nullptr) override {
    torch::Tensor loss;
    if (closure) {
      torch::AutoGradMode recording(true);
      loss = closure();
    }
    take_learning_rates();
    for (std::size_t i = 0; i < inside_.size(); ++i) {
      if (outside_[i].data_ptr() != inside_[i].data_ptr())
        fail<StateError>({"TorchOptimizer: parameter ", i,
                          " was moved or converted since; make the optimizer after that"});
      const torch::Tensor g = outside_[i].grad();
      inside_[i].set_grad(g.defined() ? from_torch(g) : Tensor());
    }
    optimizer_->step();
    for (std::size_t i = 0; i < inside_.size(); ++i) {
      if (inside_[i].grad().defined()) outside_[i].unsafeGetTensorImpl()->bump_version();
      inside_[i].set_grad({});
    }
    return loss;
  }
  /// The optimizer itself: groups, state_dict.
  dropin::Optimizer& optimizer() const { return *optimizer_; }

 private:
  Tensors take(const std::vector<torch::Tensor>& params) {
    Tensors r;
    for (const torch::Tensor& p : params) {
      outside_.push_back(p);
      r.push_back(from_torch(p).requires_grad_());
      inside_.push_back(r.back());
    }
    return r;
  }
  // What a scheduler set since; what was set on optimizer() itself stays.
  void take_learning_rates() {
    for (std::size_t g = 0; g < param_groups().size(); ++g) {
      if (known_lr_.size() <= g) known_lr_.push_back(param_groups()[g].options().get_lr());
      const double lr = param_groups()[g].options().get_lr();
      if (lr != known_lr_[g]) optimizer_->set_lr(g, lr);
      known_lr_[g] = lr;
    }
  }

  std::vector<torch::Tensor> outside_;
  Tensors inside_;
  Box<dropin::Optimizer> optimizer_;
  std::vector<double> known_lr_;  ///< of each group, as last seen
};

}  // namespace dropin::interop
