// 1-bit and ternary weights with 8-bit activations (BitNet; Wang et al. 2023, arXiv 2310.11453; Ma
// et al. 2024, arXiv 2402.17764).
#pragma once
#include <string_view>

#include "dropin/autograd/autograd.h"

namespace dropin {

/// Weights in storage form: 1 bit per weight [N, ceil(K / 8)], or 2 bits [N, ceil(K / 4)] (code =
/// value + 1), and one scale per group of rows.
struct BitPackedWeight {
  Tensor packed;  ///< uint8
  Tensor scale;   ///< float32 [weight_groups]
};
/// What quantizes the activations and the weights.
struct BitLinearParams {
  bool ternary = false;     ///< variant "b1.58"; otherwise "b1"
  bool per_tensor = false;  ///< one scale for all tokens of the call, instead of one each
  bool shift = false;       ///< range [min, max] to [0, 127], for inputs that are not negative
  int64_t qmax = 127;
  int64_t weight_groups = 1, act_groups = 1;
};

/// Quantizes and packs weight [N, K]. "b1": +1 where it exceeds the mean of its group, scale
/// mean|w|; "b1.58": rint(w / scale) within [-1, 1], scale max(mean|w|, 1e-5). OptionError for an
/// unknown variant or groups that do not divide N; ShapeError, DTypeError.
BitPackedWeight bitlinear_pack_weight(const Tensor& weight, std::string_view variant = "b1",
                                      int64_t weight_groups = 1);
/// values * scale, float32 [N, in_features]; in_features 0: all that the bytes hold.
Tensor bitlinear_unpack_weight(const Tensor& packed, const Tensor& scale,
                               std::string_view variant = "b1", int64_t in_features = 0);

/// y [*, N] = quantized(h) quantized(weight)^T + bias for h [*, K]; the gradients go straight
/// through both quantizations. f32: integer sums of 8-bit activations and packed weights; backward
/// keeps one byte per activation and the packed weights. f64: the definition. `packed`: weight's
/// packed form if the caller has it (weight may then be undefined, and receives no gradient). A
/// token with NaN or Inf gives NaN.
Tensor bit_linear(const Tensor& h, const Tensor& weight, const Tensor& bias,
                  const BitLinearParams& p, const BitPackedWeight& packed = {});

namespace plain {
/// The definition, in recorded operations.
Tensor bit_linear(const Tensor& h, const Tensor& weight, const Tensor& bias,
                  const BitLinearParams& p);
}  // namespace plain

}  // namespace dropin
