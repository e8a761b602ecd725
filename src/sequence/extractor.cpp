#include "dropin/sequence/extractor.h"

#include <cmath>

namespace dropin {

namespace {

// Up to where sums are direct, measured on one core: lags of vectors, where fft_conv is the faster
// from 32 lags on; and samples times lags of matrices, whose own transforms cost as much as 1500
// rows of direct sums (one sample of 1500 lags, 8 of 190).
constexpr int64_t kDirectVectors = 32, kDirectMatrices = 1500;

// The least product of 2, 3 and 5 that is not below n.
int64_t transform_length(int64_t n) {
  for (;; ++n) {
    int64_t rest = n;
    for (const int64_t f : {2, 3, 5})
      while (rest % f == 0) rest /= f;
    if (rest == 1) return n;
  }
}

// y_t = sum_tau W_tau x_{t - tau}: x [B, L, D], w [K, D, D] (lag, out, in), K <= L.
Tensor matrix_lags_direct(const Tensor& x, const Tensor& w) {
  return conv1d(x.transpose(1, 2).contiguous(), flip(w, {0}).permute({1, 2, 0}).contiguous(), {}, 1,
                w.size(0) - 1)
      .transpose(1, 2);
}
// The same as one complex product per frequency.
Tensor matrix_lags_by_transform(const Tensor& x, const Tensor& w) {
  const int64_t l = x.size(1), n = transform_length(l + w.size(0) - 1);
  const Tensor xf = rfft(x, n, 1), wf = rfft(w, n, 0);  // [B, F, D, 2], [F, D, D, 2]
  const Tensor a = xf.select(3, 0).transpose(0, 1), b = xf.select(3, 1).transpose(0, 1),
               c = wf.select(3, 0).mT(), d = wf.select(3, 1).mT();
  const Tensor re = matmul(a, c) - matmul(b, d), im = matmul(a, d) + matmul(b, c);
  return irfft(stack({re, im}, 3).transpose(0, 1), n, 1).narrow(1, 0, l);
}

bool finite(const Tensor& x) { return all(isfinite(x.detach())).item<bool>(); }

}  // namespace

struct Extractor::State : SequenceState {
  using SequenceState::SequenceState;
  detail::RecentTokens recent;         // relative
  Tensor sum;                          // absolute, [B, D]
  detail::Snapshots kept;              // of the sum
  std::vector<detail::StateRow> rows;  // real tokens seen
  void parts(auto&& f) { f(recent.data), f(sum), f(kept.before, 0), f(rows); }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& r) const override {
    return detail::picked(*this, r);
  }
  void take_back(int64_t n, const std::vector<int64_t>& real) override {
    if (sum.defined())
      sum = kept.take_back(n)[0];
    else
      recent.take_back(n, real);
    for (std::size_t b = 0; b < rows.size(); ++b) rows[b].length -= real[b];
  }
};

std::vector<std::string> Extractor::examples() {
  return {R"({"variant": "she", "scale": "rsqrt", "max_len": 5})",
          R"({"variant": "she", "positions": "absolute", "bias": false})",
          R"({"variant": "he", "max_len": 5})",
          R"({"variant": "we", "positions": "absolute", "scale": "rsqrt", "max_len": 7})",
          R"({"variant": "me", "bias": false, "max_len": 1})"};
}

Json Extractor::options_from(std::string_view, const Json& options, const Json& around) {
  Json r = Json::object();
  for (const char* name : {"embed_dim", "bias"})
    if (const Json* v = options.find(name)) r.set(name, *v);
  for (const Json* from : {&around, &options})
    if (const Json* length = from->find("max_len")) r.set("max_len", *length);
  return r;
}

Extractor::Extractor(const ExtractorOptions& o) : Component(o) {
  DROPIN_CHECK(o.embed_dim > 0 && o.max_len > 0, OptionError, who(), ": embed_dim ", o.embed_dim,
               " and max_len ", o.max_len, " must be positive");
  DROPIN_CHECK(she() || o.variant == "he" || o.variant == "we" || o.variant == "me", OptionError,
               who(), ": variant is \"", o.variant, "\", expected she, he, we or me");
  DROPIN_CHECK(relative() || o.positions == "absolute", OptionError, who(), ": positions is \"",
               o.positions, "\", expected relative or absolute");
  DROPIN_CHECK(o.scale == "none" || o.scale == "rsqrt", OptionError, who(), ": scale is \"",
               o.scale, "\", expected none or rsqrt");
  const int64_t d = o.embed_dim, n = o.max_len;
  const double narrow = 1 / std::sqrt(static_cast<double>(d)),
               many = o.scale == "none" ? 1 / std::sqrt(static_cast<double>(n)) : 1;
  ext_weight_ = &parameter(
      "ext_weight", she() ? init::normal({n, d, d}, narrow * many) : init::normal({n, d}, many));
  ext_bias_ = &parameter("ext_bias", o.bias ? zeros({d}) : Tensor());
  auto square = [&](const char* name) {
    Child<Linear> c = child<Linear>(name, {.in_features = d, .out_features = d, .bias = o.bias});
    no_grad guard;
    c.as()->weight().copy_(init::normal({d, d}, narrow));
    if (o.bias) c.as()->bias().zero_();
    return c;
  };
  if (o.variant == "he") in_proj_ = square("in_proj");
  if (o.variant == "me") {
    adj_weight_ = &parameter("adj_weight", ones({d}));
    adj_bias_ = &parameter("adj_bias", o.bias ? zeros({d}) : Tensor());
  } else {
    adj_proj_ = square("adj_proj");
  }
}

Tensor Extractor::source(const Tensor& x, const Tensor& padding) const {
  auto masked = [&](const Tensor& t) {
    return padding.defined() ? masked_fill(t, padding.unsqueeze(2), 0) : t;
  };
  return in_proj_ ? masked(in_proj_(masked(x))) : masked(x);
}

Tensor Extractor::by_lag(const Tensor& x) const {
  const int64_t l = x.size(1), k = std::min(l, options_.max_len);
  const Tensor w = ext_weight_->narrow(0, 0, k);
  if (she())
    return x.size(0) * k <= kDirectMatrices || !finite(x) ? matrix_lags_direct(x, w)
                                                          : matrix_lags_by_transform(x, w);
  if (k <= kDirectVectors || !finite(x))
    return causal_depthwise_conv(x, flip(w, {0}).transpose(0, 1).unsqueeze(1));
  return fft_conv(x.transpose(1, 2), w.transpose(0, 1)).transpose(1, 2);
}

Tensor Extractor::at_places(const Tensor& x, const Tensor& places) const {
  const int64_t b = x.size(0), n = x.size(1), d = options_.embed_dim, end = options_.max_len;
  const Tensor beyond = (places >= end).unsqueeze(2),
               row = minimum(places, full({1}, end - 1, places.options()));
  const Tensor clean = masked_fill(x, beyond, 0);
  const Tensor own = index_select(*ext_weight_, 0, row.reshape({b * n}));
  if (!she()) return masked_fill(own.reshape({b, n, d}) * clean, beyond, 0);
  return matmul(own, clean.reshape({b * n, d, 1})).reshape({b, n, d});
}

Tensor Extractor::gated(const Tensor& sums, const Tensor& places, const Tensor& x) const {
  Tensor ext = sums;
  if (options_.scale == "rsqrt") ext = ext * rsqrt((places + 1).to(sums.dtype())).unsqueeze(2);
  if (ext_bias_->defined()) ext = ext + *ext_bias_;
  if (adj_proj_) return ext * adj_proj_(x);
  const Tensor gate = x * *adj_weight_;
  return ext * (adj_bias_->defined() ? gate + *adj_bias_ : gate);
}

Tensor Extractor::forward(const Tensor& x, const SequenceArgs& args) {
  detail::check_sequence(who(), x, options_.embed_dim, args);
  detail::refuse(who(), "attn_mask", args.attn_mask, "it has no scores");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const int64_t l = x.size(1), k = std::min(l, options_.max_len);
  if (x.numel() == 0) return x.clone();
  const Tensor from = source(x, args.key_padding_mask),
               places = arange(l).to(x.device()).unsqueeze(0);
  if (relative()) return gated(by_lag(from), places, x);
  const Tensor w = ext_weight_->narrow(0, 0, k), near = from.narrow(1, 0, k);
  const Tensor each = she() ? matmul(near.transpose(0, 1), w.mT()).transpose(0, 1) : near * w;
  return gated(cumsum(l > k ? pad(each, {0, 0, 0, l - k}) : each, 1), places, x);
}

Box<SequenceState> Extractor::init_state(int64_t batch, int64_t max_len,
                                         const StateOptions& options) {
  detail::check_state_sizes(who(), batch, max_len, options);
  auto s = Box<State>(new State(batch));
  const TensorOptions like = ext_weight_->options();
  s->rows.resize(static_cast<std::size_t>(batch));
  if (relative())
    s->recent = {batch, options_.max_len - 1, options_.embed_dim, options, like};
  else
    s->sum = zeros({batch, options_.embed_dim}, like);
  s->kept.keep = options.keep;
  return s;
}

namespace {
// How many real tokens stand before each, [B, n].
Tensor places_of(const std::vector<detail::StateRow>& rows, const detail::StepTokens& tokens) {
  const auto batch = static_cast<int64_t>(rows.size());
  std::vector<int64_t> places;
  const bool* hidden = tokens.padding.defined() ? tokens.padding.data<bool>() : nullptr;
  for (int64_t b = 0; b < batch; ++b) {
    int64_t place = rows[static_cast<std::size_t>(b)].length;
    for (int64_t i = 0; i < tokens.n; ++i) {
      places.push_back(place);
      place += !(hidden && hidden[b * tokens.n + i]);
    }
  }
  return tensor(places, {batch, tokens.n});
}
}  // namespace

Tensor Extractor::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  auto& s = detail::own_state<State>(who(), state);
  const detail::StepTokens tokens =
      detail::check_step(who(), x_t, s, args, {.width = options_.embed_dim});
  const int64_t n = tokens.n, lags = options_.max_len;
  const Tensor held = relative() ? s.recent.data : s.sum;
  DROPIN_CHECK(held.defined() && held.size(-1) == options_.embed_dim &&
                   (!relative() || s.recent.window == lags - 1),
               StateError, who(), ": the state is of another layer");
  no_grad guard;
  if (n == 0) return x_t.clone();
  const Tensor x = tokens.hidden.defined() ? masked_fill(x_t, tokens.hidden.unsqueeze(2), 0) : x_t,
               from = source(x, tokens.hidden), places = places_of(s.rows, tokens).to(x_t.device());
  Tensor sums;
  if (relative()) {
    const Tensor fresh = tokens.packed(from, 1), seen = s.recent.before(fresh);
    const Tensor all =
        she() ? matrix_lags_direct(seen, *ext_weight_)
              : causal_depthwise_conv(seen, flip(*ext_weight_, {0}).transpose(0, 1).unsqueeze(1));
    sums = tokens.unpacked(all.narrow(1, lags - 1, n), 1);
    s.recent.push(fresh, tokens);
  } else {
    const Tensor each = at_places(from, places);
    sums = detail::step_remembered(
        s.kept, n,
        [&](int64_t first, int64_t count) {
          const Tensor so_far = cumsum(each.narrow(1, first, count), 1) + s.sum.unsqueeze(1);
          if (count > 0) s.sum = so_far.select(1, count - 1).clone();
          return so_far;
        },
        [&] { return Tensors{s.sum}; });
  }
  for (std::size_t b = 0; b < s.rows.size(); ++b) s.rows[b].length += tokens.fresh[b];
  s.saw(n, tokens.padding);
  const Tensor y = gated(sums, places, x);
  return tokens.hidden.defined() ? masked_fill(y, tokens.hidden.unsqueeze(2), 0) : y;
}

}  // namespace dropin
