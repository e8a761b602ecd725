#include "dropin/ops/latent.h"

#include <limits>

#include "dropin/ops/loss.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/hd.h"
#include "kernels/latent/kernel.h"
#include "ops/common.h"
#include "ops/heads.h"

namespace dropin {

using ops_detail::heads_last;
using ops_detail::laid_out;

namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

void check(const char* who, const Tensor& p, const Tensor& k, const Tensor& v, int64_t chunk) {
  for (const Tensor* t : {&p, &k, &v}) ops_detail::need_floating(who, *t);
  if (p.dim() != 4 || !(k.sizes() == p.sizes()) || v.dim() != 4 || v.size(0) != p.size(0) ||
      v.size(1) != p.size(1) || v.size(2) != p.size(2))
    fail<ShapeError>({who, ": p, k and v are ", p.sizes(), ", ", k.sizes(), " and ", v.sizes(),
                      ", expected [B, H, T, N] twice and [B, H, T, Dv]"});
  if (chunk < 1) fail<OptionError>({who, ": chunk is ", chunk, ", expected at least 1"});
}

// softmax over dim 2 of scores in which a whole column may be -inf; such a column gives 0.
Tensor seen_softmax(const Tensor& s) {
  const Tensor blind = all(s.detach() == kNone, {2}, true);
  return masked_fill(softmax(masked_fill(s, blind, 0), 2), blind, 0);
}

}  // namespace

Tensor plain::latent_attention(const Tensor& p, const Tensor& k, const Tensor& v, bool causal,
                               const Tensor& state) {
  check("latent_attention", p, k, v, 1);
  if (!causal) return matmul(p, matmul(seen_softmax(k).mT(), v));
  // Tokens in chunks of c. What came before a chunk counts as one more token, of score `top` +
  // `sum` (the log of the sum so far; beside a large maximum, which top holds, a log would be lost)
  // and, per latent, value `u` (the mean so far).
  const int64_t b = p.size(0), h = p.size(1), t = p.size(2), n = p.size(3), d = v.size(3),
                step = 32;
  Tensor top = zeros({b, h, 1, n}, k.options()), sum = full({b, h, 1, n}, kNone, k.options()),
         u = zeros({b, h, n, d}, v.options());
  if (state.defined()) {
    const Tensor m = state.narrow(2, 0, n), z = state.narrow(2, n, n),
                 s = state.narrow(2, 2 * n, n * d).reshape({b, h, n, d});
    top = masked_fill(m, z == 0, 0).unsqueeze(2).clone();
    sum = masked_fill(log(z), z == 0, kNone).unsqueeze(2);
    u = s / masked_fill(z, z == 0, 1).unsqueeze(-1);
  }
  Tensors outputs;
  for (int64_t t0 = 0; t0 < t; t0 += step) {
    const int64_t c = std::min(step, t - t0);
    const Tensor now = k.narrow(2, t0, c), before = top;
    {
      no_grad guard;
      const Tensor largest = amax(now.detach(), {2}, true), none = sum.detach() == kNone;
      top = where(none, where(largest == kNone, 0.0, largest), maximum(before, largest));
    }
    // [B, H, 1 + c, N], beside top
    const Tensor old = where(sum.detach() == kNone, kNone, sum + (before - top)),
                 scores = concat({old, now - top}, 2);
    const Tensor place = arange(c + 1).to(p.device());
    const Tensor later = place.reshape({-1, 1}) >
                         place.narrow(0, 1, c).reshape({1, -1});  // [s, t]: token s comes after t
    const Tensor w = seen_softmax(
        masked_fill(scores.unsqueeze(3), later.unsqueeze(-1), kNone));  // [B, H, s, t, N]
    const Tensor weighted = w * p.narrow(2, t0, c).unsqueeze(2);
    const Tensor among = dropin::sum(weighted.narrow(2, 1, c), {-1});  // [B, H, s, t]
    outputs.push_back(matmul(weighted.select(2, 0), u) + matmul(among.mT(), v.narrow(2, t0, c)));
    const Tensor last = w.select(3, c - 1);  // [B, H, s, N]
    u = last.narrow(2, 0, 1).mT() * u + matmul(last.narrow(2, 1, c).mT(), v.narrow(2, t0, c));
    sum = logsumexp(scores, {2}, true);
  }
  if (state.defined()) {
    no_grad guard;
    const Tensor none = sum.squeeze(2) == kNone, z = exp(sum.squeeze(2));
    state.narrow(2, 0, n).copy_(masked_fill(top.squeeze(2), none, kNone));
    state.narrow(2, n, n).copy_(z);
    state.narrow(2, 2 * n, n * d).copy_((u * z.unsqueeze(-1)).reshape({b, h, n * d}));
  }
  return outputs.empty() ? zeros(v.sizes(), v.options()) : concat(outputs, 2);
}

namespace {

bool has_fused(const Tensor& p) {
  const bool fits =
      p.device().is_cpu() ||
      (p.size(3) <= 64 && p.size(0) * p.size(1) <= 65535);  // what CUDA's kernels hold
  return fits && p.dtype() != kFloat64 &&
         has_kernels<kernels::latent_forward, kernels::latent_backward>(p.device());
}

}  // namespace

Tensor latent_state(int64_t batch, int64_t heads, int64_t latents, int64_t width,
                    const TensorOptions& o) {
  Tensor s = zeros({batch, heads, kernels::latent_state_size(latents, width)},
                   {o.dtype == kFloat64 ? kFloat64 : kFloat32, o.device});
  s.narrow(2, 0, latents).fill_(kNone);
  return s;
}

Tensor latent_scan(const Tensor& p_, const Tensor& k_, const Tensor& v_, const Tensor& state,
                   int64_t chunk) {
  check("latent_scan", p_, k_, v_, chunk);
  const Shape want{p_.size(0), p_.size(1), kernels::latent_state_size(p_.size(3), v_.size(3))};
  if (!(state.sizes() == want) || !state.is_contiguous())
    fail<StateError>({"latent_scan: state is ", state.sizes(), ", expected contiguous ", want});
  no_grad guard;
  if (!has_fused(p_)) return plain::latent_attention(p_, k_, v_, true, state);
  const Tensor p = laid_out(p_), k = laid_out(k_), v = laid_out(v_);
  Tensor o = heads_last(v.sizes(), v.device());
  run<kernels::latent_forward>(p.device(),
                               kernels::LatentInputs{p.in(), k.in(), v.in(), true, chunk}, o.out(),
                               state.out(), Tensor().out());
  return o.to(v_.dtype());
}

Tensor latent_attention(const Tensor& p_, const Tensor& k_, const Tensor& v_, bool causal,
                        const Tensor& key_padding_mask, int64_t chunk) {
  check("latent_attention", p_, k_, v_, chunk);
  Tensor k = k_, v = v_;
  if (key_padding_mask.defined()) {
    const Shape want{p_.size(0), p_.size(2)};
    if (key_padding_mask.dtype() != kBool)
      fail<DTypeError>({"latent_attention: key_padding_mask is ", key_padding_mask.dtype(),
                        ", expected bool (true = padding)"});
    if (!(key_padding_mask.sizes() == want))
      fail<ShapeError>({"latent_attention: key_padding_mask is ", key_padding_mask.sizes(),
                        ", expected ", want});
    const Tensor hidden = key_padding_mask.unsqueeze(1).unsqueeze(-1);
    k = masked_fill(k, hidden, kNone);
    v = masked_fill(v, hidden, 0);  // what stands there may be NaN
  }
  if (!has_fused(p_)) return plain::latent_attention(p_, k, v, causal);
  const Tensor p = laid_out(p_);
  k = laid_out(k);
  v = laid_out(v);
  const int64_t b = p.size(0), h = p.size(1), t = p.size(2), n = p.size(3), d = v.size(3),
                size = kernels::latent_state_size(n, d);
  Tensor o = heads_last(v.sizes(), v.device()), state = latent_state(b, h, n, d, v.options()), kept;
  const bool recorded =
      grad_enabled() && (p.requires_grad() || k.requires_grad() || v.requires_grad());
  if (causal && recorded)
    kept = empty({b, h, ceil_div(t, kernels::kLatentChunk), size}, v.options());
  run<kernels::latent_forward>(p.device(),
                               kernels::LatentInputs{p.in(), k.in(), v.in(), causal, chunk},
                               o.out(), state.out(), kept.out());
  if (!causal) kept = state;
  return record("latent_attention", o, {p, k, v}, {p, k, v, kept},
                [causal, chunk](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor p = s[0], k = s[1], v = s[2];
                  if (grad_enabled())
                    return plain_gradients(s, {p, k, v}, g, [causal](const Tensors& in) {
                      return plain::latent_attention(in[0], in[1], in[2], causal);
                    });
                  Tensor gp = heads_last(p.sizes(), p.device()),
                         gk = heads_last(k.sizes(), k.device()),
                         gv = heads_last(v.sizes(), v.device());
                  run<kernels::latent_backward>(
                      p.device(), laid_out(g).in(),
                      kernels::LatentInputs{p.in(), k.in(), v.in(), causal, chunk}, s[3].in(),
                      kernels::LatentGradients{gp.out(), gk.out(), gv.out()});
                  return {gp, gk, gv};
                })
      .to(v_.dtype());
}

}  // namespace dropin
