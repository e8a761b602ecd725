#include "dropin/sequence/fast_forgetful_memory.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "dropin/module/parameters.h"
#include "dropin/ops/traces.h"

namespace dropin {

namespace {
constexpr double kLeastDecay = -1e-8;
}  // namespace

struct FastForgetfulMemory::State : SequenceState {
  using SequenceState::SequenceState;
  Tensor traces;
  detail::Snapshots kept;
  void parts(auto&& f) { f(traces), f(kept.before, 0); }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& rows) const override {
    return detail::picked(*this, rows);
  }
  void take_back(int64_t n, const std::vector<int64_t>&) override { traces = kept.take_back(n)[0]; }
};

std::vector<std::string> FastForgetfulMemory::examples() {
  return {
      R"({"context_size": 1, "max_period": 7, "max_len": 50, "clamp_single_step": true})",
      R"({"decay": false, "oscillate": false, "learn_decay": false, "clamp_single_step": true})"};
}

Json FastForgetfulMemory::options_from(std::string_view, const Json& options, const Json&) {
  const int64_t in = option_or(options, {"input_size", "embed_dim"}, 0),
                out = option_or(options, {"hidden_size", "embed_dim"}, 0);
  Json r = Json::object();
  if (in == 0 || out == 0) return r;
  const int64_t context = 4;  // with as many numbers of state as the recurrent layer has
  r.set("input_size", in);
  r.set("output_size", out);
  r.set("hidden_size", out);
  r.set("context_size", context);
  r.set("memory_size", std::max<int64_t>(1, out / (2 * context)));
  return r;
}

double FastForgetfulMemory::limit() const {
  return std::log(std::numeric_limits<double>::max()) / static_cast<double>(options_.max_len) -
         0.01;
}

FastForgetfulMemory::FastForgetfulMemory(const FastForgetfulMemoryOptions& o) : Component(o) {
  DROPIN_CHECK(o.input_size > 0 && o.output_size > 0, OptionError, who(), ": input_size ",
               o.input_size, " and output_size ", o.output_size, " must be positive");
  DROPIN_CHECK(o.memory_size > 0 && o.context_size > 0, OptionError, who(), ": memory_size ",
               o.memory_size, " and context_size ", o.context_size, ", expected at least 1");
  DROPIN_CHECK(o.max_len >= 1, OptionError, who(), ": max_len is ", o.max_len,
               ", expected at least 1");
  DROPIN_CHECK(limit() > -kLeastDecay, OptionError, who(), ": max_len is ", o.max_len,
               ", expected at most 70977: beyond, no rate of decay is left");
  DROPIN_CHECK(o.min_period > 0 && o.max_period > 0, OptionError, who(), ": min_period ",
               o.min_period, " and max_period ", o.max_period, " must be positive");
  DROPIN_CHECK(o.forgotten_at > 0, OptionError, who(), ": forgotten_at is ", o.forgotten_at,
               ", expected a positive share");
  const int64_t m = o.memory_size, c = o.context_size;
  pre_ = child<Linear>("pre",
                       {.in_features = o.input_size, .out_features = 2 * m + 2 * o.output_size});
  const double low = -limit() + 0.01,
               high = std::max(std::min(-1e-6, std::log(o.forgotten_at) / o.max_period), low);
  auto& traces = *child<Parameters>("ffa").as();
  a_ = &traces.add("a", o.decay ? linspace(low, high, m).reshape({1, 1, m}) : zeros({1, 1, m}));
  b_ = &traces.add(
      "b", o.oscillate
               ? (2 * std::numbers::pi / linspace(o.min_period, o.max_period, c)).reshape({1, 1, c})
               : full({1, 1, c}, 1e-6));
  a_->requires_grad_(o.learn_decay);
  b_->requires_grad_(o.learn_oscillate);
  mix_ = child<Linear>("mix", {.in_features = 2 * m * c, .out_features = o.output_size});
}

Tensor FastForgetfulMemory::initial_state(int64_t batch) const {
  return zeros({batch, options_.memory_size, options_.context_size, 2}, a_->options());
}

Tensor FastForgetfulMemory::multipliers(int64_t tokens) {
  const int64_t m = options_.memory_size, c = options_.context_size;
  Tensor a = options_.learn_decay ? *a_ : a_->detach();
  if (tokens > 1 || options_.clamp_single_step) {
    Tensor change;
    {
      no_grad guard;
      change = clamp(a_->detach(), -limit(), kLeastDecay) - a_->detach();
      if (is_training() && any(change != 0).item<bool>())
        a_->copy_(clamp(a_->detach(), -limit(), kLeastDecay));
      else
        a = {};
    }
    if (!a.defined()) a = (options_.learn_decay ? *a_ : a_->detach()) + change;
  }
  const Tensor b = options_.learn_oscillate ? *b_ : b_->detach(), size = exp(a).reshape({m, 1}),
               turn = b.reshape({1, c});
  return stack({size * cos(turn), size * sin(turn)}, 2);
}

void FastForgetfulMemory::check(const Tensor& x, const FastForgetfulMemoryArgs& args) const {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() == 3 && x.size(2) == o.input_size, ShapeError, who(), ": x is ", x.sizes(),
               ", expected ", o.batch_first ? "[B, T, " : "[T, B, ", o.input_size,
               "] because input_size = ", o.input_size);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  const Tensor rows = o.batch_first ? x : x.transpose(0, 1);
  detail::check_mask(who(), "start", args.start, rows);
  detail::check_mask(who(), "key_padding_mask", args.key_padding_mask, rows);
  if (!args.state.defined()) return;
  const Shape want{rows.size(0), o.memory_size, o.context_size, 2};
  DROPIN_CHECK(is_floating(args.state.dtype()), DTypeError, who(), ": state is ",
               args.state.dtype(), ", expected a floating-point tensor");
  DROPIN_CHECK(args.state.sizes() == want, ShapeError, who(), ": state is ", args.state.sizes(),
               ", expected ", want);
}

FastForgetfulMemory::Result FastForgetfulMemory::run(const Tensor& x_,
                                                     const FastForgetfulMemoryArgs& args) {
  const auto& o = options_;
  const int64_t b = x_.size(0), t = x_.size(1), m = o.memory_size;
  const Tensor padding =
      args.key_padding_mask.defined() ? args.key_padding_mask.unsqueeze(2) : Tensor();
  const Tensor x = padding.defined() ? masked_fill(x_, padding, 0) : x_,
               state = args.state.defined() ? args.state : initial_state(b);
  if (t == 0) return {zeros({b, 0, o.output_size}, x.options()), state};
  const Tensors of = split(pre_(x), Shape{m, o.output_size, m, o.output_size}, 2);
  const Tensor f = traces(of[0] * sigmoid(of[2]), multipliers(t), state,
                          {.reset = args.start, .hold = args.key_padding_mask});
  const Tensor gate = sigmoid(of[3]),
               y = layer_norm(mix_(f.to(x.dtype())), {o.output_size}, {}, {}, 1e-5) * gate +
                   of[1] * (1 - gate);
  return {padding.defined() ? masked_fill(y, padding, 0) : y,
          f.select(1, t - 1).reshape(state.sizes())};
}

FastForgetfulMemory::Result FastForgetfulMemory::forward(const Tensor& x,
                                                         const FastForgetfulMemoryArgs& args) {
  check(x, args);
  if (options_.batch_first) return run(x, args);
  Result r = run(x.transpose(0, 1), args);
  r.y = r.y.transpose(0, 1);
  return r;
}

Tensor FastForgetfulMemory::forward(const Tensor& x, const SequenceArgs& args) {
  detail::refuse(who(), "attn_mask", args.attn_mask, "a scan has no scores");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  return forward(x, FastForgetfulMemoryArgs{.key_padding_mask = args.key_padding_mask}).y;
}

NamedTensors FastForgetfulMemory::call(const NamedTensors& in) {
  const SequenceArgs args = args_of(in);
  detail::refuse(who(), "attn_mask", args.attn_mask, "a scan has no scores");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  Result r;
  const Tensor y = with_hooks(in.get("x", who()), [&](const Tensor& x) {
    r = forward(x, FastForgetfulMemoryArgs{.state = in.find("state"),
                                           .start = in.find("start"),
                                           .key_padding_mask = args.key_padding_mask});
    return r.y;
  });
  return {{"y", y}, {"state", r.state}};
}

FastForgetfulMemory::Result FastForgetfulMemory::step(const Tensor& x_t, const Tensor& state) {
  DROPIN_CHECK(x_t.dim() == 2, ShapeError, who(), ": x_t is ", x_t.sizes(), ", expected [B, ",
               options_.input_size, "]");
  const FastForgetfulMemoryArgs args{.state = state};
  check(x_t.unsqueeze(options_.batch_first ? 1 : 0), args);
  Result r = run(x_t.unsqueeze(1), args);
  r.y = r.y.squeeze(1);
  return r;
}

Box<SequenceState> FastForgetfulMemory::init_state(int64_t batch, int64_t max_len,
                                                   const StateOptions& options) {
  detail::check_state_sizes(who(), batch, max_len, options);
  auto s = Box<State>(new State(batch));
  s->traces = initial_state(batch);
  s->kept.keep = options.keep;
  return s;
}

Tensor FastForgetfulMemory::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  auto& s = detail::own_state<State>(who(), state);
  const detail::StepTokens tokens =
      detail::check_step(who(), x_t, s, args, {.width = options_.input_size});
  const Shape want{x_t.size(0), options_.memory_size, options_.context_size, 2};
  DROPIN_CHECK(s.traces.sizes() == want, StateError, who(),
               ": the state is of another layer: ", s.traces.sizes(), ", expected ", want);
  no_grad guard;
  const Tensor y = detail::step_remembered(
      s.kept, tokens.n,
      [&](int64_t first, int64_t n) {
        const Tensor hold = tokens.hidden.defined() ? tokens.hidden.narrow(1, first, n) : Tensor();
        const Result r =
            run(x_t.narrow(1, first, n), {.state = s.traces, .key_padding_mask = hold});
        s.traces = r.state;
        return r.y;
      },
      [&] { return Tensors{s.traces}; });
  s.saw(tokens.n, tokens.padding);
  return y;
}

}  // namespace dropin
