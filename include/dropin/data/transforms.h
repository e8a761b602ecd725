// Transforms of pictures (torchvision.transforms.v2): tensors [..., C, H, W], uint8 or floating.
#pragma once
#include <array>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dropin/tensor/tensor.h"

/// Random ones draw from the calling thread's default generator, so within a Dataset's get() they
/// are the same for the same DataLoader's generator, whatever the number of workers. Sizes are {h,
/// w}; {s} is a square, but for Resize. OptionError where options do not fit, ShapeError and
/// DTypeError for what is no picture.
namespace dropin::transforms {

using Transform = std::function<Tensor(const Tensor&)>;

/// One after the other.
class Compose {
 public:
  explicit Compose(std::vector<Transform> transforms);
  Tensor operator()(const Tensor& image) const;

 private:
  std::vector<Transform> transforms_;
};

struct ResizeOptions {
  std::string interpolation = "bilinear";  ///< nearest, bilinear, bicubic
  int64_t max_size = 0;   ///< with one number: the longer side is at most this; 0: any
  bool antialias = true;  ///< bilinear, bicubic: averages over what a cell covers when shrinking
};
/// To {h, w}; {s}: the shorter side becomes s. uint8 is rounded once, and kept in 0
/// to 255 (within 1 of torchvision's, which rounds between the two passes as well).
class Resize {
 public:
  explicit Resize(std::vector<int64_t> size, const ResizeOptions& o = {});
  Tensor operator()(const Tensor& image) const;

 private:
  std::vector<int64_t> size_;
  ResizeOptions options_;
};

/// Edges added: {all}, {left and right, top and bottom} or {left, top, right, bottom}, filled.
class Pad {
 public:
  explicit Pad(std::vector<int64_t> padding, double fill = 0);
  Tensor operator()(const Tensor& image) const;

 private:
  std::vector<int64_t> padding_;
  double fill_;
};

/// The middle; what is smaller is padded with 0 first.
class CenterCrop {
 public:
  explicit CenterCrop(std::vector<int64_t> size);
  Tensor operator()(const Tensor& image) const;

 private:
  std::vector<int64_t> size_;
};

struct RandomCropOptions {
  std::vector<int64_t> padding = {};  ///< as Pad, before
  bool pad_if_needed = false;         ///< pads what is smaller than the crop on both sides
  double fill = 0;
};
/// A place for each of which is as likely. OptionError for a picture that is too small.
class RandomCrop {
 public:
  explicit RandomCrop(std::vector<int64_t> size, const RandomCropOptions& o = {});
  Tensor operator()(const Tensor& image) const;

 private:
  std::vector<int64_t> size_;
  RandomCropOptions options_;
};

struct RandomResizedCropOptions {
  std::vector<double> scale = {0.08, 1};         ///< share of the area
  std::vector<double> ratio = {3. / 4, 4. / 3};  ///< width over height
  std::string interpolation = "bilinear";
  bool antialias = true;
};
/// A part of random area and shape, resized.
class RandomResizedCrop {
 public:
  explicit RandomResizedCrop(std::vector<int64_t> size, const RandomResizedCropOptions& o = {});
  Tensor operator()(const Tensor& image) const;

 private:
  std::vector<int64_t> size_;
  RandomResizedCropOptions options_;
};

/// Left and right changed, with probability p.
class RandomHorizontalFlip {
 public:
  explicit RandomHorizontalFlip(double p = 0.5);
  Tensor operator()(const Tensor& image) const;

 private:
  double p_;
};
/// Top and bottom changed, with probability p.
class RandomVerticalFlip {
 public:
  explicit RandomVerticalFlip(double p = 0.5);
  Tensor operator()(const Tensor& image) const;

 private:
  double p_;
};

/// Another dtype; scale: 0 to 255 of uint8 becomes 0 to 1 of floats, and back (times 255.999,
/// rounded down).
class ToDtype {
 public:
  explicit ToDtype(DType dtype, bool scale = false);
  Tensor operator()(const Tensor& image) const;

 private:
  DType dtype_;
  bool scale_;
};

/// ToDtype with scale, by its older name.
class ConvertImageDtype : public ToDtype {
 public:
  explicit ConvertImageDtype(DType dtype = kFloat32) : ToDtype(dtype, true) {}
};

/// (x - mean) / std per channel, of floats.
class Normalize {
 public:
  Normalize(std::vector<double> mean, std::vector<double> std);
  Tensor operator()(const Tensor& image) const;

 private:
  std::vector<double> mean_, std_;
};

/// 0.2989 R + 0.587 G + 0.114 B, in 1 or 3 equal channels. uint8 is rounded down.
class Grayscale {
 public:
  explicit Grayscale(int64_t num_output_channels = 1);
  Tensor operator()(const Tensor& image) const;

 private:
  int64_t channels_;
};

/// Colors of pictures with 1 or 3 channels, uint8 (rounded down) or floats from 0 to 1; results
/// stay within. Brightness: times the factor. Contrast: away from the mean gray, or to it below 1.
/// Saturation: away from each pixel's gray, or to it. Hue: by factor of the circle, -0.5 to 0.5.
/// With one channel the last two change nothing.
Tensor adjust_brightness(const Tensor& image, double factor);
Tensor adjust_contrast(const Tensor& image, double factor);
Tensor adjust_saturation(const Tensor& image, double factor);
Tensor adjust_hue(const Tensor& image, double factor);

/// Nothing, one number or {least, greatest}.
class JitterRange {
 public:
  JitterRange() = default;
  JitterRange(double number) : greatest_(number), numbers_(1) {}
  JitterRange(double least, double greatest) : least_(least), greatest_(greatest), numbers_(2) {}
  bool given() const { return numbers_ > 0; }
  bool one_number() const { return numbers_ == 1; }
  double least() const { return least_; }
  double greatest() const { return greatest_; }

 private:
  double least_ = 0, greatest_ = 0;
  int numbers_ = 0;
};
struct ColorJitterOptions {
  /// One number v: a factor from max(0, 1 - v) to 1 + v.
  JitterRange brightness = {}, contrast = {}, saturation = {};
  JitterRange hue = {};  ///< one number v: -v to v; within -0.5 to 0.5
};
/// The four in random order, each with a factor drawn evenly from its range.
class ColorJitter {
 public:
  explicit ColorJitter(const ColorJitterOptions& o);
  Tensor operator()(const Tensor& image) const;

 private:
  std::array<std::optional<std::pair<double, double>>, 4> ranges_;
};

}  // namespace dropin::transforms
