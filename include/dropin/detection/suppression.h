// Non-maximum suppression: which boxes stay. Shared by all: boxes [N, 4] as x1, y1, x2, y2 (f32 or
// f64, any unit, no "+1"), order by descending score, equal scores by ascending index. IoU is 0
// where the union is not positive or a coordinate is not finite, so a box without area stays and
// suppresses nothing. Decisions are those of float64 arithmetic and the same for any number of
// threads. No gradients. No boxes give empty results. Errors: ShapeError for sizes that do not fit,
// DTypeError for other types, OptionError for thresholds outside their range.
#pragma once
#include "dropin/core/options.h"
#include "dropin/tensor/tensor.h"

namespace dropin {

struct NmsOptions {
  double iou_threshold = 0.5;
  static void fields(auto&& f) {
    f("iou_threshold", &NmsOptions::iou_threshold,
      "a box goes when its IoU with a kept box is greater; 0 to 1");
  }
};
/// Greedy suppression: walks down the scores [N]; a box not yet suppressed stays and suppresses
/// every later one with IoU > iou_threshold. Indices int64 [M] by descending score
/// (torchvision.ops.nms). IoU and threshold meet in float64: a box whose IoU is exactly the
/// threshold stays, where torchvision drops it at thresholds that float32 rounds up. Errors: a NaN
/// among the scores.
Tensor nms(const Tensor& boxes, const Tensor& scores, const NmsOptions& o = {});
/// Greedy within each value of idxs (int64 [N]); indices over all by descending score
/// (torchvision.ops.batched_nms, without its loss of digits in shifted boxes).
Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                   const NmsOptions& o = {});

/// Boxes that stay: their indices int64 [M], classes int64 [M] (undefined where there are none) and
/// scores [M].
struct Detections {
  Tensor indices, classes, scores;
};

struct SoftNmsOptions {
  std::string method = "gaussian";
  double sigma = 0.5, iou_threshold = 0.3, min_score = 0.001;
  static void fields(auto&& f) {
    using O = SoftNmsOptions;
    f("method", &O::method,
      "decay of a score by its IoU v with a better box: \"gaussian\" exp(-v^2 / sigma), \"linear\" "
      "1 - v, \"hard\" 0");
    f("sigma", &O::sigma, "width of the gaussian decay");
    f("iou_threshold", &O::iou_threshold, "linear and hard decay only above it");
    f("min_score", &O::min_score, "stops at a lesser score");
  }
};
/// Soft-NMS (Bodla et al. 2017, equation 4): takes the best remaining box M, decays the scores of
/// the others (of the same idxs, if given), s_i *= exp(-IoU(M, i)^2 / sigma), and so on. Scores are
/// the decayed ones.
Detections soft_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs = {},
                    const SoftNmsOptions& o = {});

struct MatrixNmsOptions {
  std::string kernel = "gaussian";
  double sigma = 2;
  int64_t top_k = 500;
  double score_threshold = 0.05;
  int64_t max_detections = 100;
  static void fields(auto&& f) {
    using O = MatrixNmsOptions;
    f("kernel", &O::kernel, "decay by IoU v: \"gaussian\" exp(-sigma v^2) or \"linear\" 1 - v");
    f("sigma", &O::sigma, "of the gaussian decay");
    f("top_k", &O::top_k, "boxes that take part, best first; 0: all");
    f("score_threshold", &O::score_threshold, "keeps decayed scores of at least this");
    f("max_detections", &O::max_detections, "keeps this many; 0: all");
  }
};
/// Matrix NMS (SOLOv2, Wang et al. 2020, equation 5): every score decays at once by its IoU with
/// each better box of its class (int64 [N]), relative to how much that box is itself overlapped:
/// s_j *= min over better i of f(IoU(i, j)) / f(max over better k of IoU(k, i)). Scores are the
/// decayed ones, descending.
Detections matrix_nms(const Tensor& boxes, const Tensor& scores, const Tensor& classes,
                      const MatrixNmsOptions& o = {});

struct FastNmsOptions {
  double iou_threshold = 0.5;
  int64_t top_k = 200;
  double conf_threshold = 0.05;
  bool second_threshold = false, cross_class = false;
  int64_t max_detections = 100;
  static void fields(auto&& f) {
    using O = FastNmsOptions;
    f("iou_threshold", &O::iou_threshold,
      "a box goes when its IoU with any better box, kept or not, is greater; 0 to 1");
    f("top_k", &O::top_k, "boxes of each class that take part, best first; 0: all");
    f("conf_threshold", &O::conf_threshold, "a box takes part when its best score is greater");
    f("second_threshold", &O::second_threshold,
      "a box must also exceed conf_threshold in the class it is kept for");
    f("cross_class", &O::cross_class,
      "each box stands for its best class only, and all classes suppress each other");
    f("max_detections", &O::max_detections, "keeps this many over all classes; 0: all");
  }
};
/// Fast NMS (YOLACT, Bolya et al. 2019, section 4): all boxes of a class are decided at once, and a
/// box that is itself removed still suppresses others, so per class it keeps a subset of what
/// greedy suppression keeps of the same boxes: j stays when max over better i of IoU(i, j) <=
/// iou_threshold. scores [C, N] without background. Classes concatenated, sorted by score, cut to
/// max_detections. A box with a NaN score is no candidate.
Detections fast_nms(const Tensor& boxes, const Tensor& scores, const FastNmsOptions& o = {});
/// The same for each image of boxes [B, N, 4], scores [B, C, N].
std::vector<Detections> fast_nms_batch(const Tensor& boxes, const Tensor& scores,
                                       const FastNmsOptions& o = {});

}  // namespace dropin
