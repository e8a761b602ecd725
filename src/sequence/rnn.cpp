#include "dropin/sequence/rnn.h"

#include <cmath>

namespace dropin {

Tensor padding_of_lengths(const Tensor& lengths, int64_t max_len) {
  DROPIN_CHECK(lengths.dim() == 1 && lengths.dtype() == kInt64, ShapeError,
               "padding_of_lengths: lengths is ", lengths.dtype(), " ", lengths.sizes(),
               ", expected int64 [B]");
  for (const int64_t n : lengths.to_vector<int64_t>())
    DROPIN_CHECK(n >= 0 && n <= max_len, OptionError, "padding_of_lengths: a length is ", n,
                 ", expected 0 to ", max_len);
  return arange(max_len).to(lengths.device()).unsqueeze(0) >= lengths.unsqueeze(1);
}

namespace detail {

void RecurrentLayer::build(const RNNOptions& o, int64_t gates) {
  input_ = o.input_size ? o.input_size : o.embed_dim;
  hidden_ = o.hidden_size ? o.hidden_size : o.embed_dim;
  DROPIN_CHECK(input_ > 0 && hidden_ > 0, OptionError, type(), ": input_size ", input_,
               " and hidden_size ", hidden_, " must be positive");
  DROPIN_CHECK(o.num_layers > 0, OptionError, type(), ": num_layers is ", o.num_layers,
               ", expected a positive number");
  DROPIN_CHECK(o.dropout >= 0 && o.dropout <= 1, OptionError, type(), ": dropout is ", o.dropout,
               ", expected 0 to 1");
  directions_ = o.bidirectional ? 2 : 1;
  dropout_ = o.dropout;
  const double bound = 1 / std::sqrt(static_cast<double>(hidden_));
  for (int64_t l = 0; l < o.num_layers * directions_; ++l) {
    const int64_t layer = l / directions_, width = layer ? directions_ * hidden_ : input_;
    const std::string tail =
        "_l" + std::to_string(layer) + (l % directions_ == 1 ? "_reverse" : "");
    auto make = [&](const char* name, const Shape& sizes, bool wanted) {
      return &parameter(name + tail, wanted ? init::uniform(sizes, bound) : Tensor());
    };
    Weights w;
    w.w_ih = make("weight_ih", {gates * hidden_, width}, true);
    w.w_hh = make("weight_hh", {gates * hidden_, hidden_}, true);
    w.b_ih = make("bias_ih", {gates * hidden_}, o.bias);
    w.b_hh = make("bias_hh", {gates * hidden_}, o.bias);
    layers_.push_back(w);
  }
}

std::vector<std::string> recurrent_examples() {
  return {R"({"hidden_size": 4, "num_layers": 2, "bidirectional": true})"};
}

Tensor RecurrentLayer::run_layer(const Weights& w, const Tensor& x, const Tensor& padding,
                                 bool reverse, Tensor& h, Tensor& c) const {
  const Tensor gi =
      linear(x, *w.w_ih, *w.b_ih);  // the input's share of all gates, every step at once
  const int64_t length = x.size(1);
  Tensors out(static_cast<std::size_t>(length));
  for (int64_t i = 0; i < length; ++i) {
    const int64_t t = reverse ? length - 1 - i : i;
    Tensor& y = out[static_cast<std::size_t>(t)];
    if (!padding.defined()) {
      cell(gi.select(1, t), *w.w_hh, *w.b_hh, h, c);
      y = h;
      continue;
    }
    const Tensor skip = padding.narrow(1, t, 1), h_before = h, c_before = c;
    cell(gi.select(1, t), *w.w_hh, *w.b_hh, h, c);
    y = where(skip, 0.0, h);
    h = where(skip, h_before, h);
    if (c.defined()) c = where(skip, c_before, c);
  }
  return out.empty() ? zeros({x.size(0), 0, hidden_}, x.options()) : stack(out, 1);
}

Tensor RecurrentLayer::run(const Tensor& x, const Tensor& padding, RecurrentState& s) const {
  Tensor y = padding.defined() ? where(padding.unsqueeze(2), 0.0, x) : x;
  Tensors hs, cs;
  const auto count = static_cast<int64_t>(layers_.size());
  for (int64_t first = 0; first < count; first += directions_) {
    Tensors sides;
    for (int64_t l = first; l < first + directions_; ++l) {
      Tensor h = s.h[l], c = s.c.defined() ? s.c[l] : Tensor();
      sides.push_back(run_layer(layers_[static_cast<std::size_t>(l)], y, padding, l > first, h, c));
      hs.push_back(h);
      if (c.defined()) cs.push_back(c);
    }
    y = directions_ == 1 ? sides[0] : concat(sides, 2);
    if (dropout_ > 0 && first + directions_ < count) y = dropout(y, dropout_, is_training());
  }
  s.h = stack(hs);
  if (!cs.empty()) s.c = stack(cs);
  return y;
}

void RecurrentLayer::check_input(const Tensor& x) const {
  DROPIN_CHECK(x.dim() == 3 && x.size(2) == input_, ShapeError, type(), ": x is ", x.sizes(),
               ", expected [B, L, ", input_, "]");
}

Tensor RecurrentLayer::forward(const Tensor& x, const SequenceArgs& args) {
  check_input(x);
  refuse(type(), "attn_mask", args.attn_mask, "a recurrent layer has no scores");
  refuse(type(), "global_attention_mask", args.global_attention_mask, kNoGlobalTokens);
  return unroll(x, {.key_padding_mask = args.key_padding_mask}).y;
}

RecurrentResult RecurrentLayer::unroll(const Tensor& x, const RecurrentArgs& args) {
  check_input(x);
  check_mask(type(), "key_padding_mask", args.key_padding_mask, x);
  Tensor padding = args.key_padding_mask;
  if (args.lengths.defined()) {
    DROPIN_CHECK(!padding.defined(), OptionError, type(),
                 ": expected lengths or key_padding_mask, got both");
    DROPIN_CHECK(args.lengths.sizes() == Shape{x.size(0)}, ShapeError, type(), ": lengths is ",
                 args.lengths.sizes(), ", expected [", x.size(0), "]");
    padding = padding_of_lengths(args.lengths, x.size(1)).to(x.device());
  }
  Box<RecurrentState> s = first_state(x.size(0));
  const auto begin = [&](const char* name, const Tensor& given, Tensor& state) {
    if (!given.defined()) return;
    DROPIN_CHECK(state.defined() && given.sizes() == state.sizes(), ShapeError, type(), ": ", name,
                 " is ", given.sizes(), ", expected ",
                 state.defined() ? s->h.sizes().str() : "none");
    state = given;
  };
  begin("h_0", args.h_0, s->h);
  begin("c_0", args.c_0, s->c);
  const Tensor y = run(x, padding, *s);
  return {y, s->h, s->c};
}

Box<RecurrentState> RecurrentLayer::first_state(int64_t batch) const {
  auto s = Box<RecurrentState>(new RecurrentState(batch));
  s->h = zeros({static_cast<int64_t>(layers_.size()), batch, hidden_}, layers_[0].w_ih->options());
  if (has_cell()) s->c = zeros_like(s->h);
  return s;
}

Box<SequenceState> RecurrentLayer::init_state(int64_t batch, int64_t max_len,
                                              const StateOptions& options) {
  DROPIN_CHECK(directions_ == 1, OptionError, type(), ": step() needs bidirectional = false");
  check_state_sizes(type(), batch, max_len, options);
  Box<RecurrentState> s = first_state(batch);
  s->kept.keep = options.keep;
  return s;
}

Tensor RecurrentLayer::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  auto& s = own_state<RecurrentState>(type(), state);
  const StepTokens tokens =
      check_step(type(), x_t, s, args, {.width = input_, .causal = directions_ == 1});
  const Shape want{static_cast<int64_t>(layers_.size()), x_t.size(0), hidden_};
  DROPIN_CHECK(s.h.sizes() == want && s.c.defined() == has_cell(), StateError, type(),
               ": the state is of another layer: its h is ", s.h.sizes(), ", expected ", want,
               has_cell() ? " and c" : " and no c");
  no_grad guard;
  const Tensor y = step_remembered(
      s.kept, tokens.n,
      [&](int64_t first, int64_t n) {
        const Tensor x = x_t.narrow(1, first, n);
        return run(x, tokens.padding.defined() ? tokens.hidden.narrow(1, first, n) : Tensor(), s);
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
