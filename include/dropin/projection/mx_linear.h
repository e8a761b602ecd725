// Products with operands in microscaling formats.
#pragma once
#include "dropin/number_format/mx_layer.h"
#include "dropin/projection/contract.h"

namespace dropin {

struct MXLinearOptions {
  int64_t in_features = 0;   ///< required
  int64_t out_features = 0;  ///< required
  bool bias = true;
  DROPIN_MX_LAYER_OPTIONS;
  static void fields(auto&& f) {
    using O = MXLinearOptions;
    f("in_features", &O::in_features, "size of each input row; required");
    f("out_features", &O::out_features, "size of each output row; required");
    f("bias", &O::bias, "adds a learnable bias, which is not quantized");
    detail::mx_layer_fields<O>(f);
  }
};
/// Linear with its products in MX formats: y = Q(x) Q(W)^T + b, x [.., L, K] or [M, K] -> [.., N]
/// (Rouhani et al. 2023, section 6). Every operand is quantized along the axis that a product sums
/// over, from the unquantized tensor. Parameters as Linear. Replaces Linear.
class MXLinear : public Component<MXLinear, MXLinearOptions, Projection> {
 public:
  static constexpr const char* kSummary = "a Linear with operands in microscaling formats";
  static constexpr const char* kReplaces = "Linear";
  static constexpr const char* kPaper = "Rouhani et al. 2023, arXiv 2310.10537";
  static std::vector<std::string> examples();
  static void traits(const MXLinearOptions&, Traits& t) { t.surrogate_gradient = true; }
  explicit MXLinear(const MXLinearOptions& o);
  Tensor forward(const Tensor& x) override;
  /// Keeps the weight as codes and scales only; for inference. StateError when training afterwards;
  /// OptionError for format none.
  void freeze();
  bool frozen() const { return stored_.frozen(); }

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  MXProductParams params_;
  Tensor *weight_, *bias_;
  detail::FrozenWeight stored_;
};

struct MXMatmulOptions {
  std::string a_format = "MXFP8_E4M3", b_format = "MXFP8_E4M3", grad_format = "MXFP8_E5M2";
  int64_t block_size = 32;
  std::string rounding = "even", scale_mode = "floor";
  bool quantize_backward = true;
  static void fields(auto&& f) {
    using O = MXMatmulOptions;
    f("a_format", &O::a_format,
      "MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4_E2M1, MXINT8, NVFP4 or none");
    f("b_format", &O::b_format, "of the second operand");
    f("grad_format", &O::grad_format, "of the output's gradient");
    f("block_size", &O::block_size, "values that share a scale");
    f("rounding", &O::rounding, "even, away, zero or stochastic (when training)");
    f("scale_mode", &O::scale_mode, "floor, or ceil: nothing saturates");
    f("quantize_backward", &O::quantize_backward, "false: the backward products are in float32");
  }
};
/// matmul with operands in MX formats, as in attention: y = Q(a, -1) Q(b, -2), a [.., M, K], b [..,
/// K, N] (or [K, N]) -> [.., M, N].
class MXMatmul : public Component<MXMatmul, MXMatmulOptions, MatrixProduct> {
 public:
  static constexpr const char* kSummary = "a matrix product with operands in microscaling formats";
  static constexpr const char* kPaper = "Rouhani et al. 2023, arXiv 2310.10537";
  static void traits(const MXMatmulOptions&, Traits& t) { t.surrogate_gradient = true; }
  explicit MXMatmul(const MXMatmulOptions& o = {});
  Tensor forward(const Tensor& a, const Tensor& b) override;

 private:
  MXProductParams params_;
};

}  // namespace dropin
