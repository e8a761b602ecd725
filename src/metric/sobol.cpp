#include "dropin/metric/sobol.h"

#include <cmath>
#include <numbers>

namespace dropin {

FamilyInfo NoiseSampler::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "count [] int64 -> y [count, dim]";
  f.options = [](int size) { return json_of({{"dim", size ? 128 : 3}}); };
  f.inputs = [](const Json&, const SampleSpec& s) -> Sample {
    static constexpr int64_t kCounts[] = {5, 64, 4096, 65536};
    const int64_t n = s.length >= 0 ? s.length : s.of(kCounts);
    return {{{"count", scalar(n, kInt64)}}, {}, n};
  };
  f.bad_inputs = [](const Json&) -> std::vector<BadInput> {
    return {{{{"count", scalar(-1, kInt64)}}}, {{{"count", zeros({2}, kInt64)}}}};
  };
  f.label = [](const Shape&) { return std::string("points"); };
  f.work = [](const Workload& w) {
    const auto bytes = static_cast<double>(w.y.numel() * item_size(w.y.dtype()));
    return Work{.bytes = bytes, .both_bytes = bytes};
  };
  f.traits.sampler = true;
  f.traits.integer_inputs = true;
  return f;
}

int64_t NoiseSampler::count_of(const NamedTensors& in) const {
  const Tensor count = in.get("count", type());
  DROPIN_CHECK(count.dtype() == kInt64 && count.dim() == 0, ShapeError, type(), ": count is ",
               count.dtype(), " ", count.sizes(), ", expected int64 []");
  const int64_t n = count.item<int64_t>();
  DROPIN_CHECK(n >= 0, OptionError, type(), ": count is ", n, ", expected 0 or more");
  return n;
}

NamedTensors NoiseSampler::call(const NamedTensors& in) { return {{"y", draw(count_of(in))}}; }

NormalSampler::NormalSampler(const NormalSamplerOptions& o) : Component(o) {
  DROPIN_CHECK(o.dim > 0, OptionError, who(), ": dim is ", o.dim, ", expected a positive number");
}

Tensor NormalSampler::draw(int64_t count, Generator* g) {
  DROPIN_CHECK(count >= 0, OptionError, who(), ": count is ", count, ", expected 0 or more");
  Tensor r = empty({count, options_.dim});
  for (int64_t i = 0; i < count; ++i) r.select(0, i).copy_(randn({options_.dim}, {}, g));
  return r;
}

namespace {

// The points' numbers, after a check that there are as many; `index` moves on.
std::vector<std::uint64_t> taken(std::string_view who, const detail::SobolState& s, Tensor& index,
                                 int64_t count, const SobolOptions& o) {
  const int64_t start = index.item<int64_t>(), all = int64_t{1} << o.bits;
  DROPIN_CHECK(count >= 0, OptionError, who, ": count is ", count, ", expected 0 or more");
  DROPIN_CHECK(start >= 0 && count <= all - start, StateError, who, ": points ", start, " to ",
               start, " + ", count, ", expected at most 2^bits = ", all, " in all");
  std::vector<std::uint64_t> x = detail::sobol_integers(s, start, count, o);
  no_grad guard;
  index.fill_(start + count);
  return x;
}

// In float32 the top 24 bits, so that none rounds to 1.
Tensor uniforms(const std::vector<std::uint64_t>& x, int64_t count, int64_t dim, int64_t bits) {
  Tensor y = empty({count, dim});
  const int drop = static_cast<int>(std::max<int64_t>(0, bits - 24));
  for (std::size_t i = 0; i < x.size(); ++i)
    y.data<float>()[i] =
        std::ldexp(static_cast<float>(x[i] >> drop), drop - static_cast<int>(bits));
  return y;
}

template <std::size_t N>
double polynomial(const double (&c)[N], double x) {
  double y = 0;
  for (std::size_t i = N; i-- > 0;) y = y * x + c[i];
  return y;
}
// The inverse of the normal distribution function (Wichura 1988, AS241), for p not below 1e-11.
double inverse_normal(double p) {
  static constexpr double a[] = {3.3871328727963666080e0, 1.3314166789178437745e2,
                                 1.9715909503065514427e3, 1.3731693765509461125e4,
                                 4.5921953931549871457e4, 6.7265770927008700853e4,
                                 3.3430575583588128105e4, 2.5090809287301226727e3},
                          b[] = {1,
                                 4.2313330701600911252e1,
                                 6.8718700749205790830e2,
                                 5.3941960214247511077e3,
                                 2.1213794301586595867e4,
                                 3.9307895800092710610e4,
                                 2.8729085735721942674e4,
                                 5.2264952788528545610e3},
                          c[] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                                 5.76949722146069140550e0,  3.64784832476320460504e0,
                                 1.27045825245236838258e0,  2.41780725177450611770e-1,
                                 2.27238449892691845833e-2, 7.74545014278341407640e-4},
                          d[] = {1,
                                 2.05319162663775882187e0,
                                 1.67638483018380384940e0,
                                 6.89767334985100004550e-1,
                                 1.48103976427480074590e-1,
                                 1.51986665636164571966e-2,
                                 5.47593808499534494600e-4,
                                 1.05075007164441684324e-9};
  const double q = p - 0.5;
  if (std::abs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * polynomial(a, r) / polynomial(b, r);
  }
  const double r = std::sqrt(-std::log(q < 0 ? p : 1 - p)) - 1.6;
  return std::copysign(polynomial(c, r) / polynomial(d, r), q);
}

}  // namespace

std::vector<std::string> SobolSequence::examples() {
  return {R"({"scramble": "owen", "bits": 20})", R"({"scramble": "none", "reorder_block": 4})"};
}

SobolSequence::SobolSequence(const SobolOptions& o) : Component(o) {
  const detail::SobolState s = detail::sobol_state(who(), o.dim, o);
  directions_ = &buffer("sobolstate", s.directions);
  shift_ = &buffer("shift", s.shift);
  index_ = &buffer("index", scalar(0, kInt64));
}

Tensor SobolSequence::draw(int64_t count) {
  return uniforms(taken(who(), {*directions_, *shift_}, *index_, count, options_), count,
                  options_.dim, options_.bits);
}

NamedTensors SobolSequence::call(const NamedTensors& in) {
  const Tensor y = draw(count_of(in));
  return {{"y", y}, {"index", index_->clone()}};
}

std::vector<std::string> SobolNormal::examples() {
  return {R"({"transform": "box_muller"})", R"({"endpoint": "midpoint", "scramble": "shift"})"};
}

SobolNormal::SobolNormal(const SobolNormalOptions& o)
    : Component(o), points_{o.dim, o.bits, o.scramble, o.seed, o.reorder_block} {
  DROPIN_CHECK(o.transform == "inverse" || o.transform == "box_muller", OptionError, who(),
               ": transform is \"", o.transform, "\", expected inverse or box_muller");
  DROPIN_CHECK(o.endpoint == "shrink" || o.endpoint == "midpoint", OptionError, who(),
               ": endpoint is \"", o.endpoint, "\", expected shrink or midpoint");
  const int64_t rows = o.transform == "inverse" ? o.dim : (o.dim + 1) / 2 * 2;
  const detail::SobolState s = detail::sobol_state(who(), rows, points_);
  directions_ = &buffer("sobolstate", s.directions);
  shift_ = &buffer("shift", s.shift);
  index_ = &buffer("index", scalar(0, kInt64));
}

Tensor SobolNormal::draw(int64_t count) {
  const auto& o = options_;
  const std::vector<std::uint64_t> x =
      taken(who(), {*directions_, *shift_}, *index_, count, points_);
  const int64_t rows = shift_->size(0);
  const double cell = std::ldexp(1.0, -static_cast<int>(o.bits)), kept = 1 - 0x1p-23;
  Tensor y = empty({count, o.dim});
  float* out = y.data<float>();
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < o.dim; ++d) {
      const std::uint64_t* point = x.data() + i * rows;
      double z;
      if (o.transform == "box_muller") {
        const int64_t pair = d / 2 * 2;
        const double a = point[pair] == 0 ? cell / 2 : static_cast<double>(point[pair]) * cell,
                     angle = 2 * std::numbers::pi * static_cast<double>(point[pair + 1]) * cell;
        z = std::sqrt(-2 * std::log(a)) * (d % 2 == 0 ? std::cos(angle) : std::sin(angle));
      } else {
        const auto whole = static_cast<double>(point[d]);
        z = inverse_normal(o.endpoint == "shrink" ? 0.5 + kept * (whole * cell - 0.5)
                                                  : (whole + 0.5) * cell);
      }
      out[i * o.dim + d] = static_cast<float>(z);
    }
  return y;
}

NamedTensors SobolNormal::call(const NamedTensors& in) {
  const Tensor y = draw(count_of(in));
  return {{"y", y}, {"index", index_->clone()}};
}

Tensor sobol_sequence(const SobolSequenceOptions& o) {
  const char* who = "sobol_sequence";
  DROPIN_CHECK(o.count >= 0 && o.start >= 0, OptionError, who, ": count ", o.count, " and start ",
               o.start, ", expected 0 or more");
  const SobolOptions points{o.dim, o.bits, o.scramble, o.seed, 0};
  const detail::SobolState s = detail::sobol_state(who, o.dim, points);
  Tensor index = scalar(o.start, kInt64);
  return uniforms(taken(who, s, index, o.count, points), o.count, o.dim, o.bits);
}

}  // namespace dropin
