// TunableLinear, and what it shares with TunableConv2d: kernels mixed by a vector that a user
// turns.
#pragma once
#include "dropin/module/init.h"
#include "dropin/projection/contract.h"

namespace dropin {

namespace detail {
void check_tuning(std::string_view who, int64_t num_params, int64_t expand_params,
                  const std::string& mode);
/// Whether the mixing weights are a learned linear map of the parameters, or these themselves.
bool learned_tuning(int64_t expand_params, const std::string& mode);
/// Checks omega [P] or [B, P] of any batch, as set_params() takes it.
Tensor checked_tuning(std::string_view who, const Tensor& omega, int64_t num_params);
/// The parameters [B, P] of a call: given, or else kept (undefined: none), or else 1 where P = 1.
Tensor tuning_of(std::string_view who, const Tensor& given, const Tensor& kept, int64_t num_params,
                 int64_t batch, const TensorOptions& like);
/// True where one mixture serves all samples: the same numbers, which want no gradient.
bool one_tuning(const Tensor& params);
}  // namespace detail

struct TunableLinearOptions {
  int64_t in_features = 0, out_features = 0;  ///< required
  bool bias = true;
  int64_t num_params = 1, expand_params = 1;
  std::string mode = "mlp";
  static void fields(auto&& f) {
    using O = TunableLinearOptions;
    f("in_features", &O::in_features, "size of each input row; required");
    f("out_features", &O::out_features, "size of each output row; required");
    f("bias", &O::bias, "adds learnable biases");
    f("num_params", &O::num_params, "P, numbers that a user turns");
    f("expand_params", &O::expand_params, "E, matrices per parameter");
    f("mode", &O::mode, "weights of the matrices: mlp (a linear map of params) or linear (params)");
  }
};

/// A Linear of P E matrices, mixed for each sample by a linear map of its parameters (Maggioni et
/// al. 2023). x [B, T, in] or [B, in], params [B, P] -> y [B, T, out] or [B, out]. Parameters
/// weight [1, P E, out, in], bias [1, P E, out], mlp.weight [P E, P], mlp.bias [P E].
class TunableLinear : public Component<TunableLinear, TunableLinearOptions, Projection> {
 public:
  static constexpr const char* kSummary = "a Linear that a vector of parameters steers";
  static constexpr const char* kReplaces = "Linear";
  static constexpr const char* kPaper = "Maggioni et al. 2023, arXiv 2304.00898";
  static constexpr const char* kCall = "x [B, T, in] or [B, in], params [B, P] -> y";
  static std::vector<std::string> examples();
  static Sample sample(const Options& o, const SampleSpec& s);
  explicit TunableLinear(const TunableLinearOptions& o);
  using Projection::operator();
  Tensor operator()(const Tensor& x, const Tensor& params) {
    return with_hooks(x, [&](const Tensor& in) { return forward(in, params); });
  }
  /// With the parameters set, or of 1 where P = 1.
  Tensor forward(const Tensor& x) override { return forward(x, Tensor()); }
  Tensor forward(const Tensor& x, const Tensor& params);
  NamedTensors call(const NamedTensors& in) override;
  /// What calls without params take: [P] or [B, P]; undefined: none.
  void set_params(const Tensor& omega);

 private:
  Tensor *weight_, *bias_, *mlp_weight_ = nullptr, *mlp_bias_ = nullptr;
  Tensor kept_;
};

}  // namespace dropin
