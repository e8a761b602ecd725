// Optimizers whose state is one byte per value (Dettmers et al. 2022): the standard ones' rules and
// hyperparameters at about a quarter of their memory.
#pragma once
#include "dropin/optimizer/blockwise.h"
#include "dropin/optimizer/optimizer.h"

namespace dropin {

namespace detail {
/// What the rules have in common.
struct Common8 {
  double weight_decay = 0;
  int64_t block_size = 256, min_8bit_size = 4096, percentile_clipping = 100;
};
void check_common8(std::string_view who, std::optional<double> lr, const Common8& o);
void check_betas8(std::string_view who, const std::vector<double>& betas);
void check_eps8(std::string_view who, double eps);

enum class Kind8 { Adam, Momentum, Lion, RmsProp, Adagrad };
struct Rule8Options {
  Kind8 kind;
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0;
  Common8 common;
};

/// The state of all 8-bit optimizers: step; state1 (state2) U8 with absmax1 (absmax2) F32, or F32
/// for small and overridden parameters; gnorm_vec F32 [100] when clipping by percentile.
class Overrides8 {
 public:
  void set(const Tensor& p, int64_t bits);
  bool eight(const Tensor& p, int64_t min_size) const;

 private:
  std::vector<std::pair<Tensor, int64_t>> bits_;
};
NamedTensors start8(const Rule8Options& o, bool eight, const Tensor& p);
void update8(const Rule8Options& o, const Tensor& p, const Tensor& g, NamedTensors& state);
NamedTensors notes8(const Common8& o, const NamedTensors& state);
void check_state8(std::string_view who, const Common8& o, bool two, const Tensor& p, std::size_t i,
                  NamedTensors& state);

template <class O>
Common8 common8(const O& o) {
  return {o.weight_decay, o.block_size, o.min_8bit_size, o.percentile_clipping};
}
template <class O>
void common_fields8(auto&& f) {
  f("weight_decay", &O::weight_decay,
    "weight decay: of the parameters themselves, times lr (Adam8bit, AdamW8bit, Lion8bit), or "
    "added to the gradient");
  f("block_size", &O::block_size, "values that share a scale; at least 16");
  f("min_8bit_size", &O::min_8bit_size, "smaller parameters keep 32-bit state");
  f("percentile_clipping", &O::percentile_clipping,
    "gradients are scaled down to this percentile of the last 100 norms, per tensor; 100: never");
}
}  // namespace detail

/// Base of the 8-bit optimizers. Self::rule(options) names the rule.
template <class Self, class O>
class Optimizer8bit : public OptimizerOf<Self, O> {
  using Base = OptimizerOf<Self, O>;

 public:
  Optimizer8bit(const Tensors& params, const O& o) : Base(params, o) {}
  static void check(const O& o) {
    detail::check_common8(type_name<Self>(), o.lr, detail::common8(o));
    if constexpr (requires { o.betas; }) detail::check_betas8(type_name<Self>(), o.betas);
    if constexpr (requires { o.eps; }) detail::check_eps8(type_name<Self>(), o.eps);
    if constexpr (requires { Self::check_own(o); }) Self::check_own(o);
  }
  /// Keeps 32-bit (or, with 8, one-byte) state for this parameter, whatever its size. Before its
  /// first step; OptionError otherwise, or when it is not held.
  void override(const Tensor& parameter, int64_t optim_bits = 32) {
    bool has_state = false;
    DROPIN_CHECK(optim_bits == 8 || optim_bits == 32, OptionError, type_name<Self>(),
                 ": optim_bits is ", optim_bits, ", expected 8 or 32");
    DROPIN_CHECK(this->holds(parameter, &has_state), OptionError, type_name<Self>(),
                 ": override: this optimizer does not hold the parameter");
    DROPIN_CHECK(!has_state, OptionError, type_name<Self>(),
                 ": override: the parameter has a state already; call it before the first step");
    overrides_.set(parameter, optim_bits);
  }
  NamedTensors start(const O& o, const Tensor& p) const {
    return detail::start8(Self::rule(o), overrides_.eight(p, o.min_8bit_size), p);
  }
  void update_one(const O& o, const Tensor& p, const Tensor& g, NamedTensors& state, bool) {
    detail::update8(Self::rule(o), p, g, state);
  }

 protected:
  NamedTensors state_notes(std::size_t group, const Tensor&,
                           const NamedTensors& state) const override {
    return detail::notes8(common(group), state);
  }
  void check_state(std::size_t group, const Tensor& p, std::size_t i,
                   NamedTensors& state) const override {
    detail::check_state8(type_name<Self>(), common(group), Self::kTwoStates, p, i, state);
  }

 private:
  detail::Common8 common(std::size_t group) const {
    return detail::common8(
        options_from_json<O>(this->param_groups()[group].options, type_name<Self>()));
  }
  detail::Overrides8 overrides_;
};

#define DROPIN_COMMON8_OPTIONS(DECAY) \
  double weight_decay = DECAY;        \
  int64_t block_size = 256, min_8bit_size = 4096, percentile_clipping = 100

struct Adam8bitOptions {
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  DROPIN_COMMON8_OPTIONS(0);
  static void fields(auto&& f) {
    using O = Adam8bitOptions;
    f("lr", &O::lr, "step size");
    f("betas", &O::betas, "decay of the two moments");
    f("eps", &O::eps, "added to the root of the second moment");
    detail::common_fields8<O>(f);
  }
};
/// Adam with one-byte moments (Dettmers et al. 2022, section 2): m = b1 m + (1 - b1) g; v = b2 v +
/// (1 - b2) g^2; p = (1 - lr weight_decay) p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) +
/// eps), in float32; then m and v are kept as codes of the dynamic map and one greatest value per
/// block. A gradient that is not finite leaves its parameter as it is and its state 0. State: step,
/// state1, absmax1, state2, absmax2.
class Adam8bit : public Optimizer8bit<Adam8bit, Adam8bitOptions> {
 public:
  static constexpr const char* kSummary = "Adam with one byte per moment";
  static constexpr const char* kReplaces = "Adam";
  static constexpr const char* kPaper = "Dettmers et al. 2022, arXiv 2110.02861";
  static constexpr bool kTwoStates = true;
  explicit Adam8bit(const Tensors& params, const Adam8bitOptions& o = {})
      : Optimizer8bit(params, o) {}
  static detail::Rule8Options rule(const Adam8bitOptions& o) {
    return {detail::Kind8::Adam, o.lr, o.betas[0], o.betas[1], o.eps, detail::common8(o)};
  }
};

struct AdamW8bitOptions {
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  DROPIN_COMMON8_OPTIONS(1e-2);
  static void fields(auto&& f) {
    using O = AdamW8bitOptions;
    f("lr", &O::lr, "step size");
    f("betas", &O::betas, "decay of the two moments");
    f("eps", &O::eps, "added to the root of the second moment");
    detail::common_fields8<O>(f);
  }
};
/// AdamW with one-byte moments: Adam8bit's rule, whose decay is decoupled, with AdamW's default for
/// it. State as Adam8bit.
class AdamW8bit : public Optimizer8bit<AdamW8bit, AdamW8bitOptions> {
 public:
  static constexpr const char* kSummary = "AdamW with one byte per moment";
  static constexpr const char* kReplaces = "AdamW";
  static constexpr const char* kPaper = "Dettmers et al. 2022, arXiv 2110.02861";
  static constexpr bool kTwoStates = true;
  explicit AdamW8bit(const Tensors& params, const AdamW8bitOptions& o = {})
      : Optimizer8bit(params, o) {}
  static detail::Rule8Options rule(const AdamW8bitOptions& o) {
    return {detail::Kind8::Adam, o.lr, o.betas[0], o.betas[1], o.eps, detail::common8(o)};
  }
};

struct SGD8bitOptions {
  std::optional<double> lr = std::nullopt;  ///< required
  double momentum = 0.9;
  DROPIN_COMMON8_OPTIONS(0);
  static void fields(auto&& f) {
    using O = SGD8bitOptions;
    f("lr", &O::lr, "step size; required");
    f("momentum", &O::momentum,
      "share of the last step that is kept; above 0, for without it there is no state");
    detail::common_fields8<O>(f);
  }
};
/// SGD with a one-byte momentum buffer: g += weight_decay p; m = momentum m + g (m = g at first); p
/// -= lr m. State: step, state1, absmax1.
class SGD8bit : public Optimizer8bit<SGD8bit, SGD8bitOptions> {
 public:
  static constexpr const char* kSummary = "SGD with one byte of momentum";
  static constexpr const char* kReplaces = "SGD";
  static constexpr const char* kPaper = "Dettmers et al. 2022, arXiv 2110.02861";
  static constexpr bool kTwoStates = false;
  SGD8bit(const Tensors& params, const SGD8bitOptions& o) : Optimizer8bit(params, o) {}
  static void check_own(const SGD8bitOptions& o) {
    DROPIN_CHECK(o.momentum > 0, OptionError, "SGD8bit: momentum is ", o.momentum,
                 ", expected more than 0; without it use SGD, which keeps no state");
  }
  static detail::Rule8Options rule(const SGD8bitOptions& o) {
    return {detail::Kind8::Momentum, *o.lr, o.momentum, 0, 0, detail::common8(o)};
  }
};

struct Lion8bitOptions {
  double lr = 1e-4;
  std::vector<double> betas = {0.9, 0.99};
  DROPIN_COMMON8_OPTIONS(0);
  static void fields(auto&& f) {
    using O = Lion8bitOptions;
    f("lr", &O::lr, "step size");
    f("betas", &O::betas, "share of the momentum in the step, and in itself");
    detail::common_fields8<O>(f);
  }
};
/// Lion (Chen et al. 2023) with a one-byte momentum: p = (1 - lr weight_decay) p - lr sign(b1 m +
/// (1 - b1) g); m = b2 m + (1 - b2) g. State: step, state1, absmax1.
class Lion8bit : public Optimizer8bit<Lion8bit, Lion8bitOptions> {
 public:
  static constexpr const char* kSummary = "Lion with one byte of momentum";
  static constexpr const char* kPaper =
      "Dettmers et al. 2022, arXiv 2110.02861; Chen et al. 2023, arXiv 2302.06675";
  static constexpr bool kTwoStates = false;
  explicit Lion8bit(const Tensors& params, const Lion8bitOptions& o = {})
      : Optimizer8bit(params, o) {}
  static detail::Rule8Options rule(const Lion8bitOptions& o) {
    return {detail::Kind8::Lion, o.lr, o.betas[0], o.betas[1], 0, detail::common8(o)};
  }
};

struct RMSprop8bitOptions {
  double lr = 1e-2;
  double alpha = 0.99;
  double eps = 1e-8;
  DROPIN_COMMON8_OPTIONS(0);
  static void fields(auto&& f) {
    using O = RMSprop8bitOptions;
    f("lr", &O::lr, "step size");
    f("alpha", &O::alpha, "decay of the mean square");
    f("eps", &O::eps, "added to its root");
    detail::common_fields8<O>(f);
  }
};
/// RMSprop with a one-byte mean square: g += weight_decay p; v = alpha v + (1 - alpha) g^2; p -= lr
/// g / (sqrt(v) + eps). State: step, state1, absmax1.
class RMSprop8bit : public Optimizer8bit<RMSprop8bit, RMSprop8bitOptions> {
 public:
  static constexpr const char* kSummary = "RMSprop with one byte of state";
  static constexpr const char* kPaper = "Dettmers et al. 2022, arXiv 2110.02861";
  static constexpr bool kTwoStates = false;
  explicit RMSprop8bit(const Tensors& params, const RMSprop8bitOptions& o = {})
      : Optimizer8bit(params, o) {}
  static void check_own(const RMSprop8bitOptions& o) {
    DROPIN_CHECK(o.alpha >= 0 && o.alpha < 1, OptionError, "RMSprop8bit: alpha is ", o.alpha,
                 ", expected 0 <= alpha < 1");
  }
  static detail::Rule8Options rule(const RMSprop8bitOptions& o) {
    return {detail::Kind8::RmsProp, o.lr, 0, o.alpha, o.eps, detail::common8(o)};
  }
};

struct Adagrad8bitOptions {
  double lr = 1e-2;
  double eps = 1e-10;
  DROPIN_COMMON8_OPTIONS(0);
  static void fields(auto&& f) {
    using O = Adagrad8bitOptions;
    f("lr", &O::lr, "step size");
    f("eps", &O::eps, "added to the root of the sum of squares");
    detail::common_fields8<O>(f);
  }
};
/// Adagrad with a one-byte sum of squares: g += weight_decay p; v += g^2; p -= lr g / (sqrt(v) +
/// eps). State: step, state1, absmax1.
class Adagrad8bit : public Optimizer8bit<Adagrad8bit, Adagrad8bitOptions> {
 public:
  static constexpr const char* kSummary = "Adagrad with one byte of state";
  static constexpr const char* kPaper = "Dettmers et al. 2022, arXiv 2110.02861";
  static constexpr bool kTwoStates = false;
  explicit Adagrad8bit(const Tensors& params, const Adagrad8bitOptions& o = {})
      : Optimizer8bit(params, o) {}
  static detail::Rule8Options rule(const Adagrad8bitOptions& o) {
    return {detail::Kind8::Adagrad, o.lr, 0, 0, o.eps, detail::common8(o)};
  }
};
#undef DROPIN_COMMON8_OPTIONS

}  // namespace dropin
