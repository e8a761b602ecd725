#include "dropin/sequence/hyena.h"

#include <bit>
#include <cmath>
#include <mutex>
#include <numbers>

#include "dropin/sequence/common.h"

namespace dropin {
namespace detail {

HyenaPositions::HyenaPositions(int64_t l_max, int64_t emb_dim, bool learned) {
  const int64_t bands = (emb_dim - 1) / 2;
  const double last = static_cast<double>(std::max<int64_t>(l_max - 1, 1));
  Tensor table = empty({1, l_max, emb_dim}), time = empty({1, l_max, 1});
  for (int64_t p = 0; p < l_max; ++p) {
    float* row = table.data<float>() + p * emb_dim;
    time.data<float>()[p] = row[0] = static_cast<float>(static_cast<double>(p) / last);
    for (int64_t i = 0; i < bands; ++i) {
      const double f = bands == 1 ? 1e-4
                                  : 1e-4 + static_cast<double>(i) *
                                               (static_cast<double>(bands - 1) - 1e-4) /
                                               static_cast<double>(bands - 1);
      const double angle =
          f * 2 * std::numbers::pi * static_cast<double>(p) / static_cast<double>(l_max);
      row[1 + i] = static_cast<float>(std::cos(angle));
      row[1 + bands + i] = static_cast<float>(-std::sin(angle));
    }
  }
  z = learned ? &parameter("z", table) : &buffer("z", table);
  t = &buffer("t", time);
}

HyenaNetwork::HyenaNetwork(const HyenaFilterOptions& o) {
  const int64_t n = o.num_inner_mlps, width = o.filter_order;
  for (int64_t i = 0; i <= n + 1; ++i) {
    linear_.push_back(
        child<Linear>(std::to_string(2 * i), {.in_features = i ? width : o.emb_dim,
                                              .out_features = i <= n ? width : o.d_model,
                                              .bias = i <= n}));
    if (i == 0) sine_ = child<HyenaSine>("1", width, o.w).as();
  }
}

Tensor HyenaNetwork::forward(const Tensor& z) const {
  Tensor a = z;
  for (std::size_t i = 0; i + 1 < linear_.size(); ++i) a = sin(*sine_->freq * linear_[i](a));
  return linear_.back()(a);
}

void HyenaNetwork::translate_state(StateDict& state, const std::string& prefix,
                                   std::vector<std::string>& renamed) const {
  const Tensor freq = state.find(prefix + "1.freq");
  for (std::size_t i = 1; i + 1 < linear_.size(); ++i) {  // the same frequency, saved once per sine
    const std::string name = prefix + std::to_string(2 * i + 1) + ".freq";
    const Tensor copy = state.take(name);
    if (!copy.defined()) continue;
    const bool equal =
        freq.defined() && freq.sizes() == copy.sizes() && freq.to_vector() == copy.to_vector();
    DROPIN_CHECK(equal, StateError, "HyenaFilter: ", name, " differs from ", prefix,
                 "1.freq, but all sines share one frequency");
    renamed.push_back(name + " -> " + prefix + "1.freq");
  }
}

HyenaWindow::HyenaWindow(const HyenaFilterOptions& o) {
  const double slow = std::log(o.target) / o.slow_decay_pct,
               fast = std::log(o.target) / o.fast_decay_pct;
  Tensor d = empty({1, 1, o.d_model});
  for (int64_t c = 0; c < o.d_model; ++c)
    d.data<float>()[c] =
        static_cast<float>(o.d_model == 1 ? slow
                                          : slow + (fast - slow) * static_cast<double>(c) /
                                                       static_cast<double>(o.d_model - 1));
  deltas = &buffer("deltas", d);
}

}  // namespace detail

// --- HyenaFilter

// The taps made last, and from what: they stand while every parameter and buffer is the same memory
// with the same version.
struct HyenaFilter::Kept {
  std::mutex mutex;
  int64_t length = -1, steps = 0;
  bool channel_major = true;
  std::vector<std::pair<Ref<Storage>, std::uint32_t>> from;
  std::vector<detail::HyenaTaps> taps;
};

std::vector<std::string> HyenaFilter::examples() {
  return {R"({"emb_dim": 5, "w": 10, "shift": 0.05, "normalized": true})",
          R"({"modulate": false, "bias": false, "num_inner_mlps": 0, "lr_pos_emb": 0})"};
}

HyenaFilter::HyenaFilter(const HyenaFilterOptions& o) : Component(o), kept_(new Kept) {
  DROPIN_CHECK(o.d_model > 0 && o.filter_order > 0, OptionError, who(), ": d_model ", o.d_model,
               " and filter_order ", o.filter_order, " must be positive");
  DROPIN_CHECK(o.l_max > 0, OptionError, who(), ": l_max is ", o.l_max, ", expected at least 1");
  DROPIN_CHECK(o.emb_dim >= 3 && o.emb_dim % 2 == 1, OptionError, who(), ": emb_dim is ", o.emb_dim,
               ", expected an odd number of at least 3");
  DROPIN_CHECK(o.num_inner_mlps >= 0, OptionError, who(), ": num_inner_mlps is ", o.num_inner_mlps,
               ", expected at least 0");
  DROPIN_CHECK(o.fast_decay_pct > 0 && o.slow_decay_pct > 0, OptionError, who(),
               ": fast_decay_pct ", o.fast_decay_pct, " and slow_decay_pct ", o.slow_decay_pct,
               " must be positive");
  DROPIN_CHECK(o.target > 0 && std::isfinite(o.target), OptionError, who(), ": target is ",
               o.target, ", expected a positive number");
  DROPIN_CHECK(o.lr >= 0 && o.wd >= 0 && o.lr_pos_emb >= 0, OptionError, who(), ": lr ", o.lr,
               ", wd ", o.wd, " and lr_pos_emb ", o.lr_pos_emb, " must not be negative");
  bias_ = &parameter("bias", init::normal({o.d_model}, 1));
  positions_ = child<detail::HyenaPositions>("pos_emb", o.l_max, o.emb_dim, o.lr_pos_emb > 0).as();
  network_ = child<detail::HyenaNetwork>("implicit_filter", o).as();
  window_ = child<detail::HyenaWindow>("modulation", o).as();
}
HyenaFilter::HyenaFilter(HyenaFilter&&) noexcept = default;
HyenaFilter::~HyenaFilter() = default;

Tensor HyenaFilter::filter(int64_t length) const {
  const auto& o = options_;
  DROPIN_CHECK(length >= 1 && length <= o.l_max, ShapeError, who(), ": the sequence has length ",
               length, ", expected 1 to l_max = ", o.l_max);
  Tensor h = network_->forward(positions_->z->select(0, 0).narrow(0, 0, length));
  if (o.modulate) {
    const Tensor t = positions_->t->select(0, 0).narrow(0, 0, length);
    h = h * (exp(-t * abs(window_->deltas->select(0, 0))) + o.shift);
  }
  return o.normalized ? h / sum(abs(h), {-1}, true) : h;
}

std::vector<detail::HyenaTaps> HyenaFilter::make_taps(int64_t length, int64_t steps,
                                                      bool channel_major) const {
  const Tensor h = filter(length);
  const int64_t channels = options_.d_model / steps;
  std::vector<detail::HyenaTaps> r;
  for (int64_t o = 0; o < steps; ++o) {
    auto part = [&](const Tensor& x) {
      return channel_major ? x.slice(-1, o, kEnd, steps) : x.narrow(-1, o * channels, channels);
    };
    r.push_back({part(h).transpose(0, 1), options_.bias ? part(*bias_) : Tensor(), {}});
  }
  return r;
}

std::vector<detail::HyenaTaps> HyenaFilter::taps(int64_t length, int64_t steps,
                                                 bool channel_major) const {
  const auto state = [&] {
    Tensors all = parameters();
    for (auto& [n, t] : named_buffers()) all.push_back(t);
    return all;
  }();
  bool recorded = false;
  for (const Tensor& t : state) recorded = recorded || (grad_enabled() && t.requires_grad());
  if (recorded) return make_taps(length, steps, channel_major);
  std::lock_guard lock(kept_->mutex);
  Kept& k = *kept_;
  bool fresh = k.length == length && k.steps == steps && k.channel_major == channel_major &&
               k.from.size() == state.size();
  for (std::size_t i = 0; fresh && i < state.size(); ++i)
    fresh = k.from[i].first == state[i].impl()->storage && k.from[i].second == state[i].version();
  if (fresh) return k.taps;
  k.length = -1;
  k.from.clear();
  for (const Tensor& t : state) k.from.emplace_back(t.impl()->storage, t.version());
  k.taps = make_taps(length, steps, channel_major);
  for (detail::HyenaTaps& t : k.taps) t.spectrum = fft_conv_spectrum(t.k, length);
  k.length = length, k.steps = steps, k.channel_major = channel_major;
  return k.taps;
}

void HyenaFilter::state_changed() {
  std::lock_guard lock(kept_->mutex);
  kept_->length = -1;
  kept_->from.clear();
  kept_->taps.clear();
}

Tensor HyenaFilter::forward(const Tensor& x) {
  DROPIN_CHECK(x.dim() == 3 && x.size(1) == options_.d_model, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [B, ", options_.d_model,
               ", L] because d_model = ", options_.d_model);
  const detail::HyenaTaps t = taps(x.size(2))[0];
  return fft_conv(x, t.k, t.D, {.spectrum = t.spectrum});
}

std::vector<ParameterHint> HyenaFilter::param_groups() const {
  const auto& o = options_;
  auto options = [](double lr, double wd) {
    Json j = Json::object();
    j.set("lr", lr);
    j.set("weight_decay", wd);
    return j;
  };
  std::vector<ParameterHint> r;
  r.push_back({network_->parameters(), options(o.lr, o.wd)});
  if (o.lr_pos_emb > 0) r.push_back({positions_->parameters(), options(o.lr_pos_emb, 0)});
  r.push_back({{*bias_}, Json::object()});
  return r;
}

// --- HyenaOperator

namespace {

// A depthwise Conv1d's parameters; HyenaOperator applies them on [B, L, C].
class ShortFilter : public Module {
 public:
  ShortFilter(int64_t channels, int64_t taps) {
    weight = &parameter("weight", init::default_uniform({channels, 1, taps}, taps));
    bias = &parameter("bias", init::default_uniform({channels}, taps));
  }
  Tensor *weight, *bias;
};

constexpr int64_t kBlock = 32;  // tokens whose interaction is summed directly

// What one long convolution keeps: its inputs, and what earlier blocks add to each output to come.
struct Stream {
  Tensor inputs, sums;          // [B, max_len, D]
  Tensor reversed;              // [max_len, D]: the filter, last tap first
  Tensor k, D;                  // [D, max_len], [D]
  std::vector<Tensor> spectra;  // of the first 2^(p+1) taps, made when first needed
};
// The first n tokens x [R, n, D] of a run: their outputs, and in sums what they add to all later
// ones.
Tensor convolve_first(Stream& s, const detail::RowRun& run, const Tensor& x, int64_t max_len) {
  const int64_t n = x.size(1);
  run.of(s.inputs).narrow(1, 0, n).copy_(x);
  const Tensor all = n == max_len ? x : pad(x, {0, 0, 0, max_len - n});
  Tensor sums = run.of(s.sums);
  sums.copy_(fft_conv(all.transpose(1, 2), s.k).transpose(1, 2));
  const Tensor y = sums.narrow(1, 0, n);
  return s.D.defined() ? y + x * s.D : y.clone();
}

// A row's start: the tokens that came at once at first, whose share `sums` holds in full.
struct HyenaState : SequenceState {
  using SequenceState::SequenceState;
  std::vector<Stream> streams;
  detail::RecentTokens recent;  // the last inputs [B, .., (N + 1) D] of the short convolution
  std::vector<detail::StateRow> rows;
  int64_t max_len = 0;
  void parts(auto&& f) {
    for (Stream& s : streams) f(s.inputs), f(s.sums);
    f(recent.data), f(rows);
  }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& r) const override {
    return detail::picked(*this, r);
  }
  // What is left becomes the tokens that came at once.
  void take_back(int64_t n, const std::vector<int64_t>& real) override {
    no_grad guard;
    recent.take_back(n, real);
    for (std::size_t b = 0; b < rows.size(); ++b) {
      if (real[b] == 0) continue;
      const int64_t left = rows[b].length - real[b];
      const detail::RowRun run{static_cast<int64_t>(b), 1, left};
      for (Stream& s : streams) {
        if (left)
          convolve_first(s, run, run.fresh_of(s.inputs, 1).clone(), max_len);
        else
          run.of(s.sums).zero_();
      }
      rows[b] = {left, left};
    }
  }
};

}  // namespace

std::vector<std::string> HyenaOperator::examples() {
  return {
      R"({"order": 3, "emb_dim": 5, "w": 4, "shift": 0.05, "short_filter_order": 1})",
      R"({"order": 4, "filter_layout": "order_major", "activation": "gelu", "bias": false, "modulate": false, "short_filter_order": 4})",
      R"({"normalized": true, "lr_pos_emb": 0, "num_inner_mlps": 0})"};
}

Json HyenaOperator::options_from(std::string_view, const Json& options, const Json& around) {
  Json r = Json::object();
  if (const Json* width = options.find("embed_dim")) r.set("d_model", *width);
  for (const Json* from : {&around, &options})
    if (const Json* length = from->find("max_len")) r.set("l_max", *length);
  if (const Json* p = options.find("dropout")) r.set("dropout", *p);
  return r;
}

HyenaOperator::HyenaOperator(const HyenaOperatorOptions& o) : Component(o) {
  DROPIN_CHECK(o.d_model > 0, OptionError, who(), ": d_model is ", o.d_model,
               ", expected a positive number");
  DROPIN_CHECK(o.l_max > 0, OptionError, who(), ": l_max is ", o.l_max, ", expected at least 1");
  DROPIN_CHECK(o.order >= 2, OptionError, who(), ": order is ", o.order, ", expected at least 2");
  DROPIN_CHECK(o.short_filter_order >= 1, OptionError, who(), ": short_filter_order is ",
               o.short_filter_order, ", expected at least 1");
  DROPIN_CHECK(o.emb_dim >= 3 && o.emb_dim % 2 == 1, OptionError, who(), ": emb_dim is ", o.emb_dim,
               ", expected an odd number of at least 3");
  DROPIN_CHECK(o.activation == "id" || o.activation == "gelu", OptionError, who(),
               ": activation is \"", o.activation, "\", expected id or gelu");
  DROPIN_CHECK(o.filter_layout == "channel_major" || o.filter_layout == "order_major", OptionError,
               who(), ": filter_layout is \"", o.filter_layout,
               "\", expected channel_major or order_major");
  DROPIN_CHECK(o.dropout >= 0 && o.dropout < 1, OptionError, who(), ": dropout is ", o.dropout,
               ", expected 0 <= dropout < 1");
  DROPIN_CHECK(o.num_heads == 1 && o.num_blocks == 1, OptionError, who(), ": num_heads ",
               o.num_heads, " and num_blocks ", o.num_blocks, ": only 1 is supported");
  const int64_t wide = (o.order + 1) * o.d_model;
  in_proj_ = child<Linear>("in_proj", {.in_features = o.d_model, .out_features = wide});
  out_proj_ = child<Linear>("out_proj", {.in_features = o.d_model, .out_features = o.d_model});
  auto* taps = child<ShortFilter>("short_filter", wide, o.short_filter_order).as();
  short_weight_ = taps->weight, short_bias_ = taps->bias;
  filter_ = child<HyenaFilter>("filter_fn", {.d_model = o.d_model * (o.order - 1),
                                             .l_max = o.l_max,
                                             .filter_order = o.filter_order,
                                             .emb_dim = o.emb_dim,
                                             .num_inner_mlps = o.num_inner_mlps,
                                             .w = o.w,
                                             .modulate = o.modulate,
                                             .shift = o.shift,
                                             .fast_decay_pct = o.fast_decay_pct,
                                             .slow_decay_pct = o.slow_decay_pct,
                                             .target = o.target,
                                             .normalized = o.normalized,
                                             .bias = o.bias,
                                             .lr = o.lr,
                                             .wd = o.wd,
                                             .lr_pos_emb = o.lr_pos_emb});
}

namespace {
// The blocks of D channels of z [B, L, n D] as [B, D, L] each. They are views; their gradients are
// joined once, not padded with zeros and added one by one.
Tensors channel_blocks(const Tensor& z, int64_t n) {
  const int64_t d = z.size(2) / n;
  Tensors blocks;
  for (int64_t i = 0; i < n; ++i)
    blocks.push_back(detail::alias(z, {z.size(0), d, z.size(1)},
                                   {z.stride(0), z.stride(2), z.stride(1)},
                                   z.storage_offset() + i * d * z.stride(2)));
  return record_many(
      "channel_blocks", blocks, {z}, {},
      [sizes = z.sizes(), d, n](const Saved&, const Tensors& gs) -> Tensors {
        Tensors parts;
        TensorOptions like;
        for (const Tensor& g : gs)
          if (g.defined()) like = g.options();
        for (int64_t i = 0; i < n; ++i) {
          const Tensor& g = gs[static_cast<std::size_t>(i)];
          parts.push_back(g.defined() ? g.transpose(1, 2) : zeros({sizes[0], sizes[1], d}, like));
        }
        return {concat(parts, 2)};
      });
}
}  // namespace

HyenaFilter& HyenaOperator::filter() const {
  HyenaFilter* f = filter_.as();
  DROPIN_CHECK(f, StateError, who(),
               ": filter_fn is no HyenaFilter any more; only its filters fit here");
  return *f;
}

Tensor HyenaOperator::activate(const Tensor& y) const {
  return options_.activation == "gelu" ? gelu(y) : y;
}

Tensor HyenaOperator::forward(const Tensor& x_, const SequenceArgs& args) {
  const auto& o = options_;
  DROPIN_CHECK(x_.dim() == 3 && x_.size(2) == o.d_model, ShapeError, who(), ": x is ", x_.sizes(),
               ", expected [B, L, ", o.d_model,
               "] because d_model = ", o.d_model);  // the others' embed_dim
  detail::check_sequence(who(), x_, o.d_model, args);
  detail::refuse(who(), "attn_mask", args.attn_mask, "a convolution has no scores");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const int64_t length = x_.size(1);
  DROPIN_CHECK(length >= 1 && length <= o.l_max, ShapeError, who(), ": x is ", x_.sizes(),
               ", expected 1 <= L <= l_max = ", o.l_max);
  const Tensor pad =
      args.key_padding_mask.defined() ? args.key_padding_mask.unsqueeze(2) : Tensor();
  auto masked = [&](const Tensor& t) { return pad.defined() ? where(pad, 0.0, t) : t; };
  const Tensor z =
      masked(causal_depthwise_conv(masked(in_proj_(masked(x_))), *short_weight_, *short_bias_));
  const Tensors blocks = channel_blocks(z, o.order + 1);
  auto block = [&](int64_t i) { return blocks[static_cast<std::size_t>(i)]; };
  const std::vector<detail::HyenaTaps> taps =
      filter().taps(length, o.order - 1, o.filter_layout == "channel_major");
  const bool noisy = is_training() && o.dropout > 0;
  Tensor v = block(o.order);
  for (int64_t s = 0; s < o.order - 1;
       ++s) {  // the gate before step s is the gate after step s - 1
    const detail::HyenaTaps& t = taps[static_cast<std::size_t>(s)];
    if (noisy)
      v = fft_conv(dropout(v * block(o.order - 1 - s), o.dropout, true), t.k, t.D,
                   {.spectrum = t.spectrum});
    else
      v = fft_conv(v, t.k, t.D,
                   {.pre_gate = s == 0 ? block(o.order - 1) : Tensor(),
                    .post_gate = block(o.order - 2 - s),
                    .spectrum = t.spectrum});
  }
  if (noisy) v = v * block(0);
  return out_proj_(activate(v.transpose(1, 2)));
}

Box<SequenceState> HyenaOperator::init_state(int64_t batch, int64_t max_len,
                                             const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(batch >= 0 && max_len >= 1, OptionError, who(), ": init_state(", batch, ", ",
               max_len, "): expected batch >= 0 and max_len >= 1");
  DROPIN_CHECK(max_len <= o.l_max, OptionError, who(), ": init_state: max_len is ", max_len,
               ", expected at most l_max = ", o.l_max);
  detail::check_state_sizes(who(), batch, max_len, options);
  no_grad guard;
  auto s = Box<HyenaState>(new HyenaState(batch));
  const TensorOptions like = short_weight_->options();
  s->max_len = max_len;
  s->rows.resize(static_cast<std::size_t>(batch));
  s->recent = {batch, o.short_filter_order - 1, (o.order + 1) * o.d_model, options, like};
  for (const detail::HyenaTaps& t :
       filter().taps(max_len, o.order - 1, o.filter_layout == "channel_major")) {
    Stream stream;
    stream.inputs = zeros({batch, max_len, o.d_model}, like);
    stream.sums = zeros({batch, max_len, o.d_model}, like);
    stream.k = t.k;
    stream.D = t.D;
    stream.reversed = t.k.transpose(0, 1).flip({0}).contiguous();
    s->streams.push_back(std::move(stream));
  }
  return s;
}

namespace {

// The next token x [R, 1, D] of a run, number t; `origin` tokens came at once before. Tokens of the
// current block are summed one by one.
Tensor convolve_next(Stream& s, const detail::RowRun& run, const Tensor& x, int64_t t,
                     int64_t origin, int64_t max_len) {
  const Tensor inputs = run.of(s.inputs), sums = run.of(s.sums);
  inputs.narrow(1, t, 1).copy_(x);
  const int64_t at = t - origin, begin = t - at % kBlock, count = t + 1 - begin;
  Tensor y =
      sums.narrow(1, t, 1) +
      sum(inputs.narrow(1, begin, count) * s.reversed.narrow(0, max_len - count, count), {1}, true);
  if (s.D.defined()) y = y + x * s.D;
  const int64_t done = at + 1;
  if (done % kBlock != 0 || t + 1 >= max_len) return y;
  // a block of `size` is complete: what it adds to the `size` outputs after it
  const int64_t size = done & -done, reach = std::min(size, max_len - (t + 1)),
                taps = std::min(2 * size, max_len);
  const auto p = static_cast<std::size_t>(std::countr_zero(static_cast<std::uint64_t>(size)));
  if (s.spectra.size() <= p) s.spectra.resize(p + 1);
  const Tensor k = s.k.narrow(1, 0, taps),
               block = pad(inputs.narrow(1, t + 1 - size, size), {0, 0, 0, taps - size});
  if (!s.spectra[p].defined()) s.spectra[p] = fft_conv_spectrum(k, taps);
  const Tensor add =
      fft_conv(block.transpose(1, 2), k, {}, {.spectrum = s.spectra[p]}).transpose(1, 2);
  sums.narrow(1, t + 1, reach).add_(add.narrow(1, size, reach));
  return y;
}

}  // namespace

Tensor HyenaOperator::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<HyenaState>(who(), state);
  const detail::StepTokens tokens = detail::check_step(who(), x_t, s, args, {.width = o.d_model});
  detail::check_room(who(), s.rows, tokens, s.max_len);
  no_grad guard;
  const int64_t n = tokens.n, d = o.d_model;
  if (n == 0) return x_t.clone();
  const Tensor u = tokens.packed(in_proj_(x_t), 1),
               z = causal_depthwise_conv(s.recent.before(u), *short_weight_, *short_bias_)
                       .narrow(1, o.short_filter_order - 1, n);
  s.recent.push(u, tokens);
  const Tensor y = detail::step_rows(
      s.rows, tokens, {x_t.size(0), n, d}, 1, z.options(), [&](const detail::RowRun& run) {
        Tensors out;
        for (int64_t t = 0; t < run.fresh;) {
          const detail::StateRow row = s.rows[static_cast<std::size_t>(run.begin)];
          const int64_t count = row.length == 0 ? run.fresh : 1;
          const Tensor now = run.of(z).narrow(1, t, count);
          auto block = [&](int64_t i) { return now.narrow(2, i * d, d); };
          Tensor v = block(o.order);
          for (int64_t i = 0; i < o.order - 1; ++i) {
            v = v * block(o.order - 1 - i);
            Stream& stream = s.streams[static_cast<std::size_t>(i)];
            v = count > 1 ? convolve_first(stream, run, v, s.max_len)
                          : convolve_next(stream, run, v, row.length, row.start, s.max_len);
          }
          out.push_back(v * block(0));
          for (int64_t b = run.begin; b < run.begin + run.rows; ++b)
            s.rows[static_cast<std::size_t>(b)] = {row.length + count,
                                                   count > 1 ? count : row.start};
          t += count;
        }
        return concat(out, 1);
      });
  s.saw(n, tokens.padding);
  return out_proj_(activate(y));
}

std::vector<ParameterHint> HyenaOperator::param_groups() const {
  std::vector<ParameterHint> r = filter().param_groups();
  for (const Child<Linear>& proj : {in_proj_, out_proj_})
    for (const Tensor& p : proj->parameters())
      r.back().params.push_back(p);  // whatever stands there now
  for (const Tensor& p : {*short_weight_, *short_bias_}) r.back().params.push_back(p);
  return r;
}

}  // namespace dropin
