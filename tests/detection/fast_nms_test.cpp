// Fast NMS, and the rules whose scores decay.
#include <set>

#include "detection/scenes.h"
#include "dropin/detection/suppression.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;

std::vector<int64_t> plain_fast(const std::vector<double>& boxes, const std::vector<double>& scores,
                                double threshold, std::size_t top_k) {
  std::vector<int64_t> order = sorted(scores), kept;
  if (top_k && order.size() > top_k) order.resize(top_k);
  for (std::size_t j = 0; j < order.size(); ++j) {
    double m = 0;
    for (std::size_t i = 0; i < j; ++i) m = std::max(m, iou(boxes, order[i], order[j]));
    if (m <= threshold) kept.push_back(order[j]);
  }
  return kept;
}

TEST(FastNms, FollowsTheDefinitionAndKeepsASubsetOfGreedy) {
  for (const int64_t top_k : {0, 20, 200}) {
    const Scene s = scene(320, 5, 11);
    const Detections d =
        fast_nms(s.boxes, s.scores,
                 {.iou_threshold = 0.4, .top_k = top_k, .conf_threshold = -1, .max_detections = 0});
    const auto classes = d.classes.to_vector<int64_t>(), indices = d.indices.to_vector<int64_t>();
    for (int64_t c = 0; c < 5; ++c) {
      std::vector<int64_t> got;
      for (std::size_t k = 0; k < classes.size(); ++k)
        if (classes[k] == c) got.push_back(indices[k]);
      EXPECT_EQ(got, plain_fast(s.boxes.to_vector(), s.scores[c].to_vector(), 0.4,
                                static_cast<std::size_t>(top_k)));
      // greedy on the same boxes
      auto order = sorted(s.scores[c].to_vector());
      if (top_k) order.resize(std::min<std::size_t>(order.size(), static_cast<std::size_t>(top_k)));
      const Tensor at = tensor(std::vector<double>(order.begin(), order.end()), kInt64);
      std::set<int64_t> greedy;
      for (const int64_t k : nms(index_select(s.boxes, 0, at), index_select(s.scores[c], 0, at),
                                 {.iou_threshold = 0.4})
                                 .to_vector<int64_t>())
        greedy.insert(order[static_cast<std::size_t>(k)]);
      for (const int64_t k : got) EXPECT_TRUE(greedy.count(k)) << "class " << c << ", box " << k;
    }
    const auto scores = d.scores.to_vector();
    for (std::size_t k = 1; k < scores.size(); ++k)
      EXPECT_TRUE(scores[k - 1] > scores[k] ||
                  (scores[k - 1] == scores[k] && classes[k - 1] <= classes[k]));
  }
}

TEST(FastNms, ARemovedBoxStillSuppresses) {
  const Tensor b =
      boxes_of({0, 0, 10, 1, 4, 0, 14, 1, 8, 0, 18, 1});  // a chain: neighbours overlap by 6 / 14
  const Tensor s = tensor({3, 2, 1});
  expect_values(nms(b, s, {.iou_threshold = 0.4}), {0, 2});
  expect_values(fast_nms(b, s.unsqueeze(0), {.iou_threshold = 0.4}).indices, {0});
}

TEST(FastNms, ThresholdsAndCuts) {
  const Tensor b = boxes_of({0, 0, 1, 1, 5, 5, 6, 6, 9, 9, 10, 10}),
               s = tensor({0.5, 0.0625, 0.3, 0.2, 0.0625, 0.4}, {2, 3});
  const FastNmsOptions o{.conf_threshold = 0.0625};
  Detections d = fast_nms(b, s, o);  // the second box is no candidate: strictly greater
  expect_values(d.indices, {0, 2, 2, 0});
  expect_values(d.classes, {0, 1, 0, 1});
  d = fast_nms(b, s, {.conf_threshold = 0.35, .second_threshold = true});
  expect_values(d.indices, {0, 2});
  expect_values(fast_nms(b, s, {.conf_threshold = 0.0625, .max_detections = 2}).indices, {0, 2});
  expect_values(fast_nms(b, s, {.top_k = 1, .conf_threshold = 0.0625}).indices, {0, 2});
  d = fast_nms(b, s, {.conf_threshold = 0.0625, .cross_class = true});
  expect_values(d.indices, {0, 2});
  expect_values(d.classes, {0, 1});
  d = fast_nms(b, tensor({0.5, kNan, 0.3, 0.2, 0.9, 0.4}, {2, 3}));
  expect_values(d.indices, {0, 2, 2, 0});
  EXPECT_EQ(fast_nms_batch(stack({b, b}), stack({s, s}), o).size(), 2u);
  expect_values(fast_nms_batch(stack({b, b}), stack({s, s}), o)[1].indices, {0, 2, 2, 0});
}

TEST(FastNms, MoreClassesThanBoxes) {
  const Tensor b = boxes_of({0, 0, 1, 1}), s = full({90, 1}, 0.5);
  const Detections d = fast_nms(b, s, {.max_detections = 0});
  EXPECT_EQ(d.indices.size(0), 90);
  expect_values(d.classes.narrow(0, 0, 3), {0, 1, 2});
  expect_values(fast_nms(b, s, {.cross_class = true}).classes, {0});
}

TEST(SoftNms, DecaysAndStops) {
  const Tensor b = boxes_of({0, 0, 2, 1, 1, 0, 3, 1, 9, 9, 10, 10}), s = tensor({0.9, 0.8, 0.7});
  Detections d = soft_nms(b, s, {}, {.method = "linear", .iou_threshold = 0.3});
  expect_values(d.indices, {0, 2, 1});
  expect_values(d.scores, {0.9, 0.7, 0.8 * 2 / 3}, 1e-6);
  d = soft_nms(b, s, {}, {.method = "hard", .iou_threshold = 0.3});
  expect_values(d.indices, {0, 2});
  d = soft_nms(b, s, {}, {.sigma = 0.5});
  expect_values(d.scores, {0.9, 0.7, 0.8 * std::exp(-2.0 / 9)}, 1e-6);
  expect_values(soft_nms(b, s, tensor({0, 1, 0}, kInt64)).scores, {0.9, 0.8, 0.7}, 1e-6);
  expect_values(soft_nms(b, s, {}, {.min_score = 0.75}).indices, {0});
  expect_values(soft_nms(b, tensor({kNan, 0.8, 0.7})).indices, {1, 2});
}

TEST(MatrixNms, DecaysByTheBetterBoxesOfItsClass) {
  const Tensor b = boxes_of({0, 0, 2, 1, 1, 0, 3, 1, 9, 9, 10, 10}), s = tensor({0.9, 0.8, 0.7}),
               one = zeros({3}, kInt64);
  Detections d = matrix_nms(b, s, one, {.kernel = "linear"});
  expect_values(d.indices, {0, 2, 1});
  expect_values(d.scores, {0.9, 0.7, 0.8 * 2 / 3}, 1e-6);
  expect_values(matrix_nms(b, s, one).scores, {0.9, 0.7, 0.8 * std::exp(-2.0 / 9)}, 1e-6);
  expect_values(matrix_nms(b, s, tensor({0, 1, 0}, kInt64)).indices, {0, 1, 2});
  expect_values(matrix_nms(b, s, one, {.top_k = 2, .max_detections = 1}).indices, {0});
}

}  // namespace
}  // namespace dropin
