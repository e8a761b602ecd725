// What most families share: one tensor in, one out.
#pragma once
#include "dropin/module/family.h"

namespace dropin {

/// A family whose members map one tensor to one: `class Norm : public Unary<Norm>` names itself
/// (kFamily) and says what goes in and out (kCall). call() takes "x" and gives "y".
template <class Self>
class Unary : public Module {
 public:
  using Family = Self;
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) {
    return with_hooks(x, [this](const Tensor& in) { return forward(in); });
  }
  bool runs_hooks() const override { return true; }
  NamedTensors call(const NamedTensors& in) override {
    return {{"y", (*this)(in.get("x", type()))}};
  }
};

/// Maps a tensor to one without parameters of its own: pooling, dropout.
class Layer : public Unary<Layer> {
 public:
  static constexpr const char* kFamily = "Layer";
  static FamilyInfo family();
};

}  // namespace dropin
