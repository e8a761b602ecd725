#include "dropin/data/transforms.h"

#include <algorithm>
#include <cmath>

#include "dropin/ops/elementwise.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/hd.h"

namespace dropin::transforms {

namespace {

struct Side {
  int64_t h, w;
};

Side side_of(const char* who, const Tensor& image) {
  DROPIN_CHECK(image.dim() >= 3 && image.numel() > 0, ShapeError, who, ": image is ", image.sizes(),
               ", expected [..., C, H, W]");
  DROPIN_CHECK(image.dtype() == kUInt8 || is_floating(image.dtype()), DTypeError, who,
               ": image is ", image.dtype(), ", expected uint8 or floats");
  return {image.size(-2), image.size(-1)};
}

Side square_or_both(const char* who, const std::vector<int64_t>& size) {
  DROPIN_CHECK(size.size() == 1 || size.size() == 2, OptionError, who, ": size has ",
               static_cast<int64_t>(size.size()), " numbers, expected {h, w} or one");
  for (const int64_t s : size)
    DROPIN_CHECK(s > 0, OptionError, who, ": size is ", s, ", expected a positive number");
  return {size[0], size.back()};
}

void check_probability(const char* who, double p) {
  DROPIN_CHECK(p >= 0 && p <= 1, OptionError, who, ": p is ", p, ", expected 0 to 1");
}
void check_interpolation(const char* who, const std::string& mode) {
  DROPIN_CHECK(mode == "nearest" || mode == "bilinear" || mode == "bicubic", OptionError, who,
               ": interpolation is \"", mode, "\", expected nearest, bilinear or bicubic");
}

double draw() { return rand({1}, kFloat64).item(); }
int64_t draw_below(int64_t end) { return randint(0, end, {1}).item<int64_t>(); }

// --- resampling along one dimension

// Each cell of the result: the first cell of the source that it takes, and weights from there on.
struct Taps {
  std::vector<int64_t> first;
  std::vector<std::vector<float>> weights;
};

double filter(const std::string& mode, bool antialias, double x) {
  x = std::abs(x);
  if (mode == "bilinear") return x < 1 ? 1 - x : 0;
  const double a = antialias ? -0.5 : -0.75;  // as Pillow, and as torch without antialias
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

Taps taps_of(int64_t from, int64_t to, const std::string& mode, bool antialias) {
  Taps t;
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double wide = antialias ? std::max(scale, 1.0) : 1.0,
               reach = (mode == "bilinear" ? 1 : 2) * wide;
  for (int64_t i = 0; i < to; ++i) {
    if (mode == "nearest") {
      t.first.push_back(
          std::min(static_cast<int64_t>(std::floor(static_cast<double>(i) * scale)), from - 1));
      t.weights.push_back({1});
      continue;
    }
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const auto first = static_cast<int64_t>(std::floor(centre - reach + 0.5)),
               end = static_cast<int64_t>(std::floor(centre + reach + 0.5));
    // what lies outside: left out with antialias, else the edge's
    const int64_t low = std::clamp<int64_t>(first, 0, from - 1),
                  high = std::clamp<int64_t>(end, low + 1, from);
    std::vector<double> w(at(high - low));
    double sum = 0;
    for (int64_t j = first; j < end; ++j) {
      const double v = filter(mode, antialias, (static_cast<double>(j) + 0.5 - centre) / wide);
      if (antialias && (j < low || j >= high)) continue;
      w[at(std::clamp(j, low, high - 1) - low)] += v;
      sum += v;
    }
    t.first.push_back(low);
    t.weights.emplace_back();
    for (const double v : w) t.weights.back().push_back(static_cast<float>(v / sum));
  }
  return t;
}

// [outer, from, inner] -> [outer, to, inner].
Tensor resampled(const Tensor& x, const Taps& t) {
  const int64_t outer = x.size(0), from = x.size(1), inner = x.size(2),
                to = static_cast<int64_t>(t.first.size());
  Tensor y = zeros({outer, to, inner});
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < to; ++i) {
      float* out = y.data<float>() + (o * to + i) * inner;
      const auto& weights = t.weights[at(i)];
      for (std::size_t k = 0; k < weights.size(); ++k) {
        const float* in =
            x.data<float>() + (o * from + t.first[at(i)] + static_cast<int64_t>(k)) * inner;
        for (int64_t j = 0; j < inner; ++j) out[j] += weights[k] * in[j];
      }
    }
  return y;
}

Tensor resized(const Tensor& image, Side to, const std::string& mode, bool antialias) {
  const int64_t h = image.size(-2), w = image.size(-1);
  if (h == to.h && w == to.w) return image;
  const int64_t planes = image.numel() / (h * w);
  no_grad guard;
  Tensor x = image.to(kFloat32, kCPU).reshape({planes, h, w}).contiguous();
  if (w != to.w)
    x = resampled(x.reshape({planes * h, w, 1}), taps_of(w, to.w, mode, antialias))
            .reshape({planes, h, to.w});
  if (h != to.h) x = resampled(x, taps_of(h, to.h, mode, antialias));
  if (image.dtype() == kUInt8) x = clamp(round(x), 0, 255);
  Shape sizes = image.sizes();
  sizes[sizes.size() - 2] = to.h;
  sizes[sizes.size() - 1] = to.w;
  return x.to(image.dtype()).reshape(sizes).to(image.device());
}

Tensor part(const Tensor& image, int64_t top, int64_t left, Side size) {
  return image.narrow(-2, top, size.h).narrow(-1, left, size.w);
}

}  // namespace

Compose::Compose(std::vector<Transform> transforms) : transforms_(std::move(transforms)) {
  for (const Transform& t : transforms_)
    DROPIN_CHECK(t, OptionError, "Compose: a transform is empty, expected a function");
}
Tensor Compose::operator()(const Tensor& image) const {
  Tensor x = image;
  for (const Transform& t : transforms_) x = t(x);
  return x;
}

Resize::Resize(std::vector<int64_t> size, const ResizeOptions& o)
    : size_(std::move(size)), options_(o) {
  square_or_both("Resize", size_);
  check_interpolation("Resize", o.interpolation);
  DROPIN_CHECK(o.max_size == 0 || (size_.size() == 1 && o.max_size > size_[0]), OptionError,
               "Resize: max_size is ", o.max_size, ", expected 0, or above the one number of size");
}
Tensor Resize::operator()(const Tensor& image) const {
  const Side from = side_of("Resize", image);
  Side to{size_[0], size_.back()};
  if (size_.size() == 1) {
    const int64_t shorter = std::min(from.h, from.w), longer = std::max(from.h, from.w);
    int64_t s = size_[0], l = s * longer / shorter;
    if (options_.max_size && l > options_.max_size) {
      s = options_.max_size * s / l;
      l = options_.max_size;
    }
    s = std::max<int64_t>(s, 1);
    to = from.h <= from.w ? Side{s, l} : Side{l, s};
  }
  return resized(image, to, options_.interpolation, options_.antialias);
}

Pad::Pad(std::vector<int64_t> padding, double fill) : padding_(std::move(padding)), fill_(fill) {
  const std::size_t n = padding_.size();
  DROPIN_CHECK(n == 1 || n == 2 || n == 4, OptionError, "Pad: padding has ",
               static_cast<int64_t>(n), " numbers, expected 1, 2 or 4");
  for (const int64_t p : padding_)
    DROPIN_CHECK(p >= 0, OptionError, "Pad: padding is ", p, ", expected 0 or more");
}
Tensor Pad::operator()(const Tensor& image) const {
  side_of("Pad", image);
  const std::size_t n = padding_.size();
  const int64_t left = padding_[0], top = n == 1 ? left : padding_[1],
                right = n == 4 ? padding_[2] : left, bottom = n == 4 ? padding_[3] : top;
  Shape sizes = image.sizes();
  sizes[sizes.size() - 2] += top + bottom;
  sizes[sizes.size() - 1] += left + right;
  no_grad guard;
  Tensor y = full(sizes, fill_, image.options());
  part(y, top, left, {image.size(-2), image.size(-1)}).copy_(image);
  return y;
}

CenterCrop::CenterCrop(std::vector<int64_t> size) : size_(std::move(size)) {
  square_or_both("CenterCrop", size_);
}
Tensor CenterCrop::operator()(const Tensor& image) const {
  const Side to{size_[0], size_.back()};
  Side from = side_of("CenterCrop", image);
  Tensor x = image;
  if (to.h > from.h || to.w > from.w) {
    const int64_t h = std::max<int64_t>(to.h - from.h, 0), w = std::max<int64_t>(to.w - from.w, 0);
    x = Pad({w / 2, h / 2, (w + 1) / 2, (h + 1) / 2})(x);
    from = {x.size(-2), x.size(-1)};
  }
  auto begin = [](int64_t all, int64_t wanted) {  // halves to even, as Python rounds
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(all - wanted) / 2));
  };
  return part(x, begin(from.h, to.h), begin(from.w, to.w), to);
}

RandomCrop::RandomCrop(std::vector<int64_t> size, const RandomCropOptions& o)
    : size_(std::move(size)), options_(o) {
  square_or_both("RandomCrop", size_);
  if (!o.padding.empty()) Pad(o.padding, o.fill);
}
Tensor RandomCrop::operator()(const Tensor& image) const {
  const Side to{size_[0], size_.back()};
  side_of("RandomCrop", image);
  Tensor x = options_.padding.empty() ? image : Pad(options_.padding, options_.fill)(image);
  if (options_.pad_if_needed)
    x = Pad({std::max<int64_t>(to.w - x.size(-1), 0), std::max<int64_t>(to.h - x.size(-2), 0)},
            options_.fill)(x);
  const int64_t h = x.size(-2), w = x.size(-1);
  DROPIN_CHECK(h >= to.h && w >= to.w, OptionError, "RandomCrop: the image is ", h, " x ", w,
               " with its padding, expected at least ", to.h, " x ", to.w, "; or pad_if_needed");
  return part(x, draw_below(h - to.h + 1), draw_below(w - to.w + 1), to);
}

RandomResizedCrop::RandomResizedCrop(std::vector<int64_t> size, const RandomResizedCropOptions& o)
    : size_(std::move(size)), options_(o) {
  constexpr const char* kWho = "RandomResizedCrop";
  square_or_both(kWho, size_);
  check_interpolation(kWho, o.interpolation);
  for (const auto& [name, range] : {std::pair{"scale", &o.scale}, {"ratio", &o.ratio}})
    DROPIN_CHECK(range->size() == 2 && (*range)[0] > 0 && (*range)[0] <= (*range)[1], OptionError,
                 kWho, ": ", name, " expected {least, greatest} above 0");
}
Tensor RandomResizedCrop::operator()(const Tensor& image) const {
  const Side from = side_of("RandomResizedCrop", image), to{size_[0], size_.back()};
  const auto area = static_cast<double>(from.h * from.w);
  const double low = std::log(options_.ratio[0]), high = std::log(options_.ratio[1]);
  Side s = from;
  bool found = false;
  for (int i = 0; i < 10 && !found; ++i) {
    const double part_of = options_.scale[0] + draw() * (options_.scale[1] - options_.scale[0]),
                 shape = std::exp(low + draw() * (high - low));
    s = {static_cast<int64_t>(std::nearbyint(std::sqrt(area * part_of / shape))),
         static_cast<int64_t>(std::nearbyint(std::sqrt(area * part_of * shape)))};
    found = s.h > 0 && s.w > 0 && s.h <= from.h && s.w <= from.w;
  }
  Tensor x;
  if (found) {
    x = part(image, draw_below(from.h - s.h + 1), draw_below(from.w - s.w + 1), s);
  } else {  // the middle, of a shape as near as may be
    const double shape = static_cast<double>(from.w) / static_cast<double>(from.h);
    s = from;
    if (shape < options_.ratio[0])
      s.h = static_cast<int64_t>(std::nearbyint(static_cast<double>(s.w) / options_.ratio[0]));
    if (shape > options_.ratio[1])
      s.w = static_cast<int64_t>(std::nearbyint(static_cast<double>(s.h) * options_.ratio[1]));
    x = part(image, (from.h - s.h) / 2, (from.w - s.w) / 2, s);
  }
  return resized(x, to, options_.interpolation, options_.antialias);
}

RandomHorizontalFlip::RandomHorizontalFlip(double p) : p_(p) {
  check_probability("RandomHorizontalFlip", p);
}
Tensor RandomHorizontalFlip::operator()(const Tensor& image) const {
  side_of("RandomHorizontalFlip", image);
  return draw() < p_ ? flip(image, {-1}) : image;
}
RandomVerticalFlip::RandomVerticalFlip(double p) : p_(p) {
  check_probability("RandomVerticalFlip", p);
}
Tensor RandomVerticalFlip::operator()(const Tensor& image) const {
  side_of("RandomVerticalFlip", image);
  return draw() < p_ ? flip(image, {-2}) : image;
}

ToDtype::ToDtype(DType dtype, bool scale) : dtype_(dtype), scale_(scale) {
  DROPIN_CHECK(!scale || dtype == kUInt8 || is_floating(dtype), OptionError, "ToDtype: scale to ",
               dtype, ", expected uint8 or floats");
}
Tensor ToDtype::operator()(const Tensor& image) const {
  side_of("ToDtype", image);
  if (!scale_ || is_floating(image.dtype()) == is_floating(dtype_)) return image.to(dtype_);
  if (is_floating(dtype_)) return image.to(dtype_) / 255;
  return (image * (256 - 1e-3)).to(dtype_);
}

Normalize::Normalize(std::vector<double> mean, std::vector<double> std)
    : mean_(std::move(mean)), std_(std::move(std)) {
  DROPIN_CHECK(!mean_.empty() && mean_.size() == std_.size(), OptionError,
               "Normalize: ", static_cast<int64_t>(mean_.size()), " means and ",
               static_cast<int64_t>(std_.size()),
               " standard deviations, expected one of each per channel");
  for (const double s : std_)
    DROPIN_CHECK(s != 0, OptionError, "Normalize: std holds 0, expected other numbers");
}
Tensor Normalize::operator()(const Tensor& image) const {
  side_of("Normalize", image);
  const auto channels = static_cast<int64_t>(mean_.size());
  DROPIN_CHECK(is_floating(image.dtype()), DTypeError, "Normalize: image is ", image.dtype(),
               ", expected floats; ToDtype(kFloat32, true) before makes them");
  DROPIN_CHECK(image.size(-3) == channels || channels == 1, ShapeError, "Normalize: image is ",
               image.sizes(), ", expected ", channels, " channels");
  auto of = [&](const std::vector<double>& v) {
    return tensor(v, {channels, 1, 1}, image.options());
  };
  return (image - of(mean_)) / of(std_);
}

Grayscale::Grayscale(int64_t num_output_channels) : channels_(num_output_channels) {
  DROPIN_CHECK(channels_ == 1 || channels_ == 3, OptionError, "Grayscale: num_output_channels is ",
               channels_, ", expected 1 or 3");
}
Tensor Grayscale::operator()(const Tensor& image) const {
  side_of("Grayscale", image);
  const int64_t from = image.size(-3);
  DROPIN_CHECK(from == 1 || from == 3, ShapeError, "Grayscale: image is ", image.sizes(),
               ", expected 1 or 3 channels");
  Tensor gray = image;
  if (from == 3) {
    auto channel = [&](int64_t c) { return image.narrow(-3, c, 1).to(kFloat32); };
    gray = (channel(0) * 0.2989 + channel(1) * 0.587 + channel(2) * 0.114).to(image.dtype());
  }
  if (channels_ == 1) return gray;
  Shape sizes = gray.sizes();
  sizes[sizes.size() - 3] = 3;
  return gray.expand(sizes).contiguous();
}

}  // namespace dropin::transforms
