#include "dropin/sequence/scatterbrain_attention.h"

#include <cmath>
#include <limits>

#include "sequence/scatterbrain.h"

namespace dropin {

std::vector<std::string> ScatterbrainAttention::examples() {
  return {R"({"causal": true, "local_context": 5, "softmax_temp": 0.3, "nb_features": 7})",
          R"({"sparse": "lsh", "cluster_size": 3, "seed": 3, "ortho_scaling": 1})",
          R"({"sparse": "lsh", "cluster_size": 4, "n_hashes": 3, "causal": true, "bias": false})"};
}

namespace {
int64_t feature_rows(const ScatterbrainAttentionOptions& o) {
  const auto e = static_cast<double>(o.embed_dim / o.num_heads);
  return (o.nb_features ? o.nb_features : static_cast<int64_t>(e * std::log(e))) / 2;
}

// [r, e]: blocks of e orthogonal rows, of the lengths of normal ones or of sqrt(e).
Tensor orthogonal_rows(int64_t rows, int64_t e, int64_t scaling, Generator* g) {
  Tensors blocks;
  for (int64_t done = 0; done < rows; done += e) {
    const QR d = qr(randn({e, e}, kFloat64, g));
    const Tensor signs = where(d.R.diagonal() < 0.0, full({e}, -1.0, kFloat64), 1.0);
    blocks.push_back((d.Q * signs).mT().narrow(0, 0, std::min(e, rows - done)));
  }
  const Tensor length = scaling == 0 ? norm(randn({rows, e}, kFloat64, g), {-1}, true)
                                     : full({rows, 1}, std::sqrt(static_cast<double>(e)), kFloat64);
  return (concat(blocks, 0) * length).to(kFloat32);
}
}  // namespace

double ScatterbrainAttention::core_flops(const Options& o, const Shape& x) {
  const double e = static_cast<double>(o.embed_dim / o.num_heads),
               r = static_cast<double>(2 * feature_rows(o)),
               exact = static_cast<double>(o.sparse == "lsh" ? o.n_hashes * o.cluster_size
                                                             : o.local_context);
  return 2 * static_cast<double>(x[0] * x[1] * o.num_heads) * (3 * r * e + exact * (2 * e + r));
}

ScatterbrainAttention::ScatterbrainAttention(const ScatterbrainAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, "none", o.dropout);
  DROPIN_CHECK(o.sparse == "lsh" || o.sparse == "local", OptionError, who(), ": sparse is \"",
               o.sparse, "\", expected lsh or local");
  DROPIN_CHECK(o.cluster_size >= 1, OptionError, who(), ": cluster_size is ", o.cluster_size,
               ", expected at least 1");
  DROPIN_CHECK(o.n_hashes >= 1, OptionError, who(), ": n_hashes is ", o.n_hashes,
               ", expected at least 1");
  DROPIN_CHECK(o.local_context >= 0, OptionError, who(), ": local_context is ", o.local_context,
               ", expected 0 or more");
  DROPIN_CHECK(o.nb_features >= 0 && feature_rows(o) >= 1, OptionError, who(), ": nb_features is ",
               o.nb_features,
               ", expected at least 2, or 0 for e ln(e) with e = ", o.embed_dim / o.num_heads);
  DROPIN_CHECK(o.ortho_scaling == 0 || o.ortho_scaling == 1, OptionError, who(),
               ": ortho_scaling is ", o.ortho_scaling, ", expected 0 or 1");
  DROPIN_CHECK(o.softmax_temp >= 0 && std::isfinite(o.softmax_temp), OptionError, who(),
               ": softmax_temp is ", o.softmax_temp, ", expected 0 (1 / sqrt(e)) or a factor");
  add_projections(o.embed_dim, o.bias, o.bias);
  const int64_t e = o.embed_dim / o.num_heads;
  Generator own(static_cast<std::uint64_t>(o.seed.value_or(0)));
  Generator* g = o.seed ? &own : nullptr;
  projection_ =
      &buffer("projection_matrix", orthogonal_rows(feature_rows(o), e, o.ortho_scaling, g));
  if (o.sparse == "lsh") alpha_ = &buffer("lsh_alpha", randn({e + 2, o.n_hashes}, kFloat32, g));
}

void ScatterbrainAttention::redraw() {
  no_grad guard;
  const int64_t e = options_.embed_dim / options_.num_heads;
  projection_->copy_(orthogonal_rows(feature_rows(options_), e, options_.ortho_scaling, nullptr));
  if (alpha_) alpha_->copy_(randn({e + 2, options_.n_hashes}));
}

double ScatterbrainAttention::temperature() const {
  const auto e = static_cast<double>(options_.embed_dim / options_.num_heads);
  return options_.softmax_temp > 0 ? options_.softmax_temp : 1 / std::sqrt(e);
}

Tensor ScatterbrainAttention::log_features(const Tensor& heads) const {
  const double tau = temperature(), n = static_cast<double>(2 * projection_->size(0));
  const Tensor u = matmul(heads * std::sqrt(tau), projection_->to(heads.dtype()).mT());
  return concat({u, -u}, -1) - sum(square(heads), {-1}, true) * (tau / 2) - std::log(n) / 2;
}

// With exponentials relative to a row's largest: the low-rank estimate of all pairs, and on the
// support the exact entry minus the estimate.
Tensor ScatterbrainAttention::mix(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& live) const {
  const auto& o = options_;
  if (q.numel() == 0) return q;
  const double inf = std::numeric_limits<double>::infinity();
  const Tensor values = concat({v, ones({v.size(0), v.size(1), v.size(2), 1}, v.options())}, -1);
  const Tensor log_q = log_features(q);
  Tensor log_k = log_features(k);
  if (live.defined())
    log_k = masked_fill(log_k, logical_not(live).unsqueeze(1).unsqueeze(-1), -inf);
  const Tensor scale_q = scatterbrain::scale_of(log_q, {-1}),
               scale_k = scatterbrain::scale_of(log_k, {-2, -1}), phi_q = exp(log_q - scale_q),
               phi_k = exp(log_k - scale_k);
  const std::vector<scatterbrain::Round> rounds =
      o.sparse == "local"
          ? std::vector{scatterbrain::window(q.size(2), o.local_context, o.causal, live)}
          : scatterbrain::clusters(q, k, *alpha_, o.cluster_size, o.causal, live);
  Tensors scores;
  Tensor reference = scale_q + scale_k;
  for (const auto& r : rounds) {
    const Tensor s = matmul(r.queries(q * temperature()), r.keys(k).mT());
    scores.push_back(masked_fill(s, r.hidden.to(q.device()), -inf));
    no_grad guard;
    reference = maximum(reference, r.back(amax(scores.back().detach(), {-1}, true)));
  }
  const Tensor estimated = exp(scale_q + scale_k - reference);
  Tensor total = scatterbrain::low_rank(phi_q, phi_k, values, o.causal) * estimated;
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    const auto& r = rounds[i];
    const Tensor exact = dropout(exp(scores[i] - r.queries(reference)), o.dropout, is_training());
    const Tensor share = masked_fill(matmul(r.queries(phi_q * estimated), r.keys(phi_k).mT()),
                                     r.hidden.to(q.device()), 0);
    total = total + r.back(matmul(exact - share, r.keys(values)));
  }
  const int64_t e = v.size(3);
  return total.narrow(-1, 0, e) / clamp(total.narrow(-1, e, 1), 1e-24, inf);
}

Tensor ScatterbrainAttention::forward(const Tensor& x, const SequenceArgs& args) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, args);
  detail::refuse(who(), "attn_mask", args.attn_mask,
                 "estimated entries are sums over keys, most pairs have no score");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const Tensor& pad_mask = args.key_padding_mask;
  auto heads = [&](const Child<Linear>& proj) { return split_heads(proj(x), o.num_heads); };
  return out_proj_(
      merge_heads(mix(heads(q_proj_), detail::without_padding(heads(k_proj_), pad_mask),
                      detail::without_padding(heads(v_proj_), pad_mask),
                      pad_mask.defined() ? logical_not(pad_mask) : Tensor())));
}

}  // namespace dropin
