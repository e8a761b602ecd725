// From crowded candidates to instance masks, YOLACT's way, on a scene made up here: ellipses of three classes, each found many times by boxes that are a little off.
// fast_nms keeps one box per object; yolact_masks turns six shared prototypes and a few coefficients per box into its mask. The picture shows all candidates on the left
// and the kept boxes with their masks on the right:   example_instance_masks [file.png]
// Exit 0 when every object is found once and its mask overlaps the true one by more than 0.8.
#include <cmath>
#include <cstdio>
#include <exception>

#include "dropin/vision/boxes.h"
#include "dropin/vision/masks.h"
#include "dropin/vision/suppression.h"
#include "png.h"

namespace {

using namespace dropin;
using example::Color;
using example::Picture;

constexpr int kSize = 440;  // of the picture
constexpr int kMap = 110;   // of the prototypes

// All in shares of the picture; angle in radians.
struct Ellipse {
  double x, y, a, b, angle;
  int kind;
  // Six numbers q with q . (1, x, y, x^2, xy, y^2) = 1 on the middle, 0 on the border, negative outside.
  std::vector<double> quadratic() const {
    const double c = std::cos(angle), s = std::sin(angle), u = c * c / (a * a) + s * s / (b * b), v = 2 * c * s * (1 / (a * a) - 1 / (b * b)), w = s * s / (a * a) + c * c / (b * b);
    return {1 - u * x * x - v * x * y - w * y * y, 2 * u * x + v * y, v * x + 2 * w * y, -u, -v, -w};
  }
  double inside(double px, double py) const {
    const auto q = quadratic();
    return q[0] + q[1] * px + q[2] * py + q[3] * px * px + q[4] * px * py + q[5] * py * py;
  }
  std::vector<double> box() const {
    const double w = std::hypot(a * std::cos(angle), b * std::sin(angle)), h = std::hypot(a * std::sin(angle), b * std::cos(angle));
    return {x - w, y - h, x + w, y + h};
  }
};

const std::vector<Ellipse> kObjects = {{0.22, 0.25, 0.15, 0.09, 0.5, 0},  {0.62, 0.20, 0.08, 0.14, 0.2, 1}, {0.83, 0.42, 0.12, 0.10, -0.6, 2}, {0.30, 0.66, 0.20, 0.08, -0.4, 1},
                                       {0.43, 0.75, 0.09, 0.15, 0.1, 0}, {0.74, 0.77, 0.16, 0.10, 0.9, 2},  {0.98, 0.95, 0.12, 0.12, 0.0, 0}};
const Color kKinds[] = {{214, 69, 65}, {40, 124, 196}, {46, 154, 87}};

Picture background() {
  Picture p(kSize, kSize);
  for (int y = 0; y < kSize; ++y)
    for (int x = 0; x < kSize; ++x) {
      const double px = (x + 0.5) / kSize, py = (y + 0.5) / kSize;
      const auto sky = static_cast<std::uint8_t>(225 - 60 * py + 6 * std::sin(37 * px) * std::sin(29 * py));
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

int run(const std::string& path) {
  // Candidates: for each object boxes that are a little off, better ones with better scores; some noise that no class likes.
  const std::int64_t each = 40, noise = 60, kinds = 3, count = each * static_cast<std::int64_t>(kObjects.size()) + noise;
  Generator random(7);
  const std::vector<double> shake = randn({count, 5}, kFloat64, &random).to_vector();
  std::vector<double> boxes, scores(static_cast<std::size_t>(kinds * count), 0.01), coefficients;
  for (std::int64_t n = 0; n < count; ++n) {
    const double* r = shake.data() + 5 * n;
    const bool real = n < count - noise;
    const Ellipse object = real ? kObjects[static_cast<std::size_t>(n / each)] : Ellipse{0.5 + 0.25 * r[0], 0.5 + 0.25 * r[1], 0.05, 0.05, 0, 0};
    const std::vector<double> box = object.box();
    double off = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      const double size = box[2 + k % 2] - box[k % 2], step = real ? 0.035 * r[k] : 0;
      off += std::abs(step);
      boxes.push_back(box[k] + step * size);
    }
    for (const double q : object.quadratic()) coefficients.push_back(8 * q);  // 8: how sharp the border is
    if (real) scores[static_cast<std::size_t>(object.kind * count + n)] = 0.95 * std::exp(-4 * off) + 0.04 * std::abs(std::fmod(r[4], 1.0));
  }
  const Tensor candidates = tensor(boxes, {count, 4});
  const Detections found = fast_nms(candidates, tensor(scores, {kinds, count}), {.iou_threshold = 0.5, .conf_threshold = 0.1, .second_threshold = true});

  // Prototypes 1, x, y, x^2, xy, y^2 over the picture: any ellipse is a sigmoid of their combination.
  const Tensor line = (arange(0, kMap, 1, kFloat32) + 0.5) / kMap, x = line.expand({kMap, kMap}), y = line.unsqueeze(1).expand({kMap, kMap});
  const Tensor prototypes = stack({ones({kMap, kMap}), x, y, x * x, x * y, y * y});
  const Tensor kept = index_select(candidates, 0, found.indices);
  const Tensor masks = yolact_masks(prototypes, index_select(tensor(coefficients, {count, 6}), 0, found.indices), kept, {.out_height = kSize, .out_width = kSize, .binarize = true});

  Picture left = background(), picture(2 * kSize + 10, kSize);
  for (std::int64_t n = 0; n < count; ++n) {
    const auto b = boxes_to_pixels(candidates.narrow(0, n, 1), kSize, kSize).to_vector<int>();
    left.outline(b[0], b[1], b[2], b[3], n < count - noise ? kKinds[kObjects[static_cast<std::size_t>(n / each)].kind] : Color{90, 90, 90}, 1, 0.35);
  }
  Picture right = background();
  const auto labels = found.classes.to_vector<int>();
  const auto quality = found.scores.to_vector();
  std::vector<int> seen(kObjects.size());
  bool good = true;
  std::printf("%lld candidates, %lld kept\n", static_cast<long long>(count), static_cast<long long>(found.indices.size(0)));
  for (std::int64_t n = 0; n < found.indices.size(0); ++n) {
    const Color color = kKinds[labels[static_cast<std::size_t>(n)]];
    const auto b = boxes_to_pixels(kept.narrow(0, n, 1), kSize, kSize).to_vector<int>();
    const Tensor one = masks[n].contiguous();
    const std::uint8_t* m = one.data<std::uint8_t>();
    const std::int64_t index = found.indices.to_vector<std::int64_t>()[static_cast<std::size_t>(n)];
    const std::size_t object = static_cast<std::size_t>(index / each);
    double both = 0, either = 0;
    for (int py = 0; py < kSize; ++py)
      for (int px = 0; px < kSize; ++px) {
        const bool on = m[py * kSize + px], truth = object < kObjects.size() && kObjects[object].inside((px + 0.5) / kSize, (py + 0.5) / kSize) > 0;
        both += on && truth, either += on || truth;
        if (on) right.blend(px, py, color, 0.6);
      }
    right.outline(b[0], b[1], b[2], b[3], color, 2);
    const double overlap = either > 0 ? both / either : 0;
    std::printf("  class %d  score %.3f  box %3d %3d %3d %3d  mask IoU with the truth %.3f\n", labels[static_cast<std::size_t>(n)], quality[static_cast<std::size_t>(n)], b[0], b[1], b[2], b[3], overlap);
    good = good && object < kObjects.size() && ++seen[object] == 1 && overlap > 0.8 && labels[static_cast<std::size_t>(n)] == kObjects[object].kind;
  }
  for (const int s : seen) good = good && s == 1;
  for (int py = 0; py < kSize; ++py)
    for (int px = 0; px < kSize; ++px) picture.at(px, py) = left.at(px, py), picture.at(px + kSize + 10, py) = right.at(px, py);
  example::write_png(path, picture);
  std::printf("%s: %s\n", path.c_str(), good ? "every object once" : "an object is missing, doubled or badly masked");
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? argv[1] : "instance_masks.png");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "instance_masks: %s\n", e.what());
    return 2;
  }
}
