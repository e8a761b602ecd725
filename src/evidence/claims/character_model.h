// The small language model that several reproductions share: 16 characters embedded and joined, two
// hidden layers of 256, the next character.
#pragma once
#include <functional>
#include <string>

#include "dropin/optimizer/optimizer.h"
#include "dropin/sequence/contract.h"
#include "evidence/claims.h"

namespace dropin::evidence {

/// The text as numbers: training part and, from behind it, every fifth position to validate on.
class CharacterData {
 public:
  explicit CharacterData(const ClaimData& data);
  int64_t vocabulary() const { return vocabulary_; }
  const std::string& name() const { return name_; }
  struct Examples {
    Tensor context, next;
  };
  Examples batch(Generator& g) const;
  const Examples& validation() const { return validation_; }

 private:
  Examples at(const std::vector<int64_t>& starts) const;
  std::vector<int64_t> ids_;
  int64_t vocabulary_ = 0, train_ = 0;
  std::string name_;
  Examples validation_;
};

struct CharacterModelOptions {
  std::function<Box<Module>()> hidden;                      ///< a layer 256 -> 256; null: Linear
  std::function<Tensor(const Tensor&)> activation;          ///< null: ReLU
  std::function<Box<Optimizer>(const Tensors&)> optimizer;  ///< null: Adam, 1e-3
  bool normalize =
      false;  ///< LayerNorm without parameters before the hidden layers, as BitLinear has
  int64_t steps = 600;
  std::uint64_t seed = 0;
};

class CharacterModel {
 public:
  CharacterModel(const CharacterData& data, const CharacterModelOptions& o);
  /// Trains and answers the validation loss in nats.
  double train();
  /// The same steps by another's hand.
  void train_with(const std::function<void()>& zero_grad, const std::function<void()>& step);
  double validation_loss() const;
  /// Puts other hidden layers in, with these weights.
  void replace_hidden(const std::function<Box<Module>()>& make, bool normalize);
  Tensors parameters() const;

 private:
  Tensor forward(const Tensor& context) const;
  const CharacterData& data_;
  CharacterModelOptions o_;
  Box<Module> embedding_, first_, second_, out_;
};

}  // namespace dropin::evidence
