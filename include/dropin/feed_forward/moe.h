// TopKMoE and ReMoE: mixtures of experts.
#pragma once
#include <mutex>

#include "dropin/feed_forward/feed_forward.h"
#include "dropin/module/parameters.h"

namespace dropin {

struct MoEOptions {
  int64_t d_model = 0, d_ff = 0, num_experts = 0;  ///< required
  int64_t top_k = 1;
  std::string activation = "swiglu";
  int64_t granularity = 1;
  template <class O>
  static void fields_of(auto&& f) {
    f("d_model", &O::d_model, "d; required");
    f("d_ff", &O::d_ff, "hidden width of an expert; required");
    f("num_experts", &O::num_experts, "E; required");
    f("top_k", &O::top_k, "k, experts per token");
    f("activation", &O::activation, "of the experts: swiglu, gelu or relu");
    f("granularity", &O::granularity, "g: g times as many experts and top_k, each 1 / g as wide");
  }
};

/// What a mixture of experts gives.
struct MoEResult {
  Tensor y;         ///< as x
  Tensor aux_loss;  ///< scalar; add it to the loss. 0 when not training
  Tensor sparsity;  ///< scalar, without gradient: share of gates that are not positive
};

/// Experts in place of one feed-forward layer: y_t = sum_e gate_te expert_e(x_t). x [*, d_model],
/// key_padding_mask (x's leading sizes) bool: tokens that are not routed, and give 0. Parameters
/// router.weight [E, d], experts.w1 [E, d_ff, d], experts.w3 (swiglu) and experts.w2 [E, d, d_ff].
/// An expert runs for the tokens whose gate is not 0. A token whose logits hold NaN gives NaN.
class MixtureOfExperts : public FeedForward {
 public:
  MoEResult route(const Tensor& x, const Tensor& key_padding_mask = {});
  Tensor forward(const Tensor& x) override { return route(x).y; }
  NamedTensors call(const NamedTensors& in) override;
  /// [n, E] of tokens x [n, d_model], 0 where an expert does not run.
  Tensor gates(const Tensor& x) const;
  /// Tokens that chose each expert in the last call, [E] int64; zeros before the first.
  Tensor last_load() const;

 protected:
  struct Routing {
    Tensor gates;          ///< [n, E]
    Tensor load;           ///< [E] int64: tokens that chose e
    Tensor probabilities;  ///< [n, E]: what the balance loss sums
  };
  /// Checks the options and creates router and experts.
  void create(std::string_view who, const MoEOptions& o);
  virtual Routing routing(const Tensor& logits) const = 0;
  /// Factor of the balance loss.
  virtual double loss_coefficient() const = 0;
  int64_t experts_ = 0, chosen_ = 0;  ///< E and k, granularity included

 private:
  Tensor expert(int64_t e, const Tensor& x) const;
  int64_t width_ = 0;
  std::string activation_, who_;
  Child<Linear> router_;
  Tensor *w1_, *w2_, *w3_ = nullptr;
  mutable std::mutex mutex_;
  Tensor load_;
};

struct TopKMoEOptions : MoEOptions {
  double aux_loss_coeff = 1e-2;
  bool pre_softmax = true;
  std::optional<double> capacity_factor = std::nullopt;
  std::string drop_policy = "probs";
  static void fields(auto&& f) {
    using O = TopKMoEOptions;
    MoEOptions::fields_of<O>(f);
    f("aux_loss_coeff", &O::aux_loss_coeff, "factor of the balance loss");
    f("pre_softmax", &O::pre_softmax,
      "gates are the largest probabilities; else a softmax of the largest logits (top_k >= 2)");
    f("capacity_factor", &O::capacity_factor,
      "an expert takes at most ceil(n k / E times this) tokens; null: all");
    f("drop_policy", &O::drop_policy,
      "which it keeps: \"probs\" (the largest gates) or \"position\" (the first tokens)");
  }
};

/// The standard mixture: the top_k experts by a softmax router (Shazeer et al. 2017; balance loss
/// of Fedus et al. 2021).
class TopKMoE : public Component<TopKMoE, TopKMoEOptions, MixtureOfExperts> {
 public:
  static constexpr const char* kSummary = "the k most probable experts for each token";
  static constexpr const char* kPaper = "Fedus et al. 2021, arXiv 2101.03961";
  static constexpr const char* kCall =
      "x [*, D], key_padding_mask [*] bool -> y [*, D], aux_loss [], sparsity []";
  static constexpr const char* kSample = R"({"d_ff": 6, "num_experts": 4, "top_k": 2})";
  static std::vector<std::string> examples();
  static void traits(const Options& o, Traits& t) { t.mixes_batch = o.capacity_factor.has_value(); }
  explicit TopKMoE(const TopKMoEOptions& o);

 protected:
  Routing routing(const Tensor& logits) const override;
  double loss_coefficient() const override { return options_.aux_loss_coeff; }
};

struct ReMoEOptions : MoEOptions {
  double l1_coeff = 1e-8, l1_multiplier = 1.2;
  static void fields(auto&& f) {
    using O = ReMoEOptions;
    MoEOptions::fields_of<O>(f);
    f("l1_coeff", &O::l1_coeff, "factor of the penalty at the start; kept as a buffer");
    f("l1_multiplier", &O::l1_multiplier, "step of update_coeff()");
  }
};

/// A mixture whose gates are relu(router x): continuous, and each token runs as many experts as it
/// likes (Wang et al. 2025); a balanced L1 penalty, whose coefficient update_coeff() steers, keeps
/// top_k of them active on average. Replaces TopKMoE. Buffer l1_coeff [].
class ReMoE : public Component<ReMoE, ReMoEOptions, MixtureOfExperts> {
 public:
  static constexpr const char* kSummary = "experts chosen by a rectified router";
  static constexpr const char* kReplaces = "TopKMoE";
  static constexpr const char* kPaper = "Wang et al. 2025 (ReMoE), arXiv 2412.14711";
  static constexpr const char* kCall = TopKMoE::kCall;
  static constexpr const char* kSample = TopKMoE::kSample;
  static std::vector<std::string> examples();
  explicit ReMoE(const ReMoEOptions& o);
  /// Once per optimizer step, with the sparsity averaged over layers and micro-batches.
  void update_coeff(double mean_sparsity);
  /// OptionError when negative; kept between 1e-30 and 1e30.
  void set_coeff(double v);
  double coeff() const { return coeff_->item(); }

 protected:
  Routing routing(const Tensor& logits) const override;
  double loss_coefficient() const override { return coeff(); }
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  Tensor* coeff_;
};

struct RemoeLambdaOptions {
  int64_t top_k = 1, num_experts = 0;
  double multiplier = 1.2;
  static void fields(auto&& f) {
    using O = RemoeLambdaOptions;
    f("top_k", &O::top_k, "k, experts per token wanted on average");
    f("num_experts", &O::num_experts, "E; required");
    f("multiplier", &O::multiplier, "step, more than 1");
  }
};
/// coeff times the multiplier where sparsity is below 1 - k / E, divided by it elsewhere; float32,
/// element by element, without gradient.
Tensor remoe_lambda_update(const Tensor& coeff, const Tensor& sparsity,
                           const RemoeLambdaOptions& o);

}  // namespace dropin
