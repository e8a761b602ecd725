// Checks of boxes and scores; lists of indices as tensors.
#include "detection/common.h"

#include <algorithm>
#include <cmath>

#include "ops/common.h"

namespace dropin::detection_detail {

void check_boxes(const char* who, const Tensor& boxes, const Tensor& scores) {
  DROPIN_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, ShapeError, who, ": boxes is ",
               boxes.sizes(), ", expected [N, 4]");
  DROPIN_CHECK(boxes.dtype() == kFloat32 || boxes.dtype() == kFloat64, DTypeError, who,
               ": boxes is ", boxes.dtype(), ", expected float32 or float64");
  DROPIN_CHECK(scores.dtype() == kFloat32 || scores.dtype() == kFloat64, DTypeError, who,
               ": scores is ", scores.dtype(), ", expected float32 or float64");
  ops_detail::same_device(who, boxes, scores);
}
void check_scores(const char* who, const Tensor& boxes, const Tensor& scores) {
  check_boxes(who, boxes, scores);
  DROPIN_CHECK(scores.sizes() == Shape{boxes.size(0)}, ShapeError, who, ": scores is ",
               scores.sizes(), ", expected [", boxes.size(0), "] because boxes is ", boxes.sizes());
}
void check_classes(const char* who, const char* what, const Tensor& classes, const Tensor& boxes) {
  DROPIN_CHECK(classes.dtype() == kInt64, DTypeError, who, ": ", what, " is ", classes.dtype(),
               ", expected int64");
  DROPIN_CHECK(classes.sizes() == Shape{boxes.size(0)}, ShapeError, who, ": ", what, " is ",
               classes.sizes(), ", expected [", boxes.size(0), "] because boxes is ",
               boxes.sizes());
  ops_detail::same_device(who, boxes, classes);
}
void check_share(const char* who, const char* what, double v) {
  DROPIN_CHECK(v >= 0 && v <= 1, OptionError, who, ": ", what, " is ", v, ", expected 0 to 1");
}
void check_not_nan(const char* who, const char* what, double v) {
  DROPIN_CHECK(!std::isnan(v), OptionError, who, ": ", what, " is nan, expected a number");
}
void check_count(const char* who, const char* what, Index v) {
  DROPIN_CHECK(v >= 0, OptionError, who, ": ", what, " is ", v, ", expected 0 (no limit) or more");
}

Tensor to_tensor(const Indices& v) {
  Tensor t = empty({static_cast<Index>(v.size())}, kInt64);
  std::copy(v.begin(), v.end(), t.data<Index>());
  return t;
}
abi::TensorIn view(const Indices& v) {
  abi::TensorIn t;
  t.data = v.data(), t.dtype = kInt64, t.ndim = 1, t.sizes[0] = static_cast<Index>(v.size()),
  t.strides[0] = 1;
  return t;
}

}  // namespace dropin::detection_detail
