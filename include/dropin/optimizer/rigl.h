// RigL: which weights of a sparse layer are active changes during training.
#pragma once
#include "dropin/optimizer/optimizer.h"

namespace dropin {

struct RiglUpdateOptions {
  double sparsity = 0.5, drop_fraction = 0.3;
  static void fields(auto&& f) {
    using O = RiglUpdateOptions;
    f("sparsity", &O::sparsity, "s, share of zeros, between 0 and 1");
    f("drop_fraction", &O::drop_fraction, "share of the active weights that is dropped, below 1");
  }
};
struct RiglMasks {
  Tensor mask;   ///< bool: active from now on
  Tensor grown;  ///< bool: among these, those that were not kept
};
/// One step of RigL (Evci et al. 2020): drops the smallest active weights, activates the largest
/// entries of the dense gradient among all that are not kept, up to (1 - s) of all. weight, mask
/// (bool) and dense_grad have one shape. Lower indices first among equals; NaN counts as smallest.
RiglMasks rigl_update(const Tensor& weight, const Tensor& mask, const Tensor& dense_grad,
                      const RiglUpdateOptions& o);

/// A sparse layer's weight and its mask, which share memory with the layer.
struct MaskedParameter {
  Tensor weight, mask;
  /// Told whether the next backward must leave the gradient unmasked (null: it always is).
  std::function<void(bool)> want_dense_grad = nullptr;
};

struct RigLOptions {
  double sparsity = 0.5, drop_fraction = 0.3;
  int64_t begin = 0, end = 0, total_steps = 0, frequency = 100;
  std::string schedule = "cosine", method = "rigl";
  double exponent = 3;
  static void fields(auto&& f) {
    using O = RigLOptions;
    f("sparsity", &O::sparsity, "s of every layer");
    f("drop_fraction", &O::drop_fraction, "share dropped at the first update");
    f("begin", &O::begin, "masks change at steps after this one");
    f("end", &O::end, "and before this one; 0: three quarters of total_steps");
    f("total_steps", &O::total_steps, "steps of the training");
    f("frequency", &O::frequency, "steps between changes");
    f("schedule", &O::schedule, "of the share dropped: cosine, constant or exponential");
    f("method", &O::method, "rigl (by gradient), set (at random) or static");
    f("exponent", &O::exponent, "g of exponential: exp(-g (t - begin) / (end - begin))");
  }
};

/// Dynamic sparse training around any optimizer: step() is the optimizer's, and at every
/// `frequency`-th one the masks change. New weights and the optimizer's numbers of them start at 0.
/// The optimizer must hold the weights.
class RigLSparsifier {
 public:
  RigLSparsifier(Optimizer& optimizer, std::vector<MaskedParameter> params, const RigLOptions& o);
  /// StateError when a change is due and a weight has no gradient.
  void step();
  int64_t steps() const { return steps_; }
  /// Whether the masks change at step t.
  bool changes_at(int64_t t) const;
  /// The share dropped at step t.
  double drop_fraction_at(int64_t t) const;

 private:
  void change_masks(const Tensors& gradients);
  /// Numbers that the optimizer keeps of a weight become 0 where `stays` (by params_) is false.
  void clear_states(const Tensors& stays) const;
  Optimizer& optimizer_;
  std::vector<MaskedParameter> params_;
  RigLOptions options_;
  int64_t steps_ = 0, end_ = 0;
};

/// Densities by layer that are proportional to (sum of sizes) / (number of entries), none above 1,
/// with (1 - s) of all entries active in sum (Erdos-Renyi-kernel).
std::vector<double> erk_densities(const std::vector<Shape>& shapes, double sparsity);

}  // namespace dropin
