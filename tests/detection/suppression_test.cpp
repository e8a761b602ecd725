// Greedy suppression, of all boxes and within classes; what every rule refuses.
#include "dropin/detection/suppression.h"
#include "detection/scenes.h"
#include "dropin/core/parallel.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;

// The definitions, word by word.
std::vector<int64_t> plain_greedy(const std::vector<double>& boxes,
                                  const std::vector<double>& scores, double threshold) {
  std::vector<int64_t> kept;
  for (const int64_t j : sorted(scores)) {
    bool stays = true;
    for (const int64_t i : kept) stays = stays && !(iou(boxes, i, j) > threshold);
    if (stays) kept.push_back(j);
  }
  return kept;
}

TEST(Nms, KeepsWhatTheDefinitionKeepsIncludingTies) {
  for (const int64_t n : {1, 2, 15, 16, 17, 33, 200, 700})
    for (const double t : {0.0, 0.25, 1.0 / 3, 0.4, 0.5, 0.7, 1.0})
      for (std::uint64_t seed = 1; seed < 4; ++seed) {
        const Scene s = scene(n, 0, seed);
        const auto want = plain_greedy(s.boxes.to_vector(), s.scores.to_vector(), t);
        EXPECT_EQ(nms(s.boxes, s.scores, {.iou_threshold = t}).to_vector<int64_t>(), want)
            << n << " boxes, threshold " << t;
        EXPECT_EQ(nms(s.boxes.to(kFloat64), s.scores.to(kFloat64), {.iou_threshold = t})
                      .to_vector<int64_t>(),
                  want)
            << "float64";
      }
}

TEST(Nms, IsTheSameFarFromOneAndForAnyNumberOfThreads) {
  const Scene s = scene(300, 4, 5);
  const auto want = nms(s.boxes, s.scores[0]).to_vector<int64_t>();
  for (const int scale : {-60, -10, 40, 57})
    EXPECT_EQ(nms(s.boxes.to(kFloat64) * std::ldexp(1.0, scale), s.scores[0]).to_vector<int64_t>(),
              want)
        << scale;
  for (const int scale : {-10, 10, -60, -75, 30, 60})
    EXPECT_EQ(nms(s.boxes * std::ldexp(1.0, scale), s.scores[0]).to_vector<int64_t>(), want)
        << scale;
  const int before = get_num_threads();
  Tensor indices[3];
  for (const int threads : {1, 2, 5}) {
    set_num_threads(threads);
    indices[threads / 2] =
        fast_nms(s.boxes, s.scores, {.top_k = 0, .conf_threshold = 0, .max_detections = 0}).indices;
  }
  set_num_threads(before);
  EXPECT_EQ(indices[0].to_vector(), indices[1].to_vector());
  EXPECT_EQ(indices[0].to_vector(), indices[2].to_vector());
}

TEST(Nms, StrictlyGreaterSuppresses) {
  const Tensor b = boxes_of({0, 0, 2, 1, 1, 0, 3, 1, 0, 0, 3,
                             1});  // IoU of the first two: 1/3; of each with the third: 2/3
  const Tensor s = tensor({3, 2, 1});
  expect_values(nms(b, s, {.iou_threshold = 1.0 / 3}), {0, 1});
  expect_values(nms(b, s, {.iou_threshold = 0.33}), {0});
  expect_values(nms(b, s, {.iou_threshold = 0.67}), {0, 1, 2});
}

TEST(Nms, BoxesWithoutAreaOrNumbersSuppressNothing) {
  const Tensor b =
      boxes_of({0, 0, 4, 4, 0,    0, 4, 4, 1, 1, 1,    1, 1,     1,     1,    1,    4, 4, 0, 0,
                4, 4, 0, 0, kNan, 0, 4, 4, 0, 0, kInf, 4, -kInf, -kInf, kInf, kInf, 0, 4, 4, 0});
  const Tensor s = tensor({1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1});
  expect_values(nms(b, s), {0, 2, 3, 4, 5, 6, 7, 8, 9});
  expect_values(fast_nms(b, s.unsqueeze(0)).indices, {0, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(soft_nms(b, s).indices.size(0), 10);
  EXPECT_EQ(matrix_nms(b, s, zeros({10}, kInt64)).indices.size(0), 10);
}

TEST(BatchedNms, IsNmsWithinEachClass) {
  const Scene s = scene(250, 0, 8);
  Generator g(3);
  const Tensor idxs = randint(-2, 3, {250}, kInt64, &g);
  std::vector<int64_t> want;
  for (int c = -2; c < 3; ++c) {
    std::vector<double> b, p;
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < 250; ++i)
      if (idxs.to_vector()[static_cast<std::size_t>(i)] == c) {
        ids.push_back(i);
        for (int k = 0; k < 4; ++k)
          b.push_back(s.boxes[i].to_vector()[static_cast<std::size_t>(k)]);
        p.push_back(s.scores[i].item());
      }
    for (const int64_t k : plain_greedy(b, p, 0.5))
      want.push_back(ids[static_cast<std::size_t>(k)]);
  }
  std::sort(want.begin(), want.end());
  const auto scores = s.scores.to_vector();
  std::stable_sort(want.begin(), want.end(), [&](auto a, auto b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  EXPECT_EQ(batched_nms(s.boxes, s.scores, idxs).to_vector<int64_t>(), want);
}

TEST(Suppression, NoBoxesAndOneBox) {
  const Tensor none = zeros({0, 4}), nothing = zeros({0}), one = boxes_of({0, 0, 1, 1}),
               score = tensor({0.5});
  EXPECT_EQ(nms(none, nothing).sizes(), Shape{0});
  EXPECT_EQ(batched_nms(none, nothing, zeros({0}, kInt64)).sizes(), Shape{0});
  EXPECT_EQ(soft_nms(none, nothing).scores.sizes(), Shape{0});
  EXPECT_EQ(matrix_nms(none, nothing, zeros({0}, kInt64)).scores.sizes(), Shape{0});
  for (const int64_t classes : {0, 1, 80})
    EXPECT_EQ(fast_nms(none, zeros({classes, 0})).classes.sizes(), Shape{0});
  EXPECT_EQ(fast_nms(one, zeros({0, 1})).indices.sizes(), Shape{0});
  EXPECT_EQ(fast_nms(one, zeros({3, 1})).scores.sizes(), Shape{0});  // no candidate
  expect_values(nms(one, score), {0});
  expect_values(batched_nms(one, score, zeros({1}, kInt64)), {0});
  expect_values(soft_nms(one, score).scores, {0.5});
  expect_values(matrix_nms(one, score, zeros({1}, kInt64)).scores, {0.5});
  expect_values(fast_nms(one, score.unsqueeze(0)).scores, {0.5});
}

TEST(Suppression, RefusesWhatDoesNotFit) {
  const Tensor b = zeros({3, 4}), s = zeros({3}), i = zeros({3}, kInt64);
  EXPECT_ERROR(nms(zeros({3, 5}), s), ShapeError, "boxes is [3, 5], expected [N, 4]");
  EXPECT_ERROR(nms(b, zeros({2})), ShapeError, "scores is [2], expected [3]");
  EXPECT_ERROR(nms(b.to(kInt64), s), DTypeError, "boxes is int64");
  EXPECT_ERROR(nms(b, tensor({0.0, kNan, 0.0})), Error, "scores[1] is nan");
  EXPECT_ERROR(nms(b, s, {.iou_threshold = 1.5}), OptionError,
               "iou_threshold is 1.5, expected 0 to 1");
  EXPECT_ERROR(nms(b, s, {.iou_threshold = kNan}), OptionError, "iou_threshold");
  EXPECT_ERROR(batched_nms(b, s, s), DTypeError, "idxs is float32, expected int64");
  EXPECT_ERROR(batched_nms(b, s, zeros({4}, kInt64)), ShapeError, "idxs is [4]");
  EXPECT_ERROR(soft_nms(b, s, {}, {.method = "sharp"}), OptionError, "method is \"sharp\"");
  EXPECT_ERROR(soft_nms(b, s, {}, {.sigma = 0}), OptionError, "sigma is 0");
  EXPECT_ERROR(matrix_nms(b, s, i, {.kernel = "cubic"}), OptionError, "kernel is \"cubic\"");
  EXPECT_ERROR(matrix_nms(b, s, i, {.top_k = -1}), OptionError, "top_k is -1");
  EXPECT_ERROR(fast_nms(b, s), ShapeError, "scores is [3], expected [C, 3]");
  EXPECT_ERROR(fast_nms(b, zeros({2, 4})), ShapeError, "scores is [2, 4], expected [C, 3]");
  EXPECT_ERROR(fast_nms(b, zeros({2, 3}), {.max_detections = -2}), OptionError,
               "max_detections is -2");
  EXPECT_ERROR(fast_nms(b, zeros({2, 3}), {.conf_threshold = kNan}), OptionError,
               "conf_threshold is nan");
}

// torchvision 0.29 keeps 2, 2, ... in float64; in float32 it drops the second box where the
// threshold's float32 is above its float64 (.1 .2 .3 .4 .6 .8). Ours is the float64 rule for both.
TEST(Nms, AnIouOfExactlyTheThresholdStays) {
  for (const double t : {.1, .2, .25, .3, .4, .5, .6, .7, .75, .8, .9})
    for (const DType dtype : {kFloat32, kFloat64}) {
      const Tensor boxes = tensor({0.0, 0.0, 10.0, 10.0, 0.0, 0.0, 10.0, 10 * t}, {2, 4}, dtype);
      const Tensor scores = tensor({1.0, 0.5}, {2}, dtype);
      if (dtype == kFloat32 && boxes.to(kFloat64)[1][3].item() != 10 * t) continue;  // not exact
      EXPECT_EQ(nms(boxes, scores, {.iou_threshold = t}).numel(), 2) << t << " " << name(dtype);
      EXPECT_EQ(nms(boxes, scores, {.iou_threshold = t - 1e-6}).numel(), 1) << t;
    }
}

}  // namespace
}  // namespace dropin
