// Adapters: small trained edits of the hidden states of a frozen model.
#pragma once
#include "dropin/module/parameters.h"
#include "dropin/projection/linear.h"

namespace dropin {

/// x [*, D] -> [*, D]; with positions [B, K] int64, x is [B, L, D] and only these rows change (-1:
/// an unused place; others pass through bit by bit). Standard member: Adapter.
class HiddenEdit : public Module {
 public:
  using Family = HiddenEdit;
  static constexpr const char* kFamily = "Adapter";
  static FamilyInfo family();
  Tensor forward(const Tensor& x, const Tensor& positions = {});
  Tensor operator()(const Tensor& x, const Tensor& positions = {}) {
    return with_hooks(x, [&](const Tensor& in) { return forward(in, positions); });
  }
  bool runs_hooks() const override { return true; }
  NamedTensors call(const NamedTensors& in) override;
  /// The parameters that training changes.
  Tensors trainable_parameters() const { return parameters(); }

 protected:
  virtual int64_t width() const = 0;
  /// Rows [*, D] edited.
  virtual Tensor edit(const Tensor& rows) = 0;
};

namespace detail {
/// linear, relu, gelu, silu or tanh of x; OptionError naming `who` otherwise.
Tensor activated(std::string_view who, const std::string& name, const Tensor& x);
void check_activation(std::string_view who, const char* option, const std::string& name);
void check_dropout(std::string_view who, double p);
}  // namespace detail

struct AdapterOptions {
  int64_t embed_dim = 0;   ///< required
  int64_t bottleneck = 0;  ///< 0: embed_dim / 8, at least 1
  std::string activation = "gelu";
  double dropout = 0;
  static void fields(auto&& f) {
    using O = AdapterOptions;
    f("embed_dim", &O::embed_dim, "D; required");
    f("bottleneck", &O::bottleneck, "width between; 0: an eighth of embed_dim");
    f("activation", &O::activation, "linear, relu, gelu, silu or tanh");
    f("dropout", &O::dropout, "on the input of the branch, when training");
  }
};

/// y = x + up(act(down(x))) (Houlsby et al. 2019). Parameters down, up (.weight, .bias); up starts
/// at 0, so that the model is as it was.
class Adapter : public Component<Adapter, AdapterOptions, HiddenEdit> {
 public:
  static constexpr const char* kSummary = "a bottleneck added to hidden states";
  static constexpr const char* kPaper = "Houlsby et al. 2019, arXiv 1902.00751";
  explicit Adapter(const AdapterOptions& o);

 protected:
  int64_t width() const override { return options_.embed_dim; }
  Tensor edit(const Tensor& rows) override;

 private:
  Child<Linear> down_, up_;
};

}  // namespace dropin
