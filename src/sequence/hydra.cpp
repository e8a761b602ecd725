#include "dropin/sequence/hydra.h"

#include "sequence/state_space.h"

namespace dropin {

std::vector<std::string> HydraMixer::examples() {
  return {
      R"({"ngroups": 2, "headdim": 2, "dt_limit": [0.001, 0.4], "learnable_init_states": true, "bias": true})",
      R"({"d_state": 3, "d_conv": 3, "expand": 1, "headdim": 8, "conv_bias": false, "chunk_size": 256})"};
}

Json HydraMixer::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  if (const Json* width = options.find("embed_dim")) r.set("d_model", *width);
  return r;
}

double HydraMixer::core_flops(const Options& o, const Shape& x) {
  const auto q = static_cast<double>(o.chunk_size == 256 ? 64 : o.chunk_size),
             n = static_cast<double>(o.d_state), p = static_cast<double>(o.headdim),
             heads = static_cast<double>(o.expand * o.d_model) / p;
  return 2 * static_cast<double>(x[0] * x[1]) * heads * (q * (n + p) + 4 * n * p);
}

HydraMixer::HydraMixer(const HydraMixerOptions& o) : Component(o) {
  state_space::check_sizes(who(), {o.d_model, o.d_conv, o.expand, o.headdim});
  state_space::step_limit(who(), o.dt_limit);
  const int64_t e = o.expand * o.d_model, h = e / o.headdim;
  DROPIN_CHECK(o.d_conv > 0 && o.d_conv % 2 == 1, OptionError, who(), ": d_conv is ", o.d_conv,
               ", expected an odd number");
  DROPIN_CHECK(o.d_state > 0 && o.ngroups > 0, OptionError, who(), ": d_state ", o.d_state,
               " and ngroups ", o.ngroups, " must be positive");
  DROPIN_CHECK(h % o.ngroups == 0, OptionError, who(), ": the ", h,
               " heads are not divisible by ngroups ", o.ngroups);
  DROPIN_CHECK(o.chunk_size > 0, OptionError, who(), ": chunk_size is ", o.chunk_size,
               ", expected at least 1");
  const int64_t mixed = e + 4 * o.ngroups * o.d_state;
  in_proj_ = child<Linear>(
      "in_proj", {.in_features = o.d_model, .out_features = e + mixed + 2 * h, .bias = o.bias});
  const state_space::Taps taps =
      state_space::add_taps(*child<Parameters>("conv1d").as(), mixed, o.d_conv, o.conv_bias);
  conv_weight_ = taps.weight, conv_bias_ = taps.bias;
  dt_bias_ = &parameter(
      "dt_bias", state_space::initial_step_bias(who(), h, o.dt_min, o.dt_max, o.dt_init_floor));
  A_log_ = &parameter("A_log", zeros({h}));
  D_ = &parameter("D", ones({h}));
  init_states_ = &parameter("init_states",
                            o.learnable_init_states ? zeros({h, o.headdim, o.d_state}) : Tensor());
  fc_D_ = child<Linear>("fc_D", {.in_features = e, .out_features = h, .bias = false});
  norm_ = child<RMSNorm>("norm", {.normalized_shape = std::vector<int64_t>{e}, .eps = o.norm_eps});
  out_proj_ =
      child<Linear>("out_proj", {.in_features = e, .out_features = o.d_model, .bias = o.bias});
}

Tensor HydraMixer::forward(const Tensor& x_, const SequenceArgs& args) {
  const auto& o = options_;
  state_space::check_tokens(who(), x_, o.d_model, args);
  const Tensor& padding = args.key_padding_mask;
  const int64_t b = x_.size(0), l = x_.size(1), e = o.expand * o.d_model, h = e / o.headdim,
                gn = o.ngroups * o.d_state;
  const Tensors parts =
      split(in_proj_(state_space::without_padding(x_, padding)), Shape{e, e + 4 * gn, 2 * h}, 2);
  const Tensor mixed = silu(state_space::centred_conv(
      state_space::without_padding(parts[1], padding), {conv_weight_, conv_bias_}));
  const Tensors of = split(mixed, Shape{e, gn, gn, gn, gn}, 2);
  const state_space::StepLimit limit = state_space::step_limit(who(), o.dt_limit);
  auto scan = [&](int64_t from, const Tensor& keys, const Tensor& queries) {
    const Shape sizes{b, l, o.ngroups, o.d_state};
    return state_space::Scan{
        state_space::steps_of(parts[2].narrow(2, from, h), *dt_bias_, limit, padding),
        keys.reshape(sizes), queries.reshape(sizes)};
  };
  state_space::Quasiseparable m;
  m.forward = scan(0, of[1], of[2]);
  m.backward = scan(h, of[3], of[4]);
  m.A = -exp(*A_log_);
  m.diagonal = *D_ + fc_D_(of[0]);
  m.initial_states = *init_states_;
  m.padding = padding;
  m.chunk_size = state_space::chunk_of(o.chunk_size, x_);
  const Tensor y = state_space::mix(of[0].reshape({b, l, h, o.headdim}), m).reshape({b, l, e});
  return state_space::without_padding(out_proj_(norm_(y) * silu(parts[0])), padding);
}

NamedTensors HydraMixer::call(const NamedTensors& in) {
  detail::refuse(who(), "seq_idx", in.find("seq_idx"), "both scans run over the whole sequence");
  return SequenceMixer::call(in);
}

std::vector<ParameterHint> HydraMixer::param_groups() const {
  std::vector<ParameterHint> r(2);
  r[0].options = Json::parse(R"({"weight_decay": 0})");
  r[1].options = Json::object();
  for (const auto& [name, p] : named_parameters()) {
    const bool bare = name == "dt_bias" || name == "A_log" || name == "D" || name == "init_states";
    r[bare ? 0 : 1].params.push_back(p);
  }
  return r;
}

}  // namespace dropin
