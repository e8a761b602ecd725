// What the blocks around ssd_scan share: HydraMixer, Mamba2Mixer, MatrixMixer.
#pragma once
#include <optional>

#include "dropin/module/parameters.h"
#include "dropin/sequence/common.h"

namespace dropin::state_space {

/// x is [B, L, d_model] of floats; the mask fits.
void check_tokens(std::string_view who, const Tensor& x, int64_t d_model, const SequenceArgs& args);

/// Sizes that all blocks check.
struct Sizes {
  int64_t d_model, d_conv, expand, headdim;
};
void check_sizes(std::string_view who, const Sizes& s);

/// The clamp of the steps: [low, high or null].
struct StepLimit {
  double low = 0;
  std::optional<double> high;
};
StepLimit step_limit(std::string_view who, const Json& limit);
/// softplus(raw + bias), clamped; 0 at padding [B, L].
Tensor steps_of(const Tensor& raw, const Tensor& bias, const StepLimit& limit,
                const Tensor& padding = {});
/// Values whose softplus is exp(uniform(log dt_min, log dt_max)), at least `floor`.
Tensor initial_step_bias(std::string_view who, int64_t heads, double dt_min, double dt_max,
                         double floor);

/// weight [C, 1, K] and bias [C] of a depthwise Conv1d, PyTorch's initial values.
struct Taps {
  Tensor *weight = nullptr, *bias = nullptr;
};
Taps add_taps(Parameters& to, int64_t channels, int64_t size, bool bias);
/// That convolution of x [B, L, C] with size / 2 zeros on both sides; size is odd.
Tensor centred_conv(const Tensor& x, const Taps& taps);

/// x [B, L, C], 0 at padding [B, L] (undefined: none).
Tensor without_padding(const Tensor& x, const Tensor& padding);

/// One token later (earlier) along dim 1; the first (last) place gets 0.
Tensor one_later(const Tensor& x);
Tensor one_earlier(const Tensor& x);

/// What ssd_scan's chunk is where the option stands at its default.
int64_t chunk_of(int64_t chunk_size, const Tensor& x);

/// The quasiseparable mix of v [B, L, H, P] (Hwang et al. 2024, section 3): both scans, each moved
/// one token away from the diagonal, and the free diagonal.
struct Scan {
  Tensor dt, B, C;  ///< [B, L, H], [B, L, G, N] twice
};
struct Quasiseparable {
  Scan forward, backward;
  Tensor A, diagonal;     ///< [H], [B, L, H]
  Tensor initial_states;  ///< [H, P, N] or undefined
  Tensor padding;         ///< [B, L] or undefined
  int64_t chunk_size = 64;
};
Tensor mix(const Tensor& v, const Quasiseparable& m);

}  // namespace dropin::state_space
