// Projection: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// [*, in] -> [*, out]. Standard member: Linear.
class Projection : public Unary<Projection> {
 public:
  static constexpr const char* kFamily = "Projection";
  static FamilyInfo family();
};

/// a [.., M, K], b [.., K, N] or [K, N] -> y [.., M, N].
class MatrixProduct : public Module {
 public:
  using Family = MatrixProduct;
  static constexpr const char* kFamily = "MatrixProduct";
  static FamilyInfo family();
  virtual Tensor forward(const Tensor& a, const Tensor& b) = 0;
  Tensor operator()(const Tensor& a, const Tensor& b) {
    return with_hooks(a, b, [this](const Tensor& u, const Tensor& v) { return forward(u, v); });
  }
  bool runs_hooks() const override { return true; }
  NamedTensors call(const NamedTensors& in) override {
    return {{"y", (*this)(in.get("a", type()), in.get("b", type()))}};
  }
};

}  // namespace dropin
