// Dynamics: the contract of the room.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

/// Moves a state through time: x [B, ...] -> y [B, ...], or [times, B, ...] where several are
/// saved. A stack of residual blocks in the limit of small steps.
class Dynamics : public Unary<Dynamics> {
 public:
  static constexpr const char* kFamily = "Dynamics";
  static FamilyInfo family();
};

/// f(x, t): what drives a state. Derive, and give it to NeuralODE or NeuralSDE.
class VectorField : public Module {
 public:
  using Family = VectorField;
  /// x [B, ...] at time t -> its rate of change, of x's shape and dtype.
  virtual Tensor forward(const Tensor& x, double t) = 0;
  Tensor operator()(const Tensor& x, double t) {
    return with_hooks(x, [&](const Tensor& in) { return forward(in, t); });
  }
  bool runs_hooks() const override { return true; }
};

struct TimeDependentMLPOptions {
  std::vector<int64_t> dims = {};  ///< required
  std::string activation = "tanh";
  bool time_dependent = true;
  static void fields(auto&& f) {
    using O = TimeDependentMLPOptions;
    f("dims", &O::dims, "widths from input to output: [D, ..., D]; required");
    f("activation", &O::activation, "between layers: tanh, relu, gelu, silu, softplus or sigmoid");
    f("time_dependent", &O::time_dependent, "every layer gets t as its last feature");
  }
};
/// Linear layers on [x, t] with an activation between them. x [*, D] -> [*, D]. Parameters
/// layers.<i>.weight [out, in + 1], layers.<i>.bias, uniform within 1 / sqrt(fan in).
class TimeDependentMLP : public Component<TimeDependentMLP, TimeDependentMLPOptions, VectorField> {
 public:
  explicit TimeDependentMLP(const TimeDependentMLPOptions& o);
  Tensor forward(const Tensor& x, double t) override;

 private:
  std::vector<Tensor*> weights_, biases_;
};

namespace detail {
/// The field that options describe: {"type": "TimeDependentMLP", "dims": [...], ...}.
Box<VectorField> make_field(std::string_view who, const char* option, const Json& spec);
}  // namespace detail

}  // namespace dropin
