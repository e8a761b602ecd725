#include "dropin/quantizer/binary_spherical.h"

#include <algorithm>
#include <cmath>

#include "dropin/module/parameters.h"
#include "dropin/ops/normalize.h"
#include "kernels/hd.h"

namespace dropin {

std::vector<std::string> BinarySphericalQuantizer::examples() {
  return {R"({"persample_entropy_compute": "analytical", "beta": 0.25, "l2_norm": false})",
          R"({"normalize_input": true, "group_size": 1, "input_format": "bchw"})",
          R"({"embed_dim": 70, "group_size": 7})"};
}

Sample BinarySphericalQuantizer::sample(const Options& o, const SampleSpec& s) {
  const int64_t batch = s.batch >= 0 ? s.batch : s.size ? 16 : 2, side = s.size ? 16 : 3;
  if (o.input_format == "bchw") return {{{"x", s.normal({batch, o.embed_dim, side, side})}}};
  return {{{"x", s.normal({batch, s.length >= 0 ? s.length : side * side, o.embed_dim})}}};
}

BinarySphericalQuantizer::BinarySphericalQuantizer(const BinarySphericalQuantizerOptions& o)
    : Component(o) {
  DROPIN_CHECK(o.embed_dim > 0 && o.group_size > 0, OptionError, who(), ": embed_dim ", o.embed_dim,
               " and group_size ", o.group_size, " must be positive");
  DROPIN_CHECK(o.embed_dim % o.group_size == 0, OptionError, who(), ": embed_dim ", o.embed_dim,
               " is not divisible by group_size ", o.group_size);
  DROPIN_CHECK(o.group_size <= 16, OptionError, who(), ": group_size is ", o.group_size,
               ", expected at most 16");
  DROPIN_CHECK(o.input_format == "bchw" || o.input_format == "blc", OptionError, who(),
               ": input_format is \"", o.input_format, "\", expected bchw or blc");
  DROPIN_CHECK(
      o.persample_entropy_compute == "group" || o.persample_entropy_compute == "analytical",
      OptionError, who(), ": persample_entropy_compute is \"", o.persample_entropy_compute,
      "\", expected group or analytical");
  DROPIN_CHECK(o.inv_temperature > 0, OptionError, who(), ": inv_temperature is ",
               o.inv_temperature, ", expected a positive number");
  DROPIN_CHECK(o.eps >= 0, OptionError, who(), ": eps is ", o.eps, ", expected at least 0");
}

double BinarySphericalQuantizer::scale() const {
  return options_.l2_norm ? 1 / std::sqrt(static_cast<double>(options_.embed_dim)) : 1;
}

Tensor BinarySphericalQuantizer::channels_last(const Tensor& x) const {
  const int64_t d = options_.embed_dim;
  if (channels_first()) {
    DROPIN_CHECK(x.dim() == 4 && x.size(1) == d, ShapeError, who(), ": x is ", x.sizes(),
                 ", expected [B, ", d, ", H, W] because embed_dim = ", d);
  } else {
    DROPIN_CHECK(x.dim() >= 1 && x.size(-1) == d, ShapeError, who(), ": x is ", x.sizes(),
                 ", expected [..., ", d, "] because embed_dim = ", d);
  }
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  return channels_first() ? x.permute({0, 2, 3, 1}) : x;
}
Tensor BinarySphericalQuantizer::to_format(const Tensor& x) const {
  if (!channels_first()) return x;
  DROPIN_CHECK(x.dim() == 4, ShapeError, who(), ": indices are ", x.dim() - 1,
               "-dimensional, expected [B, H, W] because input_format = bchw");
  return x.permute({0, 3, 1, 2});
}

// Whole numbers of bits [..., n], the first the most significant.
Tensor BinarySphericalQuantizer::numbers(const Tensor& bits) const {
  const int64_t n = bits.size(-1);
  std::vector<int64_t> powers;
  for (int64_t i = 0; i < n; ++i) powers.push_back(int64_t{1} << (n - 1 - i));
  return sum(bits.to(kInt64) * tensor(powers).to(bits.device()), {-1});
}
Tensor BinarySphericalQuantizer::group_numbers(const Tensor& bits) const {
  Shape s = bits.sizes();
  s[s.size() - 1] = options_.embed_dim / options_.group_size;
  s.push_back(options_.group_size);
  return numbers(bits.reshape(s));
}
// The last `count` bits of each number, in a new last dimension.
Tensor BinarySphericalQuantizer::bits_of(const Tensor& numbers, int64_t count) const {
  Tensors bits;
  for (int64_t i = count - 1; i >= 0; --i)
    bits.push_back(remainder(floor_divide(numbers, Scalar(int64_t{1} << i)), Scalar(2)));
  return stack(bits, -1);
}
Tensor BinarySphericalQuantizer::codes_of(const Tensor& bits) const {
  return (bits.to(kFloat32) * 2 - 1) * scale();
}

namespace {

Tensor entropy(const Tensor& p, double eps) { return -((p + eps) * log(p + eps)); }

// Products of the bits' probabilities [N, G, g] for all codes of a group: [N, G, 2^g].
Tensor code_probabilities(const Tensor& on, const Tensor& off) {
  const int64_t n = on.size(0), g = on.size(1);
  Tensor p = ones({n, g, 1}, on.options());
  for (int64_t i = 0; i < on.size(2); ++i)
    p = stack({p * off.narrow(2, i, 1), p * on.narrow(2, i, 1)}, 3).reshape({n, g, -1});
  return p;
}

}  // namespace

std::pair<Tensor, Tensor> BinarySphericalQuantizer::entropies(const Tensor& z) const {
  const auto& o = options_;
  const Tensor logits = z * (4 * o.inv_temperature * scale());
  const Tensor on = sigmoid(logits), off = sigmoid(-logits);
  if (o.persample_entropy_compute == "analytical") {
    const Tensor each = mean(sum(entropy(on, o.eps) + entropy(off, o.eps), {1}));
    return {each, sum(entropy(mean(on, {0}), o.eps) + entropy(mean(off, {0}), o.eps))};
  }
  const Shape groups{z.size(0), o.embed_dim / o.group_size, o.group_size};
  const Tensor p = code_probabilities(on.reshape(groups), off.reshape(groups));
  return {mean(sum(entropy(p, o.eps), {1, 2})), sum(entropy(mean(p, {0}), o.eps))};
}

BinaryCodes BinarySphericalQuantizer::codes(const Tensor& x_) const {
  const auto& o = options_;
  Tensor x = channels_last(x_);
  if (o.normalize_input) x = normalize(x);
  const Tensor bits = x.detach() > 0.0;
  const double c = scale();
  const Tensor code = codes_of(bits).to(x.dtype());
  BinaryCodes r;
  r.y = to_format(record("binary_spherical", code, {x}, {},
                         [c](const Saved&, const Tensor& g) -> Tensors { return {g * c}; }));
  if (o.embed_dim <= 63) r.indices = numbers(bits);
  r.group_indices = group_numbers(bits);
  const DType type = x.dtype() == kFloat64 ? kFloat64 : kFloat32;
  const int64_t n = x.numel() / o.embed_dim;
  if (n == 0) {
    r.loss = r.codebook_entropy = zeros({}, {type, x.device()});
    return r;
  }
  const Tensor z = x.to(type).reshape({n, o.embed_dim});
  const auto [each, all] = entropies(z);
  r.codebook_entropy = all;
  r.loss = (each * o.gamma_0 - all * o.gamma_1) * (1 / o.inv_temperature);
  if (o.beta != 0)
    r.loss =
        r.loss + mean(sum(square(code.detach().to(type).reshape(z.sizes()) - z), {1})) * o.beta;
  return r;
}

Quantized BinarySphericalQuantizer::forward(const Tensor& x, const Tensor& lengths) {
  DROPIN_CHECK(!lengths.defined(), OptionError, who(), ": lengths is not supported");
  const BinaryCodes c = codes(x);
  return {c.y, c.loss, exp(c.codebook_entropy.detach()), c.indices};
}

NamedTensors BinarySphericalQuantizer::call(const NamedTensors& in) {
  DROPIN_CHECK(!in.find("lengths").defined(), OptionError, who(), ": lengths is not supported");
  const BinaryCodes c = codes(in.get("x", who()));
  NamedTensors out{{"y", c.y}, {"loss", c.loss}, {"codebook_entropy", c.codebook_entropy}};
  if (c.indices.defined()) out.set("indices", c.indices);
  out.set("group_indices", c.group_indices);
  return out;
}

Tensor BinarySphericalQuantizer::codes_to_indices(const Tensor& y) const {
  DROPIN_CHECK(options_.embed_dim <= 63, OptionError, who(), ": embed_dim is ", options_.embed_dim,
               ", expected at most 63 for indices; group indices hold more");
  return numbers(channels_last(y) > 0.0);
}

Tensor BinarySphericalQuantizer::indices_to_codes(const Tensor& indices) const {
  const int64_t d = options_.embed_dim;
  DROPIN_CHECK(d <= 63, OptionError, who(), ": embed_dim is ", d,
               ", expected at most 63 for indices; group indices hold more");
  DROPIN_CHECK(indices.dtype() == kInt64, DTypeError, who(), ": indices are ", indices.dtype(),
               ", expected int64");
  return to_format(codes_of(bits_of(indices, d)));
}

Tensor BinarySphericalQuantizer::group_indices_to_codes(const Tensor& group_indices) const {
  const int64_t groups = options_.embed_dim / options_.group_size;
  DROPIN_CHECK(group_indices.dtype() == kInt64, DTypeError, who(), ": group_indices are ",
               group_indices.dtype(), ", expected int64");
  DROPIN_CHECK(group_indices.dim() >= 1 && group_indices.size(-1) == groups, ShapeError, who(),
               ": group_indices are ", group_indices.sizes(), ", expected [..., ", groups, "]");
  Shape s = group_indices.sizes();
  s[s.size() - 1] = options_.embed_dim;
  return to_format(codes_of(bits_of(group_indices, options_.group_size).reshape(s)));
}

Tensor BinarySphericalQuantizer::pack_bits(const Tensor& indices) const {
  const int64_t d = options_.embed_dim;
  DROPIN_CHECK(d <= 63 && indices.dtype() == kInt64, DTypeError, who(), ": pack_bits: indices are ",
               indices.dtype(), " of ", d, " bits, expected int64 of at most 63");
  const std::vector<int64_t> all = indices.to_vector<int64_t>();
  Tensor bytes = zeros({ceil_div(static_cast<int64_t>(all.size()) * d, 8)}, kUInt8);
  auto* out = bytes.data<std::uint8_t>();
  int64_t place = 0;
  for (const int64_t v : all)
    for (int64_t i = d - 1; i >= 0; --i, ++place)
      if (v >> i & 1) out[place / 8] |= static_cast<std::uint8_t>(0x80 >> place % 8);
  return bytes;
}

Tensor BinarySphericalQuantizer::unpack_bits(const Tensor& bytes_, int64_t n) const {
  const int64_t d = options_.embed_dim;
  DROPIN_CHECK(bytes_.dtype() == kUInt8 && bytes_.dim() == 1 && d <= 63 && n >= 0 &&
                   bytes_.numel() == ceil_div(n * d, 8),
               ShapeError, who(), ": unpack_bits: bytes are ", bytes_.dtype(), " ", bytes_.sizes(),
               ", expected uint8 [", ceil_div(n * d, 8), "]");
  const Tensor bytes = bytes_.to(Device{}).contiguous();
  const auto* in = bytes.data<std::uint8_t>();
  std::vector<int64_t> all(at(n));
  int64_t place = 0;
  for (int64_t& v : all)
    for (int64_t i = 0; i < d; ++i, ++place) v = v << 1 | (in[place / 8] >> (7 - place % 8) & 1);
  return tensor(all, {n});
}

int64_t BinarySphericalQuantizer::usage(const Tensor& indices) {
  std::vector<int64_t> all = indices.to_vector<int64_t>();
  std::sort(all.begin(), all.end());
  return std::unique(all.begin(), all.end()) - all.begin();
}

}  // namespace dropin
