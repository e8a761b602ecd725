// DecisionRule: the contract of rules that turn class probabilities into a class.
#pragma once
#include "dropin/module/family.h"

namespace dropin {

/// What a rule decided for each row.
struct Decision {
  Tensor prediction;  ///< int64 [B]
  Tensor scores;      ///< what it was decided by
  Tensor onehot;      ///< [B, N], where the rule gives it
};

/// probs [B, K] -> prediction int64 [B] and the scores it was decided by. Standard member:
/// ArgmaxPredictor.
class DecisionRule : public Module {
 public:
  using Family = DecisionRule;
  static constexpr const char* kFamily = "DecisionRule";
  static FamilyInfo family();
  virtual Decision forward(const Tensor& probs) = 0;
  Decision operator()(const Tensor& probs) { return forward(probs); }
  NamedTensors call(const NamedTensors& in) override;
};

namespace detail {
/// ShapeError or DTypeError unless probs is [B, K >= 1] of floats; `classes` >= 0 asks for that K.
void check_probs(std::string_view who, const Tensor& probs, int64_t classes = -1);
/// Gives `buffer` the sizes of what the state holds for it, where only the file knows them.
void fit_buffer(Tensor& buffer, const Tensor& saved);
}  // namespace detail

}  // namespace dropin
