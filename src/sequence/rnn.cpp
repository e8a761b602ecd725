#include "dropin/sequence/rnn.h"

#include <cmath>

namespace dropin {
namespace detail {

void RecurrentLayer::build(const RNNOptions& o, int64_t gates) {
  input_ = o.input_size ? o.input_size : o.embed_dim;
  hidden_ = o.hidden_size ? o.hidden_size : o.embed_dim;
  DROPIN_CHECK(input_ > 0 && hidden_ > 0, OptionError, type(), ": input_size ", input_,
               " and hidden_size ", hidden_, " must be positive");
  DROPIN_CHECK(o.num_layers > 0, OptionError, type(), ": num_layers is ", o.num_layers,
               ", expected a positive number");
  const double bound = 1 / std::sqrt(static_cast<double>(hidden_));
  for (int64_t l = 0; l < o.num_layers; ++l) {
    const std::string tail = "_l" + std::to_string(l);
    auto make = [&](const char* name, const Shape& sizes, bool wanted) {
      return &parameter(name + tail, wanted ? init::uniform(sizes, bound) : Tensor());
    };
    Weights w;
    w.w_ih = make("weight_ih", {gates * hidden_, l ? hidden_ : input_}, true);
    w.w_hh = make("weight_hh", {gates * hidden_, hidden_}, true);
    w.b_ih = make("bias_ih", {gates * hidden_}, o.bias);
    w.b_hh = make("bias_hh", {gates * hidden_}, o.bias);
    layers_.push_back(w);
  }
}

Tensor RecurrentLayer::run(const Tensor& x, RecurrentState& s) const {
  Tensor y = x;
  Tensors hs, cs;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Weights& w = layers_[l];
    const Tensor gi =
        linear(y, *w.w_ih, *w.b_ih);  // the input's share of all gates, every step at once
    Tensor h = s.h[static_cast<int64_t>(l)],
           c = s.c.defined() ? s.c[static_cast<int64_t>(l)] : Tensor();
    Tensors out;
    for (int64_t t = 0; t < y.size(1); ++t) {
      cell(gi.select(1, t), *w.w_hh, *w.b_hh, h, c);
      out.push_back(h);
    }
    y = out.empty() ? zeros({x.size(0), 0, hidden_}, x.options()) : stack(out, 1);
    hs.push_back(h);
    if (c.defined()) cs.push_back(c);
  }
  s.h = stack(hs);
  if (!cs.empty()) s.c = stack(cs);
  return y;
}

Tensor RecurrentLayer::run_over(const Tensor& x, const Tensor& padding, RecurrentState& s) const {
  Tensors out;
  for (int64_t t = 0; t < x.size(1); ++t) {
    RecurrentState next;
    next.h = s.h;
    next.c = s.c;
    const Tensor skip = padding.select(1, t).reshape({1, -1, 1}), row = skip.reshape({-1, 1, 1}),
                 y = run(where(row, 0.0, x.narrow(1, t, 1)), next);
    s.h = where(skip, s.h, next.h);
    if (s.c.defined()) s.c = where(skip, s.c, next.c);
    out.push_back(where(row, 0.0, y));
  }
  return out.empty() ? zeros({x.size(0), 0, hidden_}, x.options()) : concat(out, 1);
}

Tensor RecurrentLayer::forward(const Tensor& x, const SequenceArgs& args) {
  DROPIN_CHECK(x.dim() == 3 && x.size(2) == input_, ShapeError, type(), ": x is ", x.sizes(),
               ", expected [B, L, ", input_, "]");
  refuse(type(), "attn_mask", args.attn_mask, "a recurrent layer has no scores");
  refuse(type(), "global_attention_mask", args.global_attention_mask, kNoGlobalTokens);
  check_mask(type(), "key_padding_mask", args.key_padding_mask, x);
  Box<SequenceState> state = init_state(x.size(0), x.size(1));
  auto& s = static_cast<RecurrentState&>(*state);
  return args.key_padding_mask.defined() ? run_over(x, args.key_padding_mask, s) : run(x, s);
}

Box<SequenceState> RecurrentLayer::init_state(int64_t batch, int64_t max_len,
                                              const StateOptions& options) {
  check_state_sizes(type(), batch, max_len, options);
  auto s = Box<RecurrentState>(new RecurrentState(batch));
  const TensorOptions like = layers_[0].w_ih->options();
  s->h = zeros({static_cast<int64_t>(layers_.size()), batch, hidden_}, like);
  if (has_cell()) s->c = zeros_like(s->h);
  s->kept.keep = options.keep;
  return s;
}

Tensor RecurrentLayer::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  auto& s = own_state<RecurrentState>(type(), state);
  const StepTokens tokens = check_step(type(), x_t, s, args, {.width = input_});
  const Shape want{static_cast<int64_t>(layers_.size()), x_t.size(0), hidden_};
  DROPIN_CHECK(s.h.sizes() == want && s.c.defined() == has_cell(), StateError, type(),
               ": the state is of another layer: its h is ", s.h.sizes(), ", expected ", want,
               has_cell() ? " and c" : " and no c");
  no_grad guard;
  const Tensor y = step_remembered(
      s.kept, tokens.n,
      [&](int64_t first, int64_t n) {
        const Tensor x = x_t.narrow(1, first, n);
        return tokens.padding.defined() ? run_over(x, tokens.hidden.narrow(1, first, n), s)
                                        : run(x, s);
      },
      [&] {
        return Tensors{s.h, s.c};
      });
  s.saw(tokens.n, tokens.padding);
  return y;
}

}  // namespace detail

void LSTM::cell(const Tensor& gi, const Tensor& w_hh, const Tensor& b_hh, Tensor& h,
                Tensor& c) const {
  const Tensors g = chunk(gi + linear(h, w_hh, b_hh), 4, 1);  // i, f, g, o
  c = sigmoid(g[1]) * c + sigmoid(g[0]) * tanh(g[2]);
  h = sigmoid(g[3]) * tanh(c);
}

void GRU::cell(const Tensor& gi, const Tensor& w_hh, const Tensor& b_hh, Tensor& h, Tensor&) const {
  const Tensors x = chunk(gi, 3, 1), y = chunk(linear(h, w_hh, b_hh), 3, 1);  // r, z, n
  const Tensor r = sigmoid(x[0] + y[0]), z = sigmoid(x[1] + y[1]), n = tanh(x[2] + r * y[2]);
  h = n + z * (h - n);
}

}  // namespace dropin
