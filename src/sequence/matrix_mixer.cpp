#include "dropin/sequence/matrix_mixer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "sequence/state_space.h"

namespace dropin {

std::vector<std::string> MatrixMixer::examples() {
  return {
      R"({"matrix_mixer_type": "dense", "is_data_dependent": false})",
      R"({"matrix_mixer_type": "low_rank", "bias": true})",
      R"({"matrix_mixer_type": "low_rank", "is_data_dependent": false})",
      R"({"matrix_mixer_type": "attention"})",
      R"({"matrix_mixer_type": "cauchy"})",
      R"({"matrix_mixer_type": "cauchy", "is_data_dependent": false, "expand": 1})",
      R"({"matrix_mixer_type": "vandermonde"})",
      R"({"matrix_mixer_type": "dft", "is_data_dependent": false})",
      R"({"matrix_mixer_type": "toeplitz", "max_seq_len": 9})",
      R"({"matrix_mixer_type": "toeplitz", "max_seq_len": 9, "toeplitz_alignment": "official"})"};
}

Json MatrixMixer::options_from(std::string_view, const Json& options, const Json& around) {
  Json r = Json::object();
  if (const Json* width = options.find("embed_dim")) r.set("d_model", *width);
  for (const Json* from : {&around, &options})
    if (const Json* length = from->find("max_len")) r.set("max_seq_len", *length);
  return r;
}

void MatrixMixer::check_options() const {
  const auto& o = options_;
  state_space::check_sizes(who(), {o.d_model, o.d_conv, o.expand, o.headdim});
  DROPIN_CHECK(o.d_conv > 0 && o.d_conv % 2 == 1, OptionError, who(), ": d_conv is ", o.d_conv,
               ", expected an odd number");
  DROPIN_CHECK(o.qk_dim > 0 && o.max_seq_len > 0, OptionError, who(), ": qk_dim ", o.qk_dim,
               " and max_seq_len ", o.max_seq_len, " must be positive");
  DROPIN_CHECK(o.toeplitz_alignment == "exact" || o.toeplitz_alignment == "official", OptionError,
               who(), ": toeplitz_alignment is \"", o.toeplitz_alignment,
               "\", expected exact or official");
  struct Kind {
    const char* name;
    bool dependent, independent;
  };
  constexpr Kind kKinds[] = {{"dense", false, true},      {"low_rank", true, true},
                             {"attention", true, false},  {"cauchy", true, true},
                             {"vandermonde", true, true}, {"dft", false, true},
                             {"toeplitz", true, false},   {"quasiseparable", true, false}};
  const auto* kind =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& k) { return is(k.name); });
  DROPIN_CHECK(kind != std::end(kKinds), OptionError, who(), ": matrix_mixer_type is \"",
               o.matrix_mixer_type,
               "\", expected dense, low_rank, attention, cauchy, vandermonde, dft, toeplitz or "
               "quasiseparable");
  DROPIN_CHECK(o.is_data_dependent ? kind->dependent : kind->independent, OptionError, who(),
               ": matrix_mixer_type ", o.matrix_mixer_type, " has no ",
               o.is_data_dependent ? "data-dependent" : "data-independent",
               " form; expected is_data_dependent = ", o.is_data_dependent ? "false" : "true");
}

int64_t MatrixMixer::extras() const {
  if (!options_.is_data_dependent) return 0;
  return is("toeplitz") ? 2 * heads() : 2 * heads() * options_.qk_dim;
}

MatrixMixer::MatrixMixer(const MatrixMixerOptions& o) : Component(o) {
  check_options();
  const int64_t mixed = inner() + extras(), steps = is("quasiseparable") ? 2 * heads() : 0;
  in_proj_ = child<Linear>(
      "in_proj",
      {.in_features = o.d_model, .out_features = inner() + mixed + steps, .bias = o.bias});
  const state_space::Taps taps =
      state_space::add_taps(*child<Parameters>("conv1d").as(), mixed, o.d_conv, true);
  conv_weight_ = taps.weight, conv_bias_ = taps.bias;
  add_matrix_parameters();
  norm_ = child<RMSNorm>("norm", {.normalized_shape = std::vector<int64_t>{inner()}, .eps = 1e-5});
  out_proj_ = child<Linear>("out_proj",
                            {.in_features = inner(), .out_features = o.d_model, .bias = o.bias});
}

void MatrixMixer::add_matrix_parameters() {
  const auto& o = options_;
  const int64_t h = heads(), lm = o.max_seq_len;
  Parameters& own = *child<Parameters>("matrix_mixer").as();
  if (is("dense")) table_ = &own.add("M", init::normal({h, lm, lm}, 1));
  if (is("cauchy") && o.is_data_dependent) shift_ = &own.add("bias", full({1}, 0.5));
  if ((is("cauchy") || is("low_rank")) && !o.is_data_dependent) {
    q_ = &own.add("q_matrix", init::normal({lm, h, o.qk_dim}, 1));
    k_ = &own.add("k_matrix", init::normal({lm, h, o.qk_dim}, 1));
  }
  if (!is("quasiseparable")) return;
  dt_bias_ = &own.add("dt_bias", state_space::initial_step_bias(who(), h, 1e-3, 0.1, 1e-4));
  A_log_ = &own.add("A_log", zeros({h}));
  D_ = &own.add("D", ones({h}));
  fc_D_ = own.child<Linear>("fc_D", {.in_features = inner(), .out_features = h, .bias = false});
}

Tensor MatrixMixer::forward(const Tensor& x, const SequenceArgs& args) {
  const auto& o = options_;
  state_space::check_tokens(who(), x, o.d_model, args);
  detail::refuse(who(), "key_padding_mask", args.key_padding_mask,
                 "a matrix of the whole sequence has no padding");
  const int64_t b = x.size(0), l = x.size(1), h = heads();
  if (is("toeplitz"))
    DROPIN_CHECK(l == o.max_seq_len, ShapeError, who(), ": x is ", x.sizes(),
                 ", expected L = max_seq_len = ", o.max_seq_len);
  if (!o.is_data_dependent)
    DROPIN_CHECK(l <= o.max_seq_len, ShapeError, who(), ": x is ", x.sizes(),
                 ", expected L <= max_seq_len = ", o.max_seq_len);
  const int64_t mixed = inner() + extras();
  const Tensors parts =
      split(in_proj_(x), Shape{inner(), mixed, is("quasiseparable") ? 2 * h : 0}, 2);
  const Tensor all = state_space::centred_conv(parts[1], {conv_weight_, conv_bias_}),
               v = silu(all.narrow(2, 0, inner())).reshape({b, l, h, o.headdim}),
               extra = all.narrow(2, inner(), extras());
  Tensor y;
  if (is("quasiseparable")) {
    y = quasiseparable(v, silu(extra), parts[2]);
  } else {
    const Tensor rows = v.transpose(1, 2);  // [B, H, L, P]
    y = (matmul(matrix(extra, l), rows) + rows).transpose(1, 2);
  }
  return out_proj_(norm_(y.reshape({b, l, inner()})) * silu(parts[0]));
}

Tensor MatrixMixer::matrix(const Tensor& extra, int64_t length) const {
  const auto& o = options_;
  const int64_t h = heads(), n = o.qk_dim;
  const auto lm = static_cast<double>(o.max_seq_len), qk = static_cast<double>(n);
  if (is("dense")) return table_->narrow(1, 0, length).narrow(2, 0, length) * (1 / std::sqrt(lm));
  if (is("dft") || (is("vandermonde") && !o.is_data_dependent)) {
    const Tensor t = arange(0, length, 1, {kFloat64, extra.device()});
    const Tensor turns = remainder(t.unsqueeze(1) * t, lm) * (2 * std::numbers::pi / lm);
    return (cos(turns) * (1 / std::sqrt(lm))).to(extra.dtype()).reshape({1, length, length});
  }
  if (is("toeplitz")) return toeplitz(silu(extra)) * (0.5 / std::sqrt(lm));
  Tensor q, k;  // [B or 1, H, L, qk]
  if (o.is_data_dependent) {
    auto factor = [&](int64_t from) {
      return extra.narrow(2, from, h * n).reshape({extra.size(0), length, h, n}).transpose(1, 2);
    };
    q = factor(0), k = factor(h * n);
  } else {
    q = q_->narrow(0, 0, length).transpose(0, 1).unsqueeze(0);
    k = k_->narrow(0, 0, length).transpose(0, 1).unsqueeze(0);
  }
  if (is("attention")) return softmax(matmul(q, k.mT()) * (1 / std::sqrt(qk)), -1);
  if (is("cauchy")) return cauchy(q, k) * (1 / std::sqrt(lm * qk));
  if (is("vandermonde")) return vandermonde(q, k) * (1 / std::sqrt(2 * lm * qk));
  if (o.is_data_dependent) q = silu(q), k = silu(k);
  return matmul(q, k.mT()) * (1 / std::sqrt(lm * qk));
}

// One [L, L] array at a time, never [L, L, qk].
Tensor MatrixMixer::cauchy(const Tensor& q, const Tensor& k) const {
  Tensor m, rows = exp(q), columns = exp(k);
  if (shift_) rows = rows + *shift_, columns = columns + *shift_;
  for (int64_t d = 0; d < options_.qk_dim; ++d) {
    const Tensor term = reciprocal(rows.narrow(3, d, 1) + columns.narrow(3, d, 1).mT() + 1e-8);
    m = m.defined() ? m + term : term;
  }
  return m;
}

Tensor MatrixMixer::vandermonde(const Tensor& q, const Tensor& k) const {
  const Tensor place =
      arange(0, q.size(2), 1, q.options()) * (2 * std::numbers::pi * 1e-3);  // of token i or j
  Tensor m;
  for (int64_t d = 0; d < options_.qk_dim; ++d) {
    const Tensor term =
        cos(q.narrow(3, d, 1) * place) - cos(k.narrow(3, d, 1).mT() * place.unsqueeze(1));
    m = m.defined() ? m + term : term;
  }
  return m;
}

// M_ij = fwd_{i - j} for i >= j, rev_{j - i} for i < j. official: fwd_{i - j + 1} for i - j >= -1,
// rev_{j - i - 1} beyond, and rev_{L - 1} in the corner i - j = L - 1.
Tensor MatrixMixer::toeplitz(const Tensor& extra) const {
  const int64_t b = extra.size(0), l = extra.size(1), h = heads();
  const bool exact = options_.toeplitz_alignment == "exact";
  std::vector<int64_t> from;  // of pair (i, j): its place in [fwd | rev]
  for (int64_t i = 0; i < l; ++i)
    for (int64_t j = 0; j < l; ++j) {
      const int64_t lag = exact ? i - j : i - j + 1;
      from.push_back(lag == l ? 2 * l - 1 : lag >= 0 ? lag : l - lag);
    }
  const Tensor values = concat({extra.narrow(2, 0, h), extra.narrow(2, h, h)}, 1);  // [B, 2L, H]
  return index_select(values.transpose(1, 2), 2, tensor(from).to(extra.device()))
      .reshape({b, h, l, l});
}

Tensor MatrixMixer::quasiseparable(const Tensor& v, const Tensor& extra,
                                   const Tensor& steps) const {
  const int64_t b = v.size(0), l = v.size(1), h = heads(), n = h * options_.qk_dim;
  state_space::Quasiseparable m;
  const Tensor keys = extra.narrow(2, 0, n).reshape({b, l, 1, n}),
               queries = extra.narrow(2, n, n).reshape({b, l, 1, n});
  m.forward = {state_space::steps_of(steps.narrow(2, 0, h), *dt_bias_, {}), keys, queries};
  m.backward = {state_space::steps_of(steps.narrow(2, h, h), *dt_bias_, {}), keys, queries};
  m.A = -exp(*A_log_);
  m.diagonal = *D_ + fc_D_(v.reshape({b, l, inner()}));
  return state_space::mix(v, m);
}

}  // namespace dropin
