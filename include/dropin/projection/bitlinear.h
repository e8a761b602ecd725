// BitLinear: a Linear whose weights have one bit or three values.
#pragma once
#include <mutex>

#include "dropin/ops/bitlinear.h"
#include "dropin/projection/contract.h"

namespace dropin {

struct BitLinearOptions {
  int64_t in_features = 0;   ///< required
  int64_t out_features = 0;  ///< required
  bool bias = true;
  std::string variant = "b1";
  std::string norm = "auto";
  double norm_eps = 1e-5;
  bool norm_affine = false;
  std::string act_per = "token", act_mode = "absmax";
  int64_t act_qmax = 127;
  int64_t weight_groups = 1, act_groups = 1;
  static void fields(auto&& f) {
    using O = BitLinearOptions;
    f("in_features", &O::in_features, "size of each input row; required");
    f("out_features", &O::out_features, "size of each output row; required");
    f("bias", &O::bias, "adds a learnable bias, which is not quantized");
    f("variant", &O::variant, "weights of one bit: \"b1\", or of -1, 0, 1: \"b1.58\"");
    f("norm", &O::norm,
      "before quantization: \"layer\", \"rms\", \"none\", or \"auto\" (layer for b1, rms for "
      "b1.58)");
    f("norm_eps", &O::norm_eps, "of the norm");
    f("norm_affine", &O::norm_affine,
      "learns norm.weight (also without a norm), and norm.bias of a layer norm");
    f("act_per", &O::act_per, "one activation scale per \"token\", or per call: \"tensor\"");
    f("act_mode", &O::act_mode, "\"absmax\", or \"shift\" for inputs that are not negative");
    f("act_qmax", &O::act_qmax, "127, or 128 as the paper writes it");
    f("weight_groups", &O::weight_groups, "groups of rows with a scale each; divides out_features");
    f("act_groups", &O::act_groups,
      "slices of channels, normalised and scaled by themselves; divides in_features");
  }
};

/// y = Q(norm(x)) Q(W)^T + b with 8-bit activations and weights of one bit (Wang et al. 2023) or
/// -1, 0, 1 (Ma et al. 2024). x [*, in_features] -> [*, out_features]. Parameters weight [N, K],
/// bias [N], norm.weight, norm.bias [K] (norm_affine). Training goes straight through the
/// quantization; the float weights stay the master. pack() leaves weight_packed U8, weight_scale
/// F32: the same function from packed weights. Replaces Linear (train it, do not convert).
class BitLinear : public Component<BitLinear, BitLinearOptions, Projection> {
 public:
  static constexpr const char* kSummary =
      "a Linear with weights of one bit or three values and 8-bit activations";
  static constexpr const char* kReplaces = "Linear";
  static constexpr const char* kPaper =
      "Wang et al. 2023, arXiv 2310.11453; Ma et al. 2024, arXiv 2402.17764";
  static std::vector<std::string> examples();
  static void traits(const BitLinearOptions&, Traits& t) { t.surrogate_gradient = true; }
  explicit BitLinear(const BitLinearOptions& o);
  /// StateError when training after pack(release = true).
  Tensor forward(const Tensor& x) override;
  /// Packs the weights as they are now; eval mode uses them from here on. release: the float weight
  /// is freed. Leaves training mode alone: train(true) drops what was packed (unless released).
  void pack(bool release = false);
  bool packed() const { return packed_->defined(); }
  /// The float weight; undefined after pack(release = true).
  Tensor& weight() const { return *weight_; }
  Tensor& bias() const { return *bias_; }

 protected:
  /// A state with weight_packed packs the module; one without weight releases it. StateError for
  /// another variant or shape.
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;
  void state_changed() override;

 private:
  Tensor normalize(const Tensor& x) const;
  BitPackedWeight quantized();
  BitLinearParams params_;
  bool rms_ = false;
  Tensor *weight_, *bias_, *packed_, *scale_;
  Tensor *norm_weight_ = nullptr, *norm_bias_ = nullptr;
  /// The weight's packed form, kept until it changes: made once per step.
  struct Cache {
    std::mutex mutex;
    Tensor source;  ///< keeps the storage that `version` counts
    std::uint32_t version = 0;
    BitPackedWeight packed;
  };
  Box<Cache> cache_;
};

}  // namespace dropin
