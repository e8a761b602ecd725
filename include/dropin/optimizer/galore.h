// AdamW whose moments live in a small subspace of the gradient.
#pragma once
#include <optional>

#include "dropin/optimizer/optimizer.h"

namespace dropin {

namespace detail {
/// The options that both have, up to the kind of projection.
template <class O>
void galore_fields(auto&& f) {
  f("lr", &O::lr, "step size");
  f("betas", &O::betas, "decay of the two moments");
  f("eps", &O::eps, "added to the root of the second moment, before its correction");
  f("weight_decay", &O::weight_decay, "decay of the parameters after the step, times lr");
  f("correct_bias", &O::correct_bias, "corrects both moments for their start at 0");
  f("rank", &O::rank, "r, directions kept; 0: no projection");
  f("update_proj_gap", &O::update_proj_gap, "steps between two subspaces");
  f("scale", &O::scale, "of what comes back from the subspace");
}
}  // namespace detail

struct GaLoreAdamWOptions {
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-6, weight_decay = 0;
  bool correct_bias = true;
  int64_t rank = 128, update_proj_gap = 200;
  double scale = 1;
  std::string proj_type = "std";
  std::optional<std::vector<int64_t>> galore_params = std::nullopt;
  std::string svd = "exact";
  static void fields(auto&& f) {
    using O = GaLoreAdamWOptions;
    detail::galore_fields<O>(f);
    f("proj_type", &O::proj_type,
      "std: the shorter side is compressed; reverse_std: the other; left, right; full: both");
    f("galore_params", &O::galore_params,
      "numbers of the projected parameters; null: all with two dimensions");
    f("svd", &O::svd, "how a subspace is found: exact or randomized");
  }
};
struct NaturalGaLoreOptions {
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-6, weight_decay = 0;
  bool correct_bias = true;
  int64_t rank = 128, update_proj_gap = 200;
  double scale = 1;
  std::string proj_type = "full";
  int64_t natural_history = 20;
  double damping = 1e-3;
  std::optional<std::vector<int64_t>> galore_params = std::nullopt;
  std::string svd = "exact";
  /// The part that it shares with GaLoreAdamW.
  GaLoreAdamWOptions base() const {
    return {lr,    betas,     eps,           weight_decay, correct_bias, rank, update_proj_gap,
            scale, proj_type, galore_params, svd};
  }
  static void fields(auto&& f) {
    using O = NaturalGaLoreOptions;
    detail::galore_fields<O>(f);
    f("proj_type", &O::proj_type,
      "full: both sides; std: the shorter side is compressed; reverse_std: the other; left, right");
    f("natural_history", &O::natural_history, "projected gradients that the Fisher matrix sums");
    f("damping", &O::damping, "added to the Fisher matrix");
    f("galore_params", &O::galore_params,
      "numbers of the projected parameters; null: all with two dimensions");
    f("svd", &O::svd, "how a subspace is found: exact or randomized");
  }
};

namespace detail {
/// How the two name themselves, and what NaturalGaLore does besides.
struct GaLoreRule {
  const char* who;
  bool natural = false;
  int64_t history = 0;
  double damping = 0;
};
void check_galore(const GaLoreRule& rule, const GaLoreAdamWOptions& o);
bool galore_projects(const GaLoreAdamWOptions& o, const Tensor& p, std::size_t number);
NamedTensors galore_start(const GaLoreRule& rule, const GaLoreAdamWOptions& o, const Tensor& p,
                          std::size_t number);
/// One step; `refresh` asks for a new subspace whatever the count.
void galore_step(const GaLoreRule& rule, const GaLoreAdamWOptions& o, const Tensor& p,
                 const Tensor& g, NamedTensors& state, std::size_t number, bool refresh);
void check_galore_gradient(const GaLoreRule& rule, const GaLoreAdamWOptions& o, const Tensor& p,
                           const Tensor& g, const NamedTensors& state, std::size_t number,
                           bool refresh);
/// StateError unless `history` can be parameter number i's, which begins with the state `first`.
void check_history(const GaLoreRule& rule, std::size_t i, const Tensor& history,
                   const NamedTensors& first);

/// What GaLoreAdamW and NaturalGaLore share.
template <class Self, class O>
class GaLoreOf : public OptimizerOf<Self, O> {
 public:
  using Base = OptimizerOf<Self, O>;
  using Base::Base;
  static void check(const O& o) { check_galore(Self::rule_of(o), Self::shared(o)); }
  NamedTensors start(const O& o, const Tensor& p, std::size_t number) const {
    return galore_start(Self::rule_of(o), Self::shared(o), p, number);
  }
  void update_one(const O& o, const Tensor& p, const Tensor& g, NamedTensors& state, bool,
                  std::size_t number) {
    galore_step(Self::rule_of(o), Self::shared(o), p, g, state, number, asked(number));
    if (number < asked_.size()) asked_[number] = false;
  }
  /// Every projected parameter's next step finds a new subspace.
  void refresh_projection() {
    std::size_t n = 0;
    for (const ParamGroup& g : this->param_groups()) n += g.params.size();
    asked_.assign(n, true);
  }

 protected:
  /// StateError naming the parameter when its gradient is not finite and a subspace is due.
  void check_update(std::size_t group, std::size_t number, const Tensor& p, const Tensor& g,
                    const NamedTensors& state) const override {
    check_galore_gradient(Self::rule_of(this->options_of(group)),
                          Self::shared(this->options_of(group)), p, g, state, number,
                          asked(number));
  }
  /// history may have fewer rows than natural_history.
  void check_state(std::size_t group, const Tensor& p, std::size_t i,
                   NamedTensors& state) const override {
    const Tensor history = state.find("history");
    if (history.defined()) {
      const NamedTensors first = this->first_state(group, i, p);
      check_history(Self::rule_of(this->options_of(group)), i, history, first);
      state.set("history", first.find("history"));  // which is as long as any
    }
    Base::check_state(group, p, i, state);
    if (history.defined()) state.set("history", history);
  }

 private:
  bool asked(std::size_t number) const { return number < asked_.size() && asked_[number]; }
  std::vector<bool> asked_;  ///< by number
};
}  // namespace detail

/// AdamW on P^T G, G Q or P^T G Q, with P and Q the leading singular vectors of a gradient now and
/// then (Zhao et al. 2024, section 4): moments of size r (m + n) at most in place of m n. The decay
/// comes after the step. Parameters that are not projected get plain AdamW of this kind. A
/// gradient of 0 has the first unit vectors as its subspace. State: step, exp_avg, exp_avg_sq,
/// proj.P, proj.Q; dtypes as with SGD.
class GaLoreAdamW : public detail::GaLoreOf<GaLoreAdamW, GaLoreAdamWOptions> {
 public:
  static constexpr const char* kSummary = "AdamW in a subspace of the gradient";
  static constexpr const char* kReplaces = "AdamW";
  static constexpr const char* kPaper = "Zhao et al. 2024 (GaLore), arXiv 2403.03507";
  explicit GaLoreAdamW(const Tensors& params, const GaLoreAdamWOptions& o = {})
      : GaLoreOf(params, o) {}
  static const GaLoreAdamWOptions& shared(const GaLoreAdamWOptions& o) { return o; }
  static detail::GaLoreRule rule_of(const GaLoreAdamWOptions&) { return {"GaLoreAdamW"}; }
};

/// GaLoreAdamW that first multiplies the projected gradient by the inverse of damping I + H H^T, H
/// the last natural_history projected gradients (Das 2024, section 3). State besides: history [<=
/// natural_history, size], oldest first; at the default it is larger than the moments.
class NaturalGaLore : public detail::GaLoreOf<NaturalGaLore, NaturalGaLoreOptions> {
 public:
  static constexpr const char* kSummary = "GaLore with natural gradients";
  static constexpr const char* kReplaces = "AdamW";
  static constexpr const char* kPaper = "Das 2024 (Natural GaLore), arXiv 2410.16029";
  explicit NaturalGaLore(const Tensors& params, const NaturalGaLoreOptions& o = {})
      : GaLoreOf(params, o) {}
  static GaLoreAdamWOptions shared(const NaturalGaLoreOptions& o) { return o.base(); }
  static detail::GaLoreRule rule_of(const NaturalGaLoreOptions& o) {
    return {"NaturalGaLore", true, o.natural_history, o.damping};
  }
};

}  // namespace dropin
