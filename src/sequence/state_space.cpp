#include "sequence/state_space.h"

#include <cmath>

#include "dropin/ops/ssd_scan.h"
#include "kernels/hd.h"

namespace dropin::state_space {

void check_tokens(std::string_view who, const Tensor& x, int64_t d_model,
                  const SequenceArgs& args) {
  DROPIN_CHECK(x.dim() == 3 && x.size(2) == d_model, ShapeError, who, ": x is ", x.sizes(),
               ", expected [B, L, ", d_model, "] because d_model = ", d_model);
  detail::check_sequence(who, x, d_model, args);
  detail::refuse(who, "attn_mask", args.attn_mask, "a scan has no scores");
  detail::refuse(who, "global_attention_mask", args.global_attention_mask, detail::kNoGlobalTokens);
}

void check_sizes(std::string_view who, const Sizes& s) {
  DROPIN_CHECK(s.d_model > 0, OptionError, who, ": d_model is ", s.d_model,
               ", expected a positive number");
  DROPIN_CHECK(s.expand > 0 && s.headdim > 0, OptionError, who, ": expand ", s.expand,
               " and headdim ", s.headdim, " must be positive");
  DROPIN_CHECK(s.expand * s.d_model % s.headdim == 0, OptionError, who,
               ": expand d_model = ", s.expand * s.d_model, " is not divisible by headdim ",
               s.headdim);
}

StepLimit step_limit(std::string_view who, const Json& limit) {
  const bool fits = limit.is_array() && limit.size() == 2 && limit[0].is_number() &&
                    (limit[1].is_number() || limit[1].is_null());
  DROPIN_CHECK(fits, OptionError, who, ": option dt_limit is ", limit.dump(),
               ", expected [float, float or null]");
  StepLimit r{limit[0].as_double(), std::nullopt};
  if (limit[1].is_number()) r.high = limit[1].as_double();
  DROPIN_CHECK(r.low >= 0 && (!r.high || r.low <= *r.high), OptionError, who, ": dt_limit is ",
               limit.dump(), ", expected 0 <= low <= high");
  return r;
}

Tensor steps_of(const Tensor& raw, const Tensor& bias, const StepLimit& limit,
                const Tensor& padding) {
  Tensor dt = softplus(raw + bias);
  if (limit.low > 0 || limit.high)
    dt = clamp(dt, limit.low, limit.high.value_or(kernels::kInf<double>));
  return without_padding(dt, padding);
}

Tensor initial_step_bias(std::string_view who, int64_t heads, double dt_min, double dt_max,
                         double floor) {
  DROPIN_CHECK(dt_min > 0 && dt_min <= dt_max && floor >= 0, OptionError, who, ": dt_min ", dt_min,
               ", dt_max ", dt_max, " and dt_init_floor ", floor,
               ": expected 0 < dt_min <= dt_max and a floor of at least 0");
  const double low = std::log(dt_min), high = std::log(dt_max);
  const Tensor dt = clamp(exp(rand({heads}) * (high - low) + low), floor, kernels::kInf<double>);
  return dt + log(-expm1(-dt));
}

Taps add_taps(Parameters& to, int64_t channels, int64_t size, bool bias) {
  Taps t;
  t.weight = &to.add("weight", init::default_uniform({channels, 1, size}, size));
  t.bias = &to.add("bias", bias ? init::default_uniform({channels}, size) : Tensor());
  return t;
}

Tensor centred_conv(const Tensor& x, const Taps& taps) {
  const int64_t half = taps.weight->size(2) / 2;
  if (x.size(1) == 0) return x;
  return causal_depthwise_conv(pad(x, {0, 0, 0, half}), *taps.weight, *taps.bias)
      .narrow(1, half, x.size(1));
}

Tensor without_padding(const Tensor& x, const Tensor& padding) {
  return padding.defined() ? masked_fill(x, padding.unsqueeze(2), 0) : x;
}

namespace {
// x moved by `by` places along dim 1.
Tensor moved(const Tensor& x, int64_t by) {
  if (x.size(1) == 0) return x;
  Shape pads;
  for (int i = 2; i < x.dim(); ++i) pads.push_back(0), pads.push_back(0);
  pads.push_back(by);
  pads.push_back(-by);
  return pad(x, pads);
}
// [B, L] bool: no real token stands before this one (after it).
Tensor outside(const Tensor& padding, bool after) {
  const Tensor real = logical_not(padding).to(kInt64);
  return (after ? flip(cumsum(flip(real, {1}), 1), {1}) : cumsum(real, 1)) == 0;
}
}  // namespace

Tensor one_later(const Tensor& x) { return moved(x, 1); }
Tensor one_earlier(const Tensor& x) { return moved(x, -1); }

int64_t chunk_of(int64_t chunk_size, const Tensor& x) {
  return chunk_size == 256 && x.device().is_cpu() ? 64 : chunk_size;
}

Tensor mix(const Tensor& v, const Quasiseparable& m) {
  auto scanned = [&](const Scan& s, bool reverse) {
    SsdScanArgs args;
    args.chunk_size = m.chunk_size;
    args.reverse = reverse;
    if (m.initial_states.defined())
      args.initial_states =
          m.initial_states.unsqueeze(0).expand({v.size(0), v.size(2), v.size(3), s.B.size(3)});
    const Tensor y = ssd_scan(v, s.dt, m.A, s.B, s.C, args).y;
    if (!m.padding.defined() || !m.initial_states.defined()) return y;
    // a state that no token has entered is not read through padding
    return masked_fill(y, outside(m.padding, reverse).unsqueeze(2).unsqueeze(3), 0);
  };
  return one_later(scanned(m.forward, false)) + one_earlier(scanned(m.backward, true)) +
         v * m.diagonal.unsqueeze(3);
}

}  // namespace dropin::state_space
