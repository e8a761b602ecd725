// From crowded candidates to instance masks, YOLACT's way, on a scene made up here: ellipses of
// three classes, each found many times by boxes that are a little off. fast_nms keeps one box per
// object; yolact_masks turns six shared prototypes and a few coefficients per box into its mask.
// The picture shows all candidates on the left and the kept boxes with their masks on the right:
// example_instance_masks [file.png] Exit 0 when every object is found once and its mask overlaps
// the true one by more than 0.8.
#include <cstdio>
#include <exception>

#include "dropin/data/image.h"
#include "dropin/detection/boxes.h"
#include "dropin/detection/masks.h"
#include "dropin/detection/suppression.h"
#include "scene.h"

namespace {

using namespace dropin;
using namespace example;

// Prototypes 1, x, y, x^2, xy, y^2 over the picture: any ellipse is a sigmoid of their combination.
Tensor prototypes() {
  const Tensor line = (arange(0, kMap, 1, kFloat32) + 0.5) / kMap, x = line.expand({kMap, kMap}),
               y = line.unsqueeze(1).expand({kMap, kMap});
  return stack({ones({kMap, kMap}), x, y, x * x, x * y, y * y});
}

// All candidates, faintly.
Picture drawn(const Tensor& candidates, int64_t count) {
  Picture left = background();
  for (int64_t n = 0; n < count; ++n) {
    const auto b = boxes_to_pixels(candidates.narrow(0, n, 1), kSize, kSize).to_vector<int>();
    left.outline(b[0], b[1], b[2], b[3],
                 n < count - kNoise ? kKinds[kObjects[static_cast<std::size_t>(n / kEach)].kind]
                                    : Color{90, 90, 90},
                 1, 0.35);
  }
  return left;
}

// Paints a mask and compares it with object `object`: intersection over union.
double painted(Picture& picture, const Tensor& mask, std::size_t object, const Color& color) {
  const Tensor one = mask.contiguous();
  const std::uint8_t* m = one.data<std::uint8_t>();
  double both = 0, either = 0;
  for (int py = 0; py < kSize; ++py)
    for (int px = 0; px < kSize; ++px) {
      const bool on = m[py * kSize + px],
                 truth = object < kObjects.size() &&
                         kObjects[object].inside((px + 0.5) / kSize, (py + 0.5) / kSize) > 0;
      both += on && truth, either += on || truth;
      if (on) picture.blend(px, py, color, 0.6);
    }
  return either > 0 ? both / either : 0;
}

int run(const std::string& path) {
  const Candidates c = make_candidates();
  const int64_t count = c.count;
  const Tensor candidates = tensor(c.boxes, {count, 4});
  const Detections found =
      fast_nms(candidates, tensor(c.scores, {kKindCount, count}),
               {.iou_threshold = 0.5, .conf_threshold = 0.1, .second_threshold = true});

  const Tensor kept = index_select(candidates, 0, found.indices);
  const Tensor masks =
      yolact_masks(prototypes(), index_select(tensor(c.coefficients, {count, 6}), 0, found.indices),
                   kept, {.out_height = kSize, .out_width = kSize, .binarize = true});

  Picture left = drawn(candidates, count);
  Picture picture(2 * kSize + 10, kSize);
  Picture right = background();
  const auto labels = found.classes.to_vector<int>();
  const auto quality = found.scores.to_vector();
  std::vector<int> seen(kObjects.size());
  bool good = true;
  std::printf("%lld candidates, %lld kept\n", static_cast<long long>(count),
              static_cast<long long>(found.indices.size(0)));
  for (int64_t n = 0; n < found.indices.size(0); ++n) {
    const Color color = kKinds[labels[static_cast<std::size_t>(n)]];
    const auto b = boxes_to_pixels(kept.narrow(0, n, 1), kSize, kSize).to_vector<int>();
    const int64_t index = found.indices.to_vector<int64_t>()[static_cast<std::size_t>(n)];
    const std::size_t object = static_cast<std::size_t>(index / kEach);
    const double overlap = painted(right, masks[n], object, color);
    right.outline(b[0], b[1], b[2], b[3], color, 2);
    std::printf("  class %d  score %.3f  box %3d %3d %3d %3d  mask IoU with the truth %.3f\n",
                labels[static_cast<std::size_t>(n)], quality[static_cast<std::size_t>(n)], b[0],
                b[1], b[2], b[3], overlap);
    good = good && object < kObjects.size() && ++seen[object] == 1 && overlap > 0.8 &&
           labels[static_cast<std::size_t>(n)] == kObjects[object].kind;
  }
  for (const int s : seen) good = good && s == 1;
  for (int py = 0; py < kSize; ++py)
    for (int px = 0; px < kSize; ++px)
      picture.at(px, py) = left.at(px, py), picture.at(px + kSize + 10, py) = right.at(px, py);
  try {
    write_png(path, as_tensor(picture));
  } catch (const StateError& e) {  // a build without libpng
    std::printf("no picture: %s\n", e.what());
  }
  std::printf("%s: %s\n", path.c_str(),
              good ? "every object once" : "an object is missing, doubled or badly masked");
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
