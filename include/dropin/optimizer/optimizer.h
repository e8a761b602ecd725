// Optimizers with PyTorch's semantics, options and state names.
#pragma once
#include <functional>

#include "dropin/module/family.h"

namespace dropin {

/// Parameters that share options.
struct ParamGroup {
  Tensors params;
  Json options;           ///< all option fields of the optimizer
  double initial_lr = 0;  ///< the lr that the group was made with; schedules start from it
};

/// Base of every optimizer: groups of parameters, per-parameter state. Parameters are numbered from
/// 0 in order of registration, group after group, as torch numbers them. Several optimizers may
/// share a model as long as their parameters differ.
class Optimizer {
 public:
  using Family = Optimizer;
  static constexpr const char* kFamily = "Optimizer";
  static FamilyInfo family();
  virtual ~Optimizer() = default;
  virtual std::string_view type() const = 0;
  /// One update from the parameters' grad(); those without a gradient stay as they are. All checks,
  /// and the states of all parameters, come before the first one changes. After module.to() the
  /// state follows the parameter's new dtype and device. StateError when a swap() after this
  /// optimizer was made dropped a parameter it holds or gave the model new ones: make the optimizer
  /// after the swap, add the new parameters with add_param_group, or accept_swap(). StateError too
  /// for a parameter that nothing else holds any more, as after replace_child() by hand.
  void step();
  /// torch's step(closure): `closure` computes the loss anew with its gradients (zero_grad,
  /// forward, backward) and returns it, recorded even inside no_grad; then one step(). Returns the
  /// loss.
  virtual Tensor step(const std::function<Tensor()>& closure);
  /// Gradients that one whole step takes: how often step(closure) calls the closure.
  virtual int64_t stages() const { return 1; }
  /// Drops all gradients.
  void zero_grad();
  /// Adds parameters with some options changed: add_param_group(ps, {"lr": 0.1} as JSON).
  /// OptionError on unknown names or on a parameter already held or repeated.
  void add_param_group(const Tensors& params, const Json& changes = Json::object());
  /// Changes options of a group: set_options(1, {"lr": 0.1, "weight_decay": 0} as JSON). A new lr
  /// becomes the group's initial_lr too. OptionError on unknown names, bad values or no such group,
  /// StateError when the states do not fit the new options; nothing has changed then.
  void set_options(std::size_t group, const Json& changes);
  /// Sets the learning rate of the first group, and moves the others' in proportion, so that the
  /// ratios of their initial_lr stay: a schedule calls this each step. OptionError on a negative
  /// rate, and when the first group began at 0 and the others did not.
  void set_lr(double lr);
  /// Sets the learning rate of one group, and leaves its initial_lr: torch's param_groups[g]["lr"].
  void set_lr(std::size_t group, double lr);
  /// Every group's lr = its initial_lr times `factor`: one step of torch's LambdaLR. Calls do not
  /// add up.
  void scale_lr(double factor);
  /// The learning rate of a group.
  double lr(std::size_t group = 0) const;
  const std::vector<ParamGroup>& param_groups() const { return groups_; }
  /// Goes on with the parameters held, whatever swap() did to their model until now.
  void accept_swap();
  /// "state.<i>.<name>" per parameter by number ("state.0.exp_avg"), and torch's param_groups as
  /// "param_groups.<g>.<option>": numbers, bools and lists of numbers as tensors (0 dimensions, or
  /// one), anything else as the bytes of its JSON; "params" are the group's parameter numbers,
  /// "initial_lr" is float64.
  StateDict state_dict() const;
  /// Restores what state_dict gave, options of every group included; a state without param_groups
  /// leaves the options as they are. Floating-point entries take the dtype that this optimizer
  /// keeps. StateError naming what does not fit (other groups, options, shapes, types), with
  /// nothing changed.
  void load_state_dict(const StateDict& state);
  /// Bytes held in states.
  int64_t state_bytes() const;

 protected:
  /// Reads the group's options again after a change.
  virtual void group_changed(std::size_t group) = 0;
  /// `base` (or the optimizer's own options when it is null) with some changed, all of them
  /// checked.
  virtual Json check_options(const Json& base, const Json& changes) const = 0;
  /// The state with which parameter p, of this number, of a group starts.
  virtual NamedTensors first_state(std::size_t group, std::size_t number,
                                   const Tensor& p) const = 0;
  /// Updates parameter p of a group; `first`: its state was made for this step. g is contiguous and
  /// has p's dtype.
  virtual void update(std::size_t group, std::size_t number, const Tensor& p, const Tensor& g,
                      NamedTensors& state, bool first) = 0;
  void add_first_group(const Tensors& params, const Json& options);
  /// StateError when parameter p can not be updated from g (undefined: it has none) and its state
  /// (empty: it has none yet). Called for every parameter before the first one changes.
  virtual void check_update(std::size_t /*group*/, std::size_t /*number*/, const Tensor& /*p*/,
                            const Tensor& /*g*/, const NamedTensors& /*state*/) const {}
  /// The state of a parameter by number; empty before its first update.
  const NamedTensors& held_state(std::size_t number) const { return states_[number].state; }
  NamedTensors& held_state(std::size_t number) { return states_[number].state; }
  /// Entries that state_dict adds to parameter p's state, so that a later load can tell what it
  /// reads.
  virtual NamedTensors state_notes(std::size_t /*group*/, const Tensor& /*p*/,
                                   const NamedTensors& /*state*/) const {
    return {};
  }
  /// StateError when `state` (of parameter number i) is not for p; takes the notes out. Nothing has
  /// been changed yet. Here: shapes and kinds of dtype as first_state makes them.
  virtual void check_state(std::size_t group, const Tensor& p, std::size_t i,
                           NamedTensors& state) const;
  /// True when the parameter is held; `has_state` tells whether it was updated before.
  bool holds(const Tensor& p, bool* has_state) const;

 private:
  /// A parameter's state, and what the parameter was when it was made.
  struct Held {
    NamedTensors state;
    TensorOptions options;
    Shape sizes;
  };
  void append_group(const Tensors& params, Json options);
  void set_rates(const std::vector<double>& rates);
  void check_group(std::size_t group, const char* who) const;
  void check_ready(std::size_t number, const Tensor& p) const;
  NamedTensors followed(std::size_t group, std::size_t number, const Tensor& p) const;
  std::vector<ParamGroup> restored_groups(const StateDict& state) const;
  std::vector<NamedTensors> restored_states(const StateDict& state) const;
  std::vector<ParamGroup> groups_;
  std::vector<Held> states_;  ///< by number
  std::uint64_t swaps_seen_ = 0;
};

/// Gives Self its options per group. class SGD : public OptimizerOf<SGD, SGDOptions>;
/// self.start(options, p) makes a parameter's first state, self.update_one(options, p, g, state,
/// first) updates it. Both may take the parameter's number as one more, last argument.
template <class Self, class O>
class OptimizerOf : public Optimizer {
 public:
  using Options = O;
  OptimizerOf(const Tensors& params, const O& o) : defaults_(options_to_json(o)) {
    Self::check(o);
    add_first_group(params, defaults_);
  }
  std::string_view type() const override { return type_name<Self>(); }

 protected:
  const O& options_of(std::size_t group) const { return parsed_[group]; }
  Json check_options(const Json& base, const Json& changes) const override {
    O o = options_from_json<O>(changes, type_name<Self>());  // refuses unknown names
    Json all = base.is_null() ? defaults_ : base;
    for (const auto& [k, v] : changes.items()) all.set(k, v);
    o = options_from_json<O>(all, type_name<Self>());
    Self::check(o);
    return options_to_json(o);
  }
  void group_changed(std::size_t g) override {
    if (parsed_.size() <= g) parsed_.resize(g + 1);
    parsed_[g] = options_from_json<O>(param_groups()[g].options, type_name<Self>());
  }
  NamedTensors first_state(std::size_t g, std::size_t number, const Tensor& p) const override {
    const Self& self = static_cast<const Self&>(*this);
    if constexpr (requires { self.start(parsed_[g], p, number); })
      return self.start(parsed_[g], p, number);
    else
      return self.start(parsed_[g], p);
  }
  void update(std::size_t g, std::size_t number, const Tensor& p, const Tensor& grad,
              NamedTensors& state, bool first) override {
    Self& self = static_cast<Self&>(*this);
    if constexpr (requires { self.update_one(parsed_[g], p, grad, state, first, number); })
      self.update_one(parsed_[g], p, grad, state, first, number);
    else
      self.update_one(parsed_[g], p, grad, state, first);
  }

 private:
  Json defaults_;
  std::vector<O> parsed_;
};

struct SGDOptions {
  double lr = 1e-3;
  double momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false;
  static void fields(auto&& f) {
    using O = SGDOptions;
    f("lr", &O::lr, "step size");
    f("momentum", &O::momentum, "share of the last step that is kept");
    f("dampening", &O::dampening, "of the gradient entering the momentum");
    f("weight_decay", &O::weight_decay, "L2 penalty");
    f("nesterov", &O::nesterov, "Nesterov's momentum");
    f("maximize", &O::maximize, "climbs instead of descends");
  }
};
/// torch.optim.SGD: g += weight_decay p; m = momentum m + (1 - dampening) g (m = g at first); p -=
/// lr m, with nesterov lr (g + momentum m). State: momentum_buffer. Parameters of bfloat16 and
/// float16 are stepped in float32 and rounded once, and their states are float32 (torch's have the
/// parameter's dtype); so with Adam and AdamW.
class SGD : public OptimizerOf<SGD, SGDOptions> {
 public:
  static constexpr const char* kSummary = "gradient descent with momentum";
  explicit SGD(const Tensors& params, const SGDOptions& o = {}) : OptimizerOf(params, o) {}
  static void check(const SGDOptions& o);
  NamedTensors start(const SGDOptions& o, const Tensor& p) const;
  void update_one(const SGDOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                  bool first);
};

struct AdamOptions {
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;
  bool amsgrad = false, maximize = false;
  static void fields(auto&& f) {
    using O = AdamOptions;
    f("lr", &O::lr, "step size");
    f("betas", &O::betas, "decay of the two moments");
    f("eps", &O::eps, "added to the root of the second moment");
    f("weight_decay", &O::weight_decay, "L2 penalty");
    f("amsgrad", &O::amsgrad, "divides by the greatest second moment so far (Reddi et al. 2018)");
    f("maximize", &O::maximize, "climbs instead of descends");
  }
};
/// torch.optim.Adam (Kingma & Ba 2015, algorithm 1): m = b1 m + (1 - b1) g; v = b2 v + (1 - b2)
/// g^2; p -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps). weight_decay is added to the
/// gradient. State: step, exp_avg, exp_avg_sq (max_exp_avg_sq); dtypes as with SGD.
class Adam : public OptimizerOf<Adam, AdamOptions> {
 public:
  static constexpr const char* kSummary = "adaptive moments";
  static constexpr const char* kPaper = "Kingma & Ba 2015, arXiv 1412.6980";
  explicit Adam(const Tensors& params, const AdamOptions& o = {}) : OptimizerOf(params, o) {}
  static void check(const AdamOptions& o);
  NamedTensors start(const AdamOptions& o, const Tensor& p) const;
  void update_one(const AdamOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                  bool first);
};

struct AdamWOptions {
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 1e-2;
  bool amsgrad = false, maximize = false;
  static void fields(auto&& f) {
    using O = AdamWOptions;
    f("lr", &O::lr, "step size");
    f("betas", &O::betas, "decay of the two moments");
    f("eps", &O::eps, "added to the root of the second moment");
    f("weight_decay", &O::weight_decay, "decay of the parameters themselves, times lr");
    f("amsgrad", &O::amsgrad, "divides by the greatest second moment so far");
    f("maximize", &O::maximize, "climbs instead of descends");
  }
};
/// torch.optim.AdamW (Loshchilov & Hutter 2019, algorithm 2): p = (1 - lr weight_decay) p, then
/// Adam's step without decay. State as Adam.
class AdamW : public OptimizerOf<AdamW, AdamWOptions> {
 public:
  static constexpr const char* kSummary = "Adam with decoupled weight decay";
  static constexpr const char* kPaper = "Loshchilov & Hutter 2019, arXiv 1711.05101";
  explicit AdamW(const Tensors& params, const AdamWOptions& o = {}) : OptimizerOf(params, o) {}
  static void check(const AdamWOptions& o);
  NamedTensors start(const AdamWOptions& o, const Tensor& p) const;
  void update_one(const AdamWOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                  bool first);
};

/// Scales all gradients so that their joint L2 norm is at most max_norm; returns the norm before.
/// torch.nn.utils.clip_grad_norm_. Norms of 16-bit gradients are computed in float32, and a tensor
/// given twice counts once. A norm that is NaN makes all gradients NaN, as in torch.
double clip_grad_norm_(const Tensors& params, double max_norm);
/// lr at `step` (from 0): linear from 0 over `warmup` steps, then a cosine down to min_lr at
/// `total`.
double warmup_cosine(int64_t step, int64_t warmup, int64_t total, double lr, double min_lr = 0);

}  // namespace dropin
