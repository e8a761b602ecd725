// The scene of instance_masks.cpp: ellipses of three classes, and candidates as a detector would
// give them.
#pragma once
#include <cmath>
#include <vector>

#include "dropin/ops/ops.h"
#include "picture.h"

namespace example {

using namespace dropin;

constexpr int kSize = 440;  // of the picture
constexpr int kMap = 110;   // of the prototypes
constexpr int64_t kKindCount = 3, kEach = 40,
                  kNoise = 60;  // classes; candidates per object; candidates of nothing

// All in shares of the picture; angle in radians.
struct Ellipse {
  double x, y, a, b, angle;
  int kind;
  // Six numbers q with q . (1, x, y, x^2, xy, y^2) = 1 on the middle, 0 on the border, negative
  // outside.
  std::vector<double> quadratic() const {
    const double c = std::cos(angle), s = std::sin(angle), u = c * c / (a * a) + s * s / (b * b),
                 v = 2 * c * s * (1 / (a * a) - 1 / (b * b)), w = s * s / (a * a) + c * c / (b * b);
    return {
        1 - u * x * x - v * x * y - w * y * y, 2 * u * x + v * y, v * x + 2 * w * y, -u, -v, -w};
  }
  double inside(double px, double py) const {
    const auto q = quadratic();
    return q[0] + q[1] * px + q[2] * py + q[3] * px * px + q[4] * px * py + q[5] * py * py;
  }
  std::vector<double> box() const {
    const double w = std::hypot(a * std::cos(angle), b * std::sin(angle)),
                 h = std::hypot(a * std::sin(angle), b * std::cos(angle));
    return {x - w, y - h, x + w, y + h};
  }
};

inline const std::vector<Ellipse> kObjects = {
    {0.22, 0.25, 0.15, 0.09, 0.5, 0},  {0.62, 0.20, 0.08, 0.14, 0.2, 1},
    {0.83, 0.42, 0.12, 0.10, -0.6, 2}, {0.30, 0.66, 0.20, 0.08, -0.4, 1},
    {0.43, 0.75, 0.09, 0.15, 0.1, 0},  {0.74, 0.77, 0.16, 0.10, 0.9, 2},
    {0.98, 0.95, 0.12, 0.12, 0.0, 0}};
inline const Color kKinds[] = {{214, 69, 65}, {40, 124, 196}, {46, 154, 87}};

inline Picture background() {
  Picture p(kSize, kSize);
  for (int y = 0; y < kSize; ++y)
    for (int x = 0; x < kSize; ++x) {
      const double px = (x + 0.5) / kSize, py = (y + 0.5) / kSize;
      const auto sky =
          static_cast<std::uint8_t>(225 - 60 * py + 6 * std::sin(37 * px) * std::sin(29 * py));
      p.at(x, y) = {sky, sky, static_cast<std::uint8_t>(sky + 8)};
      for (const Ellipse& e : kObjects) {
        const double d = e.inside(px, py);
        if (d > 0) {
          const auto grey = static_cast<std::uint8_t>(95 + 70 * d);
          p.at(x, y) = {grey, grey, grey};
        }
      }
    }
  return p;
}

/// For each object boxes that are a little off, better ones with better scores; some noise that no
/// class likes.
struct Candidates {
  int64_t count;
  std::vector<double> boxes, scores, coefficients;  ///< [count, 4], [classes, count], [count, 6]
};
inline Candidates make_candidates() {
  const int64_t count = kEach * static_cast<int64_t>(kObjects.size()) + kNoise;
  Candidates c{
      count, {}, std::vector<double>(static_cast<std::size_t>(kKindCount * count), 0.01), {}};
  Generator random(7);
  const std::vector<double> shake = randn({count, 5}, kFloat64, &random).to_vector();
  for (int64_t n = 0; n < count; ++n) {
    const double* r = shake.data() + 5 * n;
    const bool real = n < count - kNoise;
    const Ellipse object = real ? kObjects[static_cast<std::size_t>(n / kEach)]
                                : Ellipse{0.5 + 0.25 * r[0], 0.5 + 0.25 * r[1], 0.05, 0.05, 0, 0};
    const std::vector<double> box = object.box();
    double off = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      const double size = box[2 + k % 2] - box[k % 2], step = real ? 0.035 * r[k] : 0;
      off += std::abs(step);
      c.boxes.push_back(box[k] + step * size);
    }
    for (const double q : object.quadratic())
      c.coefficients.push_back(8 * q);  // 8: how sharp the border is
    if (real)
      c.scores[static_cast<std::size_t>(object.kind * count + n)] =
          0.95 * std::exp(-4 * off) + 0.04 * std::abs(std::fmod(r[4], 1.0));
  }
  return c;
}

}  // namespace example
