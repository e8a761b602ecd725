// LoRALinear and DoRALinear: trained low-rank updates of a frozen Linear.
#pragma once
#include "dropin/projection/adapter.h"

namespace dropin {

namespace detail {
/// A projection whose weight [out, in] and bias [out] are frozen (no gradient reaches them,
/// whatever they want), under an update that can be merged into the weight for inference: y = x W^T
/// + b + updated(dropout(x)).
class FrozenProjection : public Projection {
 public:
  Tensor& weight() const { return *weight_; }
  Tensor& bias() const { return *bias_; }
  /// Adds the update to the weight, for eval(). StateError when merged already or training.
  void merge();
  /// Subtracts it again. StateError when not merged.
  void unmerge();
  bool merged() const { return added_.defined(); }
  /// Trainable values.
  int64_t num_trainable() const;
  Tensor forward(const Tensor& x) override;

 protected:
  void create(int64_t in, int64_t out, bool bias, double dropout);
  /// The update of the weight, [out, in].
  virtual Tensor update() const = 0;
  /// What the update adds to y, of x after dropout.
  virtual Tensor updated(const Tensor& x) const = 0;
  /// `fresh` stands for this one in a clone: it is merged if this is.
  template <class Self>
  Box<Module> alike(Box<Self> fresh) const {
    if (merged()) fresh->added_ = added_.clone();
    return fresh;
  }
  Tensor *weight_ = nullptr, *bias_ = nullptr;

 private:
  double dropout_ = 0;
  Tensor added_;  ///< what merge() added
};
}  // namespace detail

struct LoRALinearOptions {
  int64_t in_features = 0, out_features = 0;  ///< required
  int64_t rank = 8;
  double alpha = 8, dropout = 0;
  bool bias = true;
  static void fields(auto&& f) {
    using O = LoRALinearOptions;
    f("in_features", &O::in_features, "size of each input row; required");
    f("out_features", &O::out_features, "size of each output row; required");
    f("rank", &O::rank, "r, columns of the two factors");
    f("alpha", &O::alpha, "the update is scaled by alpha / rank");
    f("dropout", &O::dropout, "on the input of the update, when training");
    f("bias", &O::bias, "a frozen bias");
  }
};

/// y = x W^T + b + alpha / r (x A^T) B^T with W and b frozen (Hu et al. 2021, section 4.1).
/// Replaces Linear. Parameters weight [out, in], bias [out] (frozen), lora_A [r, in], lora_B [out,
/// r] (0 at the start).
class LoRALinear : public Component<LoRALinear, LoRALinearOptions, detail::FrozenProjection> {
 public:
  static constexpr const char* kSummary = "a frozen Linear with a trained update of low rank";
  static constexpr const char* kReplaces = "Linear";
  static constexpr const char* kPaper = "Hu et al. 2021, arXiv 2106.09685";
  static std::vector<std::string> examples() { return {R"({"rank": 2, "bias": false})"}; }
  explicit LoRALinear(const LoRALinearOptions& o);
  Box<Module> make_like() const override {
    return alike(Box<LoRALinear>(new LoRALinear(options_)));
  }

 protected:
  double scale() const { return options_.alpha / static_cast<double>(options_.rank); }
  Tensor update() const override { return matmul(*b_, *a_) * scale(); }
  Tensor updated(const Tensor& x) const override { return linear(linear(x, *a_), *b_) * scale(); }

 private:
  Tensor *a_, *b_;
};

/// LoRALinear whose rows have learned lengths: W' = m (W + s B A) / |W + s B A|, the length a
/// constant in backward (Liu et al. 2024, section 4). Parameters of LoRALinear and magnitude [out],
/// which starts as the lengths of weight's rows (reset_magnitude() after another weight came).
class DoRALinear : public Component<DoRALinear, LoRALinearOptions, detail::FrozenProjection> {
 public:
  static constexpr const char* kSummary = "LoRA with the length of each row learned apart";
  static constexpr const char* kReplaces = "Linear";
  static constexpr const char* kPaper = "Liu et al. 2024, arXiv 2402.09353";
  static constexpr const char* kSample = R"({"rank": 2})";
  static void traits(const Options&, Traits& t) {
    t.surrogate_gradient = true;  // lengths are constants, by the paper's section 4.3
  }
  explicit DoRALinear(const LoRALinearOptions& o);
  Box<Module> make_like() const override {
    return alike(Box<DoRALinear>(new DoRALinear(options_)));
  }
  /// magnitude = the lengths of the rows as they are.
  void reset_magnitude();

 protected:
  Tensor update() const override;
  Tensor updated(const Tensor& x) const override { return linear(x, update()); }

 private:
  Tensor directed() const;
  Tensor *a_, *b_, *magnitude_;
};

}  // namespace dropin
