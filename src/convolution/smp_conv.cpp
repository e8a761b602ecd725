#include "dropin/convolution/smp_conv.h"

#include <algorithm>
#include <cmath>

namespace dropin {

namespace {

constexpr int64_t kDirectTaps = 256;  // from here on transforms are faster, measured on one core

// Normal values cut to [low, high].
Tensor cut_normal(const Shape& sizes, double std, double low, double high) {
  std::vector<double> r;
  const int64_t n = Tensor(zeros(sizes)).numel();
  while (static_cast<int64_t>(r.size()) < n)
    for (const double v : randn({std::max<int64_t>(n, 16)}, kFloat64).to_vector())
      if (v * std >= low && v * std <= high && static_cast<int64_t>(r.size()) < n)
        r.push_back(v * std);
  return tensor(r, sizes);
}

Tensor positive_radius(const Tensor& r, double least) { return where(r <= 0.0, least, r); }

// Divided by how many points cover each place; the count has no gradient.
Tensor averaged(const Tensor& bumps) {
  const Tensor count = sum((bumps.detach() != 0.0).to(bumps.dtype()), {1}, true);
  return bumps / (count + 1e-6);
}
void clip(Tensor& radius, double least) {
  no_grad guard;
  radius.copy_(clamp(radius.detach(), least, 1));
}
int64_t count_dead(const Tensor& bumps) {
  no_grad guard;
  Shape rest;
  for (int i = 2; i < bumps.dim(); ++i) rest.push_back(i);
  return sum(logical_not(any(bumps.detach() != 0.0, rest)).to(kInt64)).item<int64_t>();
}
void check_points(std::string_view who, int64_t in, int64_t out, int64_t points, double radius,
                  double least, double spread) {
  DROPIN_CHECK(in > 0 && out > 0, OptionError, who, ": in_channels ", in, " and out_channels ", out,
               " must be positive");
  DROPIN_CHECK(points >= 1, OptionError, who, ": n_points is ", points, ", expected at least 1");
  DROPIN_CHECK(radius > 0 && least > 0, OptionError, who, ": radius ", radius, " and min_radius ",
               least, " must be positive");
  DROPIN_CHECK(spread > 0, OptionError, who, ": coord_std is ", spread,
               ", expected a positive number");
}

// The least product of 2, 3 and 5 that is not below n.
int64_t transform_size(int64_t n) {
  for (;; ++n) {
    int64_t rest = n;
    for (const int64_t f : {2, 3, 5})
      while (rest % f == 0) rest /= f;
    if (rest == 1) return n;
  }
}
// y[b, o, t] = sum_{c, s} lags[o, c, s] x[b, c, t - s], by a sum over channels per frequency.
Tensor causal_by_transform(const Tensor& x, const Tensor& lags) {
  const int64_t l = x.size(2), n = transform_size(l + lags.size(2) - 1);
  const Tensor xf = rfft(x, n), kf = rfft(lags, n);  // [B, I, F, 2], [O, I, F, 2]
  auto rows = [](const Tensor& t, int64_t part) { return t.select(3, part).permute({2, 0, 1}); };
  const Tensor a = rows(xf, 0), b = rows(xf, 1), c = rows(kf, 0).mT(), d = rows(kf, 1).mT();
  const Tensor y = stack({matmul(a, c) - matmul(b, d), matmul(a, d) + matmul(b, c)}, 3);
  return irfft(y.permute({1, 2, 0, 3}), n).narrow(2, 0, l);
}

// y[b, o, t] = sum_{c, j} w[o, c, j] x[b, c, t - (k - 1) + j] as one product with the windows of x.
Tensor causal_by_windows(const Tensor& x, const Tensor& w) {
  const int64_t b = x.size(0), l = x.size(2), o = w.size(0), k = w.size(2), size = w.size(1) * k;
  const Tensor windows = pad(x, {k - 1, 0}).unfold(2, k, 1);  // [B, I, L, k]
  return linear(windows.permute({0, 2, 1, 3}).reshape({b, l, size}), w.reshape({o, size}))
      .transpose(1, 2);
}

}  // namespace

std::vector<std::string> SMPConv1d::examples() {
  return {R"({"horizon": 5, "bias": false})", R"({"horizon": "full", "use_fft": true})"};
}

Sample SMPConv1d::sample(const Options& o, const SampleSpec& s) {
  const PictureSize& p = picture_size(s.size);
  return sample_signals(s, o.in_channels, p.side * p.side);
}

Json SMPConv1d::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  for (const char* name : {"in_channels", "out_channels", "bias"})
    if (const Json* v = options.find(name)) r.set(name, *v);
  return r;
}

SMPConv1d::SMPConv1d(const SMPConv1dOptions& o) : Component(o) {
  check_points(who(), o.in_channels, o.out_channels, o.n_points, o.radius, o.min_radius,
               o.coord_std);
  const bool named = !o.horizon.name.empty();
  DROPIN_CHECK(!named || o.horizon.name == "same" || o.horizon.name == "full", OptionError, who(),
               ": horizon is \"", o.horizon.name, "\", expected same, full or an odd number");
  const auto size = static_cast<int64_t>(o.horizon.number);
  DROPIN_CHECK(
      named || (size >= 1 && size % 2 == 1 && static_cast<double>(size) == o.horizon.number),
      OptionError, who(), ": horizon is ", o.horizon.number,
      ", expected same, full or an odd number");
  DROPIN_CHECK(o.max_length >= 0, OptionError, who(), ": max_length is ", o.max_length,
               ", expected at least 0");
  const int64_t p = o.n_points, out = o.out_channels;
  coord_ = &parameter("weight_coord", cut_normal({out, p, 1}, o.coord_std, -1, 0) * 2 + 1);
  radius_ = &parameter("radius", full({out, p, 1}, o.radius));
  weights_ = &parameter("weights", cut_normal({out, o.in_channels, p}, 0.02, -2, 2));
  bias_ = &parameter("bias", o.bias ? zeros({out}) : Tensor());
  if (o.max_length == 0 && named) length_ = &buffer("train_length", zeros({1}, kInt32));
}

int64_t SMPConv1d::taps(int64_t length) const {
  const auto& o = options_;
  if (o.horizon.name.empty()) return static_cast<int64_t>(o.horizon.number);
  int64_t l = o.max_length;
  if (length_) l = length_->item<int64_t>();
  if (l == 0) l = length;
  return o.horizon.name == "full" ? 2 * l - 1 : l;
}

Tensor SMPConv1d::bumps(int64_t k) const {
  const Tensor place =
      (k == 1 ? full({1}, -1) : linspace(-1, 1, k, kFloat64)).to(coord_->dtype(), coord_->device());
  const Tensor r = positive_radius(*radius_, options_.min_radius);
  return relu(1 - abs(place - *coord_) / r);  // [O, P, k]
}

Tensor SMPConv1d::kernel(int64_t k) const { return matmul(*weights_, averaged(bumps(k))); }

Tensor SMPConv1d::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() == 3 && x.size(1) == o.in_channels, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [B, ", o.in_channels, ", L]");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  const int64_t l = x.size(2);
  DROPIN_CHECK(l > 0, ShapeError, who(), ": x is ", x.sizes(), ", expected L of at least 1");
  if (length_ && length_->item<int64_t>() == 0) {
    no_grad guard;
    length_->fill_(l);
  }
  const int64_t k = taps(l), near = std::min(k, l);  // lags beyond the input meet zeros
  Tensor w = kernel(k);
  if (near < k) w = w.narrow(2, k - near, near);
  const bool transform = o.use_fft.value_or(near >= kDirectTaps) && x.size(0) > 0;
  const Tensor y = transform ? causal_by_transform(x, flip(w, {2})) : causal_by_windows(x, w);
  return bias_->defined() ? y + bias_->unsqueeze(1) : y;
}

void SMPConv1d::clip_radius() { clip(*radius_, options_.min_radius); }
int64_t SMPConv1d::dead_points(int64_t length) const { return count_dead(bumps(taps(length))); }

Box<Conv1d> SMPConv1d::fuse(int64_t length) const {
  no_grad guard;
  const int64_t k = taps(length);
  Box<Conv1d> r(new Conv1d({.in_channels = options_.in_channels,
                            .out_channels = options_.out_channels,
                            .kernel_size = k,
                            .padding = Json(k - 1),
                            .bias = options_.bias}));
  r->to(weights_->dtype());
  r->to(weights_->device());
  StateDict state{{"weight", kernel(k)}};
  if (bias_->defined()) state.set("bias", *bias_);
  r->load_state_dict(state);
  return r;
}

// --- SMPConv2d

std::vector<std::string> SMPConv2d::examples() {
  return {R"({"depthwise": false, "n_points": 4, "kernel_size": 3})",
          R"({"kernel_size": 13, "average": true, "bias": true})"};
}

Json SMPConv2d::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  for (const char* name : {"in_channels", "out_channels", "bias"})
    if (const Json* v = options.find(name)) r.set(name, *v);
  if (const Json* c = options.find("channels")) {
    r.set("in_channels", *c);
    r.set("out_channels", *c);
  }
  if (const Json* k = options.find("kernel_size"); k && k->is_number()) r.set("kernel_size", *k);
  return r;
}

SMPConv2d::SMPConv2d(const SMPConv2dOptions& o) : Component(o) {
  const int64_t k = o.kernel_size, p = o.n_points ? o.n_points : std::max<int64_t>(1, k * k / 4);
  DROPIN_CHECK(k > 0 && k % 2 == 1, OptionError, who(), ": kernel_size is ", k,
               ", expected an odd number");
  const double radius = o.radius.value_or(4 / static_cast<double>(k));
  check_points(who(), o.in_channels, o.out_channels, p, radius, least_radius(), o.coord_std);
  DROPIN_CHECK(!o.depthwise || o.in_channels == o.out_channels, OptionError, who(),
               ": out_channels is ", o.out_channels, ", expected in_channels = ", o.in_channels,
               " because depthwise = true");
  const int64_t sets = o.depthwise ? 1 : o.out_channels;
  coord_ = &parameter("weight_coord", cut_normal({sets, p, 2}, o.coord_std, -1, 1));
  radius_ = &parameter("radius", full({sets, p, 1, 1}, radius));
  weights_ = &parameter("weights", cut_normal({sets, o.in_channels, p}, 0.02, -2, 2));
  bias_ = &parameter("bias", o.bias.value_or(!o.depthwise) ? zeros({o.out_channels}) : Tensor());
}

Tensor SMPConv2d::bumps() const {
  const int64_t k = options_.kernel_size, sets = coord_->size(0), p = coord_->size(1);
  const Tensor grid =
      (k == 1 ? full({1}, -1) : linspace(-1, 1, k, kFloat64)).to(coord_->dtype(), coord_->device());
  auto part = [&](int64_t i) { return coord_->select(2, i).reshape({sets, p, 1, 1}); };
  const Tensor right = abs(grid.reshape({1, k}) - part(0)),
               up = abs(flip(grid, {0}).reshape({k, 1}) - part(1));
  return relu(1 - (right + up) / positive_radius(*radius_, least_radius()));  // [S, P, k, k]
}

Tensor SMPConv2d::kernel() const {
  const auto& o = options_;
  const int64_t k = o.kernel_size, p = coord_->size(1);
  Tensor g = bumps();
  if (o.average.value_or(!o.depthwise)) g = averaged(g);
  const Tensor w = matmul(*weights_, g.reshape({g.size(0), p, k * k}));  // [S, I, k^2]
  return o.depthwise ? w.reshape({o.in_channels, 1, k, k})
                     : w.reshape({o.out_channels, o.in_channels, k, k});
}

Tensor SMPConv2d::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == o.in_channels, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [B, ", o.in_channels, ", H, W]");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  Tensor w = kernel();
  ConvParams params;
  params.groups = o.depthwise ? o.in_channels : 1;
  for (int axis = 0; axis < 2; ++axis) {  // taps that meet padding only are left out
    const int64_t half = std::min(o.kernel_size / 2, std::max<int64_t>(0, x.size(2 + axis) - 1));
    w = w.narrow(2 + axis, o.kernel_size / 2 - half, 2 * half + 1);
    const auto i = static_cast<std::size_t>(axis);
    params.pad_begin[i] = params.pad_end[i] = half;
  }
  return conv2d(x, w, *bias_, params);
}

void SMPConv2d::clip_radius() { clip(*radius_, least_radius()); }
int64_t SMPConv2d::dead_points() const { return count_dead(bumps()); }

Box<Conv2d> SMPConv2d::fuse() const {
  no_grad guard;
  const auto& o = options_;
  Box<Conv2d> r(new Conv2d({.in_channels = o.in_channels,
                            .out_channels = o.out_channels,
                            .kernel_size = o.kernel_size,
                            .padding = o.kernel_size / 2,
                            .groups = o.depthwise ? o.in_channels : 1,
                            .bias = bias_->defined()}));
  r->to(weights_->dtype());
  r->to(weights_->device());
  StateDict state{{"weight", kernel()}};
  if (bias_->defined()) state.set("bias", *bias_);
  r->load_state_dict(state);
  return r;
}

}  // namespace dropin
