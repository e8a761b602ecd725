// The implicit filter: positions, a network of sines, a window; taps kept while nothing changes.
#include "dropin/sequence/hyena.h"

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

}  // namespace dropin
