#include "dropin/sequence/mamba2.h"

#include "dropin/ops/ssd_scan.h"
#include "sequence/state_space.h"

namespace dropin {

struct Mamba2Mixer::State : SequenceState {
  using SequenceState::SequenceState;
  Tensor scan;  // [B, H, P, N]
  detail::RecentTokens recent;
  detail::Snapshots kept;
  void parts(auto&& f) { f(scan), f(recent.data), f(kept.before, 0); }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& rows) const override {
    return detail::picked(*this, rows);
  }
  void take_back(int64_t n, const std::vector<int64_t>& real) override {
    scan = kept.take_back(n)[0];
    recent.take_back(n, real);
  }
};

std::vector<std::string> Mamba2Mixer::examples() {
  return {R"({"ngroups": 2, "headdim": 2, "dt_limit": [0.001, 0.4], "bias": true, "d_conv": 2})",
          R"({"d_state": 3, "d_conv": 1, "expand": 1, "headdim": 8, "conv_bias": false})"};
}

Json Mamba2Mixer::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  if (const Json* width = options.find("embed_dim")) r.set("d_model", *width);
  return r;
}

double Mamba2Mixer::core_flops(const Options& o, const Shape& x) {
  const auto q = static_cast<double>(o.chunk_size == 256 ? 64 : o.chunk_size),
             n = static_cast<double>(o.d_state), p = static_cast<double>(o.headdim),
             heads = static_cast<double>(o.expand * o.d_model) / p;
  return static_cast<double>(x[0] * x[1]) * heads * (q * (n + p) + 4 * n * p);
}

Mamba2Mixer::Mamba2Mixer(const Mamba2MixerOptions& o) : Component(o) {
  state_space::check_sizes(who(), {o.d_model, o.d_conv, o.expand, o.headdim});
  state_space::step_limit(who(), o.dt_limit);
  DROPIN_CHECK(o.d_conv > 0 && o.d_state > 0 && o.ngroups > 0, OptionError, who(), ": d_conv ",
               o.d_conv, ", d_state ", o.d_state, " and ngroups ", o.ngroups, " must be positive");
  DROPIN_CHECK(heads() % o.ngroups == 0, OptionError, who(), ": the ", heads(),
               " heads are not divisible by ngroups ", o.ngroups);
  DROPIN_CHECK(o.A_init_min > 0 && o.A_init_min <= o.A_init_max, OptionError, who(),
               ": A_init_min ", o.A_init_min, " and A_init_max ", o.A_init_max,
               ", expected 0 < min <= max");
  DROPIN_CHECK(o.chunk_size > 0, OptionError, who(), ": chunk_size is ", o.chunk_size,
               ", expected at least 1");
  in_proj_ = child<Linear>(
      "in_proj",
      {.in_features = o.d_model, .out_features = inner() + mixed() + heads(), .bias = o.bias});
  const state_space::Taps taps =
      state_space::add_taps(*child<Parameters>("conv1d").as(), mixed(), o.d_conv, o.conv_bias);
  conv_weight_ = taps.weight, conv_bias_ = taps.bias;
  dt_bias_ = &parameter("dt_bias", state_space::initial_step_bias(who(), heads(), o.dt_min,
                                                                  o.dt_max, o.dt_init_floor));
  A_log_ = &parameter("A_log", log(rand({heads()}) * (o.A_init_max - o.A_init_min) + o.A_init_min));
  D_ = &parameter("D", ones({heads()}));
  norm_weight_ = &child<Parameters>("norm").as()->add("weight", ones({inner()}));
  out_proj_ = child<Linear>("out_proj",
                            {.in_features = inner(), .out_features = o.d_model, .bias = o.bias});
}

Tensors Mamba2Mixer::project(const Tensor& x) const {
  return split(in_proj_(x), Shape{inner(), mixed(), heads()}, 2);
}

Tensor Mamba2Mixer::scan(const Tensor& all, const Tensor& raw, const Tensor& padding,
                         Tensor& state) const {
  const auto& o = options_;
  const int64_t b = all.size(0), n = all.size(1), gn = o.ngroups * o.d_state;
  const Tensors of = split(silu(all), Shape{inner(), gn, gn}, 2);
  const Shape sizes{b, n, o.ngroups, o.d_state};
  SsdScanArgs args;
  args.D = *D_;
  args.initial_states = state;
  args.chunk_size = state_space::chunk_of(o.chunk_size, all);
  const SsdScanResult r = ssd_scan(
      of[0].reshape({b, n, heads(), o.headdim}),
      state_space::steps_of(raw, *dt_bias_, state_space::step_limit(who(), o.dt_limit), padding),
      -exp(*A_log_), of[1].reshape(sizes), of[2].reshape(sizes), args);
  state = r.final_state;
  return r.y.reshape({b, n, inner()});
}

Tensor Mamba2Mixer::leave(const Tensor& y, const Tensor& z) const {
  const Tensor gated = y * silu(z);
  const Shape rows{y.size(0), y.size(1), options_.ngroups, inner() / options_.ngroups};
  return out_proj_(rms_norm(gated.reshape(rows), {}, options_.norm_eps).reshape(y.sizes()) *
                   *norm_weight_);
}

Tensor Mamba2Mixer::forward(const Tensor& x, const SequenceArgs& args) {
  state_space::check_tokens(who(), x, options_.d_model, args);
  const Tensor& padding = args.key_padding_mask;
  const Tensors parts = project(state_space::without_padding(x, padding));
  const Tensor all = causal_depthwise_conv(state_space::without_padding(parts[1], padding),
                                           *conv_weight_, *conv_bias_);
  Tensor state;
  return state_space::without_padding(leave(scan(all, parts[2], padding, state), parts[0]),
                                      padding);
}

Box<SequenceState> Mamba2Mixer::init_state(int64_t batch, int64_t max_len,
                                           const StateOptions& options) {
  detail::check_state_sizes(who(), batch, max_len, options);
  auto s = Box<State>(new State(batch));
  const TensorOptions like = D_->options();
  s->scan = zeros({batch, heads(), options_.headdim, options_.d_state}, like);
  s->recent = {batch, options_.d_conv - 1, mixed(), options, like};
  s->kept.keep = options.keep;
  return s;
}

Tensor Mamba2Mixer::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  auto& s = detail::own_state<State>(who(), state);
  const detail::StepTokens tokens =
      detail::check_step(who(), x_t, s, args, {.width = options_.d_model});
  const Shape want{x_t.size(0), heads(), options_.headdim, options_.d_state};
  DROPIN_CHECK(s.scan.sizes() == want && s.recent.data.size(2) == mixed() &&
                   s.recent.window == options_.d_conv - 1,
               StateError, who(), ": the state is of another layer: its scan's is ", s.scan.sizes(),
               ", expected ", want);
  no_grad guard;
  if (tokens.n == 0) return x_t.clone();
  const Tensors parts = project(state_space::without_padding(x_t, tokens.hidden));
  const Tensor fresh = tokens.packed(parts[1], 1),
               all = tokens.unpacked(
                   causal_depthwise_conv(s.recent.before(fresh), *conv_weight_, *conv_bias_)
                       .narrow(1, options_.d_conv - 1, tokens.n),
                   1);
  const Tensor y = detail::step_remembered(
      s.kept, tokens.n,
      [&](int64_t first, int64_t n) {
        auto of = [&](const Tensor& t) { return t.defined() ? t.narrow(1, first, n) : t; };
        return scan(of(all), of(parts[2]), of(tokens.hidden), s.scan);
      },
      [&] { return Tensors{s.scan}; });
  s.recent.push(fresh, tokens);
  s.saw(tokens.n, tokens.padding);
  return state_space::without_padding(leave(y, parts[0]), tokens.hidden);
}

std::vector<ParameterHint> Mamba2Mixer::param_groups() const {
  return {{{*dt_bias_, *A_log_, *D_}, Json::parse(R"({"weight_decay": 0})")},
          {[&] {
             Tensors rest;
             for (const auto& [name, p] : named_parameters())
               if (!p.is_same(*dt_bias_) && !p.is_same(*A_log_) && !p.is_same(*D_))
                 rest.push_back(p);
             return rest;
           }(),
           Json::object()}};
}

}  // namespace dropin
